"""Containers: list, stop. Their logs are a stream of messages.apps.AppLogs."""

from __future__ import annotations

import msgspec

from jitney.values.containers import ContainerRecord


class ContainerList(msgspec.Struct, frozen=True, kw_only=True):
    app: str = ""
    include_ended: bool = False
    limit: int = 200


class ContainerListed(msgspec.Struct, frozen=True, kw_only=True):
    containers: tuple[ContainerRecord, ...]


class ContainerRef(msgspec.Struct, frozen=True, kw_only=True):
    container_id: str


class ContainerStop(msgspec.Struct, frozen=True, kw_only=True):
    """Stop one container; `graceful` lets it finish its inputs, otherwise they run again elsewhere."""

    container_id: str
    graceful: bool = False
