"""`Dict` and `Queue` as a program uses them, at a server of this process."""

import asyncio
import pickle
import queue
import threading
from dataclasses import dataclass

import pytest
from tests.server.live import LiveServer

import jitney
from jitney.client import blocking, codec, session
from jitney.client import objects as client_objects
from jitney.client.portal import PORTAL
from jitney.errors import (
    AlreadyExistsError,
    DeserializationError,
    InvalidError,
    LeaseEndedError,
    NotFoundError,
    QueueEmptyError,
    QueueFullError,
    SerializationError,
    UnsupportedError,
)
from jitney.values import dicts


@dataclass(frozen=True)
class Page:
    site: str
    number: int


class Unreadable:
    def __reduce__(self):
        return (int, ("not a number",))


@pytest.fixture
def server(home):
    live = LiveServer(home)
    yield live
    if blocking._mine.connection is not None:
        blocking._mine.connection.close()
        blocking._mine.connection = None
    live.stop()


@pytest.fixture
def d(server):
    return jitney.Dict.from_name("shared", create_if_missing=True)


@pytest.fixture
def q(server):
    return jitney.Queue.from_name("jobs", create_if_missing=True)


VALUES = [None, True, 0, -1, 1 << 62, 1 << 70, 1.5, "text", b"bytes", [1, [2]], {"a": (1, 2)}, Page("x", 3)]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back(d, value):
    d["k"] = value
    assert d["k"] == value
    assert type(d["k"]) is type(value)


KEYS = ["", "text", b"text", 1, True, 1.0, 2**64 - 1, 2**70, None, (), ("a", 1), ("a", (b"b", None)), Page("x", 3)]


def test_keys_are_apart_and_come_back(d):
    d.update((key, at) for at, key in enumerate(KEYS))
    assert [d[key] for key in KEYS] == list(range(len(KEYS)))
    assert list(d) == list(d.keys())
    assert [(type(key), key) for key in d.keys()] == [(type(key), key) for key in KEYS]  # noqa: SIM118 (no dict)


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_equal_keys_are_the_same_bytes(key):
    assert codec.encode_key(pickle.loads(pickle.dumps(key))) == codec.encode_key(key)
    assert codec.decode_key(codec.encode_key(key)) == key


def test_a_key_is_the_same_whatever_of_it_is_one_object():
    letters = list("ab")
    one, other = "".join(letters), "".join(letters)
    assert one is not other
    assert codec.encode_key(Page(one, (one, one))) == codec.encode_key(Page(one, (other, one)))


def test_it_is_used_like_a_dict(d):
    d["a"] = 1
    assert "a" in d
    assert "b" not in d
    with pytest.raises(KeyError, match="b"):
        d["b"]
    assert d.get("b") is None
    assert d.get("b", 7) == 7
    assert d.put("a", 2, skip_if_exists=True) is False
    assert d.put("b", 2, skip_if_exists=True) is True
    d.update({"c": 3}, x=4)
    assert list(d.items()) == [("a", 1), ("b", 2), ("c", 3), ("x", 4)]
    assert list(d.values()) == [1, 2, 3, 4]
    assert d.len() == 4
    assert d.pop("c") == 3
    assert d.pop("c", None) is None
    with pytest.raises(KeyError):
        d.pop("c")
    del d["x"]
    with pytest.raises(KeyError):
        del d["x"]
    d.clear()
    assert d.len() == 0


def test_pages_are_read_as_they_are_wanted(d):
    d.update({number: str(number) for number in range(2_500)})
    assert list(d.keys()) == list(range(2_500))
    first = iter(d.items())
    assert next(first) == (0, "0")
    first.close()


def test_sums(d):
    assert d.increment("n") == 1
    assert d.increment("n", 41) == 42
    assert d["n"] == 42
    d["n"] = 7
    assert d.increment("n", -8) == -1
    d["text"] = "7"
    with pytest.raises(InvalidError, match="integer"):
        d.increment("text")
    for by in (1.5, True, 1 << 63):
        with pytest.raises(InvalidError, match="64 bits"):
            d.increment("n", by)


def test_a_swap_compares_values_and_not_their_bytes(d):
    d["k"] = {"a": 1, "b": [2]}
    assert not d.compare_and_swap("k", {"a": 1}, "no")
    assert d.compare_and_swap("k", {"b": [2], "a": 1}, {"new": True})
    assert d["k"] == {"new": True}
    d["n"] = 1
    assert d.compare_and_swap("n", 1, 2)
    assert d.compare_and_swap("n", 2.0, 3)
    assert not d.compare_and_swap("none", None, 1)


