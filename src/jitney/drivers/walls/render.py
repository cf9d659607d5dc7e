"""What walls are made of, as data: from an image and a machine to lists of operations (`runner.wall.ops`), purely.

Three roots are laid out here:

- the *stage*, which the warden has for its root: everything that goes into containers, each under a name of ours;
- the root of a *template* or a *pod*: the image's layers, over them the *skeleton* (mount points and files of ours, so
  that no symbolic link of an image is ever in the way), over it a writable layer of its own; then /proc, /dev, /sys.

Where the image is the host's own file system, its folders are bound read only, and what is private to its users is not
there: /root, /home, /var, /tmp are the container's own. Files that only root may read stay closed, as the container's
root owns nothing outside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jitney.drivers.runtime.forking.leftovers import MARKER_NAME
from jitney.ports.box import BoxSpec, BoxVolume
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.volumes import Mounted

Op = list[Any]

HOME = "/root"  # where the user's code is, and where it starts
SDK = "/opt/jitney/sdk"
RUN = "/run/jitney"
SOCKETS = f"{RUN}/sockets"
SEGMENTS = f"{RUN}/segments"
BLOBS = f"{RUN}/blobs"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
# Of the machine's /sys: how many processors there are, and how memory is spread over them.
SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
PROC_MASKED = (
    "acpi", "asound", "interrupts", "kallsyms", "kcore", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags",
    "latency_stats", "scsi", "sched_debug", "slabinfo", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "driver", "tty")
FOLDERS = ("proc", "sys", "dev", "run", "home", "mnt", "var", "opt", SDK[1:], SOCKETS[1:], SEGMENTS[1:], BLOBS[1:])
OPEN_FOLDERS = ("tmp", "var/tmp")
SHM_MIB = 64  # unless memory is limited: then all that it may have
STAGE_OPTIONS = "mode=755,size=16m"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"
NOFILE = 65_536
# By number (capabilities(7)). A template needs what joining namespaces does: SETPCAP, SYS_CHROOT, SYS_ADMIN.
TEMPLATE_KEEPS = (8, 18, 21)
# What package managers do: change owners and modes, pass by permissions, take other identities, chroot, make files of
# any kind. All of it within the ids of the wall.
BUILD_KEEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 31)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs before anything of the image: `-c` puts '' first in the module search path, and the SDK belongs at its end.
BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [sys.argv.pop()]; "
    "from jitney.runner.{kind} import main; sys.exit(main())"
)


class HostFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder at the root of the machine that images of the host have: itself, or a link such as bin -> usr/bin."""

    name: str
    link: str = ""


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """What of the machine goes behind one wall: host paths."""

    stage: str
    scratch: str  # the folder of writable layers; owned by the wall's root
    sockets: str
    segments: str
    blobs: str
    source: str = ""  # the user's code
    sdk: dict[str, str] = {}  # package -> folder
    host: tuple[HostFolder, ...] = ()
    mask: str = ""  # the layer over the host's folders, for images that have layers on them
    maps_host: bool = True  # ids of the host's files can be shifted: not by a user without privileges
    device_folder: str = "/dev"
    sys: tuple[str, ...] = SYS  # those of SYS that are there
    volumes: dict[str, str] = {}  # volume -> the folder of its layers
    uppers: str = ""  # the folder of what containers write to volumes


