"""The folder of a server: private, locked, with a token that nobody else can read."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from jitney.compose import folder
from jitney.errors import AlreadyExistsError, AuthError, InvalidError
from jitney.wire.home import Home, ServerInfo


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    yield made
    folder.clear(made)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_claim_makes_private_folders_and_a_token(home):
    lock = folder.claim(home)
    assert mode(home.root) == 0o700
    assert mode(home.blobs) == 0o1733, "containers may write there, and nobody may look around"
    assert mode(home.token) == 0o600
    assert len(home.read_token()) >= 43
    lock.release()


def test_a_second_server_is_refused_with_pid_and_folder(home):
    first = folder.claim(home)
    with pytest.raises(AlreadyExistsError) as caught:
        folder.claim(home)
    assert str(os.getpid()) in str(caught.value)
    assert str(home.root) in str(caught.value)
    assert "jitney down" in caught.value.hint
    first.release()
    folder.claim(home).release()


def test_the_lock_goes_with_its_process(home):
    folder.prepare(home)
    code = (
        "import sys; from jitney.compose import folder; from jitney.wire.home import Home; from pathlib import Path\n"
        "lock = folder.server_lock(Home(Path(sys.argv[1]))); print(lock.try_acquire(), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(home.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"True\n"
        assert folder.server_lock(home).holder() == holder.pid
        assert not folder.server_lock(home).try_acquire()
        holder.kill()
        holder.wait()
    assert folder.server_lock(home).holder() is None


def test_asking_who_holds_a_lock_keeps_nobody_from_taking_it(home):
    folder.prepare(home)
    folder.server_lock(home).try_acquire()
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            folder.worker_lock(home).holder()

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(50):
            lock = folder.worker_lock(home)
            assert lock.try_acquire()
            lock.release()
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def test_the_token_is_made_once(home):
    folder.prepare(home)
    assert folder.ensure_token(home) == folder.ensure_token(home)


def test_a_token_that_others_can_read_is_refused(home):
    folder.prepare(home)
    folder.ensure_token(home)
    home.token.chmod(0o644)
    with pytest.raises(AuthError, match="644"):
        folder.ensure_token(home)


def test_a_token_that_was_cut_off_is_made_again(home):
    folder.prepare(home)
    home.token.touch(mode=0o600)
    assert len(folder.ensure_token(home)) >= 43


def test_a_folder_that_others_can_write_to_is_refused(home):
    home.root.mkdir()
    home.root.chmod(0o777)
    with pytest.raises(InvalidError, match="777"):
        folder.claim(home)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidError, match="JITNEY_HOME"):
        folder.claim(Home(tmp_path / "file" / "home"))


def test_server_info_is_whole_and_only_its_own_server_takes_it_away(home):
    folder.prepare(home)
    mine = ServerInfo(pid=os.getpid(), version="1", socket="s")
    folder.publish(home, mine)
    assert home.read_server_info() == mine
    assert mode(home.server_info) == 0o600
    folder.retract(home)
    assert home.read_server_info() is None
    folder.publish(home, ServerInfo(pid=1, version="1", socket="s"))
    folder.retract(home)
    assert home.read_server_info() is not None


def test_what_a_killed_server_said_is_taken_away(home):
    folder.prepare(home)
    folder.publish(home, ServerInfo(pid=1, version="1", socket="s"))
    lock = folder.claim(home)
    assert home.read_server_info() is None
    lock.release()


def test_clear_leaves_nothing_outside_of_the_folder(tmp_path):
    home = Home(tmp_path / ("long" * 30) / "home")
    folder.prepare(home)
    (home.segments / "used").mkdir()
    folder.clear(home)
    assert not home.segments.exists()
    assert not home.sockets.parent.exists()
    assert home.root.exists()
    folder.clear(home)
