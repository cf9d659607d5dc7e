"""The fake limits keep the contract."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from jitney.drivers.limits.fake import FakeGroup, FakeLimiter, FakeMachine, FakeProcess
from jitney.ports.limits import Bounds, LimitsFailed
from jitney.testing.conformance.limits import FORKED, HELD_MIB, MIB, ChangesContract, LimitsContract, Program


class Inmate:
    """A program is what it does to its group at once."""

    def __init__(self, process: FakeProcess, line: str) -> None:
        self._process = process
        self._line = line

    async def said(self) -> str:
        return self._line

    async def echo(self, line: str) -> str:
        assert self._process.ended_by is None
        return line

    async def ended(self) -> int:
        assert self._process.ended_by is not None
        return -self._process.ended_by


class Stage:
    def __init__(self) -> None:
        self.machine = FakeMachine()
        self.limiter = self.again()

    def again(self) -> FakeLimiter:
        return FakeLimiter("a", self.machine)

    def stranger(self) -> FakeLimiter:
        return FakeLimiter("b", self.machine)

    async def run(self, group, program, *, is_unprivileged=False) -> Inmate:
        group = group or FakeGroup("outside", Bounds(), lambda: None)
        process = group.enter()
        line = "in"
        match program:
            case Program.HOLDS:
                group.charge(process, HELD_MIB * MIB)
                line = "holds"
            case Program.EATS:
                while process.ended_by is None:
                    group.charge(process, MIB)
            case Program.SPINS:
                process.spins = True
            case Program.FORKS:
                line = f"forked {FORKED}" if (count := _fork(group, FORKED)) == FORKED else f"refused after {count}"
            case Program.BOMB:
                _fork(group, 1_000)
        return Inmate(process, line)

    async def spend(self) -> None:
        self.machine.spend(50_000_000)

    def left_overs(self) -> list[str]:
        return [f"{owner}/{name}" for owner, name in self.machine.groups]


def _fork(group: FakeGroup, most: int) -> int:
    for count in range(most):
        try:
            group.enter()
        except BlockingIOError:
            return count
    return most


class TestFakeLimits(LimitsContract, ChangesContract):
    @pytest.fixture
    def make_stage(self):
        @asynccontextmanager
        async def make():
            yield Stage()

        return make


def test_it_refuses_when_told_to():
    limiter = FakeLimiter(refuses="no room")
    with pytest.raises(LimitsFailed, match="no room"):
        limiter.make("g", Bounds())
    assert limiter.made == []
