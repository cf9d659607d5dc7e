"""The process runtime keeps the contract, with real processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import platform
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from jitney.drivers.runtime.process import ProcessRuntime, procfs
from jitney.runner import protocol
from jitney.testing.conformance.runtime import Module, Program, RuntimeContract
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.functions import Resources
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

GOOD = """
import os, signal, subprocess, sys, time

def forever():
    print("ready")
    while True:
        time.sleep(60)

def run():
    globals()[os.environ["PROGRAM"].lower()]()

def exits_with_3():
    os._exit(3)

def prints():
    for number in range(100):
        print("out", number)
    print("err", file=sys.stderr)
    os._exit(0)

def prints_then_waits():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    forever()

def ignores_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    forever()

def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

def leaves_a_daemon():
    for _ in range(3):
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
    print("ready")
    os._exit(0)

def eats_memory():
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)
        time.sleep(0.005)
"""
MODULES = {
    Module.GOOD: GOOD,
    Module.NOISY: "print('imported')\n" + GOOD,
    Module.BROKEN: "raise ImportError('no module named x')",
    Module.DEADLY: "import os; os._exit(7)",
}


class Runner(asyncio.Protocol):
    """The server's end of a runner link: one input for each container that is ready."""

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.splitter = protocol.Splitter()

    def data_received(self, data: bytes) -> None:
        for kind, _ in self.splitter.feed(data):
            if kind == protocol.HELLO:
                self.transport.write(protocol.pack_json(protocol.WELCOME, {}))
            elif kind == protocol.READY:
                payload = b"P" + pickle.dumps(((), {}), 5)
                header = protocol.run_header("fc-1", "", durable=False)
                self.transport.write(protocol.pack_run(header, [protocol.RunInput(1, 0, 1, payload)]))


class ProcessStage:
    """A home with one source for each module."""

    image = BuiltImage(
        image_id="im-1", python_path=sys.executable, python_version=platform.python_version(), cloudpickle_version=""
    )

    def __init__(self, home: Home) -> None:
        self.home = home
        self.runtime = ProcessRuntime(home)
        self._numbers = itertools.count()
        for folder in (home.root, home.containers, home.images, home.socket().parent):
            folder.mkdir(parents=True, exist_ok=True)
        for module, text in MODULES.items():
            source = home.sources / f"so-{module.name.lower()}"
            source.mkdir(parents=True, exist_ok=True)
            (source / "user_module.py").write_text(text)

    def launch(self, program, module=Module.GOOD, memory_limit_mib=None) -> Launch:
        name = f"ta-{next(self._numbers)}"
        return Launch(
            container_id=name,
            function_id="fu-1",
            app_id="ap-1",
            token="t",
            template=TemplateSpec(image_id="im-1", source_id=f"so-{module.name.lower()}", module="user_module"),
            config={
                "runner_socket": str(self.home.socket("runner.sock")),
                "container": name,
                "token": "t",
                "function": "run",
                "function_id": "fu-1",
                "app_id": "ap-1",
                "qualname": "run",
                "is_class": False,
                "pickled": "",
                "parameters": "",
                "methods": [{"name": "", "is_async": False, "is_generator": False}],
                "max_inputs": 1,
                "concurrent": False,
                "batched": False,
                "single_use": False,
                "segments": str(self.home.segments),
                "blobs": str(self.home.blobs),
                "link_socket": str(self.home.socket()),
                "home": str(self.home.root),
            },
            env={"PROGRAM": program.name},
            resources=Resources(memory_limit_mib=memory_limit_mib),
        )

    def impossible(self) -> Launch:
        launch = self.launch(Program.EXITS_WITH_3)
        (self.home.containers / launch.container_id).write_text("a file where its folder should be")
        return launch

    def kill_template(self, launch: Launch) -> None:
        os.kill(self.runtime._templates.find(launch.template).pid, signal.SIGKILL)

    def left_overs(self) -> list[str]:
        templates = {template.pid for template in self.runtime._templates._processes}
        mine = [pid for pid in procfs.tree(os.getpid())[1:] if pid not in templates]
        return [f"process {pid}" for pid in mine] + [
            str(path) for path in self.home.containers.iterdir() if path.is_dir()
        ]


class TestProcessRuntime(RuntimeContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            stage = ProcessStage(Home(tmp_path / "home"))
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(Runner, str(stage.home.socket("runner.sock")))
            async with server:
                yield stage
            stage.home.socket("runner.sock").unlink(missing_ok=True)

        return make
