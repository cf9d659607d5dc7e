"""Frames on a stream socket: a little-endian u32 length, then that many bytes.

Sans-I/O: `Splitter.feed` takes whatever the socket gave and returns whole frames. Framing by `buffer += data` costs
16 ms for 1 MiB; here a frame that arrives in one read is cut out with one copy.

`Inbox` is for who can receive into memory of its own: a large frame is received where it stays, with no copy after that
of the kernel.
"""

from __future__ import annotations

import struct

from jitney.errors import InvalidError
from jitney.values.calls import FRAME_BYTES_MAX

LENGTH = struct.Struct("<I")
INBOX_BYTES = 64 * 1024  # a frame that does not fit has memory of its own


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    if len(body) > FRAME_BYTES_MAX:
        raise InvalidError(f"a frame of {len(body):,} bytes is over the limit of {FRAME_BYTES_MAX:,}")
    return LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into frames.

    >>> splitter = Splitter()
    >>> splitter.feed(frame(b"a") + frame(b"bc")[:3]), splitter.feed(frame(b"bc")[3:])
    ([b'a'], [b'bc'])
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = LENGTH.size

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            InvalidError: a length over the limit; the stream cannot be trusted any more.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return []
            data, self._rest = bytes(rest), bytearray()
        frames: list[bytes] = []
        at, end = 0, len(data)
        self._need = LENGTH.size
        while end - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data, at)
            if length > FRAME_BYTES_MAX:
                raise InvalidError(f"a frame of {length:,} bytes is over the limit of {FRAME_BYTES_MAX:,}")
            if end - at - LENGTH.size < length:
                self._need = LENGTH.size + length
                break
            frames.append(bytes(data[at + LENGTH.size : at + LENGTH.size + length]))
            at += LENGTH.size + length
        if at < end:
            self._rest = bytearray(data[at:])
        return frames


class Inbox:
    """Frames out of memory that a socket fills: receive into `room()`, and say how much with `filled`.

    >>> inbox = Inbox()
    >>> inbox.room()[:5] = frame(b"a")
    >>> inbox.filled(5)
    [b'a']
    """

    def __init__(self) -> None:
        self._small = memoryview(bytearray(INBOX_BYTES))
        self._end = 0  # of what is in it
        self._large: memoryview | None = None  # a frame of which a part is missing
        self._got = 0

    @property
    def is_large(self) -> bool:
        """Whether what is missing of a large frame comes next: then `room` is for that alone."""
        return self._large is not None

    def room(self) -> memoryview:
        """Where what comes next belongs; never empty."""
        return self._small[self._end :] if self._large is None else self._large[self._got :]

    def filled(self, count: int) -> list[bytes | memoryview]:
        """The frames that are whole now: one that came into memory of its own is a view of that.

        Raises:
            InvalidError: a length over the limit; the stream cannot be trusted any more.
        """
        if self._large is not None:
            self._got += count
            if self._got < len(self._large):
                return []
            large, self._large = self._large, None
            return [large]
        frames: list[bytes | memoryview] = []
        small, at, end = self._small, 0, self._end + count
        while end - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(small, at)
            if length > FRAME_BYTES_MAX:
                raise InvalidError(f"a frame of {length:,} bytes is over the limit of {FRAME_BYTES_MAX:,}")
            start, stop = at + LENGTH.size, at + LENGTH.size + length
            if stop <= end:
                frames.append(bytes(small[start:stop]))
                at = stop
                continue
            if LENGTH.size + length > INBOX_BYTES:
                self._large, self._got = memoryview(bytearray(length)), end - start
                self._large[: self._got] = small[start:end]
                at = end
            break
        if at and at < end:
            small[: end - at] = bytes(small[at:end])
        self._end = end - at
        return frames
