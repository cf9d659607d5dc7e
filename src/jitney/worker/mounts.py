"""Volumes of the containers on this machine: laid out before a start, committed while they run and when they end.

A container sees one whole version and its own writes. The version is the newest at its start; what others commit later
comes with a `reload`. What it writes goes to a folder of its own (`upper`), and from there, as a commit, to the server:
when the container asks for it, every COMMIT_EVERY_S, and at its end. Files are read while the container may be writing
to them: one that changes meanwhile is left to the next commit, and the last one reads what nobody writes to any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from jitney.errors import ConnectionError, ExecutionError, JitneyError, NotFoundError, UnsupportedError, VolumeBusyError
from jitney.ports.mounting import COMMITTED, MountBusy, MountFailed, Mounting
from jitney.ports.runtime import ContainerHandle, Runtime, StartFailed
from jitney.ports.trees import Stamp, Trees
from jitney.values.containers import Launch
from jitney.values.volumes import Committed, Mounted, VolumeMount
from jitney.wire.home import Home
from jitney.wire.messages import workers
from jitney.worker.layouts import Layouts, Request
from jitney.worker.lending import Lending
from jitney.worker.written import ATTEMPTS_MAX, RETRY_S, Author, Written

log = logging.getLogger("jitney.worker")

COMMIT_EVERY_S = 5.0


class Live:
    """A volume in a container that runs."""

    def __init__(self, mounted: Mounted, upper: Path | None) -> None:
        self.mounted = mounted
        self.upper = upper
        self.stamps: dict[str, Stamp] = {}  # of what is committed
        self.committed = 0  # the version that has it
        self.coming: tuple[str, ...] = ()  # layers that are about to be mounted instead
        self.lock = asyncio.Lock()

    def note_committed(self, began_ns: int) -> None:
        """What was written until then is committed: see `ports.mounting`."""
        assert self.upper is not None
        mark = self.upper.parent / COMMITTED
        try:
            mark.touch(0o600)
            os.utime(mark, ns=(began_ns, began_ns))
        except OSError as error:  # what is committed counts as written, then
            log.warning("the commit at %s is not noted: %s", self.mounted.target, error)


class Mounts:
    """See the module. `lending` gives volumes to steps of image builds.

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
        self.layouts = None if trees is None else Layouts(trees, request)
        self.lending = Lending(home, self.layouts)
        self._report = report
        self._live: dict[str, list[Live]] = {}  # by container
        self._handles: dict[str, asyncio.Future[ContainerHandle]] = {}  # code may run before its start is told of
        if self.layouts is not None:
            self._written = Written(home, self.layouts.trees, request)
            self.layouts.users.append(self._layers_in_use)

    @property
    def _layouts(self) -> Layouts:
        if self.layouts is None:
            raise StartFailed("this worker has no place to lay out volumes")
        return self.layouts

    async def reap(self) -> int:
        """Remove what an earlier run left. What its containers had not committed is lost with them."""
        if self.layouts is None:
            return 0
        if isinstance(self._runtime, Mounting):
            await self._runtime.discard()
        return await self.layouts.trees.reap()

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
            heads = await self._layouts.heads(tuple(one.volume_id for one in launch.volumes), launch.container_id)
            lives = self._live[launch.container_id] = []  # from the first on, their layers are in use
            for number, (volume, head) in enumerate(zip(launch.volumes, heads, strict=True)):
                version = head if volume.version is None else volume.version
                layers = await self._layouts.lay_out(volume.volume_id, version, is_head=volume.version is None)
                lives.append(self._live_of(launch.container_id, number, volume, version, layers))
        except JitneyError as error:
            self._live.pop(launch.container_id, None)
            raise StartFailed(f"its volumes cannot be mounted: {error}") from error
        self._handles[launch.container_id] = asyncio.get_running_loop().create_future()
        for volume, live in zip(launch.volumes, lives, strict=True):
            self._layouts.prefetch(volume, live.mounted.layers)
        return msgspec.structs.replace(launch, mounts=tuple(one.mounted for one in lives))

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

    def _layers_in_use(self, volume_id: str) -> set[str]:
        lives = (live for lives in self._live.values() for live in lives if live.mounted.volume_id == volume_id)
        return {layer for live in lives for layer in (*live.mounted.layers, *live.coming)}

    # -------------------------------------------------------------------------------------------- running

    async def attend(self, handle: ContainerHandle) -> None:
        """Commit now and then what a container writes, until cancelled."""
        lives = [one for one in self._live.get(handle.container_id, ()) if one.upper is not None]
        started = self._handles.get(handle.container_id)
        if started is not None and not started.done():
            started.set_result(handle)
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
        handle = await self._handles[container_id]
        async with live.lock:
            (head,) = await self._layouts.heads((live.mounted.volume_id,), container_id)
            if head != live.mounted.version:
                live.coming = await self._layouts.lay_out(live.mounted.volume_id, head, is_head=True)
                mounted = msgspec.structs.replace(live.mounted, version=head, layers=live.coming)
                try:
                    await self._runtime.remount(handle, mounted)
                    live.mounted = mounted
                finally:
                    live.coming = ()
        return head

    async def _commit(self, container_id: str, live: Live) -> Committed:
        if live.upper is None:
            raise UnsupportedError(f"the volume at {live.mounted.target} is mounted read-only")
        async with live.lock:
            began_ns = time.time_ns()
            reading = await self._written.read(live.upper, live.stamps)
            if reading is None:
                return Committed(version=max(live.mounted.version, live.committed), changed=False)
            author = Author(container_id=container_id)
            committed = await self._written.send(author, live.mounted.volume_id, live.mounted.version, reading)
            live.stamps, live.committed = reading.stamps, committed.version
            live.note_committed(began_ns)
            return committed

    # -------------------------------------------------------------------------------------------- ending

    async def ended(self, container_id: str) -> None:
        """The container has ended: commit the last of it, and remove its folders."""
        handle = self._handles.pop(container_id, None)
        if handle is not None and not handle.done():
            handle.set_exception(NotFoundError("the container has ended before it had started"))
            handle.exception()  # nobody need have asked
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
