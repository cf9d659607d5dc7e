"""What is shipped with a function: the user's own code, and what was attached to the image.

As little as can be guessed without surprise. A function in a script ships that one file; a function in a package
ships the whole top-level package; nothing else is followed, since a guess from imports ships too little in one project
and a home folder in another. Other local code is named: `image.add_local_python_source("helpers")`.

In the container the files lie below the import root, which is at the front of `sys.path` and which the vocabulary
calls /root: the remote paths "/root/x" and "x" are the same place.
"""

from __future__ import annotations

import importlib.util
import posixpath
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jitney.client.ignore import NOT_PYTHON, Ignore, ignore_of
from jitney.client.tree import LocalFile, check_limits, content, digest, look_at, walk
from jitney.errors import InvalidError, NotFoundError
from jitney.wire.messages.images import SourceCreate, SourceCreated, SourceFile, SourceMissing, SourcePut
from jitney.wire.methods import SOURCE_CREATE, SOURCE_MISSING, SOURCE_PUT, Method

BATCH_BYTES_MAX = 15 * 1024 * 1024
BATCH_FILES_MAX = 2_000
TRIES = 2
IMPORT_ROOT = "/root"

Request = Callable[[Method[Any, Any], Any], Awaitable[Any]]


class Attachment(NamedTuple):
    """What `Image.add_local_*` named: a file, a folder, or ('module') something importable."""

    kind: str  # "file", "dir", "module"
    local: str
    remote: str
    ignore: Ignore | None = None


class Entry(NamedTuple):
    """Where a function's code is. `module` is its name in the container; '' = nowhere, so it must be pickled."""

    module: str
    is_main: bool
    attachment: Attachment | None


class Manifest:
    """The files of a source: what they are called there, and how to read them here.

    `module` and `is_main` are what `FunctionSpec.module` and `.main_module` need.
    """

    def __init__(self, entry: Entry, files: dict[str, LocalFile]) -> None:
        self.module = entry.module
        self.is_main = entry.is_main
        self.files: list[SourceFile] = []
        self._by_digest: dict[str, LocalFile] = {}
        for remote, file in sorted(files.items()):
            file, computed = digest(file)
            self._by_digest[computed] = file
            self.files.append(SourceFile(path=remote, digest=computed, executable=file.is_executable))

    @property
    def digests(self) -> list[str]:
        """Of all contents, each once."""
        return [*self._by_digest]

    @property
    def size(self) -> int:
        """Bytes of all contents, each once."""
        return sum(file.size for file in self._by_digest.values())

    def read(self, wanted: str) -> bytes:
        """The content with that digest.

        Raises:
            InvalidError: the file has changed since.
            KeyError: no file of this source has it.
        """
        return content(self._by_digest[wanted], wanted)

    def read_all(self, wanted: Sequence[str]) -> list[bytes]:
        """The contents with those digests."""
        return [self.read(name) for name in wanted]

    def batches(self, wanted: Iterable[str]) -> Iterator[list[str]]:
        """`wanted` in parts, each small enough for one message. A digest that is not ours is refused."""
        batch: list[str] = []
        size = 0
        for name in wanted:
            file = self._by_digest.get(name)
            if file is None:
                raise InvalidError(f"the server asked for a file that is not in this source ({name[:16]!r})")
            if batch and (size + file.size > BATCH_BYTES_MAX or len(batch) >= BATCH_FILES_MAX):
                yield batch
                batch, size = [], 0
            batch.append(name)
            size += file.size
        if batch:
            yield batch


def entry_of(module: ModuleType | Path | str | None) -> Entry:
    """Where the code of a module (or its name, or a script's path) is, and what it is called in a container.

    A script runs as `__main__` here and is imported by its file's name there. Code without a file (a notebook, an
    interactive session) and the SDK's own give an entry with nothing to ship.

    Raises:
        InvalidError: no such module.
    """
    if module is None:
        return Entry("", False, None)
    if isinstance(module, Path):
        return _script(module, is_main=False)
    if isinstance(module, str):
        if module not in sys.modules:
            raise InvalidError(f"no module {module!r} is loaded", hint="give the module that defines the function")
        module = sys.modules[module]
    spec = getattr(module, "__spec__", None)
    is_main = module.__name__ == "__main__"
    name = spec.name if spec else module.__name__  # `python -m pkg.tool` has a spec that knows its real name
    if "." in name:
        top = name.partition(".")[0]
        return Entry(name, is_main, None if top == "jitney" else Attachment("module", top, ""))
    if hasattr(module, "__path__"):
        return Entry(name, is_main, None if name == "jitney" else Attachment("module", name, ""))
    file = getattr(module, "__file__", None)
    if not file or not Path(file).is_file():
        return Entry("" if is_main else name, is_main, None)
    return _script(Path(file), is_main=is_main) if is_main or not spec else _module_file(name, Path(file))


def _script(path: Path, *, is_main: bool) -> Entry:
    # A dot in the name would make it a package.
    stem = path.stem.replace(".", "_")
    return Entry(stem, is_main, Attachment("file", str(path.absolute()), f"{stem}{path.suffix or '.py'}"))


