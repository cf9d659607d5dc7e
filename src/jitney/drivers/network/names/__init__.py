"""Names for containers, by a process of ours that answers and carries (`porter`), one for all hubs of a worker.

The process is started with the first hub that needs it, and again should it end: the worker keeps the hubs' sockets and
knows who is admitted. It works without an uplink too: what it carries leaves from this machine, as its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jitney.drivers.command import kill
from jitney.ports.network import HubPlan, NetworkFailed, OnRefused, Refused

log = logging.getLogger(__name__)

SOCKETS = 4
MESSAGE_BYTES_MAX = 128 * 1024
ANSWER_WITHIN_S = 15.0
_OPENER = Path(__file__).with_name("sockets.py")


@dataclass
class _Hub:
    sockets: list[socket.socket]
    refused: tuple[str, ...]
    guests: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Process:
    """The process, while it lives."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, on_refused: OnRefused) -> None:
        self._process = process
        self._control = control
        self._on_refused = on_refused
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._number = 0
        self.lives = True
        asyncio.get_running_loop().add_reader(control.fileno(), self._read)

    @classmethod
    async def start(cls, on_refused: OnRefused) -> _Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "jitney.drivers.network.names.process",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise NetworkFailed(f"names: their process does not start: {error}") from error
        return cls(process, ours, on_refused)

    async def ask(self, message: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
        self._number += 1
        number = self._number
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            data = json.dumps({"number": number, **message}).encode()
            handles = [sock.fileno() for sock in sockets]
            await self._writable()
            socket.send_fds(self._control, [data], handles)
            failed = await asyncio.wait_for(answer, ANSWER_WITHIN_S)
        except (OSError, TimeoutError) as error:
            raise NetworkFailed(f"names: their process does not answer: {error}") from error
        finally:
            self._waiting.pop(number, None)
        if failed:
            raise NetworkFailed(f"names: {failed}")

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._control.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            if self.lives:
                loop.remove_writer(self._control.fileno())

    def _read(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        message = json.loads(data)
        if "refused" in message:
            hub_id, address, name, why = message["refused"]
            self._on_refused(Refused(hub_id=hub_id, address=address, name=name, why=why))
            return
        answer = self._waiting.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result(message["failed"])

    def _lost(self) -> None:
        if self.lives:
            self.lives = False
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._control.fileno())
            loop.remove_writer(self._control.fileno())
            self._control.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(OSError("it has ended"))

    async def end(self) -> None:
        self._lost()
        await kill(self._process)


class PorterNames:
    """See the module."""

    def __init__(self, on_refused: OnRefused) -> None:
        self._on_refused = on_refused
        self._hubs: dict[str, _Hub] = {}
        self._process: _Process | None = None
        self._lock = asyncio.Lock()

    async def open(self, hub_id: str, pid: int, plan: HubPlan) -> None:
        """Open the sockets in the hub, and hand them to the process."""
        async with self._lock:
            if hub_id in self._hubs:
                return
            hub = _Hub(await _sockets_of(pid, plan.gateway), plan.refused)
            self._hubs[hub_id] = hub
            try:
                if self._process is None or not self._process.lives:
                    await self._start()
                else:
                    await self._hand_over(self._process, hub_id, hub)
            except BaseException:
                self._drop(hub_id)
                raise

    async def _start(self) -> None:
        """A process that knows all that we know."""
        if self._process is not None:
            log.warning("names.process_ended", extra={"hubs": len(self._hubs)})
            await self._process.end()
        self._process = process = await _Process.start(self._on_refused)
        try:
            for hub_id, hub in self._hubs.items():
                await self._hand_over(process, hub_id, hub)
        except BaseException:
            await process.end()  # half of what it should know is worse than a new one
            raise

    async def _hand_over(self, process: _Process, hub_id: str, hub: _Hub) -> None:
        await process.ask({"do": "open", "hub": hub_id, "refused": hub.refused}, hub.sockets)
        for guest in hub.guests.values():
            await process.ask(guest)

    async def admit(self, hub_id: str, address: str, names: Sequence[str], cidrs: Sequence[str] = ()) -> None:
        """Tell the process of a container."""
        async with self._lock:
            hub = self._hubs.get(hub_id)
            if hub is None:
                raise NetworkFailed(f"names: the hub {hub_id} is not open")
            guest = {
                "do": "admit",
                "hub": hub_id,
                "address": address,
                "names": list(names),
                "cidrs": list(cidrs),
            }
            hub.guests[address] = guest
            try:
                if self._process is None or not self._process.lives:
                    await self._start()
                else:
                    await self._process.ask(guest)
            except BaseException:
                del hub.guests[address]
                raise

    async def forget(self, hub_id: str, address: str) -> None:
        """Tell the process that a container is gone."""
        async with self._lock:
            hub = self._hubs.get(hub_id)
            if hub is not None and address in hub.guests:
                del hub.guests[address]
                await self._tell({"do": "forget", "hub": hub_id, "address": address})

    async def shut(self, hub_id: str) -> None:
        """Close a hub's sockets on both sides: they would keep its namespace."""
        async with self._lock:
            if hub_id in self._hubs:
                await self._tell({"do": "shut", "hub": hub_id})
                self._drop(hub_id)

    async def _tell(self, message: dict[str, Any]) -> None:
        """Something that a process which has ended needs not to know."""
        if self._process is not None and self._process.lives:
            try:
                await self._process.ask(message)
            except NetworkFailed:
                await self._process.end()

    def _drop(self, hub_id: str) -> None:
        for sock in self._hubs.pop(hub_id).sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # whoever else has come to hold it
            except OSError:
                pass  # UDP has nothing to shut
            sock.close()

    async def close(self) -> None:
        """Shut all, and end the process."""
        async with self._lock:
            if self._process is not None:
                await self._process.end()
                self._process = None
            for hub_id in list(self._hubs):
                self._drop(hub_id)


async def _sockets_of(pid: int, gateway: str) -> list[socket.socket]:
    """The sockets of a hub, opened by a program that goes there.

    Raises:
        NetworkFailed: it cannot.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_OPENER), str(pid), gateway, str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise NetworkFailed(f"names: {error}") from error
        _, said = await process.communicate()
        if process.returncode:
            raise NetworkFailed(f"names: {said.decode(errors='replace').strip()[-400:] or 'no sockets in the hub'}")
        _, handles, _, _ = socket.recv_fds(ours, 64, SOCKETS)
    return [socket.socket(fileno=handle) for handle in handles]
