"""What containers print: all of it, live, in bounds, and harmless."""

import json

import pytest

from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e

PROGRAM = """
    import os
    import sys
    import time
    import jitney

    app = jitney.App("loud")


    @app.function()
    def talk(n: int):
        for i in range(n):
            print("line", i)
        print("no newline at the end", end="")


    @app.function()
    def last_words():
        print("before")
        os.write(2, b"very last words")
        os._exit(0)


    @app.function()
    def long_line(n: int):
        sys.stdout.write("x" * n + "\\n")
        print("after it")


    @app.function()
    def flood(seconds: float):
        block = b"0123456789" * 100 + b"\\n"
        block *= 1000
        until = time.monotonic() + seconds
        written = 0
        while time.monotonic() < until:
            written += os.write(1, block)
        return written


    @app.function()
    def binary():
        os.write(1, bytes(range(256)) + b"\\n\\xff\\xfe tail\\n\\x1b[2Jclear\\x1b]0;title\\x07\\n")


    @app.function()
    def live(path: str):
        print("first", flush=True)
        while not os.path.exists(path):
            time.sleep(0.01)
        print("second")
"""


@pytest.fixture(scope="module")
def loud(platform):
    platform.write("loud.py", PROGRAM)
    return platform


def test_every_line_is_shown_once_and_in_order_with_its_tail(loud):
    done = loud.jitney("run", "loud.py::talk", "--n", "5000")
    assert done.lines == [*(f"line {n}" for n in range(5000)), "no newline at the end"]


def test_the_last_words_of_a_container_that_dies_are_shown(loud):
    done = loud.jitney("run", "loud.py::last_words", code=5)
    assert "before" in done.lines
    assert "very last words" in done.err


def test_output_is_live(loud, tmp_path):
    process = loud.start_jitney("run", "loud.py::live", "--path", tmp_path / "go")
    assert process.stdout.readline() == "first\n"
    (tmp_path / "go").touch()
    assert "second" in loud.finish(process).lines


def test_a_line_of_ten_megabytes_arrives_in_pieces_or_is_counted(loud):
    done = loud.jitney("run", "loud.py::long_line", "--n", "10000000")
    assert done.lines[-1] == "after it"
    shown = done.out.count("x")
    assert shown == 10_000_000 or "were dropped here" in done.out + done.err
    assert max(map(len, done.lines)) < 100_000


def test_a_flood_is_bounded_counted_and_does_not_stop_the_function(loud):
    loud.write(
        "flooded.py",
        """
        import jitney
        from loud import app, flood

        if __name__ == "__main__":
            import io, sys
            sys.stdout = io.StringIO()
            with app.run():
                written = flood.remote(1.0)
            shown = len(sys.stdout.getvalue())
            sys.stdout = sys.__stdout__
            print(written, shown)
        """,
    )
    done = loud.python("flooded.py", timeout=60)
    written, shown = map(int, done.lines[-1].split())
    assert written > 10_000_000, "the function is not slowed down to a crawl"
    assert shown < 64_000_000
    if shown < written:
        assert "were dropped here" in done.err
    logged = sum(path.stat().st_size for path in loud.home.logs.rglob("*") if path.is_file())
    assert logged < 256_000_000


def test_bytes_that_are_no_text_and_escapes_do_no_harm(loud):
    done = loud.jitney("run", "loud.py::binary")
    assert " tail" in done.out
    assert "clear" in done.out
    assert "\x1b[2J" not in done.out
    assert "\x1b]0" not in done.out


def test_logs_are_kept_for_later(loud):
    loud.jitney("run", "-q", "loud.py::talk", "--n", "3")

    def logs():
        apps = json.loads(loud.jitney("app", "list", "--all", "--json").out)
        return loud.jitney("app", "logs", apps[0]["app_id"]).lines

    eventually(lambda: logs() == ["line 0", "line 1", "line 2", "no newline at the end"])


def test_equal_lines_are_all_shown(loud):
    loud.write(
        "equal.py",
        """
        import jitney

        app = jitney.App("equal")

        @app.function()
        def repeat(n: int):
            for _ in range(n):
                print("tick")
        """,
    )
    for _ in range(3):
        assert loud.jitney("run", "equal.py::repeat", "--n", "20000").lines == ["tick"] * 20_000
