"""Calls of one input: `remote` in both colours, generators, errors, breaks, cancelling."""

import asyncio
import os
import signal
import threading
import traceback

import numpy
import pytest

import jitney
from jitney.client import blocking
from jitney.client import session as sessions
from jitney.client.portal import PORTAL
from jitney.client.results import RemoteTraceback
from jitney.errors import (
    CancelledError,
    ContainerCrashError,
    DeserializationError,
    FunctionTimeoutError,
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
    ResourceExhaustedError,
    SerializationError,
    StartupError,
    UnsupportedError,
)
from jitney.runner import payload
from jitney.testing.fake_functions import SCOPE
from jitney.values.calls import GENERATOR_ITEMS_AHEAD, CallKind, Output, Status
from jitney.wire.messages.link import Refused


class Odd(Exception):
    """An exception of user code with a constructor of its own."""

    def __init__(self, left, right):
        super().__init__(left, right)
        self.right = right


def square(x):
    return x * x


def named(text, /, *rest, key="k", **more):
    return text, rest, key, more


def fails(x):
    raise Odd("left", x)


async def later(x):
    return x + 1


def count(n, fail_at=-1):
    for i in range(n):
        if i == fail_at:
            raise Odd("gen", i)
        yield i


async def acount(n):
    for i in range(n):
        yield i


@pytest.fixture
def calls(server):
    """Functions of the deployed app 'a', by name."""
    server.deploy("a", square=square, named=named, fails=fails, later=later, count=count, acount=acount)
    return lambda name: jitney.Function.from_name("a", name)


def test_from_both_colours(calls):
    assert calls("square").remote(7) == 49
    assert asyncio.run(calls("square").remote.aio(7)) == 49
    assert calls("later").remote(1) == 2
    assert calls("named").remote("a", 1, 2, key="x", z=3) == ("a", (1, 2), "x", {"z": 3})


def test_a_plain_remote_does_not_go_by_the_portal(server, calls):
    f = calls("square")
    f.hydrate()
    frames = len(server.seen.hellos)
    assert f.remote(1) == 1
    assert len(server.seen.hellos) == frames + 1  # a connection of this thread
    assert f.remote(2) == 4
    assert len(server.seen.hellos) == frames + 1


