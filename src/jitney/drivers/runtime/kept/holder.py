"""The worker's end of a holder (runner.wall.holder): a process of ours with a network namespace, the hub of one box."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitney.drivers.command import kill
from jitney.drivers.runtime.kept.channel import Channel, Message
from jitney.ports.network import NetworkFailed

ANSWER_S = 30.0


class Holder:
    """See the module. `on_end` is called once if it ends before it is told to."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, on_end: Callable[[], None]) -> None:
        self.pid = process.pid
        self._process = process
        self._on_end = on_end
        self._answer: asyncio.Future[str] | None = None
        self._is_ending = False
        self._channel = Channel(control, self._take, self._lost)

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str], on_end: Callable[[], None]) -> Holder:
        """One whose namespace is there.

        Raises:
            NetworkFailed: it cannot be had; nothing is left.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    str(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env=dict(env),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise NetworkFailed(f"the process that holds the network does not start: {error}") from error
                raise
        made = cls(process, ours, on_end)
        try:
            await made._hear("ready")
        except BaseException:
            await made.end()
            raise
        return made

    async def set_up(self, plan: dict[str, Any]) -> None:
        """Make it the hub of this plan (core.egress.hub_message).

        Raises:
            NetworkFailed: it cannot be.
        """
        self._channel.send({"kind": "hub", "plan": plan})
        await self._hear("make the hub")

    async def join(self, plan: dict[str, Any], pod: dict[str, Any], namespace: int) -> None:
        """Link a network namespace with it, as a pod (core.egress.pod_message).

        Raises:
            NetworkFailed: it cannot be.
        """
        self._channel.send({"kind": "join", "plan": plan, "pod": pod}, [namespace])
        await self._hear("link the container")

    async def _hear(self, what: str) -> None:
        if not self._channel.is_open:
            raise NetworkFailed("the process that holds the network has ended")
        self._answer = asyncio.get_running_loop().create_future()
        try:
            why = await asyncio.wait_for(self._answer, ANSWER_S)
        except TimeoutError as error:
            raise NetworkFailed(f"the process that holds the network does not answer ({what})") from error
        if why:
            raise NetworkFailed(why)

    def _take(self, message: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(str(message["message"]))

    def _lost(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result("the process that holds the network has ended")
        if not self._is_ending:
            self._on_end()

    async def end(self) -> None:
        """It ends, and its namespace with it. Idempotent."""
        self._is_ending = True
        self._channel.close()
        await kill(self._process)
