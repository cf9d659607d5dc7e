"""Which server this process talks to, and the one link to it.

Outside a container it is the server of the folder `JITNEY_HOME` (~/.jitney). When none runs there, one is started in
the background, unless `JITNEY_AUTOSTART=0`. `JITNEY_SERVER` names the socket of a server that somebody else keeps
running (its token: `JITNEY_TOKEN`, or that of the folder). Inside a container it is the server that started it.

There is one session per server, made at the first use. A forked child keeps the object and makes its own link.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from jitney.client.greeting import Endpoint
from jitney.client.portal import PORTAL
from jitney.errors import ConnectionError, UnsupportedError
from jitney.runner import state
from jitney.wire.home import Home
from jitney.wire.methods import Method

if TYPE_CHECKING:
    from jitney.client.link import Link, Stream
    from jitney.runner.segment_pools import SegmentPools
    from jitney.runner.segments import SegmentPool

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

RESTART_AFTER_S = 2.0  # a server that crashed is left to whoever keeps it for this long before we start another


class Session:
    """One server, as seen from this process."""

    def __init__(self, home: Home, *, autostart: bool, server: str = "") -> None:
        self.home = home
        self.autostart = autostart
        self._server = server
        self._link: Link | None = None
        self._pool: SegmentPools | None = None

    # ------------------------------------------------------------------------------------------- where

    def endpoint(self) -> Endpoint:
        """Where the server is, if it runs."""
        config = state.config
        if config is not None:
            place = "this container's configuration"
            return Endpoint(str(config["link_socket"]), str(config["token"]), place, "container")
        token = os.environ.get("JITNEY_TOKEN") or self.home.read_token()
        place = "JITNEY_TOKEN" if os.environ.get("JITNEY_TOKEN") else str(self.home.token)
        if self._server:
            return Endpoint(self._server, token, place)
        info = self.home.read_server_info()
        return Endpoint(info.socket if info else str(self.home.socket()), token, place)

    def direct(self) -> Endpoint | None:
        """Where threads may connect by themselves: the server that the link is connected to."""
        link = self._link
        return link.endpoint if link is not None and link.is_connected else None

    async def _locate(self, is_wanted: bool) -> Endpoint:
        import asyncio

        if state.config is not None or self._server or not self.autostart:
            return self.endpoint()
        if self._may_start(is_wanted):
            from jitney.client import embedded  # here: containers start no server

            await asyncio.to_thread(embedded.ensure_running, self.home)
        return self.endpoint()

    def _may_start(self, is_wanted: bool) -> bool:
        """Whether a server that does not answer may be started now."""
        import time

        gone_at_s = self._link.lost_at_s if self._link is not None else None
        if gone_at_s is None:
            return True
        # One that stopped in order (asked to, or idle) has taken server.json with it: it is started for something new
        # only. One that crashed has not: it is brought back, unless somebody else does.
        if self.home.read_server_info() is not None:
            return time.monotonic() - gone_at_s >= RESTART_AFTER_S
        return is_wanted

    # ------------------------------------------------------------------------------------------- using it

    async def link(self) -> Link:
        """The connected link. On the portal.

        Raises:
            ConnectionError: no server answers, and none could be started.
            AuthError, VersionError: the server refuses this client.
        """
        return await self._connected(is_new=True)

    async def link_again(self) -> Link:
        """As `link`, to go on with something after a break: it starts no server that was stopped on purpose."""
        return await self._connected(is_new=False)

    async def _connected(self, *, is_new: bool) -> Link:
        link = self._link
        if link is None:
            from jitney.client.link import Link

            link = self._link = Link(self._locate, was_connected=state.config is not None)
            PORTAL.at_stop(self.close)
        if not link.is_connected:
            await link.connect(is_new=is_new)
        return link

    async def request(self, method: Method[Q, A], message: Q, *, resend: bool = True) -> A:
        """The server's answer to a request. On the portal. `resend=False`: do not ask again after a break."""
        return await (await self.link()).request(method, message, resend=resend)

    async def stream(self, method: Method[Q, A], message: Q) -> Stream[A]:
        """The events of a request, to iterate over; `.answer` after the last. On the portal."""
        return (await self.link()).stream(method, message)

    def ask(self, method: Method[Q, A], message: Q, *, resend: bool = True) -> A:
        """As `request`, blocking, from any other thread."""
        return PORTAL.call(self.request(method, message, resend=resend))

    def give_up(self, call_id: str) -> None:
        """Tell the server that nobody waits for a call any more. From any thread, without waiting."""
        from jitney.wire.messages.link import CancelCall

        link = self._link
        if link is not None and link.is_connected:
            PORTAL.loop().call_soon_threadsafe(link.send, CancelCall(call_id))

    @property
    def pool(self) -> SegmentPools:
        """Shared memory for large values."""
        if self._pool is None:
            from jitney.runner.segment_pools import SegmentPools

            config = state.config
            folder = str(config["segments"]) if config else str(self.home.segments)
            self._pool = SegmentPools(folder, keep_locked=True)
        return self._pool

    def pool_for(self, scope: str) -> SegmentPool | None:
        """Shared memory for the arguments of a function. None in a container, to which that of others is closed."""
        return self.pool.of(scope) if scope and state.config is None else None

    @property
    def blobs(self) -> str:
        """The folder of large durable values."""
        config = state.config
        return str(config["blobs"]) if config else str(self.home.blobs)

    async def close(self) -> None:
        """Hang up."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def abandon(self) -> None:
        """In a forked child: drop what belongs to the parent."""
        link, self._link = self._link, None
        if link is not None:
            link.abandon()


_sessions: dict[tuple[str, str], Session] = {}


def _forget() -> None:
    for session in _sessions.values():
        session.abandon()


os.register_at_fork(after_in_child=_forget)


def current() -> Session:
    """The session of this process as its environment stands.

    Raises:
        UnsupportedError: `JITNEY_SERVER` is not a socket.
    """
    server = os.environ.get("JITNEY_SERVER", "")
    config = state.config
    key = (str(config["link_socket"]), "container") if config else (_root(), server)
    session = _sessions.get(key)
    if session is None:
        session = _sessions[key] = Session(Home.default(), autostart=_autostart(), server=_socket_of(server))
    return session


_roots: dict[tuple[str | None, str | None], str] = {}


def _root() -> str:
    """The server's folder as the environment stands. Paths are slow, and every request asks."""
    place = (os.environ.get("JITNEY_HOME"), os.environ.get("HOME"))
    root = _roots.get(place)
    if root is None:
        root = str(Home.default().root)
        if os.path.isabs(place[0] or "/"):  # others depend on where this process is
            _roots[place] = root
    return root


def _autostart() -> bool:
    return os.environ.get("JITNEY_AUTOSTART", "1").lower() not in ("0", "false", "no", "off")


def _socket_of(server: str) -> str:
    if not server:
        return ""
    if "://" in server:
        raise UnsupportedError(
            f"JITNEY_SERVER={server}: this version reaches servers on the same machine only",
            hint="give the path of the server's socket, or unset it to use the server of JITNEY_HOME",
        )
    path = Path(server.removeprefix("unix:")).expanduser()
    if not path.is_socket():
        raise ConnectionError(
            f"JITNEY_SERVER={server}: there is no socket", hint="is that server running? `jitney up` starts one"
        )
    return str(path)
