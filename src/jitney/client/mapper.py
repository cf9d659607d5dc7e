"""Driving a map: the state of `mapping` on the link, fed by `feed`. One async body for both colours.

Inputs leave in frames of what is there: nothing waits for a frame to fill. Results are handed to the reader as a batch
of outputs, which its own thread decodes.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable

from jitney.client import output, results
from jitney.client.feed import Feed
from jitney.client.handle import Target
from jitney.client.link import Link
from jitney.client.mapping import MapState
from jitney.client.portal import post
from jitney.errors import JitneyError, from_code
from jitney.values.calls import Output
from jitney.wire.messages.link import CancelCall, EndInputs, Inputs, Message, OpenCall, Refused

REPORT_EVERY_S = 0.1


class Consumed:
    """How many results the reader has taken: written on its thread, read on the portal."""

    def __init__(self) -> None:
        self.count = 0
        self.wake: Callable[[], None] | None = None  # set while the map waits for the reader

    def add(self, count: int) -> None:
        """The reader took some."""
        self.count += count
        wake = self.wake
        if wake is not None:
            wake()


class _Map:
    """A map, as the link sees it (`link.Receiver`)."""

    def __init__(self, link: Link, target: Target, method: str, call_id: str, state: MapState) -> None:
        self.link = link
        self.target = target
        self.method = method
        self.call_id = call_id
        self.state = state
        self.changed = asyncio.Event()
        self.error: BaseException | None = None
        self.is_open = True
        self._noted = False
        self._reported_at = 0.0

    def opening(self) -> Message:
        self.is_open = False
        return OpenCall(self.call_id, self.target.function_id, self.method)

    def on_connected(self) -> None:
        self.is_open = True
        self.state.on_connected()
        self.changed.set()

    def on_outputs(self, outputs: list[Output]) -> None:
        for payload in self.state.on_outputs(outputs):
            results.release(self.target.session, payload)
        self.changed.set()

    def on_items(self, first: int, payloads: list[bytes]) -> None:
        """Inputs of a map yield nothing."""

    def on_refused(self, refused: Refused) -> None:
        if not refused.retry_after_ms:
            self.on_lost(from_code(refused.code, refused.message, refused.hint))
            return
        delay_s = refused.retry_after_ms / 1000
        self.state.on_refused(refused.first_index, refused.count, time.monotonic() + delay_s)
        asyncio.get_running_loop().call_later(delay_s, self.changed.set)
        if not self._noted:
            self._noted = True
            output.current().note(f"the map over {self.target.name} goes as fast as it can: {refused.message}")

    def on_lost(self, error: JitneyError) -> None:
        self.error = self.error or error
        self.changed.set()

    def move(self, feed: Feed, consumed: int) -> None:
        """Take inputs, and send what may be sent."""
        state = self.state
        room = state.room(consumed)
        taken = feed.take(room) if room else []
        if taken:
            state.add(taken)
        if feed.is_dry and not state.ended:
            self.error = self.error or feed.error
            state.end()
        state.due(time.monotonic())
        if self.is_open:
            while (frame := state.frame()) is not None:
                self.link.send(Inputs(self.call_id, *frame))
            if state.says_end():
                self.link.send(EndInputs(self.call_id, state.made))

    def report(self, *, last: bool = False) -> None:
        """Tell the person how far it is, not too often."""
        now = time.monotonic()
        if last or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            state = self.state
            total = state.made if state.ended else None
            output.current().map_progress(self.target.name, state.done, state.failed, state.made, total)


async def run(
    target: Target,
    method: str,
    call_id: str,
    make_feed: Callable[[asyncio.Event], Feed],
    consumed: Consumed,
    ordered: bool,
) -> AsyncGenerator[list[Output], None]:
    """Batches of outputs of a map. Closing it cancels what is under way.

    Raises:
        JitneyError: inputs were refused for good, or the server stayed away.
        BaseException: what the user's iterator raised.
    """
    link = await target.session.link()
    state = MapState(ordered=ordered)
    one = _Map(link, target, method, call_id, state)
    changed = one.changed
    wake = functools.partial(post, asyncio.get_running_loop(), changed.set)
    feed = make_feed(changed)
    link.open(call_id, one)
    link.send(one.opening())
    one.is_open = link.is_connected
    try:
        while True:
            changed.clear()
            one.move(feed, consumed.count)
            ready = state.take()
            if ready:
                one.report()
                yield ready
                continue
            if one.error is not None:
                raise one.error
            if state.is_finished:
                one.report(last=True)
                return
            await link.drained()
            if state.is_ahead(consumed.count):
                consumed.wake = wake
                if not state.is_ahead(consumed.count):  # taken before we said that we wait
                    continue
            elif state.room(consumed.count) and not feed.wants():
                continue
            await changed.wait()
            consumed.wake = None
    finally:
        consumed.wake = None
        feed.stop()
        if not state.is_finished:
            link.send(CancelCall(call_id))
            for payload in state.leftover():
                results.release(target.session, payload)
        link.release(call_id)
