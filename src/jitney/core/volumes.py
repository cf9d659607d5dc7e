"""Volumes, decided: paths that may be, digests of contents, and what a commit does to the newest version.

Paths are refused or kept as they are, never changed: a name that one file system cannot hold is reported where a
volume is brought to such a file system (`collisions`).

A commit says what it puts and removes, and the version that its author saw. Others may have committed since. Per path
the last writer wins, and what others had changed is reported:

    a put                      replaces what is there, whoever made it
    a put below what is no folder    makes it one, where others put that there; else it is refused
    a put of a file on a folder      removes the folder, where others made it or the commit removes it; else refused
    a remove                   removes, whoever changed it
    a remove of a folder       keeps what others put below it since: there the put wins
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from jitney.errors import AlreadyExistsError, InvalidError
from jitney.values.volumes import (
    BLOCK_BYTES,
    CHANGES_MAX,
    DIGEST_BYTES,
    DIR_MODE,
    MODE_MAX,
    MTIME_NS_MAX,
    SIZE_MAX,
    Content,
    Entry,
    Kind,
    Version,
)

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4_096
TARGET_BYTES_MAX = 4_095
OF_THE_SYSTEM = ("/dev", "/proc", "/sys")  # where no volume is mounted
MOUNTS_MAX = 64  # volumes of a function, or of a step of a build

_SEED = b"jitney content 1\0"
block_hash = hashlib.sha256  # of a block that comes piece by piece


# ------------------------------------------------------------------------------------------------ contents


def block_digest(data: bytes | memoryview) -> bytes:
    """The digest of one block."""
    return hashlib.sha256(data).digest()


def content_of(blocks: bytes, size: int) -> Content:
    """The content that has these blocks."""
    digest = hashlib.sha256(_SEED + blocks + size.to_bytes(8, "big")).hexdigest()
    return Content(digest=digest, size=size, blocks=blocks)


def whole(data: bytes | memoryview) -> Content:
    """The content of bytes that are at hand.

    >>> whole(b"").count, whole(b"x").count
    (0, 1)
    """
    view = memoryview(data)
    parts = (view[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    return content_of(b"".join(block_digest(part) for part in parts), len(data))


def check_content(content: Content) -> Content:
    """`content`, if it is one.

    Raises:
        InvalidError: its blocks do not have its size, or do not make its digest.
    """
    if not 0 <= content.size <= SIZE_MAX:
        raise InvalidError(f"a file of {content.size:,} bytes is beyond what a volume holds")
    if len(content.blocks) != content.count * DIGEST_BYTES:
        raise InvalidError(f"{content.size:,} bytes are {content.count:,} blocks, and other ones are named")
    if content_of(content.blocks, content.size).digest != content.digest:
        raise InvalidError(f"the content {content.digest[:16]}… is not made of the blocks that are named for it")
    return content


# ------------------------------------------------------------------------------------------------ paths


def check_mounts(paths: Sequence[str]) -> None:
    """Whether volumes may be mounted at these plain, absolute paths, together.

    Raises:
        InvalidError: one is there twice, inside another or of the system; or they are too many.
    """
    if len(paths) > MOUNTS_MAX:
        raise InvalidError(f"{len(paths)} volumes are over the limit of {MOUNTS_MAX} at one place")
    for path in paths:
        if any(path == taken or path.startswith(taken + "/") for taken in OF_THE_SYSTEM):
            raise InvalidError(f"volumes: {path!r} belongs to the system", hint='use "/data"')
        if paths.count(path) > 1:
            raise InvalidError(f"volumes: two are at {path!r}")
        outer = next((other for other in paths if path.startswith(other + "/")), None)
        if outer:
            raise InvalidError(f"volumes: {path!r} is inside {outer!r}", hint="mount them beside one another")


def check_path(path: str) -> str:
    """`path`, if it may be one of a volume: relative, every part a name.

    >>> check_path("models/a b.bin")
    'models/a b.bin'

    Raises:
        InvalidError: it leads out of the volume, or no file system could hold it.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{path!r} is not UTF-8", hint="rename the file; volumes hold names that are text") from None
    if len(encoded) > PATH_BYTES_MAX:
        raise InvalidError(f"a path of {len(encoded):,} bytes is over the limit of {PATH_BYTES_MAX:,}: {path[:60]!r}…")
    if "\0" in path:
        raise InvalidError(f"{path[:200]!r} has a NUL in it, which no path may have")
    for name in path.split("/"):
        if name in ("", ".", ".."):
            raise InvalidError(
                f"{path[:200]!r} is no path in a volume", hint="write it relative and plain, like 'models/a.bin'"
            )
        if len(name) > NAME_BYTES_MAX // 4 and len(name.encode()) > NAME_BYTES_MAX:
            raise InvalidError(f"a name of over {NAME_BYTES_MAX} bytes: {name[:60]!r}…", hint="shorten it")
    return path


