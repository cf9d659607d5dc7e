"""The program that a pod's first process becomes: it runs, waits, and collects by ignoring."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from jitney.runner.wall import idle

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls are Linux's")


def test_it_is_a_small_elf_file_and_nothing_for_strangers():
    for machine in ("x86_64", "aarch64"):
        assert idle.program(machine).startswith(b"\x7fELF")
        assert len(idle.program(machine)) < 200
    assert idle.program("pdp11") == b""


def test_it_runs_until_it_is_killed():
    fd = idle.open_program()
    if fd < 0:
        pytest.skip("no program for this processor")
    pid = os.fork()
    if pid == 0:
        idle.become(fd)
        os._exit(1)
    os.close(fd)
    while b"pod" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_without_a_program_the_caller_goes_on():
    assert idle.become(-1) is None
