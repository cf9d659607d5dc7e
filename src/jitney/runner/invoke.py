"""One invocation of synchronous user code, from payload to result: what the main thread and a pool's threads share.

User code runs between `gate.open` and `gate.close`. Only there may it be interrupted: outside, the same exception would
tear the runner's own state. What escapes user code, of whatever class (SystemExit and KeyboardInterrupt included), is
the failure of that input and nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from time import monotonic_ns
from typing import Any, Protocol

from jitney.runner import payload, state
from jitney.runner.inbox import Work
from jitney.runner.load import Method
from jitney.runner.outbox import ITEMS_AHEAD, Outbox, Stream
from jitney.runner.protocol import FAILURE, FRAME_BYTES_MAX, SUCCESS, Result
from jitney.runner.segments import SegmentPool

RESULT_BYTES_MAX = FRAME_BYTES_MAX - 1024


def end_of_items(yielded: int) -> bytes:
    """The result of a generator: how many items it has yielded, so that its reader knows of lost ones."""
    return payload.encode(yielded, pool=None, blobs=None, inline_max=payload.INLINE_BYTES_MAX)


class BatchError(Exception):
    """A @batched function was called with, or gave back, something that cannot be split into its inputs."""


class Abandoned(Exception):
    """The container ends before the work does: there is no result, and the input runs again elsewhere."""


class Gate(Protocol):
    """Between the runner and user code."""

    def open(self, work: Work) -> None:
        """User code runs from now on; raises InputCancellation if `work` is cancelled already."""

    def close(self) -> None:
        """It has ended, and may no more be interrupted."""

    def wait_for_credit(self, work: Work) -> None:
        """Return when the generator may go on; raises InputCancellation when it is cancelled."""

    @property
    def is_stopping(self) -> bool:
        """Whether the container is being ended by force."""


class Values:
    """Values of inputs and outputs as payloads."""

    def __init__(self, config: dict[str, Any]) -> None:
        folder = config.get("segments")
        self.name = str(config.get("function", "the function"))
        self.pool = SegmentPool(folder, str(config["scope"])) if folder else None
        self.apart = bool(config.get("apart"))  # what is locked here is not locked outside: no holds on shared memory
        self.blobs: str | None = config.get("blobs") or None

    def decode(self, data: bytes) -> Any:
        """The (args, kwargs) of an input."""
        return payload.decode(data, pool=self.pool, blobs=self.blobs, copies=self.apart)

    def encode(self, value: Any, work: Work, index: int, call: str = "") -> bytes:
        """A result, or a yielded item."""
        try:
            if not work.durable:
                pool = None if work.by_file or self.apart else self.pool
                data = payload.encode(value, pool=pool, blobs=self.blobs, inline_max=payload.INLINE_BYTES_MAX)
            else:
                data = payload.encode(
                    value,
                    pool=None,
                    blobs=self.blobs,
                    inline_max=payload.INLINE_BYTES_MAX_DURABLE,
                    name=f"{call or work.call}.{index}.out",
                )
        except payload.UnpicklableError as error:
            what = f"{self.name}.{work.method}" if work.method else self.name
            raise payload.UnpicklableError(f"the result of {what!r}: {error}") from error.__cause__
        if len(data) > RESULT_BYTES_MAX:  # a container without shared memory and without a folder for blobs
            raise payload.PayloadError(f"a result of {len(data):,} bytes has no way out of this container")
        return data


class Invoker:
    """See the module."""

    def __init__(self, methods: dict[str, Method], values: Values, outbox: Outbox) -> None:
        self.methods = methods
        self.values = values
        self.outbox = outbox
        self.fork_guard: Callable[[], None] = _nothing  # ends a process that user code forked and that came back

    def method(self, work: Work) -> Method:
        """What to call for it.

        Raises:
            LookupError: the container has no such method.
        """
        found = self.methods.get(work.method)
        if found is None:
            raise LookupError(f"no method {work.method!r} in {self.values.name!r}")
        return found

    def perform(self, work: Work, gate: Gate) -> list[Result]:
        """Run the work; its results.

        Raises:
            Abandoned: it was interrupted because the container ends.
        """
        state.current.set((work.call, work.index, work.attempt))
        started = monotonic_ns()
        try:
            method = self.method(work)
            if work.batch is not None:
                return self._perform_batch(work, method, gate, started)
            try:
                gate.open(work)
                args, kwargs = self.values.decode(work.payload)
                value = method.function(*args, **kwargs)
            finally:
                gate.close()
                self.fork_guard()
            if method.is_generator:
                data = self._drive(work, value, gate)
            else:
                data = self.values.encode(value, work, work.index)
            return [Result(work.token, SUCCESS, monotonic_ns() - started, data)]
        except Abandoned:
            raise
        except BaseException as error:
            return self.failures(work, error, gate.is_stopping, started)

    def failures(self, work: Work, error: BaseException, is_stopping: bool, started: int) -> list[Result]:
        """The same failure for all inputs of the work.

        Raises:
            Abandoned: the error is our own interruption.
        """
        if is_stopping and isinstance(error, state.InputCancellation):
            raise Abandoned from None
        data = payload.encode_failure(error)
        took = monotonic_ns() - started
        return [Result(token, FAILURE, took, data) for token in work.tokens]

    # ------------------------------------------------------------------ generators

    def _drive(self, work: Work, iterator: Iterator[Any], gate: Gate) -> bytes:
        """Run a generator to its end, sending what it yields; the payload of its result."""
        stream = Stream(work.token)
        outbox, encode = self.outbox, self.values.encode
        try:
            while True:
                try:
                    gate.open(work)
                    value = next(iterator)
                except StopIteration:
                    return end_of_items(stream.yielded)
                finally:
                    gate.close()
                    self.fork_guard()
                outbox.item(stream, encode(value, work, work.index))
                if stream.yielded >= ITEMS_AHEAD:
                    outbox.flush_stream(stream)
                    while stream.yielded >= ITEMS_AHEAD + self.credit_of(work):
                        gate.wait_for_credit(work)
        finally:
            outbox.flush_stream(stream)
            close_quietly(iterator)

    credit_of: Callable[[Work], int] = staticmethod(lambda work: 0)
    """Items granted to the generator of a work beyond ITEMS_AHEAD; set by the executor."""

    # ------------------------------------------------------------------ batches

    def _perform_batch(self, work: Work, method: Method, gate: Gate, started: int) -> list[Result]:
        batch = Batch(work, self.values, started)
        try:
            gate.open(work)
            batch.decode()
            args, kwargs = batch.arguments(method)
            value = method.function(*args, **kwargs) if batch.items else []
        finally:
            gate.close()
            self.fork_guard()
        return batch.split(value, method)


class Batch:
    """The inputs of one @batched invocation: zipped into lists on the way in, split again on the way out.

    An input that cannot be unpickled fails alone.
    """

    def __init__(self, work: Work, values: Values, started: int) -> None:
        self.work = work
        self.values = values
        self.started = started
        self.items: list[Any] = []  # the inputs that could be read
        self.calls: list[Any] = []  # their (args, kwargs)
        self.results: list[Result] = []

    def decode(self) -> None:
        """Unpickle the inputs."""
        for item in self.work.batch or []:
            try:
                self.calls.append(self.values.decode(item.payload))
                self.items.append(item)
            except payload.UnreadableError as error:
                self._fail(item, error)

    def arguments(self, method: Method) -> tuple[list[Any], dict[str, Any]]:
        """(args, kwargs) of lists: the n-th item of each is the argument of the n-th input."""
        if not self.calls:
            return [], {}
        first_args, first_kwargs = self.calls[0]
        same = all(len(a) == len(first_args) and k.keys() == first_kwargs.keys() for a, k in self.calls)
        if not same:
            self.calls = [self._bound(method, *call) for call in self.calls]
            first_args, first_kwargs = self.calls[0]
        args = [[call[0][n] for call in self.calls] for n in range(len(first_args))]
        return args, {key: [call[1][key] for call in self.calls] for key in first_kwargs}

    def _bound(self, method: Method, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """The same call with every parameter named, so that calls written differently can be zipped."""
        import inspect

        try:
            bound = inspect.signature(method.function).bind(*args, **kwargs)
        except TypeError as error:
            raise BatchError(f"the inputs of the batch do not fit {self.values.name!r}: {error}") from None
        bound.apply_defaults()
        return [], dict(bound.arguments)

    def split(self, value: Any, method: Method) -> list[Result]:
        """A result for each input.

        Raises:
            BatchError: `value` is not a list of as many values as there are inputs.
        """
        what = f"{self.values.name}.{method.name}" if method.name else self.values.name
        if not isinstance(value, (list, tuple)):
            raise BatchError(
                f"the batched function {what!r} returned a {type(value).__name__}: "
                f"it must return a list with one value for each of its {len(self.items)} inputs"
            )
        if len(value) != len(self.items):
            raise BatchError(
                f"the batched function {what!r} returned {len(value)} values for {len(self.items)} inputs: "
                "it must return one for each, in the same order"
            )
        for item, one in zip(self.items, value):  # noqa: B905 (`strict` is of Python 3.10)
            try:
                data = self.values.encode(one, self.work, item.index, self.work.calls[item.token])
            except payload.PayloadError as error:
                self._fail(item, error)
            else:
                self.results.append(Result(item.token, SUCCESS, monotonic_ns() - self.started, data))
        return self.results

    def _fail(self, item: Any, error: Exception) -> None:
        took = monotonic_ns() - self.started
        self.results.append(Result(item.token, FAILURE, took, payload.encode_failure(error)))


def _nothing() -> None:
    pass


def close_quietly(iterator: Any) -> None:
    """Close a generator; what it raises at that is nobody's result."""
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as error:
            note(f"closing a generator raised {type(error).__name__}: {error}")


def note(text: str) -> None:
    """A line of ours in the container's log."""
    try:
        os.write(2, f"jitney: {text}\n".encode(errors="replace"))
    except OSError:
        pass
