"""Events in, instructions out."""

from __future__ import annotations

import random
import signal

import msgspec
import pytest

from jitney.ports.runtime import ContainerHandle, TemplateFacts
from jitney.runner.failures import decode_failure
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import BuiltImage, ImageSpec
from jitney.wire.messages import workers
from jitney.worker import events
from jitney.worker.pool import AHEAD_MS_MAX, IDLE_MS, RETRY_MS, TemplatePool, Warmth
from jitney.worker.state import HELD_GRACE_MS, HELD_MS, ORPHAN_MS, SHUTDOWN_GRACE_MS, STARTS_MAX, WorkerState

A = TemplateSpec(image_id="im-a", source_id="so-a", module="a")
B = TemplateSpec(image_id="im-b")


def launch(name: str, spec: TemplateSpec = A) -> Launch:
    return Launch(container_id=name, function_id="fu-1", app_id="ap-1", token="t", template=spec, config={})


def start(name: str, spec: TemplateSpec = A) -> workers.StartContainer:
    return workers.StartContainer(launch=launch(name, spec))


def handle(name: str) -> ContainerHandle:
    return ContainerHandle(container_id=name, pid=7, start_ticks=9, fork_ms=1.5)


def exited(todo: list[events.Instruction]) -> list[str]:
    return [
        one.report.container_id
        for one in todo
        if isinstance(one, events.Send) and isinstance(one.report, workers.ContainerExited)
    ]


@pytest.fixture
def state() -> WorkerState:
    return WorkerState()


@pytest.fixture
def warm(state: WorkerState) -> WorkerState:
    """c1 runs from template A."""
    state.handle(start("c1"), 0)
    state.handle(events.TemplateOpened(A), 5)
    state.handle(events.ContainerUp(handle("c1")), 6)
    return state


def test_the_first_container_waits_for_its_template_and_the_next_one_joins_it(state):
    assert state.handle(start("c1"), 0) == [events.OpenTemplate(A, "c1")]
    assert state.handle(start("c2"), 1) == []
    assert state.handle(events.TemplateOpened(A), 40) == [
        events.RunContainer(launch("c1")),
        events.RunContainer(launch("c2")),
    ]
    [sent] = state.handle(events.ContainerUp(handle("c2")), 42)
    assert sent.report == workers.ContainerStarted(container_id="c2", pid=7, phases_ms={"template": 39.0, "fork": 1.5})


def test_a_warm_template_starts_at_once(warm):
    assert warm.handle(start("c2"), 50) == [events.RunContainer(launch("c2"))]
    [sent] = warm.handle(events.ContainerUp(handle("c2")), 51)
    assert sent.report.phases_ms["template"] == 0


def test_a_repeated_start_starts_nothing_and_reports_again(warm):
    [sent] = warm.handle(start("c1"), 60)
    assert isinstance(sent.report, workers.ContainerStarted)
    warm.handle(start("c2"), 61)
    assert warm.handle(start("c2"), 62) == []


def test_an_exit_is_reported_once(warm):
    todo = warm.handle(events.ContainerGone("c1", Exit(exit_code=3)), 70)
    assert todo == [events.Send(workers.ContainerExited(container_id="c1", exit=Exit(exit_code=3)))]
    assert warm.containers == {}


def test_stop_is_sigterm_then_sigkill(warm):
    assert warm.handle(workers.StopContainer(container_id="c1", grace_ms=100), 1_000) == [
        events.SignalContainer(handle("c1"), signal.SIGTERM)
    ]
    assert warm.next_deadline_ms() == 1_100
    assert warm.handle(events.Tick(), 1_099) == []
    assert warm.handle(events.Tick(), 1_100) == [events.DestroyContainer(handle("c1"))]


def test_a_stop_may_become_shorter_but_not_longer(warm):
    stop = workers.StopContainer
    warm.handle(stop(container_id="c1", grace_ms=1_000), 0)
    assert warm.handle(stop(container_id="c1", grace_ms=9_000), 1) == []
    assert warm.next_deadline_ms() == 1_000
    assert warm.handle(stop(container_id="c1", grace_ms=0), 2) == [events.DestroyContainer(handle("c1"))]


def test_a_stop_of_a_container_that_starts_waits_until_it_is_up(warm):
    warm.handle(start("c2"), 0)
    assert warm.handle(workers.StopContainer(container_id="c2", grace_ms=10), 1) == []
    todo = warm.handle(events.ContainerUp(handle("c2")), 2)
    assert todo[-1] == events.SignalContainer(handle("c2"), signal.SIGTERM)


