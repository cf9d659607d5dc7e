"""A server that only talks to a worker: it collects reports, sends commands, and goes away when told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from jitney.values.containers import LogLine
from jitney.wire import codec
from jitney.wire.frames import Splitter
from jitney.wire.home import Home
from jitney.wire.messages import workers
from jitney.wire.messages.apps import Done
from jitney.wire.messages.link import PROTOCOL, Answer, Event, Failed, Hello, Request, Welcome
from jitney.wire.methods import WORKER_ATTACH, WORKER_REPORT


class Peer(asyncio.Protocol):
    def __init__(self, server: LinkServer) -> None:
        self.server = server
        self.splitter = Splitter()
        self.attach_id = 0
        server.peers.append(self)

    def connection_made(self, transport) -> None:
        self.transport = transport

    def send(self, message) -> None:
        self.transport.write(codec.encode_frame(message))

    def data_received(self, data: bytes) -> None:
        for body in self.splitter.feed(data):
            self.take(codec.decode_from_peer(body))

    def take(self, message) -> None:
        server = self.server
        if isinstance(message, Hello):
            if message.token != server.home.read_token():
                self.send(Failed(0, "unauthenticated", "wrong token"))
                self.transport.close()
                return
            self.send(Welcome(PROTOCOL, "test", "boot"))
        elif isinstance(message, Request) and message.method == WORKER_ATTACH.name:
            self.attach_id = message.id
            server.attached = codec.decode(message.body, workers.WorkerAttach)
            server.attaches += 1
        elif isinstance(message, Request) and message.method == WORKER_REPORT.name:
            server.batches += 1
            server.reports += codec.decode(message.body, workers.WorkerReports).reports
            if server.acknowledges:
                self.send(Answer(message.id, codec.encode(Done())))
        server.changed.set()


class LinkServer:
    """See the module. `until` waits for a condition on what has arrived."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.acknowledges = True
        self.reports: list[workers.WorkerReport] = []
        self.batches = 0
        self.attached: workers.WorkerAttach | None = None
        self.attaches = 0
        self.peers: list[Peer] = []
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Peer(self), str(self.home.socket()))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for peer in self.peers:
                peer.transport.abort()
            self.peers.clear()
            self.home.socket().unlink(missing_ok=True)

    def command(self, command: workers.WorkerCommand) -> None:
        peer = self.peers[-1]
        peer.send(Event(peer.attach_id, msgspec.msgpack.encode(command)))

    async def until(self, condition, timeout_s: float = 20.0):
        async with asyncio.timeout(timeout_s):
            while not (found := condition()):
                self.changed.clear()
                await self.changed.wait()
        return found

    def exit_of(self, container_id: str) -> workers.ContainerExited | None:
        exits = [r for r in self.reports if isinstance(r, workers.ContainerExited) and r.container_id == container_id]
        return exits[0] if exits else None

    def started(self, container_id: str) -> workers.ContainerStarted | None:
        found = [r for r in self.reports if isinstance(r, workers.ContainerStarted) and r.container_id == container_id]
        return found[0] if found else None

    def lines(self, container_id: str) -> list[LogLine]:
        logs = [r for r in self.reports if isinstance(r, workers.ContainerLogs)]
        return [line for report in logs for line in report.lines if line.container_id == container_id]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    for folder in (home.root, home.containers, home.sources, home.images, home.socket().parent):
        folder.mkdir(parents=True, exist_ok=True)
    home.token.write_text("secret")
    return home


@pytest.fixture
def link_server(home: Home):
    """Makes a server; inside a running loop."""
    return lambda: LinkServer(home)
