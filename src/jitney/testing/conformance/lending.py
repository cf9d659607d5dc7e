"""The contract of `ports.lending`, sentence by sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from jitney.errors import NotFoundError
from jitney.ports.lending import Lender, LentVolume
from jitney.values.volumes import VolumeMount

VOLUME = f"vo-{'0' * 22}"
MISSING = f"vo-{'1' * 22}"
MOUNT = VolumeMount(path="/data", volume_id=VOLUME)


class Stage(Protocol):
    """What a driver's test module brings: a lender, with the volume VOLUME."""

    def lender(self) -> Lender:
        """It."""
        ...

    def put(self, **files: str) -> None:
        """Somebody else commits these."""
        ...

    def files(self) -> dict[str, str]:
        """What the newest version has."""
        ...

    def messages(self) -> list[str]:
        """Of all versions, oldest first."""
        ...

    def upper(self) -> Path:
        """A new, empty folder for what a step writes."""
        ...


class LendingContract:
    """Subclass it, and give a fixture `stage(tmp_path)`."""

    def run(self, act: Callable[[], Awaitable[None]]) -> None:
        """A story on a loop."""

        async def main() -> None:
            await act()

        asyncio.run(main())

    def test_1_the_newest_version_is_whole_and_stays_as_it_is(self, stage: Stage) -> None:
        async def act() -> None:
            stage.put(a="one", b="one")
            stage.put(a="two")
            async with stage.lender().lend([MOUNT]) as loan:
                (lent,) = loan.volumes
                stage.put(a="three")
                async with stage.lender().lend([MOUNT]) as later:
                    assert seen(later.volumes[0]) == {"a": "three", "b": "one"}
                assert (lent.mount, seen(lent)) == (MOUNT, {"a": "two", "b": "one"})

        self.run(act)

    def test_1_a_version_that_is_named_is_given(self, stage: Stage) -> None:
        async def act() -> None:
            stage.put(a="one")
            stage.put(a="two")
            old = msgspec.structs.replace(MOUNT, version=1, read_only=True)
            async with stage.lender().lend([old, msgspec.structs.replace(MOUNT, path="/now")]) as loan:
                assert [seen(one)["a"] for one in loan.volumes] == ["one", "two"]
                assert loan.volumes[0].version == 1

        self.run(act)

    def test_2_what_was_written_is_one_version_with_its_message(self, stage: Stage) -> None:
        async def act() -> None:
            stage.put(a="one")
            upper = stage.upper()
            async with stage.lender().lend([MOUNT, msgspec.structs.replace(MOUNT, path="/x", read_only=True)]) as loan:
                (upper / "deep").mkdir()
                (upper / "deep" / "new").write_text("new")
                (upper / "a").write_text("changed")
                await loan.commit([str(upper), ""], "by the build")
            assert stage.files() == {"a": "changed", "deep/new": "new"}
            assert stage.messages()[1:] == ["by the build"]

        self.run(act)

    def test_2_nothing_written_is_no_version(self, stage: Stage) -> None:
        async def act() -> None:
            stage.put(a="one")
            async with stage.lender().lend([MOUNT]) as loan:
                await loan.commit([str(stage.upper())], "by the build")
            assert len(stage.messages()) == 1

        self.run(act)

    def test_3_without_a_commit_nothing_is_kept(self, stage: Stage) -> None:
        async def act() -> None:
            stage.put(a="one")
            async with stage.lender().lend([MOUNT]):
                (stage.upper() / "a").write_text("changed")
            assert (stage.files(), len(stage.messages())) == ({"a": "one"}, 1)

        self.run(act)

    @pytest.mark.parametrize("change", [{"volume_id": MISSING}, {"version": 7, "read_only": True}])
    def test_4_what_is_not_there_is_told(self, stage: Stage, change: dict[str, object]) -> None:
        async def act() -> None:
            with pytest.raises(NotFoundError):
                async with stage.lender().lend([msgspec.structs.replace(MOUNT, **change)]):
                    pass

        self.run(act)


def seen(lent: LentVolume) -> dict[str, str]:
    """What is in its layers, the higher over the lower. (Nothing of this suite is removed.)"""
    found: dict[str, str] = {}
    for layer in map(Path, lent.layers):
        found |= {str(path.relative_to(layer)): path.read_text() for path in layer.rglob("*") if path.is_file()}
    return found
