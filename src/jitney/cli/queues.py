"""`jitney queue`."""

from __future__ import annotations

from typing import Any

import click

from jitney.cli import objects, terminal
from jitney.cli.objects import AS_JSON, YES
from jitney.values.objects import ObjectKind
from jitney.values.queues import check_partition

PARTITION = click.option("--partition", "-p", default="", help="This partition; default: the one without a name.")


@click.group(cls=objects.Group)
def queue() -> None:
    """Make queues, look into them, and clear or delete them."""


@queue.command()
@click.argument("name")
@AS_JSON
def create(name: str, as_json: bool) -> None:
    """Make a queue, if there is none of that name.

    \b
    Example:
      jitney queue create jobs
    """
    objects.create(ObjectKind.QUEUE, name, as_json=as_json)


@queue.command(name="list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List queues, newest first.

    \b
    Example:
      jitney queue list --json
    """
    objects.show(ObjectKind.QUEUE, as_json=as_json)


@queue.command(name="len")
@click.argument("name")
@PARTITION
@click.option("--total", is_flag=True, help="Of all partitions in sum.")
@AS_JSON
def len_(name: str, partition: str, total: bool, as_json: bool) -> None:
    """Show how many items wait, and how many are leased, in each partition.

    \b
    Examples:
      jitney queue len jobs
      jitney queue len jobs --total
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.queues import QueueRef

    record = objects.opened(ObjectKind.QUEUE, name)
    found = connection.ask(methods.QUEUE_PARTITIONS, QueueRef(object_id=record.object_id)).partitions
    if partition:
        found = [one for one in found if one.partition == _key(partition)]
    counts = [(one.partition.decode("utf-8", "backslashreplace"), one.waiting, one.leased) for one in found]
    if total:
        counts = [("", sum(waiting for _, waiting, _ in counts), sum(leased for _, _, leased in counts))]
    if as_json:
        rows: list[Any] = [{"partition": key, "waiting": waiting, "leased": leased} for key, waiting, leased in counts]
        terminal.write_json(rows[0] if total else rows)
    else:
        terminal.table(
            ("partition", "waiting", "leased"), [(key or "-", *rest) for key, *rest in counts], empty="no items"
        )


@queue.command()
@click.argument("name")
@PARTITION
@click.option("--limit", "-n", type=click.IntRange(1), default=10, show_default=True, help="At most this many.")
@AS_JSON
def peek(name: str, partition: str, limit: int, as_json: bool) -> None:
    """Show the first items that wait; they stay in the queue.

    \b
    Examples:
      jitney queue peek jobs
      jitney queue peek jobs --partition dead-letter --json
    """
    from jitney.cli import connection, preview
    from jitney.wire import methods
    from jitney.wire.messages.queues import QueueLook

    record = objects.opened(ObjectKind.QUEUE, name)
    found: list[Any] = []
    while len(found) < limit:
        after = found[-1].number if found else 0
        request = QueueLook(
            object_id=record.object_id, partition=_key(partition), after=after, limit=limit - len(found)
        )
        page = connection.ask(methods.QUEUE_LOOK, request).items
        if not page:
            break
        found += page
    values = [(item.deliveries, preview.value(item.payload)) for item in found]
    if as_json:
        terminal.write_json([{"deliveries": count, "value": preview.plain(value)} for count, value in values])
    else:
        rows = [(at, count, preview.line(value)) for at, (count, value) in enumerate(values)]
        terminal.table(("place", "deliveries", "value"), rows, empty="no items")


@queue.command()
@click.argument("name")
@PARTITION
@click.option("--all", "everything", is_flag=True, help="All partitions.")
@YES
@AS_JSON
def clear(name: str, partition: str, everything: bool, yes: bool, as_json: bool) -> None:
    """Drop the items of a partition, leased ones too.

    \b
    Examples:
      jitney queue clear jobs --yes
      jitney queue clear jobs --all --yes
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.queues import QueueClear

    if everything and partition:
        raise click.UsageError("--all and --partition do not go together")
    record = objects.opened(ObjectKind.QUEUE, name)
    what = "all partitions" if everything else f"partition {partition!r}" if partition else "the default partition"
    objects.confirm(f"drop the items of {what} of the queue {name!r}?", yes=yes)
    request = QueueClear(object_id=record.object_id, partition=_key(partition), all=everything)
    objects.gone(connection.ask(methods.QUEUE_CLEAR, request).count, "item", "items", as_json=as_json)


queue.add_command(objects.rename_command(ObjectKind.QUEUE, "jobs jobs-2024"))


@queue.command()
@click.argument("name")
@objects.ALLOW_MISSING
@YES
def delete(name: str, allow_missing: bool, yes: bool) -> None:
    """Delete a queue, with all that is in it.

    \b
    Example:
      jitney queue delete jobs --yes
    """
    objects.delete(ObjectKind.QUEUE, name, allow_missing=allow_missing, yes=yes)


def _key(partition: str) -> bytes:
    key = partition.encode()
    check_partition(key)
    return key
