"""A builder in memory that does what its script says: for tests of everything that waits for images."""

from __future__ import annotations

import asyncio

import msgspec

from jitney.core import imageplan
from jitney.core.imageplan import Host, ImagePlan
from jitney.drivers.builder import Emit, Flights, careful
from jitney.errors import ImageBuildError
from jitney.ports.builder import LAST_LINES, OnProgress
from jitney.values import ids
from jitney.values.images import BuiltImage, ImageSpec

HOST = Host(python_version="3.11.7", platform="fake", sdk_needs=("cloudpickle==3.1.2",))


class FakeBuilder:
    """Builds by writing a name down.

    Args:
        lines: what each installing step prints.
        fail_at: number of the step (from 1) that fails, or None.
        gate: where given, each installing step waits for it; set it to let builds go on.
        python_path: the interpreter that images have.
    """

    def __init__(
        self,
        *,
        host: Host = HOST,
        lines: tuple[str, ...] = ("resolved", "installed"),
        fail_at: int | None = None,
        gate: asyncio.Event | None = None,
        python_path: str = "/fake/python",
    ) -> None:
        self.host = host
        self.lines = lines
        self.fail_at = fail_at
        self.gate = gate
        self.python_path = python_path
        self.builds: list[str] = []  # image ids, one for each build that began
        self.ended: list[str] = []  # ... and for each that ended, however
        self._images: dict[str, BuiltImage] = {}
        self._flights = Flights()

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """See the port."""
        return imageplan.plan(spec, self.host)

    def find(self, image_id: str) -> BuiltImage | None:
        """See the port."""
        found = self._images.get(ids.check(image_id, ids.IMAGE))
        return msgspec.structs.replace(found, cached=True, took_ms=0) if found else None

    def lose(self, image_id: str) -> None:
        """The image vanishes from the disk."""
        self._images.pop(image_id, None)

    async def build(self, spec: ImageSpec, on_progress: OnProgress) -> BuiltImage:
        """See the port."""
        plan = self.plan(spec)
        found = None if plan.force_build else self.find(plan.image_id)
        if found:
            return found
        listener = careful(on_progress, len(plan.steps))
        await self._flights.join(plan.image_id, lambda emit: self._build(plan, emit), listener)
        return self._images[plan.image_id]

    async def reap(self) -> int:
        """See the port: nothing is ever half-made here."""
        return 0

    async def close(self) -> None:
        """See the port."""
        await self._flights.close()

    async def _build(self, plan: ImagePlan, emit: Emit) -> None:
        self.builds.append(plan.image_id)
        try:
            for number, step in enumerate(plan.steps, 1):
                emit(number, step.title, "")
                if step.install is None:
                    continue
                if self.gate:
                    await self.gate.wait()
                for line in self.lines:
                    emit(number, step.title, line)
                if number == self.fail_at:
                    tail = "\n".join(self.lines[-LAST_LINES:])
                    raise ImageBuildError(f"step {number} of {len(plan.steps)} ({step.title}) failed:\n{tail}")
        finally:
            self.ended.append(plan.image_id)
        self._images[plan.image_id] = BuiltImage(
            image_id=plan.image_id,
            python_path=self.python_path,
            python_version=self.host.python_version,
            cloudpickle_version="3.1.2",
            env={**plan.env, imageplan.SPEC_VARIABLE: plan.spec_digest},
            workdir=plan.workdir,
        )
