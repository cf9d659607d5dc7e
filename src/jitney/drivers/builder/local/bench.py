"""The bench that steps are worked on: one command in a box, with what steps have around them.

Each step has a folder of its own for what is passing: it is the box's /tmp, so that the commands of one step find what
earlier ones of it left there, and it holds what the step is given (a pickled call, the SDK, uv).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from jitney.drivers.builder.local import disk
from jitney.drivers.builder.local.render import is_disk_full
from jitney.drivers.builder.local.tools import Room, Settings
from jitney.errors import ImageBuildError, StorageFullError
from jitney.ports.box import Bind, Box, BoxFailed, BoxSpec, BoxVolume, OverMemory
from jitney.ports.builder import LAST_LINES
from jitney.values.isolation import Isolation

HOST_ROOT = "/"  # as the lowest layer: the host's own file system, without what is private
GIVEN = "/tmp/.jitney"  # in a box: what the step is given
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
TIMEOUT_CODE = -15  # what a command's own limit is told as


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a command sees: layers (() = the host's own), host folders, volumes, variables, where it starts."""

    layers: tuple[str, ...] = ()
    upper: str = ""
    binds: tuple[Bind, ...] = ()
    volumes: tuple[BoxVolume, ...] = ()
    env: dict[str, str] = {}
    cwd: str = "/"
    cpu_milli: int | None = None
    memory_mib: int | None = None
    timeout_ms: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended: its exit code (negative: a signal), and its last lines.

    `memory_mib` is the limit of memory that ended it; 0: it was something else.
    """

    code: int
    last: tuple[str, ...]
    memory_mib: int = 0


class Bench:
    """Runs commands of steps in a box."""

    def __init__(self, images: Path, box: Box, room: Room, settings: Settings) -> None:
        self._images = images
        self._box = box
        self._room = room
        self._settings = settings

    @property
    def box(self) -> Box:
        """The box."""
        return self._box

    @property
    def room(self) -> Room:
        """What bounds how much runs at once."""
        return self._room

    @property
    def is_walled(self) -> bool:
        """Whether there is a wall: then nothing of an image runs outside of it."""
        return self._box.capabilities().isolation is not Isolation.PROCESS

    async def run(self, argv: Sequence[str], around: Surroundings, tell: Callable[[str], None]) -> Outcome:
        """Run it.

        Raises:
            ImageBuildError: there can be no box.
            TimeoutError: it took longer than `around.timeout_ms`.
        """
        last: deque[str] = deque(maxlen=LAST_LINES)

        def on_line(line: str) -> None:
            last.append(line)
            tell(line)

        spec = BoxSpec(
            argv=tuple(argv),
            layers=around.layers,
            upper=around.upper,
            binds=around.binds,
            volumes=around.volumes,
            env=around.env,
            cwd=around.cwd,
            cpu_milli=_least(around.cpu_milli, self._settings.cpu_milli),
            memory_mib=_least(around.memory_mib, self._settings.memory_mib),
            pids=self._settings.pids,
            timeout_ms=around.timeout_ms or self._settings.timeout_ms,
        )
        memory_mib = 0
        try:
            async with self._room.taken():
                code = await self._box.run(spec, on_line)
        except OverMemory as over:
            code, memory_mib = over.code, over.limit_mib
        except BoxFailed as failed:
            raise ImageBuildError(
                f"the step cannot be run behind a wall: {failed}", hint="`jitney doctor` says what is missing"
            ) from failed
        return Outcome(code=code, last=tuple(last), memory_mib=memory_mib)

    async def run_or_fail(
        self, argv: Sequence[str], around: Surroundings, what: str, tell: Callable[[str], None]
    ) -> None:
        """Run it, and see that it ends well. `what` is the step in an error.

        Raises:
            ImageBuildError: it failed.
            StorageFullError: the disk is full.
        """
        outcome = await self.run(argv, around, tell)
        if outcome.code:
            raise self.failure(what, outcome)

    def failure(self, what: str, outcome: Outcome) -> ImageBuildError | StorageFullError:
        """What to tell of a command that failed in the box."""
        can = self._box.capabilities()
        return failure(what, outcome, no_network="" if can.network else can.no_network)

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[Path]:
        """A folder for what is passing, which the box's root may write to. It goes away afterwards."""
        async with self._folder_of_step() as folder:
            self._box.adopt(str(folder))
            folder.chmod(0o1777)
            (folder / GIVEN.rpartition("/")[2]).mkdir(mode=0o755)
            yield folder

    @contextlib.asynccontextmanager
    async def uppers(self, count: int) -> AsyncIterator[list[str]]:
        """Folders for what a step writes to volumes, which the box's root may write to. They go away afterwards."""
        async with self._folder_of_step() as folder:
            folder.mkdir(mode=0o711)
            made = [str(folder / str(number)) for number in range(count)]
            for upper in made:
                self._box.adopt(upper)
            yield made

    @contextlib.asynccontextmanager
    async def _folder_of_step(self) -> AsyncIterator[Path]:
        folder = self._images / disk.STEPS / secrets.token_hex(8)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with disk.guarded(folder):
            try:
                yield folder
            finally:
                await self._box.discard(str(folder))

    def bind_passing(self, folder: Path) -> Bind:
        """... as the box's /tmp."""
        return Bind(source=str(folder), target="/tmp", writable=True)


def given(folder: Path, name: str) -> tuple[Path, str]:
    """(where on the host, where in the box) a thing is that a step is given."""
    return folder / GIVEN.rpartition("/")[2] / name, f"{GIVEN}/{name}"


def own_like(folder: Path) -> None:
    """Give everything below `folder` to its owner: in a box that is root. Links are not followed."""
    owner = os.lstat(folder)
    if os.geteuid() != 0:
        return  # it is ours, and so is what we put there
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(where, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def seen_layers(layers: Sequence[str], *, is_host: bool) -> tuple[str, ...]:
    """Layers for a box: on the host's own file system, that one first, unless there is nothing on it."""
    return (HOST_ROOT, *layers) if is_host and layers else tuple(layers)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The machine's proxies, for steps that fetch something; not those with a password in their address."""
    return {name: environ[name] for name in PROXIES if environ.get(name) and "@" not in environ[name]}


def _least(asked: int | None, most: int | None) -> int | None:
    """A limit that a step asks for itself, which is never above that of the machine."""
    return min((one for one in (asked, most) if one), default=None)


def failure(what: str, outcome: Outcome, *, no_network: str = "") -> ImageBuildError | StorageFullError:
    """What to tell of a command that failed. `what` is the step: 'step 2 of 3 (apt install git)'."""
    output = "\n".join(f"  {line}" for line in outcome.last)
    if is_disk_full(output):
        return StorageFullError(f"no room for {what}:\n{output}\n", hint="free some space, and build again")
    if outcome.memory_mib:
        return ImageBuildError(
            f"{what} needed more than the {outcome.memory_mib:,} MiB of memory that it may have, and was ended; "
            f"its last lines:\n{output}",
            hint="raise `build_memory_mib` of the worker (or `memory` of a run_function), "
            "or have it do less at the same time, such as `make -j1`",
        )
    code = outcome.code
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    hint = f"commands of builds have no network on this machine: {no_network}" if no_network else ""
    return ImageBuildError(f"{what} {how}; its last lines:\n{output}", hint=hint)
