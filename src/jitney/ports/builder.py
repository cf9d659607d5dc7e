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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jitney.core.imageplan import ImagePlan
from jitney.values.images import BuiltImage, ImageSpec

OnProgress = Callable[[int, int, str, str], None]

LAST_LINES = 20  # of a failing step that its error shows


class ImageBuilder(Protocol):
    """Makes images; see the contract above."""

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """What a build of `spec` does here.

        Raises:
            InvalidError: it cannot be right.
            UnsupportedError: this driver cannot make it.
        """
        ...

    async def build(self, spec: ImageSpec, on_progress: OnProgress) -> BuiltImage:
        """The image of `spec`, built if it is not there.

        Raises:
            ImageBuildError: a step failed or took too long.
            InvalidError: it cannot be right.
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

    async def reap(self) -> int:
        """Remove what earlier runs left half-made; the number of such leftovers."""
        ...

    async def close(self) -> None:
        """End builds that run."""
        ...
