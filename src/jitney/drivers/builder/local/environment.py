"""An environment of Python packages on its way: made by uv, in a folder that stays where it is made.

Where the box has a wall, nothing of a package runs outside of it. First uv is asked for wheels alone, on the host: it
unpacks them, hard-linked from its cache, and runs only the machine's own Python, never the environment's, as packages
may have put code there. If a package has to be built, the environment is made anew behind the wall: uv runs in a box,
with a cache of its own that nothing outside trusts, and copies; hard links would let a package's code write into the
cache that other environments are linked to.

Without a wall (the process tier) everything runs on the host, as the user who started the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from jitney.core.imageplan import Step
from jitney.drivers.builder.local import bench, disk, render
from jitney.drivers.builder.local.bench import Bench, Outcome, Surroundings
from jitney.drivers.builder.local.interpreters import Interpreter
from jitney.drivers.builder.local.render import Install, Place
from jitney.drivers.builder.local.tools import Uv
from jitney.drivers.command import run
from jitney.errors import ImageBuildError
from jitney.ports.box import Bind
from jitney.values.images import PipInstall, UvSync

Tell = Callable[[str], None]

EXPORTED = "exported.txt"
GIVEN_SUFFIX = ".given"  # beside an environment: the files that uv is given
PROJECT_BYTES_MAX = 64 * 1024 * 1024
SHEBANG_BYTES = 1024
_OWN = re.compile(r"cloudpickle-([^-/]+)\.dist-info", re.IGNORECASE)
_ERROR = re.compile(r"\s*(error|×|cause|hint)\b|^\s*×")


class _NeedsSource(Exception):
    """A package has no wheel that fits."""


class Draft:
    """One environment that is being made.

    Args:
        root: its folder, which is not there yet.
        guard: descriptor of its lock, which uv keeps too.
        sources: folder of shipped files.
    """

    def __init__(
        self, tools: tuple[Uv, Bench], root: Path, guard: int, interpreter: Interpreter, sources: Path
    ) -> None:
        self._uv, self._bench = tools
        self.root = root
        self.interpreter = interpreter
        self._given = root.with_name(root.name + GIVEN_SUFFIX)
        self._guard = guard
        self._sources = sources
        self._is_boxed = self._bench.is_walled and not interpreter.tool
        self._done: list[tuple[int, str, Step]] = []

    @property
    def python(self) -> str:
        """Its interpreter, as containers see it."""
        return str(self.root / "bin" / "python")

    @property
    def site(self) -> Path:
        """Where its packages are."""
        return self.root / "lib" / f"python{self.interpreter.series}" / "site-packages"

    def begin(self) -> None:
        """Make it, empty."""
        self._given.mkdir()
        make_root(self.root, self.interpreter, self._bench if self._is_boxed else None)

    async def install(self, number: int, what: str, step: Step, layers: tuple[str, ...], tell: Tell) -> None:
        """One step. `layers` are what a box sees; `what` is the step in an error.

        Raises:
            ImageBuildError: it failed.
            StorageFullError: the disk is full.
        """
        if not self._bench.is_walled:
            await self._on_host(number, what, step, tell)
        elif self._is_boxed:
            await self._in_box(number, what, step, layers, tell)
        else:
            try:
                await self._of_wheels(number, what, step, layers, tell)
            except _NeedsSource:
                tell("a package has to be built from its source: everything is installed behind the wall")
                await self._start_over(layers, tell)
                await self._in_box(number, what, step, layers, tell)
        self._done.append((number, what, step))

    async def finish(self) -> disk.EnvironmentFile:
        """Nothing is installed any more: what it is."""
        await remove_folder(self._given)
        return disk.EnvironmentFile(
            folder=self.root.name,
            python_version=self.interpreter.version,
            cloudpickle_version=own_cloudpickle(self.site),
            python=self.interpreter.path,
            is_of_root=self.interpreter.is_of_root,
            mounts=self.interpreter.mounts,
        )

    async def remove(self) -> None:
        """It is not wanted."""
        await remove_folder(self._given)
        if self._is_boxed:
            await self._bench.box.discard(str(self.root))
        else:
            await remove_folder(self.root)

    # ---------------------------------------------------------------------------------------------- three ways

    async def _on_host(self, number: int, what: str, step: Step, tell: Tell) -> None:
        env = await self._uv.environment({**step.env, **step.secrets})
        layer = step.layer
        if isinstance(layer, UvSync):
            project, indexes = self._project(layer, number)
            export = render.render_export(self._uv.path, self.interpreter.path, layer, EXPORTED, only_wheels=False)
            await self._run(export, env, what, tell, cwd=project)
            layer = render.locked_install(layer, (project / EXPORTED).read_text(encoding="utf-8"), indexes)
        assert isinstance(layer, PipInstall)
        install = self._write(render.render_install(self._uv.path, Place(python=self.python), layer, number))
        await self._run(install, env, what, tell)

    async def _of_wheels(self, number: int, what: str, step: Step, layers: tuple[str, ...], tell: Tell) -> None:
        layer = step.layer
        assert isinstance(layer, PipInstall | UvSync)
        if render.builds_anyway(layer):
            raise _NeedsSource
        layer = await self._resolved(number, what, step, layers, tell)
        tool = self.interpreter.tool
        place = Place(python=tool, prefix=str(self.root), platform=self.interpreter.platform, only_wheels=True)
        env = await self._uv.outside(step, (*layer.requirements, *layer.constraints))
        held: list[str] = []

        def hold_errors(line: str) -> None:
            """Lines of an error are told when it is known that it is one."""
            if held or _ERROR.match(line):
                held.append(line)
            else:
                tell(line)

        install = self._write(render.render_install(self._uv.path, place, layer, number))
        try:
            await self._run(install, env, what, hold_errors)
        except ImageBuildError as error:
            if render.is_for_want_of_a_wheel(error.message):
                raise _NeedsSource from None
            for line in held:
                tell(line)
            raise
        aim_scripts(self.root / "bin", tool, self.python)

    async def _in_box(self, number: int, what: str, step: Step, layers: tuple[str, ...], tell: Tell) -> None:
        layer = await self._resolved(number, what, step, layers, tell)
        bench.own_like(self.root)
        place = Place(python=self.python)
        async with self._boxed(step, layers) as (uv, around):
            install = self._write(render.render_install(uv, place, layer, number))
            await self._bench.run_or_fail(install.argv, around, what, tell)

    async def _start_over(self, layers: tuple[str, ...], tell: Tell) -> None:
        await remove_folder(self.root)
        self._is_boxed = True
        make_root(self.root, self.interpreter, self._bench)
        for number, what, step in self._done:
            await self._in_box(number, what, step, layers, tell)

    # ---------------------------------------------------------------------------------------------- what they share

    async def _resolved(self, number: int, what: str, step: Step, layers: tuple[str, ...], tell: Tell) -> PipInstall:
        """What is to be installed. A lock file is read in a box: its project may say where uv is to write."""
        layer = step.layer
        if isinstance(layer, PipInstall):
            return layer
        assert isinstance(layer, UvSync)
        project, indexes = self._project(layer, number)
        async with self._boxed(step, layers) as (uv, around):
            inside = Path(around.binds[0].source) / "project"
            shutil.copytree(project, inside)
            bench.own_like(Path(around.binds[0].source))
            export = render.render_export(uv, self.python, layer, EXPORTED, only_wheels=True)
            around = msgspec.structs.replace(around, cwd="/tmp/project")
            await self._bench.run_or_fail(export.argv, around, what, tell)
            exported = read_plain(inside / EXPORTED) or b""
        return render.locked_install(layer, exported.decode(errors="replace"), indexes)

    @contextlib.asynccontextmanager
    async def _boxed(self, step: Step, layers: tuple[str, ...]) -> AsyncIterator[tuple[str, Surroundings]]:
        """uv's path in a box, and what it sees there."""
        env = await self._uv.boxed(step)
        paths = await self._uv.machine_paths()
        cache = self._cache()
        async with self._bench.passing() as folder:
            on_host, in_box = bench.given(folder, "uv")
            on_host.touch(mode=0o755)
            cache_on_host, cache_in_box = bench.given(folder, "cache")
            cache_on_host.mkdir()
            binds = (
                self._bench.bind_passing(folder),
                Bind(source=self._uv.path, target=in_box),
                Bind(source=str(cache), target=cache_in_box, writable=True),
                *(Bind(source=path, target=path) for path in (*self.interpreter.mounts, *paths)),
                Bind(source=str(self._given), target=str(self._given)),
                Bind(source=str(self.root), target=str(self.root), writable=self._is_boxed),
            )
            path = step.env.get("PATH") or bench.DEFAULT_PATH
            env |= {
                "PATH": f"{self.root}/bin:{path}",
                "HOME": env.get("HOME", "/root"),
                "TMPDIR": "/tmp",
                "VIRTUAL_ENV": str(self.root),
                "UV_CACHE_DIR": cache_in_box,
            }
            yield in_box, Surroundings(layers=layers, binds=binds, env=env, cwd=str(self._given))

    def _project(self, step: UvSync, number: int) -> tuple[Path, list[str]]:
        target = self._given / f"project-{number}"
        if target.exists():
            shutil.rmtree(target)
        return target, copy_project(self._sources / step.source_id, target)

    def _write(self, install: Install) -> Install:
        """Requirements are beside the environment: in it, a package could put settings of uv next to them."""
        for name, text in install.files.items():
            (self._given / name).write_text(text, encoding="utf-8")
        return install

    async def _run(
        self, install: Install, env: dict[str, str], what: str, tell: Tell, *, cwd: Path | None = None
    ) -> None:
        async with self._bench.room.taken():
            code, last = await run(install.argv, cwd=cwd or self._given, env=env, on_line=tell, keep_fds=(self._guard,))
        if code:
            raise bench.failure(what, Outcome(code=code, last=tuple(last)))

    def _cache(self) -> Path:
        """The cache of what is built behind the wall."""
        cache = self.root.parent.parent / disk.CACHE
        if not cache.exists():
            with contextlib.suppress(FileExistsError):  # another build was faster
                self._bench.box.adopt(str(cache))
        return cache


