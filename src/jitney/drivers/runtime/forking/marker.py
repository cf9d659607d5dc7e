"""What tells the processes of one server folder from all others."""

from __future__ import annotations

import os
from hashlib import sha256

from jitney.wire.home import Home


def marker_of(home: Home) -> str:
    """What the environment of every template of this server folder holds (see leftovers)."""
    return sha256(os.fsencode(home.root)).hexdigest()[:16]
