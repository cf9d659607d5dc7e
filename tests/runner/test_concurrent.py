"""Several inputs at a time: threads and the event loop."""

import os
import signal

from tests.runner.fake_server import arguments

THREADS = {"max_inputs": 4, "concurrent": True}
LOOP = {"max_inputs": 4, "concurrent": True, "how": "async"}


def test_threads_work_at_the_same_time(worker):
    container = worker(
        """
        import threading
        from jitney.runner import state
        barrier = threading.Barrier(4)

        def meet(x):
            barrier.wait()
            return x, state.current.get()[1]
        """
    ).fork(qualname="meet", **THREADS)
    link = container.link
    tokens = link.run(*[arguments(n) for n in range(8)])
    assert [link.value(token) for token in tokens] == [(n, n) for n in range(8)]
    link.stop()
    assert container.wait_exit()["exit_code"] == 0


def test_no_more_threads_than_allowed(worker):
    link = (
        worker(
            """
        import threading
        active, most, lock = 0, 0, threading.Lock()

        def count(n):
            global active, most
            with lock:
                active += 1
                most = max(most, active)
            sum(range(n))
            with lock:
                active -= 1
            return most
        """
        )
        .fork(qualname="count", **THREADS)
        .link
    )
    tokens = link.run(*[arguments(20_000) for _ in range(50)])
    assert max(link.value(token) for token in tokens) <= 4


def test_a_thread_is_cancelled_in_a_loop_and_the_others_go_on(worker, tmp_path):
    fake = worker(
        """
        def work(path):
            if path:
                open(path, "w").close()
                while True: pass
            return "fine"
        """
    )
    container = fake.fork(qualname="work", **THREADS)
    link = container.link
    started = tmp_path / "started"
    (stuck,) = link.run(arguments(str(started)))
    fake.poll(started.exists)
    assert link.call("") == "fine"
    link.cancel(stuck)
    assert link.failure(stuck).type_name == "InputCancellation"
    assert [link.call("") for _ in range(20)] == ["fine"] * 20


def test_async_inputs_overlap_and_know_themselves(worker):
    container = worker(
        """
        import asyncio
        from jitney.runner import state
        waiting = []

        async def meet(x):
            here = asyncio.get_running_loop().create_future()
            waiting.append(here)
            if len(waiting) == 4:
                for one in waiting: one.set_result(None)
                waiting.clear()
            await here
            return x, state.current.get()[1]
        """
    ).fork(qualname="meet", **LOOP)
    link = container.link
    tokens = link.run(*[arguments(n) for n in range(8)])
    assert [link.value(token) for token in tokens] == [(n, n) for n in range(8)]
    link.stop()
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye


def test_an_async_function_without_concurrency_runs_one_at_a_time(worker):
    link = (
        worker(
            """
        import asyncio
        active = 0

        async def alone():
            global active
            active += 1
            await asyncio.sleep(0)
            seen, active = active, active - 1
            return seen
        """
        )
        .fork(qualname="alone", how="async")
        .link
    )
    tokens = link.run(*[arguments() for _ in range(20)])
    assert {link.value(token) for token in tokens} == {1}


ASYNC_STUCK = """
    import asyncio, time

    async def wait(path):
        open(path, "w").close()
        await asyncio.sleep(60)  # sleep: user code that outlives its caller's patience

    async def block(path):
        open(path, "w").close()
        time.sleep(60)  # sleep: user code that outlives its caller's patience
"""


def test_async_code_is_cancelled_where_it_waits_and_where_it_blocks(worker, tmp_path):
    fake = worker(ASYNC_STUCK)
    for name in ("wait", "block"):
        container = fake.fork(qualname=name, **LOOP)
        started = tmp_path / f"started-{name}"
        (token,) = container.link.run(arguments(str(started)))
        fake.poll(started.exists)
        container.link.cancel(token)
        container.interrupt()
        assert container.link.failure(token).type_name == "InputCancellation"


def test_sigterm_ends_an_event_loop(worker, tmp_path):
    fake = worker(ASYNC_STUCK)
    container = fake.fork(qualname="wait", **LOOP)
    link = container.link
    started = tmp_path / "started"
    link.run(arguments(str(started)))
    fake.poll(started.exists)
    os.kill(container.pid, signal.SIGTERM)
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye
    assert not link.results


def test_sigterm_ends_threads(worker, tmp_path):
    fake = worker(
        """
        def spin(path):
            open(path, "w").close()
            while True: pass
        """
    )
    container = fake.fork(qualname="spin", **THREADS)
    link = container.link
    paths = [tmp_path / f"started-{n}" for n in range(2)]
    link.run(*[arguments(str(path)) for path in paths])
    fake.poll(lambda: all(path.exists() for path in paths))
    os.kill(container.pid, signal.SIGTERM)
    assert container.wait_exit()["exit_code"] == 0
    assert link.said_bye
    assert not link.results


def test_async_failures_are_failures(worker):
    link = (
        worker(
            """
        import asyncio, sys

        async def fail(how):
            await asyncio.sleep(0)
            if how == "value": raise ValueError("a value")
            if how == "exit": sys.exit(3)
            if how == "interrupt": raise KeyboardInterrupt
            if how == "cancel": raise asyncio.CancelledError
            return how
        """
        )
        .fork(qualname="fail", **LOOP)
        .link
    )
    names = [link.failure(link.run(arguments(how))[0]).type_name for how in ("value", "exit", "interrupt", "cancel")]
    assert names == ["ValueError", "SystemExit", "KeyboardInterrupt", "CancelledError"]
    assert link.call("fine") == "fine"


def test_a_class_with_both_colours(worker):
    container = worker(
        """
        import asyncio, threading

        class Model:
            async def load(self):
                await asyncio.sleep(0)
                self.loaded = True
            load.__jitney_enter__ = True

            def name(self):
                return threading.current_thread() is threading.main_thread(), self.loaded

            async def aname(self):
                return threading.current_thread() is threading.main_thread(), self.loaded

            def count(self, n):
                yield from range(n)

            async def leave(self):
                print("left")
            leave.__jitney_exit__ = True
        """
    ).fork(qualname="Model", is_class=True, max_inputs=2, methods={"name": "", "aname": "async", "count": "generator"})
    link = container.link
    assert link.value(link.run(arguments(), method="name")[0]) == (False, True)
    assert link.value(link.run(arguments(), method="aname")[0]) == (True, True)
    (token,) = link.run(arguments(5), method="count")
    assert link.value(token) == len(link.yielded(token))
    assert link.yielded(token) == [0, 1, 2, 3, 4]
    link.stop()
    assert container.wait_exit()["exit_code"] == 0
    assert container.stdout == "left\n"


def test_single_use_on_threads_and_loop(worker):
    fake = worker("def f(x): return x\nasync def g(x): return x")
    for name, how in (("f", ""), ("g", "async")):
        container = fake.fork(qualname=name, how=how, max_inputs=2, concurrent=True, single_use=True)
        link = container.link
        first, second = link.run(arguments(1), arguments(2))
        assert link.value(first) == 1
        assert container.wait_exit()["exit_code"] == 0
        assert link.recalled == [[second]]
