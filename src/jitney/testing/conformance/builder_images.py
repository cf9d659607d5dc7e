"""The contract of `ports.builder`, sentences 12 to 17: what is there, what it is called, and what may go."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jitney.core.imageplan import Work
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.builder import ImageBuilder
from jitney.testing.conformance.builder import Stage
from jitney.values import ids
from jitney.values.images import BuiltImage, Env, ImageSpec, Named

DAY_MS = 24 * 3_600_000
LATER_MS = 4 * 10**12  # after any clock, and in the range of file systems
NOWHERE = ids.make(ids.IMAGE, bytes(16))


class ImagesContract:
    """Subclass it, and give a fixture `stage(tmp_path)`."""

    def made(self, builder: ImageBuilder, spec: ImageSpec) -> BuiltImage:
        """The image of `spec`."""
        return asyncio.run(builder.build(spec, lambda *event: None))

    def listed(self, builder: ImageBuilder) -> list[str]:
        """Ids of what is there."""
        return [one.image_id for one in asyncio.run(builder.images())]

    def test_12_cached_says_what_a_build_would_find(self, stage: Stage) -> None:
        builder, spec = stage.working()
        spec = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"A": "1"})))
        plan = builder.plan(spec)
        is_setting = tuple(step.work is Work.SETTING for step in plan.steps)
        assert builder.cached(plan) == is_setting
        self.made(builder, spec)
        assert builder.cached(plan) == (True,) * len(plan.steps)
        assert builder.cached(builder.plan(msgspec.structs.replace(spec, force_build=True))) == is_setting

    def test_13_a_name_stands_for_one_image(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        assert builder.tag(image.image_id, "team/trainer") == "team/trainer:latest"
        assert builder.resolve("team/trainer:latest") == builder.resolve("team/trainer") == image.image_id
        assert builder.resolve(image.image_id) == image.image_id
        assert builder.resolve("team/trainer:v2") is None
        assert builder.resolve(NOWHERE) is None
        other = self.made(builder, msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"A": "1"}))))
        builder.tag(other.image_id, "team/trainer")
        assert builder.resolve("team/trainer") == other.image_id

    def test_13_hostile_names_are_refused(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        for name in ("", "../x", "a/../b", "/etc/passwd", "A", "a:", "a:b:c", "a\0", "a" * 600, "-x", "a:../b"):
            with pytest.raises(InvalidError):
                builder.tag(image.image_id, name)
            with pytest.raises(InvalidError):
                builder.resolve(name)
        with pytest.raises(NotFoundError):
            builder.tag(NOWHERE, "trainer")

    def test_13_more_layers_on_a_named_image_are_the_same_as_one_declaration(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        builder.tag(image.image_id, "trainer")
        layer = Env(variables={"A": "1"})
        whole = builder.plan(msgspec.structs.replace(spec, layers=(*spec.layers, layer)))
        for reference in ("trainer", image.image_id):
            on_top = builder.plan(ImageSpec(base=Named(reference=reference), layers=(layer,)))
            assert on_top.image_id == whole.image_id
            assert builder.cached(on_top) == (True,) * len(on_top.steps)
        with pytest.raises(NotFoundError):
            builder.plan(ImageSpec(base=Named(reference="somebody-elses")))

    def test_14_images_lists_what_is_there(self, stage: Stage) -> None:
        builder, spec = stage.working()
        assert self.listed(builder) == []
        image = self.made(builder, spec)
        builder.tag(image.image_id, "trainer")
        [record] = asyncio.run(builder.images())
        assert (record.image_id, record.names) == (image.image_id, ("trainer:latest",))
        assert record.size_bytes > 0
        assert record.python_version == image.python_version

    def test_15_remove_takes_an_image_and_its_names_away(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        builder.tag(image.image_id, "trainer")
        with pytest.raises(InvalidError, match="in use"):
            asyncio.run(builder.remove(image.image_id, in_use={image.image_id}))
        assert asyncio.run(builder.remove(image.image_id))
        assert not asyncio.run(builder.remove(image.image_id))
        assert builder.find(image.image_id) is None
        assert builder.resolve("trainer") is None
        assert self.listed(builder) == []

    def test_15_what_other_images_need_stays(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        other = self.made(builder, msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"A": "1"}))))
        assert asyncio.run(builder.remove(image.image_id))
        assert builder.find(other.image_id)
        assert self.listed(builder) == [other.image_id]

    def test_16_collect_takes_what_nobody_needs(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        with_name = self.made(builder, msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"A": "1"}))))
        builder.tag(with_name.image_id, "trainer")
        used = self.made(builder, msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"A": "2"}))))

        def collect(keep_ms: int, *, dry_run: bool) -> tuple[str, ...]:
            work = builder.collect(keep_ms, LATER_MS, dry_run=dry_run, in_use={used.image_id})
            return asyncio.run(work).images

        assert collect(2 * LATER_MS, dry_run=False) == ()
        assert collect(DAY_MS, dry_run=True) == (image.image_id,)
        assert len(self.listed(builder)) == 3
        assert collect(DAY_MS, dry_run=False) == (image.image_id,)
        assert sorted(self.listed(builder)) == sorted([with_name.image_id, used.image_id])
        assert builder.find(used.image_id)

    def test_16_what_is_in_use_counts_as_used(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        assert asyncio.run(builder.collect(DAY_MS, LATER_MS, in_use={image.image_id})).images == ()
        assert asyncio.run(builder.collect(DAY_MS, LATER_MS + DAY_MS - 1)).images == ()
        assert asyncio.run(builder.collect(DAY_MS, LATER_MS + DAY_MS + 1)).images == (image.image_id,)

    def test_17_what_is_held_stays_and_counts_as_used(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        first, second = builder.hold(image.image_id), builder.hold(image.image_id)
        assert first is not None
        assert second is not None
        assert first.image == builder.find(image.image_id)
        first.release()
        first.release()
        assert asyncio.run(builder.collect(0, LATER_MS)).images == ()
        with pytest.raises(InvalidError, match="in use"):
            asyncio.run(builder.remove(image.image_id))
        assert builder.find(image.image_id)
        second.release()
        assert asyncio.run(builder.remove(image.image_id))
        assert builder.hold(image.image_id) is None

    def test_17_what_is_held_is_not_changed_by_building_it_anew(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image = self.made(builder, spec)
        hold = builder.hold(image.image_id)
        assert hold is not None
        before = hold.image
        self.made(builder, msgspec.structs.replace(spec, force_build=True))
        asyncio.run(builder.collect(0, LATER_MS))
        asyncio.run(builder.reap())
        assert hold.image == before
        assert stage.is_there(before)
        hold.release()
