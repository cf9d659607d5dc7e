"""`Dict`: keys and values that functions and clients share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from jitney.client import codec
from jitney.client import session as sessions
from jitney.client.objects import Named, NamedObject
from jitney.client.talk import Pages, Talk, here, talk, talk_iter
from jitney.errors import InvalidError
from jitney.values import dicts
from jitney.values.objects import ObjectKind
from jitney.wire import methods

UPDATE_BYTES_MAX = 8 * 1024 * 1024  # of one request, and so of what is set all at once


class _Missing:
    """Stands for no default."""


_MISSING = _Missing()


def new_op() -> int:
    """The number of an operation that must not be done twice."""
    return int.from_bytes(os.urandom(8), "little") >> 1 or 1


class Dict(NamedObject):
    """A dict on the server, for functions and clients to share. Every change is on disk when its method returns.

    Keys: str, int, bytes, float, bool, None, tuples of these, or whatever can be pickled; they compare by their bytes,
    so 1, 1.0 and True are three keys. Values: whatever can be pickled, up to 100 MiB. An entry that nobody reads or
    writes for 7 days expires. What is got is a copy: to change what is stored, put it again.

        counts = jitney.Dict.from_name("counts", create_if_missing=True)
        counts["a"] = 1
        counts.increment("a")
    """

    KIND = ObjectKind.DICT
    objects: ClassVar[Named[Dict]]

    def __getitem__(self, key: Any) -> Any:
        found = here(self._get(key))
        if found is None:
            raise KeyError(key)
        return found()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        self.pop(key)

    def __contains__(self, key: Any) -> bool:
        return self.contains(key)

    def __iter__(self) -> Iterator[Any]:
        return self.keys()

    def _get(self, key: Any) -> Talk[Callable[[], Any] | None]:
        answer = yield from self._ask(methods.DICT_GET, key=codec.encode_key(key))
        if answer.value is None:
            return None
        return lambda: codec.decode_value(answer.value)

    @talk
    def get(self, key: Any, default: Any = None) -> Talk[Any]:
        """The value of a key; `default` if there is none."""
        found = yield from self._get(key)
        return default if found is None else found()

    @talk
    def contains(self, key: Any) -> Talk[bool]:
        """Whether there is a value of this key: `key in d`."""
        return (yield from self._ask(methods.DICT_CONTAINS, key=codec.encode_key(key))).done  # type: ignore[no-any-return]

    @talk
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> Talk[bool]:
        """Set the value of a key: `d[key] = value`. Gives whether it was set.

        Args:
            skip_if_exists: set it only if the key is not there. Of many who do so at once, one gets True.

        Raises:
            SerializationError: the key or the value cannot be pickled.
            InvalidError: the value is over 100 MiB, or the key over 64 KiB.
            ResourceExhaustedError: the dict has a million entries.
        """
        key_bytes = codec.encode_key(key)
        dict_id = yield from self._id()
        body = codec.encode_value(sessions.current(), dict_id, value)
        op = new_op()
        answer = yield from self._ask(
            methods.DICT_PUT, key=key_bytes, value=body, skip_if_exists=skip_if_exists, op=op if skip_if_exists else 0
        )
        return answer.done  # type: ignore[no-any-return]

    @talk
    def update(self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (), /, **kwargs: Any) -> Talk[None]:
        """Set many keys, at most 10,000: all at once, or, where they come to more than 8 MiB, in parts.

        Raises:
            SerializationError, InvalidError, ResourceExhaustedError: as `put`; also for too many keys.
        """
        pairs = [*(other.items() if isinstance(other, Mapping) else other), *kwargs.items()]
        if len(pairs) > dicts.UPDATE_ENTRIES_MAX:
            raise InvalidError(
                f"an update has at most {dicts.UPDATE_ENTRIES_MAX:,} entries, not {len(pairs):,}",
                hint="update in parts",
            )
        keys = [codec.encode_key(key) for key, _ in pairs]
        dict_id = yield from self._id()
        session = sessions.current()
        part: list[tuple[bytes, bytes]] = []
        size = 0
        for key, (_, value) in zip(keys, pairs, strict=True):
            body = codec.encode_value(session, dict_id, value)
            if part and size + len(key) + len(body) > UPDATE_BYTES_MAX:
                yield from self._ask(methods.DICT_UPDATE, entries=part)
                part, size = [], 0
            part.append((key, body))
            size += len(key) + len(body)
        if part:
            yield from self._ask(methods.DICT_UPDATE, entries=part)

    @talk
    def pop(self, key: Any, default: Any = _MISSING) -> Talk[Any]:
        """Take a key out, and give its value. Of many who do so at once, one gets it.

        Raises:
            KeyError: it is not there, and no default was given.
        """
        answer = yield from self._ask(methods.DICT_POP, key=codec.encode_key(key), op=new_op())
        if answer.value is not None:
            return codec.decode_value(answer.value)
        if default is _MISSING:
            raise KeyError(key)
        return default

    @talk
    def compare_and_swap(self, key: Any, expected: Any, new: Any) -> Talk[bool]:
        """Set a key to `new` if its value equals `expected`; gives whether it did. Nobody gets in between.

        A key that is not there equals nothing: `put(..., skip_if_exists=True)` is the swap for that.

        Raises:
            SerializationError, InvalidError: as `put`.
        """
        key_bytes = codec.encode_key(key)
        dict_id = yield from self._id()
        session = sessions.current()
        body = codec.encode_value(session, dict_id, new)
        # Two pickles of equal values need not be the same bytes. So the first try only learns what is there.
        there = dicts.pack_integer(expected) if type(expected) is int and _fits(expected) else b""
        while True:
            answer = yield from self._ask(methods.DICT_SWAP, key=key_bytes, expected=there, new=body, op=new_op())
            if answer.done:
                return True
            if answer.value is None or not _equal(codec.decode_value(answer.value), expected):
                return False
            there = answer.value

    @talk
    def increment(self, key: Any, by: int = 1) -> Talk[int]:
        """Add to an integer, and give the sum. A key that is not there counts as 0. Nobody gets in between.

        Raises:
            InvalidError: the value is no integer of 64 bits, or the sum is none.
        """
        if type(by) is not int or not _fits(by):
            raise InvalidError(f"increment adds integers of 64 bits, not {by!r:.60}")
        answer = yield from self._ask(methods.DICT_INCREMENT, key=codec.encode_key(key), by=by, op=new_op())
        return answer.number  # type: ignore[no-any-return]

    @talk
    def len(self) -> Talk[int]:
        """How many keys there are."""
        return (yield from self._ask(methods.DICT_LENGTH)).number  # type: ignore[no-any-return]

    @talk
    def clear(self) -> Talk[None]:
        """Take everything out."""
        yield from self._ask(methods.DICT_CLEAR)

    @talk_iter
    def keys(self) -> Pages[Any]:
        """The keys, in the order in which they were first set. What is set meanwhile may be among them or not."""
        yield from self._pages(False, lambda page: [codec.decode_key(key) for key, _ in page])

    @talk_iter
    def values(self) -> Pages[Any]:
        """The values, in the order of `keys`."""
        yield from self._pages(True, lambda page: [codec.decode_value(value) for _, value in page])

    @talk_iter
    def items(self) -> Pages[tuple[Any, Any]]:
        """The keys with their values, in the order of `keys`."""
        yield from self._pages(
            True, lambda page: [(codec.decode_key(key), codec.decode_value(value)) for key, value in page]
        )

    def _pages(self, with_values: bool, shape: Callable[[list[Any]], list[Any]]) -> Pages[Any]:
        after: int | None = 0
        while after is not None:
            page = yield from self._ask(methods.DICT_SCAN, after=after, values=with_values)
            if page.entries:
                yield shape(page.entries)
            after = page.after


def _fits(number: int) -> bool:
    return dicts.INTEGER_MIN <= number <= dicts.INTEGER_MAX


def _equal(left: Any, right: Any) -> bool:
    """Whether two values are equal, where that has an answer."""
    try:
        return bool(left == right)
    except Exception as error:
        raise InvalidError(
            f"values of type {type(right).__name__} cannot be compared with == ({type(error).__name__}: {error})",
            hint="swap something simpler, such as a version number under a key of its own",
        ) from error


Dict.objects = Named(Dict)
