"""Containers for people: they run nothing by themselves and are there for commands, for as long as somebody holds them.

Such a container has a pool of its own that the router does not know. So nothing scales it, gives it inputs, or takes
its place for another function; everything else (placement, start-up timeout, the end, the record) is as for any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from jitney.core import placement
from jitney.errors import InvalidError, JitneyError, ResourceExhaustedError, StartupError, of_start
from jitney.runner.failures import decode_failure
from jitney.server.fleet import Fleet
from jitney.server.state import Container, Pool
from jitney.values import ids
from jitney.values.functions import FunctionSpec, MethodSpec, Scaling

PLACE_WAIT_S = 20.0  # for room, or for a worker
GRACE_MS = 2_000
HELD_MAX = 64


class Held:
    """Opens such containers, and ends them."""

    def __init__(self, *, fleet: Fleet, entropy: Callable[[int], bytes]) -> None:
        self._fleet = fleet
        self._entropy = entropy
        self._waiting: dict[str, asyncio.Event] = {}  # by container: something has become of it
        self._changed = asyncio.Event()
        fleet.on_ended.append(self._ended)
        fleet.on_ready.append(self._wake)

    async def open(self, spec: FunctionSpec, on_ready: Callable[[Container], None], *, app_id: str = "") -> Container:
        """Start a container with a function's surroundings; gives it when it has ended, as it does when cancelled.

        `app_id`: whose secrets it may have.

        Raises:
            ResourceExhaustedError: no machine has room for it.
            StartupError: it could not be started.
        """
        if len(self._waiting) >= HELD_MAX:
            raise ResourceExhaustedError(f"{HELD_MAX} containers are held open already", hint="end one of them first")
        container = await self._placed(held_pool(spec, self._entropy, app_id))
        changed = self._waiting[container.id] = asyncio.Event()
        told = False
        try:
            while container.ended_at_ms is None:
                if container.ready_at_ms is not None and not told:
                    told = True
                    on_ready(container)
                changed.clear()
                await changed.wait()
        finally:
            del self._waiting[container.id]
            if container.ended_at_ms is None:
                self._fleet.stop(container, "nobody holds it any more", grace_ms=GRACE_MS)
        if not told:
            raise failed_start(container)
        return container

    async def _placed(self, pool: Pool) -> Container:
        loop = asyncio.get_running_loop()
        until = loop.time() + PLACE_WAIT_S
        while True:
            container = self._fleet.scaler.start_one(pool, self._fleet.now_ms())
            if container is not None:
                return container
            nodes = [node.view() for node in self._fleet.nodes.values()]
            placed = placement.place(pool.spec.resources, nodes)
            if loop.time() >= until or (isinstance(placed, placement.Unplaceable) and placed.never):
                raise ResourceExhaustedError(
                    f"no machine has room for the container\n{pool.why}", hint="ask for less, or end something else"
                )
            self._changed.clear()  # a container that gives way, or a worker that comes, makes room
            waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._fleet.wait_node(1.0))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _ended(self, container: Container) -> None:
        self._changed.set()
        self._wake(container)

    def _wake(self, container: Container) -> None:
        event = self._waiting.get(container.id)
        if event is not None:
            event.set()


def held_pool(spec: FunctionSpec, entropy: Callable[[int], bytes], secrets_of: str = "") -> Pool:
    """A pool for one container that has a function's surroundings and none of its code."""
    if not ids.is_id(spec.image_id, ids.IMAGE):
        raise InvalidError("a container needs an image", hint="build one first")
    bare = msgspec.structs.replace(
        spec,
        module="",
        qualname="",
        main_module=False,
        pickled=b"",
        parameters=b"",
        is_class=False,
        methods=(MethodSpec(),),
        scaling=Scaling(),
        concurrency=None,
        batching=None,
        single_use=False,
        snapshot=False,
        checkpoint=False,
    )
    function_id = ids.make(ids.FUNCTION, entropy(ids.ENTROPY_BYTES))
    own = ids.make(ids.APP, entropy(ids.ENTROPY_BYTES))
    return Pool(function_id, own, bare, is_held=True, secrets_of=secrets_of)


def failed_start(container: Container) -> JitneyError:
    """Why a container was never ready."""
    if container.pool.failure:
        failed = decode_failure(container.pool.failure, rebuild=False)
        return of_start(failed.type_name, failed.module, failed.message)
    how = container.exit.describe() if container.exit is not None else container.stop_reason or "it was lost"
    return StartupError(f"the container ended before it was ready: {how}")
