"""Who asked for what, what was answered and what was seen, and which of it cannot be.

Writers and readers note events while things are killed around them, themselves included: each in one line of a file
that all of them append to, so that a killed process has noted all that it was told. `judge` then finds what was
acknowledged and is not there (lost), what is there in part (torn), and what never should have come (wrong).

Times are those of the monotonic clock, which the processes of one machine share: an ask is noted before it is sent,
everything else after its answer has come. So what was answered before a reader asked, the reader must see. What was
asked and not answered may have been done or not: it is counted, and allows for either.

    put         key, number       a value that grows with each put of its one writer; read with `read`
    count       key, number       an increment or a swap of a shared number, and what it became; read with `total`
    enqueue     key, item         an item for a queue
    take        key               a get without a lease, which ends with `got` or `nothing`
    finish      key, item         the acknowledgement of a leased item, which came with `leased`
    commit      key, number       all files of a folder (key), which say that number
    saw         key, files        all files of one version, by a reader (key) that asked for the newest one: the number
                                  that each says, -1 where what it holds is not whole. `whole`: folders whose files are
                                  always committed together. `differs`: files that are not as the version has them
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

TORN = -1
NOTHING = -1  # the number of a key that is not there
SHOWN_MAX = 20


class Step(StrEnum):
    """How far it has come."""

    ASK = "ask"
    DONE = "done"
    REFUSED = "refused"  # answered, and not done


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `began_s`: when an observation was asked for; `at_s`: when this was noted."""

    at_s: float
    what: str
    step: Step = Step.DONE
    key: str = ""
    number: int = 0
    item: str = ""
    began_s: float = 0.0
    version: int = 0
    files: dict[str, int] = {}
    differs: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


class Witness:
    """Notes events. A line is one write at the end of the file: lines of several processes are never mixed."""

    def __init__(self, path: str) -> None:
        """`path`: a file that is there."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, event: Event) -> None:
        """Add a line; it is safe from the death of this process when this returns."""
        os.write(self._file, msgspec.json.encode(event) + b"\n")


def read(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of a file."""
    decoder = msgspec.json.Decoder(Event)
    return (decoder.decode(line) for line in lines)


class Verdict(msgspec.Struct, kw_only=True):
    """What came of it. `acknowledged` and `unknown` (asked, and not answered) by what was asked."""

    acknowledged: Counter[str] = msgspec.field(default_factory=Counter)
    unknown: Counter[str] = msgspec.field(default_factory=Counter)
    reads: Counter[str] = msgspec.field(default_factory=Counter)
    lost: list[str] = []
    torn: list[str] = []
    wrong: list[str] = []
    repeated: int = 0  # items that came twice without a lease

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, torn or wrong."""
        return not (self.lost or self.torn or self.wrong)


class _Asked:
    """Of one key: when which number was asked for, and when it was acknowledged, in order of time."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self.done_s: list[float] = []
        self.done: list[int] = []
        self.refused_s: list[float] = []
        self._highest_asked: list[int] = []  # of all so far
        self._highest_done: list[int] = []

    def add(self, event: Event) -> None:
        """The next one."""
        if event.step is Step.ASK:
            self.asked_s.append(event.at_s)
            self._highest_asked.append(max([event.number, *self._highest_asked[-1:]]))
        elif event.step is Step.REFUSED:
            self.refused_s.append(event.at_s)
        else:
            self.done_s.append(event.at_s)
            self.done.append(event.number)
            self._highest_done.append(max([event.number, *self._highest_done[-1:]]))

    @property
    def unanswered(self) -> int:
        """How many asks have no answer."""
        return len(self.asked_s) - len(self.done_s) - len(self.refused_s)

    def least(self, before_s: float) -> int:
        """The highest number that was acknowledged before."""
        count = bisect_left(self.done_s, before_s)
        return self._highest_done[count - 1] if count else NOTHING

    def most(self, before_s: float) -> int:
        """The highest number that was asked for before."""
        count = bisect_left(self.asked_s, before_s)
        return self._highest_asked[count - 1] if count else NOTHING