def render_stage(image: BuiltImage, outside: Outside) -> list[Op]:
    """What the launcher lays out; the paths are those of the machine."""
    stage = outside.stage
    ops: list[Op] = [["tmpfs", stage, STAGE_OPTIONS]]
    ops += [["folder", f"{stage}/{name}", 0o755] for name in ("proc", "r", "skeleton", "etc")]
    layers = unmasked(image.layers, outside.mask)
    ops += [["bind", layer, f"{stage}/layers/{number}", True] for number, layer in enumerate(layers)]
    ops += [["bind", path, f"{stage}/mounts/{number}", True] for number, path in enumerate(image.mounts)]
    ops += [["bind", folder, f"{stage}/sdk/{name}", True] for name, folder in outside.sdk.items()]
    own = [one.name for one in outside.host if not one.link]
    if not image.layers:
        ops += [["bind", f"/{name}", f"{stage}/host/{name}", True] for name in own]
    elif "/" in image.layers:
        ops += [["bind_mapped", f"/{name}", f"{stage}/host/{name}"] for name in own]
    if outside.source:
        ops.append(["bind", outside.source, f"{stage}/source", True])
    ops.append(["bind", outside.scratch, f"{stage}/scratch", False])
    ops.append(["bind", outside.sockets, f"{stage}/run/sockets", True])
    ops.append(["bind", outside.segments, f"{stage}/run/segments", False])
    ops.append(["bind", outside.blobs, f"{stage}/run/blobs", False])
    ops += [["bind", f"{outside.device_folder}/{name}", f"{stage}/dev/{name}", False] for name in DEVICES]
    ops += [["bind", path, f"{stage}{path}", True] for path in outside.sys]
    ops += [["bind", folder, f"{stage}/volumes/{name}", True] for name, folder in outside.volumes.items()]
    if outside.volumes:
        ops.append(["bind", outside.uppers, f"{stage}/uppers", False])
    return ops


def render_mount(
    mounted: Mounted, *, replaces: bool, stage: str = "/r", volumes: str = "/volumes", uppers: str = "/uppers"
) -> dict[str, Any]:
    """A volume in a pod, as runner.wall.mounting makes it; the paths are those of the pod's warden."""
    layers = [f"{volumes}/{mounted.volume_id}/{layer}" for layer in mounted.layers]
    upper, work = (f"{uppers}/{mounted.upper}/{name}" if mounted.upper else "" for name in ("upper", "work"))
    return {
        "target": mounted.target,
        "ops": [_stacked(stage, layers, upper, work)],
        "part": mounted.sub_path,
        "read_only": mounted.read_only,
        "replaces": replaces,
    }


def _stacked(stage: str, layers: list[str], upper: str, work: str) -> Op:
    """A volume as it is mounted where it is taken from; without `upper` read-only."""
    if not upper and len(layers) == 1:
        return ["bind", layers[0], stage, True]  # overlays want two folders
    return ["overlay", stage, layers, upper, work, not upper]


def render_skeleton(image: BuiltImage, outside: Outside) -> list[Op]:
    """The lowest of what is above an image, laid out by the warden: it belongs to the wall's root."""
    root = "/skeleton"
    ops: list[Op] = [["tmpfs", root, STAGE_OPTIONS]]
    ops += [["folder", f"{root}/{name}", 0o755] for name in FOLDERS]
    ops += [["folder", f"{root}/{name}", 0o1777] for name in OPEN_FOLDERS]
    ops.append(["folder", f"{root}{HOME}", 0o700])
    ops += [["folder", f"{root}{SDK}/{name}", 0o755] for name in outside.sdk]
    ops.append(["folder", f"{root}{SEGMENTS}/{os.path.basename(outside.segments)}", 0o755])
    ops += [["folder", root + path, 0o755] for path in image.mounts]
    if not image.layers:
        ops += [["symlink", one.link, f"{root}/{one.name}"] for one in outside.host if one.link]
    if not image.layers or "/" in image.layers:
        ops += [["folder", f"{root}/{one.name}", 0o755] for one in outside.host if not one.link]
    ops.append(["write", f"{root}/etc/hosts", HOSTS])
    return ops


def render_connected(image: BuiltImage, resolv_conf: str) -> list[Op]:
    """What the warden does to its stage once the network is known, seen from inside."""
    ops: list[Op] = [["write", "/skeleton/etc/resolv.conf", resolv_conf]]
    if not image.layers:
        ops.append(["overlay", "/etc", ["/host/etc", "/skeleton/etc"], "", "", True])
    return ops


