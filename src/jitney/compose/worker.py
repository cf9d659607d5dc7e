"""The worker's process, put together: `python -m jitney.compose.worker HOME`.

It holds `worker.lock` while it lives. The server looks there before it starts one: a worker that outlived the last
server is taken over, with its containers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jitney.compose import folder, registry
from jitney.compose.config import Config, load
from jitney.wire.home import Home


def run(home: Home, config: Config) -> int:
    """Run the worker of a folder until it is told to stop; the exit code."""
    folder.prepare(home)
    lock = folder.worker_lock(home)
    if not lock.try_acquire():
        sys.stderr.write(f"a worker already runs in {home.root} (pid {lock.holder()})\n")
        return 0
    from jitney.worker.main import main as work

    try:
        runtime, builder = registry.worker(home, config.worker, config.server.isolation)
        return work(
            home,
            runtime,
            builder,
            registry.trees(home, config.server),
            mounter=registry.bucket_mounter(home, config.worker),
            template_idle_ms=config.worker.template_idle_ms,
            template_memory_mib=config.worker.template_memory_mib,
            images_keep_ms=config.worker.images_keep_ms,
        )
    finally:
        lock.release()


def main(arguments: list[str]) -> int:
    """The process that the server starts."""
    home = Home(Path(arguments[0]))
    return run(home, load(home))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
