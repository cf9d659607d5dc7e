"""Volumes of containers that are plain processes: each gets a view of the file system of its own (runner.view).

Where a volume goes is decided here, from how the machine's folders look:

- a folder that is there is covered, for this container alone;
- one that is missing gets a place in a frame over the folder that would have it, where a frame takes nothing away: at
  the root, at the usual places of mounts, and where the user may write nothing anyhow. A frame is read-only, so that
  nothing is written which would be lost;
- anywhere else it has to be made first, as a frame would hide what others make there, and nothing of ours is left on
  the user's disk.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from jitney.drivers.runtime.forking import visits
from jitney.drivers.runtime.forking.scratch import remove_tree
from jitney.drivers.runtime.process.container import Container
from jitney.drivers.walls.probe import Finding
from jitney.drivers.walls.render import render_mount
from jitney.ports.mounting import MountFailed
from jitney.ports.runtime import StartFailed, TemplateFailed
from jitney.runner.failures import encode_failure_text
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted
from jitney.wire.home import Home

FRAMED = ("/", "/mnt", "/media", "/srv", "/opt")  # folders that nothing but mounts is expected in to be new
STAGE = "stage"


class Seen(NamedTuple):
    """How a path looks to the user."""

    is_there: bool  # a folder, and one that may be entered
    may_write: bool


Look = Callable[[str], Seen]


class NoPlace(Exception):
    """A volume cannot be there: the message says why, and what to do."""


def look_at(path: str) -> Seen:
    """On this machine."""
    return Seen(os.path.isdir(path) and os.access(path, os.X_OK), os.access(path, os.W_OK))


def frame_of(target: str, look: Look) -> tuple[str, str] | None:
    """(where a frame is needed, the folder that it must have); None where the target is there.

    Raises:
        NoPlace: no frame may be there.
    """
    if look(target).is_there:
        return None
    at = os.path.dirname(target)
    while not look(at).is_there:
        at = os.path.dirname(at)
    if at not in FRAMED and look(at).may_write:
        raise NoPlace(
            f"there is no folder {target}, and containers of the runtime 'process' see this machine's own folders: "
            f"make it (`mkdir -p {target}`), or mount the volume at a path like /{os.path.basename(target)}"
        )
    return at, os.path.relpath(target, at)


def render_view(
    mounts: Sequence[Mounted], *, folder: str, stage: str, own_ids: bool, look: Look, kept: Iterable[str]
) -> dict[str, Any]:
    """What runner.view.enter is given. `folder`: the server's; `kept`: paths that no volume may hide.

    Raises:
        NoPlace: one of them cannot be where it should.
    """
    frames: dict[str, list[str]] = {}
    for one in mounts:
        hidden = next((path for path in kept if f"{path}/".startswith(f"{one.target}/")), "")
        if hidden:
            raise NoPlace(f"a volume at {one.target} would hide {hidden}, which containers need: use another path")
        frame = frame_of(one.target, look)
        if frame is not None:
            frames.setdefault(frame[0], []).append(frame[1])
    return {
        "own_ids": own_ids,
        "folder": folder,
        "stage": stage,
        "frames": [{"at": at, "folders": folders} for at, folders in sorted(frames.items())],
        "mounts": [_render(one, stage, replaces=False) for one in mounts],
    }


def _render(mounted: Mounted, stage: str, *, replaces: bool) -> dict[str, Any]:
    """The paths of layers are relative: options of mounts are short, and have letters with a meaning."""
    return render_mount(mounted, replaces=replaces, stage=stage, volumes="trees", uppers="uppers")


@functools.cache
def try_view() -> Finding:
    """Whether a process here can have a view of its own; tried once."""
    if sys.platform != "linux":
        return Finding(
            why="without mount namespaces a path is one thing for all processes of the machine, and each container "
            "has its own version of a volume, and its own writes",
            remedy="read and write the volume by its methods (read_file, batch_upload), or use a worker on Linux",
        )
    with tempfile.TemporaryDirectory(prefix="jitney-probe-") as folder:
        for name in ("stage", "low", "lower", "upper", "work", "at"):
            os.mkdir(os.path.join(folder, name))
        op = ["overlay", f"{folder}/stage", ["low", "lower"], "upper", "work", False]
        mount = {"target": f"{folder}/at", "ops": [op], "part": "", "read_only": False, "replaces": False}
        plan = {
            "own_ids": needs_own_ids(), "folder": folder, "stage": f"{folder}/stage", "frames": [], "mounts": [mount],
        }  # fmt: skip
        tried = subprocess.run(
            visits.command("view", plan), stdin=subprocess.DEVNULL, capture_output=True, env={}, check=False
        )
    if not tried.returncode:
        return Finding()
    said = tried.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return Finding(
        why=f"no process of this user can mount anything for itself ({said})",
        remedy="Linux 5.11 or newer, `sysctl -w kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0`, or a worker that is root",
    )


def needs_own_ids() -> bool:
    """Whether mounting takes a user namespace."""
    return os.geteuid() != 0


class Views:
    """Of the containers of one runtime."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._numbers = itertools.count(1)  # of templates

    async def plan(self, name: str, mounts: Sequence[Mounted], image: BuiltImage) -> dict[str, Any] | None:
        """What the process of a container, or of a template, does to itself; None where it has no volumes.

        `name`: of its folder, until `discard`.

        Raises:
            StartFailed: this machine cannot do it, or not there.
        """
        if not mounts:
            return None
        found = await asyncio.to_thread(try_view)
        if found.why:
            raise _refused(f"its volumes cannot be mounted: {found.why}\n{found.remedy}")
        return self._prepare(name, mounts, image)

    @asynccontextmanager
    async def of_template(self, mounts: Sequence[Mounted], image: BuiltImage) -> AsyncIterator[dict[str, Any] | None]:
        """What the process of a template does to itself, in a `with` block that lasts until it has; as `plan`.

        Raises:
            TemplateFailed: this machine cannot do it, or not there.
        """
        name = f"t-{next(self._numbers)}"
        try:
            yield await self.plan(name, mounts, image)
        except StartFailed as failed:
            raise TemplateFailed(failed.payload) from failed
        finally:
            if mounts:
                await self.discard(name)

    def _prepare(self, name: str, mounts: Sequence[Mounted], image: BuiltImage) -> dict[str, Any]:
        stage = self._stage(name)
        home = self._home
        python = image.python_path or sys.executable
        kept = (str(home.root), str(home.sockets), str(home.segments), python, os.path.realpath(python))
        resolved = tuple(_resolved(one) for one in mounts)
        try:
            plan = render_view(
                resolved, folder=str(home.root), stage=stage, own_ids=needs_own_ids(), look=look_at, kept=kept
            )
            os.makedirs(stage, mode=0o711, exist_ok=True)
            for one in resolved:
                if one.upper:
                    visits.make_upper(str(home.uppers), one.upper)
        except NoPlace as error:
            raise _refused(str(error)) from error
        except OSError as error:
            raise _refused(f"there is no folder for its volumes: {error.strerror or error}") from error
        return plan

    async def remount(self, container: Container | None, mounted: Mounted) -> None:
        """See ports.mounting."""
        if container is None or container.handle is None or not container.is_running():
            raise MountFailed("the container has ended")
        stage = self._stage(container.id)
        await visits.attach(
            container.handle.pid,
            folder=str(self._home.root),
            stage=stage,
            mounts=[_render(_resolved(mounted), stage, replaces=True)],
            here=True,
            own_ids=needs_own_ids(),
        )

    async def discard(self, container_id: str) -> None:
        """See ports.mounting."""
        await asyncio.to_thread(remove_tree, str(self._home.uppers / container_id))

    def _stage(self, container_id: str) -> str:
        return str(self._home.uppers / container_id / STAGE)


def _resolved(mounted: Mounted) -> Mounted:
    """Its target without links: what is mounted goes where they lead."""
    return msgspec.structs.replace(mounted, target=os.path.realpath(mounted.target))


def _refused(reason: str) -> StartFailed:
    return StartFailed(reason, encode_failure_text("UnsupportedError", reason, module="jitney.errors"))
