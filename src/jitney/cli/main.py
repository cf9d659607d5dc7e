"""`jitney`: the entry point, the list of commands, and what every command does with errors.

Commands are imported when they are used: `jitney --help` reads only the table below.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

import click

# Exit codes, as documented.
OK = 0
USER_ERROR = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
FAILED = 5
INTERRUPTED = 130

EXIT_CODES = {
    OK: "it worked",
    USER_ERROR: "your code raised an exception, or a check of `doctor` failed",
    USAGE: "the command, an option or a configuration value is wrong",
    NOT_FOUND: "the file, function, app, call or container does not exist",
    UNREACHABLE: "the server cannot be reached or started",
    FAILED: "Jitney could not do it: an image did not build, a container did not start, a limit was reached",
    INTERRUPTED: "stopped with Ctrl-C",
}

# name -> (module:command, one line)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("jitney.cli.run:run", "Run a function or an entry point of a file."),
    "deploy": ("jitney.cli.deploy:deploy", "Give an app a name that outlives this command."),
    "app": ("jitney.cli.app:app", "List, follow and stop apps."),
    "call": ("jitney.cli.call:call", "List, show and cancel calls."),
    "shell": ("jitney.cli.shell:shell", "Open a shell in a new container."),
    "container": ("jitney.cli.container:container", "List and stop containers, and read their logs."),
    "image": ("jitney.cli.image:image", "List, build and remove images, and show what a build would do."),
    "volume": ("jitney.cli.volume:volume", "Make volumes, put files into them and get them back."),
    "dict": ("jitney.cli.dicts:dict_", "Make dicts, look into them, and clear or delete them."),
    "queue": ("jitney.cli.queues:queue", "Make queues, look into them, and clear or delete them."),
    "secret": ("jitney.cli.secret:secret", "Make, list and delete secrets."),
    "up": ("jitney.cli.up:up", "Run the server of this machine."),
    "down": ("jitney.cli.up:down", "Stop the server of this machine."),
    "doctor": ("jitney.cli.doctor:doctor", "Check what this machine can and cannot do."),
    "config": ("jitney.cli.config:config", "Show and set options."),
    "version": ("jitney.cli.version:version", "Print the versions in use."),
    "worker": ("jitney.cli.worker:worker", "Run this machine's worker (started by the server)."),
}
HIDDEN = {"worker"}

EPILOG = """\b
Examples:
  jitney run embed.py --path reviews.txt     run the entry point of a file
  jitney run embed.py::embed --text hello    run one function of it
  jitney deploy embed.py                     keep it callable by name
  jitney app logs embed --follow

\b
No server has to be set up: a command that needs one starts it in the background, in ~/.jitney or JITNEY_HOME,
and it stops itself when it has had nothing to do for a while.
"""


class Commands(click.Group):
    """The commands of the table, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if name not in HIDDEN])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = _near(name)
            ctx.fail(f"no command {name!r}. " + (near or "`jitney --help` lists them."))
        return super().resolve_command(ctx, args)


def _near(name: str) -> str:
    import difflib

    if name.endswith(".py") or ".py::" in name:
        return f"To run a file: jitney run {name}"
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(None, "--version", package_name="jitney", message="jitney %(version)s")
def cli() -> None:
    """Serverless compute for AI on machines you own or rent: decorate a Python function, and run it in
    containers that start in milliseconds and scale with their queue."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code."""
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: list[str]) -> int:
    """Run a command line; the exit code. Errors are printed here, in one form for all commands."""
    try:
        result: Any = cli.main(arguments, prog_name="jitney", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough. Python would complain again when it flushes.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return failed(error)


def failed(error: Exception) -> int:
    """Print an error that ended a command; its exit code."""
    from jitney.cli import terminal
    from jitney.cli.loading import UserCodeError, format_user_error, raised_at, remote_text
    from jitney.errors import JitneyError

    at = ""
    if isinstance(error, UserCodeError) and isinstance(error.__cause__, JitneyError):
        # The user's code led to it, and what is wrong is said without a traceback: only where.
        error = error.__cause__
        at = raised_at(error)
    if isinstance(error, JitneyError):
        remote = remote_text(error)
        if remote:
            terminal.note(f"in the container:\n{remote}\n")
        terminal.jitney_error(error, at=at)
        return exit_code(error)
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        terminal.note(format_user_error(error.__cause__).rstrip())
        return USER_ERROR
    import traceback

    terminal.note("".join(traceback.format_exception(error)).rstrip())
    terminal.error(
        "this is a bug in Jitney", fix="please report it with the lines above and the output of `jitney version`"
    )
    return FAILED


def exit_code(error: Exception) -> int:
    """The exit code for an error of ours."""
    from jitney import errors

    table: list[tuple[type[Exception], int]] = [
        (errors.NotFoundError, NOT_FOUND),
        (errors.InvalidError, USAGE),
        (errors.ConnectionError, UNREACHABLE),
        (errors.AuthError, UNREACHABLE),
        (errors.VersionError, UNREACHABLE),
        (errors.RemoteError, USER_ERROR),
    ]
    return next((code for kind, code in table if isinstance(error, kind)), FAILED)


def _usage(error: click.ClickException) -> int:
    from jitney.cli import terminal

    command = getattr(getattr(error, "ctx", None), "command_path", "jitney")
    terminal.error(error.format_message(), fix=f"`{command} --help` shows how it is used")
    return USAGE


if __name__ == "__main__":
    main()
