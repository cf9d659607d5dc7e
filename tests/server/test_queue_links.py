"""Queues over real links: what is given to a link belongs to it when it says so, and to nobody when it breaks."""

import asyncio

from jitney.values.objects import ObjectKind
from jitney.wire import codec, methods
from jitney.wire.messages import link as m
from jitney.wire.messages.objects import ObjectOpen
from tests.server.conftest import serving


async def opened(connect, role="client"):
    """(a link that was welcomed, the id of a queue)."""
    wire = await connect()
    assert isinstance(await wire.hello(role), m.Welcome)
    request = ObjectOpen(kind=ObjectKind.QUEUE, name="q", create_if_missing=True)
    answer = await wire.ask("object.open", request)
    return wire, codec.decode(answer.body, methods.OBJECT_OPEN.answer).object_id


def get(number, queue_id, timeout_ms=None):
    return m.Request(number, "queue.get", codec.encode({"object_id": queue_id, "timeout_ms": timeout_ms}))


def put(number, queue_id, *items):
    return m.Request(number, "queue.put", codec.encode({"object_id": queue_id, "items": list(items)}))


def items(answer):
    return [item.payload for item in codec.decode(answer.body, methods.QUEUE_GET.answer).items]


def test_an_item_given_to_a_link_that_breaks_is_there_again(folder):
    async def main():
        async with serving(folder) as (_, connect):
            getter, queue_id = await opened(connect)
            other, _ = await opened(connect)
            await getter.send(get(5, queue_id))
            await other.send(put(2, queue_id, b"a"))
            assert items(await getter.receive()) == [b"a"]
            await other.send(get(3, queue_id))
            getter.writer.close()  # without having said that it has it
            answers = {answer.id: answer for answer in (await other.receive(), await other.receive())}
            assert items(answers[3]) == [b"a"]
            await other.send(m.Received(3), get(4, queue_id, 0))
            assert items(await other.receive()) == []

    asyncio.run(main())


def test_a_get_that_is_cancelled_takes_nothing_answered_or_not(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire, queue_id = await opened(connect)
            await wire.send(get(5, queue_id), m.CancelRequest(5))
            assert (await wire.receive()).code == "cancelled"
            await wire.send(put(6, queue_id, b"a"), get(7, queue_id))
            answers = [await wire.receive(), await wire.receive()]
            assert sorted(answer.id for answer in answers) == [6, 7]
            await wire.send(m.CancelRequest(7), m.Received(7), get(8, queue_id, 0))
            assert items(await wire.receive()) == [b"a"], "it came back, and what is said of it afterwards is too late"

    asyncio.run(main())


def test_a_number_that_is_in_use_ends_the_link(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire, queue_id = await opened(connect)
            await wire.send(get(5, queue_id), get(5, queue_id))
            assert (await wire.receive()).code == "invalid"
            assert await wire.receive() is None
            other, _ = await opened(connect)
            await other.send(put(2, queue_id, b"a"))
            assert (await other.receive()).id == 2
            await other.send(get(3, queue_id, 0))
            assert items(await other.receive()) == [b"a"], "nobody of the dead link had it"

    asyncio.run(main())


def test_a_peer_may_not_wait_for_everything(folder, monkeypatch):
    monkeypatch.setattr("jitney.server.link.REPLIES_MAX", 3)

    async def main():
        async with serving(folder) as (_, connect):
            wire, queue_id = await opened(connect)
            await wire.send(*[get(number, queue_id) for number in range(5, 9)])
            refused = await wire.receive()
            assert (refused.id, refused.code) == (8, "resource_exhausted")

    asyncio.run(main())


def test_garbage_is_refused_and_the_link_goes_on(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire, queue_id = await opened(connect)
            for number, body in enumerate([b"", b"\xc1", codec.encode({"object_id": 5}), codec.encode([1])], 10):
                await wire.send(m.Request(number, "queue.get", body))
                assert (await wire.receive()).code == "invalid"
            await wire.send(get(20, queue_id, 0))
            assert items(await wire.receive()) == []

    asyncio.run(main())


def test_a_worker_has_no_business_with_queues(folder):
    async def main():
        async with serving(folder) as (_, connect):
            wire = await connect()
            await wire.hello("worker")
            await wire.send(get(2, "qu-0000000000000000000000"))
            assert (await wire.receive()).code == "permission_denied"

    asyncio.run(main())
