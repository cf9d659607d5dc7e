"""A run on the terminal: three implementations of `client.output.Progress`.

`Live` keeps a few lines at the bottom of the terminal and lets everything else scroll above them. They appear only
once something takes longer than a blink (rich is not even imported before), and go when there is nothing to wait for,
so that an entry point may ask its user questions. `Plain` is for pipes and logs: whole lines, few of them. `Silent`
shows nothing.

Events come from the portal's thread. The display runs on a thread of its own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from jitney.cli.screen import Containers, Screen, map_line, summary_line, transfer_line
from jitney.cli.terminal import safe_line, span

if TYPE_CHECKING:
    from jitney.values.apps import RunSummary
    from jitney.values.containers import LogLine

APPEAR_AFTER_S = 0.25
TICK_S = 0.1
POLL_EVERY_TICKS = 5
PLAIN_EVERY_S = 5.0  # between two lines about one map

Look = Callable[[str], Containers]  # at the containers of an app


class Silent:
    """Only results: what the entry point prints and what the function returned."""

    def __init__(self) -> None:
        self.summary_text = ""
        self.app_id = ""

    def close(self) -> None:
        """Stop displaying."""

    def app_created(self, app_id: str, name: str) -> None:
        """Remembered."""
        self.app_id = app_id

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
        """Not shown."""

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None) -> None:
        """Not shown."""

    def transfer(self, name: str, done: int, total: int) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """Not shown."""

    def summary(self, app_id: str, summary: RunSummary) -> None:
        """Not shown."""


class Plain(Silent):
    """Whole lines: containers' output where they wrote it, everything else on standard error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._screen = Screen()
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()  # of the screen's state; nothing else is taken while it is held
        self._writing = threading.Lock()  # keeps the lines of two threads apart

    def image_step(self, image_id: str, step: int, steps: int, title: str) -> None:
        """One line a step."""
        self._note(f"building image, step {step} of {steps}: {title}")

    def image_line(self, image_id: str, line: str) -> None:
        """The line."""
        self._note(f"  {line}")

    def image_built(self, image_id: str, cached: bool, took_ms: int) -> None:
        """One line, unless the image was there already."""
        if not cached:
            self._note(f"image built in {span(took_ms)}")

    def log(self, line: LogLine) -> None:
        """To the stream that the container wrote to; Jitney's own notes to standard error."""
        prefix = "[jitney] " if line.fd == 0 else ""
        self._write(sys.stdout if line.fd == 1 else sys.stderr, prefix + safe_line(line.text))

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None) -> None:
        """A line now and then, and one at the end of a map that was long enough for the first."""
        now_s = self._clock()
        one = self._screen.map_progress(name, done, failed, sent, total, now_s)
        last = self._said.get(name, one.since_s)
        is_over = one.done_at_s is not None
        if now_s - last >= PLAIN_EVERY_S or (is_over and name in self._said):
            self._said[name] = now_s
            self._note(map_line(one, now_s))
        if is_over:
            self._said.pop(name, None)
            self._screen.maps.pop(name, None)

    def transfer(self, name: str, done: int, total: int) -> None:
        """A line now and then."""
        now_s = self._clock()
        one = self._screen.transfer(name, done, total, now_s)
        if now_s - self._said.get(name, one.since_s) >= PLAIN_EVERY_S:
            self._said[name] = now_s
            self._note(transfer_line(one, now_s))
        if one.done_at_s is not None:
            self._said.pop(name, None)
            self._screen.transfers.pop(name, None)

    def note(self, text: str) -> None:
        """One line."""
        self._note(f"jitney: {text}")

    def summary(self, app_id: str, summary: RunSummary) -> None:
        """The closing line, when there was anything to do."""
        if summary.inputs:
            self._note(summary_line(summary))

    def _note(self, text: str) -> None:
        self._write(sys.stderr, safe_line(text))

    def _write(self, stream: TextIO, text: str) -> None:
        with self._writing:
            try:
                stream.write(text + "\n")
                stream.flush()
            except (OSError, ValueError):
                pass  # the reader has gone; what is run goes on


class Live(Plain):
    """A few live lines at the bottom of the terminal; see the module."""

    def __init__(self, phases: Look | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._look = phases
        self._live: Any = None
        self._ticker: threading.Thread | None = None
        self._end = threading.Event()
        self._is_published = False

    def close(self) -> None:
        """Take the live lines away; the terminal is as it was."""
        self._end.set()
        if self._ticker is not None and self._ticker is not threading.current_thread():
            self._ticker.join(2.0)
        self._hide()

    def image_step(self, image_id: str, step: int, steps: int, title: str) -> None:
        """Shown while it lasts."""
        with self._lock:
            self._screen.image_step(image_id, step, steps, title, self._clock())
        self._wake()

    def image_line(self, image_id: str, line: str) -> None:
        """Shown until the next."""
        with self._lock:
            self._screen.image_line(image_id, line)

    def image_built(self, image_id: str, cached: bool, took_ms: int) -> None:
        """One line that stays, unless the image was there already."""
        with self._lock:
            self._screen.image_built(image_id)
        super().image_built(image_id, cached, took_ms)

    def published(self, app_id: str, functions: dict[str, str]) -> None:
        """From here on containers are counted."""
        self.app_id = app_id
        self._is_published = True
        self._wake()

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None) -> None:
        """The bar of the map."""
        with self._lock:
            self._screen.map_progress(name, done, failed, sent, total, self._clock())
        self._wake()

    def transfer(self, name: str, done: int, total: int) -> None:
        """The bar of the transfer."""
        with self._lock:
            self._screen.transfer(name, done, total, self._clock())
        self._wake()

    def _wake(self) -> None:
        if self._ticker is None and not self._end.is_set():
            self._ticker = threading.Thread(target=self._tick, name="jitney-display", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        ticks, busy_since_s = 0, None
        while not self._end.wait(TICK_S):
            now_s = self._clock()
            if self._is_published and ticks % POLL_EVERY_TICKS == 0:
                self._count_containers()
            ticks += 1
            with self._lock:
                self._screen.tidy(now_s)
                is_empty = self._screen.is_empty
            if is_empty:
                busy_since_s = None
                self._hide()
                continue
            busy_since_s = now_s if busy_since_s is None else busy_since_s
            if self._live is None and now_s - busy_since_s >= APPEAR_AFTER_S:
                self._show()

    def _count_containers(self) -> None:
        if self._look is None:
            return
        try:
            found = self._look(self.app_id)
        except Exception:
            found = Containers()  # the display is no reason to fail a run
        with self._lock:
            self._screen.see(found)

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        live = RichLive(
            console=console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        live.start()
        with self._lock:
            self._live = live

    def _hide(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _render(self) -> Any:
        from rich.text import Text

        with self._lock:
            lines = self._screen.lines(self._clock())
        return Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")

    def _write(self, stream: TextIO, text: str) -> None:
        with self._lock:
            live = self._live
        if live is None or (stream is sys.stdout and not stream.isatty()):
            super()._write(stream, text)
            return
        from rich.text import Text

        # Above the live lines, whole: a half line of the entry point that waits for its end stays apart.
        live.console.print(Text.from_ansi(text))


def choose(*, quiet: bool, phases: Look | None = None) -> Silent:
    """The display for this terminal."""
    import os

    if quiet:
        return Silent()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Live(phases)
    return Plain()