def test_a_start_that_takes_longer_than_the_grace_is_given_up(warm):
    warm.handle(start("c2"), 0)
    assert warm.handle(workers.StopContainer(container_id="c2", grace_ms=10), 1) == []
    assert warm.next_deadline_ms() == 11
    assert warm.handle(events.Tick(), 11) == [events.AbandonStart("c2")]
    assert exited(warm.handle(events.StartAbandoned("c2"), 12)) == ["c2"]


def test_a_container_that_came_up_while_its_start_was_given_up_is_ended(warm):
    warm.handle(start("c2"), 0)
    assert warm.handle(workers.StopContainer(container_id="c2", grace_ms=0), 1) == [events.AbandonStart("c2")]
    todo = warm.handle(events.ContainerUp(handle("c2")), 2)
    assert todo[-1] == events.DestroyContainer(handle("c2"))


def test_a_stop_of_the_last_that_waits_ends_the_import(state):
    state.handle(start("c1"), 0)
    state.handle(start("c2"), 0)
    assert exited(state.handle(workers.StopContainer(container_id="c1"), 1)) == ["c1"]
    todo = state.handle(workers.StopContainer(container_id="c2"), 2)
    assert events.CloseTemplate(A) in todo
    assert exited(todo) == ["c2"]
    assert state.handle(events.TemplateOpened(A), 3) == []  # it was on its way
    assert state.handle(start("c3"), 4) == [events.OpenTemplate(A, "c3")]


def test_a_stop_of_an_unknown_container_is_answered(state):
    assert exited(state.handle(workers.StopContainer(container_id="c9"), 0)) == ["c9"]


def test_an_interrupt_is_sigurg_and_is_dropped_when_there_is_nobody(warm):
    assert warm.handle(workers.InterruptContainer(container_id="c1"), 0) == [
        events.SignalContainer(handle("c1"), signal.SIGURG)
    ]
    assert warm.handle(workers.InterruptContainer(container_id="c9"), 0) == []


def test_a_broken_template_fails_all_that_wait_and_is_not_tried_in_a_storm(state):
    state.handle(start("c1"), 0)
    state.handle(start("c2"), 0)
    todo = state.handle(events.TemplateBroken(A, b"Ewhy"), 10)
    assert exited(todo) == ["c1", "c2"]
    assert all(one.report.failure == b"Ewhy" for one in todo)
    todo = state.handle(start("c3"), 11)
    assert exited(todo) == ["c3"]
    assert todo[0].report.failure == b"Ewhy"
    again_ms = 10 + RETRY_MS
    assert state.handle(start("c4"), again_ms) == [events.OpenTemplate(A, "c4")]
    state.handle(events.TemplateBroken(A, b"Ewhy"), again_ms)
    assert exited(state.handle(start("c5"), again_ms + RETRY_MS)) == ["c5"]  # doubled
    assert state.handle(start("c6"), again_ms + 2 * RETRY_MS) == [events.OpenTemplate(A, "c6")]


def test_a_template_that_died_is_opened_again_for_those_that_found_it_dead(warm):
    warm.handle(start("c2"), 0)
    warm.handle(start("c3"), 0)
    assert warm.handle(events.TemplateLost("c2"), 1) == [events.OpenTemplate(A, "c2")]
    assert warm.handle(events.TemplateLost("c3"), 1) == []
    assert warm.handle(events.TemplateOpened(A), 2) == [
        events.RunContainer(launch("c2")),
        events.RunContainer(launch("c3")),
    ]
    assert "c1" in warm.containers


def test_an_outdated_snapshot_is_made_again_for_those_that_found_it_so(warm):
    warm.handle(start("c2"), 0)
    warm.handle(start("c3"), 0)
    assert warm.handle(events.TemplateLost("c2", is_outdated=True), 1) == [
        events.CloseTemplate(A),
        events.OpenTemplate(A, "c2"),
    ]
    assert warm.handle(events.TemplateLost("c3", is_outdated=True), 1) == []
    assert warm.handle(events.TemplateOpened(A), 2) == [
        events.RunContainer(launch("c2")),
        events.RunContainer(launch("c3")),
    ]
    assert "c1" in warm.containers


