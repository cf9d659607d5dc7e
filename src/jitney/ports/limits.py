"""What bounds and counts the resources of a container: a control group, or what comes nearest to one.

The contract, for every driver:

 1. `make` gives a group with its limits in force before any process is in it, or raises `LimitsFailed` and leaves
    nothing: for a name that is taken, or that is more than letters, digits, `-` and `_`. A limit that the driver cannot
    enforce (see `capabilities`) is ignored; one of None is no limit.
 2. A process enters by writing b"0" to each of `join_fds`, in any order, itself, with all its threads; its children are
    born inside. The descriptors stay open until `close_fds`; they may be passed on, also to a process of another user
    or user namespace: who opened them counts. Where there are none, entering is not needed. Memory that it had before
    is not counted.
 3. `usage` gives what all processes that are or were inside have used, also after `remove`. What is not "now"
    (`memory_kib`, `processes`) and `oom_kills` never goes down. `processes` counts threads, and who has ended and was
    not collected by its parent yet, as the limit does.
 4. Memory over the limit ends a process inside with SIGKILL (all of the group where the kernel can), never one
    outside, and `oom_kills` rises. Swap is not used where the driver can forbid it.
 5. More processes than the limit: fork fails inside with EAGAIN. CPU over the limit: the group is throttled.
 6. `kill` ends every process inside, also those that fork meanwhile or are frozen; it does not wait for their end.
    `freeze` and `thaw` stop and go on; a process that the kernel works for stops as soon as that is done.
 7. `remove` ends what is inside, and the group; it is idempotent and waits for the kernel's last references (for some
    seconds: what cannot be ended, as the kernel waits for a dead disk, is left to `close` and `reap`). It closes the
    descriptors.
 8. `reap` removes groups that an earlier run of the same owner left, with what is inside; call it first. Groups of this
    run and of other owners stay.
 9. `sample(now_ns)` is `usage` that also adds to `memory_byte_s`: memory since the last sample, times the time since.
    Call it when the container starts, about once a second, and before the end of what is inside; the clock is the
    caller's, and monotonic.
10. `raise_memory` puts a higher limit of memory in force, in a group that has one. Where it cannot be set the old one
    stays.
11. `bound_cpu` puts another limit of CPU in force, for who is inside too; None lifts it. In a group that is gone it
    does nothing.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from jitney.values.containers import Usage


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one group; None is no limit. `cpu_weight_milli` is the share that counts when the machine is full."""

    cpu_weight_milli: int = 125
    cpu_milli: int | None = None
    memory_mib: int | None = None
    pids: int | None = None


class LimitCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver enforces here, and what would change it (for `jitney doctor`)."""

    name: str  # "cgroup v2", "cgroup v1", "cgroup v1 and v2", "none"
    cpu: bool
    memory: bool
    pids: bool
    freeze: bool
    accounting: bool = True  # whether `usage` tells anything
    why: str = ""  # what is missing, and why
    remedy: str = ""


class LimitsFailed(Exception):
    """A group cannot be made: the message says why."""


class Group(Protocol):
    """One control group."""

    @property
    def join_fds(self) -> tuple[int, ...]:
        """What a process writes b"0" to."""
        ...

    def close_fds(self) -> None:
        """Nobody enters any more."""
        ...

    def raise_memory(self, memory_mib: int) -> None:
        """Allow more memory."""
        ...

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """Allow this much CPU."""
        ...

    def usage(self) -> Usage:
        """What was used until now."""
        ...

    def sample(self, now_ns: int) -> Usage:
        """The same, with memory counted over time until now."""
        ...

    def oom_kills(self) -> int:
        """How many processes memory has ended."""
        ...

    def kill(self) -> None:
        """End all inside."""
        ...

    def freeze(self) -> None:
        """Stop all inside."""
        ...

    def thaw(self) -> None:
        """Go on."""
        ...

    async def remove(self) -> None:
        """End the group."""
        ...


class Limiter(Protocol):
    """Makes groups; see the contract above."""

    def capabilities(self) -> LimitCapabilities:
        """What holds here."""
        ...

    async def reap(self) -> int:
        """Remove what an earlier run left; how many groups."""
        ...

    def make(self, name: str, bounds: Bounds) -> Group:
        """A group. Does not block for longer than some file operations take.

        Raises:
            LimitsFailed: it cannot be made.
        """
        ...

    async def close(self) -> None:
        """Remove all groups of this owner."""
        ...
