"""What a builder works with: uv as this machine is set up for it, the box, and a bound on how much runs at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from jitney.core.imageplan import Step
from jitney.drivers.builder.local.interpreters import own_interpreter
from jitney.drivers.builder.local.settings import (
    boxed_environment,
    build_environment,
    outside_environment,
    parse_pip_config,
    pip_variables,
)
from jitney.drivers.command import run

PIP_TIMEOUT_S = 30
WITH_PATHS = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_CONSTRAINT", "SSL_CERT_FILE", "SSL_CLIENT_CERT")
RUNS_MIN = 4  # at the same time, so that a build which hangs does not hold up everybody


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How images are made here.

    `base` is what `debian_slim` is made from: 'host', 'debootstrap' or 'registry'. Limits are for each build step;
    None is no limit.
    """

    base: str = "host"
    registry: str = ""  # address before names that have none: "mirror.example.org"
    suite: str = "bookworm"  # of Debian, for debootstrap
    index_url: str = ""
    timeout_ms: int = 3_600_000  # of one build
    cpu_milli: int | None = None
    memory_mib: int | None = None
    pids: int | None = 4_096


class Uv:
    """The uv that installs packages, and how.

    Args:
        images: folder of images.
        path: the uv to run; '' = the one of the `uv` package.
        index_url: package index for images that name none; '' = as the machine's pip (or uv) is set up.
        pip_config: settings in the form of `pip config list`; None = ask pip, once, when something is installed.
    """

    def __init__(self, images: Path, *, path: str, index_url: str, pip_config: Mapping[str, str] | None) -> None:
        self._images = images
        self._given = path
        self._index_url = index_url
        self._pip_config = pip_config

    @cached_property
    def path(self) -> str:
        """Where it is."""
        if self._given:
            return self._given
        import uv

        return os.fsdecode(uv.find_uv_bin())

    async def environment(self, variables: Mapping[str, str], *, link_mode: str = "") -> dict[str, str]:
        """The variables for it. `variables` are those of the step; without `link_mode`, the fastest that works."""
        return build_environment(
            os.environ,
            await self._pip_settings(),
            variables,
            link_mode=link_mode or self._link_mode(),
            index_url=self._index_url,
        )

    async def outside(self, step: Step, texts: Iterable[str]) -> dict[str, str]:
        """The variables for it on the host where there is a wall: the image cannot aim it at anything."""
        image = {**step.env, **step.secrets}
        return outside_environment(await self.environment({}), image, texts)

    async def boxed(self, step: Step) -> dict[str, str]:
        """The variables for it in a box."""
        return boxed_environment(await self.environment({}, link_mode="copy"), {**step.env, **step.secrets})

    async def machine_paths(self) -> list[str]:
        """Folders and files that the machine's own settings name: indexes, wheels, certificates."""
        return _paths_in(await self.environment({}, link_mode="copy"))

    def plain_environment(self) -> dict[str, str]:
        """The variables for looking around, which need no settings of pip."""
        return build_environment(os.environ, {}, {}, link_mode="copy")

    def _link_mode(self) -> str:
        """Hard links where cache and images are on one file system: no copying, and one copy in memory too."""
        cache = os.environ.get("UV_CACHE_DIR")
        if not cache:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            cache = os.path.join(base, "uv")
        if sys.platform == "darwin":
            return "clone"
        return "hardlink" if _device(Path(cache)) == _device(self._images) else "copy"

    async def _pip_settings(self) -> Mapping[str, str]:
        """What this machine's pip is set up with, asked once: pip takes half a second to say it."""
        if self._pip_config is None:
            self._pip_config = await _ask_pip()
        return self._pip_config


class Room:
    """Bounds how many commands of builds run at the same time. It may be used on one event loop after another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = asyncio.Semaphore(most)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for room, and have it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._free = loop, asyncio.Semaphore(self._most)
        async with self._free:
            yield


def room_of_machine() -> Room:
    """One run for each core, and a few more on small machines: they often wait for the network."""
    return Room(max(RUNS_MIN, os.cpu_count() or 1))


def _paths_in(env: Mapping[str, str]) -> list[str]:
    words = [word for name in WITH_PATHS for word in re.split(r"[\s,]+", env.get(name, "")) if word]
    paths = [word.removeprefix("file://") for word in words if word.startswith(("/", "file:///"))]
    # An index may be `.../simple` with the files that it points to beside it.
    folders = [os.path.dirname(path) if os.path.basename(path) == "simple" else path for path in paths]
    return [path for path in dict.fromkeys(folders) if os.path.exists(path)]


async def _ask_pip() -> Mapping[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    for python in dict.fromkeys((sys.executable, own_interpreter())):
        lines: list[str] = []
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(PIP_TIMEOUT_S):
                code, _ = await run(
                    [python, "-m", "pip", "config", "list"], cwd=Path("/"), env=env, on_line=lines.append
                )
                if code == 0:
                    return parse_pip_config("\n".join(lines))
    return pip_variables(os.environ)  # neither has pip (an environment made by uv, a distribution without it)


def _device(path: Path) -> int:
    """The file system that `path` is on, or will be once it is made."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
