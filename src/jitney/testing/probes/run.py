"""Runs probes, each in a fork of its own: one that hangs, crashes or gains something does not touch the next."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from jitney.testing.probes.probe import SKIPPED, Outcome, Probe, Verdict, all_probes, denied, limited, skipped
from jitney.testing.probes.targets import Targets

PROBE_SECONDS_MAX = 30.0


class Found(NamedTuple):
    """What one probe found."""

    name: str
    verdict: str
    detail: str


def run(tier: str, targets: Targets, only: Iterable[str] = ()) -> list[Found]:
    """All probes (or those whose name begins so) in a container that is said to be of this tier."""
    prefixes = tuple(only)
    chosen = [one for one in all_probes() if not prefixes or one.name.startswith(prefixes)]
    return [Found(one.name, *_shown(run_one(one, tier, targets))) for one in chosen]


def _shown(outcome: Outcome) -> tuple[str, str]:
    return outcome.verdict.value, outcome.detail


def run_one(probe: Probe, tier: str, targets: Targets) -> Outcome:
    """What one probe finds, unless there is a reason not to run it."""
    lacking = [name for name in probe.needs if not getattr(targets, name)]
    if lacking:
        return skipped(f"was not told {', '.join(lacking)}")
    if probe.expected[tier] == SKIPPED:
        return skipped("dangerous: this tier has no limit that would stop it")
    if probe.limit and probe.limit not in targets.limits:
        return skipped(f"dangerous: nobody says that {probe.limit} is limited here")
    return _in_fork(probe, targets)


def _in_fork(probe: Probe, targets: Targets) -> Outcome:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, json.dumps(_shown(_tried(probe, targets))).encode())
        finally:
            os._exit(0)
    os.close(write)
    said, is_late = _read_all(read, time.monotonic() + PROBE_SECONDS_MAX)
    os.close(read)
    if is_late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if is_late:
        return skipped(f"no answer within {PROBE_SECONDS_MAX:g} s")
    if not said:
        return _ended(probe, status)
    verdict, detail = json.loads(said)
    return Outcome(Verdict(verdict), detail)


def _tried(probe: Probe, targets: Targets) -> Outcome:
    try:
        return probe.run(targets)
    except Exception as error:
        return skipped(f"{type(error).__name__}: {error}")


def _read_all(fd: int, deadline: float) -> tuple[bytes, bool]:
    said = b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return said, True
        more = os.read(fd, 65_536)
        if not more:
            return said, False
        said += more


def _ended(probe: Probe, status: int) -> Outcome:
    if not os.WIFSIGNALED(status):
        return skipped("ended without a word")
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name
    if number in {signal.SIGSYS, signal.SIGSEGV}:  # by the filter; by the processor, as the kernel has no such gate
        return denied(f"ended by {name}")
    if number == signal.SIGKILL and probe.limit:  # by the kernel, which is short of memory within the limit
        return limited(f"ended by {name}")
    return skipped(f"ended by {name}")


def report(tier: str, found: list[Found]) -> dict[str, Any]:
    """What `table` reads."""
    return {
        "tier": tier,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "results": [one._asdict() for one in found],
    }
