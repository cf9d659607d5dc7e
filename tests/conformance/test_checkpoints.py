"""The checkpointers keep the contract: the fake with simulated processes, CRIU with real ones where it works here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from jitney.drivers.checkpoints.criu import CriuCheckpointer
from jitney.drivers.checkpoints.fake import FakeCheckpointer, FakeHooks, FakeMachine
from jitney.drivers.runtime.forking import procfs
from jitney.ports.checkpoints import CheckpointFailed
from jitney.testing.conformance.checkpoints import CheckpointsContract
from jitney.values.containers import Exit

POLL_S = 0.005

PROGRAM = """
import os, secrets, signal, subprocess, sys, threading, time
secret = secrets.token_hex(8)
beats = 0
def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.001)
thread = threading.Thread(target=beat, daemon=True)
thread.start()
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
signal.raise_signal(signal.SIGSTOP)
before, folder = beats, sys.argv[1]
while beats < before + 3:
    time.sleep(0.001)
name = f"{folder}/{time.monotonic_ns()}-{os.readlink('/proc/self/ns/pid')[5:-1]}"
with open(name + ".new", "w") as file:
    file.write(f"{secret}{child.poll()} {os.getpid()}")
os.rename(name + ".new", name)
signal.signal(signal.SIGTERM, lambda *_: (child.kill(), child.wait(), os._exit(7)))
signal.signal(signal.SIGINT, lambda *_: (child.kill(), child.wait(), os._exit(0)))
while True:
    signal.pause()
"""


class FakeStage:
    def __init__(self, folder):
        self.folder = folder
        self.machine = FakeMachine()
        self.checkpointer = FakeCheckpointer(self.machine)

    async def start(self):
        return self.machine.start(b"secret").pid

    async def go_on(self, pid):
        process = self.machine.processes[pid]
        process.is_stopped = False
        return process.memory.decode(), process.own_pid

    def is_stopped(self, pid):
        return self.machine.is_stopped(pid)

    async def finish(self, pid, code):
        self.machine.processes[pid].finish(Exit(exit_code=code))

    def running(self):
        return sum(process.end is None for process in self.machine.processes.values())


class TestFakeCheckpoints(CheckpointsContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            yield FakeStage(tmp_path)

        return make


def run_program(folder):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class RealStage:
    """Processes say what they have in files of a folder."""

    def __init__(self, root):
        self.folder, self.said = root / "checkpoints", root / "said"
        self.folder.mkdir()
        self.said.mkdir()
        self.checkpointer = CriuCheckpointer()
        self._own: dict[int, subprocess.Popen] = {}
        self._heard: set[str] = set()
        self._before = set(procfs.tree(os.getpid()))

    async def start(self):
        process = run_program(self.said)
        self._own[process.pid] = process
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        return process.pid

    async def go_on(self, pid):
        space = os.readlink(f"/proc/{pid}/ns/pid")[5:-1]
        os.kill(pid, signal.SIGCONT)
        while True:
            for path in self.said.iterdir():
                if path.name.endswith(f"-{space}") and path.name not in self._heard:
                    self._heard.add(path.name)
                    secret, own = path.read_text().split()
                    assert secret.endswith("None"), "its child lives"
                    return secret, int(own)
            await asyncio.sleep(POLL_S)

    def is_stopped(self, pid):
        stat = procfs.stat(pid)
        return stat is not None and stat.state == "T"

    async def finish(self, pid, code):
        os.kill(pid, signal.SIGTERM if code else signal.SIGINT)
        if pid in self._own:
            assert await asyncio.to_thread(self._own[pid].wait) == code

    def running(self):
        return len(set(procfs.tree(os.getpid())) - self._before)

    def close(self):
        for process in self._own.values():
            if process.poll() is None:
                for pid in procfs.tree(process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.wait()


class TestCriuCheckpoints(CheckpointsContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        can = CriuCheckpointer().capabilities()
        if not can.possible:
            pytest.skip(f"{can.why} ({can.remedy})")

        @asynccontextmanager
        async def make():
            stage = RealStage(tmp_path)
            try:
                yield stage
            finally:
                stage.close()

        return make


def test_a_fake_that_cannot_says_why():
    async def act():
        checkpointer = FakeCheckpointer(FakeMachine(), refuses="no kernel")
        assert checkpointer.capabilities().why == "no kernel"
        with pytest.raises(CheckpointFailed, match="no kernel"):
            await checkpointer.dump(1_000, None)

    asyncio.run(act())


def test_fake_hooks_fail_when_told_to():
    async def act():
        hooks = FakeHooks(fails=[None, CheckpointFailed("the GPU is gone")])
        assert await hooks.before_checkpoint(1)
        with pytest.raises(CheckpointFailed, match="the GPU is gone"):
            await hooks.after_restore(1)
        assert hooks.did == ["before", "after"]

    asyncio.run(act())