def render_root(
    image: BuiltImage, outside: Outside, *, folder: str, shm_mib: int, hostname: str
) -> tuple[list[str], list[Op]]:
    """(folders to make first, operations) for the root of a template or a pod; `folder` is its name in the scratch."""
    own = f"/scratch/{folder}"
    folders = [own, f"{own}/upper", f"{own}/work"]
    layers = [*(f"/layers/{number}" for number in range(len(image.layers))), "/skeleton"]
    host = outside.host if "/" in image.layers else ()
    more, ops = union(layers, host, upper=f"{own}/upper", work=f"{own}/work")
    folders += more
    if outside.source:
        folders += [f"{own}/home", f"{own}/home-work"]
        ops.append(["overlay", f"/r{HOME}", ["/source"], f"{own}/home", f"{own}/home-work", False])
    inside = _mounted(image, outside)
    ops.append(["take_proc", "proc"])
    ops += [["take", source, source] for source, _, _ in inside]
    ops.append(["pivot", "/r"])
    ops.append(["put", "proc", "/proc", False])
    ops.append(["tmpfs", "/dev", "mode=755,size=64k"])
    ops += [["file", f"/dev/{name}"] for name in DEVICES]
    ops.append(["tmpfs", "/sys", "mode=755,size=16k"])
    ops += [["folder", path, 0o755] for path in outside.sys]
    if outside.source:  # the overlay over the home folder covers what the skeleton has there
        ops += [["folder", path, 0o755] for path in image.mounts if path.startswith(f"{HOME}/")]
    ops += [["put", source, target, read_only] for source, target, read_only in inside]
    ops += [["symlink", text, f"/dev/{name}"] for name, text in DEVICE_LINKS.items()]
    ops += [["folder", f"/dev/{name}", 0o755] for name in ("pts", "shm", "mqueue")]
    ops.append(["devpts", "/dev/pts"])
    ops.append(["tmpfs", "/dev/shm", f"mode=1777,size={shm_mib}m"])
    ops.append(["mqueue", "/dev/mqueue"])
    ops.append(["read_only", "/sys"])
    ops += [["mask", f"/proc/{name}"] for name in PROC_MASKED]
    ops += [["read_only", f"/proc/{name}"] for name in PROC_READ_ONLY]
    ops.append(["hostname", hostname])
    return folders, ops


def _mounted(image: BuiltImage, outside: Outside) -> list[tuple[str, str, bool]]:
    """(where in the stage, where in the container, read only)."""
    found: list[tuple[str, str, bool]] = []
    if not image.layers:
        own = [one.name for one in outside.host if not one.link]
        found += [("/etc" if name == "etc" else f"/host/{name}", f"/{name}", True) for name in own]
    found += [(f"/dev/{name}", f"/dev/{name}", False) for name in DEVICES]
    found += [(path, path, True) for path in outside.sys]
    found += [(f"/mounts/{number}", path, True) for number, path in enumerate(image.mounts)]
    found += [(f"/sdk/{name}", f"{SDK}/{name}", True) for name in outside.sdk]
    found += [("/run/sockets", SOCKETS, True), ("/run/blobs", BLOBS, False)]
    found.append(("/run/segments", f"{SEGMENTS}/{os.path.basename(outside.segments)}", False))
    return found


# ------------------------------------------------------------------------------------------------ processes


def base_env(image: BuiltImage) -> dict[str, str]:
    """What every process behind the wall sees. Nothing of the worker's own environment."""
    folder = os.path.dirname(image.python_path)
    env = {"HOME": HOME, "USER": "root", "LANG": "C.UTF-8", **image.env}
    env["PATH"] = ":".join([*([folder] if folder else []), image.env.get("PATH") or PATH])
    if os.path.basename(folder) == "bin" and os.path.dirname(folder) in image.mounts:
        env["VIRTUAL_ENV"] = os.path.dirname(folder)
    return env


def render_process(spec: TemplateSpec, image: BuiltImage, *, is_cold: bool = False) -> dict[str, Any]:
    """argv, env and cwd of a template, or of a container that cannot be forked."""
    env = base_env(image)
    paths = [*([HOME] if spec.source_id else []), *filter(None, image.env.get("PYTHONPATH", "").split(":"))]
    if paths:
        env["PYTHONPATH"] = ":".join(paths)
    if not is_cold:
        env["JITNEY_WALL"] = "1"
    bootstrap = BOOTSTRAP.format(kind="cold" if is_cold else "template")
    return {"argv": [image.python_path, "-c", bootstrap, "{fd}", SDK], "env": env, "cwd": HOME}


