"""The first steps of a template or a cold container, before the user's module is imported."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from typing import Any

from jitney.runner import forkable, snapshot, template_protocol
from jitney.runner.failures import encode_failure, encode_failure_text
from jitney.runner.load import import_module
from jitney.runner.process import line_buffer_output

_VERSION = re.compile(rb"""^__version__ = ["']([^"']+)""", re.MULTILINE)


class Control:
    """The worker's socket, read frame by frame."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
        self.ended = False
        self._splitter = template_protocol.Splitter()
        self._descriptors: list[int] = []

    def receive(self) -> list[dict[str, Any]]:
        """Wait for messages; none at the end.

        A FORK message has its descriptors in "stdout", "stderr" and "given", and in "private" if there is one.
        """
        try:
            data, descriptors = template_protocol.receive(self.sock)
        except OSError:
            data, descriptors = b"", []
        self.ended = not data
        self._descriptors += descriptors
        messages = self._splitter.feed(data)
        for message in messages:
            if message["kind"] == template_protocol.FORK:
                count = 2 + int(message.get("descriptors") or 0)
                message["stdout"], message["stderr"], *message["given"] = self._descriptors[:count]
                del self._descriptors[:count]
                message["private"] = self._descriptors.pop(0) if message.get("private") else None
        return messages

    def send(self, kind: str, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        """Send a message; to a worker that is gone, nothing."""
        try:
            template_protocol.send_frame(self.sock, template_protocol.pack({"kind": kind, **fields}), descriptors)
        except OSError:
            self.ended = True


def start(control: Control, *, is_cold: bool = False) -> tuple[Any, list[dict[str, Any]]]:
    """Do as LOAD says: (the user's module, messages that came with it). Ends the process if the import fails.

    A cold container takes no snapshot: it runs those methods itself, when it has a log and a link. One that is to be
    written down takes it, whatever it leaves.
    """
    line_buffer_output()
    _drop_current_folder()
    messages: list[dict[str, Any]] = []
    while not messages:
        messages = control.receive()
        if control.ended:
            raise SystemExit(0)
    load = messages.pop(0)
    if load.get("view") is not None:
        _enter_view(control, load["view"])
    started_s = imported_s = time.monotonic()
    left: list[str] = []
    try:
        module = import_module(
            str(load.get("module") or ""),
            str(load.get("source") or ""),
            main_module=bool(load.get("main_module")),
            sys_path=[str(folder) for folder in load.get("sys_path") or []],
        )
        imported_s = time.monotonic()
        obstacles = forkable.obstacles()
        is_kept = bool(load.get("checkpoint"))
        if load.get("snapshot") and (is_kept or not (is_cold or obstacles)):
            left = snapshot.take(module, load["snapshot"], started_s)
    except BaseException as error:
        import base64

        sys.stdout.flush()
        failure = base64.b64encode(encode_failure(error)).decode()
        control.send(template_protocol.LOAD_FAILED, failure=failure)
        raise SystemExit(1) from None
    control.send(
        template_protocol.LOADED,
        pid=os.getpid(),
        python_version=".".join(map(str, sys.version_info[:3])),
        cloudpickle_version=cloudpickle_version(),
        ms=_ms(started_s, imported_s),
        snapshot_ms=_ms(imported_s, time.monotonic()) if load.get("snapshot") else 0.0,
        threads=sum(obstacles.values()) + len(left),
        native_threads=forkable.native_threads(),
        obstacles=[*obstacles, *left],
        is_snapshot_to_blame=bool(left),
        connections=snapshot.connections() if is_kept else [],
    )
    return module, messages


def _enter_view(control: Control, plan: dict[str, Any]) -> None:
    """Before anything can start a thread: with some, nothing can be joined. Ends the process if it fails."""
    from jitney.runner.view import enter

    try:
        enter(plan)
    except OSError as error:
        import base64

        failure = encode_failure_text("StartupError", f"its volumes cannot be mounted: {error}", module="jitney.errors")
        control.send(template_protocol.LOAD_FAILED, failure=base64.b64encode(failure).decode())
        raise SystemExit(1) from None


def _ms(start_s: float, end_s: float) -> float:
    return round((end_s - start_s) * 1000, 3)


def cloudpickle_version() -> str:
    """That of the installed one, without importing it; '' if there is none."""
    module = sys.modules.get("cloudpickle")
    if module is not None:
        return str(getattr(module, "__version__", ""))
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("cloudpickle")
    if spec is None or not spec.origin:
        return ""
    try:
        with open(spec.origin, "rb") as file:
            found = _VERSION.search(file.read())
    except OSError:
        return ""
    return found[1].decode() if found else ""


def _drop_current_folder() -> None:
    """`python -m` puts it first on sys.path; the user's source folder comes there, and nothing else."""
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
