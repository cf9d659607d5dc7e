"""What runs containers on one machine.

A container is a fork of a *template*: a warm process that has the image's interpreter, the shipped source and the
user's module in memory. The worker decides which templates are kept and when; a runtime only does.

The contract, for every driver:

 1. `open_template` gives when the template is ready to be forked from, and raises `TemplateFailed` with the failure
    (a payload of kind E) when it never will be. Opening one that is open gives at once. The caller does not open the
    same spec twice at a time. What the template prints while it loads goes to `output` as lines of container `cause`.
 2. `close_template` ends a template and whatever it started for itself. It is idempotent. Containers that were
    forked from it go on.
 3. `start` gives a handle as soon as the process exists, and does not wait for user code. It raises `TemplateGone`
    when the template does not live (any more): then nothing runs, the spec counts as closed, and the caller may open
    it again. It raises `StartFailed` for everything else, and then nothing is left behind.
 4. A template that dies takes no container with it.
 5. `wait` gives how the container ended, once and only once nothing of it is left: no process (also none that
    detached itself), no scratch folder, and every line that it wrote before its end has been handed to `output`.
    Waiting again for the same handle gives the same answer; for a handle that this runtime does not know, an `Exit`
    with neither code nor signal.
 6. `signal` and `destroy` of a container that is gone do nothing. `destroy` ends every process of the container
    with SIGKILL, and gives after `wait` could.
 7. `output` is called on the event loop, in the order of the lines of each descriptor, and answers whether it took
    them. Lines that it refuses, and lines beyond the driver's rate limit, are dropped and counted, and a line with
    descriptor 0 says how many. A container is never stopped by a slow reader.
 8. `Exit.oom_killed` is set when memory ended the container: the system's, or its own `memory_limit_mib` where
    `capabilities().memory_limit` is true. Other containers are unhurt.
 9. `reap` removes what an earlier run of this driver left on the machine: call it once, before anything else.
10. Handles are plain values. They do not outlive the process that holds the runtime: `capabilities().survives_worker`
    says so.
11. A cancelled `start` or `open_template` leaves nothing behind.
12. A runtime that is a `TemplateInsight` too tells of each open template that ends without having been closed, once.
13. `Launch.secrets` are variables of the container (over those of `env`) and of commands in it, and are nowhere else:
    not in a template's memory or environment, nor in another container, a file, a log or a command line.
14. Where `capabilities().snapshot_volumes` is true, the `volumes` of `open_template` can be read in the template, each
    at its target, and not written (their `upper` is ""). Their layers stay as they are until `close_template`, or until
    the template has died. Containers do not see them: they have those of their launch (see ports.mounting).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from jitney.values.containers import Exit, Launch, Limits, LogLine, TemplateSpec, Usage
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted

Output = Callable[[Sequence[LogLine]], bool]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime can do; conformance tests skip by it, and `jitney doctor` shows it."""

    name: str
    isolation: bool  # a wall between containers and the machine: fit for code that is not trusted
    memory_limit: bool  # memory_limit_mib is enforced
    process_limit: bool  # a fork bomb is stopped
    survives_worker: bool = False  # containers outlive the process that started them
    exec: bool = False  # commands can be run in containers that live: see ports.interactive
    snapshot_volumes: bool = False  # @enter(snap=True) methods can read volumes


class ContainerHandle(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was started. `pid` with `start_ticks` (clock ticks since boot) names a process for ever."""

    container_id: str
    pid: int
    start_ticks: int = 0
    fork_ms: float = 0.0
    note: str = ""  # why it was not forked from all that its template could have had


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a living container uses now; 0 where it cannot be read."""

    processes: int = 0
    rss_kib: int = 0
    cpu_ms: int = 0
    usage: Usage = Usage()
    limits: Limits = Limits()


class TemplateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an open template. 0 where it is not measured."""

    import_ms: float = 0.0
    snapshot_ms: float = 0.0  # of its @enter(snap=True) methods
    kib: int = 0  # memory of its own
    note: str = ""  # why containers are not forked from it, or without its snapshot; '': they are


class TemplateFailed(Exception):
    """The template cannot be made; `payload` is the failure to hand to whoever waits."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the template cannot be made")
        self.payload = payload


class TemplateGone(Exception):
    """The template to fork from does not live."""


class StartFailed(Exception):
    """The container could not be started: the message says why, for the user to read.

    `payload` is the failure to hand to the user where there is more to say (the module cannot be imported, ...).
    """

    def __init__(self, message: str, payload: bytes = b"") -> None:
        super().__init__(message)
        self.payload = payload


@runtime_checkable
class TemplateInsight(Protocol):
    """What a runtime with processes for templates does besides: it makes the choice of those to keep a good one."""

    def template_facts(self, spec: TemplateSpec) -> TemplateFacts | None:
        """About an open template; None when it is not open."""
        ...

    def watch_templates(self, on_death: Callable[[TemplateSpec], None]) -> None:
        """Call `on_death`, on the loop, for each open template that ends without having been closed."""
        ...


class Runtime(Protocol):
    """Makes templates and containers; see the contract above."""

    def capabilities(self) -> Capabilities:
        """What this runtime can do here."""
        ...

    async def reap(self) -> int:
        """Remove what an earlier run left; the number of processes that were ended."""
        ...

    async def open_template(
        self, spec: TemplateSpec, image: BuiltImage, *, cause: str, output: Output, volumes: Sequence[Mounted] = ()
    ) -> None:
        """Make a template ready.

        Raises:
            TemplateFailed: it cannot be.
        """
        ...

    async def close_template(self, spec: TemplateSpec) -> None:
        """End a template."""
        ...

    async def start(self, launch: Launch, image: BuiltImage, output: Output) -> ContainerHandle:
        """Start a container from the open template `launch.template`.

        Raises:
            TemplateGone: open the template (again) first.
            StartFailed: it cannot be started.
        """
        ...

    async def wait(self, handle: ContainerHandle) -> Exit:
        """How the container ended."""
        ...

    def signal(self, handle: ContainerHandle, signum: int) -> None:
        """Send a signal to the container's first process."""
        ...

    async def destroy(self, handle: ContainerHandle) -> None:
        """End the container at once."""
        ...

    def stats(self, handle: ContainerHandle) -> Stats | None:
        """What it uses now; None when it is gone."""
        ...

    async def close(self) -> None:
        """End every container and template. Nothing may be asked of the runtime afterwards."""
        ...
