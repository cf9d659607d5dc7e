"""What an engine is asked for, as data: the body of a request to create a container, and what images are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from jitney.drivers.runtime.forking.leftovers import OOM_SCORE_ADJ
from jitney.drivers.runtime.kept.render import SCRATCH, BoxOrder
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.render import FOLDERS, HOME, NOFILE, OPEN_FOLDERS
from jitney.runner.keep.keeper import FILTER
from jitney.values.network import NetworkPolicy

LABEL_HOME = "org.jitney.home"
LABEL_BOX = "org.jitney.box"
LABEL_IMAGE = "org.jitney.image"
REPOSITORY = "localhost/jitney"  # no registry has it, whatever an engine takes for the default
AUTO, BRIDGE, NO_NETWORK = "auto", "bridge", "none"
SHM_BYTES = 64 * 1024 * 1024
TMP_BYTES = 1024 * 1024 * 1024
LOG_BYTES = "1m"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of an engine."""

    name: str = "docker"  # or "podman"
    version: str = ""
    shifts_ids: bool = False  # its containers' root is nobody outside: a user namespace, or an engine without root
    is_rootless: bool = False
    labels_files: bool = False  # SELinux: containers may read only what is labelled for them


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one of the engine's containers: of a template with all of its containers. 0 is none."""

    memory_mib: int = 0
    cpu_milli: int = 0
    pids: int = 0
    nofile: int = NOFILE
    nproc: int = 30_000


def why_the_engines(wanted: str, engine: Engine, *, has_own: bool) -> str:
    """Why containers have a network of the engine's; '' where they have ours. `has_own`: there can be one here."""
    if wanted != AUTO:
        return f"the worker's setting oci_network is {wanted!r}"
    if not has_own:
        return "the worker is not root, or may not make networks"
    return "the engine runs without root" if engine.is_rootless else ""


def refused_network(policy: NetworkPolicy, why_the_engines: str) -> str:
    """Why this policy cannot be kept; '' where it can. `why_the_engines`: '' where the network is ours."""
    if not why_the_engines or policy.is_open or policy.blocked:
        return ""
    return (
        "only some addresses are to be reached, and an engine can give a network or none; "
        f"it is the engine's network here as {why_the_engines}\n"
        "let the worker and the engine run as root, with oci_network = 'auto'; or use runtime = 'namespaces', or "
        "block_network=True"
    )


def no_network(wanted: str, engine: Engine, there: Collection[str]) -> str:
    """Why containers that may reach others cannot; '' where they can. `there`: the engine's networks."""
    if wanted == NO_NETWORK:
        return "the worker's setting oci_network says so"
    wanted = network_named(wanted)
    if wanted in there or (wanted == BRIDGE and engine.name == "podman" and there):
        return ""
    return f"the engine has no network {wanted!r} (`{engine.name} network ls` lists them; oci_network chooses)"


def network_named(wanted: str) -> str:
    """The engine's network that a setting stands for."""
    return BRIDGE if wanted == AUTO else wanted


def render_create(order: BoxOrder, image: str, *, engine: Engine, bounds: Bounds, network: str) -> dict[str, Any]:
    """The container of a box. `image` is an id or a name; `network` that of the engine for who may reach others."""
    mode = NO_NETWORK if order.network.blocked else network
    user = "0:0" if engine.shifts_ids else f"{FIRST_ID}:{FIRST_ID}"
    security = ["no-new-privileges", *(["label=disable"] if engine.labels_files else [])]
    return {
        "Image": image,
        "Entrypoint": [order.argv[0]],
        "Cmd": [*order.argv[1:]],
        "Env": [f"{name}={value}" for name, value in {**order.env, FILTER: "container"}.items()],
        "User": user,
        "WorkingDir": "/",
        "Hostname": "jitney",
        "Tty": False,
        "OpenStdin": False,
        "Labels": {LABEL_HOME: order.marker, LABEL_BOX: order.name},
        "Volumes": {SCRATCH: {}},
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": mode == NO_NETWORK,
        "HostConfig": {
            "Binds": [f"{one.source}:{one.target}:{'rw' if one.writable else 'ro'}" for one in order.mounts],
            "NetworkMode": mode,
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_BYTES, "max-file": "1"}},
            "Privileged": False,
            "CapAdd": [],
            "CapDrop": ["ALL"],
            "SecurityOpt": security,
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "ShmSize": SHM_BYTES,
            "Tmpfs": {f"/{name}": f"rw,nosuid,nodev,mode=1777,size={TMP_BYTES}" for name in OPEN_FOLDERS},
            "PidsLimit": bounds.pids,
            "Memory": bounds.memory_mib * 1024 * 1024,
            "MemorySwap": bounds.memory_mib * 1024 * 1024,
            "NanoCpus": bounds.cpu_milli * 1_000_000,
            "OomScoreAdj": OOM_SCORE_ADJ,
            "Ulimits": _ulimits(bounds),
        },
    }


def _ulimits(bounds: Bounds) -> list[dict[str, Any]]:
    found = (("core", 0), ("nofile", bounds.nofile), ("nproc", bounds.nproc))
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in found]


def no_mounts(engine: Engine, *, is_root: bool) -> str:
    """Why volumes cannot be mounted in an engine's containers; '' where they can."""
    if is_root and not engine.shifts_ids:
        return ""
    whose = "the worker is not root" if not is_root else "the engine shifts user ids"
    return (
        f"volumes are put into an engine's containers by the worker, from outside, and that cannot be: {whose}\n"
        "use runtime = 'namespaces' or 'process', which mount volumes without root, or a worker and an engine of root's"
    )


def unmountable(order: BoxOrder) -> str:
    """A path that an engine's notation of mounts cannot say, or ''."""
    return next((path for one in order.mounts for path in (one.source, one.target) if ":" in path), "")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One member of an image's archive: a folder, or with `link` a symbolic link."""

    path: str
    mode: int = 0o755
    link: str = ""


def render_empty(links: Iterable[tuple[str, str]]) -> list[Entry]:
    """An image with nothing but places to mount things at."""
    entries = [Entry(path=name) for name in (*FOLDERS, "etc", HOME[1:])]
    entries += [Entry(path=name, mode=0o1777) for name in (*OPEN_FOLDERS, SCRATCH[1:])]
    entries += [Entry(path=name, link=text) for name, text in links]
    return sorted(entries, key=lambda one: one.path)


def render_over_layers() -> list[Entry]:
    """What an image made of layers needs besides: places to mount at."""
    return [one for one in render_empty(()) if one.path not in ("etc", "tmp", "var", "var/tmp", "home", "mnt", "opt")]


def tag_of(image_id: str) -> str:
    """What an engine may call an image of ours."""
    return "".join(letter if letter.isalnum() else "-" for letter in image_id.lower())[:100].strip("-") or "image"


def engine_of(info: dict[str, Any], version: dict[str, Any]) -> Engine:
    """From what the engine says of itself (GET /info, GET /version)."""
    options = [str(one) for one in info.get("SecurityOptions") or ()]
    names = {part.partition("=")[2] for one in options for part in one.split(",") if part.startswith("name=")}
    components = [str(one.get("Name", "")) for one in version.get("Components") or ()]
    is_rootless = "rootless" in names or bool(info.get("Rootless"))
    is_podman = any("podman" in name.lower() for name in components)
    return Engine(
        name="podman" if is_podman else "docker",
        version=str(version.get("Version", "")),
        shifts_ids=is_rootless or "userns" in names,
        is_rootless=is_rootless,
        labels_files="selinux" in names,
    )
