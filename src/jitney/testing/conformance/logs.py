"""What every store of logs must do. Numbers in the names are those of the sentences in ports.logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.errors import InvalidError
from jitney.ports.logs import LINE_BYTES_MAX, LogStore
from jitney.testing.conformance.running import Run, Running
from jitney.values import ids
from jitney.values.containers import LogLine

APP = ids.make(ids.APP, b"a" * 16)
OTHER = ids.make(ids.APP, b"b" * 16)
FUNCTIONS = {"ta-0": "even", "ta-1": "odd"}
BYTES_MAX = 64 * 1024


def lines(first: int, count: int) -> list[LogLine]:
    """Lines of two containers, by turns, at 1 ms from each other."""
    return [LogLine(at, f"ta-{at % 2}", 1 + at % 2, f"line {at}") for at in range(first, first + count)]


class LogContract(Running):
    """Subclass and say how one is made."""

    def make(self, folder: Path, bytes_max: int) -> LogStore:
        """The logs of this folder."""
        raise NotImplementedError

    @pytest.fixture
    def logs(self, tmp_path: Path, run: Run) -> Iterator[LogStore]:
        """New ones."""
        logs = self.make(tmp_path / "logs", BYTES_MAX)
        yield logs
        run(logs.close())

    def test_1_lines_read_back_in_order(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, lines(1, 3)))
        run(logs.append(OTHER, lines(9, 1)))
        run(logs.append(APP, lines(4, 2)))
        run(logs.append(APP, []))
        page = run(logs.read(APP))
        assert (page.lines, page.more) == (lines(1, 5), False)
        assert run(logs.read(APP, position=page.position)).lines == []

    def test_lines_are_found_by_container_function_and_time(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, lines(0, 10), functions=FUNCTIONS))
        odd = [line for line in lines(0, 10) if line.at_ms % 2]
        assert run(logs.read(APP, container_id="ta-1")).lines == odd
        assert run(logs.read(APP, function="odd", since_ms=5)).lines == odd[2:]
        assert run(logs.read(APP, function="odd", container_id="ta-0")).lines == []
        assert run(logs.read(APP, tail=2, container_id="ta-1")).lines == odd[-2:]
        assert run(logs.read(APP, tail=100)).lines == lines(0, 10)
        assert run(logs.read(APP, tail=0)).lines == []

    def test_5_pages_make_the_whole(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, lines(0, 10)))
        found: list[LogLine] = []
        position, more = 0, True
        while more:
            page = run(logs.read(APP, position=position, limit=3))
            assert len(page.lines) <= 3
            found, position, more = found + page.lines, page.position, page.more
        assert found == lines(0, 10)
        run(logs.append(APP, lines(10, 2)))
        assert run(logs.read(APP, position=position)).lines == lines(10, 2)

    def test_5_a_tail_goes_on_from_the_end(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, lines(0, 10)))
        position = run(logs.read(APP, tail=1)).position
        run(logs.append(APP, lines(10, 2)))
        assert run(logs.read(APP, position=position)).lines == lines(10, 2)

    def test_3_a_long_log_drops_its_older_part_and_says_so(self, logs: LogStore, run: Run) -> None:
        for first in range(0, 10_000, 100):
            run(logs.append(APP, lines(first, 100)))
        page = run(logs.read(APP))
        marker, *rest = page.lines
        assert marker.fd == 0
        assert f"{10_000 - len(rest):,} older lines were dropped" in marker.text
        assert rest == lines(10_000 - len(rest), len(rest))
        assert 200 < len(rest) < 4_000
        assert run(logs.read(APP, tail=300)).lines == lines(9_700, 300)

    @pytest.mark.parametrize(
        "text",
        ["", " ", "a\nb", "\r\n", "\\n", "\\", "\0", "ü😀", "\x1b[31mred", "  two  ", "\u2028", "-", "#log 1 0 0"],
    )
    def test_6_text_is_kept_as_it_is(self, logs: LogStore, run: Run, text: str) -> None:
        kept = [LogLine(1, "ta-0", 1, text), LogLine(2, "ta-1", 2, text)]
        run(logs.append(APP, kept, functions={"ta-0": "a b\\", "ta-1": ""}))
        assert run(logs.read(APP)).lines == kept
        assert run(logs.read(APP, tail=2)).lines == kept
        assert run(logs.read(APP, function="a b\\")).lines == kept[:1]

    def test_4_a_long_line_is_cut_and_says_so(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, [LogLine(1, "ta-0", 1, "ü" * LINE_BYTES_MAX)]))
        [line] = run(logs.read(APP)).lines
        assert len(line.text.encode()) <= LINE_BYTES_MAX
        assert line.text.endswith(" more bytes)")

    @pytest.mark.parametrize(
        "app_id", ["", "../x", "ap-", "ap-" + "../" * 7 + "x", "fc-" + "a" * 22, "ap-\0" + "a" * 21]
    )
    def test_7_hostile_ids_are_refused(self, logs: LogStore, run: Run, app_id: str) -> None:
        for ask in (logs.append(app_id, lines(0, 1)), logs.read(app_id), logs.read(app_id, tail=1)):
            with pytest.raises(InvalidError):
                run(ask)

    def test_7_an_app_without_a_log_has_no_lines(self, logs: LogStore, run: Run) -> None:
        assert run(logs.read(APP)).lines == run(logs.read(APP, tail=5)).lines == []

    def test_swept_logs_are_gone(self, logs: LogStore, run: Run) -> None:
        run(logs.append(APP, lines(0, 1)))
        run(logs.append(OTHER, lines(0, 1)))
        assert run(logs.sweep({OTHER}, 0)) == 0
        assert run(logs.sweep({OTHER}, 1 << 60)) == 1
        assert run(logs.read(APP)).lines == []
        assert run(logs.read(OTHER)).lines == lines(0, 1)
        run(logs.append(APP, lines(5, 1)))
        assert run(logs.read(APP)).lines == lines(5, 1)
