"""A builder in memory that does what its script says: for tests of everything that waits for images."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from jitney.core import imagechecks, imageplan
from jitney.core.imageplan import Host, ImagePlan, Work
from jitney.drivers.builder import Emit, Flights, careful
from jitney.errors import ImageBuildError, InvalidError, NotFoundError, UnsupportedError
from jitney.ports.builder import LAST_LINES, OnProgress
from jitney.ports.lending import Lender
from jitney.values import ids
from jitney.values.images import BuiltImage, Collected, ImageRecord, ImageSpec, Named, volumes_of

SIZE_BYTES = 1_000  # of every image
HOST = Host(python_version="3.11.7", platform="fake", sdk_needs=("cloudpickle==3.1.2",))


class FakeHold:
    """An image that is held; see the port."""

    def __init__(self, builder: FakeBuilder, image: BuiltImage) -> None:
        self.image = image
        self._builder = builder

    def release(self) -> None:
        """See the port."""
        if self in self._builder.holds:
            self._builder.holds.remove(self)
            self._builder.used(self.image.image_id)


class FakeBuilder:
    """Builds by writing a name down.

    Args:
        lines: what each step prints that does something.
        fail_at: number of the step (from 1) that fails, or None.
        gate: where given, each step that does something waits for it; set it to let builds go on.
        python_path: the interpreter that images have.
        at_ms: when everything is built and used; set it to let time pass.
        upper: the folder with what every step has written to each of its volumes.
    """

    def __init__(
        self,
        *,
        host: Host = HOST,
        lines: tuple[str, ...] = ("resolved", "installed"),
        fail_at: int | None = None,
        gate: asyncio.Event | None = None,
        python_path: str = "/fake/python",
        at_ms: int = 0,
        upper: str = "/fake/upper",
    ) -> None:
        self.host = host
        self.lines = lines
        self.fail_at = fail_at
        self.gate = gate
        self.python_path = python_path
        self.at_ms = at_ms
        self.upper = upper
        self.builds: list[str] = []  # image ids, one for each build that began
        self.ended: list[str] = []  # ... and for each that ended, however
        self.holds: list[FakeHold] = []  # that were not released
        self._images: dict[str, BuiltImage] = {}
        self._plans: dict[str, ImagePlan] = {}
        self._used_at_ms: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._done: set[str] = set()  # digests of steps
        self._flights: Flights[None] = Flights()

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """See the port."""
        parent = None
        if isinstance(spec.base, Named):
            imagechecks.check(spec)
            parent = self._plans.get(self.resolve(spec.base.reference) or "")
        return imageplan.plan(spec, self.host, parent=parent.spec if parent else None)

    def cached(self, plan: ImagePlan) -> tuple[bool, ...]:
        """See the port."""
        return tuple(
            step.work is Work.SETTING or (step.digest in self._done and not plan.force_build) for step in plan.steps
        )

    def find(self, image_id: str) -> BuiltImage | None:
        """See the port."""
        found = self._images.get(ids.check(image_id, ids.IMAGE))
        return msgspec.structs.replace(found, cached=True, took_ms=0) if found else None

    def hold(self, image_id: str) -> FakeHold | None:
        """See the port."""
        found = self.find(image_id)
        if found is None:
            return None
        self.used(image_id)
        hold = FakeHold(self, found)
        self.holds.append(hold)
        return hold

    def used(self, image_id: str) -> None:
        """Somebody uses it now."""
        if image_id in self._images:
            self._used_at_ms[image_id] = self.at_ms

    def lose(self, image_id: str) -> None:
        """The image vanishes from the disk."""
        self._images.pop(image_id, None)
        plan = self._plans.pop(image_id, None)
        self._names = {name: which for name, which in self._names.items() if which != image_id}
        kept = {step.digest for other in self._plans.values() for step in other.steps}
        self._done -= {step.digest for step in plan.steps if step.digest not in kept} if plan else set()

    def resolve(self, name: str) -> str | None:
        """See the port."""
        image_id = name if ids.is_id(name, ids.IMAGE) else self._names.get(imagechecks.full_name(name), "")
        return image_id if image_id in self._images else None

    def tag(self, image_id: str, name: str) -> str:
        """See the port."""
        full = imagechecks.full_name(name)
        if image_id not in self._images:
            raise NotFoundError(f"no image {image_id!r}")
        self._names[full] = image_id
        return full

    async def images(self) -> list[ImageRecord]:
        """See the port."""
        return sorted(map(self._record, self._images), key=lambda one: -one.used_at_ms)

    async def remove(self, image_id: str, *, in_use: Collection[str] = ()) -> bool:
        """See the port."""
        if image_id in in_use or image_id in self._held():
            raise InvalidError(f"image {image_id} is in use", hint="stop what runs from it first")
        is_there = image_id in self._images
        self.lose(image_id)
        return is_there

    async def collect(
        self, keep_ms: int, now_ms: int, *, dry_run: bool = False, in_use: Collection[str] = ()
    ) -> Collected:
        """See the port."""
        kept = {*in_use, *self._held()}
        unused = tuple(
            one.image_id
            for one in await self.images()
            if one.used_at_ms < now_ms - keep_ms and not one.names and one.image_id not in kept
        )
        if not dry_run:
            for image_id in unused:
                self.lose(image_id)
            self._used_at_ms.update(dict.fromkeys(kept & self._images.keys(), now_ms))
        return Collected(images=unused, freed_bytes=SIZE_BYTES * len(unused))

    async def build(self, spec: ImageSpec, on_progress: OnProgress, lender: Lender | None = None) -> BuiltImage:
        """See the port."""
        plan = self.plan(spec)
        mounts = [mount for step in plan.steps for mount in volumes_of(step.layer)]
        if mounts and lender is None:
            raise UnsupportedError(f"a step has a volume at {mounts[0].path}, and this builder can mount none")
        found = None if plan.force_build else self.find(plan.image_id)
        if found:
            self.used(plan.image_id)
            return found
        listener = careful(on_progress, len(plan.steps))
        await self._flights.join(plan.image_id, lambda emit: self._build(plan, emit, lender), listener)
        return self._images[plan.image_id]

    async def reap(self) -> int:
        """See the port: nothing is ever half-made here."""
        return 0

    async def close(self) -> None:
        """See the port."""
        await self._flights.close()

    async def _build(self, plan: ImagePlan, emit: Emit, lender: Lender | None) -> None:
        self.builds.append(plan.image_id)
        try:
            for number, step in enumerate(plan.steps, 1):
                emit(number, step.title, "")
                if number == 1 or step.work is Work.SETTING:
                    continue
                mounts = volumes_of(step.layer)
                if mounts and lender is not None:
                    async with lender.lend(mounts) as loan:
                        await self._step(plan, number, emit)
                        uppers = ["" if mount.read_only else self.upper for mount in mounts]
                        await loan.commit(uppers, f"by the build of {plan.image_id}: {step.title}")
                else:
                    await self._step(plan, number, emit)
        finally:
            self.ended.append(plan.image_id)
        self._plans[plan.image_id] = plan
        self._used_at_ms[plan.image_id] = self.at_ms
        self._done |= {step.digest for step in plan.steps}
        self._images[plan.image_id] = BuiltImage(
            image_id=plan.image_id,
            python_path=self.python_path,
            python_version=self.host.python_version,
            cloudpickle_version="3.1.2",
            env={**plan.env, imageplan.SPEC_VARIABLE: plan.spec_digest},
            workdir=plan.workdir,
            entrypoint=plan.entrypoint or (),
            cmd=plan.cmd or (),
            shell=plan.shell,
        )

    async def _step(self, plan: ImagePlan, number: int, emit: Emit) -> None:
        title = plan.steps[number - 1].title
        if self.gate:
            await self.gate.wait()
        for line in self.lines:
            emit(number, title, line)
        if number == self.fail_at:
            tail = "\n".join(self.lines[-LAST_LINES:])
            raise ImageBuildError(f"step {number} of {len(plan.steps)} ({title}) failed:\n{tail}")

    def _held(self) -> set[str]:
        return {hold.image.image_id for hold in self.holds}

    def _record(self, image_id: str) -> ImageRecord:
        plan = self._plans[image_id]
        return ImageRecord(
            image_id=image_id,
            names=tuple(sorted(name for name, which in self._names.items() if which == image_id)),
            title=imageplan.base_title(plan.base),
            python_version=self.host.python_version,
            size_bytes=SIZE_BYTES,
            built_at_ms=self.at_ms,
            used_at_ms=self._used_at_ms[image_id],
        )
