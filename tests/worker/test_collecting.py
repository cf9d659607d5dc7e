"""Unused images go by themselves, and never one that something runs from: hours on a virtual clock."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.fake import FakeBuilder
from jitney.drivers.builder.local import LocalBuilder
from jitney.drivers.runtime.fake import FakeRuntime
from jitney.testing.virtual_loop import run
from jitney.testing.wheels import make_wheel
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import Env, ImageSpec, PipInstall
from jitney.wire import codec
from jitney.wire.messages import workers
from jitney.worker import events
from jitney.worker.agent import Agent
from jitney.worker.collecting import EVERY_MS, FIRST_MS, Collecting, Holds
from jitney.worker.pool import IDLE_MS, TemplatePool
from jitney.worker.state import WorkerState

DAY_MS = 24 * 3_600_000
DAY_S = DAY_MS / 1000
LOOKS_MAX = 10_000


# ------------------------------------------------------------------------------------------------ when


def test_it_is_time_some_minutes_after_a_server_is_there_and_then_each_hour():
    collecting = Collecting(DAY_MS)
    assert collecting.due_at_ms is None
    collecting.has_server(1_000)
    assert collecting.due_at_ms == 1_000 + FIRST_MS
    assert collecting.tick(FIRST_MS) is None
    assert collecting.tick(FIRST_MS + 1_000) == workers.CollectionDue(keep_ms=DAY_MS)
    assert collecting.tick(FIRST_MS + 1_001) is None
    assert collecting.due_at_ms == FIRST_MS + 1_000 + EVERY_MS


def test_a_server_that_has_just_come_back_is_not_asked_at_once():
    collecting = Collecting(DAY_MS)
    collecting.has_server(0)
    assert collecting.tick(FIRST_MS)
    collecting.no_server()
    assert collecting.due_at_ms is None
    assert collecting.tick(10 * EVERY_MS) is None
    collecting.has_server(10 * EVERY_MS)
    assert collecting.due_at_ms == 10 * EVERY_MS + FIRST_MS
    collecting.no_server()
    collecting.has_server(10 * EVERY_MS + 1)  # the link breaks and comes back
    assert collecting.due_at_ms == 10 * EVERY_MS + 1 + FIRST_MS


def test_a_break_of_the_link_does_not_bring_the_next_time_nearer():
    collecting = Collecting(DAY_MS)
    collecting.has_server(0)
    assert collecting.tick(FIRST_MS)
    collecting.no_server()
    collecting.has_server(FIRST_MS + 1)
    assert collecting.due_at_ms == FIRST_MS + EVERY_MS


def test_nothing_is_ever_due_where_all_is_kept():
    state = WorkerState(collecting=Collecting(0))
    state.handle(events.LinkRestored(), 0)
    assert state.next_deadline_ms() is None
    assert state.handle(events.Tick(), 10 * EVERY_MS) == []


def test_it_is_said_on_the_wire():
    reports = workers.WorkerReports(reports=(workers.CollectionDue(keep_ms=7),))
    assert codec.decode(codec.encode(reports), workers.WorkerReports) == reports


# ------------------------------------------------------------------------------------------------ which


def built(builder, **variables):
    spec = ImageSpec(layers=(Env(variables=variables),))
    return asyncio.run(builder.build(spec, lambda *_: None))


def test_an_image_is_held_once_however_often_it_is_taken():
    builder = FakeBuilder()
    image = built(builder, A="1")
    holds = Holds(builder)
    assert holds.take(image.image_id).image_id == holds.take(image.image_id).image_id == image.image_id
    holds.renew(image.image_id)
    holds.take(image.image_id)
    holds.renew(image.image_id)
    holds.renew("im-unknown")
    holds.take(image.image_id)
    assert len(builder.holds) == 2  # one as it was before, and one as it is now
    holds.keep({image.image_id})
    assert len(builder.holds) == 2
    holds.keep(())
    assert builder.holds == []
    assert holds.take("im-" + "A" * 22) is None


def test_the_old_image_stays_held_beside_the_one_that_took_its_place():
    builder = FakeBuilder()
    image = built(builder, A="1")
    holds = Holds(builder)
    holds.take(image.image_id)
    builder._images[image.image_id] = msgspec.structs.replace(image, python_path="/new/python")
    holds.renew(image.image_id)
    assert holds.take(image.image_id).python_path == "/new/python"
    assert {hold.image.python_path for hold in builder.holds} == {"/fake/python", "/new/python"}


# ------------------------------------------------------------------------------------------------ together


async def later(seconds):
    await asyncio.sleep(seconds)  # sleep: the clock is virtual


class Machine(Agent):
    """An agent on the loop's clock, with a server that does its part."""

    def __init__(self, home, builder, keep_ms=3 * DAY_MS) -> None:
        state = WorkerState(TemplatePool(), Collecting(keep_ms))
        super().__init__(home, FakeRuntime(), builder, state=state)
        self.in_use: tuple[str, ...] = ()
        self.removed: list[str] = []
        self.asked = 0
        self.link.report = self.take

    def _now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def take(self, report) -> None:
        if isinstance(report, workers.CollectionDue):
            self.asked += 1
            task = workers.CollectImages(keep_ms=report.keep_ms, in_use=self.in_use)
            self.feed(workers.AskImages(task_id=f"t{self.asked}", task=task))
        elif isinstance(report, workers.ImagesAnswer):
            assert not report.code, report.message
            self.removed += report.collected.images
            if isinstance(self.builder, FakeBuilder):
                self.builder.at_ms = self._now_ms()

    async def make(self, **variables) -> str:
        self.at()
        image = await self.builder.build(ImageSpec(layers=(Env(variables=variables),)), lambda *_: None)
        return image.image_id

    def at(self) -> None:
        self.builder.at_ms = self._now_ms()

    def start(self, name: str, image_id: str) -> None:
        self.at()
        template = TemplateSpec(image_id=image_id)
        launch = Launch(container_id=name, function_id="fu", app_id="ap", token="t", template=template, config={})
        self.feed(workers.StartContainer(launch=launch))

    def stop_one(self, name: str) -> None:
        self.at()
        self.feed(workers.StopContainer(container_id=name, grace_ms=0))

    async def days(self, count: float) -> None:
        await later(count * DAY_S)
        self.at()


