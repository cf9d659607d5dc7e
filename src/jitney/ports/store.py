"""What the server must not forget: apps, functions, durable calls, ended containers, objects (ports.objects).

The queue itself is in the server's memory; the store is the log under it, read once at start (`CallStore.pending`).
So every operation here is a batch or a page, and there is no claim or lease: a lost lease only means a re-run.

The contract, for every driver and every repository:

 1. A write that gives is durable: it survives the death of this process and a loss of power.
 2. A write that raises InvalidError, NotFoundError, AlreadyExistsError or CancelledError has changed nothing.
 3. StorageFullError: the disk is full and nothing was recorded. Reads, and the writes that end or free something
    (`finish`, `failures`, `cancel`, `expire`, `forget`, `stop`, `containers.put`), go on as long as the reserve
    lasts. The store recovers by itself when there is room again.
 4. StorageError: the disk failed under a write. Whether it happened is not known; it is never said to have happened.
    From then on every write is refused and `healthy` is False, until the process starts again.
 5. ResourceExhaustedError: too many writes or reads wait already, or another program holds the database; nothing was
    recorded.
 6. Every write may be repeated with the same arguments: what it had done already is not done twice. So after an
    answer that was lost, doing it again is right.
 7. One write is applied whole or not at all. Writes awaited one after the other are applied in that order; writes
    that wait at the same time, in any order.
 8. A read sees every write that gave before it began.
 9. Cancelling the task that awaits a write does not undo it.
10. Nothing is unbounded: pages have limits, and what ended is dropped by `expire` and `forget`.
11. Lists are newest first, by the order in which things were first recorded (containers: by `created_at_ms`, ties by
    id, greater first).
12. Ids are checked by form where a file name is made of them; names and payloads are opaque.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from jitney.ports.objects import DictStore, ObjectStore, QueueStore
from jitney.ports.secrets import SecretStore
from jitney.ports.volumes import VolumeStore
from jitney.values.apps import AppRecord, DeploymentRecord, RunSummary
from jitney.values.calls import CallRecord, InputRecord, Output
from jitney.values.containers import ContainerRecord
from jitney.values.functions import FunctionSpec

INPUTS_PER_CALL_MAX = 1 << 24
OUTPUTS_BYTES_MAX = 32 * 1024 * 1024  # of one page of outputs: well inside a frame


class StoreMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Which store this is. `boot` is 1 at its first opening and grows by one with each: it fences earlier servers."""

    schema_version: int
    server_id: str
    boot: int


class Result(NamedTuple):
    """The result of one durable input, at the time (Unix ms) at which it was accepted."""

    call_id: str
    output: Output
    at_ms: int


class Failure(msgspec.Struct, frozen=True):
    """The failures of one durable input so far."""

    call_id: str
    index: int
    user_failures: int
    crashes: int


class Spawned(msgspec.Struct, frozen=True):
    """The call as it is now, and the inputs of this request that have no result.

    For a request that is new these are all of its inputs; for one that was sent again, those that a server may still
    have to queue (it knows which it holds).
    """

    call: CallRecord
    pending: list[InputRecord]


class Pending(msgspec.Struct, frozen=True):
    """A page of inputs without a result, in order, and the calls that they are of. `after`: where the next begins."""

    calls: list[CallRecord]
    inputs: list[InputRecord]
    after: tuple[str, int] | None


class Dropped(msgspec.Struct, frozen=True):
    """How many things were dropped, and the names of the payload files (home.blobs) that nothing refers to now."""

    count: int
    files: list[str]


class AppStore(Protocol):
    """Apps and their deployments."""

    async def put(self, records: Sequence[AppRecord]) -> None:
        """Record apps, or replace what is recorded of them."""

    async def publish(
        self, app: AppRecord, deployment: DeploymentRecord | None, functions: Mapping[str, FunctionSpec]
    ) -> None:
        """Record an app, its functions by id, and a version of its deployment, all at once.

        The functions become those of the app (`FunctionStore.of_app`), in this order; earlier ones are still found by
        id. Of two deployments with the same name and version the first wins.

        Raises:
            AlreadyExistsError: another deployment has the name and version, or a function id is of another app.
        """

    async def get(self, app_id: str) -> AppRecord | None:
        """The app; None if there is none."""

    async def by_name(self, name: str) -> AppRecord | None:
        """The app of the newest deployment (highest version) of that name, whatever its state; None if none."""

    async def recent(self, *, include_stopped: bool = True, limit: int = 100) -> list[AppRecord]:
        """Apps, newest first."""

    async def history(self, name: str, *, limit: int = 100) -> list[DeploymentRecord]:
        """Deployments of that name, newest version first."""

    async def stop(self, app_id: str, now_ms: int) -> AppRecord:
        """Mark the app stopped. One that is stopped keeps its time.

        Raises:
            NotFoundError: there is no such app.
        """


