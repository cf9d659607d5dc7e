"""What a template is told to load, and what came of it: whether it is forked, and what is said where it is not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jitney.ports.runtime import TemplateFacts
from jitney.values.containers import LogLine, Snapshot, TemplateSpec
from jitney.values.volumes import Mounted

WALLED = "CRIU cannot write down a process behind a wall, only with `runtime = process`"


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The LOADED message of a template (runner.template_protocol), as far as it decides something."""

    import_ms: float = 0.0
    snapshot_ms: float = 0.0
    obstacles: tuple[str, ...] = ()
    is_snapshot_to_blame: bool = False
    connections: tuple[str, ...] = ()  # that a checkpoint could not have
    no_checkpoint: str = ""  # why containers are not restored from one, where that was asked for

    @property
    def can_fork(self) -> bool:
        """Whether containers may be forked from it."""
        return not self.obstacles

    @property
    def note(self) -> str:
        """For the log of a container that is not forked from it: what happens instead, and why. '' if nothing does."""
        if self.can_fork:
            return ""
        what = "; ".join(self.obstacles)
        instead = f" There is no checkpoint to restore it from: {self.no_checkpoint}." if self.no_checkpoint else ""
        if self.is_snapshot_to_blame:
            return (
                f"the memory snapshot is not used, so that each container runs @enter(snap=True) methods itself: "
                f"they left what cannot be shared ({what}). Open it in an @enter() method, or close it again.{instead}"
            )
        return (
            f"each container imports the module itself, which is slow: the import left what a fork would not have "
            f"({what}). Start it in a function, or in an @enter() method.{instead}"
        )

    def facts(self, kib: int) -> TemplateFacts:
        """For the port; `kib` is the memory of its process."""
        return TemplateFacts(import_ms=self.import_ms, snapshot_ms=self.snapshot_ms, kib=kib, note=self.note)


def load_message(
    spec: TemplateSpec,
    source: str,
    *,
    checkpoint: bool = False,
    view: Mapping[str, Any] | None = None,
    volumes: Sequence[Mounted] = (),
) -> dict[str, Any]:
    """LOAD, without its kind. `source` is the folder of the user's code as the template sees it, or ''; `volumes` are
    those that it sees, too."""
    return {
        "source": source,
        "module": spec.module,
        "main_module": spec.main_module,
        "sys_path": [],
        "snapshot": None if spec.snapshot is None else _snapshot(spec, spec.snapshot, {one.target for one in volumes}),
        "checkpoint": checkpoint,
        "view": view,
    }


def _snapshot(spec: TemplateSpec, snapshot: Snapshot, seen: set[str]) -> dict[str, Any]:
    """As runner.snapshot is told of it: also where there are volumes, and where its containers have what is missing."""
    paths = {*(one.path for one in snapshot.volumes), *spec.buckets}
    told: dict[str, Any] = msgspec.to_builtins(snapshot)
    return {**told, "volumes": sorted(paths & seen), "missing": sorted(paths - seen)}


def without_snapshot(spec: TemplateSpec) -> TemplateSpec:
    """The same, but that containers run those methods themselves."""
    return msgspec.structs.replace(spec, snapshot=None)


def behind_wall(spec: TemplateSpec, loaded: Loaded) -> Loaded:
    """The same, for a runtime whose containers are behind walls: if a checkpoint was asked for, why there is none."""
    if not spec.checkpoint or loaded.can_fork:
        return loaded
    return msgspec.structs.replace(loaded, no_checkpoint=WALLED)


def read_loaded(message: Mapping[str, Any]) -> Loaded:
    """What a LOADED message says.

    Raises:
        KeyError, TypeError, ValueError: user code has sent something else in its name.
    """
    return Loaded(
        import_ms=float(message["ms"]),
        snapshot_ms=float(message["snapshot_ms"]),
        obstacles=tuple(str(one)[:500] for one in message["obstacles"])[:20],
        is_snapshot_to_blame=message["is_snapshot_to_blame"] is True,
        connections=tuple(str(one)[:500] for one in message.get("connections") or ())[:20],
    )


def note_line(container_id: str, text: str) -> LogLine:
    """A note of ours in a container's log."""
    return LogLine(time.time_ns() // 1_000_000, container_id, 0, text)