@pytest.fixture
def machine(home):
    def play(act, **options):
        async def main():
            stage = Machine(home, FakeBuilder(), **options)
            stage.feed(events.LinkRestored())
            await act(stage)
            stage.feed(workers.Shutdown())
            await later(DAY_S)

        run(main())

    return play


def test_an_image_goes_once_nobody_has_used_it_for_so_long(machine):
    async def act(stage):
        image = await stage.make(A="1")
        await stage.days(2.9)
        assert stage.removed == []
        assert stage.asked >= 69
        await stage.days(0.2)
        assert stage.removed == [image]

    machine(act)


def test_what_runs_stays_and_is_kept_from_when_it_ended(machine):
    async def act(stage):
        image = await stage.make(A="1")
        stage.start("c1", image)
        await stage.days(20)
        assert stage.removed == []
        assert len(stage.builder.holds) == 1
        stage.stop_one("c1")
        await stage.days(IDLE_MS / DAY_MS + 0.01)  # its template is kept warm, and is a use
        assert stage.builder.holds == []
        await stage.days(2.9)
        assert stage.removed == []
        await stage.days(0.2)
        assert stage.removed == [image]

    machine(act)


def test_what_functions_have_stays_though_nothing_runs(machine):
    async def act(stage):
        stage.in_use = (await stage.make(A="1"),)
        gone = await stage.make(A="2")
        await stage.days(10)
        assert stage.removed == [gone]
        kept, stage.in_use = stage.in_use[0], ()
        await stage.days(2.9)
        assert stage.removed == [gone]
        await stage.days(0.2)
        assert stage.removed == [gone, kept]

    machine(act)


def test_what_has_a_name_stays(machine):
    async def act(stage):
        image = await stage.make(A="1")
        stage.builder.tag(image, "trainer")
        await stage.days(30)
        assert stage.removed == []

    machine(act)


def test_without_a_server_nothing_goes(machine):
    async def act(stage):
        await stage.make(A="1")
        stage.feed(events.LinkLost())
        await later(200)  # less than it takes the worker to stop by itself
        asked = stage.asked
        stage.feed(events.LinkRestored())
        await later(FIRST_MS / 1000 - 1)
        assert stage.asked == asked == 0

    machine(act)


def test_an_image_that_is_used_cannot_be_removed_and_one_that_was_can(machine):
    async def act(stage):
        image = await stage.make(A="1")
        stage.start("c1", image)
        await later(1)
        answers = []
        stage.link.report = lambda one: answers.append(one) if isinstance(one, workers.ImagesAnswer) else None
        ask = workers.AskImages(task_id="1", task=workers.RemoveImage(image_id=image))
        stage.feed(ask)
        await later(1)
        assert "in use" in answers[-1].message
        stage.stop_one("c1")
        await later(1)
        stage.feed(msgspec.structs.replace(ask, task_id="2"))
        await later(1)
        assert answers[-1].image_id == image

    machine(act)


def test_a_real_builder_keeps_what_runs_and_removes_the_rest(home, tmp_path):
    make_wheel(tmp_path / "wheels", "tinypackage")
    install = PipInstall(requirements=("tinypackage",), find_links=str(tmp_path / "wheels"), extra_options="--no-index")
    now = [4 * 10**12]
    builder = LocalBuilder(home.images, HostBox(), pip_config={}, clock_ms=lambda: now[0])

    class Later(Machine):
        def _now_ms(self):
            return now[0]

        def at(self):
            pass

    async def main():
        stage = Later(home, builder, keep_ms=DAY_MS)
        stage.feed(events.LinkRestored())
        used = await builder.build(ImageSpec(layers=(install,)), lambda *_: None)
        unused = await builder.build(ImageSpec(layers=(Env(variables={"A": "1"}),)), lambda *_: None)
        stage.start("c1", used.image_id)
        await until(lambda: stage.state.containers["c1"].handle is not None)
        now[0] += 2 * DAY_MS
        stage.feed(events.Tick())
        await until(lambda: stage.removed)
        assert stage.removed == [unused.image_id]
        assert builder.find(used.image_id).mounts == used.mounts
        with pytest.raises(Exception, match="in use"):
            await builder.remove(used.image_id)  # nobody has told it but the hold itself
        stage.stop_one("c1")
        await until(lambda: "c1" not in stage.state.containers)
        for _ in range(2):  # first its template goes, then, a day later, its image
            now[0] += DAY_MS + 1
            stage.feed(events.Tick())
            await until(lambda: not stage._tasks)
        assert stage.removed == [unused.image_id, used.image_id]
        assert builder.find(used.image_id) is None
        stage.feed(workers.Shutdown())
        await until(lambda: not stage._tasks)

    asyncio.run(main())


async def until(holds):
    for _ in range(LOOKS_MAX):
        if holds():
            return
        await asyncio.sleep(0.002)  # sleep: threads of the builder tell nobody when they are done
    raise TimeoutError("it did not happen")
