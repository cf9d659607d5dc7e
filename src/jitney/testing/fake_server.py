"""A server for tests of the client: the link protocol on a real Unix socket, in this process, that can misbehave.

    with FakeServer(tmp_path) as server:
        server.deploy("app", square=lambda x: x * x)
        ...

It runs functions itself, on threads. `server.faults` says what goes wrong; `server.seen` is what arrived.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from jitney.errors import JitneyError
from jitney.runner import segments
from jitney.testing.fake_functions import FakeFunction, Runner
from jitney.testing.fake_methods import Answers
from jitney.values import ids
from jitney.values.calls import GENERATOR_ITEMS_AHEAD, CallKind, Output, Status
from jitney.wire import codec
from jitney.wire.frames import Splitter
from jitney.wire.home import Home, ServerInfo
from jitney.wire.messages import link as m

TOKEN = "fake-token"


@dataclass
class Faults:
    """What the server does wrong. Counters are used up."""

    drop_after_frames: int | None = None  # hang up on everybody when this many frames with inputs have come
    keep_results: bool = True  # results of a broken link are delivered when the call is opened again
    refuse: list[m.Refused] = field(default_factory=list)  # one per frame with inputs; ids and indices are filled in
    duplicate: bool = False  # every output twice
    reverse: bool = False  # outputs that are ready together, last one first
    protocol: int = m.PROTOCOL
    reject: JitneyError | None = None  # instead of Welcome
    silent: bool = False  # no Welcome at all


@dataclass
class Seen:
    """What arrived at the server."""

    hellos: list[m.Hello] = field(default_factory=list)
    runs: Counter[tuple[str, int]] = field(default_factory=Counter)  # (call id, index) -> times
    frames: list[int] = field(default_factory=list)  # inputs in each frame
    cancelled: list[str] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)


class Call:
    """A connected call at the fake server."""

    def __init__(self, call_id: str, function: FakeFunction, method: str, link: Link) -> None:
        self.call_id = call_id
        self.function = function
        self.method = method
        self.link = link
        self.kept: list[m.Message] = []
        self.cancelled = False
        self.running: set[int] = set()
        self.credit = threading.Semaphore(GENERATOR_ITEMS_AHEAD)

    def send(self, message: m.Message) -> None:
        """To the client, or kept until it is back."""
        if self.link.is_open:
            self.link.send(message)
        elif self.link.server.faults.keep_results:
            self.kept.append(message)


class Link(asyncio.Protocol):
    """One client."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self.tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def is_open(self) -> bool:
        """Whether it can be sent to."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = self._own = transport
        self.server.links.add(self)
        self.server.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.server.links.discard(self)
        self.server.transports.discard(self._own)
        for task in self.tasks.values():
            task.cancel()

    def close(self) -> None:
        """Hang up: after what is written, if results are to be kept."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self.server.faults.keep_results:
            transport.close()
        else:
            transport.abort()

    def send(self, message: m.Message) -> None:
        """A message to the client."""
        if self._transport is not None:
            self._transport.write(codec.encode_frame(message))

    def data_received(self, data: bytes) -> None:
        for body in self._splitter.feed(data):
            if self._transport is None:
                return
            message = codec.decode_from_peer(body)
            if self._greeted:
                self.server.receive(self, message)
            else:
                self._greet(message)

    def _greet(self, message: m.FromPeer) -> None:
        assert isinstance(message, m.Hello)
        faults = self.server.faults
        self.server.seen.hellos.append(message)
        if faults.silent:
            return
        if message.token != TOKEN:
            self.send(m.Failed(0, "unauthenticated", "the token is wrong"))
        elif faults.reject is not None:
            self.send(m.Failed(0, faults.reject.code, faults.reject.message, faults.reject.hint))
        else:
            self._greeted = True
            self.send(m.Welcome(faults.protocol, "9.9.9", self.server.boot_id))


