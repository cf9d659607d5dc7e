"""The judge of what a kill has lost: it takes whatever an honest platform may do, and finds what is planted."""

import itertools
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.testing.witness import NOTHING, TORN, Event, Step, Witness, judge, read, table


class History:
    """Events in order of their notes; a look began at the note before it."""

    def __init__(self):
        self.events = []
        self._clock = itertools.count(1)

    def note(self, what, key="", step=Step.DONE, **fields):
        now_s = next(self._clock) / 8
        self.events.append(Event(at_s=now_s, what=what, step=step, key=key, **({"began_s": now_s - 0.01} | fields)))

    def write(self, what, key, step=Step.DONE, **fields):
        """Ask, and be answered; ASK: not answered."""
        self.note(what, key, Step.ASK, **fields)
        if step is not Step.ASK:
            self.note(what, key, step, **fields)

    def commit(self, key, number, step=Step.DONE):
        self.write("commit", key, step, number=number, files=files(key, number, number))

    def saw(self, version=1, **fields):
        self.note("saw", "reader", version=version, **fields)


def files(key, *numbers):
    return {f"{key}/f{place}": number for place, number in enumerate(numbers)}


def judged(*story):
    history = History()
    for step in story:
        step(history)
    return judge(history.events)


def put(number, step=Step.DONE):
    return lambda history: history.write("put", "k", step, number=number)


def look(number):
    return lambda history: history.note("read", "k", number=number)


def add(number, step=Step.DONE):
    return lambda history: history.write("count", "c", step, number=number)


def total(number):
    return lambda history: history.note("total", "c", number=number)


def enqueue(item, step=Step.DONE):
    return lambda history: history.write("enqueue", "q", step, item=item)


def got(item):
    return lambda history: history.note("got", "q", item=item)


def take(step=Step.DONE):
    return lambda history: history.write("take", "q", step)


def leased(item, **fields):
    return lambda history: history.note("leased", "q", item=item, **fields)


def finish(item, step=Step.DONE):
    return lambda history: history.write("finish", "q", step, item=item)


def commit(number, step=Step.DONE):
    return lambda history: history.commit("d", number, step)


def saw(*numbers, **fields):
    return lambda history: history.saw(files=files("d", *numbers), **fields)


UNKNOWN = Step.ASK
HONEST = {
    "nothing was asked": [look(NOTHING), total(0), saw()],
    "what was not answered may be there": [put(1), put(2, UNKNOWN), look(2), add(1), add(2, UNKNOWN), total(2)],
    "or not": [put(1), put(2, UNKNOWN), look(1), add(1), add(2, UNKNOWN), total(1)],
    "or come later": [put(1), put(2, UNKNOWN), look(1), look(2), look(1)],
    "a swap that was refused counts for nothing": [add(1), add(0, Step.REFUSED), total(1)],
    "an item that was not answered may be lost, or not": [enqueue("a", UNKNOWN), enqueue("b", UNKNOWN), got("a")],
    "a taker died with one": [enqueue("a"), take(UNKNOWN)],
    "an item comes twice": [enqueue("a"), got("a"), got("a")],
    "a lease ends, and it comes again": [enqueue("a"), leased("a"), leased("a"), finish("a")],
    "its end was not answered": [enqueue("a"), leased("a"), finish("a", UNKNOWN), leased("a"), finish("a")],
    "somebody had waited before it was finished": [enqueue("a"), finish("a"), leased("a", began_s=0.0)],
    "files are of one commit, or of the next": [commit(1), commit(2, UNKNOWN), saw(1, 1), saw(2, 1), saw(2, 2)],
    "a folder was dropped": [commit(1), lambda history: history.note("drop", "d"), saw(), saw(1)],
}
PLANTED = {
    "a put is gone": ("lost", [put(1), look(NOTHING)]),
    "an older value": ("lost", [put(1), put(2), look(1)]),
    "a value that nobody put": ("wrong", [put(1), look(2)]),
    "a count is too low": ("lost", [add(1), add(2), total(1)]),
    "two made the same step": ("lost", [add(1), add(1), total(2)]),
    "a count is too high": ("wrong", [add(1), total(2)]),
    "a refused swap was done": ("wrong", [add(1), add(0, Step.REFUSED), total(2)]),
    "an item is gone": ("lost", [enqueue("a"), take()]),
    "an item is gone, and one taker died with another": ("lost", [enqueue("a"), enqueue("b"), take(UNKNOWN)]),
    "a leased item never came back": ("lost", [enqueue("a"), leased("a")]),
    "an item that nobody put": ("wrong", [got("a")]),
    "a finished item came again": ("wrong", [enqueue("a"), leased("a"), finish("a"), leased("a")]),
    "two finished it": ("wrong", [enqueue("a"), finish("a"), finish("a")]),
    "a commit is gone": ("lost", [commit(1), saw()]),
    "one of its files is gone": ("lost", [commit(1), saw(1)]),
    "one of its files is older": ("lost", [commit(1), commit(2), saw(2, 1)]),
    "a file that was never written": ("wrong", [commit(1), saw(2, 1)]),
    "half a file": ("torn", [commit(1, UNKNOWN), saw(TORN, 1)]),
    "not as the version has it": ("torn", [saw(differs=("d/f0",))]),
    "a mix, where there is one commit for all": ("torn", [commit(1), commit(2, UNKNOWN), saw(2, 1, whole=("d",))]),
    "a version went back": ("wrong", [saw(version=2), saw(version=1)]),
    "another number in the version of a commit": (
        "torn",
        [commit(2), lambda history: history.note("committed", "d", number=2, files=files("d", 2, 1))],
    ),
    "nothing in the version of a commit": ("torn", [commit(2), lambda history: history.note("committed", "d")]),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_may_be_is_taken(name):
    verdict = judged(*HONEST[name])
    assert (verdict.lost, verdict.torn, verdict.wrong) == ([], [], [])


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name):
    kind, story = PLANTED[name]
    verdict = judged(*story)
    assert not verdict.is_good
    found = {"lost": verdict.lost, "torn": verdict.torn, "wrong": verdict.wrong}
    assert found[kind], found
    assert f"{kind}: {found[kind][0]}" in table(verdict)


