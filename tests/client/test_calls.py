"""Durable calls: spawn, results later, whole maps, cancelling."""

import asyncio
import pickle
import threading

import pytest

import jitney
from jitney.client import calls as module
from jitney.client import output
from jitney.client.portal import PORTAL
from jitney.errors import (
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    ResourceExhaustedError,
    SerializationError,
    TimeoutError,
)
from jitney.runner import payload
from jitney.values.calls import Output, Status


def square(x):
    return x * x


def picky(x):
    if x == 3:
        raise ValueError("not 3")
    return x


@pytest.fixture
def calls(server):
    server.deploy("a", square=square, picky=picky)
    return lambda name: jitney.Function.from_name("a", name)


def test_a_result_later(server, calls):
    call = calls("square").spawn(5)
    assert call.object_id.startswith("fc-")
    assert call.get() == 25
    assert call.get() == 25  # kept
    assert call.num_inputs() == 1

    async def main():
        spawned = await calls("square").spawn.aio(6)
        return await spawned.get.aio()

    assert asyncio.run(main()) == 36


def test_by_id_from_anywhere(calls):
    call = calls("square").spawn(5)
    assert jitney.FunctionCall.from_id(call.object_id).get() == 25
    assert pickle.loads(pickle.dumps(call)).get() == 25
    assert repr(call) == f"FunctionCall.from_id('{call.object_id}')"
    with pytest.raises(InvalidError, match="not an id"):
        jitney.FunctionCall.from_id("ap-1")
    with pytest.raises(NotFoundError):
        jitney.FunctionCall.from_id("fc-" + "0" * 22).get()


def test_waiting_and_looking(server, calls):
    go = threading.Event()
    server.deploy("a", slow=lambda: go.wait(10))
    call = calls("slow").spawn()
    with pytest.raises(TimeoutError, match="has no result yet, after 0 s"):
        call.get(timeout=0)
    with pytest.raises(TimeoutError, match=r"after 0\.05 s"):
        call.get(timeout=0.05)
    go.set()
    assert call.get(timeout=10) is True


def test_a_long_wait_asks_again(server, calls, monkeypatch):
    monkeypatch.setattr(module, "POLL_MS_MAX", 20)
    asked = server.seen.requests
    go = threading.Event()
    server.deploy("a", slow=lambda: go.wait(10))
    call = calls("slow").spawn()

    async def count(request, emit):
        answer = await outputs(request, emit)
        if asked.count("call.outputs") >= 3:
            go.set()
        return answer

    outputs = server.answers.call_outputs
    server.answers.call_outputs = count
    assert call.get() is True
    assert asked.count("call.outputs") >= 3


def test_what_the_function_raised(calls):
    with pytest.raises(ValueError, match="not 3") as caught:
        calls("picky").spawn(3).get()
    assert "in picky" in str(caught.value.__cause__)


def test_an_expired_result(server, calls):
    call = calls("square").spawn(1)
    call.get()
    server.answers.durable[call.object_id].outputs[0] = Output(0, Status.EXPIRED, b"")
    with pytest.raises(OutputExpiredError, match="kept its time"):
        call.get()


def test_a_whole_map(server, calls):
    call = calls("square").spawn_map(range(2_000))
    assert call.num_inputs() == 2_000
    assert list(call.iter()) == [n * n for n in range(2_000)]
    assert list(call.iter(10, 12)) == [100, 121]
    assert call.get(index=7) == 49
    with pytest.raises(InvalidError, match="has 2000 inputs; there is no index 2000"):
        call.get(index=2_000)
    assert server.seen.requests.count("call.spawn") >= 4
    assert set(server.seen.runs.values()) == {1}


def test_a_whole_map_from_async_code(calls):
    async def inputs():
        for n in range(600):
            yield n

    async def main():
        call = await calls("square").spawn_map.aio(inputs())
        return [value async for value in call.iter.aio()]

    assert asyncio.run(main()) == [n * n for n in range(600)]


def test_no_inputs_at_all(calls):
    call = calls("square").spawn_map([])
    assert list(call.iter()) == []


def test_the_first_failure_ends_the_iteration(calls):
    seen = []
    with pytest.raises(ValueError, match="not 3"):
        seen.extend(calls("picky").spawn_map(range(10)).iter())
    assert seen == [0, 1, 2]


def test_a_map_whose_iterator_fails_is_cancelled(server, calls):
    def inputs():
        yield from range(1_000)
        raise KeyError("source")

    with pytest.raises(KeyError):
        calls("square").spawn_map(inputs())
    assert "call.cancel" in server.seen.requests
    assert all(call.cancelled for call in server.answers.durable.values())


def test_a_full_queue_is_waited_for(server, calls):
    server.answers.fail["call.spawn"] = ResourceExhaustedError("1,000,000 inputs wait")
    notes = []

    class Kept(output.Quiet):
        def note(self, text):
            notes.append(text)

    with output.use(Kept()):
        assert list(calls("square").spawn_map(range(3)).iter()) == [0, 1, 4]
    assert notes == ["spawn_map waits for room: 1,000,000 inputs wait"]


def test_gather(calls):
    f = calls("square")
    spawned = [f.spawn(n) for n in range(5)]
    assert jitney.FunctionCall.gather(*spawned) == [0, 1, 4, 9, 16]

    async def main():
        return await jitney.FunctionCall.gather.aio(*spawned)

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError, match="not 3"):
        jitney.FunctionCall.gather(calls("picky").spawn(1), calls("picky").spawn(3))
    with pytest.raises(TimeoutError, match="no result"):
        PORTAL.call(_fails())


async def _fails():
    raise TimeoutError("no result")


def test_cancel(server, calls):
    call = calls("square").spawn(1)
    call.cancel()
    assert server.answers.durable[call.object_id].cancelled


def test_large_values_lie_in_files_named_after_the_call(server, calls):
    server.deploy("a", size=len)
    call = calls("size").spawn(b"x" * 1_000_000)
    assert call.get() == 1_000_000
    assert [path.name for path in server.home.blobs.iterdir()] == [f"{call.object_id}.0.in"]
    body = server.answers.durable[call.object_id].payloads[0]
    assert payload.referenced_file(body) == f"{call.object_id}.0.in"


def test_arguments_that_cannot_be_pickled(server, calls):
    with pytest.raises(SerializationError, match="argument '0' of square"):
        calls("square").spawn(threading.Lock())
    assert not server.answers.durable


def test_a_crash_between_does_not_lose_anything(server, calls):
    call = calls("square").spawn_map(range(100))
    server.crash()
    server.start()
    assert list(call.iter()) == [n * n for n in range(100)]
