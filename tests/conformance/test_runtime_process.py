"""The process runtime keeps the contract, with real processes."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from jitney.testing.conformance.runtime import Module, Program, RuntimeContract
from jitney.testing.processes import PLAIN, ProcessStage, open_stage
from jitney.values.containers import Launch

CODE = {
    Program.EXITS_WITH_3: "os._exit(3)",
    Program.PRINTS: """
for number in range(100):
    print("out", number)
print("err", file=sys.stderr)
os._exit(0)
""",
    Program.PRINTS_THEN_WAITS: "signal.signal(signal.SIGTERM, signal.SIG_DFL); wait()",
    Program.IGNORES_SIGTERM: "signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()",
    Program.CRASHES: "os.kill(os.getpid(), signal.SIGSEGV)",
    Program.LEAVES_A_DAEMON: """
for _ in range(3):
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
print("ready")
os._exit(0)
""",
    Program.EATS_MEMORY: """
kept = []
while True:
    kept.append(b"x" * 10_000_000)
    time.sleep(0.005)
""",
    Program.TELLS_SECRETS: """
print(os.environ.get("KEY"), len(os.environ.get("BIG", "")))
os._exit(0)
""",
}
MODULES = {
    Module.GOOD: PLAIN,
    Module.NOISY: "print('imported')\n" + PLAIN,
    Module.BROKEN: "raise ImportError('no module named x')",
    Module.DEADLY: "import os; os._exit(7)",
}


class Stage(ProcessStage):
    """Programs are pieces of code here."""

    def launch(self, program, module=Module.GOOD, memory_limit_mib=None) -> Launch:
        spec = self.source(MODULES[module], module.name.lower())
        return self.launch_code(CODE[program], spec, memory_limit_mib)

    def impossible(self) -> Launch:
        launch = self.launch(Program.EXITS_WITH_3)
        (self.home.containers / launch.container_id).write_text("a file where its folder should be")
        return launch

    def left_overs(self) -> list[str]:
        return [one for one in super().left_overs() if not (self.home.root / one).is_file()]


class TestProcessRuntime(RuntimeContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            async with open_stage(tmp_path / "home", Stage) as stage:
                yield stage

        return make
