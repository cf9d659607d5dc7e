"""The link breaks, and is made again."""

import os

from tests.runner.fake_server import CALL, arguments

GATED = """
    import os

    def work(x, gate=None):
        if gate: open(gate).read()
        return x

    async def awork(x, gate=None):
        import asyncio
        if gate: await asyncio.to_thread(lambda: open(gate).read())
        return x

    def count(n, gate):
        for number in range(n):
            if number == 2: open(gate).read()
            yield number

    class Slow:
        def load(self):
            open(os.environ["GATE"]).read()
        load.__jitney_enter__ = True

        def get(self): return 1
"""
EXECUTORS = {"work": {}, "awork": {"how": "async", "max_inputs": 2}}


def test_an_idle_container_connects_again(worker):
    link = worker(GATED).fork(qualname="work").link
    assert link.call(1) == 1
    link.hang_up()
    link.wait(lambda: len(link.hellos) == 2 and len(link.ready) == 2)
    assert link.hellos[1]["ready"] is True
    assert link.call(2) == 2


def test_user_code_that_runs_is_named_and_its_result_kept(worker, server, tmp_path):
    fake = worker(GATED)
    for name, options in [*EXECUTORS.items(), ("work", {"max_inputs": 2, "concurrent": True})]:
        link = fake.fork(qualname=name, **options).link
        gate = str(tmp_path / f"gate-{name}-{len(fake.containers)}")
        os.mkfifo(gate)
        (token,) = link.run(arguments(5, gate))
        writer = os.open(gate, os.O_WRONLY)  # returns when the function reads
        link.hang_up()
        link.wait(lambda link=link: len(link.hellos) == 2)
        assert link.hellos[1]["running"] == [[token, CALL, 0, 1]]
        os.close(writer)
        assert link.value(token) == 5
        assert link.call(6) == 6


def test_results_made_without_a_server_are_sent_when_it_is_back(worker, server, tmp_path):
    for_each = []
    fake = worker(GATED)
    for name, options in EXECUTORS.items():
        container = fake.fork(qualname=name, **options)
        gate = str(tmp_path / f"gate-{name}")
        os.mkfifo(gate)
        (token,) = container.link.run(arguments(name, gate))
        for_each.append((container, token, os.open(gate, os.O_WRONLY), name))
    server.stop_listening()
    for container, _, writer, _ in for_each:
        server.containers[container.name].hang_up()
        os.close(writer)
    server.listen()
    for container, token, _, name in for_each:
        link = server.containers[container.name]
        assert link.value(token) == name
        link.wait(lambda link=link: len(link.ready) == 2)
        assert link.call("again") == "again"
        link.hang_up()
        link.wait(lambda link=link: len(link.hellos) == 3)
        assert link.hellos[2]["running"] == [], "what is reported is not named any more"


def test_items_of_a_generator_survive_a_break(worker, server, tmp_path):
    link = worker(GATED).fork(qualname="count", how="generator").link
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    (token,) = link.run(arguments(5, gate))
    writer = os.open(gate, os.O_WRONLY)
    link.wait(lambda: len(link.items.get(token, ())) == 2)
    link.hang_up()
    link.wait(lambda: len(link.hellos) == 2)
    os.close(writer)
    assert link.value(token) == len(link.yielded(token))
    assert link.yielded(token) == [0, 1, 2, 3, 4]


def test_a_server_that_restarts_during_start_up_is_found_again(worker, server, tmp_path):
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    container = worker(GATED).fork(qualname="Slow", is_class=True, methods={"get": ""}, env={"GATE": gate})
    writer = os.open(gate, os.O_WRONLY)
    link = server.container(container.name)
    link.hang_up()
    link.wait(lambda: len(link.hellos) == 2)
    assert link.hellos[1]["ready"] is False
    assert not link.ready
    os.close(writer)
    link.wait_ready()
    assert link.value(link.run(arguments(), method="get")[0]) == 1


def test_a_container_that_starts_before_its_server_waits_for_it(worker, server):
    server.stop_listening()
    os.unlink(server.path)
    container = worker(GATED).fork(qualname="work")
    assert container.pid
    server.listen()
    assert container.link.call(1) == 1


def test_a_container_that_ends_does_not_come_back(worker):
    fake = worker(GATED)
    for _ in range(20):
        container = fake.fork(qualname="work")
        link = container.link
        link.stop()
        assert container.wait_exit()["exit_code"] == 0
        assert len(link.hellos) == 1
