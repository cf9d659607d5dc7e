"""`jitney image`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jitney.cli import terminal
from jitney.cli.flags import ParamType

if TYPE_CHECKING:
    from jitney.client.image import Image

KEEP = "30d"


class _Span(ParamType):
    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return -terminal.parse_since(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no span of time; write 30min, 12h or 30d", param, ctx)


@click.group()
def image() -> None:
    """List, build and remove images, and show what a build would do."""


@image.command(name="list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(limit: int, as_json: bool) -> None:
    """List images, the one that was used last first. Sizes count what images share in each.

    \b
    Example:
      jitney image list
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.images import ImageList

    nothing = methods.IMAGE_LIST.answer(images=())
    found = connection.ask(methods.IMAGE_LIST, ImageList(limit=limit), otherwise=lambda: nothing).images
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            one.image_id, ", ".join(one.names) or "-", one.title, one.python_version or "-",
            mib(one.size_bytes), terminal.ago(one.built_at_ms), terminal.ago(one.used_at_ms),
        )
        for one in found
    ]  # fmt: skip
    terminal.table(("id", "names", "image", "python", "size", "built", "used"), rows, empty="no images")


@image.command()
@click.argument("reference", metavar="FILE[::NAME]")
@click.option("--module", "-m", "as_module", is_flag=True, help="FILE is a module name: pkg.train")
@click.option("--force", is_flag=True, help="Build though it is built already.")
@click.option("--name", "tag", default="", help='Give it this name: "trainer:v2".')
def build(reference: str, as_module: bool, force: bool, tag: str) -> None:
    """Build an image of a file now, and print its id.

    NAME is the variable that holds it; without it, the file has one image.

    \b
    Examples:
      jitney image build train.py
      jitney image build train.py::cuda --name trainer:v2
    """
    import os

    from jitney.cli import connection, interrupts
    from jitney.cli import progress as displays
    from jitney.client import output

    if force:
        os.environ["JITNEY_FORCE_BUILD"] = "1"
    wanted = _load(reference, as_module)
    connection.configured()
    display = displays.choose(quiet=False, phases=None)
    with interrupts.stopping("stopping"), output.use(display):
        try:
            name = wanted.publish(tag) if tag else ""
            if not name:
                wanted.hydrate()
        finally:
            display.close()
    print(f"{wanted.object_id} {name}".rstrip())


@image.command()
@click.argument("reference", metavar="FILE[::NAME]")
@click.option("--module", "-m", "as_module", is_flag=True, help="FILE is a module name: pkg.train")
@click.option("--dockerfile", is_flag=True, help="Print it as a Dockerfile instead; no server is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def plan(reference: str, as_module: bool, dockerfile: bool, as_json: bool) -> None:
    """Show what a build of an image would do, step by step, and which steps are done already.

    \b
    Examples:
      jitney image plan train.py::cuda
      jitney image plan train.py --dockerfile > Dockerfile
    """
    from jitney.cli import connection

    wanted = _load(reference, as_module)
    if dockerfile:
        print(wanted.dockerfile(), end="")
        return
    connection.configured()
    found = wanted.plan()
    if as_json:
        terminal.write_json(found)
        return
    root = "a root file system of its own" if found.needs_root else "the machine's root file system"
    print(f"{found.image_id}: Python {found.python or 'of the base'}, {root}")
    rows = [
        (number, "done" if step.cached else "to do", step.work, step.digest[:12], step.title)
        for number, step in enumerate(found.steps, 1)
    ]
    terminal.table(("step", "state", "work", "digest", "what"), rows, empty="no steps")


@image.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
def rm(images: tuple[str, ...]) -> None:
    """Remove images, by id or by name. Those of functions that are deployed or run are refused.

    \b
    Example:
      jitney image rm trainer:v1
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.images import ImageRemove

    for one in images:
        removed = connection.ask(methods.IMAGE_REMOVE, ImageRemove(image=one))
        print(f"{removed.image_id} is removed")


@image.command()
@click.option("--older-than", type=_Span(), default=KEEP, show_default=True, help="Not used for so long: 12h, 30d.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def gc(older_than: int, dry_run: bool) -> None:
    """Remove images that nobody needs: not used for long, without a name, and of no function.

    \b
    Examples:
      jitney image gc --dry-run
      jitney image gc --older-than 12h
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.images import ImageCollect

    request = ImageCollect(keep_ms=older_than, dry_run=dry_run)
    found = connection.ask(methods.IMAGE_COLLECT, request)
    for image_id in found.images:
        print(image_id)
    done = "would be removed" if dry_run else "removed"
    count = len(found.images)
    terminal.note(f"{count:,} image{'' if count == 1 else 's'} {done}, {mib(found.freed_bytes)}")


def mib(size_bytes: int) -> str:
    """A size in the unit that a person would use.

    >>> mib(5 << 20), mib(3 << 30)
    ('5.0 MiB', '3.0 GiB')
    """
    if size_bytes >= 1 << 30:
        return f"{size_bytes / (1 << 30):,.1f} GiB"
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def _load(reference: str, as_module: bool) -> Image:
    """The image that is meant."""
    from jitney.cli.loading import load, split_reference
    from jitney.client.app import App
    from jitney.client.image import Image
    from jitney.errors import InvalidError, NotFoundError

    place, name = split_reference(reference)
    module = load(place, as_module=as_module)
    images = {key: value for key, value in vars(module).items() if isinstance(value, Image)}
    if name:
        found = vars(module).get(name)
        found = found.image if isinstance(found, App) else found
        if not isinstance(found, Image):
            raise NotFoundError(
                f"{place} has no image {name!r}", hint=f"there is {', '.join(images)}" if images else ""
            )
        return found
    apps = [value.image for value in vars(module).values() if isinstance(value, App) and value.image is not None]
    distinct = {id(one): one for one in [*images.values(), *apps]}
    if len(distinct) != 1:
        listed = f"it has {', '.join(images)}" if distinct else "it has none at its top"
        raise InvalidError(f"which image of {place}? {listed}", hint=f"name it: {place}::NAME")
    return next(iter(distinct.values()))
