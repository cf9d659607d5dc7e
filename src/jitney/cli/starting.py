"""Starting the server before it is needed: while the command line still imports the SDK and the user's program.

This module imports next to nothing, since what it starts is what everything else will wait for.
"""

from __future__ import annotations

import os
import threading

from jitney.client import embedded
from jitney.errors import JitneyError
from jitney.wire.home import Home

FALSE = ("0", "false", "no", "off")


def begin() -> None:
    """Start the server of this folder on a thread, if none runs and it may be started.

    What goes wrong is told by whoever connects: it tries again.
    """
    home = Home.default()
    if os.environ.get("JITNEY_SERVER") or os.environ.get("JITNEY_AUTOSTART", "").lower() in FALSE:
        return
    if (home.root / "config.toml").exists():
        # Only then can it say otherwise, and only then is it worth the time to read it.
        from jitney.compose.config import read

        if not read(home)[0].client.autostart:
            return
    threading.Thread(target=_start, args=(home,), name="jitney-start", daemon=True).start()


def _start(home: Home) -> None:
    try:
        embedded.ensure_running(home)
    except (JitneyError, OSError):
        return
