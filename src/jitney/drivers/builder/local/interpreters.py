"""Which Pythons there are: those of this machine, and the one of a root file system.

On the machine, never a version manager's shim: a shim is a script that asks which Python is meant, each time, and may
say "none". So uv looks at a search path without shims, and with the folders of the interpreters behind them.

In a root file system a Python is found by looking (nothing of it is run to find it), and asked what it is inside a box.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from jitney.drivers.builder.local.union import Union
from jitney.drivers.command import run
from jitney.errors import UnsupportedError

LISTED = re.compile(r"^cpython-(3\.(?:1[1-9]|[2-9]\d)\.\d+)-", re.MULTILINE)  # those that containers can have
VERSION = re.compile(r"3\.\d{1,2}\.\d{1,3}")
NAME = re.compile(r"python3\.(\d{1,2})")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64")  # what the host's own file system shows to containers anyway
FOLDERS = ("/usr/local/bin", "/usr/bin", "/opt/conda/bin", "/bin")

# Asked of a Python in a box. One line, so that whatever else is printed is not taken for the answer.
PROBE = (
    "import os, sys\n"
    "try:\n"
    "    libc = os.confstr('CS_GNU_LIBC_VERSION') or 'musl'\n"
    "except (AttributeError, OSError, ValueError):\n"
    "    libc = 'musl'\n"
    "print('JITNEY', '%d.%d.%d' % sys.version_info[:3], os.uname().machine, libc.replace(' ', '-'))\n"
)


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python that environments are made from.

    `path` is where containers see it. `tool` is one of the machine, of the same series, that uv is given where nothing
    of the image may run; '' = there is none. `platform` is uv's word for the image's system, where that is another.
    """

    path: str
    version: str  # "3.11.7"
    is_of_root: bool = False  # in the root file system, not on the machine
    tool: str = ""
    platform: str = ""
    mounts: tuple[str, ...] = ()  # folders of the machine that it needs

    @property
    def series(self) -> str:
        """'3.11'."""
        return series(self.version)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a Python said of itself."""

    version: str
    machine: str
    libc: str  # "glibc 2.36", "musl"


def series(version: str) -> str:
    """'3.11' of '3.11.7'."""
    return ".".join(version.split(".")[:2])


def own_interpreter() -> str:
    """The base Python of this process: not an environment's link, not a shim."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def is_own_version(version: str) -> bool:
    """Whether '3.11' or '3.11.7' is what runs us."""
    ours = platform.python_version()
    return version == ours or version == series(ours)


def is_executable(path: str) -> bool:
    """Whether it is (still) there."""
    return os.access(path, os.X_OK)


def prefix_of(path: str) -> str:
    """The folder that an interpreter was installed to: what has its library."""
    folder = os.path.dirname(os.path.realpath(path))
    return os.path.dirname(folder) if os.path.basename(folder) == "bin" else folder


def mounts_of(path: str) -> tuple[str, ...]:
    """What containers on the host's own file system need to see for an interpreter, beside what they see anyway."""
    prefix = prefix_of(path)
    is_seen = any(prefix == folder or prefix.startswith(folder + "/") for folder in SYSTEM)
    return () if is_seen else (prefix,)


def search_path(environ: Mapping[str, str]) -> str:
    """PATH without shims, and with what pyenv has installed."""
    folders = [f for f in environ.get("PATH", "").split(os.pathsep) if f and Path(f).name != "shims"]
    pyenv = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME") or "/", ".pyenv"))
    folders += [str(found) for found in sorted(pyenv.glob("versions/3.*/bin"))]
    return os.pathsep.join(folders)


async def find_interpreter(
    uv: str, version: str, environ: Mapping[str, str], cwd: Path | str, *, managed: bool = False
) -> Interpreter:
    """The interpreter for '3.12' or '3.12.1'. `managed`: one that uv has installed, which stands on its own.

    Raises:
        UnsupportedError: there is none; the message lists those that are there.
    """
    if is_own_version(version) and not managed:
        path = own_interpreter()
        return Interpreter(path=path, version=platform.python_version(), tool=path, mounts=mounts_of(path))
    env = {**environ, "PATH": search_path(environ)}
    lines: list[str] = []
    argv = [uv, "python", "find", "--no-project", *(["--managed-python"] if managed else []), version]
    code, _ = await run(argv, cwd=cwd, env=env, on_line=lines.append)
    found = next((line for line in reversed(lines) if line.startswith("/")), "")
    if code == 0 and found:
        path = _real(found)
        full = await _version_of(path, cwd)
        if full:
            return Interpreter(path=path, version=full, tool=path, mounts=mounts_of(path))
    listed: list[str] = []
    await run([uv, "python", "list", "--only-installed"], cwd=cwd, env=env, on_line=listed.append)
    there = {platform.python_version(), *LISTED.findall("\n".join(listed))}
    raise UnsupportedError(
        f"this machine has no Python {version}",
        hint=f"it has {', '.join(sorted(there, key=_order))}: install {version} (uv python install {version}), "
        "or choose one of these for python_version",
    )


def pythons_of(layers: Sequence[str], path_variable: str, version: str) -> list[str]:
    """Paths of Pythons in a root file system, the best first; with `version`, only those that may be it."""
    root = Union(layers)
    wanted = [f"python{series(version)}"] if version else []
    folders = list(dict.fromkeys([*(f for f in path_variable.split(":") if f.startswith("/")), *FOLDERS]))
    found: list[str] = []
    for folder in folders:
        names = [*wanted, "python3", "python"]
        if not version:
            others = {name: int(match[1]) for name in root.names(folder) if (match := NAME.fullmatch(name))}
            names += sorted(others, key=lambda name: -others[name])
        found += [f"{folder}/{name}" for name in names if root.is_program(f"{folder}/{name}")]
    return list(dict.fromkeys(found))


def read_probe(lines: Sequence[str]) -> Facts | None:
    """What `PROBE` printed; None: not an answer."""
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[0] == "JITNEY" and VERSION.fullmatch(words[1]):
            return Facts(version=words[1], machine=words[2], libc=words[3].replace("-", " ", 1))
    return None


async def _version_of(path: str, cwd: Path | str) -> str:
    lines: list[str] = []
    code, _ = await run([path, "-I", "-S", "-c", PROBE], cwd=cwd, env={}, on_line=lines.append)
    facts = read_probe(lines) if code == 0 else None
    return facts.version if facts else ""


def _real(path: str) -> str:
    return os.path.realpath(path)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
