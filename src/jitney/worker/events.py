"""What the agent's state machine is told, and what it asks for. Commands of the server are events as they come."""

from __future__ import annotations

import msgspec

from jitney.ports.runtime import ContainerHandle
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import BuiltImage, ImageSpec
from jitney.wire.messages import workers


class TemplateOpened(msgspec.Struct, frozen=True):
    spec: TemplateSpec


class TemplateBroken(msgspec.Struct, frozen=True):
    spec: TemplateSpec
    payload: bytes


class ContainerUp(msgspec.Struct, frozen=True):
    handle: ContainerHandle


class NotStarted(msgspec.Struct, frozen=True):
    """`failure` is a payload where there is more to say than `reason` does."""

    container_id: str
    reason: str
    failure: bytes = b""


class StartAbandoned(msgspec.Struct, frozen=True):
    """As asked by AbandonStart: nothing of the container is left."""

    container_id: str


class TemplateLost(msgspec.Struct, frozen=True):
    """The container was not started, as its template had died."""

    container_id: str


class ContainerGone(msgspec.Struct, frozen=True):
    container_id: str
    exit: Exit


class BuildDone(msgspec.Struct, frozen=True):
    """`error` is (code, message, hint)."""

    build_id: str
    image: BuiltImage | None = None
    error: tuple[str, str, str] = ("", "", "")


class LinkLost(msgspec.Struct, frozen=True):
    pass


class LinkRestored(msgspec.Struct, frozen=True):
    pass


class Tick(msgspec.Struct, frozen=True):
    pass


class OpenTemplate(msgspec.Struct, frozen=True):
    """Open it; what it prints belongs to the log of `cause`."""

    spec: TemplateSpec
    cause: str


class CloseTemplate(msgspec.Struct, frozen=True):
    spec: TemplateSpec


class RunContainer(msgspec.Struct, frozen=True):
    launch: Launch


class AbandonStart(msgspec.Struct, frozen=True):
    """Give up a start that takes too long; nothing happens if it is up meanwhile."""

    container_id: str


class SignalContainer(msgspec.Struct, frozen=True):
    handle: ContainerHandle
    signum: int


class DestroyContainer(msgspec.Struct, frozen=True):
    handle: ContainerHandle


class Build(msgspec.Struct, frozen=True):
    build_id: str
    spec: ImageSpec


class Send(msgspec.Struct, frozen=True):
    report: workers.WorkerReport


class Quit(msgspec.Struct, frozen=True):
    """Nothing runs any more: send what is left, and end."""


Instruction = (
    OpenTemplate
    | CloseTemplate
    | RunContainer
    | AbandonStart
    | SignalContainer
    | DestroyContainer
    | Build
    | Send
    | Quit
)
