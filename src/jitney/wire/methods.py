"""The table of methods: client stubs, server routes, authorisation and the HTTP page all follow from it.

A method is a value. `stream` names the type of the events that come before the answer. `scope` says who may call:
'user' (the token of the server's folder), 'container' (also a running container, for the app that it belongs to), or
'worker'.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from jitney.values.apps import AppRecord, RunSummary
from jitney.values.containers import ContainerRecord
from jitney.values.images import Collected, PlannedImage
from jitney.wire.messages import apps, calls, containers, exec, functions, images, server, workers

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)


class Method(msgspec.Struct, Generic[Q, A], frozen=True):
    """One method: request type in, answer type out."""

    name: str
    request: type[Q]
    answer: type[A]
    stream: Any = None
    scope: str = "user"


SERVER_STATUS = Method("server.status", server.Empty, server.ServerStatus)
SERVER_STOP = Method("server.stop", server.ServerStop, apps.Done)

APP_CREATE = Method("app.create", apps.AppCreate, apps.AppCreated)
APP_PUBLISH = Method("app.publish", apps.AppPublish, apps.AppPublished)
APP_GET = Method("app.get", apps.AppRef, AppRecord, None, "container")
APP_STOP = Method("app.stop", apps.AppStop, apps.AppStopped)
APP_LIST = Method("app.list", apps.AppList, apps.AppListed)
APP_HISTORY = Method("app.history", apps.AppRef, apps.AppHistory)
APP_LOGS = Method("app.logs", apps.AppLogs, apps.Done, apps.LogLines)
APP_SUMMARY = Method("app.summary", apps.AppRef, RunSummary)

FUNCTION_GET = Method("function.get", functions.FunctionGet, functions.FunctionInfo, None, "container")
FUNCTION_BIND = Method("function.bind", functions.FunctionBind, functions.FunctionInfo, None, "container")
FUNCTION_STATS = Method("function.stats", functions.FunctionRef, functions.FunctionStats, None, "container")
FUNCTION_AUTOSCALER = Method("function.autoscaler", functions.AutoscalerUpdate, apps.Done, None, "container")

CALL_SPAWN = Method("call.spawn", calls.CallSpawn, calls.CallSpawned, None, "container")
CALL_OUTPUTS = Method("call.outputs", calls.CallOutputs, calls.CallOutputsAnswer, None, "container")
CALL_CANCEL = Method("call.cancel", calls.CallCancel, apps.Done, None, "container")
CALL_LIST = Method("call.list", calls.CallList, calls.CallListed)
CALL_SHOW = Method("call.show", calls.CallRef, calls.CallShown, None, "container")

CONTAINER_LIST = Method("container.list", containers.ContainerList, containers.ContainerListed)
CONTAINER_GET = Method("container.get", containers.ContainerRef, ContainerRecord)
CONTAINER_STOP = Method("container.stop", containers.ContainerStop, apps.Done)
CONTAINER_STATS = Method("container.stats", containers.ContainerStats, containers.ContainerStatsAnswer)
CONTAINER_OPEN = Method(
    "container.open", containers.ContainerOpen, containers.ContainerClosed, containers.ContainerOpened
)
CONTAINER_EXEC = Method("container.exec", exec.Exec, exec.ExecEnded, exec.ExecOutput)
CONTAINER_EXEC_INPUT = Method("container.exec_input", exec.ExecInput, apps.Done)

IMAGE_BUILD = Method("image.build", images.ImageBuild, images.ImageBuilt, images.BuildProgress)
IMAGE_PLAN = Method("image.plan", images.ImagePlanRequest, PlannedImage)
IMAGE_LIST = Method("image.list", images.ImageList, images.ImageListed)
IMAGE_TAG = Method("image.tag", images.ImageTag, images.ImageTagged)
IMAGE_REMOVE = Method("image.remove", images.ImageRemove, images.ImageRemoved)
IMAGE_COLLECT = Method("image.collect", images.ImageCollect, Collected)
SOURCE_MISSING = Method("source.missing", images.SourceMissing, images.SourceMissingAnswer)
SOURCE_PUT = Method("source.put", images.SourcePut, apps.Done)
SOURCE_CREATE = Method("source.create", images.SourceCreate, images.SourceCreated)

WORKER_ATTACH = Method("worker.attach", workers.WorkerAttach, apps.Done, workers.WorkerCommand, "worker")
WORKER_REPORT = Method("worker.report", workers.WorkerReports, apps.Done, None, "worker")

METHODS: dict[str, Method[Any, Any]] = {
    method.name: method for method in list(globals().values()) if isinstance(method, Method)
}
