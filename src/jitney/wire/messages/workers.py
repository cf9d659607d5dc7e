"""Between the server and a worker. Commands are events of the stream `worker.attach`; reports are requests."""

from __future__ import annotations

import msgspec

from jitney.values.containers import Exit, Launch, LogLine, Measured, NodeInfo, TemplateSpec
from jitney.values.exec import ExecSpec, TtySize
from jitney.values.images import BuiltImage, Collected, ImageRecord, ImageSpec, PlannedImage
from jitney.values.volumes import Committed


class WorkerAttach(msgspec.Struct, frozen=True, kw_only=True):
    """A worker reports for duty, with what runs on it. Opens the stream of its commands."""

    node: NodeInfo
    containers: tuple[RunningContainer, ...] = ()


class RunningContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A container that outlived the server's last run; `pid` is 0 while it starts."""

    container_id: str
    function_id: str
    app_id: str
    pid: int
    started_at_ms: int


class StartContainer(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    launch: Launch


class StopContainer(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """SIGTERM, then SIGKILL after `grace_ms`; 0 = SIGKILL at once. Unknown ids are answered by an exit report."""

    container_id: str
    grace_ms: int = 30_000


class InterruptContainer(msgspec.Struct, frozen=True, kw_only=True, tag="interrupt"):
    """Make the runner look at its link though user code runs (SIGURG)."""

    container_id: str


class PrewarmTemplate(msgspec.Struct, frozen=True, kw_only=True, tag="prewarm"):
    """Make a template before a container needs it, when there is nothing else to do. Not answered.

    `keep`: functions that keep containers have it, so it is made again whenever it is gone.
    """

    template: TemplateSpec
    keep: bool = False


class WithdrawTemplate(msgspec.Struct, frozen=True, kw_only=True, tag="withdraw"):
    """Nobody asks for the template any more: stop making it. One that is there stays as long as any other."""

    template: TemplateSpec


class BuildImage(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    build_id: str
    spec: ImageSpec


class PlanImage(msgspec.Struct, frozen=True, kw_only=True, tag="plan"):
    spec: ImageSpec


class ListImages(msgspec.Struct, frozen=True, kw_only=True, tag="list"):
    pass


class TagImage(msgspec.Struct, frozen=True, kw_only=True, tag="tag"):
    """`image` is an id, or another name."""

    image: str
    name: str


class RemoveImage(msgspec.Struct, frozen=True, kw_only=True, tag="remove"):
    """`in_use`: ids of images that functions have, at the server."""

    image_id: str
    in_use: tuple[str, ...] = ()


class CollectImages(msgspec.Struct, frozen=True, kw_only=True, tag="collect"):
    keep_ms: int
    dry_run: bool = False
    in_use: tuple[str, ...] = ()


ImageTask = PlanImage | ListImages | TagImage | RemoveImage | CollectImages


class AskImages(msgspec.Struct, frozen=True, kw_only=True, tag="ask_images"):
    """Something to know or to do about the images of the machine, answered by one `ImagesAnswer`."""

    task_id: str
    task: ImageTask


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """The server is going for good: stop everything and exit."""


class OpenExec(msgspec.Struct, frozen=True, kw_only=True, tag="open_exec"):
    """Run a command in a container. It ends with the link: whoever held it cannot be heard any more."""

    exec_id: str
    container_id: str
    spec: ExecSpec


class FeedExec(msgspec.Struct, frozen=True, kw_only=True, tag="feed_exec"):
    """To a command that runs: input, its end, the size of its terminal, a signal; `took`: bytes that its reader has."""

    exec_id: str
    data: bytes = b""
    eof: bool = False
    size: TtySize | None = None
    signal: int = 0
    took: int = 0


class EndExec(msgspec.Struct, frozen=True, kw_only=True, tag="end_exec"):
    """Nobody holds the command any more: end it. Not answered."""

    exec_id: str


class StatsContainers(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """Say what these containers (none: all that live) have used; answered by `ContainersMeasured`."""

    request_id: str
    container_ids: tuple[str, ...] = ()


class SyncMount(msgspec.Struct, frozen=True, kw_only=True, tag="sync_mount"):
    """A container asks to commit what it wrote to a volume, or to `reload` it; answered by `MountSynced`.

    `path`: where it is mounted, or the volume's id.
    """

    request_id: str
    container_id: str
    path: str
    reload: bool = False


WorkerCommand = (
    StartContainer
    | StopContainer
    | InterruptContainer
    | PrewarmTemplate
    | WithdrawTemplate
    | BuildImage
    | AskImages
    | OpenExec
    | FeedExec
    | EndExec
    | StatsContainers
    | SyncMount
    | Shutdown
)


class MountSynced(msgspec.Struct, frozen=True, kw_only=True, tag="mount_synced"):
    """What came of a `SyncMount`. `version`: what the container sees now, or what it made."""

    request_id: str
    version: int = 0
    committed: Committed | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


class ContainerStarted(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The process lives. `phases_ms`: see core.phases; `note`: why it was not forked from all that it could be."""

    container_id: str
    pid: int
    phases_ms: dict[str, float] = {}
    note: str = ""


class ContainerExited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """Sent once per container, after its last log line. `failure`: it never started, and why (runner.payload).

    `transient`: the failure is the machine's, not the code's, and may be over at the next start.
    """

    container_id: str
    exit: Exit
    failure: bytes = b""
    transient: bool = False


class ContainerLogs(msgspec.Struct, frozen=True, kw_only=True, tag="logs"):
    lines: tuple[LogLine, ...]


class BuildLine(msgspec.Struct, frozen=True, kw_only=True, tag="build_line"):
    build_id: str
    image_id: str
    step: int
    steps: int
    title: str
    line: str = ""


class BuildEnded(msgspec.Struct, frozen=True, kw_only=True, tag="build_ended"):
    """`image`, or the error that ended it."""

    build_id: str
    image: BuiltImage | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


class ExecOutput(msgspec.Struct, frozen=True, kw_only=True, tag="exec_output"):
    """What a command wrote. `seq` counts from 0 for each: a report that comes twice is known by it."""

    exec_id: str
    seq: int
    fd: int
    data: bytes


class ExecTook(msgspec.Struct, frozen=True, kw_only=True, tag="exec_took"):
    """A command has taken so many bytes of its input."""

    exec_id: str
    count: int


class ExecEnded(msgspec.Struct, frozen=True, kw_only=True, tag="exec_ended"):
    """Sent once, after the last output. `reason`: it did not end by itself, or never began. `code`: our own error."""

    exec_id: str
    exit_code: int = 0
    reason: str = ""
    code: str = ""
    hint: str = ""


class ContainersMeasured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    request_id: str
    measured: tuple[Measured, ...] = ()


class ImagesAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="images"):
    """What the task asked for, or the error that ended it.

    `image_id` is the one that was named or removed, `name` the full name that it has now.
    """

    task_id: str
    plan: PlannedImage | None = None
    images: tuple[ImageRecord, ...] = ()
    collected: Collected | None = None
    image_id: str = ""
    name: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""


class CollectionDue(msgspec.Struct, frozen=True, kw_only=True, tag="collection_due"):
    """It is time to remove what was not used for so long: the server asks for it, as it knows what functions have."""

    keep_ms: int


WorkerReport = (
    ContainerStarted
    | ContainerExited
    | ContainerLogs
    | BuildLine
    | BuildEnded
    | ImagesAnswer
    | CollectionDue
    | ExecOutput
    | ExecTook
    | ExecEnded
    | ContainersMeasured
    | MountSynced
)


class WorkerReports(msgspec.Struct, frozen=True, kw_only=True):
    """Reports in the order in which they happened."""

    reports: tuple[WorkerReport, ...]
