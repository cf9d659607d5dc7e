"""Functions: look up, bind, statistics, autoscaler."""

from __future__ import annotations

import msgspec

from jitney.ports.store import Store
from jitney.server.api.images import Images
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps, bind, bound_id
from jitney.server.fleet import Fleet
from jitney.server.state import Pool
from jitney.values.functions import Scaling
from jitney.wire import methods
from jitney.wire.messages import functions as fm
from jitney.wire.messages.apps import Done


class FunctionsApi:
    """Handlers of the function.* methods."""

    def __init__(self, *, apps: Apps, fleet: Fleet, store: Store, images: Images) -> None:
        self._apps = apps
        self._fleet = fleet
        self._store = store
        self._images = images

    def register(self, table: Table) -> None:
        """Answer the function.* methods."""
        table.on(methods.FUNCTION_GET, self.get)
        table.on(methods.FUNCTION_BIND, self.bind)
        table.on(methods.FUNCTION_STATS, self.stats)
        table.on(methods.FUNCTION_AUTOSCALER, self.autoscaler)

    async def get(self, peer: Peer, request: fm.FunctionGet, emit: Emit) -> fm.FunctionInfo:
        """A function by name."""
        return self._info(self._apps.function(self._apps.find(request.app), request.name))

    async def bind(self, peer: Peer, request: fm.FunctionBind, emit: Emit) -> fm.FunctionInfo:
        """A variant of a function: a pool of its own."""
        pool = self._apps.pool(request.function_id)
        function_id = bound_id(request.function_id, request.overrides)
        spec = bind(pool.spec, request.overrides)
        await self._store.functions.put(pool.app_id, {function_id: spec})
        return self._info(self._apps.add_pool(pool.app_id, function_id, spec))

    async def stats(self, peer: Peer, request: fm.FunctionRef, emit: Emit) -> fm.FunctionStats:
        """What a pool holds now."""
        pool = self._apps.pool(request.function_id)
        return fm.FunctionStats(
            backlog=len(pool.queue) + pool.waiting,
            num_total_runners=len(pool.containers),
            num_running_inputs=pool.running,
        )

    async def autoscaler(self, peer: Peer, request: fm.AutoscalerUpdate, emit: Emit) -> Done:
        """Change a pool's bounds, until the next deploy."""
        pool = self._apps.pool(request.function_id)
        changes = {
            name: value
            for name in ("min_containers", "max_containers", "buffer_containers", "scaledown_window_ms")
            if (value := getattr(request, name)) is not None
        }
        pool.scaling = Scaling(**{**msgspec.structs.asdict(pool.scaling), **changes})
        self._fleet.wake(pool)
        return Done()

    def _info(self, pool: Pool) -> fm.FunctionInfo:
        image = self._images.built.get(pool.spec.image_id)
        return fm.FunctionInfo(
            function_id=pool.function_id,
            app_id=pool.app_id,
            name=pool.spec.name,
            is_class=pool.spec.is_class,
            methods=pool.spec.methods,
            python_version=image.python_version if image else "",
            cloudpickle_version=image.cloudpickle_version if image else "",
            scope=pool.spec.scope,
        )
