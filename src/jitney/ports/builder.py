"""What makes images on one machine.

The contract, for every driver:

 1. `plan` says what a build would do, and what the image will be called, without doing anything. It raises
    `UnsupportedError` for what this driver cannot make and `InvalidError` for what nobody can; `build` raises the
    same before it starts anything. Equal specs have equal ids. A Python that the machine lacks is found by `build`:
    `UnsupportedError` lists those that are there.
 2. `build` gives an image that is ready to start templates with. One that is built already is given at once, with
    `cached=True`, and without progress.
 3. An image is there as a whole or not at all: `find` never gives one whose build has not ended well, also after a
    kill or a power cut in mid-build.
 4. `find` gives None for an image that is not there (any more), and for one whose interpreter is gone. It blocks for
    no more than a look at the disk. A text that is not an image id raises `InvalidError`.
 5. Builds of one image at the same time are one build; each caller hears its progress, a late one from the step that
    runs. Two processes that build the same image do so apart and both end well.
 6. `on_progress(step, steps, title, line)` is called on the event loop: when a step begins, with an empty line, and
    for each line that it prints. Steps count from 1. A callback that raises is not called again; the build goes on.
 7. A build that nobody waits for any more (each caller was cancelled) ends at once, with every process that it
    started. So does one that takes longer than the driver's limit: `ImageBuildError` names the step.
 8. A failing step raises `ImageBuildError`, whose message has the step and its last lines. A full disk is
    `StorageFullError`. Neither is remembered: the next call builds again.
 9. `force_build` builds though there is an image. Containers of the old one go on; who asks afterwards gets the new.
10. What an earlier run left half-made is removed by `reap`: call it once, before anything else. It leaves alone what
    another living process makes or uses.
11. `close` ends builds that run. Nothing may be asked of the builder afterwards.
12. `cached` says for each step of a plan whether a build would find its result: for a setting, always. It does nothing.
    With `force_build` nothing is found, but settings.
13. A name is "name:tag" (without a tag: "name:latest") and stands for one image. `tag` gives a name to an image that is
    there, and takes it from the image that had it. `resolve` gives the id that a name stands for, and an id itself:
    None where the image is not there. An image whose base is `Named` is planned as the one that the name stands for
    with more layers: it has the id that it would have if it had been declared so, and finds the layers built.
14. `images` lists what `find` finds, each once, the one that was used last first.
15. `remove` takes an image and its names away; False: it was not there. One of `in_use` is refused (`InvalidError`),
    and so is one that a process of this machine runs from, where the driver can tell. What other images need stays.
16. `collect` removes images that were not used for `keep_ms` before `now_ms`, have no name, and are not of `in_use`;
    with `dry_run` it removes nothing and gives the same answer. Then it removes results that no image needs any more.
    Those of `in_use` and those that are held count as used at `now_ms`.
17. `hold` gives an image that stays as it is, with all that it consists of, until its hold is released or the process
    has ended: `collect` and `remove` leave it alone, also those of another process where there can be one, and it
    counts as used all the while. What `force_build` puts in its place does not change it. None: it is not there.
18. A step that has volumes sees them as `lender` (ports.lending) gives them when it begins. What it wrote is committed
    when it has ended well, before the image is there, and not where it failed or was ended; of builds that are one, the
    lender of the first is asked. Which volumes, and where, is part of the id; what is in them is not, and is in no
    image. Without a lender such a spec is `UnsupportedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from jitney.core.imageplan import ImagePlan
from jitney.ports.lending import Lender
from jitney.values.images import BuiltImage, Collected, ImageRecord, ImageSpec

OnProgress = Callable[[int, int, str, str], None]

LAST_LINES = 20  # of a failing step that its error shows


class Hold(Protocol):
    """An image that nobody removes meanwhile: sentence 17 of the contract."""

    @property
    def image(self) -> BuiltImage:
        """The image."""
        ...

    def release(self) -> None:
        """It may be removed. Twice is as good as once."""
        ...


class ImageBuilder(Protocol):
    """Makes images; see the contract above."""

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """What a build of `spec` does here.

        Raises:
            InvalidError: it cannot be right.
            NotFoundError: its base is an image that is not there.
            UnsupportedError: this driver cannot make it.
        """
        ...

    def cached(self, plan: ImagePlan) -> tuple[bool, ...]:
        """For each step, whether its result is there."""
        ...

    async def build(self, spec: ImageSpec, on_progress: OnProgress, lender: Lender | None = None) -> BuiltImage:
        """The image of `spec`, built if it is not there.

        Raises:
            ImageBuildError: a step failed or took too long.
            InvalidError: it cannot be right.
            NotFoundError: a volume of a step is not there.
            StorageFullError: the disk is full.
            UnsupportedError: this driver cannot make it.
        """
        ...

    def find(self, image_id: str) -> BuiltImage | None:
        """The image, if it is built.

        Raises:
            InvalidError: not an image id.
        """
        ...

    def hold(self, image_id: str) -> Hold | None:
        """The image, kept for whoever runs something from it.

        Raises:
            InvalidError: not an image id.
        """
        ...

    def resolve(self, name: str) -> str | None:
        """The id of the image with that name, or that id, if it is there.

        Raises:
            InvalidError: neither a name nor an id.
        """
        ...

    def tag(self, image_id: str, name: str) -> str:
        """Give an image a name; the name in its full form, "name:tag".

        Raises:
            InvalidError: not a name.
            NotFoundError: the image is not there.
        """
        ...

    async def images(self) -> list[ImageRecord]:
        """What is there."""
        ...

    async def remove(self, image_id: str, *, in_use: Collection[str] = ()) -> bool:
        """Remove an image.

        Raises:
            InvalidError: it is in use.
        """
        ...

    async def collect(
        self, keep_ms: int, now_ms: int, *, dry_run: bool = False, in_use: Collection[str] = ()
    ) -> Collected:
        """Remove images that nobody used for so long."""
        ...

    async def reap(self) -> int:
        """Remove what earlier runs left half-made; the number of such leftovers."""
        ...

    async def close(self) -> None:
        """End builds that run."""
        ...
