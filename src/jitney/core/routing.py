"""How far ahead inputs are pushed to a container.

A container that works on one input at a time and gets the next only after its result went back stands idle for a round
trip (100 to 300 us, mostly wake-ups) between inputs: nothing for a function of 100 ms, 90 % for one of 20 us. So short
functions are fed ahead, as many inputs as they work off in AHEAD_NS, judged by their measured service time. What is
ahead of a container cannot go to another one that gets free: hence the cap in time, an equal share when little is
queued, and the recall of inputs that wait behind one that runs longer than STRANDED_MS.
"""

from __future__ import annotations

AHEAD_NS = 4_000_000  # work in front of a container, as time: about ten round trips
AHEAD_INPUTS_MAX = 256
STRANDED_MS = 50
SMOOTHING = 0.2  # weight of the newest service time


def capacity(max_inputs: int, service_ns: float | None, queued: int, containers: int) -> int:
    """How many inputs a container may hold, running and ahead.

    Args:
        max_inputs: what it works on at a time.
        service_ns: smoothed service time of one input; None while nothing has finished.
        queued: inputs of the pool that wait, `containers`: among how many.

    >>> capacity(1, None, 1000, 2), capacity(1, 20_000.0, 1000, 2), capacity(1, 20_000.0, 6, 2)
    (1, 200, 3)
    >>> capacity(1, 1e9, 1000, 2), capacity(8, 20_000.0, 1000, 2)
    (1, 8)
    """
    if service_ns is None or max_inputs > 1:
        return max_inputs
    ahead = min(int(AHEAD_NS / max(service_ns, 1.0)), AHEAD_INPUTS_MAX)
    share = -(-queued // max(containers, 1))
    return max(1, min(ahead, share))


def smooth(service_ns: float | None, sample_ns: int) -> float:
    """The service time after one more sample. Rises at once to a much longer one: feeding ahead must stop then."""
    if service_ns is None or sample_ns > 8 * service_ns:
        return float(sample_ns)
    return service_ns + SMOOTHING * (sample_ns - service_ns)
