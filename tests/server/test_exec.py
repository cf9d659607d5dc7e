"""Commands in containers, from a client's link to a worker's runtime: a real server and agent, and a fake runtime."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from itertools import count

import pytest

from jitney.drivers.builder.fake import FakeBuilder
from jitney.drivers.runtime.fake import FakeExec, FakeRuntime, Script
from jitney.ports.interactive import NOT_FOUND, ExecFailed
from jitney.runner import protocol
from jitney.server.api.exec import SESSIONS_MAX_CONTAINER
from jitney.values import ids
from jitney.values.containers import ContainerRecord, Exit, Phase
from jitney.values.exec import CHUNK_BYTES_MAX, INPUT_BYTES_AHEAD, KILLED, OUTPUT_BYTES_AHEAD, ExecSpec, TtySize
from jitney.values.functions import FunctionSpec, Resources
from jitney.values.images import ImageSpec
from jitney.wire import codec, methods
from jitney.wire.home import Home
from jitney.wire.messages import containers as cm
from jitney.wire.messages import exec as em
from jitney.wire.messages import link as m
from jitney.wire.messages.apps import Done
from jitney.wire.messages.server import Empty
from jitney.worker.agent import Agent
from tests.server.conftest import SECRET, serving

WAIT_S = 10
NUMBERS = count(1)


def new_exec_id() -> str:
    return ids.make(ids.EXEC, next(NUMBERS).to_bytes(16, "big"))


async def hold(launch) -> int:
    """What a runner does in a container that is held: it says that it is ready, and waits to be told to end."""
    assert launch.config["hold"] is launch.is_held is True
    reader, writer = await asyncio.open_unix_connection(str(launch.config["runner_socket"]))
    try:
        writer.write(protocol.pack_json(protocol.HELLO, {"container": launch.container_id, "token": launch.token}))
        writer.write(protocol.pack_json(protocol.READY, {"phases_ms": {}}))
        await reader.read()
        return 0
    finally:
        writer.close()


async def command(session: FakeExec) -> int:
    """What the first word says."""
    word = session.spec.argv[0]
    if word == "cat":
        while data := await session.read():
            await session.print(data)
        return 0
    if word == "flood":
        await session.print(b"x" * 4 * OUTPUT_BYTES_AHEAD)
        return 0
    if word == "tell":
        await session.print(f"{session.spec.argv} {session.spec.env} {session.spec.cwd}\n".encode())
        while (number := await session.signals.get()) != signal.SIGTERM:
            await session.print(f"{number} {session.size}\n".encode())
        return 143
    if word == "wait":
        await session.print(b"ready")
        await session.signals.get()
        return 1
    if word == "/bin/sh":
        return 7
    raise ExecFailed(f"there is no command {word!r}", NOT_FOUND)


class Client:
    """A link with many requests under way."""

    def __init__(self, wire) -> None:
        self.wire = wire
        self.arrived: dict[int, asyncio.Queue] = {}
        self._numbers = count(1)
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (message := await self._next()) is not None:
            self.arrived[message.id].put_nowait(message)

    async def _next(self):
        try:
            size = int.from_bytes(await self.wire.reader.readexactly(4), "little")
            return codec.decode_from_server(await self.wire.reader.readexactly(size))
        except asyncio.IncompleteReadError:
            return None

    async def start(self, method, request) -> int:
        number = next(self._numbers)
        self.arrived[number] = asyncio.Queue()
        await self.wire.send(m.Request(number, method.name, codec.encode(request)))
        return number

    async def ask(self, method, request):
        """The answer, or the `Failed`."""
        return self.decoded(method, await self.arrived[await self.start(method, request)].get())

    async def event(self, method, number):
        """The next event of a stream, its answer, or its `Failed`."""
        return self.decoded(method, await self.arrived[number].get())

    @staticmethod
    def decoded(method, message):
        if isinstance(message, m.Failed):
            return message
        return codec.decode(message.body, method.answer if isinstance(message, m.Answer) else method.stream)


class Run:
    """A command that was asked for."""

    def __init__(self, client: Client, exec_id: str, number: int) -> None:
        self.client, self.exec_id, self.number = client, exec_id, number
        self.output = b""
        self.seqs = count()

    async def told(self, **what) -> Done | m.Failed:
        return await self.client.ask(
            methods.CONTAINER_EXEC_INPUT, em.ExecInput(exec_id=self.exec_id, seq=next(self.seqs), **what)
        )

    async def until(self, text: bytes) -> None:
        while text not in self.output:
            event = await self.client.event(methods.CONTAINER_EXEC, self.number)
            assert isinstance(event, em.ExecOutput), event
            self.output += event.data

    async def end(self) -> em.ExecEnded | m.Failed:
        while isinstance(event := await self.client.event(methods.CONTAINER_EXEC, self.number), em.ExecOutput):
            self.output += event.data
        return event


class Stage:
    """A server with a worker, and clients."""

    def __init__(self, server, connect, runtime: FakeRuntime, image_id: str) -> None:
        self.server, self.runtime, self.image_id = server, runtime, image_id
        self._connect = connect

    async def client(self) -> Client:
        wire = await self._connect()
        await wire.hello()
        return Client(wire)

    async def opened(self, client: Client, **spec) -> tuple[int, str]:
        """(request, container id) of a container that is held."""
        request = cm.ContainerOpen(spec=FunctionSpec(name="shell", image_id=self.image_id, **spec))
        number = await client.start(methods.CONTAINER_OPEN, request)
        event = await client.event(methods.CONTAINER_OPEN, number)
        assert isinstance(event, cm.ContainerOpened), event
        return number, event.container_id

    async def run(self, client: Client, container_id: str, *argv: str, **spec) -> Run:
        exec_id = new_exec_id()
        request = em.Exec(exec_id=exec_id, container_id=container_id, spec=ExecSpec(argv=argv, **spec))
        return Run(client, exec_id, await client.start(methods.CONTAINER_EXEC, request))

    def commands(self, container_id: str) -> list[FakeExec]:
        """Those that the runtime has had in a living container."""
        return self.runtime._containers[container_id].commands

    async def gone(self, container_id: str) -> ContainerRecord:
        """The record of a container, when it has ended."""
        while True:
            record = await self.server._store.containers.get(container_id)
            if record is not None:
                return record
            await asyncio.sleep(0)


@asynccontextmanager
async def staged(folder, **options):
    home = Home(folder)
    for one in (home.root, home.containers, home.sources, home.images, home.socket().parent):
        one.mkdir(parents=True, exist_ok=True)
    home.token.write_text(SECRET)
    runtime = FakeRuntime(**{"command": command, "body": hold, **options})
    builder = FakeBuilder()
    image = await builder.build(ImageSpec(), lambda *_: None)
    async with asyncio.timeout(WAIT_S), serving(folder) as (server, connect):
        agent = Agent(home, runtime, builder)
        running = asyncio.create_task(agent.run())
        try:
            await server.fleet.wait_node(WAIT_S)
            stage = Stage(server, connect, runtime, image.image_id)
            stage.agent = agent
            yield stage
        finally:
            agent.stop()
            await running


@pytest.fixture
def play(folder):
    """Runs `scene(stage, client, container_id)` with a container that is held."""

    def run(scene, **options) -> None:
        async def main() -> None:
            async with staged(folder, **options) as stage:
                client = await stage.client()
                _, container_id = await stage.opened(client)
                await scene(stage, client, container_id)

        asyncio.run(main())

    return run


def test_output_input_and_the_end(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "cat")
        assert await run.told(data=b"hello ") == Done()
        await run.told(data=b"you")
        await run.told(eof=True)
        assert await run.end() == em.ExecEnded(exit_code=0)
        assert run.output == b"hello you"
        late = await run.told(data=b"x")
        assert (late.code, late.hint) == ("not_found", "it may have ended")

    play(scene)


def test_what_a_command_is_told_arrives(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "tell", "a b", env={"A": "1"}, cwd="/x", tty=TtySize(10, 20))
        await run.until(b"('tell', 'a b') {'A': '1'} /x\n")
        await run.told(size=TtySize(11, 21))
        await run.told(signal=signal.SIGINT)
        await run.until(b"2 TtySize(rows=11, cols=21)\n")
        assert f"{int(signal.SIGWINCH)} ".encode() in run.output
        await run.told(signal=signal.SIGTERM)
        assert (await run.end()).exit_code == 143

    play(scene)


def test_what_cannot_be_started_is_an_exit_code_and_a_reason(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "nope")
        assert await run.end() == em.ExecEnded(exit_code=127, reason="there is no command 'nope'")

    play(scene)


def test_no_command_means_a_shell_that_is_there(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id)  # the image names none, and there is no /bin/bash
        assert (await run.end()).exit_code == 7

    play(scene)


def test_input_that_comes_twice_is_taken_once_and_never_out_of_turn(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "cat")
        first = em.ExecInput(exec_id=run.exec_id, seq=0, data=b"once ")
        assert await client.ask(methods.CONTAINER_EXEC_INPUT, first) == Done()
        assert await client.ask(methods.CONTAINER_EXEC_INPUT, first) == Done()
        early = em.ExecInput(exec_id=run.exec_id, seq=2, data=b"early ")
        refused = await client.ask(methods.CONTAINER_EXEC_INPUT, early)
        assert (refused.code, "number 1 was due" in refused.message) == ("invalid", True)
        await client.ask(methods.CONTAINER_EXEC_INPUT, em.ExecInput(exec_id=run.exec_id, seq=1, data=b"upon", eof=True))
        assert (await run.end()).exit_code == 0
        assert run.output == b"once upon"

    play(scene)


def test_a_reader_that_does_not_read_stops_the_command(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "flood")
        await run.until(b"x" * OUTPUT_BYTES_AHEAD)
        await client.ask(methods.SERVER_STATUS, Empty())
        assert client.arrived[run.number].empty()
        assert len(run.output) == OUTPUT_BYTES_AHEAD
        while len(run.output) < 4 * OUTPUT_BYTES_AHEAD:
            before = len(run.output)
            await run.told(took=OUTPUT_BYTES_AHEAD)
            await run.until(b"x" * (before + OUTPUT_BYTES_AHEAD))
        assert (await run.end()).exit_code == 0
        assert len(run.output) == 4 * OUTPUT_BYTES_AHEAD

    play(scene)


def test_a_command_that_does_not_read_stops_the_writer(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "wait")
        await run.until(b"ready")
        pieces = 2 * INPUT_BYTES_AHEAD // CHUNK_BYTES_MAX  # what the server lets through, and what the worker takes
        writing = [asyncio.create_task(run.told(data=bytes(CHUNK_BYTES_MAX))) for _ in range(pieces)]
        await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
        await client.ask(methods.SERVER_STATUS, Empty())
        assert not all(task.done() for task in writing)
        [session] = stage.commands(container_id)
        assert len(session._input) <= pieces * CHUNK_BYTES_MAX
        await run.told(signal=signal.SIGINT)  # what is no input is not held up
        assert (await run.end()).exit_code == 1
        await asyncio.gather(*writing)

    play(scene)


def test_an_input_that_is_too_large_is_refused(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "cat")
        raw = {"exec_id": run.exec_id, "seq": 0, "data": bytes(CHUNK_BYTES_MAX + 1)}
        assert (await client.ask(methods.CONTAINER_EXEC_INPUT, raw)).code == "invalid"
        assert (await client.ask(methods.CONTAINER_EXEC_INPUT, {**raw, "data": b"", "signal": 65})).code == "invalid"

    play(scene)


def test_a_container_may_be_ready_before_its_worker_knows_that_it_runs(folder):
    class Late(FakeRuntime):
        async def start(self, launch, image, output):
            handle = await super().start(launch, image, output)
            await going_on.wait()
            return handle

    async def main():
        async with staged(folder) as stage:
            stage.runtime.__class__ = Late
            client = await stage.client()
            _, container_id = await stage.opened(client)
            run = await stage.run(client, container_id, "cat")
            await run.told(data=b"early", eof=True)
            going_on.set()
            assert (await run.end(), run.output) == (em.ExecEnded(exit_code=0), b"early")

    going_on = asyncio.Event()
    asyncio.run(main())


def test_a_command_ends_with_its_client(play):
    async def scene(stage, client, container_id):
        other = await stage.client()
        run = await stage.run(other, container_id, "wait")
        await run.until(b"ready")
        [session] = stage.commands(container_id)
        other.wire.writer.close()
        assert await session.wait() == KILLED
        assert (await client.ask(methods.CONTAINER_GET, cm.ContainerRef(container_id=container_id))).phase == "ready"

    play(scene)


def test_a_command_whose_stream_is_not_wanted_ends(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "wait")
        await run.until(b"ready")
        [session] = stage.commands(container_id)
        await client.wire.send(m.CancelRequest(run.number))
        assert await session.wait() == KILLED
        assert (await run.end()).code == "cancelled"

    play(scene)


def test_a_command_that_is_given_up_at_once_never_stays(play):
    async def scene(stage, client, container_id):
        for _ in range(3):
            run = await stage.run(client, container_id, "wait")
            await client.wire.send(m.CancelRequest(run.number))
            await client.ask(methods.SERVER_STATUS, Empty())
        last = await stage.run(client, container_id, "wait")
        await last.until(b"ready")
        assert [await one.wait() for one in stage.commands(container_id)[:-1]] == [KILLED] * (
            len(stage.commands(container_id)) - 1
        )

    play(scene)


def test_a_command_ends_with_its_container_and_says_so(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "wait")
        await run.until(b"ready")
        stage.runtime.crash(container_id, Exit(signal=9, oom_killed=True, max_rss_kib=300 * 1024))
        ended = await run.end()
        assert ended.exit_code == KILLED
        assert ended.reason == f"container {container_id} has ended: out of memory at 300 MiB"

    play(scene)


def test_a_command_ends_with_the_link_of_its_worker(play):
    async def scene(stage, client, container_id):
        run = await stage.run(client, container_id, "wait")
        await run.until(b"ready")
        [session] = stage.commands(container_id)
        stage.agent.link._connection.abort()
        ended = await run.end()
        assert (ended.code, "worker" in ended.message) == ("unavailable", True)
        assert await session.wait() == KILLED

    play(scene)


def test_a_container_that_is_not_there_is_told_apart_from_one_that_was(play):
    async def scene(stage, client, container_id):
        near = container_id[:-1] + ("a" if container_id[-1] != "a" else "b")
        failed = await (await stage.run(client, near, "cat")).end()
        assert (failed.code, failed.hint) == ("not_found", f"did you mean {container_id!r}?")
        stage.runtime.crash(container_id, Exit(exit_code=3))
        await stage.gone(container_id)
        failed = await (await stage.run(client, container_id, "cat")).end()
        assert (failed.code, failed.message) == ("not_found", f"container {container_id} has ended: exit code 3")

    play(scene)


def test_ids_of_commands_are_checked(play):
    async def scene(stage, client, container_id):
        for exec_id, code in (("ex-1", "invalid"), (f"{new_exec_id()[:-1]}/", "invalid")):
            number = await client.start(methods.CONTAINER_EXEC, em.Exec(exec_id=exec_id, container_id=container_id))
            assert (await client.event(methods.CONTAINER_EXEC, number)).code == code
        run = await stage.run(client, container_id, "wait")
        await run.until(b"ready")
        again = em.Exec(exec_id=run.exec_id, container_id=container_id)
        number = await client.start(methods.CONTAINER_EXEC, again)
        assert (await client.event(methods.CONTAINER_EXEC, number)).code == "already_exists"

    play(scene)


def test_a_container_runs_only_so_many_commands(play):
    async def scene(stage, client, container_id):
        runs = [await stage.run(client, container_id, "wait") for _ in range(SESSIONS_MAX_CONTAINER)]
        for run in runs:
            await run.until(b"ready")
        refused = await (await stage.run(client, container_id, "cat")).end()
        assert (refused.code, str(SESSIONS_MAX_CONTAINER) in refused.message) == ("resource_exhausted", True)
        await runs[0].told(signal=signal.SIGINT)
        await runs[0].end()
        await (await stage.run(client, container_id, "wait")).until(b"ready")

    play(scene)


def test_a_runtime_that_cannot_is_said_so(play):
    async def scene(stage, client, container_id):
        can = stage.runtime.capabilities()
        stage.runtime.capabilities = lambda: type(can)(
            name="fake", isolation=False, memory_limit=False, process_limit=False
        )
        failed = await (await stage.run(client, container_id, "cat")).end()
        assert (failed.code, "'fake'" in failed.message) == ("unsupported", True)

    play(scene)


def test_containers_may_not_run_commands_in_others(folder):
    async def main():
        async with serving(folder) as (server, connect):
            wire = await connect()
            container_id = ids.make(ids.CONTAINER, bytes(16))
            await wire.hello("container", server._auth.container_token(container_id))
            for name, request in (
                ("container.exec", em.Exec(exec_id=new_exec_id(), container_id=container_id)),
                ("container.exec_input", em.ExecInput(exec_id=new_exec_id(), seq=0)),
                ("container.open", cm.ContainerOpen()),
                ("container.stats", cm.ContainerStats()),
            ):
                assert (await wire.ask(name, request)).code == "permission_denied"

    asyncio.run(main())


# ---------------------------------------------------------------------------------------------- containers


def test_a_container_that_is_held_runs_no_code_and_ends_with_its_stream(folder):
    async def main():
        async with staged(folder) as stage:
            client = await stage.client()
            number, container_id = await stage.opened(
                client,
                module="user",
                pickled=b"x",
                source_id="so-1",
                env={"A": "1"},
                resources=Resources(cpu_milli=500),
            )
            [launch] = stage.runtime.started
            assert (launch.template.module, launch.template.source_id) == ("", "so-1")
            assert (launch.env, launch.resources.cpu_milli, launch.config["pickled"]) == ({"A": "1"}, 500, "")
            [listed] = (await client.ask(methods.CONTAINER_LIST, cm.ContainerList())).containers
            assert (listed.container_id, listed.phase) == (container_id, Phase.READY)
            await client.wire.send(m.CancelRequest(number))
            assert (await stage.gone(container_id)).phase is Phase.STOPPED
            assert stage.server.fleet.nodes != {}
            assert all(not node.containers for node in stage.server.fleet.nodes.values())

    asyncio.run(main())


def test_a_container_that_is_held_ends_with_its_client(folder):
    async def main():
        async with staged(folder) as stage:
            client = await stage.client()
            _, container_id = await stage.opened(client)
            client.wire.writer.close()
            assert (await stage.gone(container_id)).phase is Phase.STOPPED

    asyncio.run(main())


def test_the_end_of_a_container_that_is_held_is_the_answer(folder):
    async def main():
        async with staged(folder) as stage:
            client = await stage.client()
            number, container_id = await stage.opened(client)
            stage.runtime.crash(container_id, Exit(signal=11))
            closed = await client.event(methods.CONTAINER_OPEN, number)
            assert (closed.container.container_id, closed.container.exit) == (container_id, Exit(signal=11))

    asyncio.run(main())


def test_a_container_that_cannot_be_started_says_why(folder):
    async def main():
        async with staged(folder, script=lambda _: Script(start_failure="the disk is full")) as stage:
            client = await stage.client()
            request = cm.ContainerOpen(spec=FunctionSpec(name="shell", image_id=stage.image_id))
            failed = await client.ask(methods.CONTAINER_OPEN, request)
            assert (failed.code, "the disk is full" in failed.message) == ("startup", True)
            missing = cm.ContainerOpen(spec=FunctionSpec(name="shell", image_id=ids.make(ids.IMAGE, b"n" * 16)))
            failed = await client.ask(methods.CONTAINER_OPEN, missing)
            assert (failed.code, "not on this machine" in failed.message) == ("startup", True)

    asyncio.run(main())


def test_a_container_that_no_machine_can_hold_is_refused_at_once(folder):
    async def main():
        async with staged(folder) as stage:
            client = await stage.client()
            huge = FunctionSpec(name="shell", image_id=stage.image_id, resources=Resources(memory_mib=10**9))
            failed = await client.ask(methods.CONTAINER_OPEN, cm.ContainerOpen(spec=huge))
            assert (failed.code, "are asked for" in failed.message) == ("resource_exhausted", True)
            failed = await client.ask(methods.CONTAINER_OPEN, cm.ContainerOpen(spec=FunctionSpec(name="shell")))
            assert failed.code == "invalid"
            failed = await client.ask(methods.CONTAINER_OPEN, cm.ContainerOpen(function_id="fu-none"))
            assert failed.code == "not_found"

    asyncio.run(main())


def test_what_containers_use(play):
    async def scene(stage, client, container_id):
        answer = await client.ask(methods.CONTAINER_STATS, cm.ContainerStats())
        assert [one.container_id for one in answer.measured] == [container_id]
        assert [one.container_id for one in answer.containers] == [container_id]
        assert answer.measured[0].usage.processes == 1
        one = await client.ask(methods.CONTAINER_STATS, cm.ContainerStats(container_id=container_id))
        assert [each.container_id for each in one.measured] == [container_id]
        none = await client.ask(methods.CONTAINER_STATS, cm.ContainerStats(container_id="ta-none"))
        assert none.code == "not_found"

    play(scene)