def launcher_env(environ: Mapping[str, str], marker: str) -> dict[str, str]:
    """What the launcher sees: next to nothing, and what tells ours from other processes."""
    return {"PATH": environ.get("PATH", PATH), MARKER_NAME: marker}


def render_fork(launch: Launch, image: BuiltImage, *, nofile_hard: int) -> dict[str, Any]:
    """What a template is asked for: config, environment, folder and limits of a container."""
    config = {
        **launch.config,
        "runner_socket": f"{SOCKETS}/runner.sock",
        "link_socket": f"{SOCKETS}/link.sock",
        "segments": SEGMENTS,
        "blobs": BLOBS,
        "home": RUN,
    }
    nofile = min(NOFILE, nofile_hard) if nofile_hard > 0 else NOFILE
    return {
        "container": launch.container_id,
        "config": config,
        "env": {"TMPDIR": "/tmp", "PWD": workdir(image), "JITNEY_CONTAINER_ID": launch.container_id, **launch.env},
        "cwd": workdir(image),
        "rlimits": {"CORE": (0, 0), "NOFILE": (nofile, nofile)},
    }


def workdir(image: BuiltImage) -> str:
    """The folder that code starts in."""
    return os.path.normpath(os.path.join(HOME, image.workdir)) if image.workdir else HOME


def shm_mib(launch: Launch) -> int:
    """The size of a container's /dev/shm."""
    return launch.resources.memory_limit_mib or max(SHM_MIB, launch.resources.memory_mib)


# ------------------------------------------------------------------------------------------------ builds


def unmasked(layers: Sequence[str], mask: str) -> list[str]:
    """Layers as folders: the mask stands for the host's own file system, which is "/"."""
    return [mask if layer == "/" else layer for layer in layers]


def union(layers: Sequence[str], host: Sequence[HostFolder], *, upper: str, work: str) -> tuple[list[str], list[Op]]:
    """(folders to make first, operations): layers and `upper` over them, as the root /r.

    With `host`, folders of the machine are below it all. No layer may contain another, so that the machine's root
    cannot be a layer where the others are files of the same disk: each of its folders has an overlay of its own. Layers
    need not have them all: the machine may have got one since.
    """
    folders = [f"{work}/root"]
    ops: list[Op] = [["overlay", "/r", [*layers], upper, f"{work}/root", False]]
    for one in host:
        if not one.link:
            folders += [f"{upper}/{one.name}", f"{work}/{one.name}"]
            lowers = [f"/host/{one.name}", *(f"{layer}/{one.name}" for layer in layers)]
            ops.append(["overlay_folder", f"/r/{one.name}", lowers, f"{upper}/{one.name}", f"{work}/{one.name}", False])
    return folders, ops


def render_box_stage(spec: BoxSpec, outside: Outside, mask: str) -> list[Op]:
    """What the launcher lays out for one command of a build. `mask` is the lowest layer over the host's folders."""
    stage = outside.stage
    ops: list[Op] = [["tmpfs", stage, STAGE_OPTIONS]]
    ops += [["folder", f"{stage}/{name}", 0o755] for name in ("proc", "r")]
    layers = unmasked(spec.layers or ("/",), mask)
    ops += [["bind", layer, f"{stage}/layers/{number}", True] for number, layer in enumerate(layers)]
    if mask in layers:
        own = [(f"/{one.name}", f"{stage}/host/{one.name}") for one in outside.host if not one.link]
        ops += [["bind_mapped", *paths] if outside.maps_host else ["bind", *paths, True] for paths in own]
    ops += [["bind", one.source, f"{stage}/binds/{n}", not one.writable] for n, one in enumerate(spec.binds)]
    for number, volume in enumerate(spec.volumes):
        ops.append(["folder", f"{stage}/volumes/{number}/all", 0o755])
        ops += [["bind", layer, f"{stage}/volumes/{number}/{n}", True] for n, layer in enumerate(volume.layers)]
        if volume.upper:
            ops.append(["bind", os.path.dirname(volume.upper), f"{stage}/volumes/{number}/own", False])
    ops.append(["bind", outside.scratch, f"{stage}/scratch", False])
    ops += [["bind", f"/dev/{name}", f"{stage}/dev/{name}", False] for name in DEVICES]
    return [*ops, *(["bind", path, stage + path, True] for path in outside.sys)]


