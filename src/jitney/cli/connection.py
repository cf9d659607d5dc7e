"""The commands' way to the server: one blocking question, over the SDK's session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from jitney.client import embedded, session
from jitney.client.portal import PORTAL
from jitney.compose.config import load
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


def phases(app_id: str) -> Counter[str]:
    """How many containers of an app there are in each phase, for the live display."""
    found = session.current().ask(CONTAINER_LIST, ContainerList(app=app_id, limit=1000))
    return Counter(str(container.phase) for container in found.containers)