def test_a_snapshot_that_is_always_outdated_is_used_in_the_end(state):
    state.handle(start("c1"), 0)
    for number in range(1, STARTS_MAX):
        [run] = state.handle(events.TemplateOpened(A), 0)
        assert run.newest, number
        assert state.handle(events.TemplateLost("c1", is_outdated=True), 0)[-1] == events.OpenTemplate(A, "c1")
    [run] = state.handle(events.TemplateOpened(A), 0)
    assert not run.newest


def test_a_stopped_container_whose_snapshot_is_outdated_is_not_started_again(warm):
    warm.handle(start("c2"), 0)
    warm.handle(workers.StopContainer(container_id="c2"), 0)
    assert exited(warm.handle(events.TemplateLost("c2", is_outdated=True), 1)) == ["c2"]


def test_a_template_that_always_dies_fails_the_launch_in_the_end(state):
    state.handle(start("c1"), 0)
    for _ in range(STARTS_MAX - 1):
        state.handle(events.TemplateOpened(A), 0)
        assert state.handle(events.TemplateLost("c1"), 0) == [events.OpenTemplate(A, "c1")]
    state.handle(events.TemplateOpened(A), 0)
    [sent] = state.handle(events.TemplateLost("c1"), 0)
    assert "died 3 times" in decode_failure(sent.report.failure).message


def test_a_stopped_container_whose_template_died_is_not_started_again(warm):
    warm.handle(start("c2"), 0)
    warm.handle(workers.StopContainer(container_id="c2"), 0)
    assert exited(warm.handle(events.TemplateLost("c2"), 1)) == ["c2"]


def test_a_start_that_fails_says_why(warm):
    warm.handle(start("c2"), 0)
    [sent] = warm.handle(events.NotStarted("c2", "no room on the disk"), 1)
    failure = decode_failure(sent.report.failure)
    assert failure.type_name == "StartupError"
    assert "no room on the disk" in failure.message


def test_the_longest_idle_template_makes_room_and_busy_ones_stay():
    state = WorkerState(TemplatePool(templates_max=2))
    for number, spec in enumerate([A, B]):
        state.handle(start(f"c{number}", spec), number)
        state.handle(events.TemplateOpened(spec), number)
        state.handle(events.ContainerUp(handle(f"c{number}")), number)
    third = TemplateSpec(image_id="im-c")
    assert state.handle(start("c2", third), 10) == [events.OpenTemplate(third, "c2")]  # all are busy: over the limit
    assert events.CloseTemplate(A) in state.handle(events.ContainerGone("c0", Exit()), 11)
    fourth = TemplateSpec(image_id="im-d")
    assert state.handle(start("c3", fourth), 12) == [events.OpenTemplate(fourth, "c3")]


def test_an_idle_template_goes_after_a_while(warm):
    warm.handle(events.ContainerGone("c1", Exit()), 1_000)
    assert warm.next_deadline_ms() == 1_000 + IDLE_MS
    assert warm.handle(events.Tick(), 999 + IDLE_MS) == []
    assert warm.handle(events.Tick(), 1_000 + IDLE_MS) == [events.CloseTemplate(A)]
    assert warm.next_deadline_ms() is None


def test_without_a_server_everything_ends_after_five_minutes(warm):
    warm.handle(events.LinkLost(), 1_000)
    warm.handle(events.LinkRestored(), 2_000)
    assert warm.handle(events.Tick(), 2_000 + ORPHAN_MS) == []
    warm.handle(events.LinkLost(), 3_000)
    warm.handle(events.LinkLost(), 4_000)
    assert warm.handle(events.Tick(), 3_000 + ORPHAN_MS) == [events.SignalContainer(handle("c1"), signal.SIGTERM)]
    todo = warm.handle(events.ContainerGone("c1", Exit(signal=15)), 3_001 + ORPHAN_MS)
    assert todo[-2:] == [events.CloseTemplate(A), events.Quit()]


