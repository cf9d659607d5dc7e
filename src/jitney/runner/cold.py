"""One container in a process of its own, without forking: for modules whose import starts threads.

    python -m jitney.runner.cold FD          (see template_protocol; by path: python .../runner/__main__.py)

A fork would have the locks of those threads, but not the threads.
"""

from __future__ import annotations

import os
import signal
import sys

from jitney.runner import main as container
from jitney.runner import process, template_protocol
from jitney.runner.boot import Control, start
from jitney.runner.failures import format_traceback


def main() -> int:
    """Be a container, as told on the control socket whose number is the first argument. Does not return."""
    process.prepare_prctl()
    control = Control(int(sys.argv[1]))
    module, messages = start(control, is_cold=True)
    while not messages:
        messages = control.receive()
        if control.ended:
            return 0
    message = messages[0]
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


if __name__ == "__main__":
    # As itself, not as `__main__`: the user's module may take that name.
    from jitney.runner.cold import main as canonical_main

    sys.exit(canonical_main())
