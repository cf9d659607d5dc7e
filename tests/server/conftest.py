"""A whole server in this process, on memory drivers, with its sockets in a temporary folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jitney.drivers.blobs.memory import MemoryBlobs
from jitney.drivers.contents.memory import MemoryContents
from jitney.drivers.keys.fake import FakeKms
from jitney.drivers.logs.memory import MemoryLogs
from jitney.drivers.sources.memory import MemorySources
from jitney.drivers.store.memory import MemoryStore
from jitney.ports.store import Store
from jitney.server.app import Server, ServerOptions
from jitney.wire import codec
from jitney.wire.frames import LENGTH
from jitney.wire.home import Home
from jitney.wire.messages import link as m

SECRET = "a-secret-of-more-than-thirty-two-characters"


class Wire:
    """One connection to the server's link socket, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *messages: m.Message) -> None:
        self.writer.write(b"".join(map(codec.encode_frame, messages)))
        await self.writer.drain()

    async def receive(self) -> m.FromServer | None:
        """The next message; None at the end of the link."""
        async with asyncio.timeout(5):
            try:
                (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
                return codec.decode_from_server(await self.reader.readexactly(length))
            except asyncio.IncompleteReadError:
                return None

    async def hello(self, role: str = "client", token: str = SECRET) -> m.FromServer | None:
        await self.send(m.Hello(m.PROTOCOL, "0", token, role))
        return await self.receive()

    async def ask(self, name: str, request: object) -> m.FromServer | None:
        await self.send(m.Request(1, name, codec.encode(request)))
        return await self.receive()


@asynccontextmanager
async def serving(
    folder: Path, store: Store | None = None, **options: object
) -> AsyncIterator[tuple[Server, Callable[[], object]]]:
    """A running server, and a function that connects to it."""
    home = Home(folder)
    ready = asyncio.Event()
    server = Server(
        home=home,
        secret=SECRET,
        store=store or MemoryStore(),
        sources=MemorySources(MemoryBlobs()),
        contents=MemoryContents(),
        keys=FakeKms(),
        logs=MemoryLogs(),
        options=ServerOptions(version="0", **{"http_port": None, **options}),
    )
    task = asyncio.create_task(server.run(lambda _: ready.set()))
    wires: list[Wire] = []

    async def connect() -> Wire:
        wires.append(Wire(*await asyncio.open_unix_connection(str(home.socket()))))
        return wires[-1]

    try:
        await asyncio.wait_for(ready.wait(), 5)
        yield server, connect
    finally:
        for wire in wires:
            wire.writer.close()
        server.stop()
        await asyncio.wait_for(task, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
