"""A server on a thread of this process, for tests that use it as a program would."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from tests.server.conftest import SECRET, serving


class LiveServer:
    """Serves the folder until `stop`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(SECRET)
        (folder / "blobs").mkdir(exist_ok=True)
        self.folder = folder
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.server: Any = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._end, self.loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving(self.folder) as (self.server, _):
            self._ready.set()
            await self._end.wait()

    def stop(self) -> None:
        """End it."""
        assert self.loop is not None
        assert self._end is not None
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def on_loop(self, action: Any) -> Any:
        """What `action()` gives, called on the server's loop."""
        assert self.loop is not None

        async def call() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)
