"""A server with no worker on the folder that is given, until it is killed: `ready` when it serves."""

import asyncio
import sys
from pathlib import Path

from jitney.drivers.store.sqlite import SqliteStore
from tests.server.conftest import SECRET, serving


async def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(SECRET)
    (folder / "blobs").mkdir(exist_ok=True)
    async with serving(folder, store=SqliteStore(folder / "store.sqlite", ballast_bytes=0)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1])))
