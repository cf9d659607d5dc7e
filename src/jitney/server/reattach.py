"""Inputs that containers held when the server went down, and still hold.

A container that outlived the server says which inputs it works on. A client that sends such an input again, or the
store that loads it, meets it here instead of running it twice; a result that comes first is kept until its input does.
"""

from __future__ import annotations

from jitney.runner.protocol import Result
from jitney.server.state import Call, Container

EARLY_RESULTS_MAX = 10_000
UNCLAIMED_MS = 70_000  # longer than a client tries to come back

Key = tuple[str, int]  # call id, index


class Reattached:
    """What is known of attempts that began under an earlier run of the server."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[Container, int]] = {}
        self._early: dict[Key, Result] = {}
        self._last_ms = 0  # when a container said so last

    def __bool__(self) -> bool:
        return bool(self._held or self._early)

    def adopt(
        self, container: Container, held: list[tuple[int, str, int]], calls: dict[str, Call], now_ms: int
    ) -> None:
        """A container that came back holds these: (token, call id, index)."""
        self._last_ms = now_ms
        for token, call_id, index in held:
            if token in container.inflight:
                continue
            call = calls.get(call_id)
            if call is not None and index in call.outstanding:
                continue  # queued or leased again meanwhile: the fence will drop this one's result
            container.foreign[token] = (call_id, index)
            self._held[call_id, index] = (container, token)

    def early(self, key: Key) -> Result | None:
        """The result of an input that ended before anybody asked for it again."""
        return self._early.pop(key, None)

    def holder(self, key: Key) -> tuple[Container, int] | None:
        """The container that works on an input, with its token; it is no longer foreign then."""
        held = self._held.pop(key, None)
        if held is not None:
            held[0].foreign.pop(held[1], None)
        return held

    def ended(self, container: Container, result: Result) -> bool:
        """A result under a token that the container does not hold: whether it is of an earlier run, and kept."""
        key = container.foreign.pop(result.token, None)
        if key is None or len(self._early) >= EARLY_RESULTS_MAX:
            return False
        self._held.pop(key, None)
        self._early[key] = result
        return True

    def forget(self, container: Container) -> None:
        """The container is gone."""
        for key in container.foreign.values():
            self._held.pop(key, None)
        container.foreign.clear()

    def give_up(self, now_ms: int) -> list[Container]:
        """After UNCLAIMED_MS: forget the results that nobody asked for; the containers that still work on such."""
        if not self or now_ms - self._last_ms < UNCLAIMED_MS:
            return []
        self._early.clear()
        return list({container.id: container for container, _ in self._held.values()}.values())
