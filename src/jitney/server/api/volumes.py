"""Volumes."""

from __future__ import annotations

from jitney.core import volumes as paths
from jitney.errors import InvalidError, PermissionDeniedError
from jitney.ports.contents import Part
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.objects import Objects
from jitney.server.volumes import Volumes
from jitney.values.objects import ObjectKind
from jitney.values.volumes import BLOCK_BYTES, WORKSPACE, Committed, Kind, Retention
from jitney.wire import methods
from jitney.wire.messages import volumes as vm
from jitney.wire.messages.apps import Done

HISTORY_MAX = 10_000
LISTED_MAX = 10_000


class VolumesApi:
    """Handlers of the volume.* methods."""

    def __init__(self, *, volumes: Volumes, objects: Objects) -> None:
        self._volumes = volumes
        self._objects = objects

    def register(self, table: Table) -> None:
        """Answer the volume.* methods."""
        table.on(methods.VOLUME_LIST, self.list)
        table.on(methods.VOLUME_INFO, self.info)
        table.on(methods.VOLUME_ENTRIES, self.entries)
        table.on(methods.VOLUME_STAT, self.stat)
        table.on(methods.VOLUME_HISTORY, self.history)
        table.on(methods.VOLUME_MISSING, self.missing)
        table.on(methods.VOLUME_PUT_BLOCK, self.put_block)
        table.on(methods.VOLUME_COMMIT, self.commit)
        table.on(methods.VOLUME_ADOPT, self.adopt)
        table.on(methods.VOLUME_READ, self.read)
        table.on(methods.VOLUME_COPY, self.copy)
        table.on(methods.VOLUME_MOVE, self.move)
        table.on(methods.VOLUME_REMOVE, self.remove)
        table.on(methods.VOLUME_RESTORE, self.restore)
        table.on(methods.VOLUME_KEEP, self.keep)
        table.on(methods.VOLUME_DELETE, self.delete)

    async def list(self, peer: Peer, request: vm.VolumeList, emit: Emit) -> vm.VolumeListed:
        """Volumes with a name."""
        if not 1 <= request.limit <= LISTED_MAX:
            raise InvalidError(f"limit must be from 1 to {LISTED_MAX:,}")
        return vm.VolumeListed(volumes=tuple(await self._volumes.listed(request.limit)))

    async def info(self, peer: Peer, request: vm.VolumeRef, emit: Emit) -> vm.VolumeDetail:
        """A volume."""
        info = await self._volumes.info(request.volume_id)
        folder = self._volumes.contents.folder(WORKSPACE) if peer.role == "client" else None
        return vm.VolumeDetail(info=info, folder=str(folder or ""))

    async def entries(self, peer: Peer, request: vm.VolumeEntries, emit: Emit) -> vm.VolumeEntriesAnswer:
        """A page of what is in a folder."""
        version = await self._volumes.version(request.volume_id, request.version)
        found = await self._volumes.entries(
            request.volume_id,
            version,
            request.path,
            recursive=request.recursive,
            after=request.after,
            limit=request.limit,
        )
        after = found[-1].path if len(found) == request.limit else ""
        return vm.VolumeEntriesAnswer(version=version, entries=tuple(found), after=after)

    async def stat(self, peer: Peer, request: vm.VolumeStat, emit: Emit) -> vm.VolumeStatAnswer:
        """What is at a path."""
        version = await self._volumes.version(request.volume_id, request.version)
        entry = await self._volumes.stat(request.volume_id, version, request.path)
        return vm.VolumeStatAnswer(version=version, entry=entry)

    async def history(self, peer: Peer, request: vm.VolumeHistory, emit: Emit) -> vm.VolumeHistoryAnswer:
        """Versions, newest first."""
        if not 1 <= request.limit <= HISTORY_MAX:
            raise InvalidError(f"limit must be from 1 to {HISTORY_MAX:,}")
        versions = await self._volumes.history(request.volume_id, before=request.before, limit=request.limit)
        retention = await self._volumes.retention(request.volume_id)
        return vm.VolumeHistoryAnswer(versions=tuple(versions), retention=retention)

    async def keep(self, peer: Peer, request: vm.VolumeKeep, emit: Emit) -> Retention:
        """Set, or tell, which versions stay."""
        if request.is_question:
            await self._objects.find(request.volume_id, ObjectKind.VOLUME)
            return await self._volumes.retention(request.volume_id)
        if peer.role == "container":
            raise PermissionDeniedError("a container may not set what is kept", hint="use `jitney volume keep`")
        return await self._volumes.keep(request.volume_id, request.versions, request.days)

    async def missing(self, peer: Peer, request: vm.VolumeMissing, emit: Emit) -> vm.VolumeMissingAnswer:
        """Which blocks have to be sent."""
        await self._objects.find(request.volume_id, ObjectKind.VOLUME)
        found = await self._volumes.missing(request.contents)
        missing = (vm.MissingBlocks(digest, tuple(positions)) for digest, positions in found.items())
        return vm.VolumeMissingAnswer(missing=tuple(missing))

    async def put_block(self, peer: Peer, request: vm.VolumePutBlock, emit: Emit) -> Done:
        """Keep blocks."""
        await self._objects.find(request.volume_id, ObjectKind.VOLUME)
        parts = [Part(block.digest, block.position, block.data) for block in request.blocks]
        await self._volumes.contents.put(WORKSPACE, parts)
        return Done()

    async def commit(self, peer: Peer, request: vm.VolumeCommit, emit: Emit) -> Committed:
        """Make a version."""
        return await self._volumes.commit(
            request.volume_id,
            request.base,
            request.puts,
            request.removes,
            message=request.message,
            key=request.key,
            new_only=request.new_only,
        )

    async def adopt(self, peer: Peer, request: vm.VolumeAdopt, emit: Emit) -> vm.VolumeAdopted:
        """Make contents of files that a client has placed."""
        await self._objects.find(request.volume_id, ObjectKind.VOLUME)
        contents = self._volumes.contents
        return vm.VolumeAdopted(
            contents=tuple([await contents.adopt(WORKSPACE, file.name, file.size) for file in request.files])
        )

    async def read(self, peer: Peer, request: vm.VolumeRead, emit: Emit) -> vm.VolumeReadAnswer:
        """A part of a file."""
        version = await self._volumes.version(request.volume_id, request.version)
        entry = await self._volumes.entry(request.volume_id, version, request.path)
        if entry.kind is not Kind.FILE:
            raise InvalidError(f"{request.path!r} is a {entry.kind} in the volume, not a file")
        if not 0 <= request.length <= BLOCK_BYTES:
            raise InvalidError(f"length must be from 0 to {BLOCK_BYTES:,}")
        data = await self._volumes.contents.read(WORKSPACE, entry.digest, request.offset, request.length)
        return vm.VolumeReadAnswer(version=version, size=entry.size, data=memoryview(data))

    async def copy(self, peer: Peer, request: vm.VolumeCopy, emit: Emit) -> Committed:
        """Copy inside a volume."""
        return await self._volumes.copy(request.volume_id, request.sources, request.target, recursive=request.recursive)

    async def move(self, peer: Peer, request: vm.VolumeMove, emit: Emit) -> Committed:
        """Move inside a volume."""
        paths.check_path(request.path)
        return await self._volumes.move(request.volume_id, request.path, request.target, into=request.into)

    async def remove(self, peer: Peer, request: vm.VolumeRemove, emit: Emit) -> Committed:
        """Remove from a volume."""
        return await self._volumes.remove(request.volume_id, request.path, recursive=request.recursive)

    async def restore(self, peer: Peer, request: vm.VolumeRestore, emit: Emit) -> Committed:
        """Make an earlier version the newest again."""
        return await self._volumes.restore(request.volume_id, request.version, message=request.message, key=request.key)

    async def delete(self, peer: Peer, request: vm.VolumeRef, emit: Emit) -> Done:
        """Delete a volume, with all its versions."""
        record = await self._objects.find(request.volume_id, ObjectKind.VOLUME)
        if peer.role == "container" and not record.is_ephemeral:
            raise PermissionDeniedError("a container may not delete a volume", hint="use `jitney volume delete`")
        await self._objects.delete([record])
        return Done()