def test_many_threads_swap_and_each_counts(d):
    d["n"] = [0]

    def add():
        for _ in range(10):
            while True:
                there = d["n"]
                if d.compare_and_swap("n", there, [there[0] + 1]):
                    break
            d.increment("m")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert d["n"] == [40]
    assert d["m"] == 40


def test_large_values_go_by_a_file(d, server):
    large = bytes(range(256)) * 4_000
    d["k"] = large
    assert d["k"] == large
    (file,) = (server.folder / "blobs").iterdir()
    assert dicts.owner_of(file.name) == d.object_id
    assert not d.compare_and_swap("k", b"", b"x")
    assert d.compare_and_swap("k", large, large[:-1])
    assert d.pop("k") == large[:-1]


def test_a_value_over_the_limit_leaves_nothing(d, server, monkeypatch):
    monkeypatch.setattr(dicts, "VALUE_BYTES_MAX", 200_000)
    with pytest.raises(InvalidError, match=r"200,0\d\d bytes; the limit is 200,000.*Volume"):
        d["k"] = bytes(200_001)
    assert "k" not in d
    assert list((server.folder / "blobs").iterdir()) == []


@pytest.mark.parametrize("bad", [lambda: None, threading.Lock()], ids=["function", "lock"])
def test_keys_that_cannot_be_pickled(d, bad):
    with pytest.raises(SerializationError, match=r"a key of type .* cannot be pickled.*use str, int, bytes"):
        d[bad] = 1
    with pytest.raises(SerializationError):
        d.get(("a", bad))


def test_values_that_cannot_be_pickled_or_unpickled(d, q):
    with pytest.raises(SerializationError, match=r"the value: .*lock.*at \['x'\]"):
        d["k"] = {"x": threading.Lock()}
    with pytest.raises(SerializationError, match=r"the item: .*lock"):
        q.put(threading.Lock())
    d["k"] = Unreadable()
    with pytest.raises(DeserializationError, match="cannot be unpickled here"):
        d["k"]


def test_keys_and_updates_over_the_limit(d):
    with pytest.raises(InvalidError, match=r"key of .* limit of 65,536.*digest"):
        d["x" * 70_000]
    with pytest.raises(InvalidError, match="10,000 entries"):
        d.update((number, None) for number in range(10_001))
    d.update({number: bytes(60_000) for number in range(300)})
    assert d.len() == 300, "in parts, as they come to more than one request holds"


def test_first_in_first_out(q):
    q.put("a")
    q.put_many(["b", "c"])
    q.put("x", partition="p")
    assert q.len() == 3
    assert q.len(total=True) == 4
    assert q.len(partition="p") == 1
    assert list(q.iterate()) == ["a", "b", "c"]
    assert q.get() == "a"
    assert q.get_many(9) == ["b", "c"]
    assert q.get(block=False) is None
    assert q.get_many(9, block=False) == []
    assert q.get(partition="p") == "x"
    q.put_many(range(3))
    q.clear()
    q.put_many(range(3), partition="p")
    q.clear(all=True)
    assert q.len(total=True) == 0


def test_nothing_in_time_is_the_error_of_the_standard_library_too(q):
    with pytest.raises(queue.Empty) as caught:
        q.get(timeout=0.01)
    assert isinstance(caught.value, QueueEmptyError)
    assert isinstance(caught.value, jitney.exception.TimeoutError)
    with pytest.raises(queue.Empty):
        q.get_many(3, timeout=0)
    q.put_many([0] * 5_000)
    with pytest.raises(queue.Full) as full:
        q.put(1, timeout=0.01)
    assert isinstance(full.value, QueueFullError)
    with pytest.raises(queue.Full):
        q.put(1, block=False)


def test_iterating_waits_for_what_comes(q):
    q.put(1)
    found = q.iterate(item_poll_timeout=5)
    assert next(found) == 1
    threading.Thread(target=q.put, args=(2,)).start()
    assert next(found) == 2
    found.close()


def test_a_getter_on_another_thread_is_handed_the_item(q):
    got = []
    waiting = threading.Thread(target=lambda: got.append(q.get(timeout=10)))
    waiting.start()
    q.put("x")
    waiting.join()
    assert got == ["x"]
    assert q.len() == 0


def test_leases(q):
    q.put_many(["a", "b"])
    with q.get(lease=60) as value:
        assert value == "a"
    first = q.get(lease=60)
    assert (first.value, first.deliveries) == ("b", 1)
    assert q.get(block=False, lease=60) is None
    first.extend(120)
    first.nack()
    with pytest.raises(LeaseEndedError, match="extend"):
        first.ack()
    with pytest.raises(ZeroDivisionError), q.get(lease=60):
        raise ZeroDivisionError
    (again,) = q.get_many(5, lease=60)
    assert again.deliveries == 3
    again.ack()
    assert q.get(block=False) is None