class FunctionStore(Protocol):
    """Functions, by id. An id is of one app and one spec for ever; its spec may be replaced."""

    async def put(self, app_id: str, functions: Mapping[str, FunctionSpec]) -> None:
        """Record bound functions of an app: found by id, and not among those of `of_app`.

        Raises:
            AlreadyExistsError: a function id is of another app.
        """

    async def get(self, function_id: str) -> tuple[str, FunctionSpec] | None:
        """(app id, function); None if there is none."""

    async def of_app(self, app_id: str) -> dict[str, FunctionSpec]:
        """The functions of the app's last publish by id, in its order."""

    async def unlisted(self, app_id: str) -> dict[str, FunctionSpec]:
        """The other functions of the app by id: bound ones, and those of earlier publishes. Ordered by id."""


class CallStore(Protocol):
    """Durable calls: their inputs until there is a result, and their results until they expire."""

    async def spawn(self, call: CallRecord, inputs: Sequence[InputRecord]) -> Spawned:
        """Record inputs of a call, which is recorded with its first; `call.inputs_complete` ends it.

        Indices have no gaps: a request begins at or before the number of inputs that are recorded, and those below
        that number are known and skipped. The counts, `cancelled` and `ended_at_ms` of `call` are not looked at.

        Raises:
            InvalidError: an index has a gap before it, the call is of another function, method or kind, or an input
                comes after the end of its call.
            CancelledError: a new input for a call that was cancelled.
        """

    async def finish(self, results: Sequence[Result]) -> list[bool]:
        """Record results: of each, whether it is the first of its input, and so accepted.

        A result of an input that has one, that was cancelled, or that is not known, is not accepted and changes
        nothing. The call ends with its last result, once its inputs are complete.
        """

    async def failures(self, failures: Sequence[Failure]) -> None:
        """Note failed attempts of inputs, replacing earlier notes. Inputs with a result are passed over."""

    async def cancel(self, call_id: str, now_ms: int) -> list[int]:
        """End a call: inputs without a result get TERMINATED with an empty payload. Gives their indices in order.

        A call that has ended is left as it is, and gives [].

        Raises:
            NotFoundError: there is no such call.
        """

    async def expire(self, before_ms: int, *, limit: int = 10_000) -> Dropped:
        """Drop the payloads of results that are older: they read as EXPIRED. At most `limit`, oldest first."""

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> Dropped:
        """Drop calls that ended before, with all their results. At most `limit`, oldest first."""

    async def get(self, call_id: str) -> CallRecord | None:
        """The call with its counts; None if there is none."""

    async def recent(self, app_id: str = "", *, limit: int = 50) -> list[CallRecord]:
        """Calls of an app ('': of all), newest first."""

    async def outputs(
        self, call_id: str, *, start: int = 0, limit: int = 1, bytes_max: int = OUTPUTS_BYTES_MAX
    ) -> list[Output]:
        """Results from index `start` on without a gap: [] when the first is not there. At least one, if it is there,
        however large; otherwise at most `bytes_max` bytes of payload.

        Raises:
            NotFoundError: there is no such call.
        """

    async def statuses(self, call_id: str, *, start: int = 0, limit: int = 100) -> list[tuple[int, int]]:
        """(index, status) of those of the inputs `start` to `start + limit` that have a result, in order."""

    async def pending(self, after: tuple[str, int] | None = None, *, limit: int = 1_000) -> Pending:
        """Inputs without a result, after (call id, index), calls in the order in which they were first recorded."""


class ContainerStore(Protocol):
    """Containers that have ended. Those that live are in the server's memory."""

    async def put(self, records: Sequence[ContainerRecord]) -> None:
        """Record containers, or replace what is recorded of them."""

    async def get(self, container_id: str) -> ContainerRecord | None:
        """The container; None if there is none."""

    async def recent(self, app_id: str = "", *, limit: int = 200) -> list[ContainerRecord]:
        """Containers of an app ('': of all), newest first."""

    async def summary(self, app_id: str) -> RunSummary:
        """What the recorded containers of an app did in sum. `failed` is 0: containers do not know it.

        `cold_starts` counts those that got ready; `wall_ms` is from the first creation to the last end.
        """

    async def forget(self, before_ms: int, *, limit: int = 1_000) -> int:
        """Drop containers that ended before: how many. At most `limit`, oldest first."""


class Store(Protocol):
    """All of it. `close` may be called twice; nothing else works after it."""

    @property
    def apps(self) -> AppStore: ...

    @property
    def functions(self) -> FunctionStore: ...

    @property
    def calls(self) -> CallStore: ...

    @property
    def containers(self) -> ContainerStore: ...

    @property
    def volumes(self) -> VolumeStore: ...

    @property
    def objects(self) -> ObjectStore: ...

    @property
    def dicts(self) -> DictStore: ...

    @property
    def queues(self) -> QueueStore: ...

    @property
    def secrets(self) -> SecretStore: ...

    async def meta(self) -> StoreMeta:
        """Which store this is, and how often it was opened."""

    def healthy(self) -> bool:
        """Whether writes are accepted at all. A full disk is not a fault: what ends or frees something goes on."""

    def problem(self) -> str:
        """What is wrong, and what to do about it, in a sentence; '' if nothing is."""

    async def close(self) -> None:
        """End what waits, then close."""
