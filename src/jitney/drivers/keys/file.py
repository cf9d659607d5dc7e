"""Keys in a file of the server's folder, which its owner alone can read.

    # <what it is>
    kf-<16 hex digits> <the key, in Base64>
    kf-<16 hex digits> <the id of another key> <the key, sealed with that one, in Base64>
    ...

The last one is current. The id of a key is made from the key, so that one that was cut off or changed is found out. The
file is made at the first use, and written whole: a new one beside it, synced, then put in its place.

With `covers` the file alone is of no use: keys are sealed with one that comes from elsewhere, such as a vault. The
first cover seals, all of them open; so it is changed by naming the new one before the old, and rotating, which seals
all anew. Keys that were there without a cover are read, and sealed then.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from jitney.core import sealing
from jitney.errors import EncryptionKeyError
from jitney.values.secrets import Wrapped

PREFIX = "kf-"
ID_CHARS = 16
HEADER = "# The keys of this server's secrets, which cannot be read without this file: keep a copy of it elsewhere.\n"
FILE_BYTES_MAX = 1024 * 1024
SEALED_BYTES = sealing.NONCE_BYTES + sealing.KEY_BYTES + sealing.TAG_BYTES


class Cover(Protocol):
    """Where a key comes from that others are sealed with. `name`: what it is called where it is configured."""

    name: str

    def key(self) -> bytes:
        """The key; may block.

        Raises:
            EncryptionKeyError: it cannot be had.
        """
        ...


class FileKeys:
    """`ports.keys.KeyRing` in a file."""

    def __init__(
        self, path: Path, *, covers: Sequence[Cover] = (), entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._path = path
        self._covers = tuple(covers)
        self._entropy = entropy
        self._changing = asyncio.Lock()

    async def wrap(self, data_key: bytes, context: bytes) -> Wrapped:
        """See the port."""
        async with self._changing:
            keys = await asyncio.to_thread(self._read) or await asyncio.to_thread(self._add, {})
        key_id, key = next(reversed(keys.items()))
        nonce = self._entropy(sealing.NONCE_BYTES)
        return Wrapped(key_id=key_id, sealed=sealing.seal_key(data_key, key, nonce, context))

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """See the port."""
        key = (await asyncio.to_thread(self._read)).get(wrapped.key_id)
        if key is None:
            there = "does not have it" if await asyncio.to_thread(self._path.exists) else "is not there"
            raise EncryptionKeyError(
                f"secrets are encrypted with the key {wrapped.key_id}, and {self._path} {there}",
                hint="bring the file back from a copy. If there is none, their values are lost: delete these secrets "
                "(`jitney secret delete`), stop apps that have secrets of their own, and create them again",
            )
        return sealing.unseal_key(wrapped.sealed, key, context)

    async def missing(self, key_ids: Collection[str]) -> set[str]:
        """See the port."""
        return set(key_ids) - set(await asyncio.to_thread(self._read))

    async def rotate(self) -> str:
        """See the port."""
        async with self._changing:
            keys = await asyncio.to_thread(lambda: self._add(self._read()))
        return next(reversed(keys))

    async def retire(self, kept: Collection[str]) -> int:
        """See the port."""
        async with self._changing:
            keys = await asyncio.to_thread(self._read)
            current = next(reversed(keys), "")
            staying = {key_id: key for key_id, key in keys.items() if key_id in kept or key_id == current}
            if len(staying) < len(keys):
                await asyncio.to_thread(self._write, staying)
        return len(keys) - len(staying)

    # -------------------------------------------------------------------------------------------- the file

    def _add(self, keys: dict[str, bytes]) -> dict[str, bytes]:
        key = self._entropy(sealing.KEY_BYTES)
        keys = {**keys, id_of(key): key}
        self._write(keys)
        return keys

    def _read(self) -> dict[str, bytes]:
        """The keys, the current one last; {} where there is no file."""
        for cover in self._covers[:1]:
            cover.key()  # without it there is no use in looking, and nothing may be made
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unusable(f"it cannot be read ({error.strerror or error})", "see to it that it can") from None
        with os.fdopen(file, "rb") as stream:
            status = os.fstat(stream.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise self._unusable("it is not a file of the server's user", "put the right one in its place")
            if mode & 0o077:
                raise self._unusable(
                    f"others can read it (mode {mode:o}), so the keys in it may be known",
                    f"`chmod 600 {self._path}`, then `jitney secret rotate-key`",
                )
            text = stream.read(FILE_BYTES_MAX + 1)
        return self._parse(text)

    def _parse(self, text: bytes) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.split(b"\n"), 1):
            if not line.strip() or line.startswith(b"#"):
                continue
            name, *rest = line.decode("ascii", "replace").split()
            key = self._key(name, rest)
            if len(text) > FILE_BYTES_MAX or len(key) != sealing.KEY_BYTES or name != id_of(key):
                raise self._unusable(f"its line {number} is damaged", "bring the file back from a copy")
            keys[id_of(key)] = key
        if text.strip() == b"":
            raise self._unusable("it is empty", "bring it back from a copy; or remove it, if no secret was made yet")
        return keys

    def _key(self, name: str, rest: Sequence[str]) -> bytes:
        """The key of a line; b'' where there is none."""
        if len(rest) not in (1, 2):
            return b""
        try:
            found = base64.b64decode(rest[-1], validate=True)
            if len(rest) == 2 and len(found) == SEALED_BYTES:
                found = sealing.unseal_key(found, self._above(rest[0]), _context(name))
            return found
        except (ValueError, sealing.Unsealable):
            return b""

    def _above(self, key_id: str) -> bytes:
        """The key of that id, which others are sealed with."""
        for cover in self._covers:
            key = cover.key()
            if id_of(key) == key_id:
                return key
        if not self._covers:
            raise self._unusable(
                f"its keys are sealed with another one, {key_id}, which no command gives", "set `secrets_key_command`"
            )
        raise self._unusable(
            f"its keys are sealed with {key_id}, and {' and '.join(f'`{one.name}`' for one in self._covers)} "
            f"{'gives' if len(self._covers) == 1 else 'give'} another key",
            "have the command give that one. Where it was changed: name the earlier command in "
            "`secrets_key_command_before`, restart, `jitney secret rotate-key`",
        )

    def _line(self, key_id: str, key: bytes) -> str:
        if not self._covers:
            return f"{key_id} {base64.b64encode(key).decode()}\n"
        above = self._covers[0].key()
        sealed = sealing.seal_key(key, above, self._entropy(sealing.NONCE_BYTES), _context(key_id))
        return f"{key_id} {id_of(above)} {base64.b64encode(sealed).decode()}\n"

    def _write(self, keys: dict[str, bytes]) -> None:
        lines = [self._line(key_id, key) for key_id, key in keys.items()]
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            partial.unlink(missing_ok=True)
            file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(HEADER + "".join(lines))
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._unusable(f"it cannot be written ({error.strerror or error})", "see to it that it can") from None

    def _unusable(self, why: str, remedy: str) -> EncryptionKeyError:
        return EncryptionKeyError(f"the key file {self._path} cannot be used: {why}", hint=remedy)


def id_of(key: bytes) -> str:
    """The id of a key: nothing can be told from it."""
    return PREFIX + hashlib.sha256(b"jitney key id:" + key).hexdigest()[:ID_CHARS]


def _context(key_id: str) -> bytes:
    """What a key is sealed for."""
    return sealing.context("jitney key", key_id)
