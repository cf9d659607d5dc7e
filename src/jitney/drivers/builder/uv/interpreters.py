"""Which Pythons this machine has, without ever taking a version manager's shim for one.

A shim is a script that asks which Python is meant, each time, and may say "none". So uv looks at a search path without
shims, and with the folders of the interpreters behind them.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from jitney.drivers.builder.uv.process import run
from jitney.errors import UnsupportedError

LISTED = re.compile(r"^cpython-(3\.(?:1[1-9]|[2-9]\d)\.\d+)-", re.MULTILINE)  # those that containers can have


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python that environments are made from. `is_own`: the one that runs us."""

    path: str
    is_own: bool = False


def own_interpreter() -> str:
    """The base Python of this process: not an environment's link, not a shim."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def is_own_version(version: str) -> bool:
    """Whether '3.11' or '3.11.7' is what runs us."""
    ours = platform.python_version()
    return version == ours or version == ".".join(ours.split(".")[:2])


def search_path(environ: Mapping[str, str]) -> str:
    """PATH without shims, and with what pyenv has installed."""
    folders = [f for f in environ.get("PATH", "").split(os.pathsep) if f and Path(f).name != "shims"]
    pyenv = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME") or "/", ".pyenv"))
    folders += [str(found) for found in sorted(pyenv.glob("versions/3.*/bin"))]
    return os.pathsep.join(folders)


async def find_interpreter(uv: str, version: str, environ: Mapping[str, str], cwd: Path) -> Interpreter:
    """The interpreter for '3.12' or '3.12.1'.

    Raises:
        UnsupportedError: there is none; the message lists those that are there.
    """
    if is_own_version(version):
        return Interpreter(path=own_interpreter(), is_own=True)
    env = {**environ, "PATH": search_path(environ)}
    lines: list[str] = []
    code, _ = await run([uv, "python", "find", "--no-project", version], cwd=cwd, env=env, on_line=lines.append)
    found = next((line for line in reversed(lines) if line.startswith("/")), "")
    if code == 0 and found:
        return Interpreter(path=_real(found))
    listed: list[str] = []
    await run([uv, "python", "list", "--only-installed"], cwd=cwd, env=env, on_line=listed.append)
    there = {platform.python_version(), *LISTED.findall("\n".join(listed))}
    raise UnsupportedError(
        f"this machine has no Python {version}",
        hint=f"it has {', '.join(sorted(there, key=_order))}: install {version} (uv python install {version}), "
        "or choose one of these for python_version",
    )


def _real(path: str) -> str:
    return os.path.realpath(path)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
