"""`jitney volume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jitney.cli import objects, terminal
from jitney.cli.objects import AS_JSON, YES
from jitney.values.objects import ObjectKind
from jitney.values.volumes import KEPT_DAYS_MAX, KEPT_VERSIONS_MAX

if TYPE_CHECKING:
    from jitney.client.volume import Volume
    from jitney.values.volumes import Committed, Entry

FORCE = click.option("--force", "-f", is_flag=True, help="Replace files that are there.")
RECURSIVE = click.option("--recursive", "-r", is_flag=True, help="Folders too, with all that is in them.")
VERSION = click.option("--version", "at", type=click.IntRange(0), help="As it was in this version.")
CONFLICTS_SHOWN_MAX = 10


@click.group(cls=objects.Group)
def volume() -> None:
    """Make volumes, put files into them and get them back; go back to earlier versions.

    Every change is a version. Old ones are dropped in time: `jitney volume keep` says, and sets, which stay.
    """


@volume.command()
@click.argument("name")
@AS_JSON
def create(name: str, as_json: bool) -> None:
    """Make a volume, if there is none of that name.

    \b
    Example:
      jitney volume create weights
    """
    objects.create(ObjectKind.VOLUME, name, as_json=as_json)


@volume.command(name="list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List volumes, newest first. The size is that of the newest version.

    \b
    Example:
      jitney volume list --json
    """
    from jitney.cli import connection
    from jitney.wire import methods
    from jitney.wire.messages.volumes import VolumeList

    nothing = methods.VOLUME_LIST.answer(volumes=())
    found = connection.ask(methods.VOLUME_LIST, VolumeList(), otherwise=lambda: nothing).volumes
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            one.name, one.volume_id, f"v{one.version}", f"{one.files:,}", terminal.amount(one.size),
            terminal.ago(one.created_at_ms), terminal.ago(one.updated_at_ms or None),
        )
        for one in found
    ]  # fmt: skip
    terminal.table(("name", "id", "version", "files", "size", "age", "changed"), rows, empty="no volumes")


@volume.command()
@click.argument("name")
@click.argument("path", default="/")
@RECURSIVE
@VERSION
@AS_JSON
def ls(name: str, path: str, recursive: bool, at: int | None, as_json: bool) -> None:
    """List what is in a volume, or in a folder of it.

    \b
    Examples:
      jitney volume ls weights
      jitney volume ls weights /llama --recursive --version 3
    """
    found = _volume(name, at).listdir(path, recursive=recursive)
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (_shown(one), f"{one.mode:04o}", terminal.amount(one.size) if one.digest else "-", _time(one)) for one in found
    ]
    terminal.table(("path", "mode", "size", "modified"), rows, empty="nothing is there")


def _shown(entry: Entry) -> str:
    if entry.target:
        return f"{entry.path} -> {entry.target}"
    return entry.path if entry.digest else f"{entry.path}/"