def plain_path(path: str) -> str:
    """What a person wrote, as a path of a volume: '' is its top. A leading '/' and '.' parts are left out.

    >>> plain_path("/models/./a.bin"), plain_path("/")
    ('models/a.bin', '')

    Raises:
        InvalidError: it has '..' in it, or is no path.
    """
    parts = [name for name in path.split("/") if name not in ("", ".")]
    return check_path("/".join(parts)) if parts else ""


def parents(path: str) -> Iterator[str]:
    """The folders above a path, the top first; not '' itself.

    >>> list(parents("a/b/c"))
    ['a', 'a/b']
    """
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def split(path: str) -> tuple[str, str]:
    """(folder, name).

    >>> split("a/b/c"), split("c")
    (('a/b', 'c'), ('', 'c'))
    """
    folder, _, name = path.rpartition("/")
    return folder, name


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is under `folder`; '' is the top."""
    return not folder or path.startswith(folder + "/")


def check_target(path: str, target: str) -> None:
    """The target of a symbolic link at `path`.

    '..' may only stand at its beginning: the folder of a link is a real one, so there, and only there, it is known
    where '..' leads. After a name that is itself a link it could be anywhere.

    Raises:
        InvalidError: it leads out of the volume, or may.
    """
    if not target or "\0" in target or len(target.encode("utf-8", "replace")) > TARGET_BYTES_MAX:
        raise InvalidError(f"the link {path!r} has no target that could be one")
    try:
        target.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"the target of the link {path!r} is not UTF-8") from None
    if target.startswith("/"):
        raise InvalidError(
            f"the link {path!r} leads to {target[:200]!r}, out of the volume", hint="make it relative, or leave it out"
        )
    names = [name for name in target.split("/") if name not in ("", ".")]
    up = 0
    while up < len(names) and names[up] == "..":
        up += 1
    if up > path.count("/"):
        raise InvalidError(f"the link {path!r} leads to {target[:200]!r}, out of the volume", hint="leave it out")
    if ".." in names[up:]:
        raise InvalidError(
            f"the link {path!r} leads to {target[:200]!r}, which may be outside the volume",
            hint="write its target with '..' at the beginning only",
        )


def check_entry(entry: Entry) -> Entry:
    """`entry`, if it may be put.

    Raises:
        InvalidError: its path, its target or another field cannot be.
    """
    check_path(entry.path)
    if not 0 <= entry.mode <= MODE_MAX:
        raise InvalidError(f"the mode of {entry.path!r} has more than permissions: {entry.mode:o}")
    if not 0 <= entry.mtime_ns <= MTIME_NS_MAX:
        raise InvalidError(f"the time of {entry.path!r} is out of range")
    if entry.kind is Kind.FILE:
        is_digest = len(entry.digest) == 2 * DIGEST_BYTES and not set(entry.digest) - set("0123456789abcdef")
        if not is_digest or entry.target or not 0 <= entry.size <= SIZE_MAX:
            raise InvalidError(f"the file {entry.path!r} has no content that could be one")
    elif entry.kind is Kind.SYMLINK:
        check_target(entry.path, entry.target)
    if entry.kind is not Kind.FILE and (entry.size or entry.digest or entry.blocks):
        raise InvalidError(f"{entry.path!r} is a {entry.kind} and has the content of a file")
    if entry.kind is Kind.DIR and entry.target:
        raise InvalidError(f"the folder {entry.path!r} has the target of a link")
    return entry


def check_changes(puts: Sequence[Entry], removes: Sequence[str], most: int = CHANGES_MAX) -> None:
    """What a commit changes.

    Raises:
        InvalidError: something of it cannot be, is there twice, or it is too much for one commit.
    """
    if len(puts) + len(removes) > most:
        raise InvalidError(
            f"{len(puts) + len(removes):,} changes are over the limit of {most:,} for one commit",
            hint="commit in parts",
        )
    seen = set()
    for entry in puts:
        check_entry(entry)
        if entry.path in seen:
            raise InvalidError(f"{entry.path!r} is put twice by one commit")
        seen.add(entry.path)
    solid = {entry.path for entry in puts if entry.kind is not Kind.DIR}
    for entry in puts:
        above = next((folder for folder in parents(entry.path) if folder in solid), None)
        if above is not None:
            raise InvalidError(f"{entry.path!r} is below {above!r}, which the same commit makes a file or a link")
    for path in removes:
        check_path(path)


def collisions(paths: Iterable[str], *, folds_case: bool, folds_unicode: bool) -> dict[str, str]:
    """Paths that a file system would take for others: each with the one before it that is like it.

    Folders come before what is in them; what is below one that is like another is like what is below that.

    >>> collisions(["README", "Readme", "b"], folds_case=True, folds_unicode=True)
    {'Readme': 'README'}
    """
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for path in paths if folds_case or folds_unicode else ():
        form = unicodedata.normalize("NFC", path) if folds_unicode else path
        form = form.casefold() if folds_case else form
        form = unicodedata.normalize("NFC", form) if folds_unicode else form
        known = first.setdefault(form, path)
        folder, name = split(path)
        if known != path:
            found[path] = known
        elif folder in found:
            found[path] = f"{found[folder]}/{name}"
    return found


# ------------------------------------------------------------------------------------------------ commits


class Row(NamedTuple):
    """An entry as the store has it: of the versions `since` <= v < `until`; None: also of the newest."""

    entry: Entry
    since: int
    until: int | None

    @property
    def is_there(self) -> bool:
        """Whether the newest version has it."""
        return self.until is None


class View(Protocol):
    """What a decision may ask of the store, about one volume."""

    def newest(self, path: str) -> Row | None:
        """The last row of a path: what is there, or what was removed last. None: never was any."""

    def below(self, folder: str) -> Iterable[Row]:
        """Everything that the newest version has under a folder."""


class Delta(NamedTuple):
    """What a commit does: the rows that end, the entries that begin, and what it met."""

    ends: dict[str, Row]
    begins: dict[str, Entry]
    conflicts: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether everything is so already."""
        return not self.ends and not self.begins

    @property
    def files(self) -> int:
        """How many files more there are."""
        return _files(self.begins.values()) - _files(row.entry for row in self.ends.values())

    @property
    def size(self) -> int:
        """How many bytes more there are."""
        return sum(entry.size for entry in self.begins.values()) - sum(row.entry.size for row in self.ends.values())


