"""Starting processes that outlive who started them."""

import sys

import pytest

from jitney.compose import folder, processes
from jitney.errors import ConnectionError
from jitney.wire.home import Home


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    made.root.mkdir(mode=0o700)
    yield made
    folder.clear(made)


def test_a_process_is_started_in_its_own_session_with_its_output_in_a_file(tmp_path):
    code = "import os, sys; print(os.getsid(0) == os.getpid(), os.getcwd(), sys.stdin.read() == '')"
    process = processes.start([sys.executable, "-c", code], tmp_path / "log")
    assert process.wait(timeout=20) == 0
    assert (tmp_path / "log").read_text() == "True / True\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_logs_that_grew_too_long_are_moved_aside(tmp_path):
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        stream.truncate(processes.LOG_BYTES_MAX + 1)
    processes.rotate(log)
    assert not log.exists()
    assert (tmp_path / "server.log.old").exists()
    processes.rotate(log)


def test_last_lines(tmp_path):
    (tmp_path / "log").write_text("\n".join(map(str, range(100))))
    assert processes.last_lines(tmp_path / "log", 2) == "98\n99"
    assert processes.last_lines(tmp_path / "none") == ""


def test_a_server_that_ends_while_it_starts_is_told_with_what_it_said(home, monkeypatch):
    monkeypatch.setattr(
        processes,
        "server_argv",
        lambda *args, **kwargs: [sys.executable, "-c", "import sys; sys.exit('no room for it')"],
    )
    with pytest.raises(ConnectionError) as caught:
        processes.start_server(home)
    assert "exit code 1" in caught.value.message
    assert "no room for it" in caught.value.message


def test_nothing_to_wait_for(home):
    assert processes.running(home) is None
    assert processes.wait_for_end(home, timeout_ms=0)


def test_the_worker_is_started_again_after_growing_pauses(home, monkeypatch):
    from jitney.compose.server import RESTART_S_MAX, RESTART_S_MIN, STEADY_S, Worker

    monkeypatch.setattr(processes, "worker_argv", lambda home: [sys.executable, "-c", ""])
    worker = Worker(home)
    now_s, pauses = 0.0, []
    for _ in range(9):
        worker.start()
        worker._process.wait(timeout=20)
        worker._started_at_s = now_s
        now_s += 1.0
        said = worker.look(now_s)
        assert "exit code 0" in said
        pauses.append(worker._pause_s)
        assert worker.look(now_s + pauses[-1] / 2) == ""
        assert worker._process.returncode == 0
        now_s += pauses[-1]
        worker.look(now_s)
        worker._process.wait(timeout=20)
    assert pauses[0] == RESTART_S_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_S_MAX
    worker._started_at_s = now_s
    now_s += STEADY_S + 1
    worker.look(now_s)
    assert worker._pause_s == RESTART_S_MIN


def test_a_worker_that_lives_is_left_alone(home):
    from jitney.compose.server import Worker

    lock = folder.worker_lock(home)
    assert lock.try_acquire()
    worker = Worker(home)
    worker.start()
    assert worker._process is None
    assert worker.look(0.0) == ""
    lock.release()
    assert "ended" in worker.look(1.0)
