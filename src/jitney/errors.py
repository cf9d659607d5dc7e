"""Every error that a person or a program can get from Jitney, in one tree.

    JitneyError                     code                 HTTP   what it means
    ├── InvalidError                invalid              400    the request cannot be right; change it
    │   └── UnsupportedError        unsupported          501    a real option that this version or runtime cannot do yet
    ├── NotFoundError               not_found            404    nothing has that name or id
    ├── AlreadyExistsError          already_exists       409    the name or id is taken
    ├── VolumeBusyError             volume_busy          409    files of a volume are open: close them first
    ├── AuthError                   unauthenticated      401    the token is missing or wrong
    ├── PermissionDeniedError       permission_denied    403    the token is right, but not for this
    ├── ConnectionError             unavailable          503    no server answers (retry is safe)
    ├── VersionError                version_mismatch     412    two sides that cannot understand each other
    ├── ResourceExhaustedError      resource_exhausted   429    a limit was reached; wait and try again
    │   └── QueueFullError          queue_full           429    the partition has no room (also `queue.Full`)
    ├── StorageError                storage              503    the server's disk failed; it takes nothing more
    │   ├── StorageFullError        storage_full         507    the disk is full; nothing was recorded
    │   ├── StorageCorruptError     storage_corrupt      500    the store's file is damaged; nothing is made anew
    │   └── BucketError             bucket               502    the bucket of files cannot be used as configured
    │       ├── BucketAccessError   bucket_access        502    its credentials are missing, wrong, or not for this
    │       └── BucketUnavailableError  bucket_unavailable  503  it did not answer well in time (retry is safe)
    ├── EncryptionKeyError          encryption_key       503    the key of the secrets is gone, wrong, or not private
    ├── SecretUnreadableError       secret_unreadable    503    a secret cannot be opened: no key, or damaged
    ├── OutputExpiredError          output_expired       410    the result was kept its time and is gone
    ├── TimeoutError                timeout              504    waited as long as asked
    │   ├── FunctionTimeoutError    function_timeout     504    the function ran past its own `timeout`
    │   ├── QueueEmptyError         queue_empty          504    no item came in time (also `queue.Empty`)
    │   └── LeaseEndedError         lease_ended          504    the item is somebody else's by now
    ├── ExecutionError              execution            500    the container, not the function, failed
    │   ├── ContainerCrashError     container_crash      500    it exited, was killed or ran out of memory
    │   ├── StartupError            startup              500    it never got ready: import or `@enter` failed
    │   └── CancelledError          cancelled            499    somebody cancelled the call
    ├── SerializationError          serialization        422    a value cannot be pickled
    │   └── DeserializationError    deserialization      422    a value cannot be unpickled here
    ├── ImageBuildError             image_build          422    a step of an image failed
    ├── RemoteError                 remote               500    user code raised something that cannot be rebuilt here
    └── InternalError               internal             500    a bug in Jitney

Exceptions raised by user code are not in this tree: they arrive as themselves.
"""

from __future__ import annotations

import queue
from typing import ClassVar

from jitney.runner.state import InputCancellation as InputCancellation


class JitneyError(Exception):
    """The root: what happened, and in `hint` what to do next.

    >>> str(NotFoundError("no function 'squre'", hint="did you mean 'square'?"))
    "no function 'squre': did you mean 'square'?"
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


Error = JitneyError  # the root's name in the vocabulary that people know


def _rebuild(kind: type[JitneyError], message: str, hint: str) -> JitneyError:
    return kind(message, hint=hint)


class InvalidError(JitneyError):
    """The request cannot be right as it stands."""

    code = "invalid"
    http_status = 400


class UnsupportedError(InvalidError):
    """An option of the vocabulary that this version or this runtime cannot do."""

    code = "unsupported"
    http_status = 501


class NotFoundError(JitneyError):
    """Nothing has that name or id."""

    code = "not_found"
    http_status = 404


class AlreadyExistsError(JitneyError):
    """The name or id is taken."""

    code = "already_exists"
    http_status = 409


class VolumeBusyError(JitneyError):
    """Files of a volume are open in the container, so that it cannot show another version."""

    code = "volume_busy"
    http_status = 409


class AuthError(JitneyError):
    """The token is missing or wrong."""

    code = "unauthenticated"
    http_status = 401


class PermissionDeniedError(JitneyError):
    """The token is valid but does not allow this."""

    code = "permission_denied"
    http_status = 403


class ConnectionError(JitneyError):
    """No server answers, or the connection broke and could not be made again."""

    code = "unavailable"
    http_status = 503
    retryable = True


class VersionError(JitneyError):
    """Client, server or container are of versions that do not fit; the message says what differs."""

    code = "version_mismatch"
    http_status = 412


class ResourceExhaustedError(JitneyError):
    """A limit was reached; trying again later is safe."""

    code = "resource_exhausted"
    http_status = 429
    retryable = True


class QueueFullError(ResourceExhaustedError, queue.Full):
    """The partition of a queue has no room for what was put. Code that catches `queue.Full` catches it."""

    code = "queue_full"


class StorageError(JitneyError):
    """The server's disk failed: what was asked may not have been recorded, and nothing more is taken."""

    code = "storage"
    http_status = 503
    retryable = True


