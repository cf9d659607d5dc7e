"""What time does to what the server keeps: and that a disk or bucket that fails does not end it."""

import asyncio
from types import SimpleNamespace

import pytest

from jitney.drivers.store.memory import MemoryStore
from jitney.errors import BucketUnavailableError, StorageError
from jitney.server import tidying
from jitney.wire.home import Home


class Failing:
    """Logs and sources that fail, so often, and say when they did not."""

    def __init__(self, errors):
        self.errors = list(errors)
        self.swept = asyncio.Event()

    async def sweep(self, keep, before_ms):
        if self.errors:
            raise self.errors.pop()
        self.swept.set()
        return 0


@pytest.mark.parametrize(
    "error", [BucketUnavailableError("as planned"), StorageError("as planned"), OSError(5, "as planned")]
)
def test_what_fails_is_tried_again(tmp_path, monkeypatch, caplog, error):
    monkeypatch.setattr(tidying, "SWEEP_S", 0)

    async def story():
        kept = Failing([error, error])
        fleet = SimpleNamespace(wall_ms=lambda: 10**12, router=SimpleNamespace(pools={}))
        home = Home(tmp_path)
        home.blobs.mkdir()
        made = tidying.Tidying(
            home=home,
            store=MemoryStore(),
            logs=Failing([]),
            sources=kept,
            fleet=fleet,
            apps=SimpleNamespace(running=[]),
        )
        task = asyncio.create_task(made.run())
        await asyncio.wait_for(kept.swept.wait(), 10)
        task.cancel()

    asyncio.run(story())
    assert caplog.text.count("not all was swept") == 2
