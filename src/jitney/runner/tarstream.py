"""Reads tar archives of strangers from a stream: every field is checked, every length has a limit.

Not `tarfile`: that trusts sizes (an extended header is read into memory whole, however large it says it is), knows a
dozen dialects, and is three times slower. This knows what images are made of: ustar, its GNU long names, and pax
headers. Sparse files and whatever else is refused by name.

Standard library only, and nothing is imported late: the process that reads has no file system but the one it fills.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

BLOCK_BYTES = 512
CHUNK_BYTES = 1 << 20
RAW_BYTES = 1 << 18  # read at once
PATH_BYTES_MAX = 4096  # the kernel's
DEPTH_MAX = 256
EXTENDED_BYTES_MAX = 1 << 20  # of one pax header, or one long name
TIME_S_MAX = 1 << 34
RATIO_MAX = 250  # a larger one is a bomb ...
RATIO_FROM_BYTES = 1 << 30  # ... once so much came out

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

FILE, LINK, SYMLINK, CHARACTER, BLOCK, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


class Refused(Exception):
    """The archive is damaged or hostile: the message says what is wrong with it."""


class Unreadable(Exception):
    """The archive is compressed in a way that this Python cannot read."""


class Entry(NamedTuple):
    """One member. `size` bytes of content follow it in the stream."""

    path: tuple[bytes, ...]  # () = the root itself
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes  # of links

    @property
    def name(self) -> str:
        """For messages."""
        return repr(b"/".join(self.path)[:200].decode(errors="backslashreplace") or "/")


class Readable(Protocol):
    """What a stream is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Source(Protocol):
    """Plain bytes, from front to back."""

    def read(self, size: int, /) -> bytes:
        """Between one and `size` bytes; none at the end."""
        ...

    def exactly(self, size: int, /) -> bytes:
        """`size` bytes."""
        ...

    def skip(self, size: int, /) -> None:
        """Past `size` bytes."""
        ...


