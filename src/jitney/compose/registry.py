"""Which driver a name in the configuration stands for, and how it is made.

A driver is imported when it is used, not before. Nothing else in Jitney names one.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from jitney.compose import tiers
from jitney.errors import InvalidError
from jitney.wire.home import Home

if TYPE_CHECKING:
    from jitney.compose.config import ServerConfig, WorkerConfig
    from jitney.ports.box import Box
    from jitney.ports.builder import ImageBuilder
    from jitney.ports.limits import Limiter
    from jitney.ports.logs import LogStore
    from jitney.ports.network import Network
    from jitney.ports.pulls import Puller
    from jitney.ports.runtime import Runtime
    from jitney.ports.sources import SourceStore
    from jitney.ports.store import Store

# port -> name -> "module:factory"
DRIVERS: dict[str, dict[str, str]] = {
    "store": {"sqlite": "jitney.drivers.store.sqlite:SqliteStore"},
    "blobs": {"localdir": "jitney.drivers.blobs.localdir:LocalBlobs"},
    "sources": {"localdir": "jitney.drivers.sources.localdir:LocalSources"},
    "logs": {"files": "jitney.drivers.logs.files:LogFiles"},
    "runtime": {
        "process": "jitney.drivers.runtime.process:ProcessRuntime",
        "namespaces": "jitney.drivers.runtime.namespaces:NamespacesRuntime",
        "oci": "jitney.drivers.runtime.oci:OciRuntime",
        "gvisor": "jitney.drivers.runtime.gvisor:GvisorRuntime",
    },
    "runtime settings": {"oci": "jitney.drivers.runtime.oci:OciSettings"},
    "builder": {"local": "jitney.drivers.builder.local:LocalBuilder"},
    "box": {
        "host": "jitney.drivers.box.host:HostBox",
        "namespaces": "jitney.drivers.box.namespaces:NamespacesBox",
    },
    "pulls": {"oci": "jitney.drivers.pulls.oci:OciPuller"},
}

# runtime -> the box that its images are built in: nothing of an image runs with less of a wall than its containers
BOX_OF_RUNTIME = {"process": "host"}


def names(port: str) -> list[str]:
    """The drivers of a port."""
    return list(DRIVERS[port])


def factory(port: str, name: str) -> Any:
    """What makes the driver.

    Raises:
        InvalidError: the port has no driver of that name.
    """
    where = DRIVERS[port].get(name)
    if where is None:
        raise InvalidError(f"no {port} driver {name!r}", hint=f"there is {', '.join(names(port))}")
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def store(home: Home, config: ServerConfig) -> Store:
    """The store of apps, calls and results."""
    made: Store = factory("store", config.store)(home.store)
    return made


def inspect_store(home: Home, config: ServerConfig) -> tuple[str, str]:
    """(what the store is, what is wrong with it or ''), while it may be in use."""
    module = DRIVERS["store"][config.store].partition(":")[0]
    found: tuple[str, str] = importlib.import_module(module).inspect(home.store)
    return found


def sources(home: Home) -> SourceStore:
    """Where shipped files are kept."""
    blobs = factory("blobs", "localdir")(home.files)
    made: SourceStore = factory("sources", "localdir")(home.sources, blobs)
    return made


def logs(home: Home) -> LogStore:
    """Where the output of containers is kept."""
    made: LogStore = factory("logs", "files")(home.logs)
    return made


def runtime(home: Home, config: WorkerConfig) -> Runtime:
    """What runs containers."""
    name = tiers.choose(config.runtime)
    make = factory("runtime", name)
    made: Runtime
    if name == "oci":
        settings = factory("runtime settings", name)(base=config.oci_base, network=config.oci_network)
        made = make(home, limiter=limiter(home), settings=settings)
    elif name == "namespaces":
        made = make(home, limiter=limiter(home), network=network(home))
    else:
        made = make(home)
    return made


def worker(home: Home, config: WorkerConfig) -> tuple[Runtime, ImageBuilder]:
    """What runs containers and what builds their images: behind walls of the same kind, with one way out."""
    name = tiers.choose(config.runtime)
    if not tiers.builds_behind_walls(name):
        return runtime(home, config), builder(home, config)
    out = network(home)
    own = factory("box", "namespaces")(home.boxes, limiter=limiter(home, "builds"), network=out)
    if name != "namespaces":
        return runtime(home, config), builder(home, config, own)
    from jitney.drivers.network.names import PorterNames

    made: Runtime = factory("runtime", name)(home, limiter=limiter(home), network=out, names=PorterNames)
    return made, builder(home, config, own)


def limiter(home: Home, use: str = "", *, tune: bool = True) -> Limiter:
    """What bounds containers; `use` tells others from them. `tune`: make the machine ready for many."""
    from jitney.drivers.limits.cgroups.driver import CgroupLimiter
    from jitney.drivers.limits.none import NoLimiter

    made = CgroupLimiter(home.short + use, tune=tune)
    if made.layout.parts:
        return made
    return NoLimiter(why=made.layout.why, remedy=made.layout.remedy)


def network(home: Home) -> Network:
    """The way out of containers: the best that this machine has."""
    from jitney.core import uplinks
    from jitney.drivers.network.none import NoNetwork
    from jitney.drivers.network.surroundings import look
    from jitney.drivers.network.usermode import UsermodeNetwork
    from jitney.drivers.network.veth import VethNetwork

    chosen = uplinks.choose(look())
    if chosen.name == "veth":
        return VethNetwork(home.short)
    if chosen.name == "slirp4netns":
        return UsermodeNetwork("slirp4netns", chosen.path, home.root / "network")
    if chosen.name == "pasta":
        return UsermodeNetwork("pasta", chosen.path, home.root / "network")
    return NoNetwork(why=chosen.why, remedy=chosen.remedy)


def box(home: Home, config: WorkerConfig) -> Box:
    """What steps of image builds run in."""
    made: Box = factory("box", BOX_OF_RUNTIME.get(config.runtime, "host"))()
    return made


def images_of_others(home: Home, config: WorkerConfig) -> Puller:
    """What fetches images from registries and archives."""
    from jitney.drivers.pulls.oci import ChildUnpacker, PullSettings
    from jitney.drivers.walls.machine import ids_of_machine

    settings = PullSettings(
        private=tuple(config.private_registries.split()), insecure=tuple(config.insecure_registries.split())
    )
    # Files of layers belong to whom they belong to behind a wall.
    owners = ",".join(f"{inside}:{outside}:{count}" for inside, outside, count in ids_of_machine(os.environ).lines())
    unpacker = ChildUnpacker(settings, owners=owners)
    made: Puller = factory("pulls", "oci")(home.root / "layers", settings=settings, unpacker=unpacker)
    return made


def builder(home: Home, config: WorkerConfig, box_: Box | None = None) -> ImageBuilder:
    """What builds images, in the box that is given, or in that of the worker's runtime."""
    from jitney.drivers.builder.local import Settings

    where = box_ or box(home, config)
    settings = Settings(
        base=config.base,
        registry=config.registry,
        index_url=config.index_url,
        timeout_ms=config.build_timeout_ms,
    )
    # Layers of others are of use where there are root file systems.
    puller = images_of_others(home, config) if where.capabilities().root_filesystem else None
    made: ImageBuilder = factory("builder", config.builder)(
        home.images, where, settings, puller=puller, sources=home.sources
    )
    return made


def package_indexes(config: WorkerConfig) -> list[str]:
    """The package indexes that images are built from; [] for the builder's own default."""
    import subprocess
    import sys

    from jitney.drivers.builder.local.settings import build_environment, parse_pip_config

    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=10
    )
    settings = build_environment(
        os.environ, parse_pip_config(done.stdout), {}, link_mode="copy", index_url=config.index_url
    )
    urls = [settings.get("UV_DEFAULT_INDEX", ""), *settings.get("UV_INDEX", "").split()]
    return [url for url in urls if url]
