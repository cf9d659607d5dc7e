"""`ports.buckets.BucketMounter` by FUSE: a program of this machine mounts the bucket, and the mount is taken from it.

The program mounts in a private folder. As soon as that shows something, a descriptor of the mount is taken and the
folder is free again: what is left is in nobody's file system, and there until the last who has it lets go. Then the
kernel tells the program, which puts what is left into the bucket and ends. It is told to end when this process does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from jitney.core.redaction import Patterns, Redactor
from jitney.drivers.buckets.fuse import look, programs
from jitney.errors import BucketError, UnsupportedError
from jitney.runner.wall import kernel
from jitney.values.buckets import BucketMount
from jitney.values.containers import LogLine

log = logging.getLogger("jitney.buckets")

DEVICE = "/dev/fuse"
MOUNT_S = 20.0  # for the program to mount
LOOK_S = 0.01
FLUSH_S = 60.0  # for what was written to be put into the bucket, once nobody has the mount any more
TERMINATE_S = 5.0
LAST_LINES = 5
LINE_CHARS_MAX = 500


class FuseBucket:
    """A bucket that is mounted, and the program that does it."""

    def __init__(self, name: str, descriptor: int, process: Process, said: _Said, own: Path) -> None:
        self.descriptor = descriptor
        self._name = name
        self._process = process
        self._said = said
        self._own = own

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    async def close(self) -> str:
        """See the port."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        problem = ""
        if not await _ended(self._process, FLUSH_S):
            problem = f"{self._name} did not end in {FLUSH_S:g} s: what was written last may not be in the bucket"
            await _end(self._process)
        await self._said.end()
        await asyncio.to_thread(shutil.rmtree, self._own, True)
        return problem


