"""`jitney shell`."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jitney.cli import terminal

if TYPE_CHECKING:
    from jitney.client.declare import Declaration
    from jitney.client.session import Session
    from jitney.values.exec import ExecSpec
    from jitney.values.functions import FunctionSpec
    from jitney.values.images import BuiltImage

KILLED = 137


Values = dict[str, dict[str, str]]  # of secrets without a name, by id


@click.command()
@click.argument("place", metavar="[FILE[::FUNC] | IMAGE]", required=False, default="")
@click.option("--cmd", "-c", "words", default="", help="Run this instead of the image's command, /bin/bash or /bin/sh.")
@click.option("--image", default="", help="An image to use instead: its id, or the name that it was given.")
@click.option("--cpu", type=click.FloatRange(0, min_open=True), help="Cores to ask for; default: as the function.")
@click.option("--memory", type=click.IntRange(1), help="MiB to ask for; default: as the function.")
@click.option("--pty/--no-pty", default=None, help="With a terminal inside, or without; default: as there is one here.")
@click.option("--module", "-m", is_flag=True, help="FILE is the dotted name of a module.")
def shell(
    place: str, words: str, image: str, cpu: float | None, memory: int | None, pty: bool | None, module: bool
) -> int:
    """Open a shell in a new container.

    The container has the image, the variables, the files and the resources of the function FUNC of FILE; no code of
    yours runs in it. Without FUNC, FILE has one function. IMAGE is the id of an image (`im-...`) or a name. With
    neither it has Python, and nothing else. The id of a container (`ta-...`) opens the shell in that one.

    The container ends with the shell, or with this command. The exit code is that of the shell.

    \b
    Examples:
      jitney shell train.py::fit
      jitney shell train.py::fit --cmd "python -c 'import torch; print(torch.__version__)'"
      jitney shell --memory 4096
      jitney shell ta-...
    """
    from jitney.cli import connection, starting, terminal_session
    from jitney.values import ids
    from jitney.values.exec import ExecSpec

    starting.begin()
    has_terminal = terminal_session.is_terminal(0) and terminal_session.is_terminal(1)
    spec = ExecSpec(argv=split(words), tty=terminal_session.size() if (has_terminal if pty is None else pty) else None)
    if spec.tty is not None:
        spec = msgspec.structs.replace(spec, env={"TERM": os.environ.get("TERM") or "xterm"})
    session = connection.configured()
    if ids.is_id(place, ids.CONTAINER):
        return told(*terminal_session.run(session, place, spec, forwards=True))
    function, secrets = surroundings(session, place, image, as_module=module)
    return run_in(session, with_resources(function, cpu, memory), spec, secrets)


def split(words: str) -> tuple[str, ...]:
    """A command line as its words.

    Raises:
        click.UsageError: a quote is not closed.
    """
    try:
        return tuple(shlex.split(words))
    except ValueError as error:
        raise click.UsageError(f"--cmd {words!r}: {error}") from None


def run_in(session: Session, function: FunctionSpec, spec: ExecSpec, secrets: Values) -> int:
    """Run a command in a new container that ends with it; its exit code."""
    from jitney.cli import terminal_session
    from jitney.client.exec import OpenContainer
    from jitney.client.portal import PORTAL

    container = OpenContainer(session, function, secrets)
    container_id = PORTAL.call(container.open())
    try:
        return told(*terminal_session.run(session, container_id, spec, forwards=True))
    finally:
        PORTAL.call(container.close())


def told(exit_code: int, reason: str) -> int:
    """The exit code of a command, its reason told where there is one."""
    if reason:
        fix = "see `jitney container list --all`" if exit_code == KILLED else ""
        terminal.error(terminal.safe_line(reason), fix=fix)
    return exit_code


def with_resources(function: FunctionSpec, cpu: float | None, memory: int | None) -> FunctionSpec:
    """The function, asking for these resources instead of its own. A limit below a request is raised to it."""
    resources: Any = function.resources
    if cpu is not None:
        milli = max(round(cpu * 1000), 1)
        limit = resources.cpu_limit_milli
        resources = msgspec.structs.replace(
            resources, cpu_milli=milli, cpu_limit_milli=max(limit, milli) if limit is not None else None
        )
    if memory is not None:
        limit = resources.memory_limit_mib
        resources = msgspec.structs.replace(
            resources, memory_mib=memory, memory_limit_mib=max(limit, memory) if limit is not None else None
        )
    return msgspec.structs.replace(function, resources=resources)


def surroundings(session: Session, place: str, image: str, *, as_module: bool) -> tuple[FunctionSpec, Values]:
    """What the container is to have: a function's surroundings, or an image's; and values of its secrets.

    Raises:
        NotFoundError: there is no such file, function or image.
        JitneyError: it cannot be built.
    """
    from jitney.cli import interrupts
    from jitney.cli import progress as displays
    from jitney.client import output

    display = displays.choose(quiet=False, phases=None)
    with interrupts.stopping("stopping"), output.use(display):
        try:
            if place and (as_module or is_file(place)):
                return of_function(session, place, image, as_module=as_module)
            return of_image(session, image or place), {}
        finally:
            display.close()


def is_file(place: str) -> bool:
    """Whether it means a file of the user's, rather than an image.

    >>> [is_file(place) for place in ("train.py", "train.py::fit", "train::fit", "tools:2", "im-x")]
    [True, True, True, False, False]
    """
    return "::" in place or place.endswith(".py")


def of_image(session: Session, name: str) -> FunctionSpec:
    """The surroundings of an image: that id or name, or the default one."""
    from jitney.client.portal import PORTAL
    from jitney.values.functions import FunctionSpec

    return FunctionSpec(name="shell", image_id=PORTAL.call(_built(session, name)).image_id)


async def _built(session: Session, name: str) -> BuiltImage:
    from jitney.client.image import Image
    from jitney.client.image_builds import build
    from jitney.values import ids

    if not name:
        return await build(session, Image.debian_slim())
    return await build(session, Image.from_id(name) if ids.is_id(name, ids.IMAGE) else Image.from_name(name))


def of_function(session: Session, place: str, image: str, *, as_module: bool) -> tuple[FunctionSpec, Values]:
    """The surroundings of a function of a file, and the values of its secrets; `image` in the place of its own."""
    from jitney.cli.loading import load, split_reference
    from jitney.client.portal import PORTAL
    from jitney.client.running import spec_of

    file, name = split_reference(place)
    app, declaration = pick(load(file, as_module=as_module), name, file)
    function: FunctionSpec = PORTAL.call(spec_of(session, app, declaration))
    if image:
        function = msgspec.structs.replace(function, image_id=PORTAL.call(_built(session, image)).image_id)
    return function, declaration.secret_values()


def pick(module: Any, name: str, file: str) -> tuple[Any, Declaration]:
    """(app, function or class) of that name in a module; a method stands for its class. No name: the only one.

    Raises:
        NotFoundError: there is none. InvalidError: there are several, and no name says which.
    """
    from jitney.cli.loading import pick as pick_name
    from jitney.cli.program import apps
    from jitney.errors import InvalidError, NotFoundError

    found = {one.name: (app, one) for app in apps(module).values() for one in app._declared}
    if not found:
        raise NotFoundError(f"{file} has no function", hint="mark one with `@app.function()`; or leave FILE out")
    if name:
        name = name if name in found else name.partition(".")[0]
        return found[pick_name(name, list(found), of=file, what="function")]
    if len(found) == 1:
        return next(iter(found.values()))
    raise InvalidError(
        f"{file} has {len(found)} functions: {', '.join(found)}", hint=f"name one: `jitney shell {file}::{min(found)}`"
    )
