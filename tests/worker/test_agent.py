"""The agent and its link, with a fake runtime and a server that comes and goes."""

from __future__ import annotations

import asyncio

import pytest

from jitney.drivers.builder.fake import FakeBuilder
from jitney.drivers.runtime.fake import FakeRuntime, Script, TemplateScript
from jitney.runner.failures import decode_failure
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import AptInstall, ImageSpec
from jitney.wire.messages import workers
from jitney.worker.agent import Agent


class Stage:
    """An agent that runs, with its fakes."""

    def __init__(self, home, server, runtime: FakeRuntime) -> None:
        self.home = home
        self.server = server
        self.runtime = runtime
        self.builder = FakeBuilder()
        self.agent = Agent(home, runtime, self.builder)
        self.task = asyncio.create_task(self.agent.run())
        self.image_id = ""

    async def build(self) -> None:
        self.server.command(workers.BuildImage(build_id="bu-1", spec=ImageSpec()))
        await self.server.until(lambda: any(isinstance(r, workers.BuildEnded) for r in self.server.reports))
        [done] = [r for r in self.server.reports if isinstance(r, workers.BuildEnded)]
        self.image_id = done.image.image_id

    def start(self, name: str, **spec) -> None:
        template = TemplateSpec(image_id=self.image_id, **spec)
        launch = Launch(container_id=name, function_id="fu-1", app_id="ap-1", token="t", template=template, config={})
        self.server.command(workers.StartContainer(launch=launch))

    def stop(self, name: str, grace_ms: int = 60_000) -> None:
        self.server.command(workers.StopContainer(container_id=name, grace_ms=grace_ms))


@pytest.fixture
def staged(home, link_server):
    """Runs `play(stage)` with an attached agent that has an image; then shuts it down and looks for leftovers."""

    def run(play, runtime: FakeRuntime | None = None) -> None:
        async def main() -> None:
            server = link_server()
            await server.open()
            stage = Stage(home, server, runtime or FakeRuntime())
            await server.until(lambda: server.attached)
            await stage.build()
            await play(stage)
            if not stage.task.done():
                stage.agent.stop()
            async with asyncio.timeout(10):
                await stage.task
            assert stage.agent.state.containers == {}
            assert not stage.agent._tasks
            await server.close()

        asyncio.run(main())

    return run


def test_a_container_starts_prints_and_ends(staged):
    async def play(stage):
        stage.start("c1")
        exited = await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert exited.exit.exit_code == 3
        assert [line.text for line in stage.server.lines("c1")] == ["hello", "bye"]
        kinds = [
            type(r).__name__ for r in stage.server.reports if not isinstance(r, workers.BuildLine | workers.BuildEnded)
        ]
        assert kinds.index("ContainerLogs") < kinds.index("ContainerExited")

    staged(play, FakeRuntime(script=lambda _: Script(output=("hello", "bye"), exit_after_ms=1, exit_code=3)))


def test_the_node_says_what_it_is(staged):
    async def play(stage):
        node = stage.server.attached.node
        assert node.node_id.startswith("no-")
        assert node.cpu_milli > 0
        assert node.memory_mib > 0
        assert node.runtime == "fake"

    staged(play)


def test_stop_waits_for_the_grace_and_then_kills(staged):
    async def play(stage):
        stage.start("c1")
        await stage.server.until(lambda: stage.server.started("c1"))
        stage.stop("c1", grace_ms=30)
        exited = await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert exited.exit.signal == 9

    staged(play, FakeRuntime(script=lambda _: Script(ignores_sigterm=True)))


def test_a_template_that_fails_fails_its_containers_with_its_own_reason(staged):
    async def play(stage):
        stage.start("c1", module="broken")
        exited = await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert decode_failure(exited.failure).message == "no module named x"
        for number in range(2, 20):
            stage.start(f"c{number}", module="broken")
        await stage.server.until(lambda: stage.server.exit_of("c19"))
        assert len(stage.runtime.opened) == 1

    staged(play, FakeRuntime(template=lambda _: TemplateScript(failure="no module named x")))


def test_a_slow_template_is_loaded_once_for_all(staged):
    async def play(stage):
        for number in range(20):
            stage.start(f"c{number}")
        await stage.server.until(lambda: all(stage.server.started(f"c{n}") for n in range(20)))
        assert len(stage.runtime.opened) == 1
        assert stage.server.started("c0").phases_ms["template"] >= 19

    staged(play, FakeRuntime(template=lambda _: TemplateScript(load_ms=20)))


