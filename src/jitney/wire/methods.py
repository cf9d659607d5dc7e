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
from jitney.values.objects import ObjectRecord
from jitney.values.secrets import SecretRecord
from jitney.values.volumes import Committed, Retention
from jitney.wire.messages import (
    apps,
    calls,
    containers,
    dicts,
    exec,
    functions,
    images,
    mounts,
    objects,
    queues,
    secrets,
    server,
    volumes,
    workers,
)

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

OBJECT_OPEN = Method("object.open", objects.ObjectOpen, ObjectRecord, None, "container")
OBJECT_LIST = Method("object.list", objects.ObjectList, objects.ObjectListed, None, "container")
OBJECT_DELETE = Method("object.delete", objects.ObjectDelete, apps.Done, None, "container")
OBJECT_RENAME = Method("object.rename", objects.ObjectRename, ObjectRecord, None, "container")
OBJECT_HEARTBEAT = Method("object.heartbeat", objects.ObjectHeartbeat, objects.ObjectHeard, None, "container")

DICT_GET = Method("dict.get", dicts.DictKey, dicts.DictValue, None, "container")
DICT_CONTAINS = Method("dict.contains", dicts.DictKey, dicts.DictDone, None, "container")
DICT_PUT = Method("dict.put", dicts.DictPut, dicts.DictDone, None, "container")
DICT_UPDATE = Method("dict.update", dicts.DictUpdate, dicts.DictNumber, None, "container")
DICT_POP = Method("dict.pop", dicts.DictPop, dicts.DictValue, None, "container")
DICT_SWAP = Method("dict.swap", dicts.DictSwap, dicts.DictSwapped, None, "container")
DICT_INCREMENT = Method("dict.increment", dicts.DictIncrement, dicts.DictNumber, None, "container")
DICT_LENGTH = Method("dict.length", dicts.DictRef, dicts.DictNumber, None, "container")
DICT_SCAN = Method("dict.scan", dicts.DictScan, dicts.DictPage, None, "container")
DICT_CLEAR = Method("dict.clear", dicts.DictRef, dicts.DictNumber, None, "container")

QUEUE_PUT = Method("queue.put", queues.QueuePut, queues.QueueDone, None, "container")
QUEUE_GET = Method("queue.get", queues.QueueGet, queues.QueueItems, None, "container")
QUEUE_SETTLE = Method("queue.settle", queues.QueueSettle, queues.QueueDone, None, "container")
QUEUE_LOOK = Method("queue.look", queues.QueueLook, queues.QueueItems, None, "container")
QUEUE_LENGTH = Method("queue.length", queues.QueueLength, queues.QueueDone, None, "container")
QUEUE_CLEAR = Method("queue.clear", queues.QueueClear, queues.QueueDone, None, "container")
QUEUE_PARTITIONS = Method("queue.partitions", queues.QueueRef, queues.QueuePartitions, None, "container")

VOLUME_HEADS = Method("volume.heads", mounts.VolumeHeads, mounts.VolumeHeadsAnswer, None, "worker")
VOLUME_DIFF = Method("volume.diff", mounts.VolumeDiff, mounts.VolumeDiffAnswer, None, "worker")
VOLUME_COMMIT_WRITTEN = Method("volume.commit_written", mounts.MountCommit, Committed, None, "worker")

VOLUME_LIST = Method("volume.list", volumes.VolumeList, volumes.VolumeListed, None, "container")
VOLUME_INFO = Method("volume.info", volumes.VolumeRef, volumes.VolumeDetail, None, "container")
VOLUME_ENTRIES = Method("volume.entries", volumes.VolumeEntries, volumes.VolumeEntriesAnswer, None, "container")
VOLUME_STAT = Method("volume.stat", volumes.VolumeStat, volumes.VolumeStatAnswer, None, "container")
VOLUME_HISTORY = Method("volume.history", volumes.VolumeHistory, volumes.VolumeHistoryAnswer, None, "container")
VOLUME_MISSING = Method("volume.missing", volumes.VolumeMissing, volumes.VolumeMissingAnswer, None, "container")
VOLUME_PUT_BLOCK = Method("volume.put_block", volumes.VolumePutBlock, apps.Done, None, "container")
VOLUME_COMMIT = Method("volume.commit", volumes.VolumeCommit, Committed, None, "container")
VOLUME_ADOPT = Method("volume.adopt", volumes.VolumeAdopt, volumes.VolumeAdopted)
VOLUME_READ = Method("volume.read", volumes.VolumeRead, volumes.VolumeReadAnswer, None, "container")
VOLUME_COPY = Method("volume.copy", volumes.VolumeCopy, Committed, None, "container")
VOLUME_MOVE = Method("volume.move", volumes.VolumeMove, Committed, None, "container")
VOLUME_REMOVE = Method("volume.remove", volumes.VolumeRemove, Committed, None, "container")
VOLUME_RESTORE = Method("volume.restore", volumes.VolumeRestore, Committed, None, "container")
VOLUME_KEEP = Method("volume.keep", volumes.VolumeKeep, Retention, None, "container")
VOLUME_DELETE = Method("volume.delete", volumes.VolumeRef, apps.Done, None, "container")
VOLUME_MOUNT_COMMIT = Method("volume.commit_mount", volumes.VolumeMounted, Committed, None, "container")
VOLUME_MOUNT_RELOAD = Method("volume.reload_mount", volumes.VolumeMounted, volumes.VolumeReloaded, None, "container")

SECRET_CREATE = Method("secret.create", secrets.SecretCreate, SecretRecord)
SECRET_UPDATE = Method("secret.update", secrets.SecretUpdate, SecretRecord)
SECRET_RENAME = Method("secret.rename", secrets.SecretRename, SecretRecord)
SECRET_DELETE = Method("secret.delete", secrets.SecretName, apps.Done)
SECRET_LIST = Method("secret.list", secrets.SecretList, secrets.SecretListed)
SECRET_INFO = Method("secret.info", secrets.SecretName, secrets.SecretInfo)
SECRET_AUDIT = Method("secret.audit", secrets.SecretAudit, secrets.SecretAudited)
SECRET_ROTATE_KEY = Method("secret.rotate_key", secrets.SecretRotate, secrets.SecretRotated)

WORKER_ATTACH = Method("worker.attach", workers.WorkerAttach, apps.Done, workers.WorkerCommand, "worker")
WORKER_REPORT = Method("worker.report", workers.WorkerReports, apps.Done, None, "worker")

METHODS: dict[str, Method[Any, Any]] = {
    method.name: method for method in list(globals().values()) if isinstance(method, Method)
}
