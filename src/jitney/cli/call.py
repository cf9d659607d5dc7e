"""`jitney call`."""

from __future__ import annotations

import click
import msgspec

from jitney.cli import terminal


@click.group()
def call() -> None:
    """List, show and cancel calls.

    A call is one `remote`, `map`, `spawn` or `spawn_map`, with one input or many.
    """


@call.command(name="list")
@click.option("--app", "app_name", default="", help="Only those of this app (name or id).")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(app_name: str, limit: int, as_json: bool) -> None:
    """List calls, newest first.

    \b
    Example:
      jitney call list --app embed
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.calls import CallList

    request = CallList(app=app_name, limit=limit)
    nothing = methods.CALL_LIST.answer(calls=())
    found = connection.ask(methods.CALL_LIST, request, otherwise=lambda: nothing).calls
    if as_json:
        terminal.write_json([{**msgspec.to_builtins(one), "state": one.state} for one in found])
        return
    rows = [
        (c.call_id, f"{c.function_name}{'.' + c.method if c.method else ''}", c.kind, c.state, c.inputs,
        c.failed,
         terminal.ago(c.created_at_ms))
        for c in found
    ]  # fmt: skip
    terminal.table(("id", "function", "kind", "state", "inputs", "failed", "age"), rows, empty="no calls")


@call.command()
@click.argument("call_id")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(call_id: str, as_json: bool) -> None:
    """Show one call and its first 100 inputs.

    \b
    Example:
      jitney call show fc-...
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.calls import CallRef

    found = connection.ask(methods.CALL_SHOW, CallRef(call_id=call_id))
    record = found.call
    if as_json:
        shown = msgspec.to_builtins(found)
        terminal.write_json({**shown, "call": {**shown["call"], "state": record.state}})
        return
    name = f"{record.function_name}{'.' + record.method if record.method else ''}"
    ended = terminal.span(record.ended_at_ms - record.created_at_ms) if record.ended_at_ms else "-"
    total = f"{record.inputs:,}{'' if record.inputs_complete else ' so far'}"
    for label, value in (
        ("call", record.call_id),
        ("function", f"{name} ({record.function_id})"),
        ("app", record.app_id or "-"),
        ("kind", f"{record.kind}, {'durable' if record.kind.is_durable else 'connected'}"),
        ("state", record.state),
        ("inputs", f"{total}, {record.succeeded:,} succeeded, {record.failed:,} failed"),
        ("created", terminal.clock(record.created_at_ms)),
        ("took", ended),
    ):
        print(f"{label:<9} {terminal.safe_line(str(value))}")
    print()
    rows = [(i.index, i.input_id, i.state, i.attempt, i.container_id or "-") for i in found.inputs]
    terminal.table(("index", "input", "state", "attempt", "container"), rows, empty="no inputs to show")


@call.command()
@click.argument("call_id")
@click.option("--terminate-containers", is_flag=True, help="Also kill the containers that work on it.")
def cancel(call_id: str, terminate_containers: bool) -> None:
    """Cancel a call: inputs that wait are dropped, those that run get an InputCancellation.

    \b
    Example:
      jitney call cancel fc-...
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.calls import CallCancel

    connection.ask(methods.CALL_CANCEL, CallCancel(call_id=call_id, terminate_containers=terminate_containers))
    print(f"{call_id} is cancelled")
