"""Which driver a name in the configuration stands for, and how it is made.

A driver is imported when it is used, not before. Nothing else in Jitney names one.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from jitney.errors import InvalidError
from jitney.wire.home import Home

if TYPE_CHECKING:
    from jitney.compose.config import ServerConfig, WorkerConfig
    from jitney.ports.builder import ImageBuilder
    from jitney.ports.logs import LogStore
    from jitney.ports.runtime import Runtime
    from jitney.ports.sources import SourceStore
    from jitney.ports.store import Store

# port -> name -> "module:factory"
DRIVERS: dict[str, dict[str, str]] = {
    "store": {"sqlite": "jitney.drivers.store.sqlite:SqliteStore"},
    "blobs": {"localdir": "jitney.drivers.blobs.localdir:LocalBlobs"},
    "sources": {"localdir": "jitney.drivers.sources.localdir:LocalSources"},
    "logs": {"files": "jitney.drivers.logs.files:LogFiles"},
    "runtime": {"process": "jitney.drivers.runtime.process:ProcessRuntime"},
    "builder": {"uv": "jitney.drivers.builder.uv:UvBuilder"},
}


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
    made: Runtime = factory("runtime", config.runtime)(home)
    return made


def builder(home: Home, config: WorkerConfig) -> ImageBuilder:
    """What builds images."""
    made: ImageBuilder = factory("builder", config.builder)(home.images, index_url=config.index_url)
    return made


def package_indexes(config: WorkerConfig) -> list[str]:
    """The package indexes that images are built from; [] for the builder's own default."""
    import subprocess
    import sys

    from jitney.drivers.builder.uv.settings import build_environment, parse_pip_config

    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=10
    )
    settings = build_environment(
        os.environ, parse_pip_config(done.stdout), {}, link_mode="copy", index_url=config.index_url
    )
    urls = [settings.get("UV_DEFAULT_INDEX", ""), *settings.get("UV_INDEX", "").split()]
    return [url for url in urls if url]
