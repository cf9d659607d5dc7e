"""Functions in containers share a dict and a queue with each other and with their client."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import jitney
from jitney.drivers.walls.probe import probe
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "sharing.py"


@pytest.mark.parametrize("runtime", ["process", "namespaces"])
def test_containers_share_a_dict_and_a_queue(lone, runtime):
    if runtime == "namespaces" and probe().why:
        pytest.skip(f"no walls here: {probe().why}")
    done = lone.jitney("run", lone.bring(PROGRAM), timeout=90, JITNEY_RUNTIME=runtime)
    assert done.lines[-1] == "all is as it should be"
    assert done.lines[-2].startswith("60 jobs by ")


def taking(platform):
    """Processes of the containers that run `take`, once they are at it."""
    return [one["pid"] for one in platform.containers("take") if one["phase"] == "ready" and one["pid"]]


def test_a_container_that_is_killed_while_it_waits_takes_nothing(sdk, program):
    jobs = jitney.Queue.from_name("sharing-jobs", create_if_missing=True)
    waiting = program.take.spawn("killed")
    eventually(lambda: taking(sdk), why="a container that waits")
    for pid in taking(sdk):
        os.kill(pid, signal.SIGKILL)
    jobs.put("still there", partition="killed")
    assert waiting.get(timeout=30) == "still there"


KILLS = 6


class Served:
    """A server's dicts and queues in a process of its own, which is killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.serving_child", self.folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def work(kills, folder, monkeypatch):
    """Threads that put, get, add and set while their server is killed: what they know in the end."""
    from jitney.client import blocking, session
    from jitney.client.portal import PORTAL

    monkeypatch.setenv("JITNEY_HOME", str(folder))
    monkeypatch.setenv("JITNEY_AUTOSTART", "0")
    served = Served(folder)
    served.start()
    d = jitney.Dict.from_name("d", create_if_missing=True).hydrate()
    q = jitney.Queue.from_name("q", create_if_missing=True).hydrate()
    stop = threading.Event()
    failed = []
    added, put, got, kept = [0, 0], [[], []], [[], []], {}

    def run(body):
        def loop():
            try:
                while not stop.is_set():
                    body()
            except BaseException as error:
                failed.append(error)
                raise

        return threading.Thread(target=loop)

    def add(n):
        d.increment("n", n + 1)
        added[n] += n + 1

    def produce(n):
        item = (n, len(put[n]))
        q.put(item)
        put[n].append(item)

    def consume(n):
        item = q.get(block=False)
        if item is not None:
            got[n].append(item)

    def keep():
        key = len(kept)
        d.put(key, key, skip_if_exists=True)
        kept[key] = key

    bodies = [lambda n=n, body=body: body(n) for n in (0, 1) for body in (add, produce, consume)]
    threads = [run(body) for body in [*bodies, keep]]
    for one in threads:
        one.start()
    try:
        for number in range(kills):
            stop.wait(0.05 + (number % 7) * 0.03)
            served.kill()
            served.start()
        stop.wait(0.2)
    finally:
        stop.set()
        for one in threads:
            one.join(90)
    assert not failed
    while (item := q.get(block=False)) is not None:
        got[0].append(item)
    found = {"n": d["n"], "kept": {key: d.get(key) for key in kept}}
    for one in session._sessions.values():
        PORTAL.call(one.close())
    session._sessions.clear()
    if blocking._mine.connection is not None:
        blocking._mine.connection.close()
        blocking._mine.connection = None
    served.kill()
    return sum(added), put[0] + put[1], got[0] + got[1], kept, found


def check(kills, folder, monkeypatch):
    added, put, got, kept, found = work(kills, folder, monkeypatch)
    assert found["n"] == added, "each sum once"
    assert found["kept"] == kept
    assert not set(put) - set(got), "what was acknowledged is lost"
    assert set(got) <= set(put), "what nobody was told of was put"
    return len(put), len(got), added


def test_nothing_acknowledged_is_lost_by_kills_of_the_server(tmp_path, monkeypatch):
    check(KILLS, tmp_path, monkeypatch)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_many_kills_of_the_server(tmp_path, monkeypatch):
    check(100, tmp_path, monkeypatch)


def test_commands_show_what_is_there(lone):
    run = lone.jitney
    assert run("dict", "list").out == "no dicts\n"
    missing = run("dict", "items", "counts", code=3)
    assert "`jitney dict create counts`" in missing.err
    assert run("dict", "create", "counts").out.endswith("counts\n")
    run("queue", "create", "jobs")
    lone.write(
        "fill.py",
        """
        import jitney

        class Mine:
            pass

        d = jitney.Dict.from_name("counts")
        d.update({"a": 1, ("b", 2): [1, None], 3: "text", "mine": Mine(), "large": bytes(100_000)})
        q = jitney.Queue.from_name("jobs")
        q.put_many(["x", {"y": 1}])
        q.put("z", partition="p")
        """,
    )
    lone.python("fill.py")
    rows = run("dict", "items", "counts").lines
    assert [row.split()[0] for row in rows] == ["KEY", "'a'", "('b',", "3", "'mine'", "'large'"]
    assert "__main__" in rows[4] or "cloudpickle" in rows[4], "named, and not made"
    assert "in a file" in rows[5]
    assert run("dict", "items", "counts", "--limit", "2", "--json").json() == [
        {"key": "a", "value": 1},
        {"key": ["b", 2], "value": [1, None]},
    ]
    assert run("dict", "get", "counts", "a").out == "1\n"
    assert run("dict", "get", "counts", "('b', 2)", "--literal", "--json").json() == [1, None]
    run("dict", "get", "counts", "b", code=3)
    run("dict", "get", "counts", "b b", "--literal", code=2)
    assert [row["name"] for row in run("dict", "list", "--json").json()] == ["counts"]
    assert run("queue", "len", "jobs", "--json").json() == [
        {"partition": "", "waiting": 2, "leased": 0},
        {"partition": "p", "waiting": 1, "leased": 0},
    ]
    assert run("queue", "len", "jobs", "--total", "--json").json()["waiting"] == 3
    assert run("queue", "peek", "jobs", "--limit", "1", "--json").json() == [{"deliveries": 0, "value": "x"}]
    assert "{'y': 1}" in run("queue", "peek", "jobs").out
    assert "--yes" in run("queue", "clear", "jobs", code=2).err, "nobody is there to ask"
    assert run("queue", "clear", "jobs", "--yes").out == "2 items are gone\n"
    assert run("queue", "clear", "jobs", "--all", "--yes").out == "1 item is gone\n"
    assert run("dict", "clear", "counts", "-y").out == "5 entries are gone\n"
    assert "jitney dict create" in run("dict", "delete", "count", "-y", code=3).err, "a command, and no Python"
    run("dict", "delete", "count", "-y", "--allow-missing")
    assert run("dict", "rename", "counts", "sums", "--yes", "--json").json()["name"] == "sums"
    run("dict", "rename", "counts", "more", "--yes", code=3)
    run("dict", "delete", "sums", "-y")
    run("queue", "delete", "jobs", "-y")
    assert run("queue", "list").out == "no queues\n"
