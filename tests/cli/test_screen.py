"""The live display as a value, and the plain one."""

from collections import Counter

import pytest

from jitney.cli import progress
from jitney.cli.screen import Containers, Screen
from jitney.values.apps import RunSummary
from jitney.values.containers import LogLine


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_a_map_shows_bar_rate_and_rest():
    screen = Screen()
    for second in range(11):
        screen.map_progress("square", 100 * second, second, 1000, 2000, float(second))
    (line, *_) = screen.lines(10.0, 200)
    assert line == "square ━━━━━━━━━━━━──────────── 1,000/2,000 50% 100/s, 10.0 s left, 10 failed"


def test_a_map_of_unknown_length():
    screen = Screen()
    screen.map_progress("f", 3, 0, 9, None, 2.0)
    assert screen.lines(4.0, 200)[0] == "f 3 done of 9 so far 1.5/s"


def test_done_maps_go_after_a_moment():
    screen = Screen()
    screen.map_progress("f", 2, 0, 2, 2, 1.0)
    screen.tidy(1.1)
    assert not screen.is_empty
    screen.tidy(2.0)
    assert screen.is_empty


def test_a_second_map_of_the_same_name_starts_over():
    screen = Screen()
    screen.map_progress("f", 50, 0, 50, 50, 1.0)
    assert screen.map_progress("f", 1, 0, 50, 50, 1.1).since_s == 1.1


def test_builds_show_step_and_last_line():
    screen = Screen()
    screen.image_step("im-1", 1, 2, "uv_pip_install(numpy)", 0.0)
    screen.image_line("im-1", "Downloading \x1b[2Knumpy")
    assert screen.lines(3.0, 200) == [
        "building image, step 1 of 2: uv_pip_install(numpy) (3.0 s)",
        "  Downloading numpy",
    ]
    screen.image_built("im-1")
    assert screen.is_empty


def test_containers_are_shown_while_they_start():
    screen = Screen()
    screen.see(Containers(Counter(starting=1, booting=1, ready=3)))
    assert screen.lines(0.0, 200) == ["containers: 2 starting, 3 ready"]
    screen.see(Containers(Counter(ready=5)))
    assert screen.is_empty


def test_lines_are_cut_to_the_terminal():
    screen = Screen()
    screen.image_step("im-1", 1, 2, "x" * 500, 0.0)
    assert len(screen.lines(0.0, 80)[0]) == 79


def test_plain_writes_each_stream_to_its_own(capsys):
    plain = progress.Plain(Clock())
    plain.log(LogLine(0, "ta-1", 1, "out\x1b[2J"))
    plain.log(LogLine(0, "ta-1", 2, "err"))
    plain.log(LogLine(0, "ta-1", 0, "dropped"))
    captured = capsys.readouterr()
    assert captured.out == "out\n"
    assert captured.err == "err\n[jitney] dropped\n"


def test_plain_says_little_about_maps(capsys):
    clock = Clock()
    plain = progress.Plain(clock)
    for done in range(0, 101, 10):
        clock.now_s = done / 10
        plain.map_progress("f", done, 0, 100, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "50/100" in lines[0]
    assert "100/100" in lines[1]


def test_plain_is_silent_about_short_maps_and_cached_images(capsys):
    plain = progress.Plain(Clock())
    plain.map_progress("f", 0, 0, 5, 5)
    plain.map_progress("f", 5, 0, 5, 5)
    plain.image_built("im-1", True, 0)
    plain.summary("ap-1", RunSummary())
    assert capsys.readouterr() == ("", "")


def test_the_closing_line(capsys):
    progress.Plain(Clock()).summary("ap-1", RunSummary(inputs=1000, failed=2, containers=4, wall_ms=12_345))
    assert capsys.readouterr().err.startswith("1,000 inputs, 2 failed; 4 containers, 0 cold starts; 12.3 s in all")


def test_silent_is_silent(capsys):
    silent = progress.Silent()
    silent.log(LogLine(0, "ta-1", 1, "x"))
    silent.note("x")
    silent.summary("ap-1", RunSummary(inputs=1))
    silent.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet, kind", [(True, progress.Silent), (False, progress.Plain)])
def test_choice_without_a_terminal(quiet, kind):
    assert type(progress.choose(quiet=quiet)) is kind