class FakeServer:
    """A server in a folder, running from `start` to `stop`, on a thread of its own."""

    def __init__(self, root: Path, *, threads: int = 8) -> None:
        self.home = Home(root)
        self.faults = Faults()
        self.seen = Seen()
        self.links: set[Link] = set()
        self.transports: set[asyncio.Transport] = set()
        self.calls: dict[str, Call] = {}
        self.functions: dict[str, FakeFunction] = {}
        self.boot_id = ""
        self.inline = False  # run functions on the server's loop: for measuring the client
        self.answers = Answers(self)
        self._threads = threads
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Listen, and write server.json."""
        home = self.home
        home.root.mkdir(parents=True, exist_ok=True)
        home.blobs.mkdir(exist_ok=True)
        home.token.write_text(TOKEN)
        segments.prepare(str(home.segments))
        self.runner = Runner(str(home.segments), str(home.blobs))
        self.boot_id = os.urandom(4).hex()
        self.pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fake-container")
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="fake-server", daemon=True)
        self._thread.start()
        ready.wait()
        self.answers.resume()
        info = ServerInfo(pid=os.getpid(), version="9.9.9", socket=str(home.socket()), boot_id=self.boot_id)
        home.server_info.write_bytes(msgspec.json.encode(info))

    def _serve(self, ready: threading.Event) -> None:
        async def listen() -> None:
            path = self.home.socket()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._listener = await self.loop.create_unix_server(lambda: Link(self), str(path))
            ready.set()

        self.loop.run_until_complete(listen())
        self.loop.run_forever()
        self.loop.run_until_complete(self._hang_up())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _hang_up(self) -> None:
        for transport in self.transports:
            transport.abort()
        while self.transports:  # noqa: ASYNC110 (some turns of the loop, each of which ends connections)
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Hang up and end; calls are forgotten, deployed functions are not."""

        def end() -> None:
            self._listener.close()
            for link in list(self.links):
                link.close()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_soon(self.loop.stop)

        self.loop.call_soon_threadsafe(end)
        self._thread.join()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.calls.clear()
        self.runner.pool.close()
        segments.wipe(str(self.home.segments))
        self.home.socket().unlink(missing_ok=True)

    def crash(self) -> None:
        """As `stop`, but server.json stays behind: for `start` to follow."""
        self.stop()

    def drop_links(self) -> None:
        """Hang up on everybody."""

        def drop() -> None:
            for link in list(self.links):
                link.close()

        self.loop.call_soon_threadsafe(drop)

    def deploy(self, app: str, /, **functions: Callable[..., Any]) -> None:
        """Have functions of a deployed app, by name."""
        for name, function in functions.items():
            self.add(FakeFunction(self.new_id(ids.FUNCTION), app, name, {"": function}))

    def add(self, function: FakeFunction) -> None:
        """Have a function."""
        self.functions[function.function_id] = function

    def new_id(self, kind: str) -> str:
        """A fresh id."""
        return ids.make(kind, os.urandom(16))

    # ------------------------------------------------------------------------------------------- messages

    def receive(self, link: Link, message: m.FromPeer) -> None:
        """A message of a client, on the server's loop."""
        match message:
            case m.Invoke():
                self._invoke(link, message)
            case m.OpenCall():
                self._open(link, message.call_id, message.function_id, message.method)
            case m.Inputs():
                self._inputs(link, message.call_id, message.first_index, message.payloads)
            case m.EndInputs():
                self.seen.totals[message.call_id] = message.total
            case m.CancelCall():
                self.seen.cancelled.append(message.call_id)
                if message.call_id in self.calls:
                    self.calls[message.call_id].cancelled = True
            case m.Credit():
                self.seen.credits.append(message.items)
                if message.call_id in self.calls:
                    self.calls[message.call_id].credit.release(message.items)
            case m.Request():
                self.seen.requests.append(message.method)
                link.tasks[message.id] = self.loop.create_task(self._answer(link, message))
            case m.CancelRequest():
                if message.id in link.tasks:
                    link.tasks[message.id].cancel()

    def _open(self, link: Link, call_id: str, function_id: str, method: str) -> Call | None:
        function = self.functions.get(function_id)
        if function is None or not function.has(method):
            link.send(m.Refused(call_id, 0, 1, "not_found", f"no function {function_id} here"))
            return None
        call = self.calls.setdefault(call_id, Call(call_id, function, method, link))
        call.link = link
        kept, call.kept = call.kept, []
        for message in kept:
            link.send(message)
        return call

    def _invoke(self, link: Link, message: m.Invoke) -> None:
        call = self._open(link, message.call_id, message.function_id, message.method)
        if call is not None and message.kind is CallKind.GENERATOR:
            self.seen.runs[call.call_id, 0] += 1
            self.pool.submit(self._generate, call, message.payload)
        elif call is not None:
            self._inputs(link, call.call_id, 0, [message.payload])

    def _inputs(self, link: Link, call_id: str, first: int, payloads: list[bytes]) -> None:
        call = self.calls.get(call_id)
        if call is None:
            link.send(m.Refused(call_id, first, len(payloads), "not_found", "the call is not open"))
            return
        if self.faults.refuse:
            refused = self.faults.refuse.pop(0)
            link.send(msgspec.structs.replace(refused, call_id=call_id, first_index=first, count=len(payloads)))
            return
        self.seen.frames.append(len(payloads))
        if self.inline:
            self._deliver(call, [self._run(call, n, body) for n, body in enumerate(payloads, first)])
        else:
            for index, body in enumerate(payloads, first):
                if index not in call.running:  # else a repeat of what is under way
                    call.running.add(index)
                    self.pool.submit(self._run_and_deliver, call, index, body)
        if self.faults.drop_after_frames is not None:
            self.faults.drop_after_frames -= 1
            if self.faults.drop_after_frames <= 0:
                self.faults.drop_after_frames = None
                for other in list(self.links):
                    other.close()

    def _run(self, call: Call, index: int, body: bytes) -> Output:
        self.seen.runs[call.call_id, index] += 1
        return self.runner.run(call.function, call.method, call.call_id, index, body)

    def _run_and_deliver(self, call: Call, index: int, body: bytes) -> None:
        if not call.cancelled:
            self._soon(self._deliver, call, [self._run(call, index, body)])

    def _deliver(self, call: Call, outputs: list[Output]) -> None:
        call.running.difference_update(output.index for output in outputs)
        if self.faults.reverse:
            outputs.reverse()
        for _ in range(2 if self.faults.duplicate else 1):
            call.send(m.Outputs(call.call_id, outputs))

    def _generate(self, call: Call, body: bytes) -> None:
        from jitney.runner import payload

        number = 0
        try:
            for item in self.runner.items(call.function, call.method, body):
                while not call.credit.acquire(timeout=0.05):
                    if call.cancelled or self.loop.is_closed():
                        return
                if call.cancelled or self.loop.is_closed():
                    return
                self._soon(call.send, m.Items(call.call_id, number, [item]))
                number += 1
            output = Output(0, Status.SUCCESS, self.runner.encode(None))
        except BaseException as error:
            output = Output(0, Status.FAILURE, payload.encode_failure(error))
        self._soon(self._deliver, call, [output])

    def _soon(self, action: Callable[..., Any], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(action, *args)
        except RuntimeError:  # the server has stopped
            pass

    async def _answer(self, link: Link, request: m.Request) -> None:
        try:
            answer = await self.answers.answer(
                request.method, request.body, lambda event: link.send(m.Event(request.id, codec.encode(event)))
            )
            link.send(m.Answer(request.id, codec.encode(answer)))
        except JitneyError as error:
            link.send(m.Failed(request.id, error.code, error.message, error.hint))
        except Exception as error:
            link.send(m.Failed(request.id, "internal", f"{type(error).__name__}: {error}"))
        finally:
            link.tasks.pop(request.id, None)
