"""Large messages on a link: received where they stay, sent from where they are, and the same bytes on the wire."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.client import blocking
from jitney.client.greeting import Endpoint
from jitney.errors import InvalidError, NotFoundError
from jitney.values import ids
from jitney.values.calls import FRAME_BYTES_MAX
from jitney.wire import codec
from jitney.wire.frames import INBOX_BYTES, LENGTH, Inbox, Splitter, frame
from jitney.wire.home import Home
from jitney.wire.messages import link as m
from jitney.wire.messages import volumes as vm
from jitney.wire.methods import VOLUME_PUT_BLOCK, VOLUME_READ
from tests.server.conftest import SECRET, serving

sizes = st.one_of(
    st.integers(0, 100), st.integers(INBOX_BYTES - 8, INBOX_BYTES + 8), st.integers(INBOX_BYTES, 3 * INBOX_BYTES)
)


@settings(deadline=None)
@given(st.lists(sizes, max_size=6), st.lists(st.integers(1, 2 * INBOX_BYTES), min_size=1, max_size=9))
def test_an_inbox_gives_what_a_splitter_gives_however_it_comes(lengths, cuts):
    stream = b"".join(frame(bytes([number]) * length) for number, length in enumerate(lengths))
    inbox, found, at, turn = Inbox(), [], 0, 0
    while at < len(stream):
        room = inbox.room()
        assert len(room) > 0
        count = min(len(room), cuts[turn % len(cuts)], len(stream) - at)
        room[:count] = stream[at : at + count]
        found += inbox.filled(count)
        at, turn = at + count, turn + 1
    assert list(map(bytes, found)) == Splitter().feed(stream)


def test_a_frame_that_stays_is_not_overwritten_by_the_next():
    inbox = Inbox()
    for byte in (b"a", b"b"):
        stream = memoryview(frame(byte * (2 * INBOX_BYTES)))
        while stream:
            room = inbox.room()
            count = min(len(room), len(stream))
            room[:count] = stream[:count]
            found = inbox.filled(count)
            stream = stream[count:]
        if byte == b"a":
            kept = found
    assert [bytes(kept[0][:1]), bytes(found[0][:1])] == [b"a", b"b"]


def test_a_length_over_the_limit_is_refused():
    inbox = Inbox()
    inbox.room()[: LENGTH.size] = LENGTH.pack(FRAME_BYTES_MAX + 1)
    with pytest.raises(InvalidError, match="limit"):
        inbox.filled(LENGTH.size)


@pytest.mark.parametrize("size", [1, 300, 70_000])
def test_what_is_sent_in_pieces_is_the_message(size):
    tail = os.urandom(size)
    message = vm.VolumePutBlock(volume_id="vo-1", blocks=(vm.BlockData("d", 3, memoryview(b"")),))
    sent = codec.request_before(7, VOLUME_PUT_BLOCK.name, codec.before(message, tail), tail) + tail
    [body] = Splitter().feed(sent)
    for view in (body, memoryview(body)):
        request = codec.decode_from_peer(view)
        assert isinstance(request, m.Request)
        assert (request.id, request.method) == (7, VOLUME_PUT_BLOCK.name)
        [block] = codec.decode(request.body, vm.VolumePutBlock).blocks
        assert (block.digest, block.position, bytes(block.data)) == ("d", 3, tail)
    answer = m.Answer(9, tail)
    [body] = Splitter().feed(b"".join(codec.encode_answer(answer)))
    assert codec.decode_from_server(body) == answer
    large = codec.decode_from_server(memoryview(body))
    assert isinstance(large, m.Answer)
    assert (large.id, bytes(large.body)) == (9, tail)


def test_what_is_over_the_limit_of_a_frame_is_not_sent():
    with pytest.raises(InvalidError, match="limit"):
        codec.request_before(1, "volume.put_block", b"", memoryview(bytes(FRAME_BYTES_MAX)))


@pytest.mark.parametrize("body", [b"\x94\x03", b"\x94\x03\x01\xa1x\x05", b"\x93\x04\x01"])
def test_nonsense_that_is_large_is_refused_like_any(body):
    for decode in (codec.decode_from_peer, codec.decode_from_server):
        with pytest.raises(InvalidError):
            decode(memoryview(body))


def test_a_server_takes_large_requests_and_gives_large_answers(folder):
    data = os.urandom(3 * INBOX_BYTES)

    async def main():
        async with serving(folder) as (server, _):
            endpoint = Endpoint(str(Home(folder).socket()), SECRET, "the test")

            def ask():
                message = vm.VolumePutBlock(
                    volume_id=ids.make(ids.VOLUME, bytes(16)), blocks=(vm.BlockData("0" * 64, 0, memoryview(b"")),)
                )
                with pytest.raises(NotFoundError):
                    blocking.ask(endpoint, VOLUME_PUT_BLOCK.name, codec.before(message, data), tail=data, within_s=30)

            await asyncio.to_thread(ask)
            server.table.on(VOLUME_READ, _large(data))
            request = codec.encode(vm.VolumeRead(volume_id="v", path="p"))
            found = await asyncio.to_thread(blocking.ask, endpoint, VOLUME_READ.name, request)
            assert bytes(codec.decode(found, vm.VolumeReadAnswer).data) == data

    asyncio.run(main())


def _large(data):
    async def read(peer, request, emit):
        return vm.VolumeReadAnswer(version=1, size=len(data), data=memoryview(data))

    return read
