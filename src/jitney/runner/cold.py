"""One container in a process of its own, without forking: for modules whose import starts threads.

    python -m jitney.runner.cold FD          (see template_protocol; by path: python .../runner/__main__.py)

A fork would have the locks of those threads, but not the threads. Where it is wanted, such a process is written down
after the import (runner.pause), and others are made from that.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from jitney.runner import main as container
from jitney.runner import process, template_protocol
from jitney.runner.boot import Control, start
from jitney.runner.failures import format_traceback
from jitney.runner.pause import pause, refresh


def main() -> int:
    """Be a container, as told on the control socket whose number is the first argument. Does not return."""
    process.prepare_prctl()
    before = dict(os.environ)
    control = Control(int(sys.argv[1]))
    module, messages = start(control, is_cold=True)
    message = None
    while message is None or message["kind"] != template_protocol.FORK:
        message = _next(control, messages)
        if message is None:
            return 0
        if message["kind"] == template_protocol.PAUSE:
            control = pause(control, str(message["door"]))
        elif message["kind"] == template_protocol.RESUME:
            refresh(before, message["env"])
    control.send(template_protocol.FORKED, container=message["container"], pid=os.getpid(), ms=0.0)
    control.sock.close()
    code = 1
    try:
        if os.getsid(0) != os.getpid():
            os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        process.adopt_orphans()
        process.set_up(message, message["stdout"], message["stderr"])
        code = container.run(message["config"], module)
    except BaseException as error:
        os.write(2, format_traceback(error).encode(errors="replace"))
    process.end(code)
    return code


def _next(control: Control, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The next message; None at the end."""
    while not messages:
        messages += control.receive()
        if control.ended:
            return None
    return messages.pop(0)


if __name__ == "__main__":
    # As itself, not as `__main__`: the user's module may take that name.
    from jitney.runner.cold import main as canonical_main

    sys.exit(canonical_main())
