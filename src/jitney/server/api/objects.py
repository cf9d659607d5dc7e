"""Objects: open, list, delete, heartbeat."""

from __future__ import annotations

from jitney.errors import PermissionDeniedError
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.objects import Objects
from jitney.values.objects import ObjectKind, ObjectRecord
from jitney.wire import methods
from jitney.wire.messages import objects as om
from jitney.wire.messages.apps import Done

LIST_MAX = 10_000
OF_CONTAINERS = frozenset({ObjectKind.DICT, ObjectKind.QUEUE})  # which running code may list and delete


class ObjectsApi:
    """Handlers of the object.* methods."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def register(self, table: Table) -> None:
        """Answer the object.* methods."""
        table.on(methods.OBJECT_OPEN, self.open)
        table.on(methods.OBJECT_LIST, self.listed)
        table.on(methods.OBJECT_DELETE, self.delete)
        table.on(methods.OBJECT_RENAME, self.rename)
        table.on(methods.OBJECT_HEARTBEAT, self.heartbeat)

    async def open(self, peer: Peer, request: om.ObjectOpen, emit: Emit) -> ObjectRecord:
        """Find an object, or make it."""
        return await self._objects.open(request)

    async def listed(self, peer: Peer, request: om.ObjectList, emit: Emit) -> om.ObjectListed:
        """Objects with names."""
        if peer.role == "container" and request.kind not in OF_CONTAINERS:
            raise PermissionDeniedError(f"a container may not list each {request.kind}")
        limit = max(1, min(request.limit, LIST_MAX))
        return om.ObjectListed(objects=tuple(await self._objects.listed(request.kind, limit)))

    async def delete(self, peer: Peer, request: om.ObjectDelete, emit: Emit) -> Done:
        """End an object."""
        if request.object_id:
            record = await self._objects.find(request.object_id, request.kind)
        else:
            record = await self._objects.named(request.name, request.kind)
        _check_may(peer, "delete", record)
        await self._objects.delete([record])
        return Done()

    async def rename(self, peer: Peer, request: om.ObjectRename, emit: Emit) -> ObjectRecord:
        """Another name for an object."""
        record = await self._objects.find(request.object_id, request.kind)
        _check_may(peer, "rename", record)
        return await self._objects.rename(record, request.new_name)

    async def heartbeat(self, peer: Peer, request: om.ObjectHeartbeat, emit: Emit) -> om.ObjectHeard:
        """Ephemeral objects are used."""
        return om.ObjectHeard(missing=await self._objects.heartbeat(request.object_ids))


def _check_may(peer: Peer, what: str, record: ObjectRecord) -> None:
    """Whether somebody may end an object, or give it another name.

    Raises:
        PermissionDeniedError: it is code of a container, and the object is for people to do that with.
    """
    if peer.role == "container" and record.kind not in OF_CONTAINERS and not record.is_ephemeral:
        raise PermissionDeniedError(
            f"a container may not {what} a {record.kind}", hint=f"use `jitney {record.kind} {what}`"
        )
