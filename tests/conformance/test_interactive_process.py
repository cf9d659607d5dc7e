"""The process runtime runs commands in its containers, with real processes and terminals."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager

import pytest
from tests.conformance.test_runtime_process import Stage

from jitney.testing.conformance.interactive import FLOOD_BYTES, InteractiveContract, Task
from jitney.testing.processes import open_stage
from jitney.values.containers import Launch

PYTHON = {
    Task.FLOODS: f"import sys; sys.stdout.write('x' * {FLOOD_BYTES})",
    Task.SHOWS: "import os; print(os.environ['MARK'], os.environ['PLACE'], os.getcwd(), sep='\\n')",
    Task.SIZES: """
import os, signal, sys
def show(*_):
    size = os.get_terminal_size(0)
    os.write(1, f"{size.lines} {size.columns}\\n".encode())  # print is not for signal handlers
signal.signal(signal.SIGWINCH, show)
show()
sys.stdin.read()
""",
    Task.TRAPS: """
import os, signal, sys, time
def leave(number, _):
    os.write(1, f"got {number}\\n".encode())
    os._exit(5)
signal.signal(signal.SIGINT, leave)
print("ready", flush=True)
time.sleep(600)
""",
    Task.LEAVES_ONE: """
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready")
""",
    Task.IGNORES_INPUT: "import time; print('ready', flush=True); time.sleep(600)",
}
SHELL = {
    Task.EXITS_WITH_3: "exit 3",
    Task.PRINTS: "echo out; echo err >&2",
    Task.WAITS: "echo ready; exec sleep 600",
}


class CommandStage(Stage):
    """Commands are pieces of code here too."""

    def launch(self, program, **options) -> Launch:
        launch = super().launch(program, **options)
        launch.env["PLACE"] = f"place of {launch.container_id}"
        return launch

    def place(self, container_id: str) -> tuple[str, str]:
        return f"place of {container_id}", str(self.home.containers / container_id)

    def command(self, task: Task) -> tuple[str, ...]:
        if task in PYTHON:
            return sys.executable, "-S", "-c", PYTHON[task]
        if task in SHELL:
            return "sh", "-c", SHELL[task]
        if task is Task.ECHOES:
            return ("cat",)
        return ("no-such-command",) if task is Task.IS_MISSING else ("/etc/passwd",)


class TestProcessInteractive(InteractiveContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            async with open_stage(tmp_path / "home", CommandStage) as stage:
                yield stage

        return make
