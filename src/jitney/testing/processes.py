"""Containers of the process runtime without a server: for tests of what real processes do.

`ProcessStage` has a home, a runtime, and the server's end of the runner's link, which gives each container one input:
to run a piece of code that its launch carries.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import platform
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.process import ProcessRuntime
from jitney.runner import protocol
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.functions import Resources
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

LOOK_AGAIN_S = 0.2
MODULE = "user_module"
PLAIN = """
import os, signal, subprocess, sys, threading, time

def run():
    exec(os.environ["CODE"], globals())

def wait():
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


bystanders: set[int] = (
    set()
)  # processes of ours that tests need beside them: neither they nor what is below is looked at


def descendants() -> list[int]:
    """What this process has started, or has adopted from what it started; without bystanders."""
    spared = {pid for one in bystanders for pid in procfs.tree(one)}
    return [pid for pid in procfs.tree(os.getpid())[1:] if pid not in spared]


def lasting(spared: Collection[int]) -> list[int]:
    """Descendants but for `spared` that are there at two looks.

    What a bystander starts is gone in a moment; what was left stays.
    """
    found = [pid for pid in descendants() if pid not in spared]
    if not found:
        return []
    time.sleep(LOOK_AGAIN_S)  # sleep: nothing tells of the end of what is not ours
    return [pid for pid in descendants() if pid in found]


class RunnerPeer(asyncio.Protocol):
    """The server's end of one runner link: says WELCOME, and sends one input when the container is ready."""

    def __init__(self, results: list[protocol.Result]) -> None:
        self._results = results
        self._splitter = protocol.Splitter()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        for kind, body in self._splitter.feed(data):
            if kind == protocol.HELLO:
                self._transport.write(protocol.pack_json(protocol.WELCOME, {}))
            elif kind == protocol.READY:
                header = protocol.run_header("fc-1", "", durable=False)
                nothing = b"P" + pickle.dumps(((), {}), 5)
                self._transport.write(protocol.pack_run(header, [protocol.RunInput(1, 0, 1, nothing)]))
            elif kind == protocol.RESULTS:
                self._results += protocol.unpack_results(body)


class ProcessStage:
    """See the module. Inside a running loop, by `open_stage`."""

    image = BuiltImage(
        image_id="im-1", python_path=sys.executable, python_version=platform.python_version(), cloudpickle_version=""
    )

    def __init__(self, home: Home) -> None:
        self.home = home
        self._before = set(descendants())
        for folder in (home.root, home.containers, home.images, home.sources, home.socket().parent):
            folder.mkdir(parents=True, exist_ok=True)
        self.runtime = self.make_runtime()
        self.results: list[protocol.Result] = []
        self._numbers = itertools.count()

    def make_runtime(self) -> Any:
        """The runtime of this stage."""
        return ProcessRuntime(self.home)

    def source(self, text: str, name: str = "plain") -> TemplateSpec:
        """A template that imports a module with this text."""
        folder = self.home.sources / f"so-{name}"
        folder.mkdir(exist_ok=True)
        (folder / f"{MODULE}.py").write_text(text)
        return TemplateSpec(image_id=self.image.image_id, source_id=folder.name, module=MODULE)

    def launch_code(
        self, code: str, spec: TemplateSpec | None = None, memory_limit_mib: int | None = None, **env: str
    ) -> Launch:
        """A container that runs `code`, in a module that has the usual imports and `wait()`."""
        name = f"ta-{next(self._numbers)}"
        home = self.home
        return Launch(
            container_id=name,
            function_id="fu-1",
            app_id="ap-1",
            token="t",
            template=spec or self.source(PLAIN),
            config={
                "runner_socket": str(home.socket("runner.sock")),
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
                "segments": str(home.segments),
                "scope": "so-plain",
                "blobs": str(home.blobs),
                "link_socket": str(home.socket()),
                "home": str(home.root),
            },
            env={"CODE": code, **env},
            resources=Resources(memory_limit_mib=memory_limit_mib),
        )

    def kill_template(self, launch: Launch) -> None:
        """Its template ends, as if by a bug."""
        template = self.runtime.template_pid(launch.template)
        if template is not None:
            os.kill(template, signal.SIGKILL)

    def left_overs(self) -> list[str]:
        """Descendants that this process has had since the stage was made, templates apart, and scratch folders."""
        spared = self.runtime.template_pids() | self._before
        folders = [str(path) for path in self.home.containers.glob("ta-*")]
        return [shown(pid) for pid in lasting(spared)] + folders


def shown(pid: int) -> str:
    """A process as a failed test shows it: what it runs tells whose it is."""
    stat = procfs.stat(pid)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        command = ""
    return f"process {pid} {stat.state if stat else 'gone'}, child of {stat.ppid if stat else '?'}: {command[:200]}"


S = TypeVar("S", bound=ProcessStage)


@asynccontextmanager
async def open_stage(root: Path, kind: type[S]) -> AsyncIterator[S]:
    """A stage in a folder of its own. Its runtime is closed at the end."""
    stage = kind(Home(root))
    loop = asyncio.get_running_loop()
    path = str(stage.home.socket("runner.sock"))
    server = await loop.create_unix_server(lambda: RunnerPeer(stage.results), path)
    os.chmod(path, 0o666)  # as the server's own: containers behind a wall are other users
    try:
        async with server:
            await stage.runtime.reap()
            yield stage
    finally:
        await stage.runtime.close()  # also after a test that failed: what it left would be blamed on others
        os.unlink(path)
