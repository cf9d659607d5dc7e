"""The worker's side of a template, small, for tests: starts one, forks containers, and keeps what they print."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jitney
from jitney.runner import template_protocol as tp
from tests.runner.fake_server import WAIT_S, FakeServer

PACKAGE_ROOT = str(Path(jitney.__file__).parents[1])


class Container:
    """A container that was asked for."""

    def __init__(self, worker: FakeWorker, name: str) -> None:
        self.worker = worker
        self.name = name
        self.forked: dict[str, Any] | None = None
        self.exited: dict[str, Any] | None = None
        self.output = {1: b"", 2: b""}
        self.open_pipes = 2

    @property
    def pid(self) -> int:
        """Once it is forked."""
        self.worker.wait(lambda: self.forked)
        assert self.forked is not None
        return int(self.forked["pid"])

    @property
    def link(self) -> Any:
        """Its link, once it is ready."""
        return self.worker.server.container(self.name).wait_ready()

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return self.output[1].decode()

    def interrupt(self) -> None:
        """SIGURG, as the server has it sent with CANCEL."""
        os.kill(self.pid, signal.SIGURG)

    def wait_exit(self) -> dict[str, Any]:
        """Wait for its end, and that of its output."""
        self.worker.wait(lambda: self.exited and not self.open_pipes)
        assert self.exited is not None
        return self.exited


class FakeWorker:
    """One template (or with `cold` one container), and its containers."""

    _names = itertools.count(1)

    def __init__(
        self,
        server: FakeServer,
        *,
        source: str = "",
        module: str = "",
        main_module: bool = False,
        kind: str = "template",
        folder: str,
        by_path: bool = False,
        snapshot: dict[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.folder = folder
        self.containers: dict[str, Container] = {}
        self.messages: list[dict[str, Any]] = []
        self.output = b""
        self._changed = threading.Condition()
        self.control, theirs = socket.socketpair()
        runner = [f"{PACKAGE_ROOT}/jitney/runner/__main__.py", kind] if by_path else ["-m", f"jitney.runner.{kind}"]
        read_end, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, *runner, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            pass_fds=[theirs.fileno()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": "" if by_path else PACKAGE_ROOT},
            start_new_session=True,
        )
        os.close(write_end)
        theirs.close()
        self._threads: list[threading.Thread] = []
        self._spawn(self._read_output, read_end, None, 0)
        self._spawn(self._listen)
        load = {"source": source, "module": module, "main_module": main_module, "sys_path": [], "snapshot": snapshot}
        tp.send_frame(self.control, tp.pack({"kind": tp.LOAD, **load}))

    def loaded(self) -> dict[str, Any]:
        """Wait for LOADED or LOAD_FAILED."""
        found: dict[str, Any] = self.wait(lambda: self._first(tp.LOADED, tp.LOAD_FAILED))
        return found

    def fork(self, **config: Any) -> Container:
        """Ask for a container of function `qualname`; see `launch_config`."""
        name = config.pop("container", f"ta-{next(self._names)}")
        message = {
            "kind": tp.FORK,
            "container": name,
            "env": config.pop("env", {}),
            "cwd": config.pop("cwd", self.folder),
            "rlimits": config.pop("rlimits", {}),
            "config": launch_config(self.server, name, **config),
        }
        container = self.containers[name] = Container(self, name)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._spawn(self._read_output, out_read, container, 1)
        self._spawn(self._read_output, err_read, container, 2)
        tp.send_frame(self.control, tp.pack(message), [out_write, err_write])
        os.close(out_write)
        os.close(err_write)
        return container

    def close(self) -> None:
        """End the template and everything below it."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        for container in self.containers.values():
            if container.forked and not container.exited:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(container.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what code of a test has started
        for thread in self._threads:
            thread.join(WAIT_S)
        self.control.close()

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is true of what has arrived, and give it."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while not (found := condition()):
                left = deadline - time.monotonic()
                assert left > 0, f"what the test waits for did not arrive; the template printed: {self.output!r}"
                self._changed.wait(left)
            return found

    def poll(self, condition: Callable[[], Any]) -> None:
        """Wait for something that a container does where nothing tells us of it."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while not condition():
                assert time.monotonic() < deadline, "what the test waits for did not happen"
                self._changed.wait(0.005)

    # ------------------------------------------------------------------

    def _first(self, *kinds: str) -> dict[str, Any] | None:
        return next((message for message in self.messages if message["kind"] in kinds), None)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _listen(self) -> None:
        splitter = tp.Splitter()
        while True:
            try:
                data = self.control.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                for message in splitter.feed(data):
                    self.messages.append(message)
                    if message["kind"] == tp.FORKED:
                        self.containers[message["container"]].forked = message
                    elif message["kind"] == tp.EXITED:
                        self.containers[message["container"]].exited = message
                self._changed.notify_all()

    def _read_output(self, descriptor: int, container: Container | None, number: int) -> None:
        while True:
            data = os.read(descriptor, 65536)
            with self._changed:
                if not data:
                    os.close(descriptor)
                    if container is not None:
                        container.open_pipes -= 1
                elif container is None:
                    self.output += data
                else:
                    container.output[number] += data
                self._changed.notify_all()
            if not data:
                return


def launch_config(server: FakeServer, name: str, **changes: Any) -> dict[str, Any]:
    """Launch.config of a container. `methods` may be given as {"name": "async generator"}."""
    marks = changes.pop("methods", {"": changes.pop("how", "")})
    config = {
        "runner_socket": server.path,
        "container": name,
        "token": "secret",
        "function": changes.get("qualname", "function"),
        "function_id": "fu-1",
        "app_id": "ap-1",
        "qualname": "",
        "is_class": False,
        "pickled": "",
        "parameters": "",
        "methods": [
            {"name": method, "is_async": "async" in how, "is_generator": "generator" in how}
            for method, how in marks.items()
        ],
        "max_inputs": 1,
        "concurrent": False,
        "batched": False,
        "single_use": False,
        "segments": os.path.dirname(server.pool.folder) if server.pool else "",
        "scope": "so-1",
        "blobs": server.blobs or "",
        "link_socket": "",
        "home": "",
    }
    assert changes.keys() <= config.keys()
    config.update(changes)
    return config
