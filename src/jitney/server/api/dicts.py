"""Dicts: the handlers of the dict.* methods. They answer in the turn in which they are asked, or when it is on disk."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from jitney.core.dicts import Entry, incremented
from jitney.errors import InvalidError, JitneyError
from jitney.server.api.reply import Reply
from jitney.server.api.table import Peer, Table
from jitney.server.dicts import Dicts, HotDict
from jitney.server.journal import Change
from jitney.server.ops import Ops
from jitney.values import dicts as values
from jitney.wire import codec, methods
from jitney.wire.messages import dicts as dm


class DictsApi:
    """Handlers of the dict.* methods."""

    def __init__(self, dicts: Dicts, ops: Ops) -> None:
        self._dicts = dicts
        self._ops = ops

    def register(self, table: Table) -> None:
        """Answer the dict.* methods."""
        table.at_once(methods.DICT_GET, self.get)
        table.at_once(methods.DICT_CONTAINS, self.contains)
        table.at_once(methods.DICT_PUT, self.put)
        table.at_once(methods.DICT_UPDATE, self.update)
        table.at_once(methods.DICT_POP, self.pop)
        table.at_once(methods.DICT_SWAP, self.swap)
        table.at_once(methods.DICT_INCREMENT, self.increment)
        table.at_once(methods.DICT_LENGTH, self.length)
        table.at_once(methods.DICT_SCAN, self.scan)
        table.at_once(methods.DICT_CLEAR, self.clear)

    def _find(self, object_id: str, again: Callable[[], None], reply: Reply) -> HotDict | None:
        """The dict; None where it has to be read first: `again` is called then."""
        return self._dicts.hot.find(object_id, self._dicts.now_ms(), again, reply)

    def _is_warm(self, entry: Entry | None, again: Callable[[], None], reply: Reply) -> bool:
        """Whether the value is in memory; where it has to be read first, `again` is called then."""
        if entry is None or entry.value is not None:
            return True

        async def read() -> None:
            try:
                await self._dicts.warm_up([entry])
                if not reply.is_answered:
                    again()
            except Exception as error:
                reply.refuse(error)

        self._dicts.run(read())
        return False

    # ------------------------------------------------------------------------------------------- reading

    def get(self, peer: Peer, request: dm.DictKey, reply: Reply) -> None:
        """The value of a key."""

        def again() -> None:
            self.get(peer, request, reply)

        hot = self._find(request.object_id, again, reply)
        if hot is None:
            return
        entry = hot.state.get(request.key, hot.used_at_ms)
        if not self._is_warm(entry, again, reply):
            return
        change = hot.under_way(request.key)
        if change is None and entry is not None:
            self._dicts.warm.use(entry)
        _answer(reply, dm.DictValue(value=entry.value if entry else None), change)

    def contains(self, peer: Peer, request: dm.DictKey, reply: Reply) -> None:
        """Whether a key is there. This does not use it."""
        hot = self._find(request.object_id, lambda: self.contains(peer, request, reply), reply)
        if hot is not None:
            there = hot.state.contains(request.key, hot.used_at_ms)
            _answer(reply, dm.DictDone(done=there), hot.under_way(request.key))

    def length(self, peer: Peer, request: dm.DictRef, reply: Reply) -> None:
        """How many keys there are."""
        hot = self._find(request.object_id, lambda: self.length(peer, request, reply), reply)
        if hot is not None:
            _answer(reply, dm.DictNumber(number=len(hot.state)), hot.last)

    def scan(self, peer: Peer, request: dm.DictScan, reply: Reply) -> None:
        """A page of entries."""
        hot = self._find(request.object_id, lambda: self.scan(peer, request, reply), reply)
        if hot is None:
            return
        limit = max(1, min(request.limit, values.PAGE_ENTRIES_MAX))
        page: list[Entry] = []
        size = 0
        ended = True
        for entry in hot.state.after(request.after):
            if entry.is_expired(hot.used_at_ms):
                continue
            size += len(entry.key) + entry.size * request.values
            if page and (len(page) >= limit or size > values.PAGE_BYTES_MAX):
                ended = False
                break
            page.append(entry)
        after = None if ended else page[-1].number
        found = [(entry, entry.value) for entry in page]
        cold = [entry for entry, value in found if value is None] if request.values else []
        if not cold:
            entries = [(entry.key, value if request.values else None) for entry, value in found]
            _answer(reply, dm.DictPage(entries=entries, after=after), hot.last)
            return

        async def read() -> None:
            try:
                read = await self._dicts.warm_up(cold)
                filled = [(entry, read.get(entry.number) if value is None else value) for entry, value in found]
                # Without those that went meanwhile.
                there: list[tuple[bytes, bytes | None]] = [(e.key, value) for e, value in filled if value is not None]
                reply.answer(dm.DictPage(entries=there, after=after))
            except Exception as error:
                reply.refuse(error)

        self._dicts.run(read())

    # ------------------------------------------------------------------------------------------- changing

    def put(self, peer: Peer, request: dm.DictPut, reply: Reply) -> None:
        """Set a key."""
        if self._ops.repeat(request.op, reply):
            return
        hot = self._find(request.object_id, lambda: self.put(peer, request, reply), reply)
        if hot is None:
            return
        values.check_entry(request.object_id, request.key, request.value)
        if request.skip_if_exists and hot.state.get(request.key, hot.used_at_ms) is not None:
            _answer(reply, dm.DictDone(done=False), hot.under_way(request.key))
            return
        entry = hot.state.put(request.key, request.value, hot.used_at_ms, next(self._dicts.numbers))
        self._changed(hot, reply, request.op, dm.DictDone(done=True), entries=[entry])

    def update(self, peer: Peer, request: dm.DictUpdate, reply: Reply) -> None:
        """Set many keys at once."""
        hot = self._find(request.object_id, lambda: self.update(peer, request, reply), reply)
        if hot is None:
            return
        if len(request.entries) > values.UPDATE_ENTRIES_MAX:
            raise InvalidError(
                f"an update has at most {values.UPDATE_ENTRIES_MAX:,} entries, not {len(request.entries):,}",
                hint="update in parts",
            )
        for key, value in request.entries:
            values.check_entry(request.object_id, key, value)
        hot.state.check_room(dict(request.entries))
        entries = {
            key: hot.state.put(key, value, hot.used_at_ms, next(self._dicts.numbers)) for key, value in request.entries
        }
        answer = dm.DictNumber(number=len(entries))
        if entries:
            self._changed(hot, reply, 0, answer, entries=list(entries.values()))
        else:
            reply.answer(answer)

    def pop(self, peer: Peer, request: dm.DictPop, reply: Reply) -> None:
        """Take a key out."""

        def again() -> None:
            self.pop(peer, request, reply)

        if self._ops.repeat(request.op, reply):
            return
        hot = self._find(request.object_id, again, reply)
        if hot is None:
            return
        entry = hot.state.get(request.key, hot.used_at_ms)
        if not self._is_warm(entry, again, reply):
            return
        if entry is None:
            _answer(reply, dm.DictValue(value=None), hot.under_way(request.key))
            return
        hot.state.drop(request.key)
        self._changed(hot, reply, request.op, dm.DictValue(value=entry.value), dropped=[entry])

    def swap(self, peer: Peer, request: dm.DictSwap, reply: Reply) -> None:
        """Set a key if its value is the expected one."""

        def again() -> None:
            self.swap(peer, request, reply)

        if self._ops.repeat(request.op, reply):
            return
        hot = self._find(request.object_id, again, reply)
        if hot is None:
            return
        values.check_entry(request.object_id, request.key, request.new)
        entry = hot.state.get(request.key, hot.used_at_ms)
        if not self._is_warm(entry, again, reply):
            return
        if entry is None or entry.value != request.expected:
            value = entry.value if entry is not None else None
            _answer(reply, dm.DictSwapped(done=False, value=value), hot.under_way(request.key))
            return
        entry = hot.state.put(request.key, request.new, hot.used_at_ms, entry.number)
        self._changed(hot, reply, request.op, dm.DictSwapped(done=True), entries=[entry])

    def increment(self, peer: Peer, request: dm.DictIncrement, reply: Reply) -> None:
        """Add to a small integer."""

        def again() -> None:
            self.increment(peer, request, reply)

        if self._ops.repeat(request.op, reply):
            return
        hot = self._find(request.object_id, again, reply)
        if hot is None:
            return
        values.check_key(request.key)
        entry = hot.state.get(request.key, hot.used_at_ms)
        if not self._is_warm(entry, again, reply):
            return
        number = incremented(entry.value if entry is not None else None, request.by)
        value = values.pack_integer(number)
        entry = hot.state.put(request.key, value, hot.used_at_ms, next(self._dicts.numbers))
        self._changed(hot, reply, request.op, dm.DictNumber(number=number), entries=[entry])

    def clear(self, peer: Peer, request: dm.DictRef, reply: Reply) -> None:
        """Take everything out."""
        hot = self._find(request.object_id, lambda: self.clear(peer, request, reply), reply)
        if hot is None:
            return
        gone = hot.state.clear()
        number = next(self._dicts.numbers)
        change = self._dicts.change(hot, dropped=gone, clear_before=number)
        _answer(reply, dm.DictNumber(number=len(gone)), change)

    def _changed(
        self,
        hot: HotDict,
        reply: Reply,
        op: int,
        answer: msgspec.Struct,
        *,
        entries: list[Entry] | None = None,
        dropped: list[Entry] | None = None,
    ) -> None:
        """Write it down, then answer."""
        body = codec.encode(answer)
        noted = self._ops.make(op, body)
        change = self._dicts.change(hot, entries=entries or (), dropped=dropped or (), op=noted)
        self._ops.begun(op, body, change)
        change.waiters.append(lambda error: reply.answer_body(body) if error is None else reply.refuse(error))


def _answer(reply: Reply, answer: msgspec.Struct, change: Change[values.DictEntry] | None) -> None:
    """Answer now, or when that on which the answer stands is on disk."""
    if change is None:
        reply.answer(answer)
        return

    def written(error: JitneyError | None) -> None:
        if error is None:
            reply.answer(answer)
        else:
            reply.refuse(error)

    change.waiters.append(written)
