"""Loading, classes, start-up, end, and what happens when a container dies."""

import base64
import pickle

import cloudpickle
import pytest

from jitney.runner import payload, template_protocol
from tests.runner.fake_server import arguments

CLASS = """
    import os
    from jitney_marks import enter, leave

    class Base:
        @enter
        def first(self): self.log = ["base"]

    class Model(Base):
        size: int

        def __init__(self, size=1): self.size = size

        @enter
        def second(self): self.log.append("model")

        def get(self, x): return self.log, self.size, x

        @leave
        def bad(self): raise ValueError("at the end")

        @leave
        def good(self): print("bye", flush=True)
"""
MARKS = """
def enter(f): f.__jitney_enter__ = True; return f
def leave(f): f.__jitney_exit__ = True; return f
"""


def test_a_class_is_made_entered_called_and_left(worker, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "jitney_marks.py").write_text(MARKS)
    parameters = base64.b64encode(pickle.dumps({"size": 7}, 5)).decode()
    container = worker(CLASS).fork(qualname="Model", is_class=True, methods={"get": ""}, parameters=parameters)
    link = container.link
    assert link.value(link.run(arguments(1), method="get")[0]) == (["base", "model"], 7, 1)
    unknown = link.failure(link.run(arguments(1), method="nothing")[0])
    assert "no method 'nothing'" in unknown.message
    link.stop()
    assert container.wait_exit()["exit_code"] == 0
    assert container.stdout == "bye\n"
    assert b"at the end" in container.output[2]
    assert link.said_bye


@pytest.mark.parametrize(
    "code,options,words",
    [
        ("def f(): pass", {"qualname": "g"}, "has no 'g'"),
        ("f = 3", {"qualname": "f"}, "not a function"),
        ("def f(): pass", {"qualname": "h.<locals>.f"}, "serialized=True"),
        ("def f(): pass", {"qualname": "f", "is_class": True}, "not a class"),
        ("class C:\n  def __init__(self): raise OSError('no disk')", {"qualname": "C", "is_class": True}, "no disk"),
    ],
)
def test_start_up_that_fails_says_why(worker, server, code, options, words):
    container = worker(code).fork(**options)
    link = server.container(container.name)
    link.wait(lambda: link.failed)
    assert words in payload.decode_failure(link.failed).message
    assert container.wait_exit()["exit_code"] == 1


def test_an_import_that_fails_says_why(worker):
    fake = worker("import time\nprint('importing')\nraise RuntimeError('no such model')")
    message = fake.loaded()
    assert message["kind"] == template_protocol.LOAD_FAILED
    failure = payload.decode_failure(base64.b64decode(message["failure"]))
    assert failure.message == "no such model"
    assert "line 3, in <module>" in failure.traceback
    assert fake.process.wait() == 1
    fake.wait(lambda: fake.output == b"importing\n")


def test_a_pickled_function_needs_no_module(server, tmp_path, worker):
    factor = 3
    pickled = base64.b64encode(cloudpickle.dumps(lambda x: x * factor)).decode()
    link = worker("").fork(pickled=pickled, qualname="f").link
    assert link.call(5) == 15


def test_the_main_module_answers_to_its_name_and_to_main(worker):
    fake = worker(
        """
        class Point:
            def __init__(self, x): self.x = x

        def f(p):
            import __main__
            return p.x, type(p) is Point, __main__.Point is Point
        """,
        main_module=True,
    )
    link = fake.fork(qualname="f").link
    # As a client pickles it whose `__main__` is that file.
    point = b"P" + pickle.dumps(((1,), {}), 0).replace(b"I1\n", b"c__main__\nPoint\n(I1\ntR")
    assert link.value(link.run(point)[0]) == (1, True, True)


def test_a_crash_is_reported_with_its_signal_and_use(worker):
    fake = worker(
        """
        import os, signal

        def die(how):
            if how == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            os._exit(7)
        """
    )
    container = fake.fork(qualname="die")
    container.link.run(arguments("segfault"))
    ended = container.wait_exit()
    assert (ended["exit_code"], ended["signal"]) == (None, 11)
    assert ended["max_rss_kib"] > 1_000
    container = fake.fork(qualname="die")
    container.link.run(arguments("exit"))
    ended = container.wait_exit()
    assert (ended["exit_code"], ended["signal"]) == (7, None)


LEAVER = """
    import os, subprocess, sys, time

    def leave(die):
        # A daemon: two forks, a session of its own.
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
            os._exit(0)
        os.wait()
        pid = int(os.read(read, 100))
        if die:
            print(pid, flush=True)
            os._exit(1)
        return pid
"""