def new_root(parent: Path) -> Path:
    """A place for an environment of `parent`."""
    return parent / f"{disk.ENVIRONMENT_PREFIX}{secrets.token_hex(4)}"


def make_root(root: Path, interpreter: Interpreter, adopting: Bench | None) -> None:
    """The folder of an environment, empty; `adopting`: boxes write to it."""
    if adopting:
        adopting.box.adopt(str(root))
    else:
        root.mkdir()
    make_venv(root, interpreter)
    if adopting:
        bench.own_like(root)


def make_venv(root: Path, interpreter: Interpreter) -> None:
    """An empty environment in an empty folder: some links and a file, and nothing is run.

    On a root file system of its own, what that has for packages is seen too: many images bring theirs.
    """
    (root / "bin").mkdir()
    (root / "lib" / f"python{interpreter.series}" / "site-packages").mkdir(parents=True)
    (root / "lib64").symlink_to("lib")
    name = f"python{interpreter.series}"
    (root / "bin" / name).symlink_to(interpreter.path)
    for other in ("python", "python3"):
        (root / "bin" / other).symlink_to(name)
    system = "true" if interpreter.is_of_root else "false"
    (root / "pyvenv.cfg").write_text(
        f"home = {os.path.dirname(interpreter.path)}\n"
        f"include-system-site-packages = {system}\n"
        f"version = {interpreter.version}\n",
        encoding="utf-8",
    )


