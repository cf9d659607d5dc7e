"""Messages with descriptors, to sockets that are slow, full or gone."""

import asyncio
import os
import socket

import pytest

from jitney.drivers.runtime.forking.sending import Sender
from jitney.runner import template_protocol as protocol

LARGE = "x" * 4_000_000  # more than a socket takes at once


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def descriptors():
    return len(os.listdir("/dev/fd"))


def test_all_of_it_arrives_in_order_with_its_descriptors(ends):
    ours, theirs = ends

    async def story():
        sender = Sender(ours)
        sender.send({"kind": "first", "text": LARGE})
        sender.send({"kind": "second"}, [ours.fileno()])
        splitter, messages, handed = protocol.Splitter(), [], []
        while len(messages) < 2:
            data, more = await asyncio.to_thread(protocol.receive, theirs)
            handed += more
            messages += splitter.feed(data)
        sender.close()
        assert [message["kind"] for message in messages] == ["first", "second"]
        assert messages[0]["text"] == LARGE
        for one in handed:
            os.close(one)
        assert len(handed) == 1

    before = descriptors()
    asyncio.run(story())
    assert descriptors() == before


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_is_never_sent_keeps_no_descriptor(ends, is_gone):
    ours, theirs = ends

    async def story():
        sender = Sender(ours)
        if is_gone:
            theirs.close()
        sender.send({"kind": "first", "text": LARGE})
        sender.send({"kind": "second"}, [ours.fileno()])
        sender.close()

    before = descriptors() - is_gone
    asyncio.run(story())
    assert descriptors() == before
