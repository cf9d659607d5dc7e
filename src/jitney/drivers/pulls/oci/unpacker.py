"""Unpacks layers in a child process (`runner/unpack.py`), which puts itself behind a wall."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from jitney.drivers.pulls.oci.finishing import finish
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.drivers.pulls.oci.store import remove_tree
from jitney.errors import ImageBuildError, InvalidError, JitneyError, StorageFullError, UnsupportedError
from jitney.runner import unpack as script
from jitney.runner.tarstream import ZSTD

ROOT_OWNERS = f"0:{0x7000_0000}:65536"  # ids of nobody on the host, as containers have them when the worker is root
ERROR_BYTES_MAX = 4_096
LINE_BYTES_MAX = 65_536
MB = 1_000_000

OnLine = Callable[[str], None]


class Blob(msgspec.Struct, frozen=True):
    """A layer as it was packed: a piece of a file."""

    path: str
    offset: int
    size: int


class Unpacked(msgspec.Struct, frozen=True):
    """What the script says of a layer."""

    diff_id: str
    bytes: int
    files: int
    hides_all: bool = False
    unowned: int = 0
    left_out: int = 0
    walled: bool = False


class Unpacker(Protocol):
    """Makes layers out of blobs."""

    @property
    def owners(self) -> str:
        """Whom the files belong to, as a map: layers with other owners are others."""
        ...

    async def unpack(self, blob: Blob, folder: Path, lock: int, on_line: OnLine) -> Unpacked:
        """Fill the empty folder. `lock` is a descriptor that whoever works on it must hold open.

        Raises:
            ImageBuildError, InvalidError, StorageFullError, UnsupportedError: it cannot be done.
        """
        ...

    async def discard(self, folder: Path) -> None:
        """Remove a folder of a layer, whole or not."""
        ...


def default_owners() -> str:
    """As root: ids of nobody, as containers have them. Otherwise everything is this user's, who is root inside."""
    return ROOT_OWNERS if os.geteuid() == 0 else f"0:{os.geteuid()}:1"


def render_unpack(python: str, folder: str, blob: Blob, owners: str, settings: PullSettings) -> tuple[str, ...]:
    """The command line."""
    return (
        *(python, "-I", "-S", "-E", "-B", str(Path(script.__file__).resolve()), folder),
        *("--ids", owners, "--bytes", str(blob.size)),
        *("--files", str(settings.files_max), "--most", str(settings.unpacked_bytes_max)),
    )


class ChildUnpacker:
    """`Unpacker` by a child of this process.

    Args:
        owners: see `runner/unpack.py --ids`; '' = `default_owners()`.
        python: the interpreter of the child.
    """

    def __init__(self, settings: PullSettings, *, owners: str = "", python: str = sys.executable) -> None:
        self.owners = owners or default_owners()
        self._settings = settings
        self._python = python

    async def unpack(self, blob: Blob, folder: Path, lock: int, on_line: OnLine) -> Unpacked:
        """See Unpacker."""
        file = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            is_zstd = os.pread(file, len(ZSTD), blob.offset) == ZSTD
            if is_zstd and not _python_knows_zstd():
                return await self._through_zstd(blob, folder, lock, on_line)
            os.lseek(file, blob.offset, os.SEEK_SET)
            return await self._run(blob, folder, file, lock, on_line)
        finally:
            os.close(file)

    async def discard(self, folder: Path) -> None:
        """See Unpacker."""
        await asyncio.to_thread(remove_tree, folder)

    async def _through_zstd(self, blob: Blob, folder: Path, lock: int, on_line: OnLine) -> Unpacked:
        """The program `zstd` takes the place of the module that Python has since 3.14."""
        program = shutil.which("zstd")
        if program is None:
            raise UnsupportedError(
                "a layer is compressed with zstd, which this Python cannot read",
                hint="install the program `zstd` on the worker's machine, or run the worker with Python 3.14",
            )
        file = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        output, given = os.pipe()
        feed, feeding = os.pipe()
        feeder = child = None
        try:
            argv = (program, "-dcq", "--memory=512MB")
            child = await _start(argv, stdin=feed, stdout=given, stderr=asyncio.subprocess.DEVNULL)
            os.close(feed)
            os.close(given)
            feed = given = -1
            feeder = asyncio.create_task(asyncio.to_thread(_feed, file, blob, feeding))
            plain = Blob(blob.path, 0, self._settings.unpacked_bytes_max)
            return await self._run(plain, folder, output, lock, on_line)
        finally:
            # Whoever still reads or writes finds the other end closed.
            for each in (output, feed, given, *(() if feeder else (feeding,))):
                if each >= 0:
                    os.close(each)
            if child:
                await finish(_end(child))
            if feeder:
                await finish(_wait(feeder))
            os.close(file)

    async def _run(self, blob: Blob, folder: Path, stdin: int, lock: int, on_line: OnLine) -> Unpacked:
        child = await _start(
            render_unpack(self._python, str(folder), blob, self.owners, self._settings),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            keep=(lock,),
        )
        try:
            assert child.stdout
            assert child.stderr
            last = b""
            async for line in child.stdout:
                if last:
                    on_line(_progress(last))
                last = line
            said = await child.stderr.read(ERROR_BYTES_MAX)
            code = await child.wait()
        finally:
            if child.returncode is None:
                await finish(_end(child))
        if code == 0 and last:
            return msgspec.json.decode(last, type=Unpacked)
        raise explain(code, said.decode(errors="replace").strip())


async def _start(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int, keep: Sequence[int] = ()) -> Process:
    """A child in a group of its own; who is cancelled while it starts leaves none behind."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"LC_ALL": "C.UTF-8"},
            pass_fds=tuple(keep),
            start_new_session=True,
            limit=LINE_BYTES_MAX,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if starting.exception() is None:
            await finish(_end(starting.result()))
        raise


async def _end(child: Process) -> None:
    """End it with its children: when the pipes that they share are closed, none of them is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.communicate()


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})


def explain(code: int, said: str) -> JitneyError:
    """What an exit code of the script means to a person."""
    if code == script.REFUSED:
        return InvalidError(f"a layer is refused: {said}", hint="build the image again, or choose another")
    if code == script.FULL:
        return StorageFullError(f"no room to unpack a layer ({said})", hint="free some space, and try again")
    if code == script.UNREADABLE:
        return UnsupportedError(f"a layer cannot be read: {said}", hint="push the image with gzip")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return ImageBuildError(f"a layer cannot be unpacked ({how}): {said}", hint="check the disk of the worker")


def _progress(line: bytes) -> str:
    try:
        found = msgspec.json.decode(line, type=dict[str, int])
    except msgspec.MsgspecError:
        return line.decode(errors="replace").strip()
    return f"unpacked {found.get('bytes', 0) / MB:,.0f} MB, {found.get('files', 0):,} files"


def _python_knows_zstd() -> bool:
    return sys.version_info >= (3, 14)


def _feed(file: int, blob: Blob, pipe: int) -> None:
    """Write a blob to a pipe, until it is closed."""
    at, end = blob.offset, blob.offset + blob.size
    try:
        while at < end and (chunk := os.pread(file, min(1 << 20, end - at), at)):
            at += len(chunk)
            while chunk:
                chunk = chunk[os.write(pipe, chunk) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(pipe)
