"""Running and deploying an app: images and sources to the server, functions published, logs shown, and the end of it.

Images build and sources are shipped at the same time, each distinct one once. All of it runs on the portal.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from jitney.client import declare, image_builds, output
from jitney.client import session as sessions
from jitney.client.handle import Target
from jitney.client.image import Image
from jitney.client.link import StreamBroken
from jitney.client.portal import PORTAL
from jitney.client.source import Manifest, collect, ship
from jitney.client.volume_mounts import mounts_of
from jitney.errors import InvalidError, JitneyError, NotFoundError
from jitney.runner import state
from jitney.values.apps import AppState
from jitney.values.containers import LogLine, lines_without
from jitney.values.images import BuiltImage
from jitney.wire.messages.apps import AppCreate, AppLogs, AppPublish, AppRef, AppStop
from jitney.wire.methods import APP_CREATE, APP_LOGS, APP_PUBLISH, APP_STOP, APP_SUMMARY

if TYPE_CHECKING:
    from jitney.client.app import App
    from jitney.client.declare import Declaration
    from jitney.client.session import Session
    from jitney.values.functions import FunctionSpec

T = TypeVar("T")

STOP_S_MAX = 10.0  # for the containers to end and their last lines to arrive


class Deployed(NamedTuple):
    """What `app.deploy()` did. `changed` is False when exactly this ran already."""

    app_id: str
    name: str
    version: int
    changed: bool
    functions: dict[str, str]


class Running:
    """An app while it runs: `with app.run():` or `async with app.run():`. Gives the app."""

    def __init__(self, app: App, *, detach: bool) -> None:
        self._app = app
        self._detach = detach
        self._session: Session | None = None
        self._app_id = ""
        self._logs: asyncio.Task[None] | None = None

    def __enter__(self) -> App:
        PORTAL.call(self._start())
        return self._app

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        PORTAL.call(self._stop())

    async def __aenter__(self) -> App:
        await PORTAL.acall(self._start())
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await PORTAL.acall(self._stop())

    async def _start(self) -> None:
        app = self._app
        if state.config is not None:
            raise InvalidError(
                "app.run() was called in a container, while it imported the module",
                hint='put it below `if __name__ == "__main__":`',
            )
        if self._session is not None or app._is_running:
            raise InvalidError(f"{app!r} runs already")
        session = self._session = sessions.current()
        creating = asyncio.create_task(self._create(session))
        try:
            specs, _ = await together(_prepare(session, app), _wait(creating))
            published = await session.request(
                APP_PUBLISH, AppPublish(app_id=self._app_id, functions=specs, secrets=_secret_values(app))
            )
        except BaseException:
            await asyncio.wait([creating], timeout=STOP_S_MAX)  # what was created is to be stopped
            creating.cancel()
            await self._stop()
            raise
        app._bind(self._app_id, _targets(session, self._app_id, published.function_ids, app, specs), is_running=True)
        output.current().published(self._app_id, published.function_ids)

    async def _create(self, session: Session) -> None:
        app = self._app
        request = AppCreate(
            name=app.name or "",
            state=AppState.DETACHED if self._detach else AppState.EPHEMERAL,
            tags=app._tags,
            versions=declare.versions(),
        )
        self._app_id = (await session.request(APP_CREATE, request)).app_id
        output.current().app_created(self._app_id, app.name or "")
        self._logs = asyncio.create_task(follow_logs(session, self._app_id))

    async def _stop(self) -> None:
        app, session, self._session = self._app, self._session, None
        app._bind(None, {})
        logs, self._logs = self._logs, None
        if session is None or not self._app_id:
            return
        try:
            if self._detach:
                return
            async with asyncio.timeout(STOP_S_MAX):
                await session.request(APP_STOP, AppStop(app=self._app_id, wait_logs=True))
                if logs is not None:
                    await asyncio.shield(logs)
            summary = await session.request(APP_SUMMARY, AppRef(app=self._app_id))
            output.current().summary(self._app_id, summary)
        except NotFoundError:
            pass  # somebody else has stopped it
        except (TimeoutError, JitneyError) as error:
            what = str(error) or f"it took longer than {STOP_S_MAX:.0f} s"
            output.current().note(f"app {self._app_id} is left to the server to stop: {what}")
        finally:
            if logs is not None:
                logs.cancel()


async def deploy(app: App, name: str | None, tag: str) -> Deployed:
    """Publish an app under a name.

    Raises:
        InvalidError: there is no name, or nothing to deploy.
    """
    if not name:
        raise InvalidError("an app needs a name to be deployed", hint='write jitney.App("name"), or app.deploy("name")')
    if not app._declared:
        raise InvalidError(f"app {name!r} has no functions", hint="declare one with @app.function()")
    session = sessions.current()
    specs = await _prepare(session, app)
    request = AppPublish(
        deploy_as=name,
        tag=tag,
        tags=app._tags,
        functions=specs,
        versions=declare.versions(),
        secrets=_secret_values(app),
    )
    answer = await session.request(APP_PUBLISH, request)
    app._bind(answer.app_id, _targets(session, answer.app_id, answer.function_ids, app, specs))
    output.current().published(answer.app_id, answer.function_ids)
    return Deployed(answer.app_id, name, answer.version, answer.changed, answer.function_ids)


def _secret_values(app: App) -> dict[str, dict[str, str]]:
    """Of all secrets without a name, which were read as the specs were made."""
    return {secret_id: values for one in app._declared for secret_id, values in one.secret_values().items()}


def _targets(
    session: Session, app_id: str, function_ids: dict[str, str], app: App, specs: Sequence[FunctionSpec]
) -> dict[str, Target]:
    scopes = {spec.name: spec.scope for spec in specs}
    return {
        one.name: Target(session, function_ids[one.name], app_id, one.name, one.methods, scopes[one.name])
        for one in app._declared
    }


# ------------------------------------------------------------------------------------------------ preparing


class _Parts:
    """The distinct images and sources of an app."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.images: dict[bytes, asyncio.Task[BuiltImage]] = {}
        self.sources: dict[tuple[Any, ...], asyncio.Task[tuple[Manifest, str]]] = {}

    def image(self, image: Image) -> asyncio.Task[BuiltImage]:
        key = declare.same_spec(image.spec)
        if key not in self.images:
            self.images[key] = asyncio.create_task(image_builds.build(self.session, image))
        return self.images[key]

    def source(self, one: Declaration, image: Image, included: bool) -> asyncio.Task[tuple[Manifest, str]]:
        key = (one.raw.__module__, image.attachments, included)
        if key not in self.sources:
            module = sys.modules.get(one.raw.__module__)
            self.sources[key] = asyncio.create_task(_ship(self.session, module, image, included))
        return self.sources[key]