class StorageFullError(StorageError):
    """The server's disk is full; what was asked has not been recorded."""

    code = "storage_full"
    http_status = 507
    retryable = True


class StorageCorruptError(StorageError):
    """A file of the store is damaged, or not what was recorded last; nothing is made anew in its place."""

    code = "storage_corrupt"
    http_status = 500
    retryable = False


class BucketError(StorageError):
    """The bucket that holds files of volumes and sources cannot be used: it is not there, or is somebody else's."""

    code = "bucket"
    http_status = 502
    retryable = False


class BucketAccessError(BucketError):
    """The bucket refuses the credentials that it was asked with, or there are none."""

    code = "bucket_access"


class BucketUnavailableError(BucketError):
    """The bucket could not be reached, was too slow or failed, also when it was asked again."""

    code = "bucket_unavailable"
    http_status = 503
    retryable = True


class EncryptionKeyError(JitneyError):
    """The key that secrets are encrypted with is missing, is another one, or can be read by others."""

    code = "encryption_key"
    http_status = 503


class SecretUnreadableError(JitneyError):
    """A secret cannot be opened: its key is missing or another one, or its record is damaged. Also a container that
    needs it gets this, instead of a start."""

    code = "secret_unreadable"
    http_status = 503


class OutputExpiredError(JitneyError):
    """The result was kept for its time and is gone."""

    code = "output_expired"
    http_status = 410


class TimeoutError(JitneyError):
    """Waited as long as was asked."""

    code = "timeout"
    http_status = 504


class FunctionTimeoutError(TimeoutError):
    """The function ran longer than its `timeout`."""

    code = "function_timeout"


class QueueEmptyError(TimeoutError, queue.Empty):
    """No item came within the time that a getter would wait. Code that catches `queue.Empty` catches it."""

    code = "queue_empty"


class LeaseEndedError(TimeoutError):
    """The lease of a queue's item ended before `ack` or `nack` came: the item is, or was, delivered again."""

    code = "lease_ended"


class ExecutionError(JitneyError):
    """The container, not the function's own code, failed."""

    code = "execution"


class ContainerCrashError(ExecutionError):
    """The container exited or was killed while it ran the input."""

    code = "container_crash"


class StartupError(ExecutionError):
    """The container never got ready: importing the module or an `@enter` method failed."""

    code = "startup"


class CancelledError(ExecutionError):
    """The call was cancelled."""

    code = "cancelled"
    http_status = 499


class SerializationError(JitneyError):
    """A value cannot be pickled; the message names its type."""

    code = "serialization"
    http_status = 422


class DeserializationError(SerializationError):
    """A value cannot be unpickled on this side."""

    code = "deserialization"


class ImageBuildError(JitneyError):
    """A step of an image failed; the message has the step and its last lines."""

    code = "image_build"
    http_status = 422


class RemoteError(JitneyError):
    """User code raised an exception that cannot be rebuilt here; the message has its text."""

    code = "remote"


class InternalError(JitneyError):
    """A bug in Jitney."""

    code = "internal"


def _tree(kind: type[JitneyError]) -> list[type[JitneyError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[JitneyError]] = {kind.code: kind for kind in _tree(JitneyError)}


def from_code(code: str, message: str, hint: str = "") -> JitneyError:
    """The error that a peer meant by `code`; an unknown code (a newer peer) becomes the root class."""
    return BY_CODE.get(code, JitneyError)(message, hint=hint)


def of_start(type_name: str, module: str, message: str, hint: str = "") -> JitneyError:
    """The error for a container that never got ready, by the class of what was the reason."""
    named = (SecretUnreadableError.__name__, SecretUnreadableError.__module__)
    kind = SecretUnreadableError if (type_name, module) == named else StartupError
    return kind(message, hint=hint)
