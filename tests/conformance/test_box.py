"""Boxes, by the contract of their port."""

import asyncio
import os
from pathlib import Path

import pytest

from jitney.drivers.box.fake import FakeBox
from jitney.drivers.box.host import HostBox
from jitney.ports.box import OverMemory
from jitney.testing.conformance import box as suite
from jitney.testing.conformance.box import BoxContract

READ_PATHS = {
    suite.READS: "/opt/made/greeting",
    suite.READS_BIND: "/bound/note",
    suite.READS_VOLUME: "/data/volume/a",
    suite.READS_CHANGED: "/data/volume/deep/new",
}


class HostStage:
    def __init__(self):
        self._box = HostBox()

    def box(self):
        return self._box

    def layers(self):
        return ()

    def bounds_memory(self):
        return False

    def is_alive(self, marker):
        found = [line for line in _command_lines() if marker in line]
        return bool(found)


class FakeStage:
    """A box whose script does what the suite's shell scripts say."""

    def __init__(self):
        self._box = FakeBox(self._act)
        self._living = 0

    def box(self):
        return self._box

    def layers(self):
        return ("/nowhere/base",)

    def bounds_memory(self):
        return True

    def is_alive(self, marker):
        return self._living > 0

    async def _wait(self):
        self._living += 1
        try:
            await asyncio.Event().wait()
        finally:
            self._living -= 1

    async def _act(self, run):
        script = run.spec.argv[-1]
        greeting = "/opt/made/greeting"
        if run.spec.argv[0] != "/bin/sh":
            return 127
        if script == suite.SAYS_TWO_LINES:
            run.say("one")
            run.say("two")
        elif script == suite.SAYS_WHERE:
            run.say(f"{run.spec.env['COLOUR']} in {run.spec.cwd}")
        elif script == suite.WAITS:
            run.say("started")
            await self._wait()
        elif script in (suite.LEAVES_A_CHILD, suite.LEAVES_A_DAEMON):
            run.say("left")
        elif script == suite.SAYS_IDENTITY:
            run.say("0")
        elif script == suite.WRITES:
            run.put(greeting, "hello\n")
        elif script == suite.DELETES:
            run.delete(greeting)
        elif script in READ_PATHS:
            text = run.read(READ_PATHS[script])
            if text is None:
                return 1
            run.say(text.rstrip())
        elif script == suite.WRITES_BIND:
            if not run.spec.binds[0].writable:
                return 1
            run.put("/bound/note", "changed\n")
        elif script == suite.CHANGES_VOLUME:
            try:
                run.put("/data/volume/deep/new", "new\n")
            except OSError:
                return 1
            run.delete("/data/volume/a")
        elif script == suite.EATS:
            run.say("eating")
            raise OverMemory(-9, run.spec.memory_mib)
        elif script == suite.EATS_AND_GOES_ON:
            run.say("over")
        return {suite.EXITS_3: 3, suite.ENDS_ITSELF: -9}.get(script, 0)


def _command_lines():
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue


class TestHost(BoxContract):
    @pytest.fixture
    def stage(self):
        if not os.path.isdir("/proc/self"):
            pytest.skip("needs /proc, to see what lives")
        return HostStage()


class TestFake(BoxContract):
    @pytest.fixture
    def stage(self):
        return FakeStage()
