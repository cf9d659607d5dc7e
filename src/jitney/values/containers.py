"""Containers, nodes and what is known of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from jitney.values.functions import Resources


class Phase(StrEnum):
    """Where a container is in its life; the table of moves is core.lifecycle.container."""

    STARTING = "starting"  # asked of the worker
    BOOTING = "booting"  # the process lives; user start-up code runs
    READY = "ready"  # takes inputs
    DRAINING = "draining"  # takes no more, finishes what it has
    STOPPED = "stopped"
    FAILED = "failed"


class TemplateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a warm process has loaded. Equal specs share one process."""

    image_id: str
    source_id: str = ""
    module: str = ""  # "" = nothing of the user's is imported (pickled functions)
    main_module: bool = False


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A container to start. `config` goes to the runner as it is (runner.config)."""

    container_id: str
    function_id: str
    app_id: str
    token: str
    template: TemplateSpec
    config: dict[str, object]
    env: dict[str, str] = {}
    resources: Resources = Resources()
    startup_timeout_ms: int = 300_000


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended, with what it used."""

    exit_code: int | None = None  # None when a signal ended it
    signal: int | None = None
    oom_killed: bool = False
    cpu_ms: int = 0
    max_rss_kib: int = 0

    def describe(self) -> str:
        """'exit code 3', 'signal 11 (SIGSEGV)', ...: for a sentence."""
        if self.oom_killed:
            return f"out of memory at {self.max_rss_kib // 1024:,} MiB"
        if self.signal is not None:
            return f"signal {self.signal}{SIGNAL_NAMES.get(self.signal, '')}"
        return f"exit code {self.exit_code}"


SIGNAL_NAMES = {
    4: " (SIGILL)",
    6: " (SIGABRT)",
    7: " (SIGBUS)",
    8: " (SIGFPE)",
    9: " (SIGKILL)",
    11: " (SIGSEGV)",
    15: " (SIGTERM)",
}


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A container as listed. Times are Unix ms; durations ms."""

    container_id: str
    function_id: str
    function_name: str = ""
    app_id: str = ""
    node_id: str = ""
    phase: Phase = Phase.STARTING
    created_at_ms: int = 0
    ready_at_ms: int | None = None
    ended_at_ms: int | None = None
    inputs_done: int = 0
    busy_ms: int = 0
    pid: int | None = None
    exit: Exit | None = None


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that runs containers, as its worker reports it."""

    node_id: str
    hostname: str = ""
    cpu_milli: int = 0
    memory_mib: int = 0
    runtime: str = ""
    python_version: str = ""


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of a container's output, without its newline; `fd` is 1 or 2 (0: a note of Jitney's own)."""

    at_ms: int
    container_id: str
    fd: int
    text: str


def lines_without(lines: Sequence[LogLine], known: Counter[LogLine]) -> list[LogLine]:
    """The lines that are not among the known ones, each of which is met once: equal lines are no repeats."""
    fresh = []
    for line in lines:
        if known[line] > 0:
            known[line] -= 1
        else:
            fresh.append(line)
    return fresh
