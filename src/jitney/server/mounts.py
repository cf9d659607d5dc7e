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
from jitney.server.objects import Objects
from jitney.server.scaling import Node
from jitney.server.volume_keeping import Holds
from jitney.values.objects import ObjectKind
from jitney.values.volumes import WORKSPACE, Committed, Content, Entry, Kind
from jitney.wire import methods
from jitney.wire.messages import mounts as mm
from jitney.wire.messages import volumes as vm
from jitney.wire.messages import workers as wm

log = logging.getLogger("jitney.mounts")

NODE_LOOK_S = 0.05
NODE_LOOKS = 200  # ten seconds: a worker tries once a second
SYNC_WAIT_S = 600.0  # a commit copies and hashes what was written
DIFF_PAGE = 10_000  # paths of one answer
WRITTEN_MAX = 10_000_000  # changes of one commit of a container, in parts
ANSWERS_KEPT = 1_000
PARTS_KEPT_MS = 3_600_000  # that parts of a commit wait for the next one


class _Written:
    """What came of a commit so far."""

    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms
        self.parts = 0
        self.puts: list[Entry] = []
        self.removes: list[str] = []
        self.contents: list[Content] = []
        self.held: set[str] = set()


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
        objects: Objects,
    ) -> None:
        self._objects = objects
        self.holds = Holds()
        self._written: dict[str, _Written] = {}  # by the key of the commit
        self._committed: dict[str, Committed] = {}  # the last ones, by key
        self._seen: dict[str, dict[str, int]] = {}  # by container: the versions that it has
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
        if not request.container_id:
            for volume_id in request.volume_ids:
                await self._objects.find(volume_id, ObjectKind.VOLUME)
        heads = await self._store.heads(request.volume_ids)
        if request.container_id in self._fleet.containers:
            seen = self._seen.setdefault(request.container_id, {})
            seen.update((head.volume_id, head.version) for head in heads)
        return mm.VolumeHeadsAnswer(versions=tuple(head.version for head in heads))

    def used(self, volume_id: str) -> set[int] | None:
        """The versions of a volume that containers have and functions name; None: one has it, and which is not known
        (it was there before this server)."""
        self._seen = {id_: seen for id_, seen in self._seen.items() if id_ in self._fleet.containers}
        found: set[int] = set()
        for pool in self._fleet.router.pools.values():
            for mount in pool.spec.volumes:
                if mount.volume_id != volume_id:
                    continue
                if mount.version is not None:
                    found.add(mount.version)
                    continue
                seen = [self._seen.get(container_id, {}).get(volume_id) for container_id in pool.containers]
                if None in seen:
                    return None
                found.update(version for version in seen if version is not None)
        return found

    async def diff(self, peer: Peer, request: mm.VolumeDiff, emit: Emit) -> mm.VolumeDiffAnswer:
        """A page of what makes one version of another."""
        volume_id = request.volume_id
        [head] = await self._store.heads([volume_id])
        if request.new != head.version and await self._store.version(volume_id, request.new) is None:
            raise NotFoundError(
                f"version {request.new} of the volume is gone", hint="`jitney volume history` shows those that are kept"
            )
        if await self._store.version(volume_id, request.old) is None:
            return mm.VolumeDiffAnswer(puts=(), removes=(), old_is_gone=True)
        found = await self._store.diff(volume_id, request.old, request.new, after=request.after, limit=DIFF_PAGE)
        return mm.VolumeDiffAnswer(puts=tuple(found.puts), removes=tuple(found.removes), after=found.after)

    async def commit(self, peer: Peer, request: mm.MountCommit, emit: Emit) -> Committed:
        """Record what a container has written: with the last part of it.

        What no volume can hold (a link that leads out of it, a name that is not UTF-8) is left out, and logged: it
        must not keep the rest from being kept.
        """
        if request.key in self._committed:
            return self._committed[request.key]  # its answer was lost
        written = self._take_part(request)
        try:
            await self._adopt(request, written)
            if request.more:
                return Committed(version=request.base, changed=False)
            done = await self._store.commit(
                Commit(
                    volume_id=request.volume_id,
                    base=request.base,
                    puts=written.puts,
                    removes=written.removes,
                    contents=written.contents,
                    message=request.message or f"by container {request.container_id}",
                    at_ms=self._wall_ms(),
                    key=request.key,
                    changes_max=WRITTEN_MAX,
                )
            )
            self._committed[request.key] = done
            while len(self._committed) > ANSWERS_KEPT:
                del self._committed[next(iter(self._committed))]
            return done
        except BaseException:
            self._drop(request.key)
            raise
        finally:
            if not request.more:
                self._drop(request.key)

    def _take_part(self, request: mm.MountCommit) -> _Written:
        """What came before this part.

        Raises:
            ConnectionError: it is not the next one: the commit has to begin again.
            InvalidError: it is too much.
        """
        now_ms = self._wall_ms()
        for key in [key for key, one in self._written.items() if one.at_ms < now_ms - PARTS_KEPT_MS]:
            self._drop(key)
        if not request.part:
            self._drop(request.key)
            self._written[request.key] = _Written(now_ms)
        written = self._written.get(request.key)
        if written is None or written.parts != request.part:
            raise ConnectionError("a part of this commit is not here (any more)", hint="commit again")
        if len(written.puts) + len(written.removes) + len(request.puts) + len(request.removes) > WRITTEN_MAX:
            self._drop(request.key)
            raise InvalidError(f"a commit of a container may have {WRITTEN_MAX:,} changes", hint="commit more often")
        written.parts, written.at_ms = request.part + 1, now_ms
        return written

    def _drop(self, key: str) -> None:
        written = self._written.pop(key, None)
        if written is not None:
            self.holds.give_up(written.held)

    async def _adopt(self, request: mm.MountCommit, written: _Written) -> None:
        for put in request.puts:
            entry = put.entry
            try:
                if entry.kind is Kind.FILE:
                    volumes.check_path(entry.path)
                    content = await self._contents.adopt(WORKSPACE, put.incoming, entry.size)
                    if content.digest not in written.held:
                        written.held.add(content.digest)
                        self.holds.take([content.digest])
                    written.contents.append(content)
                    entry = msgspec.structs.replace(entry, digest=content.digest)
                written.puts.append(volumes.check_entry(entry))
            except InvalidError as error:
                author = f"container={request.container_id}" if request.container_id else f"author={request.message!r}"
                log.warning("not_kept %s reason=%s", author, error)
        written.removes.extend(request.removes)

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
        node = await self._node_of(container_id)
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

    async def _node_of(self, container_id: str) -> Node:
        """Where a container runs. After a restart it may be back before its worker, which is waited for."""
        for look in range(NODE_LOOKS):
            container = self._fleet.containers.get(container_id)
            node = self._fleet.nodes.get(container.node_id) if container is not None else None
            if node is not None and node.connected:
                return node
            if look < NODE_LOOKS - 1:
                await asyncio.sleep(NODE_LOOK_S)
        if node is None:
            raise NotFoundError(f"no container {container_id} runs")
        raise ConnectionError("the machine of this container cannot be reached now", hint="try again")

    def synced(self, report: wm.MountSynced) -> None:
        """The worker's answer."""
        waiting = self._waiting.get(report.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(report)


def _container_of(peer: Peer) -> str:
    if not isinstance(peer, Link) or not peer.container_id:
        raise InvalidError("volumes are committed and reloaded by the containers that have them mounted")
    return peer.container_id
