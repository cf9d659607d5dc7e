"""Between the server and a worker. Commands are events of the stream `worker.attach`; reports are requests."""

from __future__ import annotations

import msgspec

from jitney.values.containers import Exit, Launch, LogLine, NodeInfo
from jitney.values.images import BuiltImage, ImageSpec


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


class BuildImage(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    build_id: str
    spec: ImageSpec


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """The server is going for good: stop everything and exit."""


WorkerCommand = StartContainer | StopContainer | InterruptContainer | BuildImage | Shutdown


class ContainerStarted(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The process lives. Phases in ms: 'template' (0 when it was warm), 'fork'."""

    container_id: str
    pid: int
    phases_ms: dict[str, float] = {}


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


WorkerReport = ContainerStarted | ContainerExited | ContainerLogs | BuildLine | BuildEnded


class WorkerReports(msgspec.Struct, frozen=True, kw_only=True):
    """Reports in the order in which they happened."""

    reports: tuple[WorkerReport, ...]
