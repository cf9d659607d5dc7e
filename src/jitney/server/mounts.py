"""Volumes in containers: what the worker asks of the server, and what containers ask of the worker through it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from jitney.core import volumes
from jitney.errors import BY_CODE, ConnectionError, InternalError, InvalidError, NotFoundError
from jitney.ports.contents import Contents
from jitney.ports.volumes import Commit, VolumeStore
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.fleet import Fleet
from jitney.server.link import Link
from jitney.values.volumes import WORKSPACE, Committed, Content, Entry, Kind
from jitney.wire import methods
from jitney.wire.messages import mounts as mm
from jitney.wire.messages import volumes as vm
from jitney.wire.messages import workers as wm

log = logging.getLogger("jitney.mounts")

SYNC_WAIT_S = 600.0  # a commit copies and hashes what was written


class Mounts:
    """See the module."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        store: VolumeStore,
        contents: Contents,
        wall_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._contents = contents
        self._wall_ms = wall_ms
        self._entropy = entropy
        self._waiting: dict[str, asyncio.Future[wm.MountSynced]] = {}

    def register(self, table: Table) -> None:
        """Answer what workers, and containers, ask."""
        table.on(methods.VOLUME_MOUNT_COMMIT, self.commit_mount)
        table.on(methods.VOLUME_MOUNT_RELOAD, self.reload_mount)
        table.on(methods.VOLUME_HEADS, self.heads)
        table.on(methods.VOLUME_DIFF, self.diff)
        table.on(methods.VOLUME_COMMIT_WRITTEN, self.commit)

    async def heads(self, peer: Peer, request: mm.VolumeHeads, emit: Emit) -> mm.VolumeHeadsAnswer:
        """The newest versions of volumes."""
        heads = await self._store.heads(request.volume_ids)
        return mm.VolumeHeadsAnswer(versions=tuple(head.version for head in heads))

    async def diff(self, peer: Peer, request: mm.VolumeDiff, emit: Emit) -> mm.VolumeDiffAnswer:
        """What makes one version of another."""
        found = await self._store.diff(request.volume_id, request.old, request.new)
        return mm.VolumeDiffAnswer(puts=tuple(found.puts), removes=tuple(found.removes))

    async def commit(self, peer: Peer, request: mm.MountCommit, emit: Emit) -> Committed:
        """Record what a container has written.

        What no volume can hold (a link that leads out of it, a name that is not UTF-8) is left out, and logged: it
        must not keep the rest from being kept.
        """
        puts: list[Entry] = []
        contents: list[Content] = []
        for put in request.puts:
            entry = put.entry
            try:
                if entry.kind is Kind.FILE:
                    volumes.check_path(entry.path)
                    content = await self._contents.adopt(WORKSPACE, put.incoming, entry.size)
                    contents.append(content)
                    entry = msgspec.structs.replace(entry, digest=content.digest)
                puts.append(volumes.check_entry(entry))
            except InvalidError as error:
                log.warning("not_kept container=%s reason=%s", request.container_id, error)
        return await self._store.commit(
            Commit(
                volume_id=request.volume_id,
                base=request.base,
                puts=puts,
                removes=request.removes,
                contents=contents,
                message=f"by container {request.container_id}",
                at_ms=self._wall_ms(),
                key=request.key,
            )
        )

    # -------------------------------------------------------------------------------------------- for containers

    async def commit_mount(self, peer: Peer, request: vm.VolumeMounted, emit: Emit) -> Committed:
        """Commit what the container that asks has written."""
        done = await self.sync(_container_of(peer), request.path, reload=False)
        return done.committed or Committed(version=done.version, changed=False)

    async def reload_mount(self, peer: Peer, request: vm.VolumeMounted, emit: Emit) -> vm.VolumeReloaded:
        """Show the container that asks the newest version."""
        done = await self.sync(_container_of(peer), request.path, reload=True)
        return vm.VolumeReloaded(version=done.version)

    async def sync(self, container_id: str, path: str, *, reload: bool) -> wm.MountSynced:
        """Have the worker commit, or reload, a volume in a container.

        Raises:
            NotFoundError: there is no such container, or nothing is mounted there.
            ConnectionError: its machine cannot be reached.
            JitneyError: what kept the worker from it.
        """
        container = self._fleet.containers.get(container_id)
        node = self._fleet.nodes.get(container.node_id) if container is not None else None
        if container is None or node is None:
            raise NotFoundError(f"no container {container_id} runs")
        if not node.connected:
            raise ConnectionError("the machine of this container cannot be reached now", hint="try again")
        request_id = self._entropy(16).hex()
        waiting: asyncio.Future[wm.MountSynced] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = waiting
        node.send(wm.SyncMount(request_id=request_id, container_id=container_id, path=path, reload=reload))
        try:
            async with asyncio.timeout(SYNC_WAIT_S):
                done = await waiting
        except TimeoutError:
            raise ConnectionError(f"the machine of {container_id} did not answer in {SYNC_WAIT_S:g} s") from None
        finally:
            del self._waiting[request_id]
        if done.code:
            raise BY_CODE.get(done.code, InternalError)(done.message, hint=done.hint)
        return done

    def synced(self, report: wm.MountSynced) -> None:
        """The worker's answer."""
        waiting = self._waiting.get(report.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(report)


def _container_of(peer: Peer) -> str:
    if not isinstance(peer, Link) or not peer.container_id:
        raise InvalidError("volumes are committed and reloaded by the containers that have them mounted")
    return peer.container_id
