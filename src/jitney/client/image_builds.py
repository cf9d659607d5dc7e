"""Having an image built: what its declaration still needs is made, shipped, and handed to the server with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from jitney.client import output
from jitney.client.image_value import BASE, ImageValue
from jitney.client.source import Request, ship
from jitney.client.volume_mounts import mounts_of
from jitney.values.images import BuiltImage, ImageSpec, RunFunction
from jitney.wire.messages.images import ImageBuild
from jitney.wire.methods import IMAGE_BUILD

if TYPE_CHECKING:
    from jitney.client.session import Session

# Either builds everything anew; Modal has both names.
FORCE_VARIABLES = ("JITNEY_FORCE_BUILD", "JITNEY_IGNORE_CACHE")
FALSE = ("", "0", "false", "no", "off")


async def complete_spec(request: Request, image: ImageValue) -> ImageSpec:
    """The declaration without stand-ins: local files are at the server, functions are pickled, volumes are there (made
    where that was asked for). On the portal.

    Raises:
        InvalidError: a file is not there, or changed meanwhile.
        NotFoundError: a volume of a step is not there.
        SerializationError: a function cannot be pickled.
    """
    import asyncio  # here: it takes longer to import than all of the SDK, and containers declare images too

    spec = image.spec
    for place, prepare in image._preparations.items():
        part: Any = spec.base if place == BASE else spec.layers[place]
        prepared = await asyncio.to_thread(prepare, part)
        part = prepared.part
        if prepared.manifest is not None:
            field = "context_id" if place == BASE else "source_id"
            source_id = await ship(request, prepared.manifest)
            part = msgspec.structs.replace(part, **{field: source_id})
        if prepared.volumes:
            part = msgspec.structs.replace(part, volumes=await mounts_of(prepared.volumes))
        spec = _replaced(spec, place, part)
    if is_forced():
        spec = msgspec.structs.replace(spec, force_build=True)
    return spec


def is_forced() -> bool:
    """Whether the environment says that everything is to be built anew."""
    return any(os.environ.get(name, "").lower() not in FALSE for name in FORCE_VARIABLES)


def local_spec(image: ImageValue) -> ImageSpec:
    """The declaration with its stand-ins, but functions pickled: to be shown, without a server."""
    spec = image.spec
    for place, prepare in image._preparations.items():
        if place != BASE and isinstance(spec.layers[place], RunFunction):
            spec = _replaced(spec, place, prepare(spec.layers[place]).part)
    return spec


def _replaced(spec: ImageSpec, place: int, part: Any) -> ImageSpec:
    if place == BASE:
        return msgspec.structs.replace(spec, base=part)
    layers = [*spec.layers]
    layers[place] = part
    return msgspec.structs.replace(spec, layers=tuple(layers))


async def build(session: Session, image: ImageValue) -> BuiltImage:
    """The image, built if it is not there; progress is shown. On the portal.

    Raises:
        ImageBuildError: a step failed.
        UnsupportedError: the machine cannot make it.
    """
    spec = await complete_spec(session.request, image)
    stream = await session.stream(IMAGE_BUILD, ImageBuild(spec=spec))
    progress, step, image_id = output.current(), 0, ""
    async for event in stream:
        image_id = event.image_id
        if event.step != step:
            step = event.step
            progress.image_step(event.image_id, event.step, event.steps, event.title)
        if event.line:
            progress.image_line(event.image_id, event.line)
    assert stream.answer is not None
    built = stream.answer.image
    progress.image_built(image_id or built.image_id, built.cached, built.took_ms)
    return built
