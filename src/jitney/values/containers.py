"""Containers, nodes and what is known of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from jitney.values.buckets import AttachedBucket, BucketMount
from jitney.values.functions import Resources
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.values.volumes import Mounted, VolumeMount


class Phase(StrEnum):
    """Where a container is in its life; the table of moves is core.lifecycle.container."""

    STARTING = "starting"  # asked of the worker
    BOOTING = "booting"  # the process lives; user start-up code runs
    READY = "ready"  # takes inputs
    DRAINING = "draining"  # takes no more, finishes what it has
    STOPPED = "stopped"
    FAILED = "failed"


class VolumePlace(msgspec.Struct, frozen=True, order=True):
    """A volume, and its path in containers."""

    volume_id: str
    path: str


class TemplateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a warm process has loaded. Equal specs share one process."""

    image_id: str
    source_id: str = ""
    module: str = ""  # "" = nothing of the user's is imported (pickled functions)
    main_module: bool = False
    snapshot: Snapshot | None = None
    network: NetworkPolicy = NetworkPolicy()  # a template with a wall has one way out for all that it forks
    isolation: Isolation = Isolation.PROCESS  # the lowest tier at which its import may run
    checkpoint: bool = False  # where it cannot be forked, a process that has imported it is written down and restored
    volumes: tuple[VolumePlace, ...] = ()  # those that its containers see, sorted: a wall lets in no others
    buckets: tuple[str, ...] = ()  # where its containers have mounts of buckets, sorted


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An instance of a class whose @enter(snap=True) methods have run: it is in the template's memory.

    Containers of the same class with other parameters have a template of their own.
    """

    qualname: str = ""
    pickled: bytes = b""  # the class by cloudpickle, where it has no module
    parameters: bytes = b""  # pickled constructor arguments
    env: tuple[tuple[str, str], ...] = ()  # what its containers have, sorted by name
    timeout_ms: int = 300_000
    memory_limit_mib: int | None = None  # of the class: what its methods take here must fit it too
    volumes: tuple[VolumeMount, ...] = ()  # as declared: these methods may read them, where the runtime can do it


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A container to start. `config` goes to the runner as it is (runner.config).

    `secrets` are variables that only the container may have: no template, no log, no file. A repr does not show them.
    """

    container_id: str
    function_id: str
    app_id: str
    token: str
    template: TemplateSpec
    config: dict[str, object]
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    resources: Resources = Resources()
    startup_timeout_ms: int = 300_000
    network: NetworkPolicy = NetworkPolicy()
    isolation: Isolation = Isolation.PROCESS  # the lowest tier allowed: a runtime below it refuses to start
    is_held: bool = False  # it is there for a person, and of no use without the server's link to that person

    def __repr__(self) -> str:
        return f"Launch({self.container_id}, function={self.function_id}, app={self.app_id})"

    volumes: tuple[VolumeMount, ...] = ()  # as declared
    mounts: tuple[Mounted, ...] = ()  # the same, once the worker has laid them out
    buckets: tuple[BucketMount, ...] = ()
    bucket_secrets: tuple[dict[str, str], ...] = ()  # of each of them; the container gets none of it
    attached: tuple[AttachedBucket, ...] = ()  # the same buckets, once the worker has mounted them


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a container has used since its start; 0 where the machine does not tell.

    `memory_byte_s` is resident memory times time, for billing; the peak counts what was charged to the container.
    """

    cpu_ns: int = 0
    cpu_throttled_ns: int = 0
    memory_kib: int = 0  # now
    memory_peak_kib: int = 0
    memory_byte_s: int = 0
    processes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    disk_kib: int = 0  # its own file system


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a container may use, as it is enforced; None where nothing bounds it."""

    cpu_milli: int | None = None
    memory_kib: int | None = None
    processes: int | None = None
    disk_kib: int | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a living container had used at a time (Unix ms)."""

    container_id: str
    at_ms: int
    usage: Usage
    limits: Limits = Limits()


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended, with what it used."""

    exit_code: int | None = None  # None when a signal ended it
    signal: int | None = None
    oom_killed: bool = False
    cpu_ms: int = 0
    max_rss_kib: int = 0
    over_quota: str = ""  # "disk": it was ended for using more than it may
    limit_kib: int = 0  # of what it ran out of (memory or disk), where there was one
    usage: Usage | None = None

    def describe(self) -> str:
        """'exit code 3', 'signal 11 (SIGSEGV)', ...: for a sentence."""
        limit = f", over its limit of {self.limit_kib // 1024:,} MiB" if self.limit_kib else ""
        if self.oom_killed:
            return f"out of memory at {self.max_rss_kib // 1024:,} MiB{limit}"
        if self.over_quota:
            used_kib = self.usage.disk_kib if self.usage is not None else 0
            return f"out of {self.over_quota} space{f' at {used_kib // 1024:,} MiB' if used_kib else ''}{limit}"
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
    phases_ms: dict[str, float] = {}  # of its start, see core.phases
    start_note: str = ""  # why it was not forked from all that it could have been


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that runs containers, as its worker reports it."""

    node_id: str
    hostname: str = ""
    cpu_milli: int = 0
    memory_mib: int = 0
    disk_mib: int = 0  # of the file system that containers write to; 0: not known
    runtime: str = ""
    python_version: str = ""


CONTINUATION = "\N{RIGHTWARDS ARROW WITH HOOK} "  # in front of each further piece of a line that was too long


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
