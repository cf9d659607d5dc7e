"""A damaged folder, a taken port, a full disk, a wrong token, another version: said in a sentence, nothing is lost."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from jitney.wire import codec
from jitney.wire.frames import Splitter
from jitney.wire.messages import link as messages
from tests.e2e.platforms import Platform, eventually

pytestmark = pytest.mark.e2e

SQUARE = """
    import jitney

    app = jitney.App("squares")

    @app.function()
    def square(x: int) -> int:
        return x * x
"""
DISK_BYTES = 320 * 1024 * 1024


@pytest.fixture(scope="module")
def squares(platform):
    platform.write("squares.py", SQUARE)
    assert platform.jitney("run", "-q", "squares.py", "--x", "3").lines == ["9"]
    return platform


def is_plain(done):
    """Whether a command failed as commands should: some lines for people, no traceback."""
    return done.code != 0 and "error: " in done.err and "Traceback" not in done.err and len(done.err.splitlines()) < 20


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("command", ["run", "deploy"])
def test_a_file_that_does_not_import_shows_where(squares, command):
    squares.write("raises.py", "import jitney\napp = jitney.App('raises')\n1 / 0\n")
    done = squares.jitney(command, "raises.py", code=1)
    assert "raises.py" in done.err
    assert "line 3" in done.err
    assert "ZeroDivisionError" in done.err
    assert "importlib" not in done.err


def test_a_file_with_a_syntax_error_shows_where(squares):
    squares.write("syntax.py", "import jitney\ndef (:\n")
    done = squares.jitney("run", "syntax.py", code=1)
    assert "SyntaxError" in done.err
    assert "line 2" in done.err


def test_a_function_that_is_not_there_is_told_with_the_near_name(squares):
    done = squares.jitney("run", "squares.py::sqare", "--x", "1", code=3)
    assert "did you mean 'square'" in done.err
    assert is_plain(done)


# ---------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("content", [b"this is no database", os.urandom(8192), b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_store_is_refused_and_left_as_it_is(lone, content):
    lone.home.root.mkdir(mode=0o700)
    lone.home.store.write_bytes(content)
    lone.write("squares.py", SQUARE)
    done = lone.jitney("run", "squares.py", "--x", "3", code=None)
    assert is_plain(done), done
    assert "store.sqlite" in done.err
    assert lone.home.store.read_bytes() == content
    assert lone.server() is None


def test_a_store_that_was_damaged_after_use_is_refused(lone):
    lone.write("squares.py", SQUARE)
    lone.jitney("deploy", "squares.py")
    lone.jitney("down")
    with lone.home.store.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(16 * 1024))
    damaged = lone.home.store.read_bytes()
    done = lone.jitney("run", "squares.py", "--x", "3", code=None)
    assert is_plain(done), done
    assert lone.home.store.read_bytes() == damaged
    assert "store" in lone.jitney("doctor", code=None).out


def test_other_garbage_in_the_folder_is_survived_or_named(lone):
    lone.home.root.mkdir(mode=0o700)
    lone.write("squares.py", SQUARE)
    (lone.home.root / "server.json").write_bytes(b"{ not json")
    (lone.home.root / "lock").write_text("4711\n")
    (lone.home.root / "token").write_text("")
    (lone.home.root / "token").chmod(0o600)
    lone.home.sockets.mkdir(parents=True, mode=0o700)
    lone.home.socket().write_text("a file where the socket should be")
    assert lone.jitney("run", "-q", "squares.py", "--x", "3").lines == ["9"]
    lone.jitney("down")
    (lone.home.root / "config.toml").write_text("[server]\nhttp_prot = 1\n")
    done = lone.jitney("run", "squares.py", "--x", "3", code=None)
    assert is_plain(done), done
    assert "did you mean 'http_port'" in done.err


def test_a_home_that_cannot_be_used_is_named(squares, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = squares.jitney("run", "squares.py", "--x", "3", code=None, JITNEY_HOME=str(tmp_path / "file"))
    assert is_plain(done), done
    assert str(tmp_path / "file") in done.err


def test_a_home_whose_path_is_long_or_odd_works(tmp_path):
    for name in ("a very " + "long " * 20 + "path", "Ünïcode'\"$x"):
        odd = Platform(tmp_path / "user", home=tmp_path / name)
        try:
            odd.write("squares.py", SQUARE)
            assert odd.jitney("run", "-q", "squares.py", "--x", "3").lines == ["9"]
            odd.end()
        finally:
            odd.clean()


# ---------------------------------------------------------------------------------------------------- the port


def test_a_taken_port_leaves_the_server_without_http_and_says_so(lone):
    lone.write("squares.py", SQUARE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lone.environment["JITNEY_HTTP_PORT"] = port
        assert lone.jitney("run", "-q", "squares.py", "--x", "3").lines == ["9"]
        eventually(lambda: f"port {port}" in lone.log())
        assert port in lone.jitney("doctor", code=None).out
        lone.jitney("down")


# ---------------------------------------------------------------------------------------------------- who may come in


def test_a_wrong_token_is_refused_with_where_the_right_one_is(squares):
    done = squares.jitney("app", "list", code=4, JITNEY_TOKEN="wrong" * 10)
    assert is_plain(done)
    assert "token" in done.err


def test_no_token_is_refused_with_where_it_should_be(squares):
    token = squares.home.token.read_bytes()
    squares.home.token.unlink()
    try:
        done = squares.jitney("app", "list", code=4)
    finally:
        squares.home.token.write_bytes(token)
        squares.home.token.chmod(0o600)
    assert is_plain(done)
    assert str(squares.home.token) in done.err


def test_http_wants_the_token_too(squares):
    address = eventually(lambda: squares.home.read_server_info().http)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        request = urllib.request.Request(f"{address}/v1/server.status", data=b"{}", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 401
        caught.value.close()


def test_a_token_that_others_can_read_is_no_secret(lone):
    lone.home.root.mkdir(mode=0o700)
    lone.home.token.write_text("x" * 43 + "\n")
    lone.home.token.chmod(0o644)
    lone.write("squares.py", SQUARE)
    done = lone.jitney("run", "squares.py", "--x", "3", code=None)
    assert is_plain(done), done
    assert str(lone.home.token) in done.err


# ---------------------------------------------------------------------------------------------------- another version


@contextlib.contextmanager
def answering(path, answer):
    """A server at a socket that answers every Hello with `answer`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    splitter = Splitter()
                    while not (data := peer.recv(65536)) or not splitter.feed(data):
                        if not data:
                            break
                    with contextlib.suppress(OSError):
                        peer.sendall(answer)
                        peer.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    "answer, words",
    [
        (codec.encode_frame(messages.Welcome(messages.PROTOCOL + 1, "9.0.0", "boot")), ["9.0.0", "protocol"]),
        (
            codec.encode_frame(messages.Failed(0, "version_mismatch", "this server is Jitney 9.0.0", "update it")),
            ["9.0.0", "update it"],
        ),
        (codec.encode_frame(messages.Failed(0, "a_code_of_tomorrow", "not today", "come back")), ["not today"]),
    ],
)
def test_a_server_of_another_version_is_named(squares, tmp_path, answer, words):
    with answering(tmp_path / "other.sock", answer):
        done = squares.jitney("app", "list", code=None, JITNEY_SERVER=str(tmp_path / "other.sock"))
    assert is_plain(done), done
    assert all(word in done.err for word in words), done.err


