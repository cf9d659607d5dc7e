"""The server itself."""

from __future__ import annotations

import msgspec

from jitney.values.containers import NodeInfo


class Empty(msgspec.Struct, frozen=True, kw_only=True):
    """A request with nothing to say."""


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    boot_id: str
    pid: int
    started_at_ms: int
    nodes: tuple[NodeInfo, ...] = ()
    apps: int = 0
    containers: int = 0
    queued_inputs: int = 0
    running_inputs: int = 0
    stale_results: int = 0  # dropped by the fence
    http: str = ""  # "http://127.0.0.1:7117", or "" where the port could not be had
    http_problem: str = ""


class ServerStop(msgspec.Struct, frozen=True, kw_only=True):
    """End the server. Containers are stopped too, unless `keep_containers` (a restart)."""

    keep_containers: bool = False