def test_each_thread_has_a_connection(server, calls):
    f, results = calls("square").hydrate(), []
    threads = [threading.Thread(target=lambda n=n: results.append(f.remote(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * n for n in range(8)]
    assert len(server.seen.hellos) == 9


def test_lookup_happens_once(server, calls):
    f = calls("square")

    async def many():
        return await asyncio.gather(*(f.remote.aio(n) for n in range(20)))

    assert asyncio.run(many()) == [n * n for n in range(20)]
    assert f.remote(2) == 4
    assert server.seen.requests.count("function.get") == 1


def test_nothing_is_asked_before_the_first_use(server):
    f = jitney.Function.from_name("a", "nothing")
    assert server.seen.hellos == []
    with pytest.raises(InvalidError, match="has no id yet"):
        f.object_id  # noqa: B018
    with pytest.raises(NotFoundError, match="no function nothing"):
        f.remote()


def test_a_function_is_found_when_it_is_there_at_last(server, calls):
    with pytest.raises(NotFoundError):
        calls("new").remote(1)
    f = calls("new")
    with pytest.raises(NotFoundError):
        f.remote(1)
    server.deploy("a", new=square)
    assert f.remote(3) == 9


def test_a_name_that_went_to_another_function_is_followed(server, calls, monkeypatch):
    from jitney.client import handle

    f = calls("square")
    variant = f.with_options(timeout=9)
    assert (f.remote(3), variant.remote(3)) == (9, 9)
    old = f.object_id
    server.deploy("a", square=lambda x: -x)
    server.functions.pop(old)
    assert f.remote(3) == -3  # the server did not know the old one any more
    assert variant.remote(3) == -3
    assert list(variant.map([3])) == [-3]
    monkeypatch.setattr(handle, "FRESH_S", 0.0)
    f._handle._fresh_until_s = 0.0
    server.deploy("a", square=lambda x: 2 * x)
    _until(lambda: f.remote(3) == 6)  # the old one is known still, and the name is asked for in the background


def test_a_function_that_was_taken_away(server, calls):
    f = calls("square").hydrate()
    server.functions.clear()
    for call in (lambda: f.remote(3), lambda: asyncio.run(f.remote.aio(3))):
        with pytest.raises(NotFoundError):
            call()


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("aio", [False, True])
def test_exceptions_arrive_as_themselves_with_the_remote_traceback(calls, aio):
    f = calls("fails")
    with pytest.raises(Odd) as caught:
        asyncio.run(f.remote.aio(3)) if aio else f.remote(3)
    assert caught.value.right == 3
    text = "".join(traceback.format_exception(caught.value))
    assert "in fails" in text
    assert "The above exception was the direct cause" in text


def test_an_exception_that_cannot_be_rebuilt_is_a_remote_error():
    from jitney.client.results import failure_of

    body = payload.encode_failure_text("Weird", "it was odd", "Traceback...\nWeird: it was odd")
    error = failure_of(Output(0, Status.FAILURE, body))
    assert isinstance(error, RemoteError)
    assert str(error) == "Weird: it was odd"
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "Traceback..." in str(error.__cause__)


@pytest.mark.parametrize(
    "status, kind",
    [
        (Status.TERMINATED, CancelledError),
        (Status.TIMEOUT, FunctionTimeoutError),
        (Status.INIT_FAILURE, StartupError),
        (Status.CRASH, ContainerCrashError),
        (Status.EXPIRED, OutputExpiredError),
    ],
)
def test_statuses_are_typed_errors(status, kind):
    from jitney.client.results import failure_of

    error = failure_of(Output(0, status, payload.encode_failure_text("x", "what happened", "where")))
    assert type(error) is kind
    assert error.message == "what happened"
    assert type(failure_of(Output(0, status, b""))) is kind


def test_an_argument_that_cannot_be_pickled_is_named_before_anything_is_sent(server, calls):
    f = jitney.App().function()(square)
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"argument 'x' of square: an object of type _thread\.lock"):
        f._encoder.connected(sessions.current(), "", (lock,), {})
    with pytest.raises(SerializationError, match=r"argument 'key' of named"):
        calls("named").remote("a", key={"deep": lock})
    assert not server.seen.runs


def test_a_result_that_cannot_be_unpickled_here(server, calls):
    class Gone:
        def __reduce__(self):
            return (_only_there, ())

    server.deploy("a", gone=Gone)
    with pytest.raises(DeserializationError, match="must be installed on this side too"):
        calls("gone").remote()


def _only_there():
    if threading.current_thread() is threading.main_thread():
        raise ModuleNotFoundError("no module named 'there'")


def test_large_values_go_by_shared_memory_and_the_segments_come_back(server, calls):
    array = numpy.arange(1_000_000, dtype=numpy.float64)
    server.deploy("a", double=lambda a: a * 2)
    f = calls("double")
    for _ in range(3):
        result = f.remote(array)
        assert result[-1] == 1_999_998
        result[0] = 5  # writable
    del result
    used = os.listdir(server.home.segments / SCOPE / "used")
    assert used == []


# ------------------------------------------------------------------------------------------------ refusals, breaks


@pytest.mark.parametrize("aio", [False, True])
def test_a_full_queue_is_waited_for(server, calls, aio):
    f = calls("square").hydrate()
    server.faults.refuse = [Refused("", 0, 0, "resource_exhausted", "2,000 inputs wait", retry_after_ms=5)] * 3
    assert (asyncio.run(f.remote.aio(4)) if aio else f.remote(4)) == 16


def test_a_refusal_for_good_is_the_typed_error(server, calls):
    f = calls("square").hydrate()
    server.faults.refuse = [Refused("", 0, 0, "resource_exhausted", "no room", retry_after_ms=0)] * 2
    with pytest.raises(ResourceExhaustedError, match="no room"):
        f.remote(4)


@pytest.mark.parametrize("aio", [False, True])
@pytest.mark.parametrize("keep_results", [False, True])
def test_a_broken_link_does_not_lose_the_call(server, calls, aio, keep_results):
    f = calls("square")
    assert f.remote(1) == 1
    server.faults.keep_results = keep_results
    server.faults.drop_after_frames = 1
    assert (asyncio.run(f.remote.aio(5)) if aio else f.remote(5)) == 25


def test_a_result_that_was_on_its_way_is_not_computed_again(server, calls):
    started, go = threading.Event(), threading.Event()

    def slow(x):
        started.set()
        go.wait(10)
        return x

    server.deploy("a", slow=slow)
    f = calls("slow").hydrate()

    def break_then_finish():
        started.wait(10)
        server.drop_links()
        server.loop.call_soon_threadsafe(go.set)

    threading.Thread(target=break_then_finish, daemon=True).start()
    assert f.remote("once") == "once"
    assert max(server.seen.runs.values()) == 1


@pytest.mark.parametrize("aio", [False, True])
def test_a_server_that_crashes_and_comes_back_does_not_lose_the_call(server, calls, aio):
    started, go = threading.Event(), threading.Event()

    def slow(x):
        started.set()
        go.wait(10)
        return x

    server.deploy("a", slow=slow)
    f = calls("slow").hydrate()

    def crash():
        started.wait(10)
        server.crash()
        go.set()
        server.start()

    threading.Thread(target=crash, daemon=True).start()
    assert (asyncio.run(f.remote.aio("still")) if aio else f.remote("still")) == "still"
    assert max(server.seen.runs.values()) == 2


def test_repeated_outputs_do_no_harm(server, calls):
    f = calls("square").hydrate()
    server.faults.duplicate = True
    assert [f.remote(n) for n in range(5)] == [0, 1, 4, 9, 16]


# ------------------------------------------------------------------------------------------------ cancelling


def _when(event, action):
    threading.Thread(target=lambda: (event.wait(10), action()), daemon=True).start()


def _until(condition):
    """Wait for what another thread of this process is about to do."""
    done = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError("it did not happen")


def test_ctrl_c_cancels_the_call(server, calls):
    started, go = threading.Event(), threading.Event()
    server.deploy("a", stuck=lambda: (started.set(), go.wait(10)))
    f = calls("stuck").hydrate()
    _when(started, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        f.remote()
    _until(lambda: server.seen.cancelled)
    go.set()
    assert calls("square").remote(3) == 9


def test_cancelling_the_task_cancels_the_call(server, calls):
    started, go = threading.Event(), threading.Event()
    server.deploy("a", stuck=lambda: (started.set(), go.wait(10)))

    async def main():
        task = asyncio.create_task(calls("stuck").remote.aio())
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    _until(lambda: server.seen.cancelled)
    go.set()


# ------------------------------------------------------------------------------------------------ generators


def test_items_of_a_generator(server, calls):
    f = calls("count").hydrate()
    assert list(f.remote_gen(5)) == [0, 1, 2, 3, 4]
    assert list(calls("acount").remote_gen(3)) == [0, 1, 2]

    async def main():
        return [i async for i in f.remote_gen.aio(5)]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_the_error_of_a_generator_comes_after_its_items(calls):
    seen = []
    with pytest.raises(Odd):
        seen.extend(calls("count").remote_gen(5, fail_at=3))
    assert seen == [0, 1, 2]


def test_a_generator_gets_credit_as_its_items_are_read(server, calls):
    assert sum(calls("count").remote_gen(5_000)) == sum(range(5_000))
    assert sum(server.seen.credits) >= 4_000


def test_a_generator_is_not_far_ahead_of_a_reader_that_stops(server, calls):
    made = []

    def eager():
        for n in range(100_000):
            made.append(n)
            yield n

    server.deploy("a", eager=eager)
    source = calls("eager").remote_gen()
    for _ in range(600):
        next(source)
    quiet, before = threading.Event(), -1
    while before != len(made):
        before = len(made)
        quiet.wait(0.2)
    assert len(made) <= GENERATOR_ITEMS_AHEAD + 600 + 1
    source.close()


def test_a_generator_that_is_not_read_on_is_cancelled(server, calls):
    source = calls("count").remote_gen(1_000_000)
    assert next(source) == 0
    source.close()
    _until(lambda: server.seen.cancelled)


def test_the_wrong_kind_of_call_is_refused():
    app = jitney.App()
    f, g = app.function()(square), app.function()(count)
    with pytest.raises(InvalidError, match=r"count is a generator: use \.remote_gen"):
        g.remote(3)
    with pytest.raises(InvalidError, match=r"use \.remote_gen"):
        g.spawn(3)
    with pytest.raises(InvalidError, match="is not a generator"):
        list(f.remote_gen(3))
    with pytest.raises(InvalidError, match=r"use \.remote\(\.\.\.\) for a container"):
        f(3)


# ------------------------------------------------------------------------------------------------ about it


def test_local_and_raw():
    f = jitney.App().function()(square)
    assert f.local(4) == 16
    assert f.get_raw_f() is square
    assert f.__name__ == "square"
    with pytest.raises(InvalidError, match="its code is not here"):
        jitney.Function.from_name("a", "square").local(4)


def test_what_the_server_knows(server, calls):
    f = calls("square").hydrate()
    assert f.object_id.startswith("fu-")
    assert f.info().name == "square"
    assert f.get_current_stats().backlog == 2
    f.update_autoscaler(min_containers=1, scaledown_window=30)
    assert server.seen.requests[-1] == "function.autoscaler"


def test_variants_are_pools_of_their_own(server, calls):
    f = calls("square")
    quick = f.with_options(timeout=5, max_containers=2)
    assert quick.remote(3) == 9
    assert quick.object_id != f.object_id
    again = f.with_options(max_containers=2, timeout=5)
    assert again.hydrate().object_id == quick.object_id
    bound = server.functions[quick.object_id].overrides
    assert (bound.timeout_ms, bound.max_containers, bound.env) == (5_000, 2, None)
    assert f.with_concurrency(max_inputs=10).hydrate().object_id not in (f.object_id, quick.object_id)
    assert f.with_batching(max_batch_size=10, wait_ms=5).hydrate().object_id != f.object_id


def test_lookups_that_are_not_done_are_refused():
    with pytest.raises(UnsupportedError, match="version"):
        jitney.Function.from_name("a", "f", version=3)
    with pytest.raises(UnsupportedError, match="environment_name"):
        jitney.Cls.from_name("a", "f", environment_name="prod")


def test_a_function_can_be_pickled(server, calls):
    import pickle

    f = pickle.loads(pickle.dumps(calls("square").with_options(timeout=5)))
    assert f.remote(5) == 25


def test_a_call_in_a_container_finds_functions_of_its_app(server, in_container):
    server.deploy("ap-own", square=square)
    app = jitney.App()
    f = app.function()(square)
    in_container("ap-own")
    assert f.remote(3) == 9
    assert server.seen.hellos[-1].role == "container"
    g = app.function(name="other")(square)
    with pytest.raises(NotFoundError, match=r"Function\.from_name"):
        g.remote(3)


def test_works_after_a_fork(server, calls):
    f = calls("square")
    assert f.remote(2) == 4
    pid = os.fork()
    if pid == 0:
        ok = f.remote(3) == 9 and asyncio.run(f.remote.aio(4)) == 16 and list(f.map([1, 2])) == [1, 4]
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert f.remote(5) == 25
    assert asyncio.run(f.remote.aio(5)) == 25


def test_the_direct_path_leaves_what_it_does_not_know_to_the_portal(server, calls):
    f = calls("square").hydrate()
    endpoint = sessions.current().direct()._replace(token="wrong")
    assert blocking.call(endpoint, "fc-" + "0" * 22, f.object_id, "", b"P") is None
    assert sessions.current().direct() is not None
    PORTAL.call(sessions.current().close())
    assert sessions.current().direct() is None
    assert CallKind.UNARY == "unary"
    assert f.remote(3) == 9