def test_what_was_delivered_too_often_is_among_the_dead(q):
    q.put("poison")
    for _ in range(2):
        q.get(lease=60, max_deliveries=2).nack()
    assert q.get(block=False) is None
    assert q.get(partition=jitney.Queue.DEAD_LETTER) == "poison"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q: q.put(1, partition="x" * 65),
        lambda q: q.put(1, partition=""),
        lambda q: q.put(1, partition_ttl=0),
        lambda q: q.put(1, timeout=-1),
        lambda q: q.put(bytes(1_100_000)),
        lambda q: q.put_many([1] * 5_001),
        lambda q: q.get(lease=0),
        lambda q: q.get(lease=10**9),
        lambda q: q.get(lease=1, max_deliveries=0),
        lambda q: q.get_many(0),
        lambda q: q.clear(partition="a", all=True),
    ],
)
def test_what_cannot_be_is_refused(q, wrong):
    with pytest.raises(InvalidError):
        wrong(q)


def test_items_are_put_in_parts_where_they_are_many_bytes(q):
    q.put_many([bytes([number]) * 1_000_000 for number in range(20)])
    assert [item[0] for item in q.get_many(20)] == list(range(16)), "an answer is bounded"
    assert [item[0] for item in q.get_many(20)] == list(range(16, 20))


def test_the_same_for_async_code(d, q):
    async def main():
        await d.put.aio("a", 1)
        assert await d.get.aio("a") == 1
        assert await d.increment.aio("a") == 2
        assert [key async for key in d.keys.aio()] == ["a"]
        with pytest.raises(KeyError):
            await d.pop.aio("b")
        waiting = asyncio.create_task(q.get.aio(timeout=10))
        await q.put.aio("x")
        assert await waiting == "x"
        await q.put_many.aio([1, 2])
        assert [item async for item in q.iterate.aio()] == [1, 2]
        async with await q.get.aio(lease=60) as value:
            assert value == 1
        item = await q.get.aio(lease=60)
        await item.ack.aio()
        assert await q.len.aio() == 0

    asyncio.run(main())


def test_a_get_that_is_cancelled_takes_nothing(q):
    async def main():
        for number in range(30):
            waiting = asyncio.create_task(q.get.aio())
            putting = asyncio.create_task(q.put.aio(number))
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            got, _ = await asyncio.gather(waiting, putting, return_exceptions=True)
            if isinstance(got, asyncio.CancelledError):
                got = await q.get.aio(timeout=5)
            assert got == number

    asyncio.run(main())


def test_a_thread_that_is_interrupted_takes_nothing(q):
    q.hydrate()
    q.put(0)
    q.get()
    connection = blocking._mine.connection

    class Interrupted(BaseException):
        pass

    def interrupt():
        raise Interrupted

    receive = connection._receive
    connection._receive = lambda: (receive(), interrupt())
    q2 = jitney.Queue.from_name("jobs")
    q2.hydrate.aio  # noqa: B018 (a handle of its own asks by another thread)
    threading.Thread(target=q2.put, args=("x",)).start()
    with pytest.raises(Interrupted):
        q.get()
    assert q.get(timeout=5) == "x"


def test_handles_ask_nothing_before_their_first_use(home):
    d = jitney.Dict.from_name("x", create_if_missing=True)
    assert repr(d) == "Dict.from_name('x')"
    assert d.name == "x"
    with pytest.raises(InvalidError, match="no id yet"):
        d.object_id  # noqa: B018
    with pytest.raises(InvalidError, match="name of a dict"):
        jitney.Dict.from_name("no/name")
    with pytest.raises(InvalidError, match=r"is not an id"):
        jitney.Queue.from_id("di-0000000000000000000000")
    with pytest.raises(UnsupportedError):
        jitney.Dict.from_name("x", environment_name="prod")


def test_handles_travel(d, q):
    d["a"] = 1
    q.put(1)
    assert pickle.loads(pickle.dumps(d))["a"] == 1
    assert pickle.loads(pickle.dumps(jitney.Queue.from_id(q.object_id))).len() == 1
    assert d.info().name == "shared"
    assert repr(jitney.Dict.from_id(d.object_id)) == f"Dict.from_id({d.object_id!r})"


def test_a_name_that_is_not_there_says_so(server, d):
    d.hydrate()
    with pytest.raises(NotFoundError, match=r"no dict 'shard'.*did you mean 'shared'\?.*create_if_missing=True"):
        jitney.Dict.from_name("shard").get("a")


