"""Which driver a name in the configuration stands for, and how it is made.

A driver is imported when it is used, not before. Nothing else in Jitney names one.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from jitney.compose import buckets, tiers
from jitney.errors import InvalidError
from jitney.values.isolation import Isolation
from jitney.values.volumes import WORKSPACE
from jitney.wire.home import Home

if TYPE_CHECKING:
    from jitney.compose.config import ServerConfig, WorkerConfig
    from jitney.drivers.builder.local import Settings
    from jitney.ports.blobs import BlobStore
    from jitney.ports.box import Box
    from jitney.ports.buckets import BucketMounter
    from jitney.ports.builder import ImageBuilder
    from jitney.ports.checkpoints import Checkpointer
    from jitney.ports.contents import Contents
    from jitney.ports.dockerfiles import DockerfileBuilder
    from jitney.ports.keys import KeyRing
    from jitney.ports.limits import Limiter
    from jitney.ports.logs import LogStore
    from jitney.ports.network import Network
    from jitney.ports.pulls import Puller
    from jitney.ports.runtime import Runtime
    from jitney.ports.sources import SourceStore
    from jitney.ports.store import Store
    from jitney.ports.trees import Trees

# port -> name -> "module:factory"
DRIVERS: dict[str, dict[str, str]] = {
    "store": {"sqlite": "jitney.drivers.store.sqlite:SqliteStore"},
    "blobs": {
        "localdir": "jitney.drivers.blobs.localdir:LocalBlobs",
        "s3": "jitney.drivers.blobs.s3:S3Blobs",
    },
    "keys": {"file": "jitney.drivers.keys.file:FileKeys"},
    "key commands": {"any": "jitney.drivers.keys.command:KeyCommand"},
    "sources": {"localdir": "jitney.drivers.sources.localdir:LocalSources"},
    "contents": {
        "localdir": "jitney.drivers.contents.localdir:LocalContents",
        "s3": "jitney.drivers.contents.s3:S3Contents",
    },
    "buckets": {"fuse": "jitney.drivers.buckets.fuse:FuseBuckets"},
    "logs": {"files": "jitney.drivers.logs.files:LogFiles"},
    "runtime": {
        "process": "jitney.drivers.runtime.process:ProcessRuntime",
        "namespaces": "jitney.drivers.runtime.namespaces:NamespacesRuntime",
        "oci": "jitney.drivers.runtime.oci:OciRuntime",
        "gvisor": "jitney.drivers.runtime.gvisor:GvisorRuntime",
    },
    "checkpoints": {"criu": "jitney.drivers.checkpoints.criu:CriuCheckpointer"},
    "accelerator hooks": {"cuda": "jitney.drivers.checkpoints.cuda:CudaHooks"},
    "runtime settings": {"oci": "jitney.drivers.runtime.oci:OciSettings"},
    "builder": {"local": "jitney.drivers.builder.local:LocalBuilder"},
    "box": {
        "host": "jitney.drivers.box.host:HostBox",
        "namespaces": "jitney.drivers.box.namespaces:NamespacesBox",
    },
    "pulls": {"oci": "jitney.drivers.pulls.oci:OciPuller"},
    "dockerfiles": {"oci": "jitney.drivers.runtime.oci:OciDockerfiles"},
}

# Of the machine's memory, for one import. Less would refuse models that fit; with more, an import that eats without end
# could bring the kernel to choose what it ends, which may be somebody else's.
TEMPLATE_PERCENT = 75

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


def keys(home: Home, config: ServerConfig) -> KeyRing:
    """What the secrets of the store are encrypted with."""
    command = factory("key commands", "any")
    given = ((name, getattr(config, name)) for name in ("secrets_key_command", "secrets_key_command_before"))
    covers = [command(argv, option=name) for name, argv in given if argv]
    made: KeyRing = factory("keys", "file")(home.secret_keys, covers=covers)
    return made


def inspect_store(home: Home, config: ServerConfig) -> tuple[str, str]:
    """(what the store is, what is wrong with it or ''), while it may be in use."""
    module = DRIVERS["store"][config.store].partition(":")[0]
    found: tuple[str, str] = importlib.import_module(module).inspect(home.store)
    return found


def secret_key_ids(home: Home, config: ServerConfig) -> set[str]:
    """The keys that secrets of the store are encrypted with, while it may be in use."""
    module = DRIVERS["store"][config.store].partition(":")[0]
    found: set[str] = importlib.import_module(module).key_ids(home.store)
    return found


def sources(home: Home, config: ServerConfig) -> SourceStore:
    """Where shipped files are kept."""
    made: SourceStore = factory("sources", "localdir")(home.sources, blobs(home, config))
    return made


def blobs(home: Home, config: ServerConfig) -> BlobStore:
    """What shipped files hold. Where that is in a bucket, what was used last is near too."""
    local = factory("blobs", "localdir")
    if not buckets.is_bucket(config.contents):
        made: BlobStore = local(home.files)
        return made
    from jitney.drivers.blobs.cached import CachedBlobs

    settings = buckets.settings(config, os.environ)
    far = factory("blobs", "s3")(settings, WORKSPACE, owner=buckets.owner(home.bucket_owner))
    return CachedBlobs(far, local(buckets.near(home.near, config), synced=False))


def contents(home: Home, config: ServerConfig) -> Contents:
    """What files of volumes hold."""
    made: Contents
    if buckets.is_bucket(config.contents):
        settings = buckets.settings(config, os.environ)
        made = factory("contents", "s3")(settings, home.volumes, owner=buckets.owner(home.bucket_owner))
    else:
        made = factory("contents", config.contents)(home.volumes)
    return made


def logs(home: Home) -> LogStore:
    """Where the output of containers is kept."""
    made: LogStore = factory("logs", "files")(home.logs)
    return made


def runtime(home: Home, config: WorkerConfig, out: Network | None = None) -> Runtime:
    """What runs containers. `out`: the way out that they share with others of this worker."""
    name = tiers.choose(config.runtime)
    make = factory("runtime", name)
    made: Runtime
    if name in ("oci", "gvisor"):
        from jitney.drivers.network.names import PorterNames

        own = network_for_others(out or network(home))
        settings = {}
        if name == "oci":
            settings["settings"] = factory("runtime settings", name)(base=config.oci_base, network=config.oci_network)
        made = make(home, limiter=limiter(home), network=own, names=PorterNames, **settings)
    elif name == "namespaces":
        made = make(home, limiter=limiter(home), network=network(home), template_limit_mib=template_limit_mib(config))
    elif name == "process":
        hooks = factory("accelerator hooks", "cuda")()
        made = make(
            home,
            checkpointer=checkpointer(),
            hooks=hooks,
            checkpoints_mib=config.checkpoints_mib,
            template_limit_mib=template_limit_mib(config),
        )
    else:
        made = make(home)
    return made


def checkpointer() -> Checkpointer:
    """What writes processes down."""
    made: Checkpointer = factory("checkpoints", "criu")()
    return made


def trees(home: Home, config: ServerConfig) -> Trees:
    """Where the worker lays out volumes. What containers see belongs to the ids of walls."""
    from jitney.drivers.trees.localdir import LocalTrees
    from jitney.drivers.walls.machine import ids_of_machine

    ids = ids_of_machine(os.environ)
    owner = ids.first if ids.writer == "root" else None
    if not buckets.is_bucket(config.contents):
        files = home.volumes / WORKSPACE / "files"
        return LocalTrees(home.trees, lambda digest: files / digest[:2] / digest, owner=owner)
    from jitney.drivers.contents.s3 import Fetcher
    from jitney.drivers.trees.fetching import FetchingTrees

    fetcher = Fetcher(buckets.settings(config, os.environ), home.volumes, WORKSPACE)
    return FetchingTrees(LocalTrees(home.trees, fetcher.path, owner=owner), fetcher.fetch, fetcher.forget_half)


def bucket_mounter(home: Home, config: WorkerConfig) -> BucketMounter:
    """What mounts buckets for containers. What containers see belongs to the ids of walls."""
    from jitney.drivers.walls.machine import ids_of_machine

    ids = ids_of_machine(os.environ)
    owner = ids.first if ids.writer == "root" else None
    only: tuple[str, ...] = (config.buckets,)
    if config.buckets == "auto":
        # A file that rclone writes has no name yet, and gVisor looks it up as soon as it has made it.
        only = ("s3fs",) if tiers.choose(config.runtime) == Isolation.GVISOR else ()
    made: BucketMounter = factory("buckets", "fuse")(home.buckets, owner=owner, only=only)
    return made


def worker(home: Home, config: WorkerConfig, policy: Isolation = Isolation.PROCESS) -> tuple[Runtime, ImageBuilder]:
    """What runs containers and what builds their images: behind walls of the same kind, with one way out.

    `policy` is the lowest tier that the server allows.
    """
    name = tiers.choose(config.runtime)
    if not tiers.builds_behind_walls(name):
        return runtime(home, config), builder(home, config, policy=policy)
    out = network(home)
    own = factory("box", "namespaces")(home.boxes, limiter=limiter(home, "builds"), network=out)
    if name != "namespaces":
        return runtime(home, config, out), builder(home, config, own, policy=policy)
    from jitney.drivers.network.names import PorterNames

    made: Runtime = factory("runtime", name)(
        home,
        limiter=limiter(home),
        network=out,
        names=PorterNames,
        template_limit_mib=template_limit_mib(config),
    )
    return made, builder(home, config, own, policy=policy)


def template_limit_mib(config: WorkerConfig) -> int:
    """Memory that one template may take as it imports."""
    from jitney.worker import node

    return config.template_limit_mib or node.memory_mib() * TEMPLATE_PERCENT // 100


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


def network_for_others(out: Network) -> Network | None:
    """What can be put into walls that an engine or runsc has made: the kernel's own routing. None: nothing can."""
    return out if out.capabilities().name == "veth" else None


