"""Prepares where a program is to run, so that nobody else sees it, and becomes that program.

    python .../runner/__main__.py prepared JSON        ([operations of runner.wall.ops, argv, joins, gate])

`joins`: descriptors of control groups that it enters. `gate`: one end of a socket, where it is to have a network
namespace of its own; -1: it stays in this one. It says GATE when the namespace is there, and waits for a byte, before
which its links are put in. Nothing, and it ends.
"""

from __future__ import annotations

import json
import os
import sys

from jitney.runner.wall import kernel
from jitney.runner.wall.ops import perform

GATE = b"n"
# Only the machine's own network namespace has these settings, says runsc, and refuses to work in it. Since Linux 6.12
# every namespace shows them. (They are those of the namespace that looks: so after it is entered.)
SETTINGS = "/proc/sys/net/core"


def main(text: str) -> None:
    """Does not return."""
    ops, argv, joins, gate = json.loads(text)
    for group in joins:
        os.write(group, b"0")
        os.close(group)
    kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    perform(ops)
    if gate >= 0:
        kernel.unshare(kernel.NEWNET)
        kernel.mount("none", SETTINGS, "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k")
        os.write(gate, GATE)
        if not os.read(gate, 1):
            sys.exit("whoever was to link its network has ended")
        os.close(gate)
    os.execvp(argv[0], argv)