class Stream:
    """The plain bytes of a perhaps compressed file, counted and hashed.

    Args:
        raw: where they come from.
        raw_bytes: how many of it belong to the archive; None = until its end.
        bytes_max: how many may come out.
        zstd: makes a decompressor for zstd, where there is one.
    """

    def __init__(
        self,
        raw: Readable,
        *,
        raw_bytes: int | None = None,
        bytes_max: int = 1 << 40,
        zstd: Callable[[], Any] | None = None,
    ) -> None:
        self._raw = raw
        self._left = raw_bytes
        self._bytes_max = bytes_max
        self._digest = hashlib.sha256()
        self._buffer = b""
        self._at = 0  # in the buffer
        self.raw_count = 0
        self.count = 0  # of plain bytes that were taken out of the raw ones
        self._feed = b""
        self._make: Callable[[], Any] | None = None
        self._decompressor: Any = None
        self._start(zstd)

    @property
    def diff_id(self) -> str:
        """The digest of all that was read: the layer's identity, once it is drained."""
        return f"sha256:{self._digest.hexdigest()}"

    def read(self, size: int) -> bytes:
        """Between one and `size` bytes; none at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._more(), 0
        chunk = self._buffer[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def exactly(self, size: int) -> bytes:
        """`size` bytes (few: they are kept in memory).

        Raises:
            Refused: the stream ends before.
        """
        if len(self._buffer) - self._at >= size:
            self._at += size
            return self._buffer[self._at - size : self._at]
        parts = []
        while size:
            chunk = self.read(size)
            if not chunk:
                raise Refused("it ends in the middle of a file")
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Past `size` bytes."""
        while size:
            chunk = self.read(size)
            if not chunk:
                raise Refused("it ends in the middle of a file")
            size -= len(chunk)

    def drain(self) -> None:
        """To the end: what follows the archive counts for the digest."""
        while self.read(CHUNK_BYTES):
            pass

    def _start(self, zstd: Callable[[], Any] | None) -> None:
        self._feed = self._raw_read()
        while 0 < len(self._feed) < len(ZSTD) and (more := self._raw_read()):
            self._feed += more
        if self._feed.startswith(GZIP):
            self._make = lambda: zlib.decompressobj(wbits=31)
        elif self._feed.startswith(ZSTD):
            if zstd is None:
                raise Unreadable("it is compressed with zstd")
            self._make = zstd
        if self._make:
            self._decompressor = self._make()

    def _raw_read(self) -> bytes:
        wanted = RAW_BYTES if self._left is None else min(RAW_BYTES, self._left)
        data = self._raw.read(wanted) if wanted else b""
        if self._left is not None:
            self._left -= len(data)
        self.raw_count += len(data)
        return data

    def _more(self) -> bytes:
        data = self._decompressed() if self._make else (self._feed or self._raw_read())
        if not self._make:
            self._feed = b""
        self._digest.update(data)
        self.count += len(data)
        if self.count > self._bytes_max:
            raise Refused(f"it holds more than {self._bytes_max:,} bytes")
        if self.count > RATIO_FROM_BYTES and self.count > self.raw_count * RATIO_MAX:
            raise Refused(f"{self.raw_count:,} bytes of it become {self.count:,}: it is made to fill disks")
        return data

    def _decompressed(self) -> bytes:
        """A piece of plain bytes; b"" at the end. Several compressed streams in a row are one."""
        while True:
            decompressor = self._decompressor
            if decompressor is None or decompressor.eof:
                rest = self._feed or self._raw_read()
                if not rest.strip(b"\0"):
                    if not rest:
                        return b""
                    self._feed = b""  # zeros after the end: padding of tapes
                    continue
                assert self._make is not None
                self._decompressor, self._feed = self._make(), rest
                continue
            data, ended = self._step(decompressor)
            if data:
                return data
            if ended:
                raise Refused("its compressed data ends too early")

    def _step(self, decompressor: Any) -> tuple[bytes, bool]:
        """What comes out of what is at hand, and whether nothing can follow."""
        try:
            if hasattr(decompressor, "unconsumed_tail"):  # zlib hands back what it has not taken
                feed = self._feed or self._raw_read()
                data = decompressor.decompress(feed, CHUNK_BYTES)
                self._feed = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
                return data, not feed and not data and not decompressor.eof
            needs = decompressor.needs_input
            feed = (self._feed or self._raw_read()) if needs else b""
            data = decompressor.decompress(feed, CHUNK_BYTES)
            if needs:
                self._feed = b""
            if decompressor.eof:
                self._feed = decompressor.unused_data
            return data, needs and not feed and not data and not decompressor.eof
        except Exception as error:  # zlib.error, zstd.ZstdError, EOFError: all say that the bytes are not right
            raise Refused(f"its compressed data is damaged ({error})") from None


def entries(stream: Source) -> Iterator[Entry]:
    """The members of the archive. What the consumer has not read of a member's content is an error of the consumer."""
    pax: dict[bytes, bytes] = {}
    name = target = b""
    while True:
        block = _block(stream)
        if block is None:
            if pax or name or target:
                raise Refused("it ends after an extended header")
            return
        kind, size = _checked(block)
        if kind in b"xgLK":
            text = _extension(stream, size, kind)
            if kind == b"L":
                name = text.partition(b"\0")[0]
            elif kind == b"K":
                target = text.partition(b"\0")[0]
            elif kind == b"x":
                pax = _pax(text)
            elif {b"path", b"linkpath", b"size"} & set(_pax(text)):
                raise Refused("a global header changes the names of all files")
            continue
        entry = _entry(block, kind, size, name, target, pax)
        pax, name, target = {}, b"", b""
        yield entry
        stream.skip(-entry.size % BLOCK_BYTES)


def _block(stream: Source) -> bytes | None:
    """The next header; None at the end, which is two blocks of zeros, or just the end of the stream."""
    start = stream.read(BLOCK_BYTES)
    if not start:
        return None
    block = start if len(start) == BLOCK_BYTES else start + stream.exactly(BLOCK_BYTES - len(start))
    if block.strip(b"\0"):
        return block
    if rest := stream.read(BLOCK_BYTES):
        rest += stream.exactly(BLOCK_BYTES - len(rest))
    if rest.strip(b"\0"):
        raise Refused("files follow what looks like its end")
    return None


