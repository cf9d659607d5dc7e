"""The same methods over HTTP."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import msgspec
import pytest

from tests.server.conftest import SECRET, serving

BEARER = {"Authorization": f"Bearer {SECRET}"}


async def address_of(server) -> str:
    await asyncio.wait_for(server.http_settled.wait(), 5)
    return server.http_address


@pytest.fixture
def talk(folder):
    """Run `story(session, address, server)` against a server with HTTP."""

    def run(story):
        async def main():
            async with serving(folder, http_port=0) as (server, _), aiohttp.ClientSession() as session:
                await story(session, await address_of(server), server)

        asyncio.run(main())

    return run


def test_json_in_json_out(talk):
    async def story(session, address, server):
        async with session.post(f"{address}/v1/app.create", json={"name": "by http"}, headers=BEARER) as answer:
            assert answer.status == 200
            app_id = (await answer.json())["app_id"]
        async with session.post(f"{address}/v1/app.list", json={}, headers=BEARER) as answer:
            assert app_id in [app["app_id"] for app in (await answer.json())["apps"]]

    talk(story)


def test_msgpack_in_msgpack_out(talk):
    async def story(session, address, server):
        headers = {**BEARER, "Content-Type": "application/msgpack"}
        body = msgspec.msgpack.encode({})
        async with session.post(f"{address}/v1/server.status", data=body, headers=headers) as answer:
            assert answer.content_type == "application/msgpack"
            assert msgspec.msgpack.decode(await answer.read())["boot_id"] == server.boot_id

    talk(story)


@pytest.mark.parametrize(
    "method, headers, body, status, code",
    [
        ("server.status", {}, "{}", 401, "unauthenticated"),
        ("server.status", {"Authorization": "Bearer wrong"}, "{}", 401, "unauthenticated"),
        ("server.status", {"Authorization": f"Basic {SECRET}"}, "{}", 401, "unauthenticated"),
        ("no.such", BEARER, "{}", 404, "not_found"),
        ("app.get", BEARER, '{"app": "nope"}', 404, "not_found"),
        ("app.get", BEARER, "{}", 400, "invalid"),
        ("app.get", BEARER, "not json", 400, "invalid"),
        ("worker.attach", BEARER, "{}", 403, "permission_denied"),
    ],
)
def test_errors_have_a_status_and_a_typed_body(talk, method, headers, body, status, code):
    async def story(session, address, server):
        async with session.post(f"{address}/v1/{method}", data=body, headers=headers) as answer:
            assert answer.status == status
            detail = await answer.json()
            assert detail["code"] == code
            assert detail["message"]

    talk(story)


def test_a_stream_is_a_line_an_event_and_ends_with_the_answer(talk):
    async def story(session, address, server):
        async with session.post(f"{address}/v1/app.create", json={}, headers=BEARER) as answer:
            app_id = (await answer.json())["app_id"]
        async with session.post(f"{address}/v1/app.logs", json={"app": app_id}, headers=BEARER) as answer:
            lines = (await answer.text()).splitlines()
            assert msgspec.json.decode(lines[-1]) == {"answer": {}}

    talk(story)


def test_live_ready_and_version_need_no_token(talk):
    async def story(session, address, server):
        for path, key in (("livez", "live"), ("readyz", "ready"), ("version", "version")):
            async with session.get(f"{address}/{path}") as answer:
                assert answer.status == 200
                assert (await answer.json())[key]

    talk(story)


def test_a_port_in_use_leaves_the_server_running_and_says_so(folder):
    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            async with serving(folder, http_port=port) as (server, connect):
                assert await address_of(server) == ""
                assert str(port) in server.http_problem
                assert "--port" in server.http_problem
                assert await (await connect()).hello()

    asyncio.run(main())


def test_a_default_port_in_use_gives_way_to_another(folder):
    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            async with serving(folder, http_port=port, http_port_may_change=True) as (server, _):
                assert await address_of(server) not in ("", f"http://127.0.0.1:{port}")
                assert not server.http_problem

    asyncio.run(main())
