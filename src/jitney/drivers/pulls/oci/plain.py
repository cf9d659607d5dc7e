"""Archives that are compressed as a whole are made plain first: they are read here and there, not front to back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from jitney.drivers.pulls.oci.finishing import finish
from jitney.errors import InvalidError, UnsupportedError
from jitney.runner.tarstream import CHUNK_BYTES, Refused, Stream, Unreadable


async def make_plain(path: str, copy: Path, bytes_max: int) -> None:
    """Write what the archive holds to a new file.

    Raises:
        InvalidError: it is damaged, or made to fill disks.
        UnsupportedError: its compression is not known here.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(source, "rb", buffering=0) as file, copy.open("xb") as target:
        try:
            stream = await finish(asyncio.to_thread(Stream, file, bytes_max=bytes_max))
            while chunk := await finish(asyncio.to_thread(stream.read, CHUNK_BYTES)):
                await finish(asyncio.to_thread(target.write, chunk))
        except Refused as error:
            raise InvalidError(f"the archive {path} is refused: {error}", hint="make it again") from None
        except Unreadable as error:
            raise UnsupportedError(
                f"the archive {path} cannot be read: {error}", hint="unpack it with `zstd -d`"
            ) from None
