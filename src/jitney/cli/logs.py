"""Logs of containers on the terminal, for `jitney app logs`, `container logs` and `deploy --stream-logs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from jitney.cli import terminal
from jitney.cli.flags import ParamType
from jitney.values.containers import LogLine
from jitney.wire.messages.apps import AppLogs, LogLines

F = TypeVar("F", bound=Callable[..., Any])


class _Since(ParamType):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return terminal.parse_since(value, int(time.time() * 1000))
        except ValueError:
            self.fail(f"{value!r} is no time; write 30s, 10m, 2h, 1d, or 2026-03-01T09:30", param, ctx)


def log_options(command: F) -> F:
    """The options that every log command has."""
    for option in (
        click.option("--timestamps", is_flag=True, help="Put the time in front of each line."),
        click.option("--since", type=_Since(), default=0, help="Only lines since then: 30s, 10m, 2h, 1d, or a time."),
        click.option("--tail", "-n", type=click.IntRange(0), help="Only the last lines."),
        click.option("--follow", "-f", is_flag=True, help="Go on until the app has stopped, or Ctrl-C."),
    ):
        command = option(command)
    return command


def show(request: AppLogs, *, timestamps: bool = False) -> int:
    """Print a stream of logs; the exit code."""
    from jitney.cli import connection
    from jitney.wire import methods

    def on_event(event: LogLines) -> None:
        for line in event.lines:
            sys.stdout.write(format_line(line, timestamps=timestamps) + "\n")
        sys.stdout.flush()

    try:
        connection.ask(methods.APP_LOGS, request, on_event=on_event)
    except KeyboardInterrupt:
        # Following is ended this way: that is no failure.
        return 0 if request.follow else 130
    return 0


def format_line(line: LogLine, *, timestamps: bool = False) -> str:
    """A log line as shown: the user's text made safe; notes of Jitney's own marked as such."""
    text = terminal.safe_line(line.text)
    if line.fd == 0:
        text = f"[jitney] {text}"
    return f"{terminal.clock(line.at_ms)} {text}" if timestamps else text
