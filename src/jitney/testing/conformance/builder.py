"""The contract of `ports.builder`, sentence by sentence."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
import pytest

from jitney.errors import ImageBuildError, InvalidError, NotFoundError
from jitney.ports.builder import ImageBuilder
from jitney.values.images import AptInstall, BuiltImage, Env, ImageSpec, Layer, Named, PipInstall

Events = list[tuple[int, int, str, str]]
LOOK_S = 0.002
LOOKS_MAX = 10_000


class Stage(Protocol):
    """What a driver's test module brings: builders that work, fail, or stop in the middle until they are let go."""

    def working(self) -> tuple[ImageBuilder, ImageSpec]:
        """A builder, and a spec with one install that it can make."""
        ...

    def failing(self) -> tuple[ImageBuilder, ImageSpec]:
        """... whose install prints 'no such package' and fails."""
        ...

    def gated(self) -> tuple[ImageBuilder, ImageSpec]:
        """... whose install prints 'waiting' and then waits for `release`."""
        ...

    def release(self) -> None:
        """Let gated installs go on."""
        ...

    def is_there(self, image: BuiltImage) -> bool:
        """Whether all that an image consists of is on the disk."""
        ...


class BuilderContract:
    """Subclass it, and give a fixture `stage(tmp_path)`."""

    def build(self, builder: ImageBuilder, spec: ImageSpec) -> tuple[BuiltImage, Events]:
        """An image, and what was told while it was made."""
        events: Events = []
        return asyncio.run(builder.build(spec, lambda *event: events.append(event))), events

    def test_1_equal_specs_have_equal_ids_and_the_plan_says_them(self, stage: Stage) -> None:
        builder, spec = stage.working()
        copy = msgspec.convert(msgspec.to_builtins(spec), ImageSpec)
        image, _ = self.build(builder, spec)
        assert builder.plan(spec).image_id == builder.plan(copy).image_id == image.image_id

    @pytest.mark.parametrize("layer", [AptInstall(packages=("--purge",)), PipInstall(requirements=("--user",))])
    def test_1_what_cannot_be_right_is_refused_before_anything_starts(self, stage: Stage, layer: Layer) -> None:
        builder, spec = stage.working()
        spec = msgspec.structs.replace(spec, layers=(*spec.layers, layer))
        events: Events = []
        with pytest.raises(InvalidError):
            builder.plan(spec)
        with pytest.raises(InvalidError):
            asyncio.run(builder.build(spec, lambda *event: events.append(event)))
        assert not events

    def test_2_a_built_image_is_given_at_once(self, stage: Stage) -> None:
        builder, spec = stage.working()
        first, told = self.build(builder, spec)
        second, silence = self.build(builder, spec)
        assert (first.cached, second.cached) == (False, True)
        assert told
        assert not silence
        assert msgspec.structs.replace(second, cached=False, took_ms=first.took_ms) == first
        assert builder.find(first.image_id) == second

    def test_4_what_is_not_there_is_not_found(self, stage: Stage) -> None:
        builder, spec = stage.working()
        assert builder.find(builder.plan(spec).image_id) is None
        for text in ("", "im-", "../../etc", "im-" + "." * 22):
            with pytest.raises(InvalidError):
                builder.find(text)

    def test_5_builds_of_one_image_at_the_same_time_are_one(self, stage: Stage) -> None:
        builder, spec = stage.gated()
        events: tuple[Events, Events] = ([], [])

        async def both() -> tuple[BuiltImage, BuiltImage]:
            first = asyncio.create_task(builder.build(spec, lambda *event: events[0].append(event)))
            await _until_waiting(events[0])
            second = asyncio.create_task(builder.build(spec, lambda *event: events[1].append(event)))
            await _until(lambda: bool(events[1]))
            stage.release()
            return await asyncio.gather(first, second)

        first, second = asyncio.run(both())
        assert first.python_path == second.python_path
        begun = [(step, title) for step, _, title, line in events[0] if not line]
        assert [number for number, _ in begun] == [1, 2]
        assert events[1][0][2:] == (begun[1][1], "")  # the late one: from the step that ran

    def test_6_steps_are_counted_from_one_and_lines_are_told(self, stage: Stage) -> None:
        builder, spec = stage.working()
        spec = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"COLOUR": "blue"})))
        image, events = self.build(builder, spec)
        begun = [(step, steps) for step, steps, _, line in events if not line]
        assert begun == [(1, 3), (2, 3), (3, 3)]
        assert any(line for step, _, _, line in events if step == 2)
        assert image.env["COLOUR"] == "blue"
        assert "blue" not in str(events)

    def test_6_a_reader_that_fails_stops_nothing(self, stage: Stage) -> None:
        builder, spec = stage.working()
        calls = []

        def broken(*event: object) -> None:
            calls.append(event)
            raise RuntimeError("the reader went away")

        image = asyncio.run(builder.build(spec, broken))
        assert builder.find(image.image_id)
        assert len(calls) == 1

    def test_7_one_that_nobody_waits_for_ends(self, stage: Stage) -> None:
        builder, spec = stage.gated()
        events: Events = []

        async def give_up() -> None:
            task = asyncio.create_task(builder.build(spec, lambda *event: events.append(event)))
            await _until_waiting(events)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
        assert builder.find(builder.plan(spec).image_id) is None

    def test_7_one_that_somebody_waits_for_goes_on(self, stage: Stage) -> None:
        builder, spec = stage.gated()
        events: Events = []

        async def one_gives_up() -> BuiltImage:
            leaves = asyncio.create_task(builder.build(spec, lambda *event: events.append(event)))
            await _until_waiting(events)
            stays = asyncio.create_task(builder.build(spec, lambda *event: events.append(event)))
            await asyncio.sleep(0)
            leaves.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaves
            stage.release()
            return await stays

        assert builder.find(asyncio.run(one_gives_up()).image_id)

    def test_8_a_failing_step_shows_its_last_lines_and_is_not_remembered(self, stage: Stage) -> None:
        builder, spec = stage.failing()
        for _ in range(2):
            with pytest.raises(ImageBuildError, match="step 2 of 2") as raised:
                self.build(builder, spec)
            assert "no such package" in str(raised.value)
            assert builder.find(builder.plan(spec).image_id) is None

    def test_9_force_build_builds_again(self, stage: Stage) -> None:
        builder, spec = stage.working()
        first, _ = self.build(builder, spec)
        again, told = self.build(builder, msgspec.structs.replace(spec, force_build=True))
        assert (again.image_id, again.cached, bool(told)) == (first.image_id, False, True)
        found = builder.find(first.image_id)
        assert found is not None
        assert found.python_path == again.python_path

    def test_10_there_is_nothing_to_reap_after_builds_that_ended(self, stage: Stage) -> None:
        builder, spec = stage.working()
        image, _ = self.build(builder, spec)
        assert asyncio.run(builder.reap()) == 0
        assert builder.find(image.image_id)

    def test_11_close_ends_builds_that_run(self, stage: Stage) -> None:
        builder, spec = stage.gated()
        events: Events = []

        async def close() -> None:
            task = asyncio.create_task(builder.build(spec, lambda *event: events.append(event)))
            await _until_waiting(events)
            await builder.close()
            with pytest.raises(ImageBuildError, match="stopped"):
                await task

        asyncio.run(close())
        assert builder.find(builder.plan(spec).image_id) is None

    def test_12_what_is_there_is_told_for_each_step(self, stage: Stage) -> None:
        builder, spec = stage.working()
        spec = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"COLOUR": "blue"})))
        assert builder.cached(builder.plan(spec)) == (False, False, True)
        self.build(builder, spec)
        assert builder.cached(builder.plan(spec)) == (True, True, True)
        forced = msgspec.structs.replace(spec, force_build=True)
        assert builder.cached(builder.plan(forced)) == (False, False, True)

    def test_13_a_name_stands_for_one_image(self, stage: Stage) -> None:
        builder, spec = stage.working()
        other = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"COLOUR": "blue"})))
        first, second = (self.build(builder, one)[0].image_id for one in (spec, other))
        assert builder.tag(first, "team/trainer") == "team/trainer:latest"
        assert builder.resolve("team/trainer:latest") == builder.resolve("team/trainer") == first
        assert builder.resolve(second) == second
        builder.tag(second, "team/trainer")
        assert builder.resolve("team/trainer") == second
        assert builder.resolve("nobody") is None
        with pytest.raises(NotFoundError):
            builder.tag("im-" + "0" * 22, "x")
        for name in ("", "../x", "a b", "A:" + "x" * 200):
            with pytest.raises(InvalidError):
                builder.tag(first, name)

    def test_13_an_image_on_a_named_one_is_that_one_with_more_layers(self, stage: Stage) -> None:
        builder, spec = stage.working()
        more = Env(variables={"COLOUR": "blue"})
        builder.tag(self.build(builder, spec)[0].image_id, "trainer")
        child, _ = self.build(builder, ImageSpec(base=Named(reference="trainer"), layers=(more,)))
        declared = msgspec.structs.replace(spec, layers=(*spec.layers, more))
        assert child.image_id == builder.plan(declared).image_id
        assert child.env["COLOUR"] == "blue"
        with pytest.raises(NotFoundError):
            builder.plan(ImageSpec(base=Named(reference="nobody")))

    def test_14_images_are_listed(self, stage: Stage) -> None:
        builder, spec = stage.working()
        assert asyncio.run(builder.images()) == []
        image, _ = self.build(builder, spec)
        builder.tag(image.image_id, "trainer")
        (record,) = asyncio.run(builder.images())
        assert (record.image_id, record.names) == (image.image_id, ("trainer:latest",))
        assert record.python_version == image.python_version
        assert record.size_bytes > 0
        assert record.title

    def test_15_remove_takes_an_image_and_its_names_and_leaves_others(self, stage: Stage) -> None:
        builder, spec = stage.working()
        other = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"COLOUR": "blue"})))
        first, second = (self.build(builder, one)[0].image_id for one in (spec, other))
        builder.tag(first, "trainer")
        with pytest.raises(InvalidError):
            asyncio.run(builder.remove(first, in_use=[first]))
        assert builder.find(first)
        assert asyncio.run(builder.remove(first)) is True
        assert builder.find(first) is None
        assert builder.resolve("trainer") is None
        assert builder.find(second)
        assert asyncio.run(builder.remove(first)) is False
        assert self.build(builder, spec)[0].cached is False

    def test_16_collect_takes_what_was_not_used_has_no_name_and_is_not_in_use(self, stage: Stage) -> None:
        builder, spec = stage.working()
        specs = [
            msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables={"COLOUR": colour})))
            for colour in ("red", "green", "blue")
        ]
        named, used, unused = (self.build(builder, one)[0].image_id for one in specs)
        builder.tag(named, "trainer")
        used_at_ms = max(record.used_at_ms for record in asyncio.run(builder.images()))

        def collect(keep_ms: int, *, dry_run: bool = False) -> tuple[str, ...]:
            now_ms = used_at_ms + 1_000
            return asyncio.run(builder.collect(keep_ms, now_ms, dry_run=dry_run, in_use=[used])).images

        assert collect(2_000) == ()
        assert collect(0, dry_run=True) == (unused,)
        assert builder.find(unused)  # ... which counts as a use, now
        used_at_ms = max(used_at_ms, *(record.used_at_ms for record in asyncio.run(builder.images())))
        assert collect(0) == (unused,)
        assert builder.find(unused) is None
        assert builder.find(named)
        assert builder.find(used)


async def _until_waiting(events: Events) -> None:
    await _until(lambda: any(line == "waiting" for *_, line in events))


async def _until(holds: Condition) -> None:
    # A process tells nobody how far it is: look again and again, up to a limit.
    for _ in range(LOOKS_MAX):
        if holds():
            return
        await asyncio.sleep(LOOK_S)
    raise TimeoutError("it did not happen")


class Condition(Protocol):
    """Something to wait for."""

    def __call__(self) -> bool: ...
