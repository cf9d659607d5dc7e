"""A key that a command gives: a program that asks a vault or a key management service, whichever it is.

    ["vault", "kv", "get", "-mount=secret", "-field=key", "jitney"]
    ["aws", "kms", "decrypt", "--ciphertext-blob", "fileb:///etc/jitney/key.sealed", "--query", "Plaintext",
     "--output", "text"]

It prints 32 bytes, as they are or in Base64. They are kept in memory, and nowhere else; the command runs once for each
start of the server that needs them. There is no shell between, it gets no input, and it has its time and its room.
What it printed is in no message, and what it says on its standard error is.
"""

from __future__ import annotations

import base64
import binascii
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from jitney.core.sealing import KEY_BYTES
from jitney.errors import EncryptionKeyError

TIMEOUT_S = 30.0
OUTPUT_BYTES_MAX = 4 * 1024
SAID_BYTES_MAX = 64 * 1024
SAID_CHARS_SHOWN = 500
READ_BYTES = 16 * 1024


class KeyCommand:
    """See the module. Implements `file.Cover`. `option`: what it is called where it is configured."""

    def __init__(self, argv: Sequence[str], *, option: str, timeout_s: float = TIMEOUT_S) -> None:
        self._argv = tuple(argv)
        self._timeout_s = timeout_s
        self._key: bytes | None = None
        self._asking = threading.Lock()
        self.name = option

    def __repr__(self) -> str:
        return f"KeyCommand({self._argv[:1]!r})"

    def key(self) -> bytes:
        """The key; blocks while the command runs.

        Raises:
            EncryptionKeyError: it gives none.
        """
        with self._asking:
            if self._key is None:
                self._key = self._ask()
            return self._key

    def _ask(self) -> bytes:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,  # a group of its own, so that all of it can be ended
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self._unusable(
                f"cannot be run ({reason})", f"correct `{self.name}`, or install its program"
            ) from None
        with process:
            try:
                printed, said = self._read(process)
            finally:
                _end(process)
        if process.returncode:
            how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            raise self._unusable(f"failed ({how}): {_shown(said, printed)}", "run it by hand, as the server's user")
        key = decoded(printed)
        if key is None:
            raise self._unusable(
                f"printed {len(printed):,} bytes, which are no key",
                f"have it print {KEY_BYTES} bytes, as they are or in Base64, and nothing else",
            )
        return key

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """What it printed, and what it said on standard error, when it has ended."""
        assert process.stdout is not None
        assert process.stderr is not None
        printed, said = bytearray(), bytearray()
        deadline = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ, printed)
            ready.register(process.stderr, selectors.EVENT_READ, said)
            while ready.get_map():
                events = ready.select(max(0.0, deadline - time.monotonic()))
                if not events and time.monotonic() >= deadline:
                    raise self._late(said, printed)
                for found, _ in events:
                    data = os.read(found.fd, READ_BYTES)
                    if not data:
                        ready.unregister(found.fileobj)
                    found.data.extend(data)
                del said[:-SAID_BYTES_MAX]
                if len(printed) > OUTPUT_BYTES_MAX:
                    raise self._unusable(
                        f"printed more than {OUTPUT_BYTES_MAX:,} bytes", f"have it print the {KEY_BYTES} bytes of a key"
                    )
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._late(said, printed) from None
        return bytes(printed), bytes(said)

    def _late(self, said: bytearray, printed: bytearray) -> EncryptionKeyError:
        return self._unusable(
            f"did not end within {self._timeout_s:g} s: {_shown(said, printed)}",
            "see that it needs no answer from a person, and that its service can be reached from here",
        )

    def _unusable(self, why: str, remedy: str) -> EncryptionKeyError:
        program = self._argv[0] if self._argv else ""
        return EncryptionKeyError(f"the command of the secrets' key, {program!r} (`{self.name}`), {why}", hint=remedy)


def decoded(printed: bytes) -> bytes | None:
    """The key that was printed, if it is one.

    >>> decoded(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\\n") == bytes(32)
    True
    """
    if len(printed) == KEY_BYTES:
        return printed
    try:
        key = base64.b64decode(b"".join(printed.split()), validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None


def _shown(said: bytes | bytearray, printed: bytes | bytearray) -> str:
    """The end of what it said, on one line; what it printed is taken out."""
    secret = bytes(printed).strip()
    text = bytes(said).replace(secret, b"***") if secret else bytes(said)
    words = " ".join("".join(c if c.isprintable() else " " for c in text.decode("utf-8", "replace")).split())
    return words[-SAID_CHARS_SHOWN:] or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of it, and of what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
