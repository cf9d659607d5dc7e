"""A sandbox as data: the config.json of its bundle (OCI runtime specification), and the flags of runsc."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from jitney.drivers.runtime.kept.render import SCRATCH, BoxOrder, Mount
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.render import NOFILE, OPEN_FOLDERS, RUN

OCI_VERSION = "1.0.2"
SHM_MIB = 64
TMP_MIB = 1024
VOLUMES = f"{RUN}/volumes"
OWN_NETWORK = "/proc/self/ns/net"  # that of runsc itself
SYSTEM_FOLDERS = ("dev", "proc", "sys", "run")
CAPABILITIES = ("bounding", "effective", "inheritable", "permitted")  # sets of them; each is empty


class Runsc(msgspec.Struct, frozen=True, kw_only=True):
    """How runsc is run on this machine. `platform` '' is its own default."""

    path: str
    rootless: bool
    platform: str = ""


def render_flags(runsc: Runsc, state: str, *, has_network: bool = False, has_volumes: bool = False) -> list[str]:
    """The command, before its subcommand. `state` is the folder where runsc writes down what runs.

    `has_network`: its links are in the network namespace that runsc is started in, and its own stack has them.
    `has_volumes`: files that nobody has open are not kept open, so that what they are in can be taken away.
    """
    return [
        runsc.path,
        f"--root={state}",
        f"--network={'sandbox' if has_network else 'none'}",
        "--host-uds=open",  # the sockets of the server, and ours
        "--overlay2=root:memory",  # mount points are made in memory, not in a folder of the machine
        *(["--rootless"] if runsc.rootless else []),
        *([f"--platform={runsc.platform}"] if runsc.platform else []),
        "--ignore-cgroups",  # it is started in one of ours
        *(["--dcache=0"] if has_volumes else []),
    ]


def render_bundle(
    order: BoxOrder, *, root: str, scratch: str, volumes: str, runsc: Runsc, nproc: int, has_network: bool = False
) -> dict[str, Any]:
    """The config.json of a box. `scratch` is the folder of its containers' folders; `nproc`: the limit of
    its own processes; `volumes`: the folder in whose folders they are mounted; `has_network`: see render_flags.
    """
    own = 0 if runsc.rootless else FIRST_ID  # root inside a rootless one is the worker's user
    mounts = [*order.mounts, Mount(source=scratch, target=SCRATCH, writable=True)]
    if order.volumes:
        mounts.append(Mount(source=volumes, target=VOLUMES, writable=True))
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": own, "gid": own},
            "args": [*order.argv],
            "env": [f"{name}={value}" for name, value in order.env.items()],
            "cwd": "/",
            "capabilities": {name: [] for name in CAPABILITIES},
            "rlimits": _rlimits(nproc),
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "jitney",
        "mounts": [*_own_mounts(), *map(_bind, mounts)],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network", **({"path": OWN_NETWORK} if has_network else {})},
            ],
        },
    }


def render_places(order: BoxOrder) -> dict[str, str]:
    """Where each volume is mounted, by the path at which it is to be seen; '': it cannot be seen there.

    What is mounted into a sandbox from outside, while it runs, is seen in folders that it was made with. So a volume's
    own path is a symbolic link to such a folder, in the sandbox's root; where a mount has that path there can be none,
    nor in another volume.
    """
    taken = [one.target for one in order.mounts] + [f"/{name}" for name in (*OPEN_FOLDERS, *SYSTEM_FOLDERS)]
    taken += [f"/{name}" for name, _ in order.links]
    return {
        path: "" if any(_meet(path, one) for one in (*taken, *order.volumes[:number])) else f"{VOLUMES}/{number}"
        for number, path in enumerate(order.volumes)
    }


def _meet(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def _rlimits(nproc: int) -> list[dict[str, Any]]:
    found = (("CORE", 0), ("NOFILE", NOFILE), ("NPROC", nproc))
    return [{"type": f"RLIMIT_{name}", "soft": value, "hard": value} for name, value in found]


def _own_mounts() -> list[dict[str, Any]]:
    safe = ["nosuid", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": [*safe, "noexec"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "noexec", "ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec"]},
        _memory("/dev/shm", SHM_MIB),
        *(_memory(f"/{name}", TMP_MIB) for name in OPEN_FOLDERS),
    ]


def _memory(target: str, size_mib: int) -> dict[str, Any]:
    options = ["nosuid", "nodev", "mode=1777", f"size={size_mib}m"]
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "rw" if mount.writable else "ro"]
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}


def render_launch(
    argv: Sequence[str], layers: Sequence[str], folder: str, *, joins: Sequence[int] = (), gate: int = -1
) -> list[Any]:
    """What `runner.keep.prepared` does before it becomes runsc: the layers, merged, as the root of the sandbox.

    Mount points are made in a layer of its own above them, as those of an image are never written to. `joins`: the
    control groups that it enters; `gate`: where it waits for its network; -1: it has none.
    """
    merged = ["overlay", f"{folder}/root", [*layers], f"{folder}/upper", f"{folder}/work", False]
    return [[merged] if layers else [], [*argv], [*joins], gate]


def sandbox_id(order: BoxOrder) -> str:
    """What runsc calls it."""
    return f"jitney-{order.marker}-{order.name}"


def why_not_layers(layers: Sequence[str], runsc: Runsc) -> str:
    """Why layers cannot be a sandbox's root here; '' where they can."""
    if "/" in layers:
        return (
            "this image is made of layers over the machine's own file system, which a sandbox cannot be given\n"
            "set base = 'registry' or 'debootstrap' in [worker]"
        )
    if layers and runsc.rootless:
        return "an image of layers needs a worker that is root, to merge them\nuse runtime = 'namespaces'"
    return ""
