"""What nobody reports: an input that runs too long, or inputs that wait behind one that does."""

from __future__ import annotations

from jitney.core import routing
from jitney.runner import protocol
from jitney.server.router import Router, failure
from jitney.server.state import Container
from jitney.values.calls import Status

CANCEL_GRACE_MS = 10_000  # code that does not unwind by then loses its container


class Watch:
    """Looks at each container a few times a second."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def look(self, container: Container, now_ms: int) -> None:
        """Time out or recall what is due.

        The oldest input tells: a container that works on one at a time began it when the one before ended, and
        timeouts of a pool are all the same.
        """
        inflight, pool = container.inflight, container.pool
        if not inflight:
            return
        head = next(iter(inflight.values()))
        head_ms = now_ms - (head.leased_at_ms if pool.spec.max_inputs > 1 else container.head_since_ms)
        if head.call.cancelled:
            if head_ms > CANCEL_GRACE_MS:
                self._router.effects.kill(container, "a cancelled input did not end")
                self._router.lost(container, Status.INTERNAL_FAILURE, "its container was ended for a cancelled input")
        elif head_ms > pool.spec.timeout_ms:
            self._time_out(container)
        elif head_ms > routing.STRANDED_MS and not container.recalled and not pool.spec.batching:
            self._recall(container, list(inflight)[pool.spec.max_inputs :], head_ms)

    def _recall(self, container: Container, waiting: list[int], head_ms: int) -> None:
        container.recalled = True
        if container.pool.service_ns is not None:  # an age is no measurement, but the measured one is out of date
            container.pool.service_ns = routing.smooth(container.pool.service_ns, head_ms * 1_000_000)
        if waiting and container.link is not None:
            container.link.send(protocol.pack_tokens(protocol.RECALL, waiting))
            self._router.effects.interrupt(container)

    def _time_out(self, container: Container) -> None:
        pool = container.pool
        limit_s = pool.spec.timeout_ms / 1000
        body = failure(Status.TIMEOUT, f"{pool.spec.name} ran longer than its timeout of {limit_s:g} s")
        self._router.effects.kill(container, "an input ran past its timeout")
        self._router.fail_running(container, pool.spec.target_inputs if pool.spec.batching else 1, Status.TIMEOUT, body)
        self._router.lost(container, Status.INTERNAL_FAILURE, "the container was ended for another input's timeout")
