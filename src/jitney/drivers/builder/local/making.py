"""One build: the steps of a plan, in order, each on top of what is there by then.

Root steps whose layer is there are not done again, and an environment that is there is not made again: a build that
was ended goes on from where it was. An environment is replayed from its first step, as it depends on nothing but its
own declaration.

Where a base has no Python, the environment waits for one: a later step may install it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from jitney.core.imageplan import ImagePlan, Step, Work
from jitney.drivers.builder.local import bases, bench, disk, environment
from jitney.drivers.builder.local.disk import EnvironmentFile, RootFile
from jitney.drivers.builder.local.environment import Draft
from jitney.drivers.builder.local.interpreters import Interpreter
from jitney.drivers.builder.local.leases import Lease
from jitney.drivers.builder.local.pythons import Pythons
from jitney.drivers.builder.local.roots import Roots
from jitney.drivers.builder.local.steps import Python, Scene, StepRunner
from jitney.drivers.builder.local.tools import Settings, Uv
from jitney.errors import ImageBuildError
from jitney.ports.lending import Lender
from jitney.values import ids
from jitney.values.images import DebianSlim, Micromamba

TellStep = Callable[[int, Step, str], None]

LAYERS_MAX = 400  # the kernel takes 500 in one overlay, and containers put some on top


class Shop(msgspec.Struct, frozen=True, kw_only=True):
    """What builds are made with. `sources` has the trees of shipped files."""

    images: Path
    sources: Path
    settings: Settings
    uv: Uv
    bench: bench.Bench
    roots: Roots
    runner: StepRunner
    bases: bases.BaseMaker
    pythons: Pythons
    machine: str  # "linux-x86_64"

    def environment(self, environment_id: str) -> EnvironmentFile | None:
        """An environment, if it is whole and its Python is there."""
        folder = self.images / environment_id
        found = disk.read(folder / disk.ENVIRONMENT_FILE, EnvironmentFile)
        if found is None:
            return None
        root = folder / found.folder
        # Follows the link: the Python that the environment was made from may have been removed.
        is_there = root.is_dir() if found.is_of_root else os.access(root / "bin" / "python", os.X_OK)
        return found if is_there else None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gave: the root file system as boxes and containers see it, and an environment."""

    environment_id: str
    layers: tuple[str, ...]
    about: RootFile


