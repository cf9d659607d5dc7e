"""What a live display shows, as a value: events go in, lines come out. No terminal, no clock.

Everything is told its time, so that tests can play a whole run. `progress` puts the lines on the terminal.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field

from jitney.cli.terminal import amount, safe_line, span
from jitney.values.apps import RunSummary

BAR_WIDTH = 24
RATE_WINDOW_S = 5.0
MAPS_SHOWN_MAX = 6
DONE_SHOWN_S = 0.3  # a map that is done stays for a moment, so that the eye sees it full


@dataclass
class Build:
    """An image on its way."""

    step: int
    steps: int
    title: str
    since_s: float
    line: str = ""


@dataclass
class Map:
    """A map on its way, with the points from which its rate is measured."""

    name: str
    since_s: float
    done: int = 0
    failed: int = 0
    sent: int = 0
    total: int | None = None
    points: list[tuple[float, int]] = field(default_factory=list)
    done_at_s: float | None = None

    def update(self, done: int, failed: int, sent: int, total: int | None, now_s: float) -> None:
        """Take the counts that the SDK reports."""
        self.done, self.failed, self.sent, self.total = done, failed, sent, total
        self.points.append((now_s, done))
        while len(self.points) > 2 and self.points[0][0] < now_s - RATE_WINDOW_S:
            self.points.pop(0)
        if total is not None and done >= total and self.done_at_s is None:
            self.done_at_s = now_s

    def rate(self, now_s: float) -> float:
        """Results per second over the last seconds."""
        if not self.points:
            return 0.0
        (at, first), elapsed = self.points[0], 0.0
        if len(self.points) == 1:
            at, first = self.since_s, 0
        elapsed = now_s - at
        return (self.done - first) / elapsed if elapsed > 0 else 0.0

    def eta_s(self, now_s: float) -> float | None:
        """Seconds until it is done at this rate; None when that cannot be said."""
        rate = self.rate(now_s)
        return None if self.total is None or rate <= 0 else (self.total - self.done) / rate


@dataclass
class Containers:
    """The containers of the run: how many are in each phase, and how far the first one to start is."""

    phases: Counter[str] = field(default_factory=Counter)
    progress: str = ""

    @property
    def starting(self) -> int:
        """Those that are not ready yet."""
        return self.phases["starting"] + self.phases["booting"]


class Screen:
    """The state of a run's display."""

    def __init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.maps: dict[str, Map] = {}
        self.transfers: dict[str, Map] = {}  # of bytes
        self.containers = Containers()
        self.waiting_since_s: float | None = None

    def image_step(self, image_id: str, step: int, steps: int, title: str, now_s: float) -> None:
        """A step began."""
        before = self.builds.get(image_id)
        self.builds[image_id] = Build(step, steps, safe_line(title), before.since_s if before else now_s)

    def image_line(self, image_id: str, line: str) -> None:
        """A step printed a line."""
        if image_id in self.builds:
            self.builds[image_id].line = safe_line(line)

    def image_built(self, image_id: str) -> None:
        """An image is there."""
        self.builds.pop(image_id, None)

    def map_progress(self, name: str, done: int, failed: int, sent: int, total: int | None, now_s: float) -> Map:
        """A map went on; a new one where the last of that name had ended."""
        found = self.maps.get(name)
        if found is None or done < found.done:
            found = self.maps[name] = Map(safe_line(name), now_s)
        found.update(done, failed, sent, total, now_s)
        return found

    def transfer(self, name: str, done: int, total: int, now_s: float) -> Map:
        """Files to or from a volume went on."""
        found = self.transfers.get(name)
        if found is None or done < found.done:
            found = self.transfers[name] = Map(safe_line(name), now_s)
        found.update(done, 0, done, total, now_s)
        return found

    def see(self, containers: Containers) -> None:
        """The containers as they are now."""
        self.containers = containers

    def tidy(self, now_s: float) -> None:
        """Drop what has been done for a moment."""
        for shown in (self.maps, self.transfers):
            for name, one in list(shown.items()):
                if one.done_at_s is not None and now_s - one.done_at_s > DONE_SHOWN_S:
                    del shown[name]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.builds or self.maps or self.transfers or self._starting)

    @property
    def _starting(self) -> int:
        return self.containers.starting

    def lines(self, now_s: float, width: int = 0) -> list[str]:
        """What to show now, each line cut to the width."""
        width = width or shutil.get_terminal_size().columns
        shown = []
        for build in self.builds.values():
            shown.append(
                f"building image, step {build.step} of {build.steps}: {build.title} "
                f"({span((now_s - build.since_s) * 1000)})"
            )
            if build.line:
                shown.append(f"  {build.line}")
        active = list(self.maps.values())
        shown += [map_line(one, now_s) for one in active[:MAPS_SHOWN_MAX]]
        if len(active) > MAPS_SHOWN_MAX:
            shown.append(f"and {len(active) - MAPS_SHOWN_MAX} more maps")
        shown += [transfer_line(one, now_s) for one in self.transfers.values()]
        if self.maps or self._starting:
            shown.append(containers_line(self.containers))
        return [line[: width - 1] for line in shown if line]


