"""Where an engine listens on this machine, and why none can be used."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import msgspec

VARIABLES = ("DOCKER_HOST", "CONTAINER_HOST")
INSTALL = "install Docker or Podman, then `systemctl start docker`, or `systemctl --user start podman.socket`"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The socket of an engine; or `why` there is none, and what would help."""

    path: str = ""
    why: str = ""
    remedy: str = ""


def find(environ: Mapping[str, str], *, uid: int, look: Callable[[str], str] | None = None) -> Found:
    """The first engine that answers. `look` says what is wrong with a socket, or '' (see `look_at`).

    A variable decides alone; then come Docker and Podman, those of the user before those of the machine.
    """
    look = look or look_at
    for name in VARIABLES:
        given = environ.get(name, "")
        if given:
            return _given(name, given, look)
    worst = Found(why="no socket of an engine was found", remedy=INSTALL)
    for path in candidates(environ, uid):
        why = look(path)
        if not why:
            return Found(path=path)
        if why != "missing":
            worst = Found(why=f"{path}: {why}", remedy=_remedy(path, why))
    return worst


def candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    """Where engines listen unless told otherwise."""
    own = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    users = [] if uid == 0 else [f"{own}/docker.sock", f"{own}/podman/podman.sock"]
    return [*users, "/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock"]


def _given(name: str, given: str, look: Callable[[str], str]) -> Found:
    kind, _, path = given.partition("://")
    if kind != "unix" or not path.startswith("/"):
        return Found(
            why=f"{name} is {given}: only an engine on this machine can be used, by its Unix socket",
            remedy=f"unset {name}, or run a worker where the engine is",
        )
    why = look(path)
    return Found(why=f"{path}, which {name} names: {why}", remedy=_remedy(path, why)) if why else Found(path=path)


def look_at(path: str) -> str:
    """What is wrong with an engine's socket: 'missing', 'not permitted', 'nobody listens', or '' for nothing."""
    if not os.path.exists(path):
        return "missing"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except PermissionError:
            return "not permitted"
        except ConnectionRefusedError:
            return "nobody listens"
        except OSError as error:
            return error.strerror or str(error)
    return ""


def is_roots(path: str) -> bool:
    """Whether the engine behind a socket runs as root, as far as the socket tells, which belongs to its user."""
    try:
        return os.stat(path).st_uid == 0
    except OSError:
        return False


def _remedy(path: str, why: str) -> str:
    if "podman" in path:
        return f"podman system service --time=0 unix://{path}"
    if why == "not permitted":
        return "`sudo usermod -aG docker $USER`, and log in again (who is in that group can become root)"
    return "start it: `systemctl start docker`, or `dockerd`"
