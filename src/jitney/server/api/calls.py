"""Calls: spawn, outputs, cancel, list, show."""

from __future__ import annotations

from jitney.errors import NotFoundError
from jitney.ports.store import Store
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.apps import Apps
from jitney.server.durable import Durable
from jitney.server.fleet import Fleet
from jitney.server.router import Router
from jitney.server.state import Call
from jitney.values import ids
from jitney.values.calls import CallRecord, Status
from jitney.wire import methods
from jitney.wire.messages import calls as cm
from jitney.wire.messages.apps import Done

SHOWN_INPUTS = 100
LIST_MAX = 1_000


class CallsApi:
    """Handlers of the call.* methods."""

    def __init__(self, *, router: Router, durable: Durable, store: Store, apps: Apps, fleet: Fleet) -> None:
        self._router = router
        self._durable = durable
        self._store = store
        self._apps = apps
        self._fleet = fleet

    def register(self, table: Table) -> None:
        """Answer the call.* methods."""
        table.on(methods.CALL_SPAWN, self.spawn)
        table.on(methods.CALL_OUTPUTS, self.outputs)
        table.on(methods.CALL_CANCEL, self.cancel)
        table.on(methods.CALL_LIST, self.listed)
        table.on(methods.CALL_SHOW, self.show)

    async def spawn(self, peer: Peer, request: cm.CallSpawn, emit: Emit) -> cm.CallSpawned:
        """Record inputs; the answer means that they are on disk."""
        return await self._durable.spawn(request)

    async def outputs(self, peer: Peer, request: cm.CallOutputs, emit: Emit) -> cm.CallOutputsAnswer:
        """Results of a durable call."""
        return await self._durable.outputs(request)

    async def cancel(self, peer: Peer, request: cm.CallCancel, emit: Emit) -> Done:
        """End a call of either kind."""
        call = self._router.calls.get(request.call_id)
        if call is not None and not call.kind.is_durable:
            self._router.cancel(call, terminate_containers=request.terminate_containers)
        else:
            await self._durable.cancel(
                request.call_id, self._fleet.wall_ms(), terminate_containers=request.terminate_containers
            )
        return Done()

    async def listed(self, peer: Peer, request: cm.CallList, emit: Emit) -> cm.CallListed:
        """Calls of both kinds, newest first: durable ones as recorded, connected ones that are not long over."""
        app_id = ""
        if request.app:
            app_id = request.app if ids.is_id(request.app, ids.APP) else self._apps.find(request.app).record.app_id
        limit = max(1, min(request.limit, LIST_MAX))
        connected = [call.record() for call in self._router.calls.values() if not call.kind.is_durable]
        connected += list(self._router.recent)
        if app_id:
            connected = [record for record in connected if record.app_id == app_id]
        records = connected + await self._store.calls.recent(app_id, limit=limit)
        records.sort(key=lambda record: (record.created_at_ms, record.call_id), reverse=True)
        return cm.CallListed(calls=tuple(records[:limit]))

    async def show(self, peer: Peer, request: cm.CallRef, emit: Emit) -> cm.CallShown:
        """A call with the states of its first inputs."""
        call = self._router.calls.get(request.call_id)
        if call is not None and not call.kind.is_durable:
            return cm.CallShown(call=call.record(), inputs=self._live_inputs(call, {}))
        try:
            record: CallRecord = await self._durable.record(request.call_id)
        except NotFoundError:
            recent = next((r for r in self._router.recent if r.call_id == request.call_id), None)
            if recent is None:
                raise
            return cm.CallShown(call=recent)
        done = dict(await self._store.calls.statuses(request.call_id, limit=SHOWN_INPUTS))
        return cm.CallShown(call=record, inputs=self._live_inputs(call, done, request.call_id))

    def _live_inputs(self, call: Call | None, done: dict[int, int], call_id: str = "") -> tuple[cm.InputState, ...]:
        call_id = call.id if call else call_id
        where = {item.index: name for item, name in call.pool.input_states(call.id)} if call else {}
        states = {
            index: cm.InputState(input_id=ids.input_id(call_id, index), index=index, state=Status(status).name.lower())
            for index, status in done.items()
        }
        for index, item in call.outstanding.items() if call else ():
            if len(states) >= SHOWN_INPUTS:
                break
            states[index] = cm.InputState(
                input_id=ids.input_id(call_id, index),
                index=index,
                state="running" if index in where else item.phase.value,
                attempt=item.attempt,
                container_id=where.get(index, ""),
            )
        return tuple(states[index] for index in sorted(states))
