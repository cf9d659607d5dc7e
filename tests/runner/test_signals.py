"""What a program inherits of the signals of whoever starts it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

PROGRAM = """
import os, signal
from jitney.runner import signals
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
if RESETS:
    signals.reset()
os.execvp("grep", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
"""


OF_LIBC = 1 << 31 | 1 << 32  # 32 and 33: a C library keeps them, and lets nobody change or ignore them


def inherited(resets):
    """Which signals a program finds blocked and ignored, as masks."""
    source = PROGRAM.replace("RESETS", str(resets))
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    return {line.split(":")[0]: int(line.split()[1], 16) & ~OF_LIBC for line in found.splitlines()}


def test_nothing_is_ignored_or_blocked():
    """But for those of the C library, which may have come from further up (some supervisors ignore all 64)."""
    assert inherited(resets=True) == {"SigBlk": 0, "SigIgn": 0}
    found = inherited(resets=False)
    assert found["SigIgn"], "what is ignored is inherited"
    assert found["SigBlk"]