async def _prepare(session: Session, app: App) -> tuple[Any, ...]:
    """The specs of all functions of an app, when what they need is at the server."""
    parts = _Parts(session)
    default = app.image or Image.debian_slim()
    try:
        return tuple(await together(*(_spec(parts, app, one, one.image or default) for one in app._declared)))
    finally:
        await _end([*parts.images.values(), *parts.sources.values()])


async def spec_of(session: Session, app: App, one: Declaration) -> Any:
    """The spec of one function of an app, when what it needs is at the server; nothing is published."""
    parts = _Parts(session)
    try:
        return await _spec(parts, app, one, one.image or app.image or Image.debian_slim())
    finally:
        await _end([*parts.images.values(), *parts.sources.values()])


async def _spec(parts: _Parts, app: App, one: Declaration, image: Image) -> Any:
    included = app._include_source if one.include_source is None else one.include_source
    built, (manifest, source_id), mounts = await together(
        _wait(parts.image(image)), _wait(parts.source(one, image, included)), mounts_of(one.options.volumes)
    )
    if manifest.is_main and manifest.module and "." not in manifest.module:
        # Results that are of classes of this script name the module by which the container imported it.
        sys.modules.setdefault(manifest.module, sys.modules["__main__"])
    return await asyncio.to_thread(one.spec, manifest.module, manifest.is_main, built, source_id, mounts)


async def _wait(task: asyncio.Task[T]) -> T:
    return await asyncio.shield(task)


async def _ship(session: Session, module: ModuleType | None, image: Image, included: bool) -> tuple[Manifest, str]:
    manifest = await asyncio.to_thread(collect, module, image.attachments, include_source=included)
    sent = 0

    async def request(method: Any, message: Any) -> Any:
        nonlocal sent
        sent += sum(map(len, getattr(message, "contents", ())))
        return await session.request(method, message)

    source_id = await ship(request, manifest)
    output.current().source_shipped(len(manifest.files), sent)
    return manifest, source_id


async def together(*coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results of all, in order; the first error ends the others."""
    tasks = [asyncio.create_task(coro) for coro in coros]
    try:
        done = await asyncio.gather(*tasks)
    finally:
        await _end(tasks)
    return list(done)


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ------------------------------------------------------------------------------------------------ logs


async def follow_logs(session: Session, app_id: str) -> None:
    """Show what the containers of an app print, until it has stopped. After a break it goes on where it was."""
    since_ms, shown_at_last_ms = 0, Counter[LogLine]()
    while True:
        told_again = shown_at_last_ms.copy()
        try:
            link = await session.link_again()
            stream = link.stream(APP_LOGS, AppLogs(app=app_id, follow=True, since_ms=since_ms))
            async for event in stream:
                lines = lines_without(event.lines, told_again)
                if not lines:
                    continue
                # On a thread: a terminal or pipe that takes no more stops its writer, and would stop the portal.
                await asyncio.to_thread(_show, lines)
                if lines[-1].at_ms > since_ms:
                    since_ms, shown_at_last_ms = lines[-1].at_ms, Counter()
                shown_at_last_ms.update(line for line in lines if line.at_ms == since_ms)
            return
        except StreamBroken:
            continue
        except JitneyError:
            return  # there is no server any more, and whoever calls something learns that


def _show(lines: list[LogLine]) -> None:
    progress = output.current()
    for line in lines:
        progress.log(line)
