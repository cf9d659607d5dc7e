"""The queue of one pool: fair between calls, first come first served inside a call.

Calls take turns, one input each (or one batch), so that a call of one input that arrives behind a map of a million
waits for one turn and not for a million. Cost: O(1) per put and take. `give_back` puts an input at the head of its
call: it has waited its turn already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue of (call id, item) that takes calls in turn.

    >>> queue: FairQueue[str] = FairQueue()
    >>> for item in ("a1", "a2", "a3"):
    ...     queue.put("a", item)
    >>> queue.put("b", "b1")
    >>> [queue.take(1) for _ in range(4)]
    [('a', ['a1']), ('b', ['b1']), ('a', ['a2']), ('a', ['a3'])]
    """

    def __init__(self) -> None:
        self._calls: dict[str, deque[T]] = {}
        self._turns: deque[str] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for items in self._calls.values():
            yield from items

    def put(self, call_id: str, item: T) -> None:
        """Add at the end of its call."""
        self._items(call_id).append(item)
        self._length += 1

    def give_back(self, call_id: str, item: T) -> None:
        """Add at the head of its call."""
        self._items(call_id).appendleft(item)
        self._length += 1

    def take(self, count: int) -> tuple[str, list[T]]:
        """At most `count` items of the call whose turn it is, which then goes to the back.

        Raises:
            IndexError: the queue is empty.
        """
        call_id = self._turns.popleft()
        items = self._calls[call_id]
        if len(items) <= count:
            del self._calls[call_id]
            taken = list(items)
        else:
            taken = [items.popleft() for _ in range(count)]
            self._turns.append(call_id)
        self._length -= len(taken)
        return call_id, taken

    def remove_call(self, call_id: str) -> list[T]:
        """Take out all items of a call (none if it has none)."""
        items = self._calls.pop(call_id, None)
        if items is None:
            return []
        self._turns.remove(call_id)
        self._length -= len(items)
        return list(items)

    def remove(self, call_id: str, item: T) -> None:
        """Take out one item, wherever it is.

        Raises:
            ValueError: it is not there.
        """
        items = self._calls.get(call_id, deque())
        items.remove(item)
        self._length -= 1
        if not items:
            del self._calls[call_id]
            self._turns.remove(call_id)

    def clear(self) -> list[T]:
        """Take out everything."""
        everything = list(self)
        self._calls.clear()
        self._turns.clear()
        self._length = 0
        return everything

    def depth(self, call_id: str) -> int:
        """Items of one call."""
        return len(self._calls.get(call_id, ()))

    def oldest(self, key: Callable[[T], int]) -> int | None:
        """The smallest `key` over the heads of all calls; None when empty."""
        return min((key(items[0]) for items in self._calls.values()), default=None)

    def _items(self, call_id: str) -> deque[T]:
        items = self._calls.get(call_id)
        if items is None:
            items = self._calls[call_id] = deque()
            self._turns.append(call_id)
        return items
