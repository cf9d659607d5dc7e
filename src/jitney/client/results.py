"""From an output to a value, or to the exception that says what went wrong.

User code's exceptions are raised here as themselves, with the remote traceback as their cause. What is not user code's
is one of `jitney.errors`, by the status of the output.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from jitney.errors import (
    CancelledError,
    DeserializationError,
    InternalError,
    JitneyError,
    RemoteError,
    SerializationError,
    from_code,
    of_start,
)
from jitney.runner import payload
from jitney.values.calls import STATUS_CODE, Output, Status

if TYPE_CHECKING:
    from jitney.client.session import Session

E = TypeVar("E", bound=BaseException)


class RemoteTraceback(Exception):
    """The traceback of the container, as the cause of what is raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text.rstrip()}"


def shorten(error: E) -> E:
    """`error` without the frames that it has come through, if it is meant for the user; a bug keeps them."""
    ours = isinstance(error, JitneyError) and not isinstance(error, InternalError)
    return error.with_traceback(None) if ours or isinstance(error.__cause__, RemoteTraceback) else error


def value_of(session: Session, output: Output) -> Any:
    """The value of an output.

    Raises:
        BaseException: the user code's exception, or an error of `jitney.errors` by the output's status.
    """
    if output.status != Status.SUCCESS:
        raise failure_of(output)
    return decode(session, output.payload)


def decode(session: Session, body: bytes) -> Any:
    """The value of a payload that came from a container. Its segment is free again when the value is gone.

    Raises:
        DeserializationError: it cannot be unpickled here.
    """
    try:
        if body[:1] in (b"S", b"F"):
            value = payload.decode(body, pool=session.pool, blobs=session.blobs)
            release(session, body)
            return value
        return payload.decode(body)
    except payload.UnreadableError as error:
        raise DeserializationError(
            f"the result: {error}",
            hint="the modules that its classes come from must be installed on this side too, in the same version",
        ) from error.__cause__


def release(session: Session, body: bytes) -> None:
    """Nobody will read this payload again."""
    if body[:1] not in (b"S", b"F"):
        return
    segment, file = payload.referenced(body), payload.referenced_file(body)
    if segment:
        session.pool.release(segment)
    elif file and file.startswith("v-"):  # files of durable values have names of calls, and stay
        try:
            os.unlink(os.path.join(session.blobs, file))
        except OSError:
            pass


def failure_of(output: Output) -> BaseException:
    """The exception that an output stands for that is no success."""
    failed = payload.decode_failure(output.payload) if output.payload else None
    text = failed.traceback if failed else ""
    error: BaseException
    if output.status == Status.FAILURE and failed is not None:
        error = _raised(failed)
    else:
        try:
            code = STATUS_CODE[Status(output.status)]
        except (ValueError, KeyError):
            return InternalError(
                f"the server sent an output of status {output.status}, which this version does not know"
            )
        message = failed.message if failed else _PLAIN.get(code, code)
        if output.status == Status.INIT_FAILURE and failed is not None:
            error = of_start(failed.type_name, failed.module, message, _hint(failed))
        else:
            error = from_code(code, message, _hint(failed))
        if isinstance(error, CancelledError):
            return error
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error


def _raised(failed: payload.FailureInfo) -> Exception:
    """What user code raised, as itself where that is possible and harmless: SystemExit or KeyboardInterrupt is not."""
    if failed.module == payload.__name__:
        unreadable = failed.type_name == payload.UnreadableError.__name__
        return (DeserializationError if unreadable else SerializationError)(failed.message)
    if isinstance(failed.exception, Exception):
        return failed.exception
    name = failed.type_name
    return RemoteError(f"{name}: {failed.message}" if failed.message else name)


def _hint(failed: payload.FailureInfo | None) -> str:
    """What to do about a module that a container could not import."""
    if failed is None or failed.type_name != "ModuleNotFoundError":
        return ""
    top = failed.message.removeprefix("No module named ").strip("'").partition(".")[0]
    if not top.isidentifier():
        return ""
    import importlib.util

    found = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
    origin = found.origin if found is not None else None
    if origin and not any(part in origin for part in ("site-packages", "dist-packages")):
        return f"it is your own code: have it shipped with image.add_local_python_source({top!r})"
    return "have it installed in the image: image.uv_pip_install(...), with the name of its package"


_PLAIN = {"cancelled": "the call was cancelled", "output_expired": "the result was kept its time and is gone"}