def own_cloudpickle(site: Path) -> str:
    """The version of cloudpickle that an environment has; '' if none. Names are looked at, no file is read."""
    try:
        names = os.listdir(site)
    except OSError:
        return ""
    return next((match[1] for name in sorted(names) if (match := _OWN.fullmatch(name))), "")


def aim_scripts(folder: Path, tool: str, python: str) -> None:
    """Have the commands of packages start with the environment's Python, not with the one that uv was given."""
    with os.scandir(folder) as entries:
        paths = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    for path in paths:
        with open(path, "rb") as file:
            begin = file.read(SHEBANG_BYTES)
            first = begin.find(b"\n", begin.find(b"\n") + 1) if begin.startswith(b"#!/bin/sh") else begin.find(b"\n")
            if not begin.startswith(b"#!") or first < 0 or os.fsencode(tool) not in begin[:first]:
                continue
            text = begin + file.read()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        head = text[:first].replace(os.fsencode(tool), os.fsencode(python))
        partial = f"{path}.partial"  # a file of its own: it may be a link to one in uv's cache
        with open(partial, "xb") as file:
            file.write(head + text[first:])
            os.fchmod(file.fileno(), mode)
        os.replace(partial, path)


def copy_project(source: Path, target: Path) -> list[str]:
    """pyproject.toml and uv.lock of a shipped tree, and the addresses of indexes that the project names.

    Raises:
        ImageBuildError: the tree is not there, or has no project.
    """
    target.mkdir()
    for name in ("pyproject.toml", "uv.lock"):
        content = read_plain(source / name)
        if content is not None:
            (target / name).write_bytes(content)
    try:
        project: dict[str, Any] = tomllib.loads((target / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ImageBuildError("uv_sync: there is no pyproject.toml", hint="build again from its folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImageBuildError(f"uv_sync: pyproject.toml is not TOML: {error}") from None
    named = msgspec.convert(project.get("tool", {}), dict[str, Any]).get("uv", {})
    indexes = named.get("index", []) if isinstance(named, dict) else []
    urls = [one.get("url") for one in indexes if isinstance(one, dict)] if isinstance(indexes, list) else []
    return [url for url in urls if isinstance(url, str) and url.startswith(("https://", "http://", "file://"))]


def read_plain(path: Path) -> bytes | None:
    """A file that somebody else wrote; None where there is no plain one."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return file.read(PROJECT_BYTES_MAX)


async def remove_folder(folder: Path) -> None:
    """Remove what is ours."""
    await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
