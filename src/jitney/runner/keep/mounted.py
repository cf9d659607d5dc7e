"""Mounts what it is told, where nobody else sees it, and becomes another program.

python .../runner/__main__.py mounted JSON        ([operations of runner.wall.ops, argv])
"""

from __future__ import annotations

import json
import os

from jitney.runner.wall import kernel
from jitney.runner.wall.ops import perform


def main(text: str) -> None:
    """Does not return."""
    ops, argv = json.loads(text)
    kernel.unshare(kernel.NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    perform(ops)
    os.execvp(argv[0], argv)
