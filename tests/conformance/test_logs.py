"""Both stores of logs, by the contract of their port; and what only a disk can do."""

import asyncio
import os
import random

import pytest
from msgspec.structs import replace

from jitney.drivers.logs.files import LogFiles
from jitney.drivers.logs.memory import MemoryLogs
from jitney.testing.conformance.logs import APP, BYTES_MAX, LogContract, lines


class TestMemoryLogs(LogContract):
    def make(self, folder, bytes_max):
        return MemoryLogs(bytes_max=bytes_max)


class TestLogFiles(LogContract):
    def make(self, folder, bytes_max):
        return LogFiles(folder, bytes_max=bytes_max)

    def reopen(self, tmp_path):
        return self.make(tmp_path / "logs", BYTES_MAX)

    def test_1_lines_survive_a_restart_and_positions_too(self, logs, run, tmp_path):
        for first in range(0, 2_000, 100):
            run(logs.append(APP, lines(first, 100)))
        before = run(logs.read(APP))
        again = self.reopen(tmp_path)
        assert run(again.read(APP)) == before
        run(again.append(APP, lines(2_000, 3)))
        assert run(again.read(APP, position=before.position)).lines == lines(2_000, 3)

    def test_1_a_line_that_was_cut_off_is_left_out_wherever_it_was_cut(self, logs, run, tmp_path):
        run(logs.append(APP, lines(0, 3)))
        path = tmp_path / "logs" / f"{APP}.log"
        whole = path.read_bytes()
        last = whole.rindex(b"\n", 0, -1) + 1
        for cut in range(last, len(whole)):
            path.write_bytes(whole[:cut])
            again = self.reopen(tmp_path)
            assert run(again.read(APP)).lines == run(again.read(APP, tail=9)).lines == lines(0, 2)
            run(again.append(APP, lines(7, 1)))
            assert run(again.read(APP)).lines == run(again.read(APP, tail=9)).lines == lines(0, 2) + lines(7, 1)

    def test_damaged_lines_are_left_out_and_counted(self, logs, run, tmp_path):
        run(logs.append(APP, lines(0, 2)))
        with (tmp_path / "logs" / f"{APP}.log").open("ab") as file:
            file.write(bytes(20) + b"\n" + b"nonsense\n")
        again = self.reopen(tmp_path)
        run(again.append(APP, lines(2, 1)))
        found = run(again.read(APP)).lines
        assert found[:2] + found[3:] == lines(0, 3)
        assert "2 damaged lines" in found[2].text

    def test_a_kill_between_the_renames_loses_nothing(self, logs, run, tmp_path):
        run(logs.append(APP, lines(0, 100)))
        position = run(logs.read(APP)).position
        (tmp_path / "logs" / f"{APP}.log").rename(tmp_path / "logs" / f"{APP}.old.log")
        again = self.reopen(tmp_path)
        assert run(again.read(APP)).lines == lines(0, 100)
        run(again.append(APP, lines(100, 1)))
        assert run(again.read(APP, position=position)).lines == lines(100, 1)

    def test_3_the_disk_use_of_an_app_is_bounded(self, logs, run, tmp_path):
        dice = random.Random(3)
        for first in range(0, 20_000, 500):
            wide = [replace(line, text="x" * dice.randrange(200)) for line in lines(first, 500)]
            run(logs.append(APP, wide))
            used = sum(path.stat().st_size for path in (tmp_path / "logs").iterdir())
            assert used <= BYTES_MAX

    def test_2_what_the_disk_does_not_take_is_counted(self, logs, run, tmp_path):
        run(logs.append(APP, lines(0, 2)))
        path = tmp_path / "logs" / f"{APP}.log"
        aside = tmp_path / "aside"
        path.rename(aside)
        path.mkdir()  # no file can be opened here now
        run(logs.append(APP, lines(2, 3)))
        run(logs.append(APP, lines(5, 1)))
        path.rmdir()
        aside.rename(path)
        run(logs.append(APP, lines(6, 1)))
        found = run(logs.read(APP)).lines
        assert found[:2] + found[3:] == lines(0, 2) + lines(6, 1)
        assert "4 lines were dropped here" in found[2].text

    def test_reading_while_writing_never_misses_or_doubles_a_line(self, logs, run):
        async def follow():
            async def write():
                for first in range(0, 3_000, 10):
                    await logs.append(APP, lines(first, 10))

            writer = asyncio.create_task(write())
            seen, position = [], 0
            while not writer.done() or seen[-1:] != lines(2_999, 1):
                page = await logs.read(APP, position=position)
                seen += page.lines
                position = page.position
            return seen

        seen = [line for line in run(follow()) if line.fd != 0]
        assert [line.at_ms for line in seen] == sorted({line.at_ms for line in seen})

    def test_files_are_private(self, logs, run, tmp_path):
        run(logs.append(APP, lines(0, 1)))
        assert (tmp_path / "logs" / f"{APP}.log").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_2_a_full_disk_raises_nothing(tmp_path):
    async def story():
        logs = LogFiles(tmp_path)
        (tmp_path / f"{APP}.log").symlink_to("/dev/full")
        await logs.append(APP, lines(0, 3))
        (tmp_path / f"{APP}.log").unlink()
        await logs.append(APP, lines(3, 1))
        page = await logs.read(APP)
        await logs.close()
        return page.lines

    note, line = asyncio.run(story())
    assert "3 lines were dropped here" in note.text
    assert [line] == lines(3, 1)