def box(home: Home, config: WorkerConfig) -> Box:
    """What steps of image builds run in."""
    made: Box = factory("box", BOX_OF_RUNTIME.get(config.runtime, "host"))()
    return made


def images_of_others(home: Home, config: WorkerConfig, policy: Isolation = Isolation.PROCESS) -> Puller:
    """What fetches images from registries and archives. `policy`: the lowest tier that the server allows."""
    from jitney.compose.config import OWN_ARCHIVES
    from jitney.drivers.pulls.oci import ChildUnpacker, PullSettings
    from jitney.drivers.walls.machine import ids_of_machine

    archives = [word for word in config.archives.split(":") if word]
    settings = PullSettings(
        private=tuple(config.private_registries.split()),
        insecure=tuple(config.insecure_registries.split()),
        archives=tuple(word for word in archives if word != OWN_ARCHIVES),
        # Where others' code is to be kept off, a path that they name is not to be read with the rights of the worker.
        archives_of_user=OWN_ARCHIVES in archives and policy is Isolation.PROCESS,
        kept_out=(str(home.root),),
    )
    # Files of layers belong to whom they belong to behind a wall.
    owners = ",".join(f"{inside}:{outside}:{count}" for inside, outside, count in ids_of_machine(os.environ).lines())
    unpacker = ChildUnpacker(settings, owners=owners)
    made: Puller = factory("pulls", "oci")(home.root / "layers", settings=settings, unpacker=unpacker)
    return made


