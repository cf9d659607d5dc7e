"""Which driver a name in the configuration stands for. A driver is imported when it is used, not before."""

from __future__ import annotations

import importlib
from typing import Any

from jitney.errors import InvalidError

# port -> name -> "module:factory"
DRIVERS: dict[str, dict[str, str]] = {
    "store": {
        "sqlite": "jitney.drivers.store.sqlite:SqliteStore",
        "memory": "jitney.drivers.store.memory:MemoryStore",
    },
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
