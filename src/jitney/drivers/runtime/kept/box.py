"""One box with what belongs to it: its shell, its keeper, its template. It serves one `TemplateSpec`.

A *shell* is what a driver makes: the wall, with a keeper in it. A box lives as long as its template is open or one of
its containers runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import msgspec

from jitney.drivers.runtime.forking.capture import Capture
from jitney.drivers.runtime.forking.scratch import remove_tree
from jitney.drivers.runtime.forking.template import LoadOutput, TemplateProcess
from jitney.drivers.runtime.kept.keeper import BoxFailed, Keeper
from jitney.drivers.runtime.kept.render import BoxOrder, render_process
from jitney.ports.runtime import Output
from jitney.values.containers import Exit, TemplateSpec
from jitney.values.isolation import Isolation

CONNECT_S = 60.0  # from the start of a shell until its keeper is there


class Entrance(msgspec.Struct, frozen=True, kw_only=True):
    """By which the worker comes to the mounts of a box.

    `pid`: a process of this machine that has them; `own_root`: whether it takes something else than their root for its
    own; `places`: where what is to be seen at a path is mounted, where that is not the path itself. One of '' is none.
    """

    pid: int
    own_root: bool = False
    places: dict[str, str] | None = None

    def place(self, path: str) -> str:
        """Where to mount what is to be seen at a path.

        Raises:
            BoxFailed: it cannot be seen there.
        """
        if self.places is None:
            return path
        if not self.places.get(path):
            raise BoxFailed(f"no volume can be at {path} there: something else is, or it was not asked for in time")
        return self.places[path]


class Shell(Protocol):
    """The wall of one box. `ended` is done when nothing runs in it any more, with the reason ('': none is known)."""

    ended: asyncio.Future[str]
    no_network: str  # why it has none although its policy allows one; '' = it has what the policy says

    async def open(self) -> None:
        """Make it, with a keeper in it.

        Raises:
            BoxFailed: it cannot be; what is left of it goes with `close`.
        """
        ...

    async def entrance(self) -> Entrance:
        """Where volumes are mounted in it.

        Raises:
            BoxFailed: nowhere: the message says why, and what to do.
        """
        ...

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """What all that is in it may use of the machine, where its containers cannot be bounded one by one."""
        ...

    async def close(self) -> None:
        """End all that is in it, and remove it. Idempotent, and never raises."""
        ...


class Boxes(Protocol):
    """What makes shells: an engine, gVisor."""

    tier: Isolation
    shares_locks: bool  # with the machine: files that are locked inside are locked outside
    can_join: bool  # processes inside may enter control groups of the machine

    async def reap(self) -> int:
        """End what an earlier run left; how many boxes."""
        ...

    def shell(self, order: BoxOrder, folder: Path) -> Shell:
        """One that is not made yet. `folder` is its own, on this machine."""
        ...

    async def close(self) -> None:
        """No more of them."""
        ...


class Box:
    """See the module."""

    def __init__(
        self,
        spec: TemplateSpec,
        order: BoxOrder,
        *,
        folder: Path,
        control: Path,
        make_shell: Callable[[BoxOrder, Path], Shell],
        on_orphan: Callable[[Box, int, Exit], None],
        on_over: Callable[[Box, int, int], None],
        on_death: Callable[[Box], None],
    ) -> None:
        self.name = order.name
        self.spec = spec
        self.image = order.image
        self.containers: set[str] = set()
        self.is_closed = False
        self.why_ended = ""
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.folder = folder
        self._control = control
        self._on_orphan = on_orphan
        self._on_over = on_over
        self._on_death = on_death
        try:
            for path, mode in ((folder, 0o711), (control, 0o755)):
                path.mkdir(mode=mode, parents=True)
                path.chmod(mode)
            self.keeper = Keeper(control, self)
        except OSError:
            self._remove_folders()
            raise
        self._shell = make_shell(order, folder)
        self._ending: asyncio.Task[None] | None = None
        self._cpu_milli: dict[str, int | None] = {}

    def admit(self, container_id: str, cpu_milli: int | None) -> None:
        """A container is started in it, that has this limit."""
        self.containers.add(container_id)
        self._cpu_milli[container_id] = cpu_milli
        self._shell.bound_cpu(sum_of(self._cpu_milli.values()))

    def release(self, container_id: str) -> None:
        """A container has ended."""
        self.containers.discard(container_id)
        self._cpu_milli.pop(container_id, None)
        self._shell.bound_cpu(sum_of(self._cpu_milli.values()))
        self.retire()

    @property
    def no_network(self) -> str:
        """Why there is none although its policy allows one."""
        return self._shell.no_network

    async def entrance(self) -> Entrance:
        """See Shell."""
        if not self.has_room:
            raise BoxFailed("the container has ended")
        return await self._shell.entrance()

    async def open(self) -> None:
        """Make it.

        Raises:
            BoxFailed: it cannot be; nothing is left of it.
        """
        connected: asyncio.Future[Any] = asyncio.ensure_future(self.keeper.connected())
        try:
            await self._shell.open()
            either: set[asyncio.Future[Any]] = {connected, self._shell.ended}
            await asyncio.wait(either, timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if not connected.done():
                raise BoxFailed(self._why_silent())
        except BaseException:
            await asyncio.shield(self._end())
            raise
        finally:
            connected.cancel()
        self._shell.ended.add_done_callback(lambda _: self.keeper.close())

    def _why_silent(self) -> str:
        if self._shell.ended.done():
            return f"its first process ended: {self._shell.ended.result() or 'without a word'}"
        return (
            f"its first process has not answered within {CONNECT_S:.0f} s on {self._control}: "
            "is the engine on another machine, or in a virtual one?"
        )

    # -------------------------------------------------------------------------------------------- what it hears

    def orphan_ended(self, pid: int, how: Exit) -> None:
        """See keeper.Listener."""
        self._on_orphan(self, pid, how)

    def over(self, pid: int, used_kib: int) -> None:
        """See keeper.Listener."""
        self._on_over(self, pid, used_kib)

    def gone(self) -> None:
        """See keeper.Listener."""
        self.is_closed = True
        self._on_death(self)
        self._end()

    # -------------------------------------------------------------------------------------------- processes

    async def start_process(
        self,
        name: str,
        cause: str,
        output: Output,
        *,
        is_cold: bool,
        joins: tuple[int, ...] = (),
        on_exited: Callable[[str, int, Exit], None],
        on_death: Callable[[TemplateProcess], None],
    ) -> TemplateProcess:
        """A template's process, or a container's that cannot be forked; nothing is loaded in it yet.

        Raises:
            BoxFailed: it cannot be started.
            BoxGone: the box has ended.
        """
        ours, theirs = socket.socketpair()
        printer = LoadOutput(output)
        capture = Capture(cause, printer)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            message = render_process(self.spec, self.image, is_cold=is_cold)
            descriptors = [null, *capture.child_fds, theirs.fileno()]
            child = await self.keeper.start(name, message, descriptors, joins)
        except BaseException:
            capture.finish()
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        return TemplateProcess(child, ours, capture, printer, is_cold=is_cold, on_exited=on_exited, on_death=on_death)

    # -------------------------------------------------------------------------------------------- ending

    def close(self) -> None:
        """Nothing more is started in it; it goes when its last container has."""
        self.is_closed = True
        self.retire()

    def retire(self) -> None:
        """End it if nobody needs it."""
        if self.is_closed and not self.containers:
            self._end()

    def kill(self) -> None:
        """End all that is in it."""
        self.is_closed = True
        self._end()

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._clean())
        return self._ending

    async def _clean(self) -> None:
        self.keeper.end()
        try:
            await self._shell.close()
            if self._shell.ended.done():
                self.why_ended = self._shell.ended.result()
        finally:
            self.keeper.close()
            await asyncio.to_thread(self._remove_folders)
            self.dead.set_result(None)

    def _remove_folders(self) -> None:
        for folder in (self.folder, self._control):
            remove_tree(str(folder))

    @property
    def has_room(self) -> bool:
        """Whether containers may be started in it."""
        return self._ending is None


def sum_of(limits: Collection[int | None]) -> int | None:
    """The CPU limit of several containers together; None: one of them has none, or there is none of them."""
    known = [one for one in limits if one is not None]
    return sum(known) if known and len(known) == len(limits) else None
