"""One async body, two colours: where it runs, how it ends, and how items get through."""

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
import traceback

import pytest

from jitney.client.dual import dual, dual_iter, dual_iter_lazy, dual_lazy
from jitney.client.portal import AHEAD_MAX, PORTAL
from jitney.errors import NotFoundError

WHO = contextvars.ContextVar("who", default="nobody")


class Box:
    """One of each."""

    def __init__(self):
        self.closed = threading.Event()
        self.cancelled = threading.Event()
        self.made = 0

    @dual
    async def where(self):
        """The thread it runs on."""
        return threading.current_thread().name

    @dual
    async def who(self):
        return WHO.get()

    @dual
    async def nested(self):
        return await self.where.aio()

    @dual
    async def wrong(self):
        return self.where()

    @dual
    async def missing(self):
        raise NotFoundError("no such box")

    @dual
    async def stuck(self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    @dual_iter
    async def numbers(self, n, fail_at=None):
        try:
            for i in range(n):
                if i == fail_at:
                    raise NotFoundError(f"no {i}")
                self.made += 1
                yield i
        finally:
            await asyncio.sleep(0)
            self.closed.set()

    @dual_iter
    async def endless(self):
        try:
            while True:
                yield 0
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    @dual_lazy
    async def thread_of_value(self):
        return threading.current_thread

    @dual_iter_lazy
    async def threads_of_items(self):
        yield lambda: [threading.current_thread()]


def test_runs_on_the_portal_from_both_colours():
    box = Box()
    assert box.where() == "jitney-portal"
    assert asyncio.run(box.where.aio()) == "jitney-portal"
    assert box.where.__doc__ == "The thread it runs on."


def test_bodies_may_call_their_siblings():
    assert Box().nested() == "jitney-portal"


def test_a_blocking_call_on_the_portal_is_refused():
    with pytest.raises(RuntimeError, match=r"await its `\.aio` form"):
        Box().wrong()


def test_a_blocking_call_inside_a_running_loop_works():
    async def main():
        return Box().where()

    assert asyncio.run(main()) == "jitney-portal"


def test_the_callers_context_comes_along():
    WHO.set("me")
    assert Box().who() == "me"
    assert asyncio.run(Box().who.aio()) == "me"
    WHO.set("nobody")


def test_errors_for_the_user_come_without_our_frames():
    with pytest.raises(NotFoundError) as caught:
        Box().missing()
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[0] == __file__
    assert len(files) <= 3
    assert not any(file.endswith("asyncio/tasks.py") for file in files)


def test_ctrl_c_cancels_the_body():
    box = Box()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        box.stuck()
    assert box.cancelled.wait(5)


def test_a_timeout_of_the_user_cancels_the_body():
    box = Box()

    async def main():
        async with asyncio.timeout(0.05):
            await box.stuck.aio()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert box.cancelled.wait(5)


def test_all_items_arrive_in_order():
    n = 3 * AHEAD_MAX + 1
    assert list(Box().numbers(n)) == list(range(n))

    async def main():
        return [i async for i in Box().numbers.aio(n)]

    assert asyncio.run(main()) == list(range(n))


def test_the_source_is_at_most_so_far_ahead():
    box = Box()
    source = box.numbers(10 * AHEAD_MAX)
    assert next(source) == 0
    box.where()  # a turn of the portal later
    assert box.made <= 2 * AHEAD_MAX
    source.close()
    assert box.closed.is_set()


def test_an_early_break_closes_the_source():
    box = Box()
    for i in box.numbers(10 * AHEAD_MAX):
        if i == 2:
            break
    gc.collect()
    assert box.closed.is_set()


def test_an_early_break_closes_the_source_in_async_code():
    box = Box()

    async def main():
        source = box.numbers.aio(10 * AHEAD_MAX)
        async for i in source:
            if i == 2:
                break
        await source.aclose()

    asyncio.run(main())
    assert box.closed.is_set()


def test_a_source_that_waits_is_closed_too():
    box = Box()
    source = box.endless()
    assert next(source) == 0
    source.close()
    assert box.closed.is_set()


def test_an_error_comes_after_the_items_before_it():
    seen = []
    with pytest.raises(NotFoundError, match="no 3"):
        seen.extend(Box().numbers(5, fail_at=3))
    assert seen == [0, 1, 2]


def test_lazy_values_are_made_on_the_callers_thread():
    box, me = Box(), threading.current_thread()
    assert box.thread_of_value() is me
    assert asyncio.run(box.thread_of_value.aio()) is me
    assert list(box.threads_of_items()) == [me]


def test_iteration_from_a_body_stays_on_the_portal():
    async def body():
        return [i async for i in Box().numbers.aio(3)]

    assert PORTAL.call(body()) == [0, 1, 2]


def test_survives_a_fork():
    box = Box()
    box.where()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if box.where() == "jitney-portal" and list(box.numbers(3)) == [0, 1, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_works_after_it_was_stopped():
    box = Box()
    box.where()
    closed = []

    async def closer():
        closed.append(threading.current_thread().name)

    PORTAL.at_stop(closer)
    PORTAL.stop()
    assert closed == ["jitney-portal"]
    assert box.where() == "jitney-portal"


def test_from_many_threads():
    box, results = Box(), []
    threads = [threading.Thread(target=lambda: results.append(sum(box.numbers(100)))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4950] * 20


@pytest.mark.slow
def test_two_hundred_thousand_items_a_second():
    def rate():
        begin = time.perf_counter()
        assert sum(1 for _ in Box().numbers(400_000)) == 400_000
        return 400_000 / (time.perf_counter() - begin)

    assert max(rate() for _ in range(3)) > 200_000
