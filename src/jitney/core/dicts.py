"""One dict in memory: what is in it, in order, and how much of it is warm.

Keys are all here, and values as long as there is room for them (`Warm`); the others are in the store. Nothing waits
here: whoever changes something writes it down (server.journal) and answers then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from jitney.errors import InvalidError, ResourceExhaustedError
from jitney.values import dicts
from jitney.values.dicts import DictEntry

COMPACT_MIN = 64  # holes in the order, from which it may be worth closing them


class Entry:
    """An entry. `value` is None where it is in the store only; `noted_at_ms` is its last use as the store has it."""

    __slots__ = ("key", "noted_at_ms", "number", "size", "used_at_ms", "value")

    def __init__(self, number: int, key: bytes, value: bytes | None, size: int, used_at_ms: int) -> None:
        self.number = number
        self.key = key
        self.value = value
        self.size = size
        self.used_at_ms = used_at_ms
        self.noted_at_ms = used_at_ms

    def is_expired(self, now_ms: int) -> bool:
        """Whether it has not been used for too long."""
        return now_ms - self.used_at_ms >= dicts.ENTRY_TTL_MS

    def stored(self) -> DictEntry:
        """As it is to be stored."""
        return DictEntry(self.number, self.key, self.value, self.size, self.used_at_ms)


class DictState:
    """A dict.

    >>> state = DictState()
    >>> _ = state.put(b"k", b"v", 0, 1), state.put(b"l", b"w", 0, 2)
    >>> [entry.key for entry in state.after(0)], len(state)
    ([b'k', b'l'], 2)
    """

    def __init__(self, entries: Iterable[DictEntry] = ()) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._order: list[Entry] = []  # by number; with holes
        self._numbers: list[int] = []
        self.restore(entries)

    def restore(self, entries: Iterable[DictEntry]) -> None:
        """Add entries as they are stored, in order of their numbers."""
        for stored in entries:
            self._add(Entry(stored.number, stored.key, stored.value, stored.size, stored.used_at_ms))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def has(self, entry: Entry) -> bool:
        """Whether it is in the dict still."""
        return self._entries.get(entry.key) is entry

    def _add(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._order.append(entry)
        self._numbers.append(entry.number)

    def get(self, key: bytes, now_ms: int) -> Entry | None:
        """The entry of a key, which is used by that; None if there is none (any more)."""
        entry = self._entries.get(key)
        if entry is None or entry.is_expired(now_ms):
            return None
        entry.used_at_ms = now_ms
        return entry

    def contains(self, key: bytes, now_ms: int) -> bool:
        """Whether there is an entry of this key. Looking does not use it."""
        entry = self._entries.get(key)
        return entry is not None and not entry.is_expired(now_ms)

    def put(self, key: bytes, value: bytes, now_ms: int, number: int) -> Entry:
        """Set the value of a key; `number` is for an entry that is new.

        Raises:
            ResourceExhaustedError: the dict is full.
        """
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= dicts.ENTRIES_MAX:
                raise full()
            entry = Entry(number, key, value, len(value), now_ms)
            self._add(entry)
        entry.value, entry.size, entry.used_at_ms, entry.noted_at_ms = value, len(value), now_ms, now_ms
        return entry

    def check_room(self, keys: Iterable[bytes]) -> None:
        """Refuse to set so many keys.

        Raises:
            ResourceExhaustedError: the dict would be over its limit.
        """
        if len(self._entries) + sum(key not in self._entries for key in keys) > dicts.ENTRIES_MAX:
            raise full()

    def drop(self, key: bytes) -> Entry | None:
        """Take an entry out; None if there is none."""
        entry = self._entries.pop(key, None)
        if len(self._order) > COMPACT_MIN and len(self._order) > 2 * len(self._entries):
            self._order = [one for one in self._order if self._entries.get(one.key) is one]
            self._numbers = [one.number for one in self._order]
        return entry

    def clear(self) -> list[Entry]:
        """Take all entries out."""
        gone = list(self._entries.values())
        self._entries.clear()
        self._order.clear()
        self._numbers.clear()
        return gone

    def after(self, number: int) -> Iterator[Entry]:
        """Entries with greater numbers, in the order in which their keys were first set."""
        for at in range(bisect_right(self._numbers, number), len(self._order)):
            entry = self._order[at]
            if self._entries.get(entry.key) is entry:
                yield entry


def full() -> ResourceExhaustedError:
    """The dict takes no more keys."""
    return ResourceExhaustedError(
        f"the dict has {dicts.ENTRIES_MAX:,} entries, which is the limit",
        hint="use several dicts, or remove what is not needed",
    )


def incremented(value: bytes | None, by: int) -> int:
    """The sum of a value (None: there is none, which counts as 0) and `by`.

    Raises:
        InvalidError: the value is no small integer, or the sum is none.
    """
    number = 0 if value is None else dicts.unpack_integer(value)
    if number is None:
        raise InvalidError(
            "the value of this key is no integer of 64 bits", hint="increment() adds to integers that put() stored"
        )
    if not dicts.INTEGER_MIN <= number + by <= dicts.INTEGER_MAX:
        raise InvalidError(f"{number} + {by} does not fit into 64 bits")
    return number + by


class Warm:
    """Which values are in memory: those that were used last, as many as fit.

    A value that is not written down yet must stay: whoever writes it adds it here afterwards.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: OrderedDict[Entry, int] = OrderedDict()

    @property
    def bytes(self) -> int:
        """How many bytes the values have together."""
        return self._bytes

    def use(self, entry: Entry) -> None:
        """It was read or written: it goes last. Its value is in the store as it is here."""
        entries = self._entries
        self._bytes -= entries.pop(entry, 0)
        if entry.value is None:
            return
        entries[entry] = size = len(entry.value)
        self._bytes += size
        while self._bytes > self._bytes_max and len(entries) > 1:
            oldest, size = entries.popitem(last=False)
            oldest.value = None
            self._bytes -= size

    def forget(self, entries: Iterable[Entry]) -> None:
        """They are being changed, or are gone."""
        for entry in entries:
            self._bytes -= self._entries.pop(entry, 0)
