"""`jitney run`."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jitney.cli import terminal

if TYPE_CHECKING:
    from jitney.cli.program import Target


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.argument("program", metavar="FILE[::NAME]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")
@click.option("--module", "-m", is_flag=True, help="FILE is the dotted name of a module.")
@click.option("--detach", "-d", is_flag=True, help="Let the app go on when this command ends.")
@click.option("--quiet", "-q", is_flag=True, help="Show results only: no progress, no output of containers.")
@click.option("--name", "-n", default="", help="Name of the run; default: that of the app.")
@click.option(
    "--write-result",
    "-w",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was returned to this file: text and bytes as they are, anything else as JSON.",
)
@click.pass_context
def run(
    context: click.Context,
    program: str,
    arguments: tuple[str, ...],
    module: bool,
    detach: bool,
    quiet: bool,
    name: str,
    write_result: Path | None,
) -> int:
    """Run a function or an entry point of a file.

    FILE is imported here. Its entry point (`@app.local_entrypoint()`) runs in this process, and the functions that it
    calls in containers. NAME may also be a function, or `Class.method`: it runs in a container, and its result is
    printed. Without NAME the only entry point is taken, or else the only function. ARGUMENTS are flags made from the
    parameters: `jitney run FILE --help` lists them.

    Options of this command come before FILE. Without --detach everything ends with the command; with it, calls that
    were spawned go on, and `jitney app list` shows the app.

    \b
    Examples:
      jitney run embed.py --path reviews.txt
      jitney run embed.py::embed --text hello
      jitney run -m project.train --epochs 3
      jitney run -d nightly.py
      jitney run -q -w out.json score.py::score --seed 7
    """
    from jitney.cli import starting

    starting.begin()
    from jitney.cli import program as programs
    from jitney.cli.loading import load, split_reference

    place, wanted = split_reference(program)
    target = programs.choose(load(place, as_module=module), wanted, place)
    values = parse(target, arguments, f"{context.command_path} {program}")
    if values is None:
        return 0
    result = execute(target, values, detach=detach, quiet=quiet, name=name)
    if write_result is not None:
        write(write_result, result)
    elif result is not None and target.kind != programs.ENTRY_POINT:
        print(result if isinstance(result, str) else repr(result))
    return 0


def parse(target: Target, arguments: tuple[str, ...], usage: str) -> dict[str, Any] | None:
    """The values of the target's flags; None when only their help was wanted.

    Raises:
        click.UsageError: a flag is missing, unknown or wrong.
    """
    command = click.Command(
        name=usage,
        params=target.parameters(),
        help=without_sections(inspect.getdoc(target.raw) or ""),
        callback=lambda **given: given,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    parsed = command.main(list(arguments), prog_name=usage, standalone_mode=False)
    return parsed if isinstance(parsed, dict) else None


def without_sections(doc: str) -> str:
    """A docstring up to its `Args:`, which the flags show."""
    lines = doc.splitlines()
    ends = [i for i, line in enumerate(lines) if line.rstrip() in ("Args:", "Arguments:", "Raises:", "Returns:")]
    return "\n".join(lines[: min(ends, default=len(lines))]).rstrip()


def execute(target: Target, values: dict[str, Any], *, detach: bool, quiet: bool, name: str) -> Any:
    """Run the target in its app, with the display; what it returned."""
    from jitney.cli import connection, interrupts
    from jitney.cli import progress as displays
    from jitney.client import output

    display = displays.choose(quiet=quiet, phases=connection.containers)
    what = "the app goes on" if detach else "stopping the run"
    with interrupts.stopping(f"{what}; Ctrl-C again leaves at once"), output.use(display):
        try:
            if name:
                target.app._name = name
            with target.app.run(detach=detach):
                if detach and not quiet:
                    terminal.note(f"app {display.app_id}: `jitney app logs -f {display.app_id}` follows it")
                return call(target, values, detach=detach)
        finally:
            display.close()


def call(target: Target, values: dict[str, Any], *, detach: bool) -> Any:
    """Call the target, user code's exceptions marked as such.

    Raises:
        UserCodeError: it raised.
        JitneyError: Jitney could not run it.
    """
    from jitney.cli.loading import UserCodeError
    from jitney.cli.program import ENTRY_POINT
    from jitney.errors import JitneyError

    try:
        function, args, kwargs = target.bind(values)
        if target.kind == ENTRY_POINT:
            made = function(*args, **kwargs)
            return asyncio.run(made) if inspect.iscoroutine(made) else made
        return call_remote(function, args, kwargs, detach=detach)
    except JitneyError:
        raise
    except Exception as error:
        raise UserCodeError(target.name) from error


def call_remote(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, detach: bool) -> Any:
    """The result of a function in a container. What a generator yields is printed as it comes."""
    if function.is_generator:
        for item in function.remote_gen(*args, **kwargs):
            print(item if isinstance(item, str) else repr(item), flush=True)
        return None
    if not detach:
        return function.remote(*args, **kwargs)
    # Durable, so that it goes on when this command is gone.
    spawned = function.spawn(*args, **kwargs)
    terminal.note(f"call {spawned.object_id}: `jitney call show {spawned.object_id}` looks at it")
    return spawned.get()


def write(path: Path, result: Any) -> None:
    """Put a result into a file.

    Raises:
        InvalidError: it is neither text nor bytes nor something that JSON has.
    """
    from jitney.errors import InvalidError

    if isinstance(result, bytes | bytearray | memoryview):
        path.write_bytes(bytes(result))
        return
    if isinstance(result, str):
        path.write_text(result, encoding="utf-8")
        return
    import json

    try:
        text = json.dumps(result, ensure_ascii=False, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidError(
            f"the result is a {type(result).__name__}, which cannot be written to {path}: {error}",
            hint="return text, bytes, or what JSON has",
        ) from None
    path.write_text(text, encoding="utf-8")
