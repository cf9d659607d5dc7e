"""Apps and their deployments."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class AppState(StrEnum):
    """What keeps an app alive: its client, nobody (detached), its name (deployed), or nothing."""

    EPHEMERAL = "ephemeral"
    DETACHED = "detached"
    DEPLOYED = "deployed"
    STOPPED = "stopped"


class AppRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An app as listed. Times are Unix ms."""

    app_id: str
    name: str = ""
    state: AppState = AppState.EPHEMERAL
    version: int = 0
    tags: dict[str, str] = {}
    created_at_ms: int = 0
    stopped_at_ms: int | None = None
    containers: int = 0


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a deployed app."""

    app_id: str
    name: str
    version: int
    deployed_at_ms: int
    tag: str = ""
    client_version: str = ""
    functions: tuple[str, ...] = ()


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did, for its closing line. Durations in ms, summed over containers but for `wall_ms`."""

    inputs: int = 0
    failed: int = 0
    containers: int = 0
    cold_starts: int = 0
    wall_ms: int = 0
    busy_ms: int = 0
    idle_ms: int = 0