def map_line(one: Map, now_s: float) -> str:
    """'square ━━━━━╸     3,400/10,000 34% 812/s, 8.1 s left, 2 failed'."""
    rate, eta_s = one.rate(now_s), one.eta_s(now_s)
    if one.total is None:
        counts = f"{one.done:,} done of {one.sent:,} so far"
    else:
        share = one.done / one.total if one.total else 1.0
        full = int(share * BAR_WIDTH)
        counts = f"{'━' * full}{'─' * (BAR_WIDTH - full)} {one.done:,}/{one.total:,} {share:.0%}"
    parts = [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"]
    if eta_s is not None and one.done_at_s is None:
        parts.append(f"{span(eta_s * 1000)} left")
    if one.failed:
        parts.append(f"{one.failed:,} failed")
    return f"{one.name} {counts} {', '.join(parts)}"


def transfer_line(one: Map, now_s: float) -> str:
    """'model.bin ━━━━━━─── 1.2 GiB of 5.0 GiB 24%, 812.0 MiB/s, 4.7 s left'."""
    total, rate, eta_s = one.total or 0, one.rate(now_s), one.eta_s(now_s)
    share = one.done / total if total else 1.0
    full = int(share * BAR_WIDTH)
    bar = f"{'━' * full}{'─' * (BAR_WIDTH - full)}"
    left = f", {span(eta_s * 1000)} left" if eta_s is not None and one.done_at_s is None else ""
    return f"{one.name} {bar} {amount(one.done)} of {amount(total)} {share:.0%}, {amount(round(rate))}/s{left}"


def containers_line(seen: Containers) -> str:
    """'containers: 2 starting, 14 ready'; '' when there are none.

    >>> containers_line(Containers(Counter(starting=1, ready=2), "embed: template 1.2 s"))
    'containers: 1 starting (embed: template 1.2 s), 2 ready'
    """
    parts = []
    if seen.starting:
        parts.append(f"{seen.starting:,} starting" + (f" ({safe_line(seen.progress)})" if seen.progress else ""))
    if seen.phases["ready"]:
        parts.append(f"{seen.phases['ready']:,} ready")
    return f"containers: {', '.join(parts)}" if parts else ""


def summary_line(summary: RunSummary) -> str:
    """The closing line of a run.

    >>> summary_line(RunSummary(inputs=12, failed=1, containers=2, cold_starts=2, wall_ms=1500, busy_ms=900))
    '12 inputs, 1 failed; 2 containers, 2 cold starts; 1.5 s in all, 900 ms busy, 0 ms idle'
    """
    return (
        f"{summary.inputs:,} input{_s(summary.inputs)}, {summary.failed:,} failed; "
        f"{summary.containers:,} container{_s(summary.containers)}, "
        f"{summary.cold_starts:,} cold start{_s(summary.cold_starts)}; "
        f"{span(summary.wall_ms)} in all, {span(summary.busy_ms)} busy, {span(summary.idle_ms)} idle"
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"