def judge(events: Iterable[Event]) -> Verdict:
    """What the events say."""
    ordered = sorted(events, key=lambda event: event.at_s)
    verdict = Verdict()
    by_key: defaultdict[str, defaultdict[str, _Asked]] = defaultdict(lambda: defaultdict(_Asked))
    for event in ordered:
        by_key[event.what][event.key].add(event)
    for what in ("put", "count", "enqueue", "finish", "commit"):
        asked = by_key[what].values()
        verdict.acknowledged[what] = sum(len(one.done) for one in asked)
        verdict.unknown[what] = sum(one.unanswered for one in asked)
    for what in ("read", "total", "saw"):
        verdict.reads[what] = sum(len(one.done) for one in by_key[what].values())
    _judge_puts(verdict, ordered, by_key["put"])
    _judge_counts(verdict, ordered, by_key["count"])
    _judge_items(verdict, ordered, by_key["take"])
    _judge_leases(verdict, ordered)
    _judge_files(verdict, ordered, by_key["commit"])
    return verdict


def _judge_puts(verdict: Verdict, ordered: Iterable[Event], puts: dict[str, _Asked]) -> None:
    for event in ordered:
        if event.what != "read":
            continue
        put = puts.get(event.key) or _Asked()
        least, most = put.least(event.began_s), put.most(event.at_s)
        if event.number < least:
            verdict.lost.append(f"put {event.key}: {least} was acknowledged, and {event.number} was read")
        elif event.number > most:
            verdict.wrong.append(f"put {event.key}: {event.number} was read, and {most} was the last to be put")


def _judge_counts(verdict: Verdict, ordered: Iterable[Event], counts: dict[str, _Asked]) -> None:
    for key, count in counts.items():
        twice = [number for number, times in Counter(count.done).items() if times > 1]
        verdict.lost += [f"count {key}: two were told that they made it {number}" for number in twice]
    for event in ordered:
        if event.what != "total":
            continue
        count = counts.get(event.key) or _Asked()
        told = bisect_left(count.done_s, event.began_s)
        least = max(told, count.least(event.began_s))
        most = bisect_left(count.asked_s, event.at_s) - bisect_left(count.refused_s, event.began_s)
        if event.number < least:
            verdict.lost.append(f"count {event.key}: it must be at least {least}, and is {event.number}")
        elif event.number > most:
            verdict.wrong.append(f"count {event.key}: it is {event.number}, and can be at most {most}")


def _judge_items(verdict: Verdict, ordered: list[Event], takes: dict[str, _Asked]) -> None:
    """Every acknowledged item must have come to somebody who said so: in the end, all are taken or finished. But one
    may be with each taker who died before that."""
    of_queue = [event for event in ordered if event.item]
    asked = {(e.key, e.item) for e in of_queue if e.what == "enqueue" and e.step is Step.ASK}
    put = {(e.key, e.item) for e in of_queue if e.what == "enqueue" and e.step is Step.DONE}
    came = {(e.key, e.item) for e in of_queue if e.what in ("got", "leased")}
    over = {(e.key, e.item) for e in of_queue if e.what in ("got", "finish")}
    times = Counter((e.key, e.item) for e in of_queue if e.what == "got")
    verdict.repeated = sum(count - 1 for count in times.values())
    verdict.wrong += [f"item {item} of {key}: it came out, and was never put" for key, item in sorted(came - asked)]
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for key, item in sorted(put - over):
        missing[key].append(item)
    for key, items in missing.items():
        with_takers = takes[key].unanswered if key in takes else 0
        verdict.unknown["take"] += min(with_takers, len(items))
        verdict.lost += [f"item {item} of {key}: it was put, and never came out" for item in items[with_takers:]]


