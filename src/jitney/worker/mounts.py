"""Volumes of the containers on this machine: laid out before a start, committed while they run and when they end.

A container sees one whole version and its own writes. The version is the newest at its start; what others commit later
comes with a `reload`. What it writes goes to a folder of its own (`upper`), and from there, as a commit, to the server:
when the container asks for it, every COMMIT_EVERY_S, and at its end. Files are read while the container may be writing
to them: one that changes meanwhile is left to the next commit, and the last one reads what nobody writes to any more.

The stack of a volume's layers (ports.trees) grows by one with each version that is mounted here, until it is made anew
(core.layers).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from jitney.core.layers import Laying, laying
from jitney.errors import ConnectionError, ExecutionError, JitneyError, NotFoundError, UnsupportedError, VolumeBusyError
from jitney.ports.mounting import MountBusy, MountFailed, Mounting
from jitney.ports.runtime import ContainerHandle, Runtime, StartFailed
from jitney.ports.trees import Changes, Stamp, Trees
from jitney.values.containers import Launch
from jitney.values.volumes import WORKSPACE, Committed, Mounted, VolumeMount
from jitney.wire.home import Home
from jitney.wire.messages import mounts as mm
from jitney.wire.messages import workers
from jitney.wire.methods import VOLUME_COMMIT_WRITTEN, VOLUME_DIFF, VOLUME_HEADS, Method
from jitney.worker import prefetch

log = logging.getLogger("jitney.worker")

COMMIT_EVERY_S = 5.0
PART_CHANGES = 10_000  # of a commit, that one message has
RETRY_S = 0.5
ATTEMPTS_MAX = 240  # of the last commit, while the server is away: two minutes

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)
Request = Callable[[Method[Any, Any], Any], Awaitable[Any]]


class Live:
    """A volume in a container that runs."""

    def __init__(self, mounted: Mounted, upper: Path | None) -> None:
        self.mounted = mounted
        self.upper = upper
        self.stamps: dict[str, Stamp] = {}  # of what is committed
        self.lock = asyncio.Lock()


class Mounts:
    """See the module.

    Args:
        trees: where volumes are laid out; None: nowhere, and what has volumes does not start.
        request: asks the server.
        report: tells the server what came of a command.
    """

    def __init__(
        self,
        home: Home,
        runtime: Runtime,
        trees: Trees | None,
        *,
        request: Request,
        report: Callable[[workers.WorkerReport], None],
    ) -> None:
        self._home = home
        self._runtime = runtime
        self._own_trees = trees
        self._request = request
        self._report = report
        self._live: dict[str, list[Live]] = {}  # by container
        self._handles: dict[str, ContainerHandle] = {}
        self._laying: dict[str, asyncio.Lock] = {}
        self._prefetching: set[asyncio.Task[None]] = set()

    @property
    def _trees(self) -> Trees:
        if self._own_trees is None:
            raise StartFailed("this worker has no place to lay out volumes")
        return self._own_trees

    async def reap(self) -> int:
        """Remove what an earlier run left. What its containers had not committed is lost with them."""
        if self._own_trees is None:
            return 0
        if isinstance(self._runtime, Mounting):
            await self._runtime.discard()
        return await self._own_trees.reap()

    # -------------------------------------------------------------------------------------------- starting

    async def ready(self, launch: Launch) -> Launch:
        """The launch with its volumes laid out.

        Raises:
            StartFailed: the runtime has no mounts, or a volume cannot be laid out.
        """
        if not launch.volumes:
            return launch
        if not isinstance(self._runtime, Mounting):
            raise StartFailed(
                f"it has volumes, and containers of the runtime {self._runtime.capabilities().name!r} have no mounts "
                "of their own: use 'namespaces', 'process' or 'oci' (`jitney doctor` says what this machine can do)"
            )
        try:
            heads = await self._heads(tuple(one.volume_id for one in launch.volumes), launch.container_id)
            lives = []
            for number, (volume, head) in enumerate(zip(launch.volumes, heads, strict=True)):
                version = head if volume.version is None else volume.version
                layers = await self._lay_out(volume.volume_id, version, is_head=volume.version is None)
                lives.append(self._live_of(launch.container_id, number, volume, version, layers))
        except JitneyError as error:
            raise StartFailed(f"its volumes cannot be mounted: {error}") from error
        self._live[launch.container_id] = lives
        self._prefetch(launch.volumes, lives)
        return msgspec.structs.replace(launch, mounts=tuple(one.mounted for one in lives))

    def _prefetch(self, volumes: tuple[VolumeMount, ...], lives: list[Live]) -> None:
        """Begin to bring into memory what was asked for, and do not wait for it."""
        for volume, live in zip(volumes, lives, strict=True):
            if volume.prefetch:
                folder = self._trees.folder(volume.volume_id)
                layers = [folder / layer for layer in live.mounted.layers]
                task = asyncio.create_task(asyncio.to_thread(_bring, layers, volume.prefetch, volume.sub_path))
                self._prefetching.add(task)
                task.add_done_callback(self._prefetching.discard)

    def _live_of(
        self, container_id: str, number: int, volume: VolumeMount, version: int, layers: tuple[str, ...]
    ) -> Live:
        upper = "" if volume.read_only else f"{container_id}/{number}"
        mounted = Mounted(
            target=volume.path,
            volume_id=volume.volume_id,
            version=version,
            layers=layers,
            upper=upper,
            sub_path=volume.sub_path,
        )
        return Live(mounted, self._home.uppers / upper / "upper" if upper else None)

    async def _heads(self, volume_ids: tuple[str, ...], container_id: str) -> tuple[int, ...]:
        request = mm.VolumeHeads(volume_ids=volume_ids, container_id=container_id)
        answer: mm.VolumeHeadsAnswer = await self._request(VOLUME_HEADS, request)
        return answer.versions

    async def _lay_out(self, volume_id: str, version: int, *, is_head: bool) -> tuple[str, ...]:
        async with self._laying.setdefault(volume_id, asyncio.Lock()):
            found = self._trees.layers(volume_id, version)
            if found:
                return found
            old = self._trees.laid_out(volume_id)
            height = len(self._trees.layers(volume_id, old))
            how = laying(version, is_newest=is_head, stacked=old, height=height)
            diff = await self._diff(volume_id, old if how is Laying.EXTEND else 0, version)
            if diff.old_is_gone:  # the stack is at a version that is not kept any more
                how, diff = Laying.RESTACK, await self._diff(volume_id, 0, version)
            if how is Laying.ALONE:
                await self._trees.lay_out(volume_id, version, diff.puts)
            elif how is Laying.RESTACK:
                await self._trees.restack(volume_id, version, diff.puts)
                await self._trees.collect(volume_id, self._layers_in_use(volume_id))
            else:
                await self._trees.extend(volume_id, version, diff.puts, diff.removes)
            return self._trees.layers(volume_id, version)

    def _layers_in_use(self, volume_id: str) -> set[str]:
        lives = (live for lives in self._live.values() for live in lives if live.mounted.volume_id == volume_id)
        return {layer for live in lives for layer in live.mounted.layers}

    async def _diff(self, volume_id: str, old: int, new: int) -> mm.VolumeDiffAnswer:
        pages: list[mm.VolumeDiffAnswer] = []
        while not pages or pages[-1].after:
            after = pages[-1].after if pages else ""
            request = mm.VolumeDiff(volume_id=volume_id, old=old, new=new, after=after)
            pages.append(await self._request(VOLUME_DIFF, request))
        return mm.VolumeDiffAnswer(
            puts=tuple(chain.from_iterable(page.puts for page in pages)),
            removes=tuple(chain.from_iterable(page.removes for page in pages)),
            old_is_gone=any(page.old_is_gone for page in pages),
        )

    # -------------------------------------------------------------------------------------------- running

    async def attend(self, handle: ContainerHandle) -> None:
        """Commit now and then what a container writes, until cancelled."""
        lives = [one for one in self._live.get(handle.container_id, ()) if one.upper is not None]
        self._handles[handle.container_id] = handle
        while lives:
            await asyncio.sleep(COMMIT_EVERY_S)
            for live in lives:
                try:
                    await self._commit(handle.container_id, live)
                except Exception as error:  # the next time may do better
                    log.warning("commit_failed container=%s reason=%s", handle.container_id, error)

    async def sync(self, command: workers.SyncMount) -> None:
        """Do what a container asks for: commit, or see what is new."""
        done = workers.MountSynced(request_id=command.request_id)
        try:
            live = self._find(command.container_id, command.path)
            if command.reload:
                done = msgspec.structs.replace(done, version=await self._reload(command.container_id, live))
            else:
                committed = await self._commit(command.container_id, live)
                done = msgspec.structs.replace(done, version=committed.version, committed=committed)
        except JitneyError as error:
            done = msgspec.structs.replace(done, code=error.code, message=error.message, hint=error.hint)
        except (MountBusy, MountFailed, OSError) as error:
            code, hint = ExecutionError.code, ""
            if isinstance(error, MountBusy):
                code = VolumeBusyError.code
                hint = "close its files, leave its folders (`os.chdir`), and reload again"
            message = f"{command.path} cannot be {'reloaded' if command.reload else 'committed'}: {error}"
            done = msgspec.structs.replace(done, code=code, message=message, hint=hint)
        self._report(done)

    def _find(self, container_id: str, path: str) -> Live:
        for live in self._live.get(container_id, ()):
            if path in (live.mounted.target, live.mounted.volume_id):
                return live
        raise NotFoundError(f"no volume is mounted at {path!r} in this container")

    async def _reload(self, container_id: str, live: Live) -> int:
        assert isinstance(self._runtime, Mounting)
        handle = self._handles.get(container_id)
        if handle is None:
            raise NotFoundError("the container has not started yet")
        async with live.lock:
            (head,) = await self._heads((live.mounted.volume_id,), container_id)
            if head != live.mounted.version:
                layers = await self._lay_out(live.mounted.volume_id, head, is_head=True)
                mounted = msgspec.structs.replace(live.mounted, version=head, layers=layers)
                await self._runtime.remount(handle, mounted)
                live.mounted = mounted
        return head

    async def _commit(self, container_id: str, live: Live) -> Committed:
        if live.upper is None:
            raise UnsupportedError(f"the volume at {live.mounted.target} is mounted read-only")
        async with live.lock:
            changes = await self._trees.changes(live.upper, live.stamps)
            if changes.is_empty:
                return Committed(version=live.mounted.version, changed=False)
            puts, stamps = await asyncio.to_thread(self._leave, live.upper, changes, live.mounted.sub_path)
            removes = tuple(_below(live.mounted.sub_path, path) for path in changes.removes)
            committed = await self._send(container_id, live.mounted, puts, removes)
            live.stamps = stamps
            return committed

    async def _send(
        self, container_id: str, mounted: Mounted, puts: tuple[mm.MountedPut, ...], removes: tuple[str, ...]
    ) -> Committed:
        """In parts where it is much: the server makes one version of them, with the last."""
        key = secrets.token_hex(16)
        parts: list[tuple[tuple[mm.MountedPut, ...], tuple[str, ...]]]
        parts = [(puts[at : at + PART_CHANGES], ()) for at in range(0, len(puts), PART_CHANGES)]
        parts += [((), removes[at : at + PART_CHANGES]) for at in range(0, len(removes), PART_CHANGES)]
        if len(puts) + len(removes) <= PART_CHANGES:
            parts = [(puts, removes)]
        for number, (some_puts, some_removes) in enumerate(parts):
            request = mm.MountCommit(
                container_id=container_id,
                volume_id=mounted.volume_id,
                base=mounted.version,
                puts=some_puts,
                removes=some_removes,
                key=key,
                part=number,
                more=number < len(parts) - 1,
            )
            committed: Committed = await self._request(VOLUME_COMMIT_WRITTEN, request)
        return committed

    def _leave(
        self, upper: Path, changes: Changes, sub_path: str
    ) -> tuple[tuple[mm.MountedPut, ...], dict[str, Stamp]]:
        """Copy the files that changed to where the server takes them from. Blocks."""
        folder = self._home.volumes / WORKSPACE / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        stamps = dict(changes.stamps)
        puts = []
        for entry in changes.puts:
            put = msgspec.structs.replace(entry, path=_below(sub_path, entry.path))
            if entry.path not in changes.files:
                puts.append(mm.MountedPut(entry=put))
                continue
            name = secrets.token_hex(16)
            if self._copy(upper, entry.path, folder / name, changes.stamps[entry.path]):
                puts.append(mm.MountedPut(entry=put, incoming=name))
            else:
                stamps.pop(entry.path, None)  # it is being written to: next time
        return tuple(puts), stamps

    def _copy(self, upper: Path, path: str, target: Path, stamp: Stamp) -> bool:
        """Copy a file that others may write to; False where it is not, or is no more, as it was when it was found."""
        try:
            descriptor = self._trees.open(upper, path)
        except OSError:
            return False
        with open(descriptor, "rb") as reading:
            return _copy_whole(reading, target, stamp)

    # -------------------------------------------------------------------------------------------- ending

    async def ended(self, container_id: str) -> None:
        """The container has ended: commit the last of it, and remove its folders."""
        self._handles.pop(container_id, None)
        lives = self._live.pop(container_id, [])
        for live in lives:
            if live.upper is not None:
                await self._commit_last(container_id, live)
        if lives and isinstance(self._runtime, Mounting):
            await self._runtime.discard(container_id)

    async def _commit_last(self, container_id: str, live: Live) -> None:
        for _ in range(ATTEMPTS_MAX):
            try:
                await self._commit(container_id, live)
            except ConnectionError:
                await asyncio.sleep(RETRY_S)
            except (JitneyError, OSError) as error:
                log.error("last_commit_failed container=%s reason=%s", container_id, error)
                return
            except Exception:  # whatever it is, the container has ended, and that has to be told
                log.exception("last_commit_failed container=%s", container_id)
                return
            else:
                return


def _bring(layers: list[Path], patterns: tuple[str, ...], sub_path: str) -> None:
    try:
        told = prefetch.prefetch(prefetch.wanted(layers, patterns, sub_path), prefetch.room_bytes())
        log.info("prefetched bytes=%d layers=%s", told, len(layers))
    except OSError as error:  # it would only have been faster
        log.warning("not_prefetched reason=%s", error)


def _below(sub_path: str, path: str) -> str:
    return f"{sub_path}/{path}" if sub_path else path


def _copy_whole(reading: BinaryIO, target: Path, stamp: Stamp) -> bool:
    """Copy what is open; False, and nothing is left, where it does not look as `stamp` says, before or after."""
    if Stamp.of(os.fstat(reading.fileno())) != stamp:
        return False
    with open(target, "xb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        size = writing.tell()
    if Stamp.of(os.fstat(reading.fileno())) == stamp and size == stamp.size:
        return True
    target.unlink()
    return False
