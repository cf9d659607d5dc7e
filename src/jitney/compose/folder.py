"""The folder of a server: made private, locked by the one server that may use it, with its token and its
address.

Everything here is done before the event loop exists, so that a second server, a folder of somebody else or a
full disk is told in one sentence.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

import msgspec

from jitney.errors import AlreadyExistsError, AuthError, InvalidError, StorageFullError
from jitney.runner import segments
from jitney.wire.home import Home, ServerInfo

TOKEN_BYTES = 32
ASKERS_MAX = 200  # times that taking a lock waits 1 ms for those who only ask
WORKER_LOCK = "worker.lock"


class Lock:
    """A flock on a file that says who holds it. It goes with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def try_acquire(self) -> bool:
        """Take it; False when another process has it."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(ASKERS_MAX):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.holder() is not None:
                    break
                time.sleep(0.001)  # only somebody who asks, see `holder`
                continue
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            self._file = file
            return True
        os.close(file)
        return False

    def holder(self) -> int | None:
        """The pid of the process that has it; None when nobody has.

        A process that asks takes the lock for a moment, shared: two that ask do not see each other.
        """
        try:
            file = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(file, 32, 0).strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(file)
        return None

    def release(self) -> None:
        """Give it back; nothing when it is not held."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def server_lock(home: Home) -> Lock:
    """Held by the server of a folder while it runs."""
    return Lock(home.lock)


def worker_lock(home: Home) -> Lock:
    """Held by the worker of a folder while it runs: it tells whether one outlived the last server."""
    return Lock(home.root / WORKER_LOCK)


def claim(home: Home) -> Lock:
    """The folder, made and checked, and its lock, held.

    Raises:
        AlreadyExistsError: another server runs in it.
        InvalidError: it cannot be made, or is not ours alone.
        StorageFullError: no room to write the lock.
    """
    try:
        prepare(home)
        lock = server_lock(home)
        if not lock.try_acquire():
            holder = lock.holder()
            who = f" (pid {holder})" if holder else ""
            raise AlreadyExistsError(
                f"a server already runs in {home.root}{who}",
                hint="use it as it is, stop it with `jitney down`, or set JITNEY_HOME to another folder",
            )
        home.server_info.unlink(missing_ok=True)  # of a server that was killed
        ensure_token(home)
    except OSError as error:
        raise _explained(home, error) from error
    return lock


def prepare(home: Home) -> None:
    """Make the folders, each readable by its owner alone."""
    for folder in (
        home.root, home.blobs, home.files, home.sources, home.images, home.logs, home.containers, home.boxes,
        home.sockets.parent, home.segments,
    ):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.sockets.mkdir(exist_ok=True)
    home.sockets.chmod(0o711)
    # Containers behind a wall are other users: they may write there, and read what they know the name of. The names
    # have more than 64 bits of chance in them, and nobody but us can list them.
    home.blobs.chmod(0o1733)
    # The last two may be in a place that everybody can write to: somebody else's folder would be a trap.
    for folder in (home.root, home.sockets.parent, home.segments):
        problem = not_private(folder)
        if problem:
            raise InvalidError(problem, hint=f"run `chmod 700 {folder}` as its owner, or use another JITNEY_HOME")


def open_segments(home: Home) -> None:
    """Make the folder for large values; what an earlier server left there goes, unless containers still use it."""
    if worker_lock(home).holder() is None:
        _sweep_segments(home)
    segments.prepare(str(home.segments))


def _sweep_segments(home: Home) -> None:
    """Remove the segments that nobody holds."""
    segments.sweep(str(home.segments), time.time(), used_after_s=0.0, idle_after_s=0.0)


def not_private(folder: Path) -> str:
    """Why others could get into a folder of ours; '' when they cannot."""
    found = folder.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder"
    if found.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if found.st_mode & 0o022:
        return f"{folder} can be written to by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def ensure_token(home: Home) -> str:
    """The server's token: 256 random bits, made once, readable by the owner alone.

    Raises:
        AuthError: the file can be read by others, so that the token is no secret any more.
    """
    try:
        file = os.open(home.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(file, "w") as stream:
            stream.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    mode = stat.S_IMODE(home.token.stat().st_mode)
    if mode & 0o077:
        raise AuthError(
            f"{home.token} can be read by others (mode {mode:o}), so the token in it is no secret",
            hint=f"`rm {home.token}`: the next start makes a new one",
        )
    token = home.read_token()
    if len(token) < TOKEN_BYTES:
        # Cut off by a full disk or a crash between creating and writing it.
        home.token.unlink()
        return ensure_token(home)
    return token


def publish(home: Home, info: ServerInfo) -> None:
    """Say how to reach the server: readers see the old file or the whole new one."""
    partial = home.server_info.with_suffix(f".{os.getpid()}.partial")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(msgspec.json.encode(info))
    partial.replace(home.server_info)


def retract(home: Home) -> None:
    """Say no more how to reach the server of this process."""
    info = home.read_server_info()
    if info is not None and info.pid == os.getpid():
        home.server_info.unlink(missing_ok=True)


def clear(home: Home) -> None:
    """Remove what is of no use without a server: values in flight, and the sockets.

    Memory that a client still maps stays its own until it lets go.
    """
    shutil.rmtree(home.segments, ignore_errors=True)
    shutil.rmtree(home.sockets.parent, ignore_errors=True)


def _explained(home: Home, error: OSError) -> Exception:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"no room on the disk of {home.root}",
            hint="free some space, or set JITNEY_HOME to a folder elsewhere",
        )
    return InvalidError(
        f"the folder {home.root} cannot be used\n{error.strerror or error}: {error.filename or home.root}",
        hint="set JITNEY_HOME to a folder that you may write to",
    )
