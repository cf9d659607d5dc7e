"""How the fake server answers requests: apps, images, sources, look-ups and durable calls, all in memory."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from jitney.core import imageplan
from jitney.errors import JitneyError, NotFoundError
from jitney.testing.fake_functions import SCOPE, FakeFunction, now_ms
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState, RunSummary
from jitney.values.calls import CallKind, CallRecord, Output
from jitney.values.containers import LogLine
from jitney.values.functions import FunctionSpec, Overrides
from jitney.values.images import BuiltImage, PlannedImage, PlannedStep
from jitney.wire import codec, methods
from jitney.wire.messages import apps, calls, functions, images, server

if TYPE_CHECKING:
    from jitney.testing.fake_server import FakeServer

Emit = Callable[[msgspec.Struct], None]


class Durable:
    """A durable call."""

    def __init__(self, function: FakeFunction, method: str) -> None:
        self.function = function
        self.method = method
        self.payloads: dict[int, bytes] = {}
        self.outputs: dict[int, Output] = {}
        self.complete = False
        self.cancelled = False


class Answers:
    """One method per method of the table: `app.create` is `app_create`."""

    def __init__(self, owner: FakeServer) -> None:
        self._owner = owner
        self.apps: dict[str, AppRecord] = {}
        self.files: dict[str, bytes] = {}
        self.sources: dict[str, list[images.SourceFile]] = {}
        self.published: list[apps.AppPublish] = []
        self.built = BuiltImage(
            image_id=ids.make(ids.IMAGE, bytes(16)),
            python_path=sys.executable,
            python_version=platform.python_version(),
            cloudpickle_version="",
            cached=True,
        )
        self.asked: list[msgspec.Struct] = []  # about images
        self.build_events: list[images.BuildProgress] = []
        self.logs: dict[str, list[LogLine]] = {}
        self.durable: dict[str, Durable] = {}
        self.fail: dict[str, JitneyError] = {}  # by method: instead of an answer, once
        self.changed = asyncio.Condition()

    async def answer(self, name: str, body: bytes, emit: Emit) -> msgspec.Struct:
        """The answer to a request."""
        if name in self.fail:
            raise self.fail.pop(name)
        method = methods.METHODS.get(name)
        handler = getattr(self, name.replace(".", "_"), None)
        if method is None or handler is None:
            raise NotFoundError(f"no method {name}")
        result = handler(codec.decode(body, method.request), emit)
        answer = await result if asyncio.iscoroutine(result) else result
        assert isinstance(answer, msgspec.Struct)
        return answer

    def say(self, app_id: str, text: str, fd: int = 1) -> None:
        """A container of the app prints a line. From any thread."""
        line = LogLine(now_ms(), ids.make(ids.CONTAINER, bytes(16)), fd, text)
        asyncio.run_coroutine_threadsafe(self._log(app_id, line), self._owner.loop).result()

    async def _log(self, app_id: str, line: LogLine) -> None:
        self.logs.setdefault(app_id, []).append(line)
        await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    # ------------------------------------------------------------------------------------------- apps

    def server_status(self, request: server.Empty, emit: Emit) -> server.ServerStatus:
        return server.ServerStatus(version="9.9.9", boot_id=self._owner.boot_id, pid=0, started_at_ms=0)

    def app_create(self, request: apps.AppCreate, emit: Emit) -> apps.AppCreated:
        app_id = self._owner.new_id(ids.APP)
        self.apps[app_id] = AppRecord(app_id=app_id, name=request.name, state=request.state, tags=request.tags)
        return apps.AppCreated(app_id=app_id)

    def app_publish(self, request: apps.AppPublish, emit: Emit) -> apps.AppPublished:
        self.published.append(request)
        app_id = request.app_id
        if request.deploy_as:
            app_id = next((a.app_id for a in self.apps.values() if a.name == request.deploy_as), "")
            version = self.apps[app_id].version + 1 if app_id else 1
            app_id = app_id or self._owner.new_id(ids.APP)
            self.apps[app_id] = AppRecord(
                app_id=app_id, name=request.deploy_as, state=AppState.DEPLOYED, version=version, tags=request.tags
            )
        elif app_id not in self.apps:
            raise NotFoundError(f"no app {app_id}")
        published = {spec.name: self._publish(app_id, spec) for spec in request.functions}
        return apps.AppPublished(app_id=app_id, function_ids=published, version=self.apps[app_id].version)

    def _publish(self, app_id: str, spec: FunctionSpec) -> str:
        function_id = self._owner.new_id(ids.FUNCTION)
        self._owner.add(FakeFunction(function_id, app_id, spec.name, spec=spec))
        return function_id

    def app_get(self, request: apps.AppRef, emit: Emit) -> AppRecord:
        for app in self.apps.values():
            if request.app in (app.app_id, app.name):
                return app
        raise NotFoundError(f"no app {request.app}")

    async def app_stop(self, request: apps.AppStop, emit: Emit) -> apps.AppStopped:
        app = self.app_get(apps.AppRef(app=request.app), emit)
        self.apps[app.app_id] = msgspec.structs.replace(app, state=AppState.STOPPED)
        await self._notify()
        return apps.AppStopped(app_id=app.app_id)

    def app_summary(self, request: apps.AppRef, emit: Emit) -> RunSummary:
        return RunSummary(inputs=sum(self._owner.seen.runs.values()))

    async def app_logs(self, request: apps.AppLogs, emit: Emit) -> apps.Done:
        shown = 0
        lines = self.logs.setdefault(request.app, [])
        while True:
            new = [line for line in lines[shown:] if line.at_ms >= request.since_ms]
            shown = len(lines)
            if new:
                emit(apps.LogLines(lines=tuple(new)))
            if not request.follow or self.apps[request.app].state is AppState.STOPPED:
                return apps.Done()
            async with self.changed:
                if len(lines) == shown and self.apps[request.app].state is not AppState.STOPPED:
                    await self.changed.wait()

    # ------------------------------------------------------------------------------------------- images, sources

    async def image_build(self, request: images.ImageBuild, emit: Emit) -> images.ImageBuilt:
        self.asked.append(request)
        for event in self.build_events:
            emit(event)
        return images.ImageBuilt(image=self.built)

    def image_plan(self, request: images.ImagePlanRequest, emit: Emit) -> PlannedImage:
        self.asked.append(request)
        plan = imageplan.plan(request.spec, imageplan.Host(python_version=platform.python_version(), platform="fake"))
        steps = (PlannedStep(title=one.title, digest=one.digest, work=one.work, cached=False) for one in plan.steps)
        return PlannedImage(image_id=plan.image_id, python=plan.python, needs_root=plan.needs_root, steps=tuple(steps))

    def image_tag(self, request: images.ImageTag, emit: Emit) -> images.ImageTagged:
        self.asked.append(request)
        return images.ImageTagged(image_id=request.image, name=request.name)

    def source_missing(self, request: images.SourceMissing, emit: Emit) -> images.SourceMissingAnswer:
        return images.SourceMissingAnswer(missing=[one for one in request.digests if one not in self.files])

    def source_put(self, request: images.SourcePut, emit: Emit) -> apps.Done:
        for content in request.contents:
            self.files[hashlib.sha256(content).hexdigest()] = content
        return apps.Done()

    def source_create(self, request: images.SourceCreate, emit: Emit) -> images.SourceCreated:
        digest = hashlib.sha256(msgspec.msgpack.encode(request.files)).digest()
        source_id = ids.make(ids.SOURCE, digest)
        self.sources[source_id] = request.files
        return images.SourceCreated(source_id=source_id)

    # ------------------------------------------------------------------------------------------- functions

    def _function(self, function_id: str) -> FakeFunction:
        if function_id not in self._owner.functions:
            raise NotFoundError(f"no function {function_id}")
        return self._owner.functions[function_id]

    def function_get(self, request: functions.FunctionGet, emit: Emit) -> functions.FunctionInfo:
        wanted = {request.app} | {a.app_id for a in self.apps.values() if a.name == request.app}
        for one in reversed(self._owner.functions.values()):
            if one.app_id in wanted and one.name == request.name and one.overrides == Overrides():
                return _info(one)
        raise NotFoundError(f"app {request.app} has no function {request.name}")

    def function_bind(self, request: functions.FunctionBind, emit: Emit) -> functions.FunctionInfo:
        base = self._function(request.function_id)
        given = {name: value for name, value in msgspec.structs.asdict(request.overrides).items() if value is not None}
        overrides = msgspec.structs.replace(base.overrides, **given)
        for one in self._owner.functions.values():
            if (one.bound_to, one.overrides) == (base.bound_to or base.function_id, overrides):
                return _info(one)
        spec = base.spec
        if spec is not None and request.overrides.parameters is not None:
            spec = msgspec.structs.replace(spec, parameters=request.overrides.parameters)
        bound = FakeFunction(self._owner.new_id(ids.FUNCTION), base.app_id, base.name, base.plain, spec)
        bound.overrides, bound.bound_to = overrides, base.bound_to or base.function_id
        self._owner.add(bound)
        return _info(bound)

    def function_stats(self, request: functions.FunctionRef, emit: Emit) -> functions.FunctionStats:
        self._function(request.function_id)
        return functions.FunctionStats(backlog=2, num_total_runners=1)

    def function_autoscaler(self, request: functions.AutoscalerUpdate, emit: Emit) -> apps.Done:
        self._function(request.function_id)
        return apps.Done()

    # ------------------------------------------------------------------------------------------- durable calls

    def call_spawn(self, request: calls.CallSpawn, emit: Emit) -> calls.CallSpawned:
        call = self.durable.setdefault(request.call_id, Durable(self._function(request.function_id), request.method))
        call.complete = request.complete or call.complete
        for index, body in enumerate(request.payloads, request.first_index):
            if index not in call.payloads:
                call.payloads[index] = body
                self._owner.pool.submit(self._run, request.call_id, call, index, body)
        return calls.CallSpawned(call_id=request.call_id, inputs=len(call.payloads))

    def resume(self) -> None:
        """After a restart: run what has no output."""
        for call_id, call in self.durable.items():
            for index, body in call.payloads.items():
                if index not in call.outputs:
                    self._owner.pool.submit(self._run, call_id, call, index, body)

    def _run(self, call_id: str, call: Durable, index: int, body: bytes) -> None:
        owner = self._owner
        owner.seen.runs[call_id, index] += 1
        output = owner.runner.run(call.function, call.method, call_id, index, body)

        async def record() -> None:
            call.outputs[index] = output
            await self._notify()

        recording = record()
        try:
            asyncio.run_coroutine_threadsafe(recording, owner.loop)
        except RuntimeError:  # the server has stopped
            recording.close()

    async def call_outputs(self, request: calls.CallOutputs, emit: Emit) -> calls.CallOutputsAnswer:
        call = self._durable(request.call_id)

        def found() -> list[Output]:
            outputs = []
            for index in range(request.start, request.start + request.limit):
                if index not in call.outputs:
                    break
                outputs.append(call.outputs[index])
            return outputs

        def over() -> bool:
            return bool(found()) or (call.complete and request.start >= len(call.payloads))

        if request.timeout_ms:
            try:
                async with asyncio.timeout(request.timeout_ms / 1000), self.changed:
                    await self.changed.wait_for(over)
            except TimeoutError:
                pass
        return calls.CallOutputsAnswer(outputs=found(), inputs=len(call.payloads), inputs_complete=call.complete)

    def call_cancel(self, request: calls.CallCancel, emit: Emit) -> apps.Done:
        self._durable(request.call_id).cancelled = True
        return apps.Done()

    def call_show(self, request: calls.CallRef, emit: Emit) -> calls.CallShown:
        call = self._durable(request.call_id)
        record = CallRecord(
            call_id=request.call_id,
            function_id=call.function.function_id,
            kind=CallKind.SPAWN_MAP,
            inputs=len(call.payloads),
        )
        return calls.CallShown(call=record)

    def _durable(self, call_id: str) -> Durable:
        if call_id not in self.durable:
            raise NotFoundError(f"no call {call_id}")
        return self.durable[call_id]


def _info(function: FakeFunction) -> functions.FunctionInfo:
    return functions.FunctionInfo(
        function_id=function.function_id,
        app_id=function.app_id,
        name=function.name,
        is_class=bool(function.spec and function.spec.is_class),
        methods=function.method_specs(),
        scope=SCOPE,
    )
