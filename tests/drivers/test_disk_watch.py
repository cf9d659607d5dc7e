"""What containers write is counted on disk, and told of when it is too much."""

from __future__ import annotations

import asyncio
import os

from jitney.drivers.runtime.namespaces import disk
from jitney.drivers.runtime.namespaces.disk import DiskWatch, removed_kib, used_kib
from jitney.ports.mounting import COMMITTED


def test_blocks_are_counted_once_and_links_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "file", tmp_path / "again")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "big").write_bytes(b"x" * 1_000_000)
    (tmp_path / "out").symlink_to(elsewhere)
    assert 98 <= used_kib(str(tmp_path), 10_000) <= 140


def test_an_empty_file_takes_one_block_as_the_table_of_files_is_finite(tmp_path):
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert used_kib(str(tmp_path), 10_000) == 50 * 4


def test_counting_stops_when_it_is_enough(tmp_path):
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 50_000)
    assert 100 < used_kib(str(tmp_path), 100) < 2_000


def test_a_folder_that_is_gone_has_nothing(tmp_path):
    assert used_kib(str(tmp_path / "none"), 1) == 0


def test_files_that_were_removed_and_are_open_count_and_memory_does_not(tmp_path):
    with open(tmp_path / "removed", "wb") as file, open(tmp_path / "there", "wb") as there:
        again = os.dup(file.fileno())
        memory = os.memfd_create("x")
        for one in (file.fileno(), there.fileno(), memory):
            os.write(one, b"x" * 100_000)
        here, spared = [os.getpid()], disk.devices_in_memory(os.getpid())
        before = removed_kib(here, spared)
        os.unlink(tmp_path / "removed")
        assert 98 <= removed_kib(here, spared) - before <= 140
        assert removed_kib(here, ()) - removed_kib(here, spared) >= 98
        assert removed_kib([], spared) == 0
        os.close(again)
        os.close(memory)


def test_a_container_that_hides_a_file_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "LOOK_S", 0.001)

    async def main(folder):
        told = asyncio.get_running_loop().create_future()
        watch = DiskWatch(lambda name, used, _: told.set_result((name, used)))
        watch.watch("hides", folder, 5_000, os.getpid())
        assert await asyncio.wait_for(told, 10) >= ("hides", 5_000)
        watch.close()

    with open(tmp_path / "removed", "wb") as file:
        file.write(b"x" * 10_000_000)
        file.flush()
        os.unlink(tmp_path / "removed")
        asyncio.run(main(str(tmp_path)))


def test_one_that_passes_its_limit_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "LOOK_S", 0.001)
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    async def main():
        told = asyncio.get_running_loop().create_future()
        watch = DiskWatch(lambda name, used, _: told.set_result((name, used)))
        watch.watch("small", str(tmp_path), 10)
        watch.watch("large", str(tmp_path), 1_000_000)
        name, used = await asyncio.wait_for(told, 10)
        assert name == "small"
        assert used > 10
        watch.forget("large")
        assert watch.used_kib("large") == 0
        watch.close()

    asyncio.run(main())


def test_what_was_written_to_volumes_counts_until_it_is_committed(tmp_path):
    for number, mib in (("0", 1), ("1", 2)):
        upper = tmp_path / number / "upper"
        upper.mkdir(parents=True)
        (upper / "file").write_bytes(bytes(mib * 1_048_576))
    assert 3_072 <= disk.uncommitted_kib(str(tmp_path), 100_000) <= 3_100
    mark = tmp_path / "1" / COMMITTED
    mark.touch()
    later = (tmp_path / "1" / "upper" / "file").stat().st_ctime_ns + 1
    os.utime(mark, ns=(later, later))
    assert 1_024 <= disk.uncommitted_kib(str(tmp_path), 100_000) <= 1_040
    os.utime(mark, ns=(later - 1, later - 1))  # a change while it was being committed
    assert disk.uncommitted_kib(str(tmp_path), 100_000) >= 3_072
    assert disk.uncommitted_kib(str(tmp_path / "none"), 100) == 0


def test_a_container_is_told_of_for_what_it_has_not_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "LOOK_S", 0.001)
    (tmp_path / "own").mkdir()
    (tmp_path / "uppers" / "0" / "upper").mkdir(parents=True)
    (tmp_path / "own" / "file").write_bytes(bytes(2_048_000))
    (tmp_path / "uppers" / "0" / "upper" / "file").write_bytes(bytes(4_096_000))

    async def main():
        told = asyncio.get_running_loop().create_future()
        watch = DiskWatch(lambda *what: told.set_result(what))
        watch.watch("fits", str(tmp_path / "own"), 5_000)
        watch.watch("over", str(tmp_path / "own"), 5_000, 0, str(tmp_path / "uppers"))
        name, used, uncommitted = await asyncio.wait_for(told, 10)
        assert name == "over"
        assert used > 5_000 > uncommitted >= 4_000
        watch.close()

    asyncio.run(main())
