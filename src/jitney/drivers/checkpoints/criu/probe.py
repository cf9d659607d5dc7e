"""Whether CRIU can do it on this machine: asked of CRIU itself, not guessed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import msgspec

from jitney.drivers.checkpoints.criu import render

TRY_S = 20.0
NEWER = "install CRIU 4.1 or later (Debian 13: apt-get install criu; or from source: criu.org/Installation)"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`why` is '' where it can."""

    criu: str = ""
    unshare: str = ""
    version: str = ""
    why: str = ""
    remedy: str = ""


@functools.cache
def probe() -> Finding:
    """Once per process."""
    return look(shutil.which("criu"), shutil.which("unshare"), platform=sys.platform, uid=os.geteuid())


def look(criu: str | None, unshare: str | None, *, platform: str, uid: int) -> Finding:
    """What can be done with these programs."""
    if not platform.startswith("linux"):
        return Finding(why="checkpoints are CRIU's, which is for Linux")
    if criu is None:
        return Finding(why="there is no `criu` in PATH", remedy=NEWER)
    if unshare is None:
        return Finding(why="there is no `unshare` in PATH", remedy="install util-linux")
    if uid != 0:
        return Finding(why="CRIU needs root, and the worker has not got it", remedy="run the server as root")
    code, said = _run([criu, "--version"])
    version = render.parse_version(said)
    if code or version is None:
        return Finding(why=f"{criu} does not say its version: {said[-200:].strip()}", remedy=NEWER)
    code, said = _run([criu, "check"])
    text = ".".join(map(str, version))
    if code:
        return Finding(why=f"CRIU {text} does not work on this kernel: {render.reason(said)}", remedy=NEWER)
    if version < render.VERSION_MIN:
        return Finding(why=f"CRIU {text} is too old", remedy=NEWER)
    return Finding(criu=criu, unshare=unshare, version=text)


def _run(argv: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
