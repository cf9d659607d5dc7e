"""Which function at which server a user's object stands for: found out at its first use, once.

A `Function` is cheap to make and does no I/O. Its handle knows where to look: a running app of this process, a name
at the server, or another handle with options on top. Several first uses at once share one look-up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from jitney.client import session as sessions
from jitney.client.portal import PORTAL
from jitney.client.session import Session
from jitney.client.volume_mounts import Mounts, buckets_of, mounts_of, secrets_of, variables
from jitney.errors import InvalidError, NotFoundError
from jitney.runner import state
from jitney.values.functions import MethodSpec, Overrides, Resources
from jitney.wire.messages.functions import FunctionBind, FunctionGet
from jitney.wire.methods import FUNCTION_BIND, FUNCTION_GET

if TYPE_CHECKING:
    import asyncio

    from jitney.client.app import App
    from jitney.client.secret import Secret


FRESH_S = 10.0  # how long the answer to a look-up by name is used without asking again


class Target(NamedTuple):
    """A function at a server."""

    session: Session
    function_id: str
    app_id: str
    name: str
    methods: tuple[MethodSpec, ...]
    scope: str = ""  # of its large values in shared memory


class Handle:
    """Where to find a function. Subclasses say how."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.resources = Resources()  # as declared, where that is known
        self._target: Target | None = None
        self._finding: asyncio.Task[Target] | None = None

    def known(self) -> Target | None:
        """The target, if it has been found."""
        return self._target

    async def find(self) -> Target:
        """The target. On the portal.

        Raises:
            NotFoundError: the server has no such function.
            InvalidError: it is of an app that does not run.
        """
        known = self.known()
        return known if known is not None else await self._find()

    async def find_anew(self) -> Target:
        """As `find`, for something long: looks again where the answer may have changed."""
        return await self.find()

    def forget(self, target: Target) -> bool:
        """The server knows `target` no more: whether looking again may give another."""
        return False

    async def _find(self) -> Target:
        import asyncio

        finding = self._finding
        if finding is None or finding.done() or finding.get_loop() is not PORTAL.loop():
            finding = self._finding = asyncio.create_task(self._found())
        return await asyncio.shield(finding)

    async def _found(self) -> Target:
        target = self._target = await self._look_up()
        return target

    async def _look_up(self) -> Target:
        raise NotImplementedError


async def _get(session: Session, app: str, name: str) -> Target:
    info = await session.request(FUNCTION_GET, FunctionGet(app=app, name=name))
    return Target(session, info.function_id, info.app_id, info.name, info.methods, info.scope)


class Named(Handle):
    """A function of a deployed app; with the app name '', of the app whose container this is.

    A deploy may give the name to another function. Who calls it all the time learns that within `FRESH_S`: the answer
    is used on while it is asked for again in the background.
    """

    def __init__(self, app_name: str, name: str) -> None:
        super().__init__(name)
        self.app_name = app_name
        self._fresh_until_s = 0.0

    def known(self) -> Target | None:
        target = self._target
        if target is not None and time.monotonic() > self._fresh_until_s:
            self._fresh_until_s = time.monotonic() + FRESH_S
            PORTAL.loop().call_soon_threadsafe(self._refresh)
        return target

    def _refresh(self) -> None:
        import asyncio

        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._found())
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def find_anew(self) -> Target:
        return await self._find()

    def forget(self, target: Target) -> bool:
        if self._target is target:
            self._target = None
        return True

    async def _found(self) -> Target:
        before = self._target
        try:
            found = await self._look_up()
        except NotFoundError:
            self._target = None
            raise
        self._fresh_until_s = time.monotonic() + FRESH_S
        # The same object for the same answer: what is bound to it need not be bound again.
        self._target = before if before == found else found
        assert self._target is not None
        return self._target

    def __reduce__(self) -> tuple[object, ...]:
        return (Named, (self.app_name, self.name))

    async def _look_up(self) -> Target:
        return await _get(sessions.current(), self.app_name or _own_app(self.name), self.name)


def _own_app(name: str) -> str:
    if state.config is None:
        raise InvalidError(
            f"{name!r} cannot be called remotely: its app does not run",
            hint="use `with app.run():`, or `jitney run FILE`; once deployed, "
            f"`jitney.Function.from_name(APP, {name!r})` finds it",
        )
    return str(state.config["app_id"])


class OfApp(Handle):
    """A function declared with `@app.function` or `@app.cls` in this process."""

    def __init__(self, app: App, name: str) -> None:
        super().__init__(name)
        self.app = app

    def known(self) -> Target | None:
        # Not kept here: each run of the app has ids of its own.
        return self.app._target(self.name) if state.config is None else self._target

    def __reduce__(self) -> tuple[object, ...]:
        return (Named, ("", self.name))

    async def _look_up(self) -> Target:
        try:
            return await _get(sessions.current(), _own_app(self.name), self.name)
        except NotFoundError as error:
            raise NotFoundError(
                error.message,
                hint="a container reaches its own app so; for another use `Function.from_name(app, name)`",
            ) from None


class Bound(Handle):
    """Another handle's function with other options or class parameters: a pool of its own."""

    def __init__(
        self, parent: Handle, overrides: Overrides, secrets: Sequence[Secret] = (), volumes: Mounts | None = None
    ) -> None:
        super().__init__(parent.name)
        self.volumes = volumes  # those of the overrides; None: as declared
        self.secrets = tuple(secrets)  # those of the overrides
        self.resources = overrides.resources or parent.resources
        self.parent = parent
        self.overrides = overrides
        self._of: Target | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return (Bound, (self.parent, self.overrides, self.secrets, self.volumes))

    def known(self) -> Target | None:
        of = self._of
        return self._target if of is not None and self.parent.known() is of else None

    async def find_anew(self) -> Target:
        await self.parent.find_anew()
        return await self.find()

    def forget(self, target: Target) -> bool:
        of, self._of = self._of, None
        return of is not None and self.parent.forget(of)

    async def _look_up(self) -> Target:
        import asyncio

        from jitney.client import secret

        parent = await self.parent.find()
        session = parent.session
        overrides, values = self.overrides, {}
        if self.secrets:
            refs = await asyncio.to_thread(secret.references, self.secrets)
            overrides, values = msgspec.structs.replace(overrides, secrets=refs), secret.values(self.secrets)
        if self.volumes is not None:
            buckets = await asyncio.to_thread(buckets_of, self.volumes)
            mounts, of_buckets = await mounts_of(self.volumes), secrets_of(self.volumes)
            if of_buckets:
                values = {**values, **secret.values(of_buckets)}
            env = {**variables(self.volumes), **(overrides.env or {})}
            overrides = msgspec.structs.replace(overrides, volumes=mounts, buckets=buckets, env=env or overrides.env)
        info = await session.request(
            FUNCTION_BIND, FunctionBind(function_id=parent.function_id, overrides=overrides, secrets=values)
        )
        self._of = parent
        return Target(session, info.function_id, info.app_id, info.name, info.methods or parent.methods, info.scope)
