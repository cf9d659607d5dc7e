"""How many containers a pool should have: a first, simple rule; every answer carries its reason.

Let `demand` be inputs queued and running, `target` the inputs that one container is meant to hold.

1. Enough for all at once: ceil(demand / target).
2. But not more than pay: a container costs a start, and a backlog that the present ones work off in DRAIN_MS is not
   worth new ones. With a measured service time, ceil(demand x service / (target x DRAIN_MS)) containers do that.
3. While nothing is measured yet, grow with what got ready: at most FIRST_CONTAINERS more than twice the ready ones. A
   hundred long inputs get a hundred containers after six doublings of a few milliseconds each; a hundred thousand
   trivial ones are measured before the second.
4. Buffer: as many more, idle, while there is any demand. Floor and ceiling: min_containers, max_containers.
5. Scale in by idleness: a container goes when it has been idle for the scaledown window, and the pool keeps what 1 to
   4 say.
6. Starts that fail wait longer each time (BACKOFF_MS_MAX), and after FAILED_STARTS_MAX in a row the queued inputs
   fail.
"""

from __future__ import annotations

import msgspec

from jitney.values.functions import Scaling

DRAIN_MS = 500
FIRST_CONTAINERS = 4
FAILED_STARTS_MAX = 3
BACKOFF_MS_FIRST = 100
BACKOFF_MS_MAX = 60_000


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision sees of a pool."""

    scaling: Scaling
    target_inputs: int
    queued: int
    running: int  # held by containers that are not draining
    starting: int
    ready: int  # includes the busy ones, not the draining ones
    draining: int = 0
    service_ns: float | None = None
    idle_for_ms: tuple[tuple[str, int], ...] = ()  # (container id, how long) of idle ready containers
    failed_starts: int = 0
    last_failure_at_ms: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Containers to start, containers to drain, and why."""

    desired: int
    start: int = 0
    drain: tuple[str, ...] = ()
    why: str = ""
    retry_at_ms: int | None = None  # nothing can start before


def desired(pool: PoolView) -> tuple[int, str]:
    """(containers, reason) by rules 1 to 4."""
    scaling, demand = pool.scaling, pool.queued + pool.running
    if demand == 0:
        return _clamp(0, scaling, "no inputs")
    wanted = -(-demand // pool.target_inputs)
    why = f"{demand} inputs / {pool.target_inputs} a container"
    if pool.service_ns is not None:
        pays = max(1, int(-(-demand * pool.service_ns // (pool.target_inputs * DRAIN_MS * 1e6))))
        if pays < wanted:
            wanted, why = pays, f"{demand} inputs of {pool.service_ns / 1e6:.3g} ms in {DRAIN_MS} ms"
    else:
        grow = 2 * pool.ready + FIRST_CONTAINERS
        if grow < wanted:
            wanted, why = grow, f"{why}; nothing measured yet, {pool.ready} ready"
    if scaling.buffer_containers:
        wanted += scaling.buffer_containers
        why += f" + {scaling.buffer_containers} buffer"
    return _clamp(wanted, scaling, why)


def decide(pool: PoolView, now_ms: int) -> Decision:
    """What to start or drain now.

    >>> pool = PoolView(scaling=Scaling(), target_inputs=1, queued=3, running=0, starting=1, ready=0)
    >>> decide(pool, 0).start
    2
    """
    wanted, why = desired(pool)
    have = pool.starting + pool.ready
    if have < wanted:
        retry_at_ms = backoff_until_ms(pool.failed_starts, pool.last_failure_at_ms)
        if retry_at_ms > now_ms:
            return Decision(desired=wanted, why=f"{why}; {pool.failed_starts} starts failed", retry_at_ms=retry_at_ms)
        start = wanted - have
        if pool.scaling.max_containers is not None:
            start = max(0, min(start, pool.scaling.max_containers - have - pool.draining))
        return Decision(desired=wanted, start=start, why=why)
    window_ms = pool.scaling.scaledown_window_ms
    tired = sorted(((age, name) for name, age in pool.idle_for_ms if age >= window_ms), reverse=True)
    surplus = max(0, have - wanted)
    return Decision(desired=wanted, drain=tuple(name for _, name in tired[:surplus]), why=why)


def backoff_until_ms(failed_starts: int, last_failure_at_ms: int) -> int:
    """When a pool whose last `failed_starts` starts failed may start again (0: at once)."""
    if failed_starts == 0:
        return 0
    return last_failure_at_ms + min(BACKOFF_MS_FIRST << min(failed_starts - 1, 16), BACKOFF_MS_MAX)


def _clamp(wanted: int, scaling: Scaling, why: str) -> tuple[int, str]:
    if wanted < scaling.min_containers:
        return scaling.min_containers, f"min_containers {scaling.min_containers}"
    if scaling.max_containers is not None and wanted > scaling.max_containers:
        return scaling.max_containers, f"max_containers {scaling.max_containers} ({why})"
    return wanted, why