def _module_file(name: str, path: Path) -> Entry:
    return Entry(name, False, Attachment("file", str(path.absolute()), f"{name}{path.suffix}"))


def collect(
    entry: ModuleType | Path | str | None,
    attachments: Sequence[Attachment] = (),
    *,
    include_source: bool = True,
) -> Manifest:
    """Everything that a function of `entry` needs in its container. Reads files: call it off the loop.

    Args:
        entry: the module that defines the function, its name, or a script's path; None ships attachments only.
        attachments: of the function's image, in order: a later one replaces files of an earlier one.
        include_source: False leaves the entry's own code out (it is in the image, or pickled).

    Raises:
        InvalidError: something named cannot be shipped, or it is too much.
    """
    found = entry_of(entry)
    wanted = [*attachments]
    if include_source and found.attachment:
        wanted.insert(0, found.attachment)
    return Manifest(found, check_limits(pair for attachment in wanted for pair in _files(attachment)))


async def ship(request: Request, manifest: Manifest) -> str:
    """Hand a source to the server and give its id ('so-…'): two round trips, and one per 15 MiB that it lacks.

    A content that the server had when it was asked, and has no more (it was found damaged, or swept), is sent then.

    Args:
        request: asks the server one method, `await request(SOURCE_CREATE, SourceCreate(...))`.
        manifest: what to ship; with no files the id is '' and nothing is asked.

    Raises:
        InvalidError: a file changed meanwhile, or the server cannot have it where it was to go.
    """
    import asyncio  # here: containers declare images too, and ship nothing

    if not manifest.files:
        return ""
    tries = TRIES
    while True:
        answer = await request(SOURCE_MISSING, SourceMissing(digests=manifest.digests))
        for batch in manifest.batches(answer.missing):
            contents = await asyncio.to_thread(manifest.read_all, batch)
            await request(SOURCE_PUT, SourcePut(contents=contents))
        try:
            created: SourceCreated = await request(SOURCE_CREATE, SourceCreate(files=manifest.files))
        except NotFoundError:
            tries -= 1
            if not tries:
                raise
        else:
            return created.source_id


def remote_path(remote: str, *, default: str = "") -> str:
    """A remote path as sources have it: below the import root without a leading slash, elsewhere absolute.

    >>> remote_path("/root/data/a.csv"), remote_path("data/a.csv"), remote_path("/data/a.csv")
    ('data/a.csv', 'data/a.csv', '/data/a.csv')

    Raises:
        InvalidError: it leads out of where it starts.
    """
    text = remote.strip()
    if not text or "\0" in text or ".." in text.split("/"):
        raise InvalidError(f"the remote path {remote!r} is not a plain path", hint="for example '/root/data'")
    if text.endswith("/") and default:
        text += default
    text = posixpath.normpath(text)
    if text.startswith("//"):
        text = text[1:]
    if text == IMPORT_ROOT or text.startswith(IMPORT_ROOT + "/"):
        text = text[len(IMPORT_ROOT) + 1 :]
    return "" if text == "." else text


def _files(attachment: Attachment) -> Iterator[tuple[str, LocalFile]]:
    local = Path(attachment.local)
    if attachment.kind == "file":
        yield remote_path(attachment.remote, default=local.name), look_at(local)
    elif attachment.kind == "dir":
        below = remote_path(attachment.remote)
        for relative, file in walk(local, attachment.ignore or ignore_of(None)):
            yield _join(below, relative), file
    else:
        yield from module_files(attachment)


def module_files(attachment: Attachment) -> Iterator[tuple[str, LocalFile]]:
    """A top-level module by name: its file, or all folders of its package."""
    name = attachment.local
    spec = _spec(name)
    ignore = attachment.ignore or ignore_of(None)
    is_empty = True
    for folder in spec.submodule_search_locations or ():
        for relative, file in walk(Path(folder), ignore):
            is_empty = False
            yield f"{name}/{relative}", file
    if spec.submodule_search_locations is None and spec.origin and Path(spec.origin).is_file():
        is_empty = False
        yield Path(spec.origin).name, look_at(Path(spec.origin))
    if is_empty:
        raise InvalidError(f"the module {name!r} has no files to ship", hint="is it part of Python, or all ignored?")


def _spec(name: str) -> ModuleSpec:
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    try:
        spec = spec or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InvalidError(f"no module {name!r} can be imported here", hint="is its folder on sys.path?")
    return spec


def _join(below: str, relative: str) -> str:
    return f"{below.rstrip('/')}/{relative}" if below else relative


def module_attachment(name: str, ignore: Sequence[str] | Ignore | None = None) -> Attachment:
    """A local package or module by its top-level name; Python files only unless `ignore` says otherwise.

    Raises:
        InvalidError: a dotted name, or not a name.
    """
    top, dot, _ = name.partition(".")
    if dot or not name.isidentifier():
        hint = f"give the whole package: {top!r}" if dot and top.isidentifier() else "give the name that you import"
        raise InvalidError(f"{name!r} is not a top-level module", hint=hint)
    return Attachment("module", name, "", ignore_of(ignore, NOT_PYTHON))
