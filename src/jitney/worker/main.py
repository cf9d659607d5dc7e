"""The worker as a process. Who starts it hands in the drivers, and sees to it that there is one per server folder."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal

from jitney.ports.buckets import BucketMounter
from jitney.ports.builder import ImageBuilder
from jitney.ports.runtime import Runtime
from jitney.ports.trees import Trees
from jitney.wire.home import Home
from jitney.worker import node
from jitney.worker.agent import Agent
from jitney.worker.collecting import Collecting
from jitney.worker.pool import IDLE_MS, TemplatePool
from jitney.worker.state import WorkerState

MEMORY_SHARE = 4  # one part in so many of the machine's memory is for templates


def main(
    home: Home,
    runtime: Runtime,
    builder: ImageBuilder,
    trees: Trees | None = None,
    *,
    mounter: BucketMounter | None = None,
    template_idle_ms: int = IDLE_MS,
    template_memory_mib: int = 0,
    images_keep_ms: int = 0,
) -> int:
    """Run the worker of `home` until the server shuts it down, SIGTERM comes, or no server came for five minutes.

    Its log goes to stderr. Gives the exit code. `template_memory_mib` is for all warm templates; 0: a share of what
    there is. `images_keep_ms`: images that were not used for so long are removed; 0: none is.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    leave_session()
    raise_file_limit()
    memory_mib = template_memory_mib or node.memory_mib() // MEMORY_SHARE
    pool = TemplatePool(idle_ms=template_idle_ms, memory_kib=memory_mib * 1024)
    state = WorkerState(pool, Collecting(images_keep_ms))
    asyncio.run(serve(Agent(home, runtime, builder, state=state, trees=trees, mounter=mounter)))
    return 0


async def serve(agent: Agent) -> None:
    """Run an agent; SIGTERM and SIGINT stop it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it
    await agent.run()


def leave_session() -> None:
    """Be out of reach of the terminal, and of signals to the group, of whoever started us."""
    try:
        os.setsid()
    except PermissionError:
        pass  # we lead a group already


def raise_file_limit() -> None:
    """As many files as the system lets us have: each container takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # "no limit" is over what macOS takes
