"""Connected calls of one input: `remote` by the portal, and `remote_gen`.

The client holds the input until its output is there. After a break the call is opened again and, if the server has no
output of it, sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from jitney.client.handle import Target
from jitney.client.link import Link
from jitney.client.portal import post
from jitney.errors import ConnectionError, JitneyError, from_code
from jitney.runner import payload as payloads_of
from jitney.values.calls import GENERATOR_ITEMS_AHEAD, CallKind, Output, Status
from jitney.wire.messages.link import CancelCall, Credit, Invoke, Message, OpenCall, Refused

CREDIT_EVERY = GENERATOR_ITEMS_AHEAD // 4


class _One:
    """A call of one input, as the link sees it (`link.Receiver`)."""

    def __init__(self, link: Link, message: Invoke) -> None:
        self.link = link
        self.message = message
        self.output: asyncio.Future[Output] = asyncio.get_running_loop().create_future()

    def send(self) -> None:
        """Hand in the input."""
        if not self.output.done():
            self.link.send(self.message)

    def opening(self) -> Message:
        return OpenCall(self.message.call_id, self.message.function_id, self.message.method, self.message.kind)

    def on_connected(self) -> None:
        self.send()

    def on_outputs(self, outputs: list[Output]) -> None:
        if not self.output.done():
            self.output.set_result(outputs[0])

    def on_items(self, first: int, payloads: list[bytes]) -> None:
        """A call that yields nothing has no items."""

    def on_refused(self, refused: Refused) -> None:
        if refused.retry_after_ms:
            asyncio.get_running_loop().call_later(refused.retry_after_ms / 1000, self.send)
        else:
            self.on_lost(from_code(refused.code, refused.message, refused.hint))

    def on_lost(self, error: JitneyError) -> None:
        if not self.output.done():
            self.output.set_exception(error)

    def begin(self, resumed: bool) -> None:
        """Open the call; `resumed` when it may be known to the server from another connection."""
        if resumed:
            self.link.resume(self.message.call_id, self)
        else:
            self.link.open(self.message.call_id, self)
            self.send()

    def end(self) -> None:
        """Have no more to do with it, whether it is over or not."""
        self.output.cancel()
        if self.output.cancelled():  # also by the caller, who awaited it
            self.link.send(CancelCall(self.message.call_id))
        else:
            self.output.exception()
        self.link.release(self.message.call_id)


async def unary(target: Target, method: str, call_id: str, payload: bytes, *, resumed: bool = False) -> Output:
    """The output of one input. Cancelling cancels the call.

    Raises:
        JitneyError: the call was refused for good, or the server stayed away.
    """
    link = await target.session.link()
    call = _One(link, Invoke(call_id, target.function_id, method, CallKind.UNARY, payload))
    try:
        call.begin(resumed)
        return await call.output
    finally:
        call.end()


class _Generator(_One):
    """A call that yields."""

    def __init__(self, link: Link, message: Invoke) -> None:
        super().__init__(link, message)
        self.items: list[bytes] = []
        self.next = 0
        self.changed = asyncio.Event()
        self.output.add_done_callback(lambda _: self.changed.set())

    def on_outputs(self, outputs: list[Output]) -> None:
        if outputs[0].status == Status.SUCCESS:
            yielded = payloads_of.decode(outputs[0].payload)  # a number, see runner.invoke.end_of_items
            if isinstance(yielded, int) and yielded > self.next:
                self._missing(yielded)
        super().on_outputs(outputs)

    def _missing(self, end: int) -> None:
        self.on_lost(
            ConnectionError(
                f"items {self.next} to {end - 1} of {self.message.call_id} were lost with the server that had them",
                hint="a generator is not run again by itself, for its reader would see items twice: call it again",
            )
        )

    def on_items(self, first: int, payloads: list[bytes]) -> None:
        if first > self.next:
            self._missing(first)
            return
        new = payloads[self.next - first :]  # the rest came before a break
        self.items += new
        self.next += len(new)
        self.changed.set()


class Credits:
    """What the reader of a generator has taken: counted on its thread, and told to the server now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._untold = 0
        self.tell: Callable[[int], None] = _to_nobody

    def took(self) -> None:
        """The reader took an item; on its thread."""
        self._untold += 1
        if self._untold >= CREDIT_EVERY:
            count, self._untold = self._untold, 0
            post(self._loop, self.tell, count)


def _to_nobody(count: int) -> None:
    pass


async def generator(
    target: Target, method: str, call_id: str, payload: bytes, credits: Credits
) -> AsyncGenerator[list[bytes] | Output, None]:
    """Payloads of items as they come, then the output of the call. Closing cancels the call.

    The generator is at most GENERATOR_ITEMS_AHEAD items ahead of what its reader took.

    Raises:
        JitneyError: as `unary`.
    """
    link = await target.session.link()
    call = _Generator(link, Invoke(call_id, target.function_id, method, CallKind.GENERATOR, payload))

    def tell(count: int) -> None:
        link.send(Credit(call_id, count))

    credits.tell = tell
    try:
        call.begin(False)
        while True:
            if call.items:
                items, call.items = call.items, []
                yield items
            elif call.output.done():
                yield call.output.result()
                return
            else:
                call.changed.clear()
                await call.changed.wait()
    finally:
        credits.tell = _to_nobody
        call.end()
