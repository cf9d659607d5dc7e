"""What a run tells the person who waits for it: a Protocol of events, and the implementations of the library.

The SDK reports to `current()`. As a library it is quiet: only what containers print, and warnings, are shown. The
command line puts its live display in place with `use(...)`. Every method may be called from the portal's thread, must
return soon and must not raise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jitney.values.apps import RunSummary
    from jitney.values.containers import LogLine


class Progress(Protocol):
    """Events of runs, in the order in which they happen."""

    def app_created(self, app_id: str, name: str) -> None:
        """The app exists; nothing runs yet. `name` may be empty."""

    def image_step(self, image_id: str, step: int, steps: int, title: str) -> None:
        """Step `step` of `steps` (from 1) of an image began."""

    def image_line(self, image_id: str, line: str) -> None:
        """The step printed a line."""

    def image_built(self, image_id: str, cached: bool, took_ms: int) -> None:
        """The image is there; `cached` when nothing had to be done."""

    def source_shipped(self, files: int, bytes_sent: int) -> None:
        """The user's files are at the server; `bytes_sent` were not there yet."""

    def published(self, app_id: str, functions: dict[str, str]) -> None:
        """Functions (name -> id) can be called from now on."""

    def log(self, line: LogLine) -> None:
        """A container printed a line."""

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None) -> None:
        """A map has `done` results, `failed` of them failures, of `sent` inputs; `total` once it is known."""

    def transfer(self, name: str, done: int, total: int) -> None:
        """Files on their way to or from a volume: `done` of `total` bytes. Over when they are equal."""

    def note(self, text: str) -> None:
        """Something that the person should know, and that does not stop the run."""

    def summary(self, app_id: str, summary: RunSummary) -> None:
        """The run is over."""


class Quiet:
    """The library's default: container output and warnings, nothing else."""

    def app_created(self, app_id: str, name: str) -> None:
        """Not shown."""

    def image_step(self, image_id: str, step: int, steps: int, title: str) -> None:
        """Not shown."""

    def image_line(self, image_id: str, line: str) -> None:
        """Not shown."""

    def image_built(self, image_id: str, cached: bool, took_ms: int) -> None:
        """Not shown."""

    def source_shipped(self, files: int, bytes_sent: int) -> None:
        """Not shown."""

    def published(self, app_id: str, functions: dict[str, str]) -> None:
        """Not shown."""

    def log(self, line: LogLine) -> None:
        """To the stream that the container wrote it to."""
        stream = sys.stdout if line.fd == 1 else sys.stderr
        stream.write(line.text + "\n")
        stream.flush()

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None) -> None:
        """Not shown."""

    def transfer(self, name: str, done: int, total: int) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """To standard error."""
        sys.stderr.write(f"jitney: {text}\n")
        sys.stderr.flush()

    def summary(self, app_id: str, summary: RunSummary) -> None:
        """Not shown."""


class Lines(Quiet):
    """Progress as plain lines on standard error: for scripts that want to see what happens (`enable_output`)."""

    def app_created(self, app_id: str, name: str) -> None:
        """One line."""
        self.note(f"app {name or app_id} created")

    def image_step(self, image_id: str, step: int, steps: int, title: str) -> None:
        """One line a step."""
        self.note(f"image {image_id}: step {step} of {steps}: {title}")

    def image_line(self, image_id: str, line: str) -> None:
        """The line."""
        self.note(f"  {line}")

    def image_built(self, image_id: str, cached: bool, took_ms: int) -> None:
        """One line, unless it was there already."""
        if not cached:
            self.note(f"image {image_id} built in {took_ms / 1000:.1f} s")

    def summary(self, app_id: str, summary: RunSummary) -> None:
        """One line."""
        self.note(
            f"app {app_id} ended: {summary.inputs:,} inputs, {summary.failed:,} failed, "
            f"{summary.containers:,} containers, {summary.wall_ms / 1000:.1f} s"
        )


_current: Progress = Quiet()


def current() -> Progress:
    """Where events go now."""
    return _current


@contextmanager
def use(progress: Progress) -> Iterator[Progress]:
    """Send events to `progress` inside the block. For the whole process: tasks of the portal report there too."""
    global _current
    before, _current = _current, progress
    try:
        yield progress
    finally:
        _current = before


@contextmanager
def enable_output() -> Iterator[None]:
    """Show what a run does, as plain lines on standard error, inside the block.

    >>> with enable_output():
    ...     pass  # with app.run(): ...
    """
    with use(Lines()):
        yield