def _time(entry: Entry) -> str:
    return terminal.clock(entry.mtime_ns // 1_000_000)[:19] if entry.mtime_ns else "-"


@volume.command()
@click.argument("name")
@click.argument("remote_path")
@click.argument("local_path", default=".")
@FORCE
@VERSION
@AS_JSON
def get(name: str, remote_path: str, local_path: str, force: bool, at: int | None, as_json: bool) -> int:
    """Get a file or a folder. LOCAL_PATH may be a folder to put it in, another name for it, or - for standard output.

    \b
    Examples:
      jitney volume get weights /llama/config.json
      jitney volume get weights / backup --version 3
      jitney volume get weights /log.txt -
    """
    import sys

    from jitney.client.portal import PORTAL
    from jitney.client.volume_download import Downloaded, download
    from jitney.core import volumes

    wanted = _volume(name, at)
    if local_path == "-":
        for data in wanted.read_file(remote_path):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    path = volumes.plain_path(remote_path)
    local = Path(local_path).expanduser().absolute()
    if local_path.endswith("/"):
        local.mkdir(parents=True, exist_ok=True)
    if path and local.is_dir():
        local /= path.rpartition("/")[2]

    async def run() -> Downloaded:
        return await download(await wanted._transfer_place(), path, at, local, force=force)

    with _progress():
        done = PORTAL.call(run())
    if as_json:
        terminal.write_json(done._asdict())
    else:
        print(f"{done.files:,} file{_s(done.files)}, {terminal.amount(done.size)}, to {local}")
    for left, like in done.collisions.items():
        terminal.note(f"left out: {left!r}, which this file system takes for {like!r}")
    return 5 if done.collisions else 0


@volume.command()
@click.argument("name")
@click.argument("local_path", type=click.Path(exists=True, path_type=Path))
@click.argument("remote_path", default="/")
@FORCE
@AS_JSON
def put(name: str, local_path: Path, remote_path: str, force: bool, as_json: bool) -> None:
    """Put a file or a folder. A REMOTE_PATH that ends with / is the folder that it comes into; / is the top.

    \b
    Examples:
      jitney volume put weights model.bin
      jitney volume put weights checkpoints /run-7/ --force
    """
    wanted = _volume(name)
    if remote_path.endswith("/"):
        remote_path += local_path.absolute().name
    with _progress(), wanted.batch_upload(force=force) as batch:
        if local_path.is_dir():
            batch.put_directory(local_path, remote_path)
        else:
            batch.put_file(local_path, remote_path)
    for done in batch.committed:
        _say(done, as_json=as_json)


@volume.command()
@click.argument("name")
@click.argument("path")
@RECURSIVE
@AS_JSON
def rm(name: str, path: str, recursive: bool, as_json: bool) -> None:
    """Remove a file, or a folder. Earlier versions still have it.

    \b
    Example:
      jitney volume rm weights /old --recursive
    """
    _say(_volume(name).remove_file(path, recursive=recursive), as_json=as_json)


@volume.command()
@click.argument("name")
@click.argument("paths", nargs=-1, required=True)
@RECURSIVE
@AS_JSON
def cp(name: str, paths: tuple[str, ...], recursive: bool, as_json: bool) -> None:
    """Copy files inside a volume. The last of PATHS is where to: a folder, or a new name. Nothing is sent.

    \b
    Example:
      jitney volume cp weights /a.bin /b.bin /backup/
    """
    if len(paths) < 2:
        raise click.UsageError("give what to copy, and where to")
    _say(_volume(name).copy_files(paths[:-1], paths[-1], recursive=recursive), as_json=as_json)


@volume.command()
@click.argument("name")
@click.argument("path")
@click.argument("new_path")
@AS_JSON
def mv(name: str, path: str, new_path: str, as_json: bool) -> None:
    """Move a file or a folder inside a volume: into NEW_PATH if that is a folder, else to it.

    \b
    Example:
      jitney volume mv weights /run-7/best.bin /best.bin
    """
    _say(_volume(name).move_file(path, new_path, into=True), as_json=as_json)


@volume.command()
@click.argument("name")
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most this many.")
@AS_JSON
def history(name: str, limit: int, as_json: bool) -> None:
    """List the versions of a volume that are kept, newest first.

    \b
    Example:
      jitney volume history weights
    """
    of = _volume(name)
    found = of.history(limit=limit)
    if as_json:
        terminal.write_json(found)
        return
    rows = [
        (
            f"v{one.version}", terminal.clock(one.at_ms)[:19], f"+{one.puts:,} -{one.removes:,}", f"{one.files:,}",
            terminal.amount(one.size), one.message or (f"as v{one.restored}" if one.restored is not None else "-"),
        )
        for one in found
    ]  # fmt: skip
    terminal.table(("version", "at", "changes", "files", "size", "message"), rows, empty="nothing was ever put")
    if found and len(found) < limit and found[-1].version > 1:
        kept = of.kept()
        terminal.note(
            f"kept are the newest {kept.versions:,}, those of the last {kept.days:,} days, and those in use: "
            f"others before v{found[0].version} are gone"
        )


@volume.command()
@click.argument("name")
@click.option("--versions", type=click.IntRange(1, KEPT_VERSIONS_MAX), help="So many of the newest stay.")
@click.option(
    "--days", type=click.IntRange(0, KEPT_DAYS_MAX), help="All that were the newest within so many days stay."
)
@click.option("--default", "as_server", is_flag=True, help="As the server has it for all volumes.")
@AS_JSON
def keep(name: str, versions: int | None, days: int | None, as_server: bool, as_json: bool) -> None:
    """Set which versions of a volume stay; without an option: tell.

    Versions that a container has mounted, a function names, or somebody has read within the hour, stay as well.

    \b
    Examples:
      jitney volume keep weights --versions 50 --days 30
      jitney volume keep weights --default
    """
    if as_server and (versions is not None or days is not None):
        raise click.UsageError("--default takes neither --versions nor --days")
    of = _volume(name)
    found = of.kept() if versions is None and days is None and not as_server else of.keep(versions=versions, days=days)
    if as_json:
        terminal.write_json(found)
    else:
        click.echo(f"kept are the newest {found.versions:,} versions, and those of the last {found.days:,} days")


@volume.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(0))
@AS_JSON
def restore(name: str, version: int, as_json: bool) -> None:
    """Make an earlier VERSION the newest again. It is a new version: nothing that came after it is lost.

    \b
    Example:
      jitney volume restore weights 3
    """
    _say(_volume(name).restore(version), as_json=as_json)


volume.add_command(objects.rename_command(ObjectKind.VOLUME, "weights weights-2024"))


@volume.command()
@click.argument("name")
@objects.ALLOW_MISSING
@YES
def delete(name: str, allow_missing: bool, yes: bool) -> None:
    """Delete a volume, with all its versions.

    \b
    Example:
      jitney volume delete weights --yes
    """
    objects.delete(ObjectKind.VOLUME, name, allow_missing=allow_missing, yes=yes)


def _volume(name: str, at: int | None = None) -> Volume:
    """The volume of that name."""
    from jitney.cli import connection
    from jitney.client.volume import Volume

    record = objects.opened(ObjectKind.VOLUME, name)
    connection.configured()
    found = Volume(object_id=record.object_id)
    return found if at is None else found.at(at)


@contextmanager
def _progress() -> Iterator[None]:
    from jitney.cli import interrupts
    from jitney.cli import progress as displays
    from jitney.client import output

    display = displays.choose(quiet=False)
    with interrupts.stopping("stopping: nothing is committed"), output.use(display):
        try:
            yield
        finally:
            display.close()


def _say(done: Committed, *, as_json: bool) -> None:
    if as_json:
        terminal.write_json(done)
        return
    if not done.changed:
        print(f"nothing to change: it is version {done.version}")
        return
    print(f"version {done.version}: {done.puts:,} put, {done.removes:,} removed")
    for path in done.conflicts[:CONFLICTS_SHOWN_MAX]:
        terminal.note(f"others had changed {path!r} meanwhile")
    if done.conflict_count > CONFLICTS_SHOWN_MAX:
        terminal.note(f"and {done.conflict_count - CONFLICTS_SHOWN_MAX:,} more")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
