"""A rehearsal leaves the process as it was."""

import os
import signal

import pytest

from jitney.runner import process
from jitney.runner.rehearsal import VARIABLE, rehearse


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler])
def test_nothing_is_left(before):
    was = signal.signal(signal.SIGURG, before)
    try:
        descriptors = set(os.listdir("/dev/fd"))
        environment = dict(os.environ)
        rehearse()
        assert signal.getsignal(signal.SIGURG) is before
        assert set(os.listdir("/dev/fd")) == descriptors
        assert dict(os.environ) == environment
        assert VARIABLE not in os.environ
    finally:
        signal.signal(signal.SIGURG, was)


def test_numbers_differ_after_openssl_was_made_ready():
    ssl = pytest.importorskip("_ssl")
    process.prepare_reseed()
    drawn = []
    for _ in range(2):
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            process.reseed()
            os.write(theirs, ssl.RAND_bytes(16))
            os._exit(0)
        os.waitpid(pid, 0)
        drawn.append(os.read(ours, 16))
        os.close(ours)
        os.close(theirs)
    assert drawn[0] != drawn[1]
