"""Control groups keep the contract, with real processes: in each way that this machine's hierarchies allow."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from jitney.drivers.limits.cgroups import probe
from jitney.drivers.limits.cgroups.driver import CgroupLimiter
from jitney.testing.conformance.limits import FORKED, HELD_MIB, ChangesContract, LimitsContract, Program

OTHER_UID = 1_000_000
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
NUMBERS = itertools.count()

PRELUDE = """
import errno, os, signal, sys
uid, fds = int(sys.argv[1]), [int(one) for one in sys.argv[2:]]
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
for fd in fds:
    os.write(fd, b"0")
    os.close(fd)
def say(text):
    os.write(1, text.encode() + b"\\n")
"""
CODE = {
    Program.ECHOES: """
say("in")
for line in sys.stdin:
    say(line.rstrip())
""",
    Program.HOLDS: f"""
held = b"x" * ({HELD_MIB} << 20)
say("holds")
signal.pause()
""",
    Program.EATS: """
say("in")
held = []
while True:
    held.append(b"x" * (1 << 20))
""",
    Program.SPINS: """
say("in")
while True:
    pass
""",
    Program.FORKS: f"""
for count in range({FORKED}):
    try:
        pid = os.fork()
    except OSError as error:
        assert error.errno == errno.EAGAIN
        say(f"refused after {{count}}")
        break
    if not pid:
        signal.pause()
else:
    say("forked {FORKED}")
signal.pause()
""",
    Program.BOMB: """
say("in")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
}


class Inmate:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self) -> str:
        line = await self.process.stdout.readline()
        assert line, "it ended without a word"
        return line.decode().rstrip()

    async def echo(self, line: str) -> str:
        self.process.stdin.write(line.encode() + b"\n")
        return await self.said()

    async def ended(self) -> int:
        return await self.process.wait()


class Stage:
    """Programs are pieces of code here."""

    def __init__(self) -> None:
        self._prefix = f"test-{os.getpid()}-{next(NUMBERS)}"
        self._inmates: list[Inmate] = []
        self.limiter = self.again()

    def again(self) -> CgroupLimiter:
        limiter = CgroupLimiter(f"{self._prefix}-a")
        below = os.environ.get("JITNEY_TEST_BELOW", "")  # who has made a place for groups says so
        assert all(part.folder.startswith(below) for part in limiter.layout.parts)
        return limiter

    def stranger(self) -> CgroupLimiter:
        return CgroupLimiter(f"{self._prefix}-b")

    async def run(self, group, program, *, is_unprivileged=False) -> Inmate:
        if is_unprivileged and os.geteuid() != 0:
            pytest.skip("needs root, to become another user")
        fds = group.join_fds if group is not None else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", PRELUDE + CODE[program], str(OTHER_UID * is_unprivileged)),
            *map(str, fds),
            pass_fds=fds,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._inmates.append(Inmate(process))
        return self._inmates[-1]

    async def spend(self) -> None:
        await asyncio.to_thread(_spin, 0.03)

    def left_overs(self) -> list[str]:
        root = Path("/sys/fs/cgroup")
        return [str(path) for path in root.rglob(f"jitney-{self._prefix}-*")]

    async def close(self) -> None:
        """Those outside groups are left."""
        for inmate in self._inmates:
            try:
                os.killpg(inmate.process.pid, 9)
            except ProcessLookupError:
                pass
            await inmate.ended()
            inmate.process.stdin.close()
            await inmate.process.communicate()


def _spin(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


@contextmanager
def _no_orphans_of_ours() -> Iterator[None]:
    """Whoever loses its parent meanwhile goes to process 1, which collects it.

    Other tests of this process may have made us adopt orphans, as workers do. As zombies that nobody collects they
    would be counted in their group for ever.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    assert libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0) == 0
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0) == 0


def _hide(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """As on a machine that lacks something: its hierarchy is not mounted, or its kernel is older."""
    real = probe._try

    def seen(mount, name):
        site = real(mount, name)
        if variant == "v1" and site.version == 2:
            os.rmdir(site.folder)
            return probe.Site(version=2, problem="hidden")
        if variant == "no cgroup.kill":
            return msgspec.structs.replace(site, files=site.files - {"cgroup.kill"})
        return site

    monkeypatch.setattr(probe, "_try", seen)


class TestCgroupLimits(LimitsContract, ChangesContract):
    @pytest.fixture(params=["as it is", "v1", "no cgroup.kill"])
    def make_stage(self, request, monkeypatch):
        if not sys.platform.startswith("linux"):
            pytest.skip("control groups are Linux's")

        @asynccontextmanager
        async def make():
            _hide(monkeypatch, request.param)
            stage = Stage()
            can = stage.limiter.capabilities()
            if not can.accounting:
                pytest.skip(f"no control groups here: {can.why}")
            try:
                with _no_orphans_of_ours():
                    yield stage
            finally:
                await stage.limiter.close()
                await stage.close()

        return make
