"""Worker <-> template: frames on a socket pair, and what they say. Sans-I/O and standard library only.

A template is a process that has imported a user's module and forks a container for each request. The worker makes a
stream socket pair, starts `python -m jitney.runner.template FD` (or the file by its path) with the other end as `FD`,
stdin from /dev/null and pipes for stdout and stderr (what the import prints), and keeps its end.

A frame is `u32 length | JSON object`, little-endian. The object's "kind" is one of these:

    worker -> template
      load      {"source": folder or "", "module": name or "", "main_module": bool, "sys_path": [...],
                 "snapshot": null, or values.containers.Snapshot as JSON (bytes in base64), with
                            "volumes": paths that it can read, "missing": paths of what only containers have
                 "checkpoint": bool, to a cold one: it is to be written down afterwards,
                 "view": null, or what runner.view.enter is given, before the import}
      fork      {"container": id, "config": Launch.config, "env": {...}, "cwd": folder,
                 "rlimits": {"NOFILE": [soft, hard]}, "descriptors": n, "private": bool,
                 "view": absent, or what runner.view.enter is given}, with 2 + n descriptors in
                SCM_RIGHTS on its first byte: the container's stdout and stderr; behind a wall also its pod and control
                groups; last, if it has something private, a pipe of more variables, a JSON object, that only the fork
                may read
      pause     {"door": path}, to a cold one: let go of this socket and stop (see runner.pause)
      resume    {"env": {...}}, on the socket that it then opens to the door: what a template would be started with now
    template -> worker
      loaded       {"pid", "python_version", "cloudpickle_version" ("" = none), "ms", "snapshot_ms",
                    "threads", "native_threads", "obstacles": ["the thread 'monitor' of tqdm", ...],
                    "is_snapshot_to_blame": bool,
                    "connections": [...], of a cold one that is to be written down, and with these cannot}
      load_failed  {"failure": base64 of a failure payload}; the template exits 1 after it
      forked       {"container", "pid", "ms"}, with a pidfd behind a wall, where pids are the wall's own
      fork_failed  {"container", "message"}
      exited       {"container", "pid", "exit_code": int or null, "signal": int or null, "cpu_ms", "max_rss_kib"}

`threads` counts what a fork would miss of what the import started (runner.forkable) or the snapshot left
(runner.snapshot), and `obstacles` names it. Where only the snapshot is to blame, a template without one can be forked,
and each container runs its methods itself. Where there is anything else, start containers cold, by
`python -m jitney.runner.cold FD`. It speaks the same protocol, takes one fork, becomes that container itself in the
process that the worker started, and closes its end; there is no `exited`.

When the worker's end closes, the template ends its containers (SIGTERM, then SIGKILL after GRACE_S) and itself. A
template that is killed leaves its containers running.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

LOAD = "load"
FORK = "fork"
PAUSE = "pause"
RESUME = "resume"
LOADED = "loaded"
LOAD_FAILED = "load_failed"
FORKED = "forked"
FORK_FAILED = "fork_failed"
EXITED = "exited"

FRAME_BYTES_MAX = 64 * 1024 * 1024
DESCRIPTORS_MAX = 64  # taken from the socket in one go
GRACE_S = 10.0  # from SIGTERM to SIGKILL when the worker is gone

_U32 = struct.Struct("<I")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class TemplateProtocolError(Exception):
    """The peer sent bytes that are not of this protocol."""


def pack(message: dict[str, Any]) -> bytes:
    """A whole frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _U32.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are whole now.

        Raises:
            TemplateProtocolError: a length over the limit, or no JSON object with a "kind".
        """
        rest = self._rest
        rest += data
        messages: list[dict[str, Any]] = []
        at = 0
        while len(rest) - at >= 4:
            (length,) = _U32.unpack_from(rest, at)
            if length > FRAME_BYTES_MAX:
                raise TemplateProtocolError(f"a frame of {length} bytes")
            if len(rest) - at - 4 < length:
                break
            messages.append(_parse(bytes(rest[at + 4 : at + 4 + length])))
            at += 4 + length
        del rest[:at]
        return messages


def send_frame(control: socket.socket, frame: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a whole frame on a blocking socket, with descriptors on its first byte. They stay open here."""
    if descriptors:
        rights = array.array("i", descriptors)
        sent = control.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        frame = frame[sent:]
    if frame:
        control.sendall(frame)


def receive(control: socket.socket, size: int = 65536) -> tuple[bytes, list[int]]:
    """What the socket has, and the descriptors that came with it; (b"", []) at its end."""
    room = socket.CMSG_SPACE(4 * DESCRIPTORS_MAX)
    data, ancillary, _flags, _address = control.recvmsg(size, room, _CLOSE_ON_EXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, descriptors.tolist()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise TemplateProtocolError(f"not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise TemplateProtocolError("not an object with a kind")
    return message
