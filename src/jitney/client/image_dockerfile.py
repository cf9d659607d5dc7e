"""Files of a Dockerfile's context: which COPY takes which, by the rules of `docker build`."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jitney.client.ignore import FilePatternMatcher, Ignore, ignore_of
from jitney.client.image_value import Prepare, Prepared, stand_in, tree
from jitney.client.tree import LocalFile, walk
from jitney.core.dockerparse import Copy, Parsed
from jitney.errors import InvalidError
from jitney.values.images import CopyTree, Layer, RunCommands

IGNORE_FILE = ".dockerignore"


def layers_of(
    parsed: Parsed,
    context: str,
    ignore: Sequence[str] | Ignore | None,
    env: Mapping[str, str],
    secrets: dict[str, str],
    dockerfile: str = "",
) -> Iterator[tuple[Layer, Prepare | None]]:
    """The layers of a parsed Dockerfile, with what completes those that copy files."""
    for item in parsed.items:
        if isinstance(item, Copy):
            yield _copy(item, context, ignore, dockerfile)
        elif isinstance(item, RunCommands):
            yield msgspec.structs.replace(item, env={**item.env, **env}, secrets=secrets), None
        else:
            yield item, None


def context_files(
    context: str, ignore: Sequence[str] | Ignore | None, dockerfile: str = ""
) -> Iterator[tuple[str, LocalFile]]:
    """The files of a context that are not ignored."""
    return walk(Path(context), _ignore(Path(context), ignore, dockerfile))


def _ignore(context: Path, given: Sequence[str] | Ignore | None, dockerfile: str) -> Ignore:
    if given is not None:
        return ignore_of(given) if callable(given) else FilePatternMatcher(*given)
    own = Path(f"{dockerfile}{IGNORE_FILE}") if dockerfile else None
    for path in (own, context / IGNORE_FILE):
        if path is not None and path.is_file():
            return FilePatternMatcher.from_file(path)
    return ignore_of(None)


def _copy(item: Copy, context: str, ignore: Sequence[str] | Ignore | None, dockerfile: str) -> tuple[CopyTree, Prepare]:
    where = item.target.rstrip("/") + "/" if item.target.endswith("/") else ""

    def prepare(layer: CopyTree) -> Prepared:
        found = dict(context_files(context, ignore, dockerfile))
        pairs = [pair for source in item.sources for pair in _taken(item, source, found, is_named=not where)]
        return Prepared(layer, tree(pairs))

    target = where or (posixpath.dirname(item.target) or ".").rstrip("/") + "/"
    layer = CopyTree(source_id=stand_in("COPY", context, item, ignore), target=target)
    return layer, prepare


def _taken(
    item: Copy, source: str, found: Mapping[str, LocalFile], *, is_named: bool
) -> Iterator[tuple[str, LocalFile]]:
    """(path below the target, file) of what one source names. `is_named`: the target is the name of what is copied."""
    source = posixpath.normpath(source)
    name = posixpath.basename(item.target) if is_named else ""
    matches = sorted({match for path in found for match in _matches(path, source)})
    if not matches:
        raise InvalidError(
            f"line {item.line}: the context has no {source!r}",
            hint="is it ignored? COPY takes files below the context folder alone",
        )
    for match in matches:
        if match in found:
            yield name or posixpath.basename(match), found[match]
            continue
        below = "" if match == "." else match + "/"
        for path, file in found.items():
            if path.startswith(below):
                yield posixpath.join(name, path[len(below) :]), file


def _matches(path: str, pattern: str) -> Iterator[str]:
    """The file, or the folder above it, that a pattern names; a part of a pattern fits a part of a path."""
    if pattern == ".":
        yield "."
        return
    wanted, parts = pattern.split("/"), path.split("/")
    if len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
        yield "/".join(parts[: len(wanted)])


def dockerfile_context(context: str, ignore: Sequence[str] | Ignore | None, dockerfile: str) -> Prepare:
    """What completes a base that an engine builds: its whole context."""

    def prepare(base: Any) -> Prepared:
        return Prepared(base, tree(context_files(context, ignore, dockerfile)))

    return prepare
