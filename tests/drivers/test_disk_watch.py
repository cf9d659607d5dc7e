"""What containers write is counted on disk, and told of when it is too much."""

from __future__ import annotations

import asyncio
import os

from jitney.drivers.runtime.namespaces import disk
from jitney.drivers.runtime.namespaces.disk import DiskWatch, used_kib


def test_blocks_are_counted_once_and_links_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "file", tmp_path / "again")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "big").write_bytes(b"x" * 1_000_000)
    (tmp_path / "out").symlink_to(elsewhere)
    assert 98 <= used_kib(str(tmp_path), 10_000) <= 140


def test_counting_stops_when_it_is_enough(tmp_path):
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 50_000)
    assert 100 < used_kib(str(tmp_path), 100) < 2_000


def test_a_folder_that_is_gone_has_nothing(tmp_path):
    assert used_kib(str(tmp_path / "none"), 1) == 0


def test_one_that_passes_its_limit_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "LOOK_S", 0.001)
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    async def main():
        told = asyncio.get_running_loop().create_future()
        watch = DiskWatch(lambda name, used: told.set_result((name, used)))
        watch.watch("small", str(tmp_path), 10)
        watch.watch("large", str(tmp_path), 1_000_000)
        name, used = await asyncio.wait_for(told, 10)
        assert name == "small"
        assert used > 10
        watch.forget("large")
        assert watch.used_kib("large") == 0
        watch.close()

    asyncio.run(main())
