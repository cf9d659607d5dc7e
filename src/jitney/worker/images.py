"""What the server may ask about the images of this machine, apart from building one."""

from __future__ import annotations

from jitney.errors import NotFoundError
from jitney.ports.builder import ImageBuilder
from jitney.values.images import ImageSpec, PlannedImage, PlannedStep
from jitney.wire.messages import workers


async def perform(
    builder: ImageBuilder, task: workers.ImageTask, in_use: frozenset[str], now_ms: int
) -> workers.ImagesAnswer:
    """Do it. The answer has no task id.

    Raises:
        InvalidError: what was asked cannot be right, or the image is in use.
        NotFoundError: no such image.
        UnsupportedError: this machine cannot make the image.
    """
    match task:
        case workers.PlanImage(spec=spec):
            return workers.ImagesAnswer(task_id="", plan=_planned(builder, spec))
        case workers.ListImages():
            return workers.ImagesAnswer(task_id="", images=tuple(await builder.images()))
        case workers.TagImage(image=image, name=name):
            image_id = builder.resolve(image)
            if image_id is None:
                raise _not_there(image)
            return workers.ImagesAnswer(task_id="", image_id=image_id, name=builder.tag(image_id, name))
        case workers.RemoveImage(image_id=image_id):
            if not await builder.remove(image_id, in_use=in_use):
                raise _not_there(image_id)
            return workers.ImagesAnswer(task_id="", image_id=image_id)
        case workers.CollectImages(keep_ms=keep_ms, dry_run=dry_run):
            collected = await builder.collect(keep_ms, now_ms, dry_run=dry_run, in_use=in_use)
            return workers.ImagesAnswer(task_id="", collected=collected)


def _planned(builder: ImageBuilder, spec: ImageSpec) -> PlannedImage:
    plan = builder.plan(spec)
    steps = zip(plan.steps, builder.cached(plan), strict=True)
    return PlannedImage(
        image_id=plan.image_id,
        python=plan.python,
        needs_root=plan.needs_root,
        steps=tuple(PlannedStep(title=s.title, digest=s.digest, work=s.work, cached=cached) for s, cached in steps),
    )


def _not_there(image: str) -> NotFoundError:
    return NotFoundError(f"no image {image[:80]!r}", hint="`jitney image list` shows those that are there")
