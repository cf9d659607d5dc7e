"""The builder: plan, find, make, list, remove."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from jitney.core import imagechecks, imageplan
from jitney.core.imageplan import Host, ImagePlan, Step, Work
from jitney.drivers.builder import Emit, Flights, careful
from jitney.drivers.builder.local import bases, disk, refusals, steps
from jitney.drivers.builder.local.bench import Bench
from jitney.drivers.builder.local.collecting import Collector, Decision
from jitney.drivers.builder.local.leases import Lease
from jitney.drivers.builder.local.making import Made, Making, Shop, last_work
from jitney.drivers.builder.local.pythons import Pythons
from jitney.drivers.builder.local.roots import Roots
from jitney.drivers.builder.local.shelf import Hold, Shelf
from jitney.drivers.builder.local.steps import StepRunner
from jitney.drivers.builder.local.tools import Settings, Uv, room_of_machine
from jitney.errors import ImageBuildError, InvalidError
from jitney.ports.box import Box, BoxCapabilities
from jitney.ports.builder import OnProgress
from jitney.ports.dockerfiles import DockerfileBuilder
from jitney.ports.lending import Lender
from jitney.ports.pulls import Puller
from jitney.values import ids
from jitney.values.images import BuiltImage, Collected, ImageRecord, ImageSpec, Named

SDK_NEEDS = ("cloudpickle", "msgspec")  # what the SDK imports inside a container
LEFTOVER_AGAIN = 3  # times that an image is made again which was removed in the same moment


class LocalBuilder:
    """Makes images below `images`.

    Args:
        images: folder of images, made if it is not there.
        box: what runs steps.
        settings: how images are made here.
        puller: what fetches images of registries; None = there is none.
        dockerfiles: what builds Dockerfiles that need an engine; None = nothing does.
        sources: folder of the trees of shipped files; None = beside `images`.
        uv: the uv to run; '' = the one of the `uv` package.
        micromamba: likewise; None = look on PATH.
        pip_config: settings in the form of `pip config list`; None = ask pip, once, when something is installed.
        clock_ms: the time.
    """

    def __init__(
        self,
        images: Path,
        box: Box,
        settings: Settings | None = None,
        *,
        puller: Puller | None = None,
        dockerfiles: DockerfileBuilder | None = None,
        sources: Path | None = None,
        uv: str = "",
        micromamba: str | None = None,
        pip_config: Mapping[str, str] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._images = images
        self._box = box
        self._settings = settings or Settings()
        self._puller = puller
        self._dockerfiles = dockerfiles
        self._clock_ms = clock_ms
        self._micromamba = steps.find_micromamba() if micromamba is None else micromamba
        self._flights: Flights[Made] = Flights()
        self._collector = Collector(images, box)
        tools = Uv(images, path=uv, index_url=self._settings.index_url, pip_config=pip_config)
        bench = Bench(images, box, room_of_machine(), self._settings)
        runner = StepRunner(bench, sources or images.parent / "sources", self._micromamba)
        self._shop = Shop(
            images=images,
            sources=sources or images.parent / "sources",
            settings=self._settings,
            uv=tools,
            bench=bench,
            roots=Roots(images, box),
            runner=runner,
            bases=bases.BaseMaker(bench, runner, self._settings, bases.Brings(puller=puller, dockerfiles=dockerfiles)),
            pythons=Pythons(tools, bench, str(images)),
            machine=f"{sys.platform}-{platform.machine()}",
        )
        self._shelf = Shelf(self._shop, self._collector, clock_ms)

    @cached_property
    def host(self) -> Host:
        """This machine, as plans see it. Images are not the same where `debian_slim` is made from something else."""
        words = [self._shop.machine]
        if self._settings.base != bases.HOST:
            words.append(self._settings.base)
        if self._settings.base == bases.DEBOOTSTRAP:
            words.append(self._settings.suite)
        return Host(
            python_version=platform.python_version(),
            platform="-".join(words),
            sdk_needs=tuple(f"{name}=={importlib.metadata.version(name)}" for name in SDK_NEEDS),
        )

    @cached_property
    def _capabilities(self) -> BoxCapabilities:
        return self._box.capabilities()

    # ---------------------------------------------------------------------------------------------- what would be done

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """See the port."""
        parent = None
        if isinstance(spec.base, Named):
            imagechecks.check(spec)
            known = self._shelf.read(self.resolve(spec.base.reference) or "")
            parent = known.spec if known else None
        plan = imageplan.plan(spec, self.host, parent=parent)
        refusals.check(
            plan,
            self._settings,
            self._capabilities,
            has_puller=self._puller is not None,
            dockerfiles=self._dockerfiles,
            micromamba=self._micromamba,
            debootstrap=bases.find_debootstrap(),
        )
        return plan

    def cached(self, plan: ImagePlan) -> tuple[bool, ...]:
        """See the port. An environment is there as a whole or not: it is replayed from its first step."""
        has_environment = self._shop.environment(plan.environment_id) is not None

        def is_there(step: Step) -> bool:
            if step.work is Work.SETTING:
                return True
            if plan.force_build:
                return False
            return has_environment if step.work is Work.ENVIRONMENT else bool(self._shop.roots.find(step.digest))

        return tuple(map(is_there, plan.steps))

    # ---------------------------------------------------------------------------------------------- what is there

    def find(self, image_id: str) -> BuiltImage | None:
        """See the port."""
        return self._shelf.use(ids.check(image_id, ids.IMAGE))

    def hold(self, image_id: str) -> Hold | None:
        """The image, kept as it is for whoever starts containers from it; None if it is not there.

        Raises:
            InvalidError: not an image id.
        """
        return self._shelf.hold(ids.check(image_id, ids.IMAGE))

    def resolve(self, name: str) -> str | None:
        """See the port."""
        return self._shelf.resolve(name)

    def tag(self, image_id: str, name: str) -> str:
        """See the port."""
        return self._shelf.tag(image_id, name)

    async def images(self) -> list[ImageRecord]:
        """See the port."""
        return await asyncio.to_thread(self._shelf.records)

    # ---------------------------------------------------------------------------------------------- making one

    async def build(self, spec: ImageSpec, on_progress: OnProgress, lender: Lender | None = None) -> BuiltImage:
        """See the port."""
        plan = self.plan(spec)
        refusals.check_lender(plan, lender)
        if not plan.force_build and (found := self.find(plan.image_id)):
            return found
        started_ns = time.monotonic_ns()
        emit = careful(on_progress, len(plan.steps))
        with disk.room_errors():
            self._images.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(LEFTOVER_AGAIN):
            made = await self._flights.join(
                f"{plan.environment_id}+{plan.root_id}", lambda tell: self._make(plan, tell, lender), emit
            )
            if self._commit(plan, made):
                break
        for number, step in enumerate(plan.steps, 1):
            if number > last_work(plan):
                emit(number, step.title, "")
        built = self.find(plan.image_id)
        if built is None:
            raise ImageBuildError("the image was removed while it was built", hint="build again")
        took_ms = (time.monotonic_ns() - started_ns) // 1_000_000
        return msgspec.structs.replace(built, cached=False, took_ms=took_ms)

    def _commit(self, plan: ImagePlan, made: Made) -> bool:
        """Say that the image is there; False if a part of it was removed meanwhile."""
        about, env = made.about, {**made.about.env, **plan.env}
        workdir = plan.workdir
        if about.workdir and not workdir.startswith("/"):
            workdir = os.path.normpath(os.path.join(about.workdir, workdir))
        image = disk.ImageFile(
            environment_id=made.environment_id,
            env={**env, imageplan.SPEC_VARIABLE: plan.spec_digest},
            workdir=workdir,
            layers=made.layers,
            entrypoint=about.entrypoint if plan.entrypoint is None else plan.entrypoint,
            cmd=about.cmd if plan.cmd is None else plan.cmd,
            shell=plan.shell or about.shell,
            title=_title(plan),
            built_at_ms=self._clock_ms(),
            spec=plan.spec,
        )
        folder = self._images / plan.image_id
        with disk.room_errors():
            lease = Lease(self._images)
            try:
                lease.add(*self._collector.needs(image))
                if self._shop.environment(made.environment_id) is None or not all(map(os.path.isdir, made.layers)):
                    return False
                folder.mkdir(parents=True, exist_ok=True)
                disk.commit(folder / disk.IMAGE_FILE, image)
            finally:
                lease.release()
        return True

    async def _make(self, plan: ImagePlan, emit: Emit, lender: Lender | None) -> Made:
        current = plan.steps[0]

        def tell(number: int, step: Step, line: str) -> None:
            nonlocal current
            current = step
            emit(number, step.title, line)

        with disk.room_errors():
            lease = Lease(self._images)
            try:
                async with asyncio.timeout(self._settings.timeout_ms / 1000):
                    return await Making(self._shop, plan, lease, self._clock_ms(), tell, lender).run()
            except TimeoutError:
                raise ImageBuildError(
                    f"the build took over {self._settings.timeout_ms / 1000:,.0f} s "
                    f"and was ended in step {current.title!r}",
                    hint="raise the limit, or split the step",
                ) from None
            finally:
                lease.release()

    # ---------------------------------------------------------------------------------------------- removing

    async def remove(self, image_id: str, *, in_use: Collection[str] = ()) -> bool:
        """See the port."""
        ids.check(image_id, ids.IMAGE)
        if image_id in in_use:
            raise _in_use(image_id)
        if self._shelf.read(image_id) is None:
            return False
        await self._collector.remove(await asyncio.to_thread(self._set_aside, (), 0, image_id))
        return True

    async def collect(
        self, keep_ms: int, now_ms: int, *, dry_run: bool = False, in_use: Collection[str] = ()
    ) -> Collected:
        """See the port."""
        if not self._images.is_dir():
            return Collected()
        before_ms = now_ms - keep_ms
        decision = await asyncio.to_thread(self._look, in_use, before_ms)
        freed = await asyncio.to_thread(self._collector.size, decision)
        if not dry_run:
            await asyncio.to_thread(self._mark_used, in_use, now_ms)
            await self._collector.remove(await asyncio.to_thread(self._set_aside, in_use, before_ms, ""))
            if self._puller is not None:
                keep = await asyncio.to_thread(self._base_layers)
                freed += await self._puller.remove_unused(keep)
        return Collected(images=decision.images, freed_bytes=freed)

    def _look(self, in_use: Collection[str], before_ms: int) -> Decision:
        with disk.locked(self._images / disk.COLLECT_LOCK):
            return self._collector.look(in_use, before_ms)

    def _mark_used(self, in_use: Collection[str], now_ms: int) -> None:
        with disk.locked(self._images / disk.COLLECT_LOCK):
            self._collector.mark_used(in_use, now_ms)

    def _set_aside(self, in_use: Collection[str], before_ms: int, only: str) -> list[Path]:
        with disk.locked(self._images / disk.COLLECT_LOCK):
            if only and self._collector.is_held(only):
                raise _in_use(only)
            return self._collector.set_aside(self._collector.look(in_use, before_ms, only=only))

    def _base_layers(self) -> set[str]:
        with disk.locked(self._images / disk.COLLECT_LOCK):
            return self._collector.base_layers()

    async def reap(self) -> int:
        """See the port."""
        others = await self._box.reap()
        if not self._images.is_dir():
            return others
        with disk.locked(self._images / disk.COLLECT_LOCK):
            left, passing = await asyncio.to_thread(self._collector.leftovers)
        await self._collector.remove([*left, *passing])
        if self._puller is not None:
            others += await self._puller.reap()
        return len(left) + others

    async def close(self) -> None:
        """See the port."""
        await self._flights.close()
        if self._puller is not None:
            await self._puller.close()


def _in_use(image_id: str) -> InvalidError:
    return InvalidError(f"image {image_id} is in use", hint="stop what runs from it first")


def _title(plan: ImagePlan) -> str:
    """An image in a few words."""
    titles = [imageplan.base_title(plan.base), *(step.title for step in plan.steps if step.layer is not None)]
    text = ", ".join(titles)
    most = imageplan.TITLE_CHARS_MAX
    return text if len(text) <= most else text[: most - 1] + "…"
