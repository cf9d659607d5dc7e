"""What reaches the server over a link: who may say what, and what becomes of nonsense."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitney.runner import protocol
from jitney.server.api.table import SCOPES
from jitney.values import ids
from jitney.values.calls import CallKind
from jitney.wire.frames import LENGTH, frame
from jitney.wire.home import Home
from jitney.wire.messages import link as m
from jitney.wire.messages.apps import AppCreate
from jitney.wire.messages.server import Empty
from jitney.wire.methods import METHODS
from tests.server.conftest import SECRET, serving

CONTAINER = ids.make(ids.CONTAINER, bytes(range(16)))
CALL = ids.make(ids.CALL, bytes(16))


def test_a_client_with_the_token_is_welcome_and_gets_answers(folder):
    async def main():
        async with serving(folder) as (server, connect):
            wire = await connect()
            welcome = await wire.hello()
            assert isinstance(welcome, m.Welcome)
            assert welcome.boot_id == server.boot_id
            assert isinstance(await wire.ask("server.status", Empty()), m.Answer)

    asyncio.run(main())


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_wrong_token_is_told_where_the_right_one_is(folder, token):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            refused = await wire.hello(token=token)
            assert isinstance(refused, m.Failed)
            assert refused.code == "unauthenticated"
            assert "token" in refused.hint
            assert await wire.receive() is None

    asyncio.run(main())


def test_nothing_is_answered_before_hello(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            refused = await wire.ask("server.stop", {})
            assert isinstance(refused, m.Failed)
            assert refused.code == "invalid"
            assert await wire.receive() is None

    asyncio.run(main())


@pytest.mark.parametrize("role", ["client", "container", "worker"])
def test_each_role_may_call_its_methods_and_no_other(folder, role):
    async def main():
        async with serving(folder) as (server, connect):
            wire = await connect()
            token = server._auth.container_token(CONTAINER) if role == "container" else SECRET
            assert isinstance(await wire.hello(role, token), m.Welcome)
            for method in METHODS.values():
                if method.scope in SCOPES[role]:
                    continue
                refused = await wire.ask(method.name, {})
                assert isinstance(refused, m.Failed), method.name
                assert refused.code == "permission_denied", method.name

    asyncio.run(main())


def test_unknown_methods_and_wrong_bodies_are_typed_errors_and_the_link_lives_on(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            await wire.hello()
            for name, body, code in [
                ("no.such", {}, "not_found"),
                ("app.create", {"name": 5}, "invalid"),
                ("app.create", [], "invalid"),
                ("app.get", {"app": "nope"}, "not_found"),
                ("function.get", {"app": "nope", "name": "f"}, "not_found"),
                ("call.show", {"call_id": "../../etc/passwd"}, "not_found"),
                ("app.publish", {"app_id": "", "functions": [{"name": ""}]}, "invalid"),
                ("source.create", {"files": [["../x", "0" * 64, False]]}, "invalid"),
                ("app.logs", {"app": "../../x"}, "not_found"),
            ]:
                refused = await wire.ask(name, body)
                assert isinstance(refused, m.Failed), (name, body)
                assert refused.code == code, (name, body, refused)
            assert isinstance(await wire.ask("app.create", AppCreate(name="still here")), m.Answer)

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, LENGTH.pack(2**31), frame(b"\xc1"), frame(b"\x93\x0a\x01")],
    ids=["http", "ones", "a length over the limit", "no msgpack", "a wrong message"],
)
def test_garbage_ends_the_link_that_sent_it_and_no_other(folder, garbage):
    async def main():
        async with serving(folder) as (_, connect):
            good, bad = await connect(), await connect()
            await good.hello()
            await bad.hello()
            bad.writer.write(garbage)
            bad.writer.write_eof()
            while await bad.receive() is not None:
                pass
            assert isinstance(await good.ask("server.status", Empty()), m.Answer)

    asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_random_bytes_never_hurt_the_server(folder, pieces):
    async def main():
        async with serving(folder) as (_, connect):
            for start in (b"", frame(b"")):
                bad = await connect()
                await bad.hello()
                bad.writer.write(start + b"".join(pieces))
                bad.writer.write_eof()
            runner = await asyncio.open_unix_connection(str(Home(folder).socket("runner.sock")))
            runner[1].write(b"".join(pieces))
            runner[1].write_eof()
            good = await connect()
            await good.hello()
            assert isinstance(await good.ask("server.status", Empty()), m.Answer)
            runner[1].close()

    asyncio.run(main())


def test_calls_of_what_is_not_there_are_refused_for_good(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            await wire.hello()
            for message in (
                m.Invoke(CALL, "fu-none", "", CallKind.UNARY, b"x"),
                m.Invoke("not an id", "fu-none", "", CallKind.UNARY, b"x"),
                m.Inputs(CALL, 0, [b"x"]),
                m.OpenCall(CALL, "fu-none", ""),
            ):
                await wire.send(message)
                refused = await wire.receive()
                assert isinstance(refused, m.Refused), message
                assert refused.retry_after_ms == 0
            for ignored in (m.Credit(CALL, 5), m.CancelCall(CALL), m.EndInputs(CALL, 3), m.CancelRequest(9)):
                await wire.send(ignored)
            assert isinstance(await wire.ask("server.status", Empty()), m.Answer)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["worker.attach", "server.status"])
def test_a_request_that_is_cancelled_before_it_begins_is_answered(folder, method):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            await wire.hello()
            await wire.send(m.Request(7, method, msgspec.msgpack.encode({})), m.CancelRequest(7))
            answer = await wire.receive()
            assert isinstance(answer, m.Failed)
            assert (answer.id, answer.code) == (7, "cancelled")
            await wire.send(m.CancelRequest(7))  # of which nothing is left
            assert isinstance(await wire.ask("server.status", Empty()), m.Answer)

    asyncio.run(main())


def test_a_container_without_its_token_is_rejected(folder):
    async def main():
        async with serving(folder) as (server, _):
            for hello in (
                {"container": CONTAINER, "token": "wrong"},
                {"container": "x", "token": server._auth.container_token(CONTAINER)},
                {},
            ):
                reader, writer = await asyncio.open_unix_connection(str(Home(folder).socket("runner.sock")))
                writer.write(protocol.pack_json(protocol.HELLO, hello))
                splitter = protocol.Splitter()
                frames = splitter.feed(await asyncio.wait_for(reader.read(4096), 5))
                assert frames[0][0] == protocol.REJECT
                assert await asyncio.wait_for(reader.read(1), 5) == b""
                writer.close()

    asyncio.run(main())


def test_the_sockets_are_for_this_user_only(folder):
    async def main():
        async with serving(folder):
            home = Home(folder)
            for name in ("link.sock", "runner.sock"):
                assert os.stat(home.socket(name)).st_mode & 0o777 == 0o666, "containers have other ids than we"

    asyncio.run(main())


def test_a_server_without_work_ends_by_itself(folder):
    async def main():
        async with serving(folder, idle_stop_s=0.1) as (server, _):
            await asyncio.wait_for(server._stopping.wait(), 5)

    asyncio.run(main())
