"""What the outside tells probes about itself, so that they can prove that they got out.

A canary is a file of the outside whose content only its digest tells: to have read it is proof. A listener is a socket
of the outside that greets with such a content.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

LIMITS = ("disk", "files", "memory", "processes", "shared memory")


@dataclass(frozen=True)
class Canary:
    """A file outside. `what`: home, state, temporary, neighbour, memory, source."""

    what: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Listener:
    """A socket outside, which sends its content to whoever connects. `what`: loopback, control, unix, abstract."""

    what: str
    address: str  # of the internet, a path, or an abstract name
    port: int
    sha256: str


@dataclass(frozen=True)
class Target:
    """A process outside, by its number there and the time that it started at (field 22 of its stat)."""

    what: str
    pid: int
    started: int


@dataclass(frozen=True)
class Targets:
    """All that may be known of the outside. Probes that need what is empty are skipped."""

    canaries: tuple[Canary, ...] = ()
    listeners: tuple[Listener, ...] = ()
    processes: tuple[Target, ...] = ()
    namespaces: dict[str, str] = field(default_factory=dict)  # kind -> "pid:[4026531836]"
    runner_socket: str = ""  # where the container finds the server
    container: str = ""  # the id of another container, whose token is not known here
    limits: tuple[str, ...] = ()  # of LIMITS: those that are in force for this container

    def to_json(self) -> str:
        """For `from_json` elsewhere."""
        return json.dumps(asdict(self))


def from_json(text: str) -> Targets:
    """What `Targets.to_json` gave."""
    told: dict[str, Any] = json.loads(text)
    told["canaries"] = tuple(Canary(**one) for one in told.get("canaries", ()))
    told["listeners"] = tuple(Listener(**one) for one in told.get("listeners", ()))
    told["processes"] = tuple(Target(**one) for one in told.get("processes", ()))
    told["limits"] = tuple(told.get("limits", ()))
    return Targets(**told)


def digest(content: bytes) -> str:
    """How a content is told without telling it."""
    return hashlib.sha256(content).hexdigest()


def namespaces_of(pid: int | str = "self") -> dict[str, str]:
    """The namespaces of a process, by kind."""
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}


def started_at(pid: int) -> int:
    """When a process started, in ticks since the machine did: together with its number, this is who it is."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])
