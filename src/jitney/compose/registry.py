"""Which driver a name in the configuration stands for, and how it is made.

A driver is imported when it is used, not before. Nothing else in Jitney names one.
"""

from __future__ import annotations

import importlib
import inspect
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
    "store": {
        "sqlite": "jitney.drivers.store.sqlite:open_store",
        "memory": "jitney.drivers.store.memory:MemoryStore",
    },
    "sources": {"folder": "jitney.drivers.sources.folder:FolderSources"},
    "logs": {"files": "jitney.drivers.logs.files:FileLogs"},
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


async def store(home: Home, config: ServerConfig) -> Store:
    """The store of apps, calls and results."""
    made = factory("store", config.store)(*([home.store] if config.store == "sqlite" else []))
    opened: Store = await made if inspect.isawaitable(made) else made
    return opened


def sources(home: Home) -> SourceStore:
    """Where shipped files are kept."""
    made: SourceStore = factory("sources", "folder")(home)
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
