"""Signals as a program expects them that is about to be started."""

from __future__ import annotations

import signal


def reset() -> None:
    """Nothing is handled, ignored or blocked.

    What is ignored is inherited, also by programs: commands of a server that was started by `nohup` would not end with
    their terminals.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