def _files(entries: Iterable[Entry]) -> int:
    return sum(entry.kind is Kind.FILE for entry in entries)


def merge(view: View, base: int, puts: Sequence[Entry], removes: Sequence[str], *, new_only: bool = False) -> Delta:
    """What a commit on version `base` does to the newest version. `puts` and `removes` have been checked.

    Raises:
        InvalidError: a put is below a file, or a file is put on a folder, and nobody but this commit's author is to
            blame for it.
        AlreadyExistsError: `new_only`, and a file is there that a put would replace.
    """
    return _Merge(view, base, puts, removes, new_only).run()


class _Merge:
    """One commit on its way."""

    def __init__(self, view: View, base: int, puts: Sequence[Entry], removes: Sequence[str], new_only: bool) -> None:
        self._new_only = new_only
        self._view = view
        self._base = base
        self._puts = puts
        self._removed = set(removes)
        self._wanted = {entry.path for entry in puts}
        self._ends: dict[str, Row] = {}
        self._begins: dict[str, Entry] = {}
        self._conflicts: set[str] = set()
        self._folders: set[str] = {""}  # known to be there, or to be made

    def run(self) -> Delta:
        for path in sorted(self._removed):
            self._remove(path)
        for entry in self._puts:
            self._put(entry)
        return Delta(self._ends, self._begins, sorted(self._conflicts))

    def _is_of_others(self, row: Row | None) -> bool:
        """Whether somebody changed this path since the base."""
        return row is not None and (row.since > self._base or (row.until is not None and row.until > self._base))

    def _note(self, row: Row | None) -> None:
        if row is not None and self._is_of_others(row):
            self._conflicts.add(row.entry.path)

    def _remove(self, path: str) -> None:
        row = self._view.newest(path)
        if row is None or not row.is_there:
            return  # others removed it too, or it never was
        if row.entry.kind is not Kind.DIR:
            self._note(row)
            self._ends[path] = row
            return
        kept: set[str] = set()
        below = list(self._view.below(path))
        for one in below:
            if self._is_of_others(one) and one.entry.path not in self._removed:
                self._conflicts.add(one.entry.path)
                kept.update((one.entry.path, *parents(one.entry.path)))
        for one in (row, *below):
            if one.entry.path not in kept:
                if one.entry.path in self._removed:
                    self._note(one)
                self._ends[one.entry.path] = one

    def _put(self, entry: Entry) -> None:
        self._make_parents(entry.path)
        row = self._view.newest(entry.path)
        is_there = row is not None and row.is_there and entry.path not in self._ends
        if self._new_only and row is not None and is_there and Kind.DIR not in (row.entry.kind, entry.kind):
            raise AlreadyExistsError(f"{entry.path!r} is in the volume already", hint="force=True replaces it")
        if row is not None and row.is_there and same(row.entry, entry):
            self._ends.pop(entry.path, None)  # as it was: also where the commit itself removed it
            if entry.kind is Kind.DIR:
                self._folders.add(entry.path)
            return
        self._note(row)
        if row is not None and is_there:
            if row.entry.kind is Kind.DIR and entry.kind is not Kind.DIR:
                self._empty(row)
            self._ends[entry.path] = row
        self._begins[entry.path] = entry
        if entry.kind is Kind.DIR:
            self._folders.add(entry.path)

    def _empty(self, row: Row) -> None:
        """A file is put on a folder."""
        if not self._is_of_others(row) and row.entry.path not in self._removed:
            raise InvalidError(
                f"{row.entry.path!r} is a folder in the volume, and a file would take its place",
                hint="remove the folder in the same commit, or use another name",
            )
        for one in self._view.below(row.entry.path):
            if one.entry.path not in self._ends:
                self._note(one)
                self._ends[one.entry.path] = one

    def _make_parents(self, path: str) -> None:
        for folder in parents(path):
            if folder in self._folders or folder in self._wanted:
                continue
            row = self._view.newest(folder)
            if row is not None and row.is_there and row.entry.kind is Kind.DIR:
                self._ends.pop(folder, None)  # it stays, for what is put below it
            else:
                if row is not None and row.is_there and folder not in self._ends:
                    if not self._is_of_others(row):
                        raise InvalidError(
                            f"{folder!r} is a {row.entry.kind} in the volume: nothing can be below it",
                            hint="remove it in the same commit, or use another path",
                        )
                    self._ends[folder] = row
                self._note(row)
                self._begins[folder] = Entry(path=folder, kind=Kind.DIR, mode=DIR_MODE)
            self._folders.add(folder)


