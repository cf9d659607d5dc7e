"""Apps: create, publish, stop, list, history, logs, summary."""

from __future__ import annotations

import msgspec

from jitney.values.apps import AppRecord, AppState, DeploymentRecord
from jitney.values.containers import LogLine
from jitney.values.functions import ClientVersions, FunctionSpec
from jitney.values.secrets import discreet


class AppCreate(msgspec.Struct, frozen=True, kw_only=True):
    """A new app. EPHEMERAL ends with the link that created it; DETACHED when its work is done or it is stopped."""

    name: str = ""
    state: AppState = AppState.EPHEMERAL
    tags: dict[str, str] = {}
    versions: ClientVersions = ClientVersions()


class AppCreated(msgspec.Struct, frozen=True, kw_only=True):
    app_id: str


class AppPublish(msgspec.Struct, frozen=True, kw_only=True):
    """The functions of an app, all at once. `deploy_as` gives it a name and a new version; app_id may then be ''.

    `secrets`: values of the secrets without a name that functions refer to, by the ids that the client gave them.
    """

    app_id: str = ""
    deploy_as: str = ""
    tag: str = ""
    tags: dict[str, str] = {}
    functions: tuple[FunctionSpec, ...] = ()
    versions: ClientVersions = ClientVersions()
    secrets: dict[str, dict[str, str]] = {}

    def __repr__(self) -> str:
        return discreet(self)


class AppPublished(msgspec.Struct, frozen=True, kw_only=True):
    app_id: str
    function_ids: dict[str, str]  # name -> id
    version: int = 0
    changed: bool = True  # False: a deploy of exactly what already runs


class AppRef(msgspec.Struct, frozen=True, kw_only=True):
    """An app by id ('ap-...') or by deployed name."""

    app: str


class AppStop(msgspec.Struct, frozen=True, kw_only=True):
    app: str
    wait_logs: bool = False  # answer only when the containers are gone and their last lines delivered


class AppStopped(msgspec.Struct, frozen=True, kw_only=True):
    app_id: str
    containers_stopped: int = 0


class AppList(msgspec.Struct, frozen=True, kw_only=True):
    include_stopped: bool = True
    limit: int = 100


class AppListed(msgspec.Struct, frozen=True, kw_only=True):
    apps: tuple[AppRecord, ...]


class AppHistory(msgspec.Struct, frozen=True, kw_only=True):
    deployments: tuple[DeploymentRecord, ...]


class AppLogs(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of an app, or of one container. With `follow` the stream ends when the app has stopped."""

    app: str = ""
    container_id: str = ""
    function: str = ""
    follow: bool = False
    since_ms: int = 0
    tail: int | None = None  # the last n lines only


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    """Event of a log stream."""

    lines: tuple[LogLine, ...]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a stream, or an answer with nothing to say."""