class Making:
    """One build, from the first step to the last that does something."""

    def __init__(
        self, shop: Shop, plan: ImagePlan, lease: Lease, now_ms: int, tell: TellStep, lender: Lender | None = None
    ) -> None:
        self._shop = shop
        self._lender = lender
        self._plan = plan
        self._lease = lease
        self._now_ms = now_ms
        self._tell = tell
        self._is_host = shop.settings.base == bases.HOST and isinstance(plan.base, DebianSlim | Micromamba)
        self._folders: list[str] = []
        self._about = RootFile()
        self._environment_id = plan.environment_id
        self._environment: EnvironmentFile | None = None
        self._draft: Draft | None = None
        self._waiting: list[tuple[int, Step]] = []  # steps of an environment that has no Python yet
        self._stack = contextlib.AsyncExitStack()

    async def run(self) -> Made:
        """Do it.

        Raises:
            ImageBuildError: a step failed.
            StorageFullError: the disk is full.
            UnsupportedError: a step cannot be done here.
        """
        async with self._stack:
            for number, step in enumerate(self._plan.steps, 1):
                if step.work is Work.ROOT:
                    await self._do_root(number, step)
                elif step.work is Work.ENVIRONMENT:
                    await self._do_environment(number, step)
                elif number < last_work(self._plan):
                    self._tell(number, step, "")
            if self._waiting:
                raise ImageBuildError(
                    "the image has no Python to run functions with",
                    hint="give add_python='3.12' to its base, or install one in a step",
                )
        return Made(environment_id=self._environment_id, layers=self._layers, about=self._about)

    @property
    def _layers(self) -> tuple[str, ...]:
        return bench.seen_layers(self._folders, is_host=self._is_host)

    def _what(self, number: int, step: Step) -> str:
        return f"step {number} of {len(self._plan.steps)} ({step.title})"

    # ---------------------------------------------------------------------------------------------- root steps

    async def _do_root(self, number: int, step: Step) -> None:
        if step.layer is None:
            await self._base(number, step, step.digest)
        else:
            fill = partial(self._fill, number, step)
            folders, _ = await self._layer(number, step, step.digest, fill)
            self._folders += folders
        if len(self._folders) > LAYERS_MAX:
            raise ImageBuildError(
                f"{self._what(number, step)}: a root file system may have {LAYERS_MAX} layers",
                hint="put several commands into one run_commands",
            )
        if self._waiting:
            await self._try_waiting(number, step)

    async def _fill(self, number: int, step: Step, folder: Path) -> RootFile:
        scene = Scene(
            layers=self._layers,
            about=self._about,
            python=self._python(),
            lender=self._lender,
            image_id=self._plan.image_id,
        )
        tell = partial(self._tell, number, step)
        return await self._shop.runner.fill(folder, step, self._what(number, step), scene, tell)

    async def _base(self, number: int, step: Step, digest: str) -> None:
        base, python = self._plan.base, self._plan.python
        tell = partial(self._tell, number, step)

        async def fill(folder: Path) -> RootFile:
            what = self._what(number, step)
            return await self._shop.bases.fill(folder, base, python, what, tell, force=self._plan.force_build)

        folders, self._about = await self._layer(number, step, digest, fill)
        self._folders = [*folders]

    async def _layer(
        self, number: int, step: Step, digest: str, fill: Callable[[Path], object]
    ) -> tuple[tuple[str, ...], RootFile]:
        force = self._plan.force_build
        found = None if force else self._shop.roots.take(digest, self._lease, self._now_ms)
        if found is None:
            self._tell(number, step, "")
            found = await self._shop.roots.make(
                digest,
                fill,  # type: ignore[arg-type]
                self._lease,
                now_ms=self._now_ms,
                on_wait=lambda: self._tell(number, step, "another build makes this layer: waiting for it"),
                force=force,
            )
        return found.folders, found.about

    # ---------------------------------------------------------------------------------------------- environment

    def _python(self) -> Python | None:
        """What steps may run by now."""
        if self._draft:
            of = self._draft.interpreter
            return Python(path=self._draft.python, version=of.version, root=str(self._draft.root), mounts=of.mounts)
        if self._environment:
            root = str(self._shop.images / self._environment_id / self._environment.folder)
            return Python(
                path=f"{root}/bin/python",
                version=self._environment.python_version,
                root=root,
                mounts=self._environment.mounts,
            )
        return None

    async def _do_environment(self, number: int, step: Step) -> None:
        if self._environment:
            return
        if step.layer is None:
            if isinstance(self._plan.base, DebianSlim) and not self._is_host:
                await self._base(number, step, self._debian_digest())
            if self._take_environment():
                return
            self._tell(number, step, "")
            interpreter = await self._interpreter(number, step)
            if interpreter is None:
                self._waiting.append((number, step))
                return
            await self._begin(interpreter)
        elif self._waiting:
            self._waiting.append((number, step))
            return
        else:
            self._tell(number, step, "")
            await self._install(number, step)
        if number == self._plan.environment_steps:
            await self._commit()

    def _debian_digest(self) -> str:
        settings = self._shop.settings
        if settings.base == bases.DEBOOTSTRAP:
            return bases.debian_digest(settings, self._shop.machine)
        words = ("python-slim", settings.registry, self._plan.python, self._shop.machine)
        return hashlib.sha256(repr(words).encode()).hexdigest()

    async def _interpreter(self, number: int, step: Step) -> Interpreter | None:
        return await self._shop.pythons.find(
            self._plan, self._layers, self._about, is_host=self._is_host, tell=partial(self._tell, number, step)
        )

    def _take_environment(self) -> bool:
        if self._plan.force_build:
            return False
        found = self._shop.environment(self._environment_id)
        if found:
            self._lease.add(self._shop.images / self._environment_id / found.folder)
            again = self._shop.environment(self._environment_id)  # it may have been removed before the lease had it
            self._environment = again if again == found else None
        return self._environment is not None

    async def _begin(self, interpreter: Interpreter) -> None:
        parent = self._shop.images / self._environment_id
        parent.mkdir(parents=True, exist_ok=True)
        root = environment.new_root(parent)
        guard = self._stack.enter_context(disk.guarded(root))
        draft = Draft((self._shop.uv, self._shop.bench), root, guard, interpreter, self._shop.sources)
        self._stack.push_async_callback(self._drop, draft, parent)
        draft.begin()
        self._draft = draft

    async def _install(self, number: int, step: Step) -> None:
        assert self._draft is not None
        what, tell = self._what(number, step), partial(self._tell, number, step)
        await self._draft.install(number, what, step, self._layers, tell)

    async def _try_waiting(self, number: int, step: Step) -> None:
        """Is there a Python now? What waits for it has an id of its own: the base did not bring it."""
        interpreter = await self._interpreter(number, step)
        if interpreter is None:
            return
        seed = f"{self._plan.environment_id}+{step.digest}".encode()
        self._environment_id = ids.make(ids.IMAGE, hashlib.sha256(seed).digest())
        waiting, self._waiting = self._waiting, []
        if self._take_environment():
            return
        await self._begin(interpreter)
        for at, one in waiting:
            if one.layer is not None:
                self._tell(at, one, "")
                await self._install(at, one)
        if number > self._plan.environment_steps:
            await self._commit()

    async def _commit(self) -> None:
        """The environment is whole."""
        assert self._draft is not None
        parent = self._draft.root.parent
        self._environment = await self._draft.finish()
        self._lease.add(self._draft.root)
        disk.commit(parent / disk.ENVIRONMENT_FILE, self._environment)
        self._draft = None

    async def _drop(self, draft: Draft, parent: Path) -> None:
        committed = disk.read(parent / disk.ENVIRONMENT_FILE, EnvironmentFile)
        if not committed or committed.folder != draft.root.name:
            await asyncio.shield(asyncio.ensure_future(draft.remove()))


def last_work(plan: ImagePlan) -> int:
    """The number of the last step that does something."""
    return max(number for number, step in enumerate(plan.steps, 1) if step.work is not Work.SETTING)
