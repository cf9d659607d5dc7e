"""What a group has used, as both versions tell it, and files of `key value` lines."""

from __future__ import annotations

import msgspec


class Write(msgspec.Struct, frozen=True):
    """A line to write into a group's file. `optional`: the kernel may refuse it without harm."""

    file: str
    text: str
    optional: bool = False


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Counted by one hierarchy; 0 where it counts something else."""

    cpu_ns: int = 0
    throttled_ns: int = 0
    memory_bytes: int = 0  # now, without file pages that nobody needs
    peak_bytes: int = 0
    oom_kills: int = 0
    processes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def __add__(self, other: Counters) -> Counters:
        """What two hierarchies have counted of the same group."""
        return Counters(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def at_least(self, past: Counters) -> Counters:
        """What only grows has not shrunk, whatever a file said (or did not say, as it was gone)."""
        grows = ("cpu_ns", "throttled_ns", "peak_bytes", "oom_kills", "read_bytes", "written_bytes")
        most = {name: max(getattr(self, name), getattr(past, name)) for name in grows}
        most["peak_bytes"] = max(most["peak_bytes"], self.memory_bytes)
        return msgspec.structs.replace(self, **most)

    def without_anybody(self) -> Counters:
        """After the end of the last process."""
        return msgspec.structs.replace(self, memory_bytes=0, processes=0)


def number(text: str) -> int:
    """A file of one number; 0 for none, or "max"."""
    text = text.strip()
    return int(text) if text.isdecimal() else 0


def keyed(text: str) -> dict[str, int]:
    """A file of `key value` lines."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdecimal():
            found[key] = int(value)
    return found
