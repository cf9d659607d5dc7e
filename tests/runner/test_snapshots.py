"""Snapshots: what runs once in the template, what each fork begins with, and what is not forked."""

import base64
import os
import pickle
import shutil
import socket
import subprocess
import sys

import cloudpickle
import pytest

from jitney.runner import payload, template_protocol
from tests.runner.fake_server import arguments
from tests.runner.fake_worker import PACKAGE_ROOT

MARKS = """
def enter(f): f.__jitney_enter__ = True; return f
def snap(f): f.__jitney_enter__ = f.__jitney_snap__ = True; return f
"""
MODEL = """
    import os
    from jitney_marks import enter, snap

    class Model:
        @enter
        def later(self): self.log.append(("enter", os.getpid()))

        @snap
        def first(self): self.log = [("snap", os.getpid())]

        @snap
        def second(self): self.log.append(("snap again", os.getpid()))

        def get(self): return self.log, os.getpid()
"""


def model(**changes):
    return {"qualname": "Model", "pickled": "", "parameters": "", "env": [], "timeout_ms": 60_000, **changes}


@pytest.fixture
def snapshot(worker, tmp_path):
    """`snapshot(code)` starts a template with a snapshot of its class Model."""
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "jitney_marks.py").write_text(MARKS)

    def start(code, *, kind="template", wait=True, **changes):
        return worker(code, kind=kind, wait=wait, snapshot=model(**changes))

    return start


def run(fake, method="get", **options):
    """A container of Model, and what the method gave."""
    container = fake.fork(qualname="Model", is_class=True, methods={method: ""}, **options)
    link = container.link
    return link.value(link.run(arguments(), method=method)[0])


def test_snapshot_methods_run_once_and_the_others_in_each_fork(snapshot):
    fake = snapshot(MODEL)
    template = fake.loaded()["pid"]
    runs = [run(fake), run(fake)]
    for log, pid in runs:
        assert log == [("snap", template), ("snap again", template), ("enter", pid)]
    assert len({pid for _, pid in runs} | {template}) == 3
    assert fake.loaded()["obstacles"] == []


def test_without_a_snapshot_and_in_a_cold_container_they_run_before_the_others(worker, snapshot):
    for fake in (worker(MODEL), snapshot(MODEL, kind="cold")):
        log, pid = run(fake)
        assert log == [("snap", pid), ("snap again", pid), ("enter", pid)]


def test_parameters_variables_and_pickled_classes(snapshot):
    class Model:
        def __init__(self, size):
            import os

            self.seen = [size, os.environ["KIND"], os.environ["JITNEY_IS_REMOTE"]]

        def get(self):
            return self.seen

    fake = snapshot(
        "",
        pickled=base64.b64encode(cloudpickle.dumps(Model)).decode(),
        parameters=base64.b64encode(pickle.dumps({"size": 3}, 5)).decode(),
        env=[["KIND", "small"]],
    )
    assert run(fake) == [3, "small", "1"]


def test_async_methods_run_on_a_loop_that_is_gone_when_containers_start(snapshot):
    fake = snapshot(
        """
        import asyncio
        from jitney_marks import enter, snap

        class Model:
            @snap
            async def load(self):
                await asyncio.sleep(0)
                self.loops = [id(asyncio.get_running_loop())]
                self.helper = await asyncio.to_thread(str, 7)

            @enter
            async def later(self):
                await asyncio.sleep(0)
                self.later = True

            async def get(self): return self.helper, self.later
        """
    )
    assert fake.loaded()["obstacles"] == []
    container = fake.fork(qualname="Model", is_class=True, methods={"get": "async"})
    assert container.link.value(container.link.run(arguments(), method="get")[0]) == ("7", True)


def test_what_they_print_comes_before_the_first_container(snapshot):
    fake = snapshot(MODEL.replace("def first(self):", "def first(self): print('weights', end='');"))
    run(fake)
    fake.wait(lambda: b"weights" in fake.output)


def test_a_failure_has_the_users_traceback(snapshot):
    fake = snapshot(MODEL.replace("def first(self):", "def first(self): open('/no/weights');"))
    message = fake.loaded()
    assert message["kind"] == template_protocol.LOAD_FAILED
    failure = payload.decode_failure(base64.b64decode(message["failure"]))
    assert failure.type_name == "FileNotFoundError"
    assert "in first" in failure.traceback
    assert "snapshot.py" not in failure.traceback
    assert fake.process.wait() == 1


@pytest.mark.parametrize("missing, is_explained", [(["/no/weights"], True), (["/other"], False), ([], False)])
def test_a_failure_for_want_of_a_volume_says_what_to_do(snapshot, missing, is_explained):
    code = MODEL.replace("def first(self):", "def first(self): open('/no/weights/model.bin');")
    failure = payload.decode_failure(base64.b64decode(snapshot(code, missing=missing).loaded()["failure"]))
    assert failure.type_name == "FileNotFoundError"
    assert ("What is at /no/weights is mounted in containers" in failure.traceback) is is_explained
    assert ("@enter() method (without snap=True)" in failure.traceback) is is_explained


@pytest.mark.parametrize("path, is_explained", [("/no/weights/log", True), ("/other/log", False)])
def test_writing_to_a_volume_says_that_it_is_read(snapshot, path, is_explained):
    code = MODEL.replace("def first(self):", f"def first(self): raise OSError(30, 'Read-only file system', '{path}');")
    failure = payload.decode_failure(base64.b64decode(snapshot(code, volumes=["/no/weights"]).loaded()["failure"]))
    assert ("can read volumes, and not write them" in failure.traceback) is is_explained


