"""Where our groups can be made, told from what the kernel says of itself.

A *hierarchy* is a tree of groups, mounted somewhere, that some controllers belong to. Version 2 has one, version 1 has
as many as somebody mounted, and a machine may have both: then each controller belongs to one of them. Of each
hierarchy this process is in one group (/proc/self/cgroup); where it may make groups of its own below that, they are
bounded by whatever bounds itself, which is what a person who bounded us meant.

Version 2 adds two rules. A group that has processes cannot give controllers to groups below it (only the root of the
tree can), so we may have to move to a leaf of our own, with whoever shares our group. And a group has the controllers
that the one above it enabled, level by level.

This module decides with values: texts of /proc, and what `probe` found out by trying.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

PREFIX = "jitney-"  # of the folders that groups are in
LEAF = PREFIX + "self"  # where we move to, next to the groups of containers
ENABLED = ("memory", "cpu", "pids", "io")  # controllers of version 2 that we ask for


class Role(StrEnum):
    """What a hierarchy does for us."""

    MEMORY = "memory"
    CPU = "cpu"  # the quota and the weight
    PIDS = "pids"
    TIME = "cpuacct"  # CPU time used
    FREEZER = "freezer"
    IO = "io"


LIMITS = (Role.MEMORY, Role.CPU, Role.PIDS)
NOUNS = {Role.MEMORY: "memory", Role.CPU: "CPU", Role.PIDS: "processes"}
V1_CONTROLLERS = frozenset({"memory", "cpu", "pids", "cpuacct", "freezer"})


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted hierarchy. `own` is the folder of the group that this process is in; "" where it cannot be seen."""

    version: int
    controllers: tuple[str, ...] = ()  # of version 1
    folder: str
    own: str
    writable: bool
    options: tuple[str, ...] = ()  # of the file system, as mounted


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A group of version 2 that is ours or above ours."""

    path: str
    writable: bool
    processes: tuple[int, ...] = ()
    is_top: bool = False  # the root of the tree: its processes are in nobody's way
    delegated: bool = False  # systemd has noted that the tree below is its user's own


class Place(msgspec.Struct, frozen=True):
    """Where groups could be made. `moves`: the processes of that group have to go to a leaf first."""

    path: str
    moves: bool = False


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What came of trying: a folder of ours in a hierarchy with what groups in it have, or a problem."""

    version: int
    mounted: tuple[str, ...] = ()  # controllers that the hierarchy is known for
    folder: str = ""
    controllers: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    problem: str = ""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a remedy depends on."""

    is_root: bool = True
    has_systemd: bool = False
    in_container: bool = False


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A hierarchy that each of our groups has a folder in, and what it is used for."""

    version: int
    folder: str
    roles: frozenset[Role]
    controllers: frozenset[str] = frozenset()
    files: frozenset[str]


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How groups are made here. No parts: they cannot be."""

    parts: tuple[Part, ...] = ()
    why: str = ""
    remedy: str = ""

    def part(self, role: Role) -> Part | None:
        """The one that does this."""
        return next((part for part in self.parts if role in part.roles), None)

    @property
    def name(self) -> str:
        """For people."""
        versions = sorted({part.version for part in self.parts})
        return "cgroup " + " and ".join(f"v{version}" for version in versions) if versions else "none"

    @property
    def can_freeze(self) -> bool:
        """Whether a group can be stopped as one."""
        return self.part(Role.FREEZER) is not None


# ------------------------------------------------------------------------------------------------ texts of /proc


def read_mounts(cgroup: str, mountinfo: str) -> tuple[Mount, ...]:
    """The hierarchies that are mounted, from /proc/self/cgroup and /proc/self/mountinfo.

    One that is mounted in several places counts once: where it can be written, and our own group be seen.
    """
    ours = _own_groups(cgroup)
    found: dict[tuple[int, tuple[str, ...]], Mount] = {}
    for line in mountinfo.splitlines():
        mount = _read_mount(line, ours)
        if mount is None:
            continue
        key = (mount.version, mount.controllers)
        if key not in found or _worth(mount) > _worth(found[key]):
            found[key] = mount
    return tuple(found.values())


def _own_groups(cgroup: str) -> dict[str, str]:
    """Controller (or "" for version 2) -> path of our group."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                groups[controller] = fields[2]
    return groups


def _read_mount(line: str, ours: dict[str, str]) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, tail = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
        return None
    root, folder, flags = _unescape(fields[3]), _unescape(fields[4]), fields[5].split(",")
    options = tuple(tail[2].split(","))
    writable = "ro" not in flags and "ro" not in options
    if tail[0] == "cgroup2":
        own = _below(folder, root, ours.get(""))
        return Mount(version=2, folder=folder, own=own, writable=writable, options=options)
    controllers = tuple(sorted(option for option in options if option in ours))
    if not controllers:
        return None
    own = _below(folder, root, ours[controllers[0]])
    return Mount(version=1, controllers=controllers, folder=folder, own=own, writable=writable, options=options)