@pytest.mark.parametrize("die", [False, True])
def test_a_daemon_left_behind_dies_with_its_container(worker, die):
    container = worker(LEAVER).fork(qualname="leave")
    link = container.link
    (token,) = link.run(arguments(die))
    if not die:
        pid = link.value(token)
        link.stop()
    container.wait_exit()
    if die:
        pid = int(container.stdout)
    assert not _is_alive(pid)


def test_each_fork_has_random_numbers_of_its_own(worker):
    pytest.importorskip("numpy")
    fake = worker(
        """
        import random
        import numpy
        random.seed(1)
        numpy.random.seed(1)

        def draw():
            return random.random(), float(numpy.random.rand())
        """
    )
    drawn = [fake.fork(qualname="draw").link.call() for _ in range(3)]
    assert len({one for one, _ in drawn}) == len({other for _, other in drawn}) == 3


def test_threads_of_an_import_are_counted_and_cold_containers_run_them(worker, tmp_path):
    code = """
        import threading, queue
        asked, answered = queue.Queue(), queue.Queue()

        def serve():
            while True:
                answered.put(asked.get() + 1)

        threading.Thread(target=serve, daemon=True).start()

        def f(x):
            asked.put(x)
            return answered.get()
    """
    fake = worker(code)
    assert fake.loaded()["threads"] == 1
    [obstacle] = fake.loaded()["obstacles"]
    assert obstacle.startswith("the thread 'Thread-1 (serve)' of user_code_")
    cold = worker(code, kind="cold")
    container = cold.fork(qualname="f")
    assert container.link.call(1) == 2
    assert container.pid == cold.process.pid
    container.link.stop()
    assert cold.process.wait() == 0


def test_native_pools_that_mind_forks_are_no_obstacle(worker):
    pytest.importorskip("numpy")
    fake = worker(
        "import numpy\nproduct = numpy.ones((400, 400)) @ numpy.ones((400, 400))\ndef f(): return product @ product"
    )
    assert fake.loaded()["threads"] == 0
    assert fake.fork(qualname="f").link.call()[0][0] == 400.0**3


def test_a_template_stays_light(worker):
    fake = worker(
        """
        import sys
        loaded = sorted(sys.modules)
        def f(): return loaded
        """
    )
    heavy = {"asyncio", "cloudpickle", "concurrent", "inspect", "logging", "multiprocessing", "msgspec", "threading"}
    assert not heavy & set(fake.fork(qualname="f").link.call())


def test_large_templates_are_collapsed_and_still_fork(worker):
    fake = worker("data = [{n: str(n)} for n in range(300_000)]\ndef f(n): return data[n]")
    rollup = f"/proc/{fake.loaded()['pid']}/smaps_rollup"

    def huge_kib():
        with open(rollup) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("AnonHugePages"))

    try:
        fake.poll(lambda: huge_kib() > 20_000)
    except (OSError, AssertionError):
        pytest.skip("no huge pages here")
    for n in range(3):
        assert fake.fork(qualname="f").link.call(n) == {n: str(n)}


def test_it_runs_by_path_where_jitney_is_not_installed(worker):
    fake = worker("def f(x): return x", by_path=True)
    assert fake.fork(qualname="f").link.call(1) == 1


def test_limits_folder_and_exit_functions(worker, tmp_path):
    container = worker(
        """
        import atexit, os, resource
        def f():
            atexit.register(print, "at exit")
            return os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE), os.getsid(0) == os.getpid()
        """
    ).fork(qualname="f", cwd=str(tmp_path), rlimits={"NOFILE": [300, 400]})
    assert container.link.call() == (str(tmp_path), (300, 400), True)
    container.link.stop()
    container.wait_exit()
    assert container.stdout == "at exit\n"


def test_containers_end_with_their_worker(worker):
    fake = worker("def f(): pass")
    containers = [fake.fork(qualname="f") for _ in range(2)]
    links = [container.link for container in containers]
    fake.control.shutdown(1)
    assert fake.process.wait(20) == 0
    for container, link in zip(containers, links, strict=True):
        link.wait(lambda link=link: link.said_bye)
        assert not _is_alive(container.pid)


def test_many_forks_at_once(worker):
    fake = worker("def f(x): return x")
    containers = [fake.fork(qualname="f") for _ in range(20)]
    assert [container.link.call(n) for n, container in enumerate(containers)] == list(range(20))


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
