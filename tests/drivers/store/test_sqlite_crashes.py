"""Nothing that was acknowledged is lost: to kill -9, to a loss of power, to a disk that fails."""

import asyncio
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.drivers.store.sqlite import SqliteStore, inspect
from jitney.ports.store import Result
from jitney.testing.conformance.store import call, call_id, inputs
from jitney.values.calls import Output

CHILD = Path(__file__).with_name("writing_child.py")


def payload(number):
    return b"%d." % number * 50


def check_acknowledged(path, spawned, finished):
    """Open the store and find all of it."""

    async def check():
        store = SqliteStore(path, ballast_bytes=4 * 1024 * 1024)
        lost = []
        for number in spawned:
            record = await store.calls.get(call_id(number))
            if record is None or record.inputs != 1:
                lost += [("s", number)]
        for number in finished:
            found = await store.calls.outputs(call_id(number))
            lost += [] if found == [Output(0, 1, payload(number))] else [("f", number)]
        waiting, after = 0, None
        while (page := await store.calls.pending(after)).inputs:
            assert all(item.payload == payload_of(item.call_id) for item in page.inputs)
            waiting, after = waiting + len(page.inputs), page.after
        boot = (await store.meta()).boot
        await store.close()
        return lost, boot

    names = {call_id(number): number for number in spawned}

    def payload_of(name):
        number = names.get(name)
        return payload(number) if number is not None else payload(number_of(name))

    lost, boot = asyncio.run(check())
    assert inspect(path)[1] == ""
    assert lost == []
    return boot


def number_of(name):
    """The number that an id was made of: writes that were not acknowledged may be there too."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for letter in name[3:]:
        number = number * 62 + alphabet.index(letter)
    return number


def kill_again_and_again(tmp_path, times, dice):
    path = tmp_path / "store.sqlite"
    spawned, finished = [], []
    for cycle in range(times):
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(path), str((cycle + 1) << 32)], stdout=subprocess.PIPE
        )
        for _ in range(dice.randrange(1, 400)):
            line = child.stdout.readline()
            note(line, spawned, finished)
        child.kill()
        for line in child.stdout:
            note(line, spawned, finished)
        assert child.wait() == -9
        child.stdout.close()
    assert check_acknowledged(path, spawned, finished) == times + 1
    return len(spawned) + len(finished)


def note(line, spawned, finished):
    kind, _, number = line.decode().partition(" ")
    if kind in ("s", "f") and number.endswith("\n"):
        (spawned if kind == "s" else finished).append(int(number))


@pytest.mark.chaos
def test_nothing_acknowledged_is_lost_to_30_kills(tmp_path):
    assert kill_again_and_again(tmp_path, 30, random.Random(30)) > 1_000


@pytest.mark.chaos
@pytest.mark.slow
def test_nothing_acknowledged_is_lost_to_500_kills(tmp_path):
    assert kill_again_and_again(tmp_path, 500, random.Random(500)) > 50_000


def test_a_disk_that_fails_ends_all_writing_and_loses_nothing(tmp_path):
    path = tmp_path / "store.sqlite"
    done = subprocess.run(
        [sys.executable, str(CHILD), str(path), "7", str(1_500_000)], capture_output=True, check=False, timeout=60
    )
    lines = done.stdout.decode().splitlines()
    assert lines[-3:] == ["ended storage False True", "refused storage", "read"], done.stderr.decode()
    spawned = [int(line[2:]) for line in lines if line.startswith("s ")]
    assert len(spawned) > 20
    check_acknowledged(path, spawned, [])


@pytest.mark.parametrize("harm", ["cut", "zeros", "garbage", "mixed"])
def test_a_loss_of_power_keeps_what_was_synced_and_tears_only_the_rest(tmp_path, harm):
    """Pages that were not synced may be on the disk, or not, or in part: all after the last acknowledged commit."""
    dice = random.Random(harm)
    path = tmp_path / "store.sqlite"
    log, mark = path.with_name("store.sqlite-wal"), path.with_name("store.sqlite.acked")

    async def story():
        store = SqliteStore(path, ballast_bytes=0)
        for number in range(10):
            await store.calls.spawn(call(number), inputs(number, 0, 3))
        await store.calls.finish([Result(call_id(1), Output(0, 1, b"kept"), 1)])
        synced, noted = log.stat().st_size, mark.read_bytes()
        await store.calls.spawn(call(99), inputs(99, 0, 50))
        await store.calls.finish([Result(call_id(2), Output(i, 1, b"x"), 1) for i in range(3)])
        copy = tmp_path / "after"
        copy.mkdir()
        shutil.copy(path, copy / path.name)
        (copy / mark.name).write_bytes(noted)
        (copy / log.name).write_bytes(torn(log.read_bytes(), synced))
        await store.close()
        return copy / path.name

    def torn(data, synced):
        tail = bytearray(data[synced:])
        cut = dice.randrange(len(tail))
        if harm == "cut":
            del tail[cut:]
        elif harm == "zeros":
            tail[cut:] = bytes(len(tail) - cut)
        elif harm == "garbage":
            tail[cut:] = dice.randbytes(len(tail) - cut)
        else:
            for at in range(0, len(tail), 512):
                if dice.random() < 0.3:
                    tail[at : at + 512] = dice.randbytes(512)
        return data[:synced] + bytes(tail)

    async def look(copy):
        store = SqliteStore(copy, ballast_bytes=0)
        calls = {record.call_id: record for record in await store.calls.recent(limit=100)}
        assert all(calls[call_id(number)].inputs == 3 for number in range(10))
        assert await store.calls.outputs(call_id(1)) == [Output(0, 1, b"kept")]
        # The rest is there whole or not at all.
        if call_id(99) in calls:
            assert calls[call_id(99)].inputs == 50
        assert len(await store.calls.outputs(call_id(2), limit=9)) in (0, 3)
        await store.close()

    copy = asyncio.run(story())
    asyncio.run(look(copy))
    assert inspect(copy)[1] == ""
