"""Ctrl-C during a run: the first stops it in order and says so, the second leaves at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stopping(message: str) -> Iterator[None]:
    """Inside the block the first Ctrl-C raises KeyboardInterrupt, after `message`; a second one ends the process.

    Only in the main thread of a process that nobody else handles Ctrl-C for.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    told = False

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            # Not by an exception: it is the clean-up that takes too long, and it must not go on in `finally` blocks.
            os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"\nleft at once\n")
            os._exit(INTERRUPTED)
        told = True
        os.write(2, f"\n{message}\n".encode())
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
