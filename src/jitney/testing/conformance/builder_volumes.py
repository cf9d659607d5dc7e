"""The contract of `ports.builder` on volumes: sentence 18."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from jitney.errors import ImageBuildError, NotFoundError, StorageFullError, UnsupportedError
from jitney.ports.builder import ImageBuilder
from jitney.testing.lending import FakeLender
from jitney.values.images import ImageSpec, volumes_of
from jitney.values.volumes import VolumeMount

VOLUME = f"vo-{'0' * 22}"
MISSING = f"vo-{'1' * 22}"
MOUNT = VolumeMount(path="/data", volume_id=VOLUME)


class Stage(Protocol):
    """What a driver's test module brings, in addition to the rest of the contract's."""

    def writing(self, *, fails: bool = False) -> tuple[ImageBuilder, Callable[[VolumeMount], ImageSpec]]:
        """A builder, and specs whose step writes the file "made" with the text "new" to a volume, and may fail then."""
        ...


class VolumesContract:
    """Inherited beside BuilderContract."""

    @pytest.fixture
    def lender(self, tmp_path: Path) -> FakeLender:
        """Has the volume VOLUME, empty."""
        made = FakeLender(tmp_path / "lent")
        made.make(VOLUME)
        return made

    def test_18_what_a_step_wrote_is_committed_before_the_image_is_there(
        self, stage: Stage, lender: FakeLender
    ) -> None:
        builder, spec_of = stage.writing()
        spec = spec_of(MOUNT)
        image = asyncio.run(builder.build(spec, lambda *_: None, lender))
        assert lender.files(VOLUME) == {"made": "new"}
        (message,) = lender.messages(VOLUME)
        assert message.startswith(f"by the build of {image.image_id}: ")
        assert lender.lent == []
        # What is in a volume counts for nothing: the step is not done again.
        assert asyncio.run(builder.build(spec, lambda *_: None, lender)).cached
        forced = msgspec.structs.replace(spec, force_build=True)
        assert not asyncio.run(builder.build(forced, lambda *_: None, lender)).cached
        assert len(lender.messages(VOLUME)) == 2

    def test_18_a_step_that_failed_commits_nothing(self, stage: Stage, lender: FakeLender) -> None:
        builder, spec_of = stage.writing(fails=True)
        with pytest.raises(ImageBuildError):
            asyncio.run(builder.build(spec_of(MOUNT), lambda *_: None, lender))
        assert (lender.files(VOLUME), lender.lent) == ({}, [])

    def test_18_without_its_commit_there_is_no_image(self, stage: Stage, lender: FakeLender) -> None:
        builder, spec_of = stage.writing()
        lender.refusal = StorageFullError("no room", hint="make some")
        with pytest.raises(StorageFullError, match="no room"):
            asyncio.run(builder.build(spec_of(MOUNT), lambda *_: None, lender))
        assert builder.find(builder.plan(spec_of(MOUNT)).image_id) is None
        lender.refusal = None
        assert not asyncio.run(builder.build(spec_of(MOUNT), lambda *_: None, lender)).cached
        assert lender.files(VOLUME) == {"made": "new"}

    def test_18_which_volume_and_how_is_part_of_the_id(self, stage: Stage, lender: FakeLender) -> None:
        builder, spec_of = stage.writing()
        changes: tuple[dict[str, object], ...] = (
            {},
            {"path": "/b"},
            {"read_only": True},
            {"sub_path": "a"},
            {"volume_id": MISSING},
        )
        specs = [spec_of(msgspec.structs.replace(MOUNT, **change)) for change in changes]
        assert len({builder.plan(spec).image_id for spec in specs}) == len(specs)
        assert [len(volumes_of(spec.layers[-1])) for spec in specs] == [1] * len(specs)

    def test_18_no_lender_or_no_volume_is_told(self, stage: Stage, lender: FakeLender) -> None:
        builder, spec_of = stage.writing()
        with pytest.raises(UnsupportedError, match="/data"):
            asyncio.run(builder.build(spec_of(MOUNT), lambda *_: None))
        spec = spec_of(msgspec.structs.replace(MOUNT, volume_id=MISSING))
        with pytest.raises(NotFoundError):
            asyncio.run(builder.build(spec, lambda *_: None, lender))
