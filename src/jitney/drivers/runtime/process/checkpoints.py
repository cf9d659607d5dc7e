"""Cold containers that do not import: one of them is written down after the import, and others are made from that.

The order, for one that is written down: what it has on devices comes into its memory; it lets go of the worker and
stops itself; it is dumped; it goes on, comes to the door, gets its devices back, and becomes the container that was
asked for. One that is made from it is stopped at the same place, and goes on in the same way. Whatever goes wrong costs
no more than time: the container is started as if there were no checkpoints, and its log has the reason.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from jitney import __version__
from jitney.core.checkpoints import MIB, key_of, unfit
from jitney.drivers.disk import boot_id
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.loading import Loaded
from jitney.drivers.runtime.forking.template import TemplateProcess
from jitney.drivers.runtime.process.door import Door
from jitney.drivers.runtime.process.shelf import About, Shelf
from jitney.ports.checkpoints import AcceleratorHooks, Checkpointer, CheckpointFailed, Restored
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

FOLDER = "checkpoints"
TRIES_MAX = 2  # of one that fails; then not again while this worker runs
STOP_S = 30.0  # until a process has stopped itself, or is at the door
POLL_S = 0.002

RESTORED = "restored from a checkpoint, because it cannot be forked: it has what a fork would not have"
WRITTEN = " It was written down after that: later containers are restored from a checkpoint."

Load = Callable[[bool], Awaitable[TemplateProcess]]
Adopt = Callable[[Restored, socket.socket], TemplateProcess]


class Cold(NamedTuple):
    """A cold process, ready to become a container, and what its log says of how it came to be."""

    template: TemplateProcess
    note: str


class Request(NamedTuple):
    """What is to be started. `load(checkpoint)` imports; `adopt` makes a template of a process and its socket."""

    spec: TemplateSpec
    image: BuiltImage
    loaded: Loaded  # of the template that could not be forked
    env: Mapping[str, str]
    needs: tuple[str, ...]
    load: Load
    adopt: Adopt


class Checkpoints:
    """See the module.

    Args:
        checkpointer, hooks: None for a worker that makes none.
    """

    def __init__(
        self, home: Home, checkpointer: Checkpointer | None, hooks: AcceleratorHooks | None, budget_mib: int
    ) -> None:
        self._checkpointer = checkpointer
        self._hooks = hooks
        self._shelf = Shelf(home.root / FOLDER, budget_mib * MIB)
        self._door = Door(home.short)
        self._making: set[str] = set()
        self._failures: dict[str, list[str]] = {}

    async def prune(self, *, partial: bool = False) -> None:
        """Remove those of no use; with `partial` what an earlier worker did not finish, before any is made."""
        if self._checkpointer is not None:
            await asyncio.to_thread(self._shelf.prune, await self._era(), partial=partial)

    async def find(self, spec: TemplateSpec, image: BuiltImage) -> Loaded | None:
        """How the template of a checkpoint that there is was loaded."""
        if not spec.checkpoint or await self.why_not(spec, image):
            return None
        about = await asyncio.to_thread(self._shelf.find, await self._key(spec, image))
        return about.loaded if about is not None else None

    async def why_not(self, spec: TemplateSpec, image: BuiltImage) -> str:
        """Why there is none, and will be none; '' where there may be."""
        if self._checkpointer is None:
            return "this worker makes none"
        if not self._shelf.budget_bytes:
            return "`checkpoints_mib` is 0"
        can = await asyncio.to_thread(self._checkpointer.capabilities)
        if not can.possible:
            return f"{can.why} ({can.remedy})" if can.remedy else can.why
        failures = self._failures.get(await self._key(spec, image), [])
        return failures[-1] if len(failures) >= TRIES_MAX else ""

    async def start(self, request: Request) -> Cold:
        """A cold process: restored where there is a checkpoint, else one that imports, and perhaps is written down.

        Raises:
            TemplateFailed: its import fails.
        """
        why = await self.why_not(request.spec, request.image)
        if why:
            return Cold(await request.load(False), _note(request.loaded, why))
        key = await self._key(request.spec, request.image)
        about = await asyncio.to_thread(self._shelf.find, key)
        if about is not None:
            try:
                return Cold(await self._restore(key, about, request), f"{RESTORED} ({_left(request.loaded)}).")
            except CheckpointFailed as error:
                why = self._failed(key, str(error))
                await asyncio.to_thread(self._shelf.remove, key)
            return Cold(await request.load(False), _note(request.loaded, why))
        if key in self._making:
            return Cold(await request.load(False), _note(request.loaded, "it is just being made"))
        self._making.add(key)
        try:
            return await self._write_down(key, request)
        finally:
            self._making.discard(key)

    def _failed(self, key: str, why: str) -> str:
        self._failures.setdefault(key, []).append(why)
        return why

    # -------------------------------------------------------------------------------------------- writing down

    async def _write_down(self, key: str, request: Request) -> Cold:
        template = await request.load(True)
        try:
            why = await self._dump(key, template, request)
        except CheckpointFailed as lost:
            template.kill()
            await asyncio.to_thread(self._shelf.abandon, key)
            why = str(lost)
            template = await request.load(False)
        except BaseException:
            template.kill()
            raise
        if not why:
            return Cold(template, _note(request.loaded, "") + WRITTEN)
        return Cold(template, _note(request.loaded, self._failed(key, why)))

    async def _dump(self, key: str, template: TemplateProcess, request: Request) -> str:
        """Why it was not written down; '' where it was. The process is ready then in any case.

        Raises:
            CheckpointFailed: the process is lost.
        """
        assert self._checkpointer is not None
        if template.loaded.connections:
            return f"it left {'; '.join(template.loaded.connections)}"
        try:
            why = await asyncio.to_thread(self._unfit, template.pid)
            partial = await asyncio.to_thread(self._shelf.begin, key)
            has_devices = not why and self._hooks is not None and await self._hooks.before_checkpoint(template.pid)
        except OSError as error:
            why = f"{error.filename} cannot be written: {error.strerror}"
        except CheckpointFailed as error:
            if error.is_process_lost:
                raise
            why = str(error)
        if not why:
            template.pause(self._door.address)
            await self._stopped(template)
            try:
                await self._checkpointer.dump(template.pid, partial)
            except CheckpointFailed as error:
                if error.is_process_lost:
                    raise
                why = str(error)
            template.resume(await self._go_on(template.pid, template.dead, has_devices), request.env)
            if not why:
                about = About(
                    loaded=request.loaded, needs=request.needs, era=await self._era(), has_devices=has_devices
                )
                why = await asyncio.to_thread(self._commit, key, about)
        if why:
            await asyncio.to_thread(self._shelf.abandon, key)
        return why

    def _unfit(self, pid: int) -> str:
        memory = sum(procfs.rss_kib(one) for one in procfs.tree(pid)) * 1024
        return unfit(memory, self._shelf.budget_bytes, self._shelf.free_bytes())

    def _commit(self, key: str, about: About) -> str:
        try:
            has_room = self._shelf.commit(key, about)
        except OSError as error:
            return f"it cannot be kept: {error.strerror}"
        return "" if has_room else f"it is larger than `checkpoints_mib` ({self._shelf.budget_bytes // MIB:,}) allows"

    async def _stopped(self, template: TemplateProcess) -> None:
        """Until it has stopped itself. The kernel tells of that only who waits for all ends of the process."""
        deadline = asyncio.get_running_loop().time() + STOP_S
        while template.is_alive:
            stat = procfs.stat(template.pid)
            if stat is not None and stat.state == "T":
                return
            if asyncio.get_running_loop().time() > deadline:
                raise CheckpointFailed("it did not stop", is_process_lost=True)
            await asyncio.sleep(POLL_S)
        raise CheckpointFailed(f"it ended with {template.exit.describe()}", is_process_lost=True)

    async def _go_on(self, pid: int, dead: asyncio.Future[None], has_devices: bool) -> socket.socket:
        """Have a stopped process go on, with what it had on devices: the socket to it."""
        control = await self._come(pid, dead)
        try:
            if has_devices:
                if self._hooks is None:
                    raise CheckpointFailed("nothing here gives it back what it had on devices")
                await self._hooks.after_restore(pid)
        except BaseException:
            control.close()
            raise
        return control

    async def _come(self, pid: int, dead: asyncio.Future[None]) -> socket.socket:
        """Have a stopped process go on: its socket, when it has come to the door."""
        try:
            coming = self._door.expect(pid)
        except OSError as error:
            raise CheckpointFailed(f"the worker has no door: {error.strerror}", is_process_lost=True) from error
        try:
            os.kill(pid, signal.SIGCONT)
            either: list[asyncio.Future[Any]] = [coming, dead]
            await asyncio.wait(either, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
        except ProcessLookupError:
            pass  # it has ended
        finally:
            if not coming.done():
                coming.cancel()
        raise CheckpointFailed("it did not go on", is_process_lost=True)

    # -------------------------------------------------------------------------------------------- restoring

    async def _restore(self, key: str, about: About, request: Request) -> TemplateProcess:
        """A process from a checkpoint.

        Raises:
            CheckpointFailed: there is none then.
        """
        assert self._checkpointer is not None
        restored = await self._checkpointer.restore(self._shelf.images(key))
        dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(_: Exit) -> None:
            if not dead.done():
                dead.set_result(None)

        restored.watch(ended)
        try:
            control = await self._go_on(restored.pid, dead, about.has_devices)
            try:
                template = request.adopt(restored, control)
            except OSError as error:
                control.close()
                raise CheckpointFailed(f"no pipes for it: {error.strerror}") from error
        except BaseException:
            restored.kill()
            await asyncio.shield(dead)
            raise
        template.resume(control, request.env)
        await asyncio.to_thread(self._shelf.use, key)
        return template

    # -------------------------------------------------------------------------------------------- names

    async def _key(self, spec: TemplateSpec, image: BuiltImage) -> str:
        return key_of(spec, image.python_path, await self._era())

    async def _era(self) -> str:
        """What is the same for all that can be restored now."""
        if self._checkpointer is None:
            return ""
        can = await asyncio.to_thread(self._checkpointer.capabilities)
        return f"{boot_id()} {can.name} {can.version} {__version__}"

    def close(self) -> None:
        """Nothing more is started."""
        self._door.close()


def _note(loaded: Loaded, why: str) -> str:
    return msgspec.structs.replace(loaded, no_checkpoint=why).note


def _left(loaded: Loaded) -> str:
    return "; ".join(loaded.obstacles)