def test_one_that_takes_too_long_is_interrupted_where_it_is(snapshot):
    endless = (
        "def first(self):\n            try:\n                while True: pass\n            except Exception: pass\n"
    )
    fake = snapshot(MODEL.replace('def first(self): self.log = [("snap", os.getpid())]', endless), timeout_ms=1_000)
    failure = payload.decode_failure(base64.b64decode(fake.loaded()["failure"]))
    assert failure.type_name == "TimeoutError"
    assert "startup_timeout of 1 s" in failure.message
    assert "while True" in failure.traceback


def test_they_cannot_call_functions_as_there_is_no_container_yet(snapshot):
    code = "def first(self): from jitney.runner import state; assert not state.is_local(); state.config['link_socket'];"
    fake = snapshot(MODEL.replace("def first(self):", code))
    failure = payload.decode_failure(base64.b64decode(fake.loaded()["failure"]))
    assert "before there is a container" in failure.message


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors and threads are named by /proc")
@pytest.mark.parametrize(
    "code, words",
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(600,), name='beat', daemon=True).start()",
         "the thread 'beat'"),
        ("import socket; self.s = socket.create_connection(('127.0.0.1', PORT))", "a connection to 127.0.0.1:PORT"),
        ("import socket; self.s = socket.create_server(('127.0.0.1', 0))", "a socket that listens on 127.0.0.1:"),
        ("import socket; self.s = socket.socketpair()", "a Unix socket"),
        ("import asyncio; self.loop = asyncio.new_event_loop()", "an event loop that is open (asyncio.unix_events"),
        ("import sqlite3; self.db = sqlite3.connect('FOLDER/d.db'); self.db.execute('create table t (x)')",
         "a file that is open for writing (FOLDER/d.db)"),
        ("import subprocess; self.p = subprocess.Popen(['sleep', '600'])", "the process "),
    ],
)  # fmt: skip
def test_what_a_fork_cannot_share_is_named(snapshot, listening, tmp_path, code, words):
    def fill(text):
        return text.replace("PORT", str(listening)).replace("FOLDER", str(tmp_path))

    fake = snapshot(MODEL.replace("def first(self):", f"def first(self): {fill(code)};"))
    found = fake.loaded()
    assert any(one.startswith(fill(words)) for one in found["obstacles"]), found["obstacles"]
    assert found["is_snapshot_to_blame"] is True
    assert found["threads"] >= 1


def test_what_is_closed_again_and_what_is_only_read_is_no_obstacle(snapshot, tmp_path, listening):
    (tmp_path / "weights").write_text("0" * 10)
    fake = snapshot(
        f"""
        import os, socket, threading
        from jitney_marks import snap

        class Model:
            @snap
            def load(self):
                self.file = open({str(tmp_path / "weights")!r})
                self.log = open({str(tmp_path / "log")!r}, "a")
                thread = threading.Thread(target=int)
                thread.start()
                thread.join()
                socket.create_connection(("127.0.0.1", {listening})).close()

            def get(self): return self.file.read()
        """
    )
    assert fake.loaded()["obstacles"] == []
    assert run(fake) == "0" * 10


def test_the_import_is_to_blame_where_it_is(snapshot):
    fake = snapshot(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "class Model:\n    def get(self): return 1\n"
    )
    assert fake.loaded()["threads"] == 1
    assert fake.loaded()["is_snapshot_to_blame"] is False


def test_forks_draw_numbers_of_their_own(snapshot):
    fake = snapshot(
        """
        import os, random, ssl, tempfile, uuid
        from jitney_marks import snap
        try:
            import numpy
        except ImportError:
            numpy = None
        try:
            import torch
        except ImportError:
            torch = None

        class Model:
            @snap
            def warm(self): self.draw()

            def draw(self):
                found = {
                    "random": random.random(), "urandom": os.urandom(8), "ssl": ssl.RAND_bytes(8),
                    "uuid": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "name": tempfile.mktemp(),
                }
                if numpy: found["numpy"] = float(numpy.random.random())
                if torch: found["torch"] = float(torch.rand(1))
                return found
        """
    )
    one, other = run(fake, "draw"), run(fake, "draw")
    assert one.keys() == other.keys() >= {"random", "urandom", "ssl", "uuid", "uuid1", "name"}
    assert [name for name in one if one[name] == other[name]] == []


SAME_IDS = """
import ctypes, os, ssl, tempfile
from jitney.runner import process

NEW_PID = 0x20000000
libc = ctypes.CDLL(None)
home = os.open("/proc/self/ns/pid", os.O_RDONLY)
ssl.RAND_bytes(8), tempfile.mktemp()
assert os.getpid() == 1
for _ in range(2):
    assert libc.unshare(NEW_PID) == 0
    pid = os.fork()
    if pid == 0:
        process.reseed()
        os.write(1, f"{os.getpid()} {ssl.RAND_bytes(8).hex()} {tempfile.mktemp()}\\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert libc.setns(home, NEW_PID) == 0
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="process namespaces take root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="the tool unshare is missing")
def test_forks_with_the_process_id_of_their_template_draw_numbers_of_their_own():
    ran = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", SAME_IDS],
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    one, other = (line.split() for line in ran.stdout.splitlines())
    assert one[0] == other[0] == "1"
    assert one[1] != other[1]
    assert one[2] != other[2]