def _checked(block: bytes) -> tuple[bytes, int]:
    """Type and size of a header whose sum is right."""
    given = _number(block[148:156], "checksum")
    if given != sum(block) - sum(block[148:156]) + 8 * 32:
        raise Refused("a header's checksum is wrong")
    kind = block[156:157]
    size = _number(block[124:136], "size")
    if kind in (b"\0", b"7"):
        kind = FILE
    return kind, size


def _extension(stream: Source, size: int, kind: bytes) -> bytes:
    if size > EXTENDED_BYTES_MAX:
        raise Refused(f"an extended header says it has {size:,} bytes")
    text = stream.exactly(size)
    stream.skip(-size % BLOCK_BYTES)
    return text


def _entry(block: bytes, kind: bytes, size: int, name: bytes, target: bytes, pax: dict[bytes, bytes]) -> Entry:
    if any(key.startswith(b"GNU.sparse") for key in pax) or kind == b"S":
        raise Refused("it has sparse files, which images should not have")
    if not name:
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0]
        if prefix and block[257:263] == b"ustar\0":
            name = prefix + b"/" + name
    name = pax.get(b"path", name)
    target = pax.get(b"linkpath", target or block[157:257].partition(b"\0")[0])
    if kind == FILE and name.endswith(b"/"):
        kind = FOLDER  # as before 1988
    if kind not in (FILE, LINK, SYMLINK, CHARACTER, BLOCK, FOLDER, FIFO):
        raise Refused(f"{name[:200]!r} is of the unknown type {kind!r}")
    if kind == FILE:
        size = _decimal(pax[b"size"], "size") if b"size" in pax else size
    else:
        size = 0  # whatever it says: such entries have no content
    return Entry(
        path=split(name),
        kind=kind,
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=_decimal(pax[b"uid"], "uid") if b"uid" in pax else _number(block[108:116], "uid"),
        gid=_decimal(pax[b"gid"], "gid") if b"gid" in pax else _number(block[116:124], "gid"),
        size=size,
        mtime_ns=_time(pax[b"mtime"]) if b"mtime" in pax else _seconds(block[136:148]),
        target=target,
    )


def split(name: bytes) -> tuple[bytes, ...]:
    """The components of a path below the root.

    Raises:
        Refused: it is absolute, leads out, or is too long.
    """
    if len(name) > PATH_BYTES_MAX:
        raise Refused(f"a path has {len(name):,} bytes")
    if b"\0" in name:
        raise Refused(f"{name[:200]!r} has a zero byte")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if name.startswith(b"/") and parts:  # the root itself may be called so
        raise Refused(f"{name[:200]!r} is an absolute path")
    if b".." in parts:
        raise Refused(f"{name[:200]!r} leads out of the archive")
    if not name:
        raise Refused("a file has no name")
    if len(parts) > DEPTH_MAX:
        raise Refused(f"{name[:200]!r} is {len(parts)} folders deep")
    return parts


def _pax(text: bytes) -> dict[bytes, bytes]:
    """Records of the form b'<length> <key>=<value>\\n'."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        space = text.find(b" ", at, at + 10)
        length = _decimal(text[at:space], "length of a record") if space > at else 0
        record = text[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n") or at + length > len(text):
            raise Refused("an extended header is damaged")
        found[key] = value[:-1]
        at += length
    return found


def _number(field: bytes, what: str) -> int:
    """A header's number: octal digits, or binary with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if field[0] & 0x40 or value >> 62:
            raise Refused(f"a header's {what} is out of range")
        return value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise Refused(f"a header's {what} is not a number")
    return int(digits, 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise Refused(f"a header's {what} is not a number")
    return int(text)


def _seconds(field: bytes) -> int:
    if field[0] & 0x80 and field[0] & 0x40:
        return 0  # before 1970
    return min(_number(field, "time"), TIME_S_MAX) * 1_000_000_000


def _time(text: bytes) -> int:
    """Of a pax header: b'1700000000.123456789'; times before 1970 become 1970."""
    whole, _, part = text.lstrip(b"-").partition(b".")
    ns = min(_decimal(whole, "time"), TIME_S_MAX) * 1_000_000_000 + _decimal(part[:9].ljust(9, b"0"), "time")
    return 0 if text.startswith(b"-") else ns