def test_an_object_that_was_made_anew_is_found_again(d):
    d["a"] = 1
    jitney.Dict.objects.delete("shared")
    assert d.get("a") is None, "create_if_missing holds for each use"
    by_id = jitney.Dict.from_id(d.object_id)
    jitney.Dict.objects.delete("shared")
    with pytest.raises(NotFoundError, match="deleted"):
        by_id.get("a")


def test_objects_of_a_kind(server):
    made = jitney.Queue.objects.create("a")
    with pytest.raises(AlreadyExistsError, match="a queue 'a'"):
        jitney.Queue.objects.create("a")
    jitney.Queue.objects.create("a", allow_existing=True)
    jitney.Queue.objects.create("b")
    assert [one.name for one in jitney.Queue.objects.list()] == ["b", "a"]
    assert [one.name for one in jitney.Queue.objects.list(max_objects=1)] == ["b"]
    assert jitney.Dict.objects.list() == []
    made.put(1)
    jitney.Queue.objects.delete("a")
    jitney.Queue.objects.delete("a", allow_missing=True)
    with pytest.raises(NotFoundError):
        jitney.Queue.objects.delete("a")


def test_one_that_is_renamed_stays_the_same(server, d):
    d["a"] = 1
    named = jitney.Dict.from_name(d.name)
    by_id = jitney.Dict.from_id(d.info().object_id)
    other = jitney.Dict.objects.create("other")
    for taken in ("other", "../other"):
        with pytest.raises((AlreadyExistsError, InvalidError), match="other"):
            jitney.Dict.objects.rename(d.name, taken)
    jitney.Dict.objects.rename(d.name, "new")
    assert [one["a"] for one in (d, by_id, jitney.Dict.from_name("new"))] == [1, 1, 1]
    with pytest.raises(NotFoundError, match=f"no dict {d.name!r}"):
        named.get("a")
    with pytest.raises(NotFoundError, match="did you mean 'other'"):
        jitney.Dict.objects.rename("othr", "x")
    made_anew = jitney.Dict.from_name(d.name, create_if_missing=True)
    assert "a" not in made_anew
    jitney.Dict.objects.delete("new")
    assert sorted(one.name for one in jitney.Dict.objects.list()) == sorted([other.name, d.name])
    asyncio.run(jitney.Dict.objects.rename.aio("other", "o"))


def test_ephemeral_ones_live_as_long_as_their_block(server, monkeypatch):
    monkeypatch.setattr(client_objects, "HEARTBEAT_S", 0.01)
    heard = threading.Event()
    heartbeat = server.server.shared.objects.heartbeat

    async def listen(object_ids):
        heard.set()
        return await heartbeat(object_ids)

    server.on_loop(lambda: setattr(server.server.shared.objects, "heartbeat", listen))
    with jitney.Dict.ephemeral() as d:
        d["a"] = 1
        assert d.name is None
        assert heard.wait(10)
        assert jitney.Dict.objects.list() == []
    with pytest.raises(NotFoundError):
        d.get("a")

    async def main():
        async with jitney.Queue.ephemeral() as q:
            await q.put.aio(1)
            assert await q.get.aio() == 1

    asyncio.run(main())


def test_a_server_that_comes_back_is_used_again(home):
    first = LiveServer(home)
    d = jitney.Dict.from_name("x", create_if_missing=True)
    d["a"] = 1
    first.stop()
    second = LiveServer(home)
    try:
        d["b"] = 2
        assert d["b"] == 2
    finally:
        second.stop()


def test_a_container_may_use_them_and_delete_no_secret(server, d, in_container_of):
    d["a"] = 1
    in_container_of(server)
    inside = pickle.loads(pickle.dumps(d))
    assert inside["a"] == 1
    assert inside.increment("a") == 2
    inside["large"] = bytes(100_000)
    assert inside["large"] == bytes(100_000)
    q = jitney.Queue.from_name("in", create_if_missing=True)
    q.put("x")
    assert q.get() == "x"
    with jitney.Dict.ephemeral() as e:
        e["a"] = 1


@pytest.fixture
def in_container_of(monkeypatch):
    """Makes this process look like a container of a live server."""
    from jitney.runner import state
    from jitney.values import ids

    def enter(server):
        container_id = ids.make(ids.CONTAINER, bytes(16))
        config = {
            "link_socket": str(server.server._home.socket()),
            "token": server.server._auth.container_token(container_id),
            "segments": str(server.folder / "segments"),
            "blobs": str(server.folder / "blobs"),
        }
        monkeypatch.setattr(state, "config", config)

    yield enter
    for one in session._sessions.values():
        PORTAL.call(one.close())
    session._sessions.clear()
