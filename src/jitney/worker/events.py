"""What the agent's state machine is told, and what it asks for. Commands of the server are events as they come."""

from __future__ import annotations

import msgspec

from jitney.ports.runtime import ContainerHandle, TemplateFacts
from jitney.values.containers import Exit, Launch, TemplateSpec
from jitney.values.images import BuiltImage, ImageSpec
from jitney.wire.messages import workers


class TemplateOpened(msgspec.Struct, frozen=True):
    """`image_ms`: until its image was at hand."""

    spec: TemplateSpec
    facts: TemplateFacts = TemplateFacts()
    image_ms: float = 0.0


class TemplateDied(msgspec.Struct, frozen=True):
    """An open one, by itself."""

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
    """The container was not started, as its template had died, or its snapshot is of older volumes than are read."""

    container_id: str
    is_outdated: bool = False


class ContainerGone(msgspec.Struct, frozen=True):
    container_id: str
    exit: Exit


class BuildDone(msgspec.Struct, frozen=True):
    """`error` is (code, message, hint)."""

    build_id: str
    image: BuiltImage | None = None
    error: tuple[str, str, str] = ("", "", "")


class ImagesAnswered(msgspec.Struct, frozen=True):
    answer: workers.ImagesAnswer


class LinkLost(msgspec.Struct, frozen=True):
    pass


class LinkRestored(msgspec.Struct, frozen=True):
    pass


class Tick(msgspec.Struct, frozen=True):
    pass


class OpenTemplate(msgspec.Struct, frozen=True):
    """Open it; what it prints belongs to the log of `cause`. "" = it is opened ahead: see AdoptOutput."""

    spec: TemplateSpec
    cause: str


class CloseTemplate(msgspec.Struct, frozen=True):
    spec: TemplateSpec


class AdoptOutput(msgspec.Struct, frozen=True):
    """What a template that was opened ahead has printed, and what it still does, belongs to this container."""

    spec: TemplateSpec
    container_id: str


class RunContainer(msgspec.Struct, frozen=True):
    """`newest`: a template whose snapshot is outdated will not do."""

    launch: Launch
    newest: bool = True


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


class AskImages(msgspec.Struct, frozen=True):
    """`in_use`: what containers and templates run from here."""

    task_id: str
    task: workers.ImageTask
    in_use: frozenset[str] = frozenset()


class Interact(msgspec.Struct, frozen=True):
    """About a command in a container. To begin one, `handle` is the container's, and `image_id` its image's.

    There is no handle yet where the container itself has told the server of its start before we heard of it.
    """

    command: workers.OpenExec | workers.FeedExec | workers.EndExec
    handle: ContainerHandle | None = None
    image_id: str = ""


class EndCommands(msgspec.Struct, frozen=True):
    """Nobody holds any command any more."""


class Measure(msgspec.Struct, frozen=True):
    """Say what these containers use."""

    request_id: str
    handles: tuple[ContainerHandle, ...]


class Send(msgspec.Struct, frozen=True):
    report: workers.WorkerReport


class Quit(msgspec.Struct, frozen=True):
    """Nothing runs any more: send what is left, and end."""


Instruction = (
    OpenTemplate
    | CloseTemplate
    | AdoptOutput
    | RunContainer
    | AbandonStart
    | SignalContainer
    | DestroyContainer
    | Build
    | AskImages
    | Interact
    | EndCommands
    | Measure
    | Send
    | Quit
)