def _box_volumes(volumes: Sequence[BoxVolume]) -> list[Op]:
    """Volumes of a box, each taken under its target: as an image may have a link there, they are put when it is the
    root."""
    ops: list[Op] = []
    for number, volume in enumerate(volumes):
        own = f"/volumes/{number}"
        upper = f"{own}/own/{os.path.basename(volume.upper)}" if volume.upper else ""
        layers = [f"{own}/{n}" for n in range(len(volume.layers))]
        ops.append(_stacked(f"{own}/all", layers, upper, work_of(upper) if upper else ""))
        ops.append(["take_part", f"volume {number}", f"{own}/all", volume.sub_path, not upper])
    return ops


def work_of(upper: str) -> str:
    """The overlay's own folder beside a layer: on the same mount, as the kernel wants it."""
    return f"{upper}.work"


def render_box_root(
    spec: BoxSpec, outside: Outside, mask: str, *, upper: str, work: str, resolv_conf: str
) -> tuple[list[str], list[Op]]:
    """(folders to make first, operations): the root of one command of a build.

    No skeleton of ours is above the layers, as it would be below what the command writes: mount points are made in the
    upper layer itself, and only where the image lacks them.
    """
    layers = unmasked(spec.layers or ("/",), mask)
    host = outside.host if mask in layers else ()
    names = [f"/layers/{number}" for number in range(len(layers))]
    folders, ops = union(names, host, upper=f"/scratch/{upper}", work=f"/scratch/{work}")
    ops.append(["take_proc", "proc"])
    ops += [["take", f"/dev/{name}", f"/dev/{name}"] for name in DEVICES]
    ops += [["take", path, path] for path in outside.sys]
    ops += [["take", one.target, f"/binds/{number}"] for number, one in enumerate(spec.binds)]
    ops += _box_volumes(spec.volumes)
    ops.append(["pivot", "/r"])
    ops += [["folder", f"/{name}", 0o755] for name in ("proc", "sys", "dev", "tmp", "etc")]
    ops += [
        ["put", "proc", "/proc", False],
        ["tmpfs", "/dev", "mode=755,size=64k"],
        *(["file", f"/dev/{name}"] for name in DEVICES),
        *(["put", f"/dev/{name}", f"/dev/{name}", False] for name in DEVICES),
        *(["symlink", text, f"/dev/{name}"] for name, text in DEVICE_LINKS.items()),
        *(["folder", f"/dev/{name}", 0o755] for name in ("pts", "shm")),
        ["devpts", "/dev/pts"],
        ["tmpfs", "/dev/shm", f"mode=1777,size={SHM_MIB}m"],
        ["tmpfs", "/sys", "mode=755,size=16k"],
        *(["folder", path, 0o755] for path in outside.sys),
        *(["put", path, path, True] for path in outside.sys),
        ["read_only", "/sys"],
        *(["mask", f"/proc/{name}"] for name in PROC_MASKED),
        *(["read_only", f"/proc/{name}"] for name in PROC_READ_ONLY),
    ]
    if not any(one.target == "/tmp" for one in spec.binds):
        ops.append(["tmpfs", "/tmp", "mode=1777"])
    ops.append(["cover", "/etc/resolv.conf", resolv_conf])
    ops += [["put_made", one.target, one.target, not one.writable] for one in spec.binds]
    ops += [["put_made", f"volume {n}", one.target, not one.upper] for n, one in enumerate(spec.volumes)]
    return folders, ops
