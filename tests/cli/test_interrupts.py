"""Ctrl-C: the first in order, the second at once."""

import signal
import subprocess
import sys

import pytest

from jitney.cli import interrupts

PROGRAM = """
import sys, threading
from jitney.cli import interrupts
try:
    with interrupts.stopping("stopping the run"):
        try:
            print("running", flush=True)
            threading.Event().wait()
        finally:
            print("cleaning up", flush=True)
            if sys.argv[1] == "slowly":
                threading.Event().wait()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def start():
    started = []

    def run(how):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "running\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_first_cleans_up_and_says_so(start):
    process = start("fast")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "cleaning up\n", "\nstopping the run\n")


def test_the_second_leaves_at_once(start):
    process = start("slowly")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.endswith("left at once\n")


def test_a_handler_of_somebody_else_is_left_alone():
    def mine(signum, frame): ...

    before = signal.signal(signal.SIGINT, mine)
    try:
        with interrupts.stopping("x"):
            assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