def test_what_was_asked_answered_and_seen_is_counted():
    verdict = judged(
        put(1), put(2, UNKNOWN), look(1), enqueue("a"), got("a"), got("a"), enqueue("b"), take(UNKNOWN), add(1),
        total(1), commit(1), saw(1, 1),
    )  # fmt: skip
    assert (verdict.acknowledged["put"], verdict.unknown["put"]) == (1, 1)
    assert (verdict.acknowledged["enqueue"], verdict.unknown["take"], verdict.repeated) == (2, 1, 1)
    assert verdict.reads == {"read": 1, "total": 1, "saw": 1}
    assert "| put | 1 | 1 |" in table(verdict)


def test_notes_of_several_are_lines_of_one_file(tmp_path):
    path = tmp_path / "events"
    path.touch()
    one, other = (Witness(str(path)) for _ in range(2))
    events = [Event(at_s=n, what="put", key=str(n), files={"a": 1}, step=Step.ASK) for n in range(4)]
    for number, event in enumerate(events):
        (one, other)[number % 2].note(event)
    for witness in (one, other):
        os.close(witness._file)
    assert list(read(path.read_bytes().splitlines())) == events


fates = st.sampled_from(["done", "done", "unknown and done", "unknown"])


@given(st.lists(st.tuples(st.sampled_from(["write", "read"]), fates), max_size=30), st.data())
def test_an_honest_dict_passes_and_one_that_forgets_does_not(steps, data):
    history, value, sum_, known = History(), NOTHING, 0, []
    for number, (what, fate) in enumerate(steps):
        if what == "write":
            acknowledged = Step.DONE if fate == "done" else Step.ASK
            value, sum_ = (number, sum_ + 1) if "done" in fate else (value, sum_)
            history.write("put", "k", acknowledged, number=number)
            history.write("count", "c", acknowledged, number=sum_)
            if fate == "done":
                known.append(number)
        history.note("read", "k", number=value)
        history.note("total", "c", number=sum_)
    assert judge(history.events).is_good
    if not known:
        return
    looks = [e for e in history.events if e.what == "read" and e.number >= known[0]]
    chosen = data.draw(st.sampled_from(looks))
    known_then = [e.number for e in history.events
                  if e.what == "put" and e.step is Step.DONE and e.at_s < chosen.began_s]  # fmt: skip
    older = data.draw(st.integers(NOTHING, max(known_then) - 1))
    forgetful = [msgspec.structs.replace(e, number=older) if e is chosen else e for e in history.events]
    assert judge(forgetful).lost


@given(st.lists(st.tuples(st.integers(0, 4), fates), min_size=1, max_size=30), st.randoms())
def test_an_honest_queue_passes_and_one_that_forgets_does_not(steps, dice):
    history, waiting = History(), []
    for number, (takers, fate) in enumerate(steps):
        history.write("enqueue", "q", Step.DONE if fate == "done" else Step.ASK, item=str(number))
        if "done" in fate:
            waiting.append((str(number), fate == "done"))
        for _ in range(takers):
            history.note("take", "q", Step.ASK)
            item = waiting.pop(0)[0] if waiting else ""
            if dice.random() < 0.8:  # else it dies with what it has
                if item:
                    history.note("got", "q", item=item)
                history.note("take", "q")
    left = [item for item, is_known in waiting if is_known]
    drained = [Event(at_s=1e6 + n, what="got", key="q", item=item) for n, (item, _) in enumerate(waiting)]
    assert judge([*history.events, *drained]).is_good
    dead = judge([*history.events, *drained]).unknown["take"]
    unanswered = sum(1 if e.step is Step.ASK else -1 for e in history.events if e.what == "take")
    lost = judge(history.events).lost
    assert len(lost) == max(0, len(left) + dead - unanswered)