def test_an_import_that_never_ends_is_ended_by_a_stop(staged):
    async def play(stage):
        stage.start("c1")
        await loading.wait()
        stage.stop("c1")
        await stage.server.until(lambda: stage.server.exit_of("c1"))
        stage.start("c2")
        await stage.server.until(lambda: stage.server.started("c2"))

    loading, loads = asyncio.Event(), iter([TemplateScript(never_loads=True), TemplateScript()])

    def template(_):
        loading.set()
        return next(loads)

    staged(play, FakeRuntime(template=template))


def test_a_start_that_never_ends_is_given_up(staged):
    async def play(stage):
        stage.start("c1")
        await starting.wait()
        stage.stop("c1", grace_ms=0)
        await stage.server.until(lambda: stage.server.exit_of("c1"))

    starting = asyncio.Event()

    def script(_):
        starting.set()
        return Script(never_starts=True)

    staged(play, FakeRuntime(script=script))


def test_an_image_that_is_not_here_is_told(staged):
    async def play(stage):
        stage.builder.lose(stage.image_id)
        stage.start("c1")
        exited = await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert "not on this machine" in decode_failure(exited.failure).message

    staged(play)


def test_a_failing_start_is_told(staged):
    async def play(stage):
        stage.start("c1")
        exited = await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert "the disk is full" in decode_failure(exited.failure).message

    staged(play, FakeRuntime(script=lambda _: Script(start_failure="the disk is full")))


def test_a_build_that_cannot_be_made_is_told_by_its_code(staged):
    async def play(stage):
        spec = ImageSpec(layers=(AptInstall(packages=("--purge",)),))
        stage.server.command(workers.BuildImage(build_id="bu-2", spec=spec))
        ended = await stage.server.until(
            lambda: [r for r in stage.server.reports if isinstance(r, workers.BuildEnded) and r.build_id == "bu-2"]
        )
        assert ended[0].code == "invalid"

    staged(play)


def test_images_are_planned_listed_named_and_removed(staged):
    async def ask(stage, task_id, task):
        stage.server.command(workers.AskImages(task_id=task_id, task=task))
        reports = stage.server.reports
        return await stage.server.until(
            lambda: next((r for r in reports if isinstance(r, workers.ImagesAnswer) and r.task_id == task_id), None)
        )

    async def play(stage):
        planned = await ask(stage, "t1", workers.PlanImage(spec=ImageSpec(layers=(AptInstall(packages=("git",)),))))
        assert [(step.work, step.cached) for step in planned.plan.steps] == [("environment", True), ("root", False)]
        assert planned.plan.needs_root
        named = await ask(stage, "t2", workers.TagImage(image=stage.image_id, name="trainer"))
        assert (named.image_id, named.name) == (stage.image_id, "trainer:latest")
        [record] = (await ask(stage, "t3", workers.ListImages())).images
        assert (record.image_id, record.names) == (stage.image_id, ("trainer:latest",))

        stage.start("c1")
        await stage.server.until(lambda: stage.server.started("c1"))
        refused = await ask(stage, "t4", workers.RemoveImage(image_id=stage.image_id))
        assert (refused.code, "in use" in refused.message) == ("invalid", True)
        stage.stop("c1", grace_ms=0)
        await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert stage.runtime.open
        assert (await ask(stage, "t5", workers.RemoveImage(image_id=stage.image_id))).image_id == stage.image_id
        assert not stage.runtime.open  # its template had the image open
        assert (await ask(stage, "t6", workers.RemoveImage(image_id=stage.image_id))).code == "not_found"
        assert (await ask(stage, "t7", workers.TagImage(image="trainer", name="x"))).code == "not_found"
        assert (await ask(stage, "t8", workers.CollectImages(keep_ms=0))).collected.images == ()

    staged(play)


def test_images_that_nobody_used_are_collected(staged):
    async def play(stage):
        task = workers.CollectImages(keep_ms=1_000, in_use=("im-other",))
        stage.server.command(workers.AskImages(task_id="t1", task=task))
        answer = await stage.server.until(
            lambda: next((r for r in stage.server.reports if isinstance(r, workers.ImagesAnswer)), None)
        )
        assert answer.collected.images == (stage.image_id,)  # the fake's clock stands at 0

    staged(play)


