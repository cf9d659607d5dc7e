"""Large requests and answers: some threads, each with a connection of its own.

By the link a block of a file would be copied into its message, that into a frame, and what of that the socket does not
take at once into a buffer, all on the portal. Here it is sent from where it is, and what comes is received where it
stays. What breaks is left to the link, which asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from jitney.client import blocking
from jitney.wire import codec
from jitney.wire.codec import Buffer

if TYPE_CHECKING:
    import msgspec

    from jitney.client.session import Session
    from jitney.wire.methods import Method

T = TypeVar("T")

THREADS = 4  # of one transfer: with a block each
PATIENCE_S = 30  # then the link asks, which waits for as long as there is a server


class Bulk:
    """The threads of one transfer."""

    def __init__(self, session: Session, threads: int = THREADS) -> None:
        self._endpoint = session.direct()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="jitney-bulk")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What a thread does, it does to files of ours. With it ends its connection.
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` on one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def ask(self, method: Method[Any, Any], message: msgspec.Struct, tail: Buffer = b"") -> Any:
        """On one of the threads: the answer, or None where the link has to ask.

        `tail`: what the message ends with, and has no bytes for itself.

        Raises:
            JitneyError: the server's typed error.
        """
        if self._endpoint is None:
            return None
        body = codec.before(message, tail) if tail else codec.encode(message)
        answer = blocking.ask(self._endpoint, method.name, body, tail=tail, within_s=PATIENCE_S)
        return None if answer is None else codec.decode(answer, method.answer)
