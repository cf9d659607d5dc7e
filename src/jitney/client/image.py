"""Images: what is installed where a function runs.

    image = (
        jitney.Image.debian_slim()
        .apt_install("ffmpeg")
        .uv_pip_install("numpy", "scikit-learn")
        .env({"OMP_NUM_THREADS": "1"})
        .add_local_python_source("helpers")
    )

An image is a value: each method gives a new one, and nothing is built before a function needs it. Local files are not
part of what is built, unless that is asked for (`copy=True`): they are attached when containers start, so that a
changed file costs no build.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from jitney.client import image_builds
from jitney.client import session as sessions
from jitney.client.dual import dual
from jitney.client.image_bases import Bases
from jitney.client.image_files import LocalFiles
from jitney.client.image_packages import Packages
from jitney.client.image_value import is_in_container, texts
from jitney.core import dockerfile, imageplan
from jitney.core.imagechecks import full_name
from jitney.errors import InvalidError
from jitney.values.images import BuiltImage, Env, PlannedImage, Workdir
from jitney.wire.messages.images import ImagePlanRequest, ImageTag
from jitney.wire.methods import IMAGE_PLAN, IMAGE_TAG

if TYPE_CHECKING:
    from jitney.client.app import App

P = ParamSpec("P")


class Image(Bases, Packages, LocalFiles):
    """A root file system, a Python environment, and local files to have beside it.

    Begin with `Image.debian_slim()`. With Python packages alone an image needs no root file system of its own, and
    starts at once; steps that need one (`apt_install`, `run_commands`, ...) are made where the machine can make them.
    """

    # ------------------------------------------------------------------------------------------------- settings

    def env(self, vars: Mapping[str, str]) -> Image:
        """Set environment variables, in containers and in later steps."""
        return self._with(Env(variables=texts(vars, "env")))

    def workdir(self, path: str | Path) -> Image:
        """The folder that code starts in, and later steps: below the one before when relative."""
        return self._with(Workdir(path=str(path)))

    # ------------------------------------------------------------------------------------------------- using it

    def imports(self) -> Imports:
        """`with image.imports():` imports that may fail here, where the packages are not installed.

        In a container that has this image a failing import is an error as usual.
        """
        return Imports(self)

    def pipe(self, func: Callable[Concatenate[Image, P], Image], /, *args: P.args, **kwargs: P.kwargs) -> Image:
        """`func(image, ...)`, to read from left to right."""
        return func(self, *args, **kwargs)

    @dual
    async def hydrate(self) -> Image:
        """Build it now, if it is not built, and have its id.

        Raises:
            ImageBuildError: a step failed.
            UnsupportedError: the machine cannot make it.
        """
        self._built = await image_builds.build(sessions.current(), self)
        return self

    @dual
    async def build(self, app: App | None = None) -> Image:
        """The same as `hydrate`.

        Args:
            app: accepted, and not used: images belong to no app.

        Raises:
            ImageBuildError: a step failed.
            UnsupportedError: the machine cannot make it.
        """
        self._built = await image_builds.build(sessions.current(), self)
        return self

    @dual
    async def publish(self, name: str) -> str:
        """Build it, and give it a name for `Image.from_name`, which any image may have had before.

        Args:
            name: "trainer:v2"; without a tag it is "trainer:latest".

        Returns:
            The name with its tag.

        Raises:
            ImageBuildError: a step failed.
            InvalidError: not a name.
        """
        full, session = full_name(name), sessions.current()
        self._built = await image_builds.build(session, self)
        return (await session.request(IMAGE_TAG, ImageTag(image=self._built.image_id, name=full))).name

    @dual
    async def plan(self) -> PlannedImage:
        """What a build would do, step by step, and which of it is done already. Nothing is built.

        Local files that belong to the image are shipped, as they are part of what identifies it.

        Raises:
            InvalidError: something in it cannot be right.
            UnsupportedError: the machine cannot make it.
        """
        session = sessions.current()
        spec = await image_builds.complete_spec(session.request, self)
        return await session.request(IMAGE_PLAN, ImagePlanRequest(spec=spec))

    def dockerfile(self) -> str:
        """The image as a Dockerfile, to read or to build elsewhere. What is private is not in it."""
        return dockerfile.render(image_builds.local_spec(self))

    @property
    def object_id(self) -> str:
        """Its id, once it is built.

        Raises:
            InvalidError: it was not built yet.
        """
        if self._built is None:
            raise InvalidError("the image was not built yet", hint="image.hydrate() builds it")
        return self._built.image_id

    _built: BuiltImage | None = None

    @cached_property
    def _digest(self) -> str:
        return imageplan.spec_digest(self._spec)

    def __repr__(self) -> str:
        spec = self._spec
        python = f", Python {spec.python_version}" if spec.python_version else ""
        steps = "".join(f", {imageplan.title(layer)}" for layer in spec.layers)
        return f"Image({imageplan.base_title(spec.base)}{python}{steps})"


class Imports:
    """What `Image.imports` gives."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallows an ImportError where this image is not."""
        if not isinstance(error, ImportError):
            return False
        if not is_in_container():
            return True
        # A module may define functions of several images: only the packages of the one that is here can be missed.
        here = os.environ.get(imageplan.SPEC_VARIABLE, "")
        return bool(here) and self._image._is_whole and self._image._digest != here
