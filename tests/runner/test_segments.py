"""Reused shared memory: exclusive writers, undisturbed readers, real processes."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from jitney.runner import segments as module
from jitney.runner.segment_pools import SegmentPools
from jitney.runner.segments import SegmentGone, SegmentPool
from tests.runner.fake_worker import PACKAGE_ROOT

SIZE = 300_000
SCOPE = "so-1"


def store(pool, byte, size=SIZE):
    return pool.store([bytes([byte]) * size], size)


def files(folder, where):
    prefix = f"{SCOPE}/" if where == "used" else ""
    return sorted(prefix + name for name in os.listdir(f"{folder}/{SCOPE}/{where}"))


@pytest.fixture
def pool(segments):
    made = SegmentPool(segments, SCOPE)
    yield made
    made.close()


def test_a_segment_is_used_again(pool, segments):
    first = store(pool, 1)
    pool.release(first)
    second = store(pool, 2)
    assert first.split(".")[0] == second.split(".")[0]
    assert first != second
    assert files(segments, "used") == [second]
    with pytest.raises(SegmentGone):
        pool.attach(first, SIZE)
    assert bytes(pool.attach(second, SIZE)) == b"\2" * SIZE


def test_not_while_somebody_reads_it(pool, segments):
    name = store(pool, 1)
    view = pool.attach(name, SIZE)
    piece = view[1000:2000]
    del view
    pool.release(name)
    other = store(pool, 2)
    assert other.split(".")[0] != name.split(".")[0]
    assert bytes(piece) == b"\1" * 1000
    del piece
    pool.release(other)
    names = {store(pool, n).split(".")[0] for n in range(2)}
    assert names == {name.split(".")[0], other.split(".")[0]}


def test_numpy_arrays_keep_it_as_long_as_they_live(pool):
    numpy = pytest.importorskip("numpy")
    name = store(pool, 1)
    array = numpy.frombuffer(pool.attach(name, SIZE), dtype=numpy.uint8)[10:20].reshape(2, 5)
    pool.release(name)
    other = store(pool, 2)
    assert (array == 1).all()
    assert other.split(".")[0] != name.split(".")[0]


def test_another_process_takes_over_what_is_free(pool, segments):
    pool.release(store(pool, 1))
    other = SegmentPool(segments, SCOPE)
    name = store(other, 2)
    assert files(segments, "free") == []
    assert bytes(pool.attach(name, SIZE)) == b"\2" * SIZE
    assert store(pool, 3).split(".")[0] != name.split(".")[0]
    other.close()


def test_a_pinned_value_outlives_its_name(pool):
    name = store(pool, 1)
    assert pool.pin(name)
    pool.release(name)
    store(pool, 2)
    assert bytes(pool.attach(name, SIZE)) == b"\1" * SIZE
    assert not pool.pin(name)
    other = store(pool, 3)
    assert pool.pin(other)
    pool.unpin(other)
    pool.release(other)


def test_sizes_have_classes_and_grow_within_them(pool):
    small = store(pool, 1, 10)
    pool.release(small)
    larger = store(pool, 2, 260_000)
    assert larger.split(".")[0] == small.split(".")[0]
    assert bytes(pool.attach(larger, 260_000)) == b"\2" * 260_000
    assert store(pool, 3, 600_000).startswith(f"{SCOPE}/20-")
    with pytest.raises(SegmentGone):
        pool.attach(larger, 1 << 40)
    with pytest.raises(SegmentGone):
        pool.attach(larger, 0)


def test_no_room_gives_none_and_free_segments_are_given_back_first(segments):
    pool = SegmentPool(segments, SCOPE, budget_bytes=1_000_000)
    first = store(pool, 1, 600_000)
    assert store(pool, 2, 600_000) is None
    pool.release(first)
    assert store(pool, 3, 300_000) is not None, "the free one of another class makes room"
    assert pool.store([], 1 << 40) is None
    pool.close()


def test_a_missing_folder_gives_none(tmp_path):
    assert store(SegmentPool(str(tmp_path / "nowhere"), SCOPE), 1) is None


def test_sweeping_takes_back_what_nobody_holds(segments):
    keeper = SegmentPool(segments, SCOPE, keep_locked=True)
    kept = store(keeper, 1)
    writer = SegmentPool(segments, SCOPE)
    lost, read, idle = store(writer, 2), store(writer, 3), store(writer, 4, 600_000)
    view = writer.attach(read, SIZE)
    writer.release(idle)
    now = time.time()
    assert module.sweep(segments, now) == 0
    assert module.sweep(segments, now + 2 * module.SWEEP_AFTER_S) == 2
    assert files(segments, "used") == sorted([kept, read])
    assert files(segments, "free") == []
    del view, lost
    keeper.release(kept)
    module.wipe(segments)
    assert files(segments, "used") == files(segments, "free") == []
    assert store(writer, 5), "mappings of files that are gone do no harm"
    keeper.close()
    writer.close()


def test_a_pool_survives_a_fork(pool):
    name = store(pool, 1)
    pool.release(name)
    pid = os.fork()
    if pid == 0:
        mine = store(pool, 2)
        os._exit(0 if mine and bytes(pool.attach(mine, SIZE)) == b"\2" * SIZE else 1)
    ours = store(pool, 3)
    assert bytes(pool.attach(ours, SIZE)) == b"\3" * SIZE
    assert os.waitpid(pid, 0)[1] == 0


def test_names_are_checked():
    good = "18-0123456789ab.01234567"
    assert module.is_name(f"so-1/{good}")
    bad = (
        "",
        "..",
        good,
        f"so-1/{good}/..",
        f"../{good}",
        f"a/b/{good}",
        f"/{good}",
        f"so_1/{good}",
        "so-1/18-0123456789ab",
    )
    for name in (*bad, "so-1/18-0123456789AB.01234567", "a" * 24):
        assert not module.is_name(name)


def test_a_pool_sees_its_own_scope_only(segments, pool):
    name = store(pool, 1)
    other = SegmentPool(segments, "so-2")
    with pytest.raises(SegmentGone):
        other.attach(name, SIZE)
    other.release(name)
    assert bytes(pool.attach(name, SIZE)) == b"\1" * SIZE
    pools = SegmentPools(segments)
    theirs = store(other, 2)
    assert bytes(pools.attach(theirs, SIZE)) == b"\2" * SIZE
    pools.release(name)
    again = store(pools.of("so-2"), 3)
    assert again.startswith("so-2/"), "never into what belongs to another scope"
    pools.close()
    other.close()


def test_a_scope_cannot_lead_elsewhere(segments):
    for scope in ("", "..", "a/b", "x" * 41):
        with pytest.raises(ValueError, match="cannot name"):
            SegmentPool(segments, scope)


STRESS = """
import os, random, sys
from jitney.runner.segment_pools import SegmentPools
from jitney.runner.segments import SegmentGone, SegmentPool

