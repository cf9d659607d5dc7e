"""The commands' way to the server: one blocking question, over the SDK's session."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from jitney.cli.screen import Containers
from jitney.client import embedded, session
from jitney.client.portal import PORTAL
from jitney.compose.config import load
from jitney.core.phases import so_far
from jitney.errors import ConnectionError
from jitney.wire.home import Home
from jitney.wire.messages.containers import ContainerList
from jitney.wire.methods import CONTAINER_LIST, Method

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)


def configured() -> session.Session:
    """The session of this process, with the options of the command line's configuration."""
    found = session.current()
    found.autostart = found.autostart and load(found.home).client.autostart
    return found


def ask(
    method: Method[Q, A],
    request: Q,
    *,
    on_event: Callable[[Any], None] | None = None,
    otherwise: Callable[[], A] | None = None,
) -> A:
    """The server's answer; `on_event` gets the events that come before it.

    `otherwise` gives the answer where there has never been a server, so that looking starts none.

    Raises:
        JitneyError: the server's typed error; `ConnectionError` when none answers and none can be started.
    """
    link = configured()
    if otherwise is not None and is_untouched(link.home):
        return otherwise()
    if on_event is None:
        return link.ask(method, request)
    return PORTAL.call(_listen(link, method, request, on_event))


async def _listen(link: session.Session, method: Method[Q, A], request: Q, on_event: Callable[[Any], None]) -> A:
    stream = await link.stream(method, request)
    async for event in stream:
        on_event(event)
    assert stream.answer is not None
    return stream.answer


def ask_running(method: Method[Q, A], request: Q) -> A:
    """The answer of a server that runs; none is started.

    Raises:
        ConnectionError: none runs.
    """
    home = Home.default()
    if not embedded.is_running(home):
        raise ConnectionError(f"no server runs in {home.root}", hint="`jitney up` starts one")
    link = session.Session(home, autostart=False)
    try:
        return link.ask(method, request, resend=False)
    finally:
        PORTAL.call(link.close())


def is_untouched(home: Home) -> bool:
    """Whether there is no server in the folder, and nothing that one left."""
    return not home.store.exists() and not embedded.is_running(home)


def containers(app_id: str) -> Containers:
    """How many containers of an app there are in each phase, and how far the first to start is: for the display."""
    found = session.current().ask(CONTAINER_LIST, ContainerList(app=app_id, limit=1000)).containers
    counted = Counter(str(container.phase) for container in found)
    starting = [one for one in found if one.phase in ("starting", "booting")]
    if not starting:
        return Containers(counted)
    first = min(starting, key=lambda one: one.created_at_ms)
    elapsed_ms = time.time() * 1000 - first.created_at_ms
    return Containers(counted, f"{first.function_name}: {so_far(first.phases_ms, elapsed_ms)}")
