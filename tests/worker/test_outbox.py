"""Reports are kept until acknowledged, in order, and log lines are bounded."""

from __future__ import annotations

from jitney.values.containers import Exit, LogLine
from jitney.wire.messages.workers import ContainerExited, ContainerLogs, ContainerStarted
from jitney.worker.outbox import BATCH_LINES_MAX, Outbox


def line(text: str, fd: int = 1) -> LogLine:
    return LogLine(0, "ta-1", fd, text)


STARTED = ContainerStarted(container_id="ta-1", pid=1)
EXITED = ContainerExited(container_id="ta-1", exit=Exit(exit_code=0))


def test_lines_are_merged_and_the_order_is_kept():
    outbox = Outbox()
    outbox.add(STARTED)
    outbox.add_lines([line("a")])
    outbox.add_lines([line("b")])
    outbox.add(EXITED)
    assert outbox.take() == (STARTED, ContainerLogs(lines=(line("a"), line("b"))), EXITED)


def test_one_batch_at_a_time():
    outbox = Outbox()
    outbox.add(STARTED)
    assert outbox.take() == (STARTED,)
    outbox.add(EXITED)
    assert outbox.take() == ()
    outbox.acknowledged()
    assert outbox.take() == (EXITED,)


def test_what_was_not_acknowledged_comes_again_first():
    outbox = Outbox()
    outbox.add(STARTED)
    outbox.add_lines([line("a")])
    batch = outbox.take()
    outbox.add(EXITED)
    outbox.give_back()
    assert outbox.has_urgent
    assert outbox.take() == (*batch, EXITED)
    outbox.acknowledged()
    assert len(outbox) == 0
    assert not outbox.has_urgent
    assert outbox.log_bytes == 0


def test_log_lines_are_refused_beyond_the_limit_but_notes_and_reports_are_not():
    outbox = Outbox(log_bytes_max=1_000)
    assert outbox.add_lines([line("x" * 800)])
    assert not outbox.add_lines([line("y" * 100)])
    assert outbox.add_lines([line("what was dropped", fd=0)])
    outbox.add(EXITED)
    outbox.take()
    outbox.acknowledged()
    assert outbox.add_lines([line("y" * 100)])


def test_a_batch_is_bounded():
    outbox = Outbox()
    outbox.add_lines([line(str(number)) for number in range(3 * BATCH_LINES_MAX)])
    outbox.add(EXITED)
    seen: list[LogLine] = []
    while batch := outbox.take():
        for report in batch:
            if isinstance(report, ContainerLogs):
                assert len(report.lines) <= BATCH_LINES_MAX
                seen += report.lines
        outbox.acknowledged()
    assert [one.text for one in seen] == [str(number) for number in range(3 * BATCH_LINES_MAX)]
