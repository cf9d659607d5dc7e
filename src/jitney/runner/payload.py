"""Values as bytes. Client and runner read them; to everybody between they are opaque. The first byte is the kind:

    P   pickle, protocol 5
    B   pickle and its out-of-band buffers, so that an array is copied once and read in place
        'B' 7 zero bytes | u64 n | u64 size of the pickle | n * u64 sizes | pickle | buffers, each at a multiple of 64
    S   u64 size, name of a segment (runner.segments) that holds a P or B payload
    F   the same, in a file of the blobs folder
    E   a failure (runner.failures)

Plain pickle first, because cloudpickle takes ten times as long for the same arguments; cloudpickle when that fails.
Bytes may be hostile as far as their frame goes: names are checked and sizes add up before anything is opened. What is
unpickled is only ever one's own side's code: the user's, in the user's container or client.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import re
import struct
from typing import Any, NoReturn

from jitney.runner.failures import FailureInfo as FailureInfo
from jitney.runner.failures import decode_failure as decode_failure
from jitney.runner.failures import encode_failure as encode_failure
from jitney.runner.failures import encode_failure_text as encode_failure_text
from jitney.runner.segment_pools import SegmentPools
from jitney.runner.segments import SegmentGone, SegmentPool, is_name, populate

INLINE_BYTES_MAX = 256 * 1024  # as values.calls has it, which containers cannot import
INLINE_BYTES_MAX_DURABLE = 64 * 1024
BUFFER_BYTES_MIN = 32 * 1024  # smaller buffers are copied into the pickle: cheaper than a place of their own
BULK_BYTES_MIN = 64 * 1024  # the C pickler hands larger bytes to a file without copying them
ALIGNMENT = 64
SEARCH_OBJECTS_MAX = 200  # looked at to say which part of a value cannot be pickled
SEARCH_DEPTH_MAX = 6

_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_U64 = struct.Struct("<Q")
_B_HEAD = struct.Struct("<c7xQQ")
_P, _B, _S, _F = b"PBSF"
_SHALLOW = (tuple, list, dict)
_BULKY = frozenset({bytes, bytearray, *_SHALLOW})


class PayloadError(Exception):
    """A value could not be turned into bytes or back."""


class UnpicklableError(PayloadError):
    """Neither pickle nor cloudpickle takes the value; the message says which part of it and why."""


class UnreadableError(PayloadError):
    """The bytes are no value here: damaged, taken back, or of a class that does not exist on this side."""


class _Chunks(list):  # type: ignore[type-arg]
    """A file for the pickler: it gets large bytes objects as they are."""

    write = list.append


def encode(
    value: Any,
    *,
    pool: SegmentPool | None,
    blobs: str | None,
    inline_max: int,
    name: str = "",
    main_by_value: bool = False,
) -> bytes:
    """`value` as a payload of at most `inline_max` bytes; a larger one goes to a segment, or else to a file.

    Without `pool` a large value goes to a file in `blobs`: `name`, synced to disk (durable calls), or one of its own;
    without either it stays inline. `main_by_value`: the other side has not this process's `__main__`, so what refers to
    it is sent whole.

    Raises:
        UnpicklableError: it cannot be pickled.
        OSError: there is no room for it anywhere.
    """
    chunks, buffers = _dump(value, main_by_value)
    if not buffers and len(chunks) == 1 and len(chunks[0]) < inline_max:
        return b"P" + bytes(chunks[0])
    parts = _layout(chunks, buffers)
    size = sum(map(len, parts))
    if size <= inline_max:
        return b"".join(parts)
    if pool is not None:
        segment = pool.store(parts, size)
        if segment is not None:
            return b"S" + _U64.pack(size) + segment.encode()
    if blobs is not None:
        return b"F" + _U64.pack(size) + _write_file(blobs, name, parts, synced=bool(name)).encode()
    return b"".join(parts)


def decode(
    payload: bytes,
    *,
    pool: SegmentPool | SegmentPools | None = None,
    blobs: str | None = None,
    copies: bool = False,
) -> Any:
    """The value of a payload. Arrays in it are writable, and read in place where it came by reference.

    With `copies` nothing of it stays in shared memory.

    Raises:
        UnreadableError: it is not a value here; `__cause__` is what unpickling raised, if it came so far.
    """
    kind = payload[0] if payload else 0
    try:
        if kind == _P:
            return pickle.loads(payload[1:] if len(payload) < 4096 else memoryview(payload)[1:])
        if kind == _B:
            return _load_buffers(memoryview(payload), owned=False)
        if kind in (_S, _F):
            return _load_reference(payload, pool, blobs, copies)
    except (PayloadError, SegmentGone) as error:
        raise UnreadableError(str(error)) from error
    except Exception as error:
        raise UnreadableError(f"a value cannot be unpickled here: {type(error).__name__}: {error}") from error
    raise UnreadableError(f"a payload of an unknown kind ({bytes(payload[:1])!r}, {len(payload):,} bytes)")


def referenced(payload: bytes) -> str | None:
    """The name of the segment that an 'S' payload lies in; None for any other payload."""
    if payload[:1] != b"S":
        return None
    try:
        return _reference(payload)[0]
    except PayloadError:
        return None


def referenced_file(payload: bytes) -> str | None:
    """The name of the file in the blobs folder that an 'F' payload lies in; None for any other payload."""
    if payload[:1] != b"F":
        return None
    try:
        return _reference(payload)[0]
    except PayloadError:
        return None


# ------------------------------------------------------------------------------------------------ pickling


def _dump(value: Any, main_by_value: bool) -> tuple[list[Any], list[Any]]:
    """(pieces of the pickle, out-of-band buffers)."""
    buffers: list[Any] = []
    collect = functools.partial(_collect, buffers)
    try:
        if _has_bulk(value):
            chunks: list[Any] = _Chunks()
            pickle.Pickler(chunks, 5, buffer_callback=collect).dump(value)  # type: ignore[arg-type]
        else:
            chunks = [pickle.dumps(value, 5, buffer_callback=collect)]
        # A name that merely occurs in the data costs a slower pickler, nothing else.
        if not main_by_value or not any(b"__main__" in chunk for chunk in chunks):
            return chunks, buffers
    except RecursionError as error:
        _refuse(value, error)
    except Exception:  # whatever a __reduce__ raises: cloudpickle may know better
        pass
    buffers.clear()
    try:
        import cloudpickle

        return [cloudpickle.dumps(value, 5, buffer_callback=collect)], buffers
    except ImportError:
        _refuse(value, ImportError("plain pickle cannot, and cloudpickle is not installed here"))
    except Exception as error:
        _refuse(value, error)


def _collect(buffers: list[Any], buffer: pickle.PickleBuffer) -> bool:
    """Takes large buffers out of the pickle (False), leaves the others in it (True)."""
    try:
        raw = buffer.raw()
    except BufferError:  # not contiguous
        return True
    if raw.nbytes < BUFFER_BYTES_MIN:
        return True
    buffers.append(raw)
    return False


def _has_bulk(value: Any, depth: int = 0) -> bool:
    """Whether large bytes are at the top of the value: as itself, an argument, or an item of a short list or dict."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return len(value) >= BULK_BYTES_MIN
    if depth == 3 or kind not in _SHALLOW or not 0 < len(value) <= 16:
        return False
    for item in value.values() if kind is dict else value:
        if type(item) in _BULKY and _has_bulk(item, depth + 1):
            return True
    return False