folder, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pool, dice, held = SegmentPool(folder, "so-1"), random.Random(seed), []
for number in range(rounds):
    # Write something of our own, and look at it after others had the chance to write into it.
    size = dice.choice([100, 50_000, 270_000])
    mark = bytes([seed]) + number.to_bytes(4, "little")
    data = (mark * (size // 5 + 1))[:size]
    name = pool.store([data], size)
    assert name is not None
    view = pool.attach(name, size)
    pool.release(name)
    held.append((view, data))
    if len(held) > dice.randrange(6):
        view, data = held.pop(dice.randrange(len(held)))
        assert view == data, "overwritten while it was read"
        del view
    # Names of others: they are whole, or gone.
    names = os.listdir(folder + "/so-1/used")
    for other in names[:1]:
        other = "so-1/" + other
        try:
            view = pool.attach(other, 100)
        except SegmentGone:
            continue
        first = bytes(view[:100])
        assert first == (first[:5] * 20), "half written"
        del view
for view, data in held:
    assert view == data, "overwritten while it was read"
"""


def test_many_processes_never_disturb_each_other(segments):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", STRESS, segments, str(seed), "300"],
            env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
            stderr=subprocess.PIPE,
        )
        for seed in range(1, 5)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert len(files(segments, "free")) < 60, "segments are used again"


def test_what_a_killed_process_held_is_free_again(segments, pool):
    code = (
        "import sys\nfrom jitney.runner.segments import SegmentPool\n"
        "pool = SegmentPool(sys.argv[1], 'so-1', keep_locked=True)\n"
        "name = pool.store([b'1' * 300000], 300000)\n"
        "view = pool.attach(name, 300000)\n"
        "print(name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, segments],
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        name = process.stdout.readline().decode().strip()
        pool.release(name)
        assert store(pool, 2).split(".")[0] != name.split(".")[0]
        process.send_signal(signal.SIGKILL)
    assert store(pool, 3).split(".")[0] == name.split(".")[0]


def test_a_writer_that_dies_half_way_leaves_nothing_that_looks_like_a_value(segments, pool):
    class Bomb:
        def __len__(self):
            return 10

    with pytest.raises(TypeError):
        pool.store([b"1" * 10, Bomb()], 20)
    assert files(segments, "used") == []


def test_a_reader_waits_for_a_lock_that_is_about_to_go(pool, segments):
    name = store(pool, 1)
    fd = os.open(f"{segments}/{SCOPE}/used/{name.partition('/')[2]}", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    dice = random.Random(1)
    import threading

    unlock = threading.Timer(dice.uniform(0.01, 0.05), lambda: fcntl.flock(fd, fcntl.LOCK_UN))
    unlock.start()
    assert bytes(pool.attach(name, SIZE)) == b"\1" * SIZE
    unlock.join()
    os.close(fd)