class FuseBuckets:
    """See the module.

    Args:
        root: a folder for mounts, for a moment each, and for what programs want to keep beside.
        owner: the user and group that the files belong to, as this machine counts them; None: no container here can
            have them.
        environ: of this process.
        only: programs that may be used; (): all.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner: int | None,
        environ: Mapping[str, str] | None = None,
        only: tuple[str, ...] = (),
        which: Callable[[str], str | None] = shutil.which,
    ) -> None:
        self._root = root
        self._owner = owner
        self._environ = os.environ if environ is None else environ
        self._wanted = only or programs.ORDER
        self._found = next(((name, path) for name in self._wanted if (path := which(name))), None)
        self._extra: tuple[str, ...] | None = None

    @property
    def program(self) -> str:
        """The one that is used; "": none is installed."""
        return self._found[0] if self._found else ""

    def why_not(self) -> str:
        """See the port."""
        if self._owner is None:
            return "the worker must run as root to mount buckets for containers"
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            return f"{DEVICE} cannot be opened: load the module `fuse`, or give the worker's container that device"
        if self._found is None:
            name = "rclone" if "rclone" in self._wanted else self._wanted[0]
            what = f"none of {', '.join(self._wanted)} is" if len(self._wanted) > 1 else f"{name} is not"
            return f"{what} installed: {programs.REMEDIES[name]}"
        if self._found[0] == "rclone" and not (shutil.which("fusermount3") or shutil.which("fusermount")):
            return "rclone needs fusermount3: `apt-get install fuse3`"
        return ""

    async def mount(self, bucket: BucketMount, credentials: Mapping[str, str]) -> FuseBucket:
        """See the port."""
        why = self.why_not()
        if why or self._found is None or self._owner is None:
            raise UnsupportedError(f"{bucket.url} cannot be mounted: {why}")
        await asyncio.to_thread(look.check_address, bucket)
        await asyncio.to_thread(look.check, bucket, credentials)
        own = self._root / secrets.token_hex(8)
        place = programs.Place(str(own / "mount"), str(own / "own"), self._owner, self._owner)
        for path in (place.folder, place.own):
            os.makedirs(path, mode=0o700)
        name, program = self._found
        command = programs.render(name, program, bucket, credentials, place, self._environ, extra=await self._extras())
        said = _Said(credentials)
        process = await _start(command, place.own)
        said.listen(process)
        try:
            await self._mounted(bucket, name, process, said, place.folder)
            descriptor = await asyncio.to_thread(_take, place.folder)
        except BaseException:
            await _end(process)
            _unmount(place.folder)
            await asyncio.to_thread(shutil.rmtree, own, True)
            raise
        log.info("bucket_mounted bucket=%s program=%s pid=%d", bucket.url, name, process.pid)
        return FuseBucket(name, descriptor, process, said, own)

    async def _extras(self) -> tuple[str, ...]:
        """What this version of the program wants to be told: s3fs from 1.91 on shows no folder that has no object of
        its own, unless it is asked to."""
        if self._extra is None:
            self._extra = ()
            if self._found is not None and self._found[0] == "s3fs":
                text = await asyncio.to_thread(_help_of, self._found[1])
                self._extra = ("compat_dir",) if "\n   compat_dir" in text else ()
        return self._extra

    async def _mounted(self, bucket: BucketMount, name: str, process: Process, said: _Said, folder: str) -> None:
        """Until the mount shows something.

        Raises:
            BucketError: it does not.
        """
        until_s = time.monotonic() + MOUNT_S
        while folder not in mount_points():
            if process.returncode is not None or time.monotonic() > until_s:
                await said.end()
                why = said.last() or f"exit code {process.returncode}"
                raise BucketError(f"{name} could not mount {bucket.url}: {why}")
            await asyncio.sleep(LOOK_S)
        seeing = asyncio.ensure_future(asyncio.to_thread(_see, folder))
        try:
            await asyncio.wait_for(asyncio.shield(seeing), MOUNT_S)
        except TimeoutError:
            seeing.add_done_callback(lambda done: done.exception())
            raise BucketError(f"{bucket.url} is mounted, and showed nothing in {MOUNT_S:g} s") from None
        except OSError as error:
            raise BucketError(f"{bucket.url} shows nothing ({error.strerror or error}): {said.last()}") from None

    async def reap(self) -> int:
        """See the port."""
        return await asyncio.to_thread(self._reap)

    def _reap(self) -> int:
        left = [path for path in mount_points() if path.startswith(f"{self._root}/")]
        for path in left:
            _unmount(path)
        shutil.rmtree(self._root, ignore_errors=True)
        return len(left)


class _Said:
    """The last lines that a program printed, without its credentials."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._redactor = Redactor(Patterns(credentials.values()))
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._listening: asyncio.Task[None] | None = None

    def listen(self, process: Process) -> None:
        """Take what it prints from now on."""
        self._listening = asyncio.ensure_future(self._listen(process))

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(64 * 1024):
            for text in data.decode("utf-8", "replace").splitlines():
                for line in self._redactor.feed([LogLine(0, "", 1, text[:LINE_CHARS_MAX])]):
                    self._keep(line.text)

    def _keep(self, text: str) -> None:
        self._lines.append(text)
        log.debug("bucket_program line=%s", text)

    def last(self) -> str:
        """As one line."""
        return " | ".join(self._lines)

    async def end(self) -> None:
        """It has ended: take the rest."""
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=TERMINATE_S)
            self._listening.cancel()
        for line in self._redactor.release():
            self._keep(line.text)


async def _start(command: programs.Command, folder: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *command.argv,
        env=dict(command.environ),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: kernel.die_with_parent(signal.SIGTERM),
    )


async def _ended(process: Process, within_s: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), within_s)
    except TimeoutError:
        return False
    return True


async def _end(process: Process) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is None:
            process.send_signal(signum)
        if await _ended(process, TERMINATE_S):
            return


def mount_points() -> set[str]:
    """Folders of this machine that something is mounted on."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return {line.split(" ", 5)[4].replace("\\040", " ") for line in file}


def _see(folder: str) -> None:
    with os.scandir(folder) as entries:
        next(entries, None)


def _take(folder: str) -> int:
    """The mount that is on a folder, and the folder free again."""
    descriptor = kernel.take(folder, recursive=False)
    kernel.unmount(folder)
    return descriptor


def _unmount(folder: str) -> None:
    try:
        kernel.unmount(folder)
    except OSError:
        pass  # nothing is mounted there


def _help_of(program: str) -> str:
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=10)
    return done.stdout + done.stderr
