"""Which server a process talks to, and starting one that is not there."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import jitney
from jitney.client import embedded
from jitney.client import link as links
from jitney.client import session as sessions
from jitney.errors import ConnectionError, UnsupportedError
from jitney.wire.home import Home
from jitney.wire.messages.server import Empty
from jitney.wire.methods import SERVER_STATUS


def test_one_session_per_server(home, monkeypatch, tmp_path):
    first = sessions.current()
    assert sessions.current() is first
    assert first.home.root == home
    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "other"))
    assert sessions.current() is not first


def test_a_server_by_its_socket(server, monkeypatch, tmp_path):
    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("JITNEY_TOKEN", server.home.read_token())
    monkeypatch.setenv("JITNEY_SERVER", f"unix:{server.home.socket()}")
    assert sessions.current().ask(SERVER_STATUS, Empty()).boot_id == server.boot_id


def test_servers_that_cannot_be_reached(home, monkeypatch):
    monkeypatch.setenv("JITNEY_SERVER", "https://example.com")
    with pytest.raises(UnsupportedError, match="same machine only"):
        sessions.current()
    monkeypatch.setenv("JITNEY_SERVER", "/nowhere/link.sock")
    with pytest.raises(ConnectionError, match="there is no socket"):
        sessions.current()


def test_autostart_can_be_switched_off(home, monkeypatch):
    monkeypatch.setenv("JITNEY_AUTOSTART", "no")
    assert not sessions.current().autostart
    monkeypatch.setenv("JITNEY_AUTOSTART", "1")
    sessions._sessions.clear()
    assert sessions.current().autostart


def test_a_server_that_does_not_come_up_says_its_last_words(home, monkeypatch):
    monkeypatch.setattr(
        embedded, "COMMAND", ["-c", "import sys; print('first'); print('the disk is full'); sys.exit(3)"]
    )
    with pytest.raises(ConnectionError, match="it ended with exit code 3, having written") as caught:
        embedded.ensure_running(Home(home))
    assert caught.value.message.endswith("    first\n    the disk is full")
    assert "jitney doctor" in caught.value.hint


def test_a_server_that_is_too_slow(home, monkeypatch):
    monkeypatch.setattr(embedded, "START_S_MAX", 0.1)
    monkeypatch.setattr(embedded, "COMMAND", ["-c", "import signal; signal.alarm(5); signal.pause()"])
    with pytest.raises(ConnectionError, match="did not answer within 0 s, and wrote nothing"):
        embedded.ensure_running(Home(home))


def test_only_the_words_of_this_start_are_shown(home, monkeypatch):
    home.mkdir()
    Home(home).server_log.write_text("old\n")
    monkeypatch.setattr(embedded, "COMMAND", ["-c", "print('new'); raise SystemExit(1)"])
    with pytest.raises(ConnectionError) as caught:
        embedded.ensure_running(Home(home))
    assert "old" not in caught.value.message


SERVER = """
import os, pathlib, signal, sys
from jitney.testing.fake_server import FakeServer
root = pathlib.Path(os.environ["JITNEY_HOME"])
with (root / "starts").open("a") as file:
    file.write("x")
server = FakeServer(root)
server.deploy("a", square=lambda x: x * x)
server.start()
signal.alarm(20)
signal.pause()
"""


def test_two_clients_at_once_start_one_server(home, monkeypatch):
    home.mkdir()
    monkeypatch.setattr(embedded, "COMMAND", ["-c", SERVER])
    started = []

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(embedded.subprocess, "Popen", start)
    monkeypatch.setenv("JITNEY_AUTOSTART", "1")
    threads = [threading.Thread(target=embedded.ensure_running, args=(Home(home),)) for _ in range(5)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (home / "starts").read_text() == "x"
        assert jitney.Function.from_name("a", "square").remote(3) == 9
    finally:
        for one in started:
            os.kill(one.pid, 9)
            os.waitpid(one.pid, 0)


def test_a_crashed_server_is_started_again_after_a_while(server, monkeypatch):
    monkeypatch.setenv("JITNEY_AUTOSTART", "1")
    sessions._sessions.clear()
    session = sessions.current()
    session.ask(SERVER_STATUS, Empty())
    starts = []
    monkeypatch.setattr(embedded, "ensure_running", lambda home: starts.append(home) or server.start())
    monkeypatch.setattr(sessions, "RESTART_AFTER_S", 0.1)
    server.crash()
    session.ask(SERVER_STATUS, Empty())
    assert starts == [session.home]


def test_a_server_that_was_stopped_on_purpose_is_started_for_something_new_only(server, monkeypatch):
    from jitney.client import link

    monkeypatch.setattr(link, "GIVE_UP_S", 0.3)
    monkeypatch.setattr(sessions, "RESTART_AFTER_S", 0.0)
    monkeypatch.setenv("JITNEY_AUTOSTART", "1")
    sessions._sessions.clear()
    session = sessions.current()
    session.ask(SERVER_STATUS, Empty())
    starts = []
    monkeypatch.setattr(embedded, "ensure_running", lambda home: starts.append(home) or server.start())

    def stop(request, emit):
        server.loop.call_later(0.01, stopped.set)
        server.home.server_info.unlink()
        return asyncio.Event().wait()

    stopped = threading.Event()
    threading.Thread(target=lambda: (stopped.wait(10), server.stop()), daemon=True).start()
    server.answers.server_status = stop
    with pytest.raises(ConnectionError):
        session.ask(SERVER_STATUS, Empty())  # under way when it stopped
    assert starts == []
    del server.answers.server_status
    assert session.ask(SERVER_STATUS, Empty()).boot_id == server.boot_id
    assert len(starts) == 1


def test_a_process_that_ends_hangs_up_cleanly(server):
    server.deploy("a", square=lambda x: x * x)
    program = "import jitney; f = jitney.Function.from_name('a', 'square'); print(f.remote(4), list(f.map([1, 2])))"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "16 [1, 4]\n"
    assert done.stderr == ""


def test_importing_and_declaring_starts_nothing(home):
    program = (
        "import sys, threading, jitney\n"
        "assert 'asyncio' not in sys.modules and 'msgspec' not in sys.modules\n"
        "app = jitney.App()\n"
        "@app.function()\n"
        "def f(): ...\n"
        "assert threading.active_count() == 1\n"
        "assert 'asyncio' not in sys.modules and 'cloudpickle' not in sys.modules, 'heavy'\n"
        "assert dir(jitney) and jitney.exception.TimeoutError and jitney.__version__\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="did you mean 'Function'"):
        jitney.Functoin  # noqa: B018
    with pytest.raises(AttributeError, match="no 'Sandbox' in this version"):
        jitney.Sandbox  # noqa: B018
    assert not hasattr(jitney, "Sandbox")


def test_the_version_is_that_of_the_package():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert jitney.__version__ == project["version"]


def test_a_container_waits_for_a_server_that_is_away_when_it_first_asks(server, in_container, monkeypatch):
    in_container("ap-1")
    server.stop()
    tried = threading.Event()
    no_server = links.no_server
    monkeypatch.setattr(links, "no_server", lambda *given: tried.set() or no_server(*given))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sessions.current().ask, SERVER_STATUS, Empty())
        assert tried.wait(10)
        server.start()
        assert asked.result(10).boot_id == server.boot_id
