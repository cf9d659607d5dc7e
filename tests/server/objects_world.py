"""Dicts and queues of a server without its sockets: requests of peers that can hang up, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

from jitney.drivers.store.memory import MemoryStore
from jitney.errors import JitneyError
from jitney.server.api.table import Table
from jitney.server.shared import Shared
from jitney.values.objects import ObjectKind
from jitney.wire import codec, methods


class Peer:
    """Somebody who asks."""

    def __init__(self, role: str = "client") -> None:
        self.role = role

    def on_gone(self, action: Any) -> None:
        """Nobody here looks."""


class Asked:
    """A request under way."""

    def __init__(self, world: World, peer: Peer, name: str, fields: dict[str, Any]) -> None:
        self._method = methods.METHODS[name]
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        body = codec.encode(self._method.request(**fields))
        self.reply = world.table.begin(peer, 1, name, body, self._send)
        assert self.reply is not None

    def _send(self, number: int, answer: bytes | JitneyError) -> None:
        if isinstance(answer, bytes):
            self.answered.set_result(codec.decode(answer, self._method.answer))
        else:
            self.answered.set_exception(answer)
            self.answered.exception()

    @property
    def is_answered(self) -> bool:
        return self.answered.done()


class World:
    """A server's dicts and queues on a store, which stays when the server is killed."""

    def __init__(self, store: Any = None, blobs: Any = None) -> None:
        self.store = store or MemoryStore()
        self.peer = Peer()
        self._entropy = 0
        self._blobs = blobs
        self._boot = 0
        self.failures: list[BaseException] = []

    def now_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1_000)

    def _random(self, count: int) -> bytes:
        self._entropy += 1
        return self._entropy.to_bytes(count, "big")

    def _runner(self) -> Any:
        boot = self._boot

        def run(work: Any) -> None:
            if boot != self._boot:
                work.close()  # of a server that was killed
                return
            task = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(self._ended)

        return run

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())

    async def start(self, hot_bytes_max: int | None = None) -> World:
        """Start a server; the one before is killed."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        self._boot += 1
        run = self._runner()
        self.shared = shared = Shared(
            store=self.store,
            boot=self._boot,
            now_ms=self.now_ms,
            entropy=self._random,
            run=run,
            blobs=self._blobs,
        )
        self.objects, self.dicts, self.queues, self.sweeper = (
            shared.objects,
            shared.dicts,
            shared.queues,
            shared.sweeper,
        )
        if hot_bytes_max is not None:
            self.queues.hot_bytes_max = hot_bytes_max
        self.table = Table()
        for api in shared.apis:
            api.register(self.table)
        await shared.load()
        return self

    def begin(self, name: str, **fields: Any) -> Asked:
        """Ask, and go on."""
        return Asked(self, self.peer, name, fields)

    async def ask(self, name: str, **fields: Any) -> Any:
        """Ask, and wait for the answer, which arrives."""
        asked = self.begin(name, **fields)
        answer = await asked.answered
        asked.reply.received()
        return answer

    async def open(self, kind: ObjectKind, name: str = "one") -> str:
        """The id of an object of that name."""
        body = codec.encode(methods.OBJECT_OPEN.request(kind=kind, name=name, create_if_missing=True))
        answer = await self.table.call(self.peer, "object.open", body, lambda event: None)
        return codec.decode(answer, methods.OBJECT_OPEN.answer).object_id


async def turn(times: int = 20) -> None:
    """Let what is ready go on."""
    for _ in range(times):
        await asyncio.sleep(0)


async def later(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)