def dockerfiles(home: Home, policy: Isolation) -> DockerfileBuilder:
    """What builds Dockerfiles that need an engine: one that runs here, where the policy allows an engine's walls."""
    if not policy.allows(Isolation.OCI):
        from jitney.drivers.dockerfiles.none import NoDockerfiles

        return NoDockerfiles(
            why=f"an engine's containers are of the tier `oci`, and the server's policy asks for `{policy.value}`",
            remedy="build it elsewhere and use Image.from_registry, or leave out what needs an engine",
        )
    made: DockerfileBuilder = factory("dockerfiles", "oci")(os.environ, owner=home.short)
    return made


def build_settings(config: WorkerConfig) -> Settings:
    """How images are made here, and what a step of it may use."""
    from jitney.drivers.builder.local import Settings
    from jitney.worker import node

    return Settings(
        base=config.base,
        registry=config.registry,
        index_url=config.index_url,
        timeout_ms=config.build_timeout_ms,
        cpu_milli=round(config.build_cpus * 1000) or None,
        memory_mib=config.build_memory_mib or node.memory_mib() * 3 // 4,
    )


def builder(
    home: Home, config: WorkerConfig, box_: Box | None = None, *, policy: Isolation = Isolation.PROCESS
) -> ImageBuilder:
    """What builds images, in the box that is given, or in that of the worker's runtime."""
    where = box_ or box(home, config)
    settings = build_settings(config)
    # Layers of others are of use where there are root file systems.
    puller = images_of_others(home, config, policy) if where.capabilities().root_filesystem else None
    made: ImageBuilder = factory("builder", config.builder)(
        home.images, where, settings, puller=puller, dockerfiles=dockerfiles(home, policy), sources=home.sources
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
