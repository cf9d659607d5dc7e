"""Run as a process by test_volumes: puts files and commits them, and dies at a given step on the disk.

    python committing_child.py FOLDER STEP

A step is a call that changes or syncs the disk, before and after it is done. STEP 0 counts them and prints the number.
"""

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

from jitney.core.volumes import whole
from jitney.drivers.contents.localdir import LocalContents, files
from jitney.drivers.store.sqlite import SqliteStore
from jitney.ports.contents import Part
from jitney.server.objects import Objects
from jitney.server.volumes import Volumes
from jitney.values.objects import ObjectKind
from jitney.values.volumes import BLOCK_BYTES, WORKSPACE, Entry
from jitney.wire.messages.objects import ObjectOpen

STEPS = ["write_at", "sync_files", "sync_folders", "begin_writing"]
count = 0
stop_at = int(sys.argv[2])


def step():
    global count
    count += 1
    if count == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)


def around(function):
    def call(*given, **options):
        step()
        found = function(*given, **options)
        step()
        return found

    return call


class Stepping(sqlite3.Connection):
    def execute(self, sql, *given):
        if sql.startswith(("INSERT", "UPDATE", "COMMIT", "DELETE")):
            step()
            found = super().execute(sql, *given)
            step()
            return found
        return super().execute(sql, *given)


async def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(folder / "store.sqlite", ballast_bytes=0, connection=Stepping)
    contents = LocalContents(folder / "volumes")
    objects = Objects(store, lambda: 1, os.urandom)
    volumes = Volumes(objects=objects, store=store, contents=contents, now_ms=lambda: 1, run=asyncio.ensure_future)
    for name in STEPS:
        setattr(files, name, around(getattr(files, name)))
    os.replace = around(os.replace)
    request = ObjectOpen(kind=ObjectKind.VOLUME, name="v", create_if_missing=True)
    volume_id = (await objects.open(request)).object_id
    large = b"%08d" % 7 * (BLOCK_BYTES // 8) + b"the end"
    small = [b"small %d" % n for n in range(3)]
    content = whole(large)
    missing = await volumes.missing([content, *map(whole, small)])
    for position in missing[content.digest]:
        data = large[position * BLOCK_BYTES :][:BLOCK_BYTES]
        await contents.put(WORKSPACE, [Part(content.digest, position, data)])
    await contents.put(WORKSPACE, [Part(whole(data).digest, 0, data) for data in small])
    named = [("large", large), *((f"small/{n}", data) for n, data in enumerate(small))]
    puts = [Entry(path=p, size=len(d), digest=whole(d).digest, blocks=whole(d).blocks) for p, d in named]
    await volumes.commit(volume_id, None, puts, [], key="k")
    os.write(1, b"acked\n")
    await store.close()
    if not stop_at:
        os.write(1, b"%d\n" % count)


asyncio.run(main(Path(sys.argv[1])))
