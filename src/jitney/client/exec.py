"""Commands in containers, from this side: a stream of output, and input that goes beside it. All of it on the portal.

The link holds both the command and a container that was opened: whatever happens to this process, they end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from jitney.client.link import StreamBroken
from jitney.errors import ConnectionError, NotFoundError
from jitney.values import ids
from jitney.values.exec import CHUNK_BYTES_MAX, OUTPUT_BYTES_AHEAD, ExecSpec, TtySize
from jitney.wire.messages.containers import ContainerClosed, ContainerOpen
from jitney.wire.messages.exec import Exec, ExecEnded, ExecInput
from jitney.wire.methods import CONTAINER_EXEC, CONTAINER_EXEC_INPUT, CONTAINER_OPEN

if TYPE_CHECKING:
    from jitney.client.link import Stream
    from jitney.client.session import Session
    from jitney.values.functions import FunctionSpec

TAKEN_BYTES = OUTPUT_BYTES_AHEAD // 4  # of output that was read, until that is said


class RemoteCommand:
    """One command in a container. `run` it; meanwhile `send` it what it is to get."""

    def __init__(self, session: Session, container_id: str, spec: ExecSpec) -> None:
        self._session = session
        self._request = Exec(
            exec_id=ids.make(ids.EXEC, os.urandom(ids.ENTROPY_BYTES)), container_id=container_id, spec=spec
        )
        self._inputs = 0
        self._began = asyncio.Event()
        self.is_over = False

    async def run(self, on_output: Callable[[int, bytes], Awaitable[None]]) -> ExecEnded:
        """Its end. `on_output(fd, data)` is awaited: a slow reader slows the command down.

        Raises:
            NotFoundError: there is no such container. ConnectionError: the connection broke, and the command has ended.
            JitneyError: it could not be run.
        """
        stream = await self._session.stream(CONTAINER_EXEC, self._request)
        untold = 0
        try:
            await stream.ask()
            self._began.set()
            async for event in stream:
                await on_output(event.fd, event.data)
                untold += len(event.data)
                if untold >= TAKEN_BYTES:
                    await self.send(took=untold)
                    untold = 0
        except StreamBroken:
            raise ConnectionError(
                "the connection to the server broke, and the command has ended with it", hint="run it again"
            ) from None
        finally:
            self.is_over = True
            self._began.set()
            stream.close()
        assert stream.answer is not None
        return stream.answer

    async def write(self, data: bytes) -> None:
        """Input for it; gives when it may have more."""
        for start in range(0, len(data), CHUNK_BYTES_MAX):
            await self.send(data=data[start : start + CHUNK_BYTES_MAX])

    async def send(
        self, *, data: bytes = b"", eof: bool = False, size: TtySize | None = None, signal: int = 0, took: int = 0
    ) -> None:
        """Tell it something. To a command that has ended, nothing is told."""
        await self._began.wait()
        if self.is_over:
            return
        told = ExecInput(
            exec_id=self._request.exec_id,
            seq=self._inputs,
            data=data,
            eof=eof,
            size=size,
            signal=signal,
            took=took,
        )
        self._inputs += 1
        try:
            await self._session.request(CONTAINER_EXEC_INPUT, told, resend=False)
        except (NotFoundError, ConnectionError):
            return  # it has ended; how, its stream says


class OpenContainer:
    """A container that is there for commands, from `open` to `close`."""

    def __init__(
        self, session: Session, spec: FunctionSpec, secrets: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self._session = session
        self._spec = spec
        self._secrets = {secret_id: dict(values) for secret_id, values in (secrets or {}).items()}
        self._stream: Stream[ContainerClosed] | None = None
        self.container_id = ""

    async def open(self) -> str:
        """Start it; its id, when it takes commands.

        Raises:
            StartupError: it could not be started. ResourceExhaustedError: no machine has room for it.
        """
        stream = self._stream = await self._session.stream(
            CONTAINER_OPEN, ContainerOpen(spec=self._spec, secrets=self._secrets)
        )
        try:
            self.container_id = (await anext(stream)).container_id
        except StopAsyncIteration:
            raise ConnectionError("the container has ended at once", hint="try again") from None
        except BaseException:
            stream.close()
            raise
        return self.container_id

    async def close(self) -> None:
        """Let it end."""
        if self._stream is not None:
            self._stream.close()
