"""What happens to an input whose attempt did not succeed.

Three counters, kept apart, so that our failures never use up the user's retries: `user` (the code raised, or ran past
its timeout: the declared policy decides), `crashes` (it took its container down: at most CRASHES_MAX, then it is a
poisoned input) and `internal` (the container was lost, preempted or stopped: at most INTERNAL_FAILURES_MAX).
"""

from __future__ import annotations

import msgspec

from jitney.values.calls import CRASHES_MAX, INTERNAL_FAILURES_MAX, Status
from jitney.values.functions import RetryPolicy


class Failures(msgspec.Struct, frozen=True):
    """How an input has failed so far, by whose fault."""

    user: int = 0
    crashes: int = 0
    internal: int = 0


class Again(msgspec.Struct, frozen=True):
    """Run it again after `delay_ms`."""

    failures: Failures
    delay_ms: int


class GiveUp(msgspec.Struct, frozen=True):
    """It is over: the failure is the result."""

    failures: Failures


def delay_ms(policy: RetryPolicy, failure: int) -> int:
    """The delay before the retry that follows the `failure`-th failure (1-based): initial x coefficient^(n-1), capped.

    >>> [delay_ms(RetryPolicy(max_retries=9, backoff_coefficient=2.0), n) for n in (1, 2, 3, 9)]
    [1000, 2000, 4000, 60000]
    """
    exponent = min(failure - 1, 64)
    return int(min(policy.initial_delay_ms * policy.backoff_coefficient**exponent, policy.max_delay_ms))


def after(
    status: Status, failures: Failures, policy: RetryPolicy | None, *, is_generator: bool = False
) -> Again | GiveUp:
    """The decision after an attempt ended with `status` (any but SUCCESS).

    A generator is never run again once it may have yielded: its reader would see items twice.
    """
    assert status is not Status.SUCCESS
    if status in (Status.TERMINATED, Status.INIT_FAILURE, Status.EXPIRED):
        return GiveUp(failures)
    if status is Status.CRASH:
        failures = Failures(failures.user, failures.crashes + 1, failures.internal)
        if is_generator or failures.crashes >= CRASHES_MAX:
            return GiveUp(failures)
        return Again(failures, 0)
    if status is Status.INTERNAL_FAILURE:
        failures = Failures(failures.user, failures.crashes, failures.internal + 1)
        if is_generator or failures.internal >= INTERNAL_FAILURES_MAX:
            return GiveUp(failures)
        return Again(failures, 0)
    failures = Failures(failures.user + 1, failures.crashes, failures.internal)
    if policy is None or is_generator or failures.user > policy.max_retries:
        return GiveUp(failures)
    return Again(failures, delay_ms(policy, failures.user))