def same(one: Entry, other: Entry) -> bool:
    """Whether two entries of a path are equal; blocks follow from the digest."""
    return (one.kind, one.size, one.mode, one.mtime_ns, one.digest, one.target) == (
        other.kind, other.size, other.mode, other.mtime_ns, other.digest, other.target,
    )  # fmt: skip


def next_version(head: Version | None, delta: Delta, *, at_ms: int, message: str, restored: int | None) -> Version:
    """The version that a delta makes. `head`: the newest; None where there is none yet."""
    before = head or Version(version=0, parent=0, at_ms=0)
    return Version(
        version=before.version + 1,
        parent=before.version,
        at_ms=at_ms,
        message=message,
        puts=len(delta.begins),
        removes=len(set(delta.ends) - set(delta.begins)),
        files=before.files + delta.files,
        size=before.size + delta.size,
        restored=restored,
    )


# ------------------------------------------------------------------------------------------------ copies


def moved(entries: Iterable[Entry], source: str, target: str) -> list[Entry]:
    """`source` and what is below it, as they are at `target`.

    Raises:
        InvalidError: a path gets too long, or a link would lead out of the volume.
    """
    found = []
    for entry in entries:
        path = target + entry.path[len(source) :] if source else f"{target}/{entry.path}"
        found.append(check_entry(msgspec.structs.replace(entry, path=path, blocks=b"")))
    return found


def destination(source: str, target: str, is_folder: bool) -> str:
    """Where `source` goes: into `target` if that is a folder, else to `target` itself.

    >>> destination("a/b", "c", True), destination("a/b", "", True), destination("a/b", "c", False)
    ('c/b', 'b', 'c')

    Raises:
        InvalidError: it would go into itself, or is there.
    """
    found = "/".join(part for part in (target, split(source)[1]) if part) if is_folder else target
    if found == source or is_below(found, source):
        raise InvalidError(f"{source!r} cannot go to {found!r}: that is itself, or in it")
    return found