def _judge_leases(verdict: Verdict, ordered: Iterable[Event]) -> None:
    """An acknowledged lease is the end of its item. `leased` began when its getter asked."""
    finished: dict[tuple[str, str], float] = {}
    leased: dict[tuple[str, str], float] = {}
    for event in ordered:
        one = (event.key, event.item)
        if event.what == "finish" and event.step is Step.DONE:
            if one in finished:
                verdict.wrong.append(f"item {event.item} of {event.key}: two were told that they finished it")
            finished[one] = event.at_s
        elif event.what == "leased":
            leased[one] = max(leased.get(one, 0.0), event.began_s)
    for (key, item), at_s in finished.items():
        if leased.get((key, item), 0.0) > at_s:
            verdict.wrong.append(f"item {item} of {key}: it was finished, and came again")


def _judge_files(verdict: Verdict, ordered: list[Event], commits: dict[str, _Asked]) -> None:
    sizes = {event.key: len(event.files) for event in ordered if event.what == "commit" and event.files}
    dropped = {event.key: event.at_s for event in reversed(ordered) if event.what == "drop"}
    newest: dict[str, int] = {}
    for event in ordered:
        if event.what == "committed":  # the version that a commit was answered with, looked at by its writer
            _judge_committed(verdict, event)
        if event.what != "saw":
            continue
        if event.version < newest.get(event.key, 0):
            verdict.wrong.append(f"{event.key} saw version {event.version} after {newest[event.key]}")
        newest[event.key] = max(newest.get(event.key, 0), event.version)
        verdict.torn += [f"{path} in version {event.version}: not as the version has it" for path in event.differs]
        _judge_folders(verdict, event, commits, dropped, sizes)


def _judge_committed(verdict: Verdict, event: Event) -> None:
    others = sorted({number for number in event.files.values() if number != event.number})
    if others or not event.files:
        verdict.torn.append(
            f"{event.key} in version {event.version}: it was acknowledged for {event.number}, and has {others}"
        )


def _judge_folders(
    verdict: Verdict, event: Event, commits: dict[str, _Asked], dropped: dict[str, float], sizes: dict[str, int]
) -> None:
    folders: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for path, number in event.files.items():
        folders[path.rpartition("/")[0]][path] = number
        if number == TORN:
            verdict.torn.append(f"{path} in version {event.version}: its content is not whole")
    for folder, commit in commits.items():
        files, least = folders[folder], commit.least(event.began_s)
        if least == NOTHING or dropped.get(folder, event.at_s) < event.at_s:
            continue
        if len(files) < sizes.get(folder, 0) or min(files.values(), default=NOTHING) < least:
            verdict.lost.append(
                f"{folder} in version {event.version}: {least} was acknowledged, and {_briefly(files)} is there"
            )
    for folder, files in folders.items():
        most = (commits.get(folder) or _Asked()).most(event.at_s)
        if max(files.values(), default=NOTHING) > most:
            verdict.wrong.append(f"{folder} in version {event.version}: {_briefly(files)}, and {most} was the last")
        if folder in event.whole and len(set(files.values())) > 1:
            verdict.torn.append(f"{folder} in version {event.version}: {_briefly(files)}")


def _briefly(files: dict[str, Any]) -> str:
    return ", ".join(f"{path.rpartition('/')[2]}={number}" for path, number in sorted(files.items())) or "nothing"


def table(verdict: Verdict) -> str:
    """The verdict for people."""
    lines = ["| writes | acknowledged | unknown |", "|---|---|---|"]
    lines += [f"| {what} | {count:,} | {verdict.unknown[what]:,} |" for what, count in verdict.acknowledged.items()]
    lines += ["", "| found | count |", "|---|---|"]
    found = {"lost": verdict.lost, "torn": verdict.torn, "wrong": verdict.wrong}
    lines += [f"| {name} | {len(what):,} |" for name, what in found.items()]
    lines += [f"| repeated, without a lease | {verdict.repeated:,} |"]
    lines += [f"| read ({name}) | {count:,} |" for name, count in verdict.reads.items()]
    for name, what in found.items():
        lines += [f"{name}: {one}" for one in what[:SHOWN_MAX]]
    return "\n".join(lines)
