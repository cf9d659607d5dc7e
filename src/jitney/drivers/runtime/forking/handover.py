"""Variables on their way into a container: through a pipe that a template passes on and does not read.

What a template has in memory, all that it forks later have too; and it serves functions that are given other secrets.
So the values are not in the message that asks for a fork: the fork reads them when it is one (runner.process).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping


class Handover:
    """One set of variables, and the end of the pipe that they can be read from: for one reader."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(json.dumps(dict(variables), separators=(",", ":")).encode())
        self.far_end, self._near_end = os.pipe()
        os.set_blocking(self._near_end, False)
        self._write()

    def close_far_end(self) -> None:
        """The fork has it, or never will."""
        if self.far_end >= 0:
            os.close(self.far_end)
            self.far_end = -1

    def _write(self) -> None:
        """As much as fits; the rest as it is read. A reader that has ended needs nothing any more."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._near_end, self._rest) :]
        except BlockingIOError:
            self._loop.add_writer(self._near_end, self._write)
            return
        except OSError:
            pass
        self._loop.remove_writer(self._near_end)
        os.close(self._near_end)
        self._rest = memoryview(b"")