def test_a_held_container_ends_soon_without_a_server_and_others_go_on(warm):
    held = msgspec.structs.replace(launch("c2", B), is_held=True)
    waits = msgspec.structs.replace(launch("c3", TemplateSpec(image_id="im-c")), is_held=True)
    warm.handle(workers.StartContainer(launch=held), 100)
    warm.handle(events.TemplateOpened(B), 100)
    warm.handle(events.ContainerUp(handle("c2")), 100)
    warm.handle(workers.StartContainer(launch=waits), 100)
    warm.handle(events.LinkLost(), 1_000)
    warm.handle(events.LinkRestored(), 1_000 + HELD_MS - 1)
    assert warm.handle(events.Tick(), 1_000 + HELD_MS) == [], "its server is back"
    warm.handle(events.LinkLost(), 20_000)
    assert warm.next_deadline_ms() == 20_000 + HELD_MS
    assert warm.handle(events.Tick(), 20_000 + HELD_MS - 1) == []
    todo = warm.handle(events.Tick(), 20_000 + HELD_MS)
    assert events.SignalContainer(handle("c2"), signal.SIGTERM) in todo
    assert exited(todo) == ["c3"]
    assert events.SignalContainer(handle("c1"), signal.SIGTERM) not in todo
    assert warm.next_deadline_ms() == 20_000 + HELD_MS + HELD_GRACE_MS
    assert events.DestroyContainer(handle("c2")) in warm.handle(events.Tick(), 20_000 + HELD_MS + HELD_GRACE_MS)
    warm.handle(events.ContainerGone("c2", Exit(signal=9)), 30_000)
    assert warm.next_deadline_ms() == 20_000 + ORPHAN_MS


def test_shutdown_ends_everything_then_quits_once(warm):
    warm.handle(start("c2", B), 0)
    todo = warm.handle(workers.Shutdown(), 10)
    assert events.SignalContainer(handle("c1"), signal.SIGTERM) in todo
    assert events.CloseTemplate(B) in todo
    assert exited(todo) == ["c2"]
    assert warm.next_deadline_ms() == 10 + SHUTDOWN_GRACE_MS
    assert exited(warm.handle(start("c3"), 11)) == ["c3"]
    todo = warm.handle(events.ContainerGone("c1", Exit()), 20)
    assert todo[-1] == events.Quit()
    assert events.Quit() not in warm.handle(workers.Shutdown(), 21)


def test_a_build_runs_once_and_is_answered(state):
    build = workers.BuildImage(build_id="bu-1", spec=ImageSpec())
    assert state.handle(build, 0) == [events.Build("bu-1", ImageSpec())]
    assert state.handle(build, 1) == []
    image = BuiltImage(image_id="im-1", python_path="/p", python_version="3.11.7", cloudpickle_version="3")
    assert state.handle(events.BuildDone("bu-1", image=image), 2) == [
        events.Send(workers.BuildEnded(build_id="bu-1", image=image))
    ]


def test_asked_about_images_it_says_what_is_in_use_and_answers_once(state, warm):
    task = workers.CollectImages(keep_ms=1, in_use=("im-c",))
    ask = workers.AskImages(task_id="bu-2", task=task)
    assert warm.handle(ask, 10) == [events.AskImages("bu-2", task, frozenset({"im-a", "im-c"}))]
    assert warm.handle(ask, 11) == []
    answer = workers.ImagesAnswer(task_id="bu-2")
    assert warm.handle(events.ImagesAnswered(answer), 12) == [events.Send(answer)]


def test_an_idle_template_lets_its_image_go(warm):
    task = workers.RemoveImage(image_id="im-a")
    assert warm.handle(workers.AskImages(task_id="1", task=task), 10) == [
        events.AskImages("1", task, frozenset({"im-a"}))
    ]
    warm.handle(events.ContainerGone("c1", Exit()), 11)
    assert warm.handle(workers.AskImages(task_id="2", task=task), 12) == [
        events.CloseTemplate(A),
        events.AskImages("2", task, frozenset()),
    ]


def starting(pending) -> dict[str, events.RunContainer]:
    """Starts that were asked for and not answered, by container."""
    return {one.launch.container_id: one for one in pending if isinstance(one, events.RunContainer)}


