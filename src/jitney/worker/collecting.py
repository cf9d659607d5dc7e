"""When the images of this machine are gone through, and which of them stay in any case.

The worker knows the time, and what runs; the server knows which images functions have that do not run now. So the
worker says that it is time (`Collecting`: decisions only), the server answers with a `CollectImages` that names those,
and the worker adds its own. Beside that, each image that something runs from is held (`Holds`): what would be wrong in
that count, or is another process of this machine, still cannot take it away.
"""

from __future__ import annotations

from collections.abc import Collection

from jitney.ports.builder import Hold, ImageBuilder
from jitney.values.images import BuiltImage
from jitney.wire.messages import workers

FIRST_MS = 300_000  # with a server: one that has just started is told by its clients what they use
EVERY_MS = 3_600_000


class Collecting:
    """When it is time. `keep_ms`: what was not used for so long goes; 0 = nothing does."""

    def __init__(self, keep_ms: int = 0) -> None:
        self._keep_ms = keep_ms
        self._next_ms = 0
        self._has_server = False

    @property
    def due_at_ms(self) -> int | None:
        """When to ask for it; None while there is nobody to ask, or nothing to do."""
        return self._next_ms if self._has_server and self._keep_ms else None

    def has_server(self, now_ms: int) -> None:
        """There is a server, maybe another one than before."""
        self._has_server = True
        self._next_ms = max(self._next_ms, now_ms + FIRST_MS)

    def no_server(self) -> None:
        """There is none."""
        self._has_server = False

    def tick(self, now_ms: int) -> workers.CollectionDue | None:
        """What to tell the server now, if it is time."""
        if self.due_at_ms is None or now_ms < self.due_at_ms:
            return None
        self._next_ms = now_ms + EVERY_MS
        return workers.CollectionDue(keep_ms=self._keep_ms)


class Holds:
    """The images that something runs from. One that is built anew is held beside the old one, while that is in use."""

    def __init__(self, builder: ImageBuilder) -> None:
        self._builder = builder
        self._now: dict[str, Hold] = {}
        self._before: dict[str, list[Hold]] = {}

    def take(self, image_id: str) -> BuiltImage | None:
        """An image, held from now on; None: it is not there."""
        hold = self._now.get(image_id)
        if hold is None:
            hold = self._builder.hold(image_id)
            if hold is None:
                return None
            self._now[image_id] = hold
        return hold.image

    def renew(self, image_id: str) -> None:
        """It may have been built anew: who takes it next gets what is there by then."""
        hold = self._now.pop(image_id, None)
        if hold is None:
            return
        before = self._before.setdefault(image_id, [])
        if any(one.image == hold.image for one in before):
            hold.release()  # it is the same, and held already
        else:
            before.append(hold)

    def keep(self, in_use: Collection[str]) -> None:
        """Let go of all others."""
        for image_id in [one for one in self._now if one not in in_use]:
            self.renew(image_id)
        for image_id in [one for one in self._before if one not in in_use]:
            for hold in self._before.pop(image_id):
                hold.release()
