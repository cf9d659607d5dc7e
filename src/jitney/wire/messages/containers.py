"""Containers: list, stop, stats, open. Their logs are a stream of messages.apps.AppLogs; commands in them: exec."""

from __future__ import annotations

import msgspec

from jitney.values.containers import ContainerRecord, Measured
from jitney.values.functions import FunctionSpec
from jitney.values.secrets import discreet


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


class ContainerOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A container to be in, which runs nothing by itself: for commands. A stream, as long as which it lives.

    Of `spec` its image, source, variables, resources and walls count: what `function_id` is now, or as given.
    `secrets`: as in `app.publish`.
    """

    function_id: str = ""
    spec: FunctionSpec | None = None
    secrets: dict[str, dict[str, str]] = {}

    def __repr__(self) -> str:
        return discreet(self)


class ContainerOpened(msgspec.Struct, frozen=True, kw_only=True):
    """The one event of `container.open`: it takes commands."""

    container_id: str


class ContainerClosed(msgspec.Struct, frozen=True, kw_only=True):
    """It has ended."""

    container: ContainerRecord


class ContainerStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a container uses now; none named: all that live."""

    container_id: str = ""


class ContainerStatsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Those whose worker answered; `containers` are the same ones in the same order."""

    measured: tuple[Measured, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()