@pytest.mark.parametrize("seed", range(60))
def test_each_container_is_answered_exactly_once_whatever_happens(seed):
    """Random commands and outcomes; an in-memory runtime that dies, refuses and is slow. At the end all is told."""
    dice, state = random.Random(seed), WorkerState(TemplatePool(templates_max=2))
    now_ms, asked, told = 0, set(), []
    pending: list[events.Instruction] = []
    up: dict[str, ContainerHandle] = {}
    quits = 0

    def feed(event):
        nonlocal quits
        for one in state.handle(event, now_ms):
            if isinstance(one, events.Send):
                if isinstance(one.report, workers.ContainerExited):
                    told.append(one.report.container_id)
                    assert one.report.container_id not in up
            elif isinstance(one, events.Quit):
                quits += 1
            else:
                pending.append(one)
        for template in state.pool.templates.values():
            assert len(set(template.waiting)) == len(template.waiting)
            assert not template.waiting or template.warmth is Warmth.OPENING

    def perform(one):
        if isinstance(one, events.OpenTemplate):
            feed(events.TemplateBroken(one.spec, b"E") if dice.random() < 0.2 else events.TemplateOpened(one.spec))
        elif isinstance(one, events.RunContainer):
            name = one.launch.container_id
            outcome = dice.random()
            if outcome < 0.15:
                feed(events.TemplateLost(name))
            elif outcome < 0.2 and one.newest:
                feed(events.TemplateLost(name, is_outdated=True))
            elif outcome < 0.25:
                feed(events.NotStarted(name, "why"))
            else:
                up[name] = handle(name)
                feed(events.ContainerUp(up[name]))
        elif isinstance(one, events.AbandonStart) and one.container_id in starting(pending):
            gone = starting(pending)[one.container_id]
            pending.remove(gone)
            feed(events.StartAbandoned(one.container_id))
        elif isinstance(one, events.DestroyContainer) and up.pop(one.handle.container_id, None):
            feed(events.ContainerGone(one.handle.container_id, Exit(signal=9)))

    for step in range(300):
        now_ms += dice.randrange(400)
        choice = dice.random()
        if choice < 0.3:
            name = f"c{step}"
            asked.add(name)
            feed(start(name, dice.choice([A, B, TemplateSpec(image_id="im-c"), TemplateSpec(image_id="im-d")])))
        elif choice < 0.4 and state.containers:
            feed(
                workers.StopContainer(container_id=dice.choice(list(state.containers)), grace_ms=dice.choice([0, 500]))
            )
        elif choice < 0.5 and up:
            name = dice.choice(list(up))
            del up[name]
            feed(events.ContainerGone(name, Exit(exit_code=0)))
        elif choice < 0.6:
            feed(events.Tick())
        elif choice < 0.66:
            spec = dice.choice([A, B, TemplateSpec(image_id="im-e")])
            feed(dice.choice([prewarm(spec), prewarm(spec, keep=True), workers.WithdrawTemplate(template=spec)]))
        elif choice < 0.7:
            feed(events.TemplateDied(dice.choice([A, B])))
        elif pending:
            perform(pending.pop(dice.randrange(len(pending)) if dice.random() < 0.3 else 0))
    feed(workers.Shutdown())
    for _ in range(1_000):
        if pending:
            perform(pending.pop(0))
        elif state.containers:
            now_ms = state.next_deadline_ms() or now_ms
            feed(events.Tick())
        else:
            break
    assert sorted(told) == sorted(asked)
    assert not up
    assert quits == 1
    assert not state.pool.templates


# ------------------------------------------------------------------------------------------------ made ahead


def prewarm(spec: TemplateSpec = A, *, keep: bool = False) -> workers.PrewarmTemplate:
    return workers.PrewarmTemplate(template=spec, keep=keep)


def test_templates_are_made_ahead_one_at_a_time_and_not_while_somebody_waits(state):
    assert state.handle(start("c1"), 0) == [events.OpenTemplate(A, "c1")]
    assert state.handle(prewarm(B), 1) == []
    third = TemplateSpec(image_id="im-c")
    assert state.handle(prewarm(third), 2) == []
    assert state.handle(prewarm(A), 3) == []
    todo = state.handle(events.TemplateOpened(A), 4)
    assert todo == [events.RunContainer(launch("c1")), events.OpenTemplate(B, "")]
    assert state.handle(events.TemplateOpened(B), 5) == [events.OpenTemplate(third, "")]
    assert state.handle(events.TemplateOpened(third), 6) == []


def test_what_it_printed_belongs_to_the_first_container_that_needs_it(state):
    state.handle(prewarm(), 0)
    assert state.handle(start("c1"), 1) == [events.AdoptOutput(A, "c1")]
    assert state.handle(start("c2"), 2) == []
    state.handle(events.TemplateOpened(A), 3)
    state.handle(prewarm(B), 4)
    state.handle(events.TemplateOpened(B), 5)
    assert state.handle(start("c3", B), 6) == [events.AdoptOutput(B, "c3"), events.RunContainer(launch("c3", B))]
    assert state.handle(start("c4", B), 7) == [events.RunContainer(launch("c4", B))]