def test_containers_go_on_without_a_server_and_reports_are_kept(staged):
    async def play(stage):
        server = stage.server
        for name in ("c1", "c2"):
            stage.start(name)
        await server.until(lambda: server.started("c2"))
        await server.close()
        stage.runtime.crash("c1", Exit(signal=11))
        server.attached = None
        await server.open()
        attached = await server.until(lambda: server.attached)
        assert [(one.container_id, one.pid > 0) for one in attached.containers] == [("c2", True)]
        exited = await server.until(lambda: server.exit_of("c1"))
        assert exited.exit.signal == 11

    staged(play)


def test_a_report_that_was_not_acknowledged_is_sent_again(staged):
    async def play(stage):
        server = stage.server
        server.acknowledges = False
        stage.start("c1")
        await server.until(lambda: server.started("c1"))
        server.acknowledges = True
        server.reports.clear()
        for peer in list(server.peers):
            peer.transport.abort()
        await server.until(lambda: server.started("c1"))

    staged(play)


def test_a_server_that_does_not_know_the_token_yet_is_asked_again(home, link_server):
    async def main():
        server = link_server()
        agent = Agent(home, FakeRuntime(), FakeBuilder())
        read_token = home.read_token
        tokens = iter(["old"])
        home.read_token = lambda: next(tokens, None) or read_token()
        server.home = type(home)(home.root)
        await server.open()
        task = asyncio.create_task(agent.run())
        await server.until(lambda: server.attached)
        agent.stop()
        await task
        await server.close()

    asyncio.run(main())


def test_shutdown_by_the_server_ends_the_agent(staged):
    async def play(stage):
        stage.start("c1")
        await stage.server.until(lambda: stage.server.started("c1"))
        stage.server.command(workers.Shutdown())
        await stage.server.until(lambda: stage.server.exit_of("c1"))
        async with asyncio.timeout(10):
            await stage.task

    staged(play)


def test_a_hundred_starts_need_few_messages(staged):
    async def play(stage):
        stage.start("c0")
        await stage.server.until(lambda: stage.server.started("c0"))
        before = stage.server.batches
        for number in range(1, 101):
            stage.start(f"c{number}")
        await stage.server.until(lambda: all(stage.server.started(f"c{n}") for n in range(101)))
        assert stage.server.batches - before <= 30

    staged(play)


def test_what_a_template_prints_that_was_made_ahead_is_in_the_log_of_the_first_container(staged):
    async def play(stage):
        template = TemplateSpec(image_id=stage.image_id, module="noisy")
        stage.server.command(workers.PrewarmTemplate(template=template))
        stage.start("c1", module="noisy")
        await stage.server.until(lambda: stage.server.started("c1"))
        stage.start("c2", module="noisy")
        await stage.server.until(lambda: stage.server.started("c2"))
        await stage.server.until(lambda: stage.server.lines("c1"))
        assert [line.text for line in stage.server.lines("c1")] == ["imported"]
        assert stage.server.lines("c2") == []
        assert stage.runtime.opened == [template]
        for name in ("c1", "c2"):
            stage.stop(name, grace_ms=0)
            await stage.server.until(lambda name=name: stage.server.exit_of(name))

    staged(play, FakeRuntime(template=lambda _: TemplateScript(output=("imported",))))


def test_a_template_that_died_after_use_is_made_again(staged):
    async def play(stage):
        stage.start("c1", module="m")
        await stage.server.until(lambda: stage.server.exit_of("c1"))
        stage.runtime.kill_template(stage.runtime.opened[0])
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while len(stage.runtime.opened) < 2:
                waited = loop.create_future()
                loop.call_later(0.01, waited.set_result, None)  # the fake says nothing when it opens one
                await waited
        assert stage.runtime.opened[0] == stage.runtime.opened[1]

    staged(play, FakeRuntime(script=lambda _: Script(exit_after_ms=1)))


def test_a_template_that_is_no_longer_asked_for_is_not_made(staged):
    async def play(stage):
        template = TemplateSpec(image_id=stage.image_id, module="endless")
        stage.server.command(workers.PrewarmTemplate(template=template))
        stage.server.command(workers.WithdrawTemplate(template=template))
        stage.start("c1", module="other")
        await stage.server.until(lambda: stage.server.exit_of("c1"))
        assert template not in stage.agent.state.pool.templates

    script = FakeRuntime(
        script=lambda _: Script(exit_after_ms=1),
        template=lambda spec: TemplateScript(never_loads=spec.module == "endless"),
    )
    staged(play, script)