def _layout(chunks: list[Any], buffers: list[Any]) -> list[Any]:
    """The pieces of a P or B payload, in order."""
    if not buffers:
        return [b"P", *map(_flat, chunks)]
    chunks = [_flat(chunk) for chunk in chunks]
    pickle_size = sum(map(len, chunks))
    sizes = struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    parts: list[Any] = [_B_HEAD.pack(b"B", len(buffers), pickle_size), sizes, *chunks]
    at = _B_HEAD.size + len(sizes) + pickle_size
    for buffer in buffers:
        padding = -at % ALIGNMENT
        parts += [bytes(padding), buffer]
        at += padding + buffer.nbytes
    return parts


def _flat(chunk: Any) -> Any:
    return chunk if type(chunk) is bytes else memoryview(chunk).cast("B")


def _write_file(blobs: str, name: str, parts: list[Any], *, synced: bool) -> str:
    """Write a file that is there whole or not at all, and with `synced` survives a power cut. Gives its name."""
    name = name or f"v-{os.urandom(12).hex()}"
    if not _FILE.fullmatch(name):
        raise PayloadError(f"{name[:64]!r} cannot be the name of a blob")
    path = os.path.join(blobs, name)
    unfinished = f"{path}.{os.urandom(4).hex()}.part"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(fd, view) :]
            if synced:
                os.fsync(fd)
            os.rename(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
        if synced:
            _sync_name(blobs, fd)
    finally:
        os.close(fd)
    return name


def _sync_name(folder: str, file: int) -> None:
    """Have the new name of a file survive a power cut as well."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:  # of a container behind a wall, which must not list it
        os.fsync(file)  # a rename changes the file too: file systems with a journal write both down together
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------------------ unpickling


def _reference(payload: bytes) -> tuple[str, int]:
    """(name, size) of an S or F payload, checked."""
    try:
        (size,) = _U64.unpack_from(payload, 1)
        name = bytes(payload[9 : 9 + 256]).decode("ascii")
    except (struct.error, UnicodeDecodeError):
        raise PayloadError("a damaged reference to a large value") from None
    valid = is_name(name) if payload[:1] == b"S" else _FILE.fullmatch(name) is not None
    if not valid:
        raise PayloadError(f"a reference to a large value with the impossible name {name[:64]!r}")
    return name, size


def _load_reference(payload: bytes, pool: SegmentPool | SegmentPools | None, blobs: str | None, copies: bool) -> Any:
    name, size = _reference(payload)
    if payload[:1] == b"S":
        if pool is None:
            raise PayloadError("a value in shared memory that this process has no access to")
        view = pool.attach(name, size)
        return _load_view(memoryview(bytearray(view)) if copies else view)
    if blobs is None:
        raise PayloadError("a value in a file that this process has no access to")
    try:
        fd = os.open(os.path.join(blobs, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise PayloadError(f"the file of a large value, {name}: {error.strerror}") from None
    try:
        if not 0 < size <= os.fstat(fd).st_size:
            raise PayloadError(f"the file of a large value, {name}, has not {size:,} bytes")
        mapping = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    populate(mapping)
    return _load_view(memoryview(mapping))


def _load_view(view: memoryview) -> Any:
    if view[0] == _P:
        return pickle.loads(view[1:])
    if view[0] == _B:
        return _load_buffers(view, owned=True)
    raise PayloadError("a reference to a reference")


def _load_buffers(view: memoryview, *, owned: bool) -> Any:
    """The value of a B payload; with `owned` memory its arrays point into it, otherwise they get a copy to write to."""
    try:
        _, count, pickle_size = _B_HEAD.unpack_from(view)
        if count > len(view) // 8:
            raise PayloadError("a damaged payload: more buffers than bytes")
        sizes = struct.unpack_from(f"<{count}Q", view, _B_HEAD.size)
    except struct.error as error:
        raise PayloadError(f"a damaged payload: {error}") from None
    start = _B_HEAD.size + 8 * count
    at = start + pickle_size
    buffers: list[Any] = []
    for size in sizes:
        at += -at % ALIGNMENT
        piece = view[at : at + size]
        buffers.append(piece if owned else bytearray(piece))
        at += size
    if at != len(view):
        raise PayloadError("a damaged payload: sizes do not add up")
    return pickle.loads(view[start : start + pickle_size], buffers=buffers)


# ------------------------------------------------------------------------------------------------ what is wrong


def _refuse(value: Any, error: Exception) -> NoReturn:
    if isinstance(error, RecursionError):
        raise UnpicklableError("the value is nested too deeply to be pickled") from None
    path, culprit = _find(value)
    kind = type(culprit)
    where = f"{kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    raise UnpicklableError(
        f"an object of type {where}{f' at {path}' if path else ''} cannot be pickled ({type(error).__name__}: {error})"
    ) from error


def _find(value: Any) -> tuple[str, Any]:
    """The smallest part of `value` that cannot be pickled, with the path to it."""
    path, looked_at = "", 0
    for _ in range(SEARCH_DEPTH_MAX):
        for step, child in _children(value):
            looked_at += 1
            if looked_at > SEARCH_OBJECTS_MAX:
                return path, value
            if not _takes(child):
                path, value = path + step, child
                break
        else:
            break
    return path, value


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r:.40}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(f"[{number}]", item) for number, item in enumerate(value)]
    return [(f".{name}", item) for name, item in getattr(value, "__dict__", {}).items()]


def _takes(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