def test_one_that_breaks_ahead_is_not_made_again_until_a_container_wants_it(state):
    state.handle(prewarm(), 0)
    assert state.handle(events.TemplateBroken(A, b"E"), 1) == []
    assert state.handle(events.Tick(), 60_000) == []
    assert state.handle(start("c1"), 60_001) == [events.OpenTemplate(A, "c1")]


def test_what_nobody_asks_for_any_more_is_not_made(state):
    third = TemplateSpec(image_id="im-c")
    state.handle(prewarm(), 0)
    state.handle(prewarm(B), 1)
    state.handle(prewarm(third), 2)
    assert state.handle(workers.WithdrawTemplate(template=B), 3) == []
    assert state.handle(workers.WithdrawTemplate(template=A), 4) == [
        events.CloseTemplate(A),
        events.OpenTemplate(third, ""),
    ]
    assert state.handle(events.TemplateOpened(A), 5) == []  # it had come to life meanwhile
    state.handle(start("c1", third), 6)
    assert state.handle(workers.WithdrawTemplate(template=third), 7) == []  # somebody waits for it


def test_an_import_ahead_that_never_ends_is_given_up(state):
    state.handle(prewarm(), 0)
    assert state.next_deadline_ms() == AHEAD_MS_MAX
    assert state.handle(events.Tick(), AHEAD_MS_MAX) == [events.CloseTemplate(A)]
    assert state.next_deadline_ms() is None


def test_one_that_was_used_and_died_is_made_again_and_not_in_a_storm(warm):
    assert warm.handle(events.TemplateDied(A), 10) == []
    assert warm.next_deadline_ms() == 10 + RETRY_MS
    assert warm.handle(events.Tick(), 10 + RETRY_MS) == [events.OpenTemplate(A, "")]
    now_ms = 10 + RETRY_MS
    opens = 1
    for _ in range(20):
        warm.handle(events.TemplateOpened(A), now_ms)
        warm.handle(events.TemplateDied(A), now_ms)
        now_ms += 60_000
        opens += events.OpenTemplate(A, "") in warm.handle(events.Tick(), now_ms)
    assert opens == 2
    assert warm.handle(start("c2"), now_ms) == [events.OpenTemplate(A, "c2")]


def test_kept_ones_stay_while_idle_and_come_back(state):
    state.handle(prewarm(keep=True), 0)
    state.handle(events.TemplateOpened(A), 1)
    assert state.next_deadline_ms() is None
    state.handle(events.TemplateDied(A), 2)
    assert state.handle(events.Tick(), 2 + RETRY_MS) == [events.OpenTemplate(A, "")]
    state.handle(events.TemplateOpened(A), 3 + RETRY_MS)
    state.handle(workers.WithdrawTemplate(template=A), 4 + RETRY_MS)
    assert state.next_deadline_ms() == 3 + RETRY_MS + IDLE_MS
    assert state.handle(events.Tick(), 4 + RETRY_MS + IDLE_MS) == [events.CloseTemplate(A)]


def test_memory_is_a_limit_as_well():
    state = WorkerState(TemplatePool(memory_kib=1_000))
    for number, (spec, kib) in enumerate([(A, 700), (B, 600)]):
        state.handle(start(f"c{number}", spec), 1_000 * number)
        state.handle(events.TemplateOpened(spec, TemplateFacts(kib=kib)), 1_000 * number + 50)
        state.handle(events.ContainerUp(handle(f"c{number}")), 1_000 * number + 51)
    assert events.CloseTemplate(A) in state.handle(events.ContainerGone("c0", Exit()), 3_000)
    assert events.CloseTemplate(B) not in state.handle(events.ContainerGone("c1", Exit()), 3_001)
    assert "they have 1 MiB" in state.story[-1][1]


def test_a_start_says_where_its_time_went(state):
    state.handle(start("c1"), 0)
    state.handle(events.TemplateOpened(A, TemplateFacts(import_ms=700.0, snapshot_ms=200.0), image_ms=40.0), 1_000)
    up = ContainerHandle(container_id="c1", pid=7, fork_ms=2.0, note="why")
    [sent] = state.handle(events.ContainerUp(up), 1_002)
    assert sent.report.phases_ms == {
        "image": 40.0, "template": 960.0, "import": 700.0, "snapshot": 200.0, "fork": 2.0,
    }  # fmt: skip
    assert sent.report.note == "why"
