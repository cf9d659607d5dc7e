"""The link: first words, requests, streams, and what happens when it breaks."""

import asyncio
import socket
import threading

import pytest

from jitney.client import link as links
from jitney.client import session as sessions
from jitney.client.portal import PORTAL
from jitney.errors import AuthError, ConnectionError, NotFoundError, ResourceExhaustedError, VersionError
from jitney.values.images import ImageSpec
from jitney.wire.messages import link as m
from jitney.wire.messages.apps import AppCreate, AppLogs, AppRef
from jitney.wire.messages.images import BuildProgress, ImageBuild
from jitney.wire.messages.server import Empty
from jitney.wire.methods import APP_CREATE, APP_GET, APP_LOGS, IMAGE_BUILD, SERVER_STATUS


@pytest.fixture
def session(server):
    return sessions.current()


def test_an_answer_has_the_type_of_its_method(server, session):
    assert session.ask(SERVER_STATUS, Empty()).boot_id == server.boot_id
    hello = server.seen.hellos[0]
    assert (hello.role, hello.protocol) == ("client", m.PROTOCOL)


def test_a_failure_is_the_typed_error(server, session):
    with pytest.raises(NotFoundError, match="no app nothing"):
        session.ask(APP_GET, AppRef(app="nothing"))
    server.answers.fail["app.get"] = ResourceExhaustedError("too many", hint="wait")
    with pytest.raises(ResourceExhaustedError) as caught:
        session.ask(APP_GET, AppRef(app="x"))
    assert caught.value.hint == "wait"


def test_a_wrong_token_says_where_the_right_one_is(server, session, monkeypatch):
    monkeypatch.setenv("JITNEY_TOKEN", "wrong")
    with pytest.raises(AuthError, match=r"does not accept.*JITNEY_TOKEN"):
        session.ask(SERVER_STATUS, Empty())


def test_a_missing_token_says_where_it_is(server, session):
    server.home.token.unlink()
    with pytest.raises(AuthError, match=f"has no token.*{server.home.token}"):
        session.ask(SERVER_STATUS, Empty())


def test_another_protocol_says_both_versions_and_what_to_do(server, session):
    server.faults.protocol = 99
    with pytest.raises(VersionError, match=r"protocol 1; the server is Jitney 9\.9\.9, which speaks protocol 99"):
        session.ask(SERVER_STATUS, Empty())
    server.faults.reject = VersionError("the client is too old")
    with pytest.raises(VersionError, match="install the same version"):
        session.ask(SERVER_STATUS, Empty())


def test_no_server_is_an_error_with_a_remedy(home):
    with pytest.raises(ConnectionError, match=r"no Jitney server answers.*jitney up"):
        sessions.current().ask(SERVER_STATUS, Empty())


def test_something_else_behind_the_socket(home):
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "link.sock"))
        listener.listen()

        def hang_up():
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(ConnectionError, match="no Jitney server answers"):
            sessions.current().ask(SERVER_STATUS, Empty())


def test_events_come_before_the_answer(server, session):
    server.answers.build_events = [
        BuildProgress(image_id="im-1", step=1, steps=2, title="base"),
        BuildProgress(image_id="im-1", step=2, steps=2, title="pip"),
    ]

    async def build():
        stream = await session.stream(IMAGE_BUILD, ImageBuild(spec=ImageSpec()))
        events = [event async for event in stream]
        return [event.step for event in events], stream.answer

    steps, answer = PORTAL.call(build())
    assert steps == [1, 2]
    assert answer.image == server.answers.built


def test_a_request_is_asked_again_after_a_break(server, session):
    app = session.ask(APP_CREATE, AppCreate(name="x"))
    broken = threading.Event()
    handler = server.answers.app_get

    def break_once(request, emit):
        if not broken.is_set():
            broken.set()
            for link in list(server.links):
                link.close()
        return handler(request, emit)

    server.answers.app_get = break_once
    assert session.ask(APP_GET, AppRef(app=app.app_id)).name == "x"
    assert server.seen.requests.count("app.get") == 2


def test_a_request_that_may_not_be_repeated_fails_at_the_break(server, session):
    def hang_up(request, emit):
        for link in list(server.links):
            link.close()

    server.answers.app_create = hang_up
    with pytest.raises(ConnectionError, match=r"while 'app\.create' was under way.*may have taken effect"):
        session.ask(APP_CREATE, AppCreate(), resend=False)


def test_a_stream_ends_at_the_break(server, session):
    app = session.ask(APP_CREATE, AppCreate(name="x"))

    async def read():
        stream = await session.stream(APP_LOGS, AppLogs(app=app.app_id, follow=True))
        async for event in stream:
            server.drop_links()
            assert event.lines[0].text == "hello"

    server.answers.say(app.app_id, "hello")
    with pytest.raises(ConnectionError):
        PORTAL.call(read())


def test_a_server_that_stays_away_is_given_up(server, session, monkeypatch):
    monkeypatch.setattr(links, "GIVE_UP_S", 0.2)
    session.ask(SERVER_STATUS, Empty())
    started = threading.Event()

    async def never(request, emit):
        started.set()
        await asyncio.Event().wait()

    server.answers.app_get = never
    threading.Thread(target=lambda: (started.wait(), server.stop()), daemon=True).start()
    with pytest.raises(ConnectionError, match="no Jitney server answers"):
        session.ask(APP_GET, AppRef(app="x"))
    server.start()  # for the fixture to stop


def test_a_closed_session_can_be_used_again(server, session):
    session.ask(SERVER_STATUS, Empty())
    PORTAL.call(session.close())
    session.ask(SERVER_STATUS, Empty())
    assert len(server.seen.hellos) == 2


def test_many_requests_at_once_share_one_connection(server, session):
    async def ask_many():
        return await asyncio.gather(*(session.request(SERVER_STATUS, Empty()) for _ in range(50)))

    assert len(PORTAL.call(ask_many())) == 50
    assert len(server.seen.hellos) == 1


def test_a_reader_that_does_not_keep_up_holds_the_server_back(server, session, monkeypatch):
    monkeypatch.setattr(links, "STREAM_EVENTS_HIGH", 20)
    server.answers.build_events = [
        BuildProgress(image_id="im-1", step=n, steps=500, title="x" * 1_000) for n in range(500)
    ]

    async def build():
        stream = await session.stream(IMAGE_BUILD, ImageBuild(spec=ImageSpec()))
        count = 0
        async for _ in stream:
            await asyncio.sleep(0)
            count += 1
        return count

    assert PORTAL.call(build()) == 500