def _below(folder: str, root: str, path: str | None) -> str:
    """The folder of a group, seen from a mount that shows the tree below `root`."""
    if path is None or ".." in path.split("/") or ".." in root.split("/"):
        return ""  # outside what this process may see
    if root == "/":
        return (folder + path).rstrip("/") or "/"
    if path == root or path.startswith(root + "/"):
        return (folder + path[len(root) :]).rstrip("/")
    return ""


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _worth(mount: Mount) -> tuple[bool, bool]:
    return bool(mount.own), mount.writable


# ------------------------------------------------------------------------------------------------ decisions


def chain(mount: Mount) -> tuple[str, ...]:
    """Our own group's folder and those above it, up to the mount."""
    folders = [mount.own]
    while folders[-1] != mount.folder and len(folders[-1]) > len(mount.folder):
        folders.append(folders[-1].rpartition("/")[0])
    return tuple(folders)


def places(folders: Sequence[Folder], us: int) -> tuple[Place, ...]:
    """Where groups of version 2 could be made, best first; `folders` as of `chain`.

    Our own group is best: what bounds us bounds our containers, and whoever ends our service ends them. It needs that
    we move away. Where strangers share it that nobody said are ours to move, a group above that has no processes
    comes first.
    """
    own = folders[0]
    found: list[Place] = []
    if own.path.endswith("/" + LEAF) and len(folders) > 1 and folders[1].writable:
        found.append(Place(folders[1].path))  # an earlier one of us has moved us here
    elif own.writable:
        is_ours = own.delegated or set(own.processes) <= {us} or len(folders) == 1
        if own.is_top or not own.processes:
            found.append(Place(own.path))
        elif is_ours:
            found.append(Place(own.path, moves=True))
    found += [Place(one.path) for one in folders[1:] if one.writable and (one.is_top or not one.processes)]
    if own.writable:
        found.append(Place(own.path, moves=not own.is_top))
    return tuple(dict.fromkeys(found))


def choose(sites: Iterable[Site], surroundings: Surroundings) -> Layout:
    """Which hierarchy does what. Version 2 is asked first; only what has work is used, as joining each takes time."""
    sites = tuple(sites)
    usable = sorted((site for site in sites if site.folder), key=lambda site: -site.version)
    roles: dict[Role, Site] = {}
    for role in Role:
        able = [site for site in usable if _can(site, role)]
        if able:
            roles[role] = next((site for site in able if site in roles.values()), able[0])
    if Role.IO in roles and not any(site is roles[Role.IO] for role, site in roles.items() if role is not Role.IO):
        del roles[Role.IO]
    parts = tuple(
        Part(
            version=site.version,
            folder=site.folder,
            controllers=site.controllers,
            files=site.files,
            roles=frozenset(role for role, one in roles.items() if one is site),
        )
        for site in usable
        if site in roles.values()
    )
    missing = [role for role in LIMITS if role not in roles]
    if not missing:
        return Layout(parts=parts)
    return Layout(parts=parts, why=_why(sites, missing), remedy=_remedy(sites, surroundings))


def _can(site: Site, role: Role) -> bool:
    if site.version == 2:
        match role:
            case Role.TIME:
                return "cpu.stat" in site.files
            case Role.FREEZER:
                return "cgroup.freeze" in site.files
            case _:
                return role.value in site.controllers
    return ("blkio" if role is Role.IO else role.value) in site.controllers


def _why(sites: Sequence[Site], missing: Sequence[Role]) -> str:
    reasons: dict[str, list[str]] = {}
    for role in missing:
        reasons.setdefault(_reason(sites, role), []).append(NOUNS[role])
    return "; ".join(f"no limit on {_listed(nouns)}: {reason}" for reason, nouns in reasons.items())


def _reason(sites: Sequence[Site], role: Role) -> str:
    for site in sites:
        if site.version == 1 and role.value in site.mounted:
            return site.problem
    for site in sites:
        if site.version == 2:
            return site.problem or f"the {role.value} controller is not enabled for {site.folder}"
    return f"no control group hierarchy with the {role.value} controller is mounted"


def _listed(nouns: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(nouns[:-1]), nouns[-1])))


def _remedy(sites: Sequence[Site], surroundings: Surroundings) -> str:
    if not sites:
        return "mount a cgroup2 file system at /sys/fs/cgroup, on a kernel with control groups"
    if surroundings.in_container:
        return (
            "start the surrounding container with control groups that it may write "
            "(docker run --privileged --cgroupns private, or podman run with --security-opt unmask=/sys/fs/cgroup)"
        )
    is_unified = all(site.version == 2 for site in sites)
    if surroundings.is_root and is_unified:
        return "boot a kernel that has the controllers, without cgroup_disable= and mounts of version 1"
    if surroundings.is_root:
        return "mount the missing controllers, or boot with systemd.unified_cgroup_hierarchy=1"
    if is_unified and surroundings.has_systemd:
        return (
            "start it with `systemd-run --user --scope -p Delegate=yes jitney up`; where a controller is still "
            "missing, put Delegate=cpu memory pids io under [Service] in "
            "/etc/systemd/system/user@.service.d/delegate.conf"
        )
    if is_unified:
        return "run it as root, or give its user a group below /sys/fs/cgroup and start it in there"
    return "run it as root, or boot with systemd.unified_cgroup_hierarchy=1 (version 1 cannot be given to a user)"
