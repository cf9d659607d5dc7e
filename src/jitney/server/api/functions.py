"""Functions: look up, bind, statistics, autoscaler."""

from __future__ import annotations

import msgspec

from jitney.errors import PermissionDeniedError
from jitney.ports.store import Store
from jitney.server.api.images import Images
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps, bind, bound_id
from jitney.server.fleet import Fleet
from jitney.server.state import Pool
from jitney.server.vault import Vault, bucket_refs, with_refs
from jitney.values.functions import FunctionSpec, Scaling
from jitney.values.secrets import SecretRef
from jitney.wire import methods
from jitney.wire.messages import functions as fm
from jitney.wire.messages.apps import Done


class FunctionsApi:
    """Handlers of the function.* methods."""

    def __init__(self, *, apps: Apps, fleet: Fleet, store: Store, images: Images, vault: Vault) -> None:
        self._apps = apps
        self._fleet = fleet
        self._store = store
        self._images = images
        self._vault = vault

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
        overrides = request.overrides
        if overrides.secrets:
            _check_may_have(peer, overrides.secrets, pool.spec)
            refs = await self._vault.settle_refs(pool.app_id, overrides.secrets, request.secrets)
            overrides = msgspec.structs.replace(overrides, secrets=refs)
        if overrides.buckets:
            named = bucket_refs(overrides.buckets)
            _check_may_have(peer, named, pool.spec)
            settled = await self._vault.settle_refs(pool.app_id, named, request.secrets)
            overrides = msgspec.structs.replace(overrides, buckets=with_refs(overrides.buckets, settled))
        function_id = bound_id(request.function_id, overrides)
        spec = bind(pool.spec, overrides)
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


def _check_may_have(peer: Peer, refs: tuple[SecretRef, ...], declared: FunctionSpec) -> None:
    """Code in a container cannot help itself to secrets: it may bind those that its developer gave the function.

    Raises:
        PermissionDeniedError: it asks for another.
    """
    own = {ref.name for ref in declared.secrets}
    others = [ref.name for ref in refs if ref.name and ref.name not in own]
    if peer.role == "container" and others:
        raise PermissionDeniedError(
            f"a container may not give {declared.name} the secret {others[0]!r}",
            hint="declare it: @app.function(secrets=[...]), or call `with_options` outside of containers",
        )
