"""The fake runtime keeps the contract."""

from __future__ import annotations

import itertools
import signal
from contextlib import asynccontextmanager

import pytest

from jitney.drivers.runtime.fake import FakeRuntime, Script, TemplateScript
from jitney.testing.conformance.runtime import Module, Program, RuntimeContract
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.functions import Resources
from jitney.values.images import BuiltImage

SCRIPTS = {
    Program.EXITS_WITH_3: Script(exit_after_ms=0, exit_code=3),
    Program.PRINTS: Script(exit_after_ms=0, output=tuple(f"out {n}" for n in range(100)), errors=("err",)),
    Program.PRINTS_THEN_WAITS: Script(output=("ready",)),
    Program.IGNORES_SIGTERM: Script(output=("ready",), ignores_sigterm=True),
    Program.CRASHES: Script(exit_after_ms=0, exit_signal=signal.SIGSEGV),
    Program.LEAVES_A_DAEMON: Script(exit_after_ms=0, output=("ready",)),
    Program.TELLS_SECRETS: None,
}
TEMPLATES = {
    Module.GOOD: TemplateScript(),
    Module.NOISY: TemplateScript(output=("imported",)),
    Module.BROKEN: TemplateScript(failure="no module named x"),
    Module.DEADLY: TemplateScript(failure="ended"),
}


def _tells(launch: Launch) -> Script:
    return Script(exit_after_ms=0, output=(f"{launch.secrets.get('KEY')} {len(launch.secrets.get('BIG', ''))}",))


class FakeStage:
    """Programs are scripts here."""

    image = BuiltImage(image_id="im-1", python_path="/fake", python_version="3.11.7", cloudpickle_version="3")

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.runtime = FakeRuntime(
            script=lambda launch: launch.config["script"] or _tells(launch),
            template=lambda spec: TEMPLATES[Module[spec.module]],
        )

    def _launch(self, script: Script | None, module: Module) -> Launch:
        return Launch(
            container_id=f"ta-{next(self._numbers)}",
            function_id="fu-1",
            app_id="ap-1",
            token="t",
            template=TemplateSpec(image_id="im-1", module=module.name),
            config={"script": script},
            resources=Resources(),
        )

    def launch(self, program, module=Module.GOOD, memory_limit_mib=None) -> Launch:
        return self._launch(SCRIPTS[program], module)

    def impossible(self) -> Launch:
        return self._launch(Script(start_failure="no"), Module.GOOD)

    def kill_template(self, launch: Launch) -> None:
        self.runtime.kill_template(launch.template)

    def left_overs(self) -> list[str]:
        return [one for one, container in self.runtime._containers.items() if not container.exit.done()]


class TestFakeRuntime(RuntimeContract):
    @pytest.fixture
    def make_stage(self):
        @asynccontextmanager
        async def make():
            yield FakeStage()

        return make