def test_something_that_is_no_server_is_told_as_such(squares, tmp_path):
    with answering(tmp_path / "web.sock", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        done = squares.jitney("app", "list", code=None, JITNEY_SERVER=str(tmp_path / "web.sock"))
    assert is_plain(done), done
    assert done.code == 4


def test_a_client_of_another_version_is_refused_by_the_server(squares):
    hello = messages.Hello(messages.PROTOCOL + 1, "9.0.0", squares.home.read_token(), "client", os.getpid())
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(squares.home.socket()))
        client.sendall(codec.encode_frame(hello))
        splitter = Splitter()
        while not (bodies := splitter.feed(client.recv(65536))):
            pass
    refusal = codec.decode_from_server(bodies[0])
    assert isinstance(refusal, messages.Failed)
    assert refusal.code == "version_mismatch"
    assert "9.0.0" in refusal.message


def test_bytes_that_are_no_protocol_end_one_connection_only(squares):
    for garbage in (b"\xff" * 64, b"\x00\x00\x00\x00", b"\x05\x00\x00\x00hello", b"GET / HTTP/1.1\r\n\r\n"):
        for name in ("link.sock", "runner.sock"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(squares.home.socket(name)))
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(65536):
                        pass
    assert squares.jitney("run", "-q", "squares.py", "--x", "3").lines == ["9"]


# ---------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = f"size={DISK_BYTES},mode=700"
    if mount is None or os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path):
    """Take all the room that is left."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        size = free.f_bavail * free.f_frsize
        while size > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError:
                size -= 64 * 1024


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_full_disk_refuses_spawns_loses_nothing_and_recovers(tmp_path, small_disk):
    platform = Platform(tmp_path, home=small_disk / "home")
    platform.write("squares.py", SQUARE)
    platform.write(
        "spawner.py",
        """
        import sys
        import jitney

        square = jitney.Function.from_name("squares", "square")
        for n in range(100_000):
            try:
                call = square.spawn_map([n] * 50)
            except jitney.exception.Error as error:
                print("refused", error.code, flush=True)
                break
            print("taken", call.object_id, n, flush=True)
            if n >= int(sys.argv[1]):
                break
        """,
    )
    platform.write(
        "reader.py",
        """
        import jitney
        for line in open("ids").read().split():
            call_id, n = line.split(":")
            results = list(jitney.FunctionCall.from_id(call_id).iter())
            assert results == [int(n) ** 2] * 50, results
        print("all read")
        """,
    )
    try:
        platform.jitney("deploy", "squares.py")
        before = platform.python("spawner.py", 3).lines
        fill(small_disk / "filler")
        full = platform.python("spawner.py", 100_000, timeout=90).lines
        assert full[-1] in ("refused storage_full", "refused storage"), full[-3:]
        assert "squares" in platform.jitney("app", "list").out, "what only reads goes on"
        (small_disk / "filler").unlink()
        eventually(lambda: platform.python("spawner.py", 0).lines[-1].startswith("taken"), 20, "it recovers by itself")
        taken = [line.split()[1:] for line in before + full if line.startswith("taken")]
        platform.write("ids", "\n".join(map(":".join, taken)))
        assert platform.python("reader.py", timeout=60).lines == ["all read"]
        platform.end()
    finally:
        platform.clean()
