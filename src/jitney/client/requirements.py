"""Requirements files and pyproject.toml, read here: the machine that builds does not see this machine's files."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jitney.errors import InvalidError

DEPTH_MAX = 10  # of files that include files
FILE_BYTES_MAX = 4 * 1024 * 1024


class Requirements(NamedTuple):
    """What a requirements file asks for."""

    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    pre: bool = False
    options: tuple[str, ...] = ()


# Option -> what it is here. One word of value each, but for those that end in '!'.
_OPTIONS = {
    "-r": "file",
    "--requirement": "file",
    "-c": "constraint",
    "--constraint": "constraint",
    "-i": "index",
    "--index-url": "index",
    "--extra-index-url": "extra",
    "-f": "links",
    "--find-links": "links",
    "--no-binary": "option",
    "--only-binary": "option",
    "--trusted-host": "option",
    "--pre": "pre!",
    "--no-index": "flag!",
    "--require-hashes": "flag!",
    "--prefer-binary": "ignored!",
}


class _Reader:
    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {
            name: [] for name in ("requirement", "constraint", "index", "extra", "links", "option")
        }
        self.pre = False

    def read(self, path: Path, kind: str, depth: int = 0) -> None:
        if depth > DEPTH_MAX:
            raise InvalidError(f"{path}: requirements files include one another more than {DEPTH_MAX} deep")
        for number, line in _logical_lines(path):
            if line.startswith("-"):
                self._option(line, path, number, kind, depth)
            else:
                self.lists[kind].append(line)

    def _option(self, line: str, path: Path, number: int, kind: str, depth: int) -> None:
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise InvalidError(f"{path}:{number}: {error}") from None
        name, equals, value = words[0].partition("=")
        if not name.startswith("--") and len(name) > 2:  # -rother.txt
            name, equals, value = name[:2], "=", words[0][2:]
        meaning = _OPTIONS.get(name, "")
        rest = [value, *words[1:]] if equals else words[1:]
        if not meaning or len(rest) != (0 if meaning.endswith("!") else 1):
            hint = "ship local code by add_local_python_source" if name in ("-e", "--editable") else ""
            raise InvalidError(f"{path}:{number}: {line[:80]!r} cannot be part of an image", hint=hint)
        match meaning:
            case "file" | "constraint":
                self.read(path.parent / rest[0], kind if meaning == "file" else "constraint", depth + 1)
            case "links" if "://" not in rest[0]:
                self.lists["links"].append(str((path.parent / rest[0]).absolute()))
            case "option":
                self.lists["option"] += [name, rest[0]]
            case "flag!":
                self.lists["option"].append(name)
            case "pre!":
                self.pre = True
            case "ignored!":
                pass
            case _:
                self.lists[meaning].append(rest[0])


def read_requirements(paths: Sequence[str | Path]) -> Requirements:
    """Requirements files, with the files that they include.

    Raises:
        InvalidError: one cannot be read, or has a line that an image cannot have; the message has file and line.
    """
    reader = _Reader()
    for path in paths:
        reader.read(Path(path), "requirement")
    lists = reader.lists
    return Requirements(
        requirements=tuple(lists["requirement"]),
        constraints=tuple(lists["constraint"]),
        index_url=lists["index"][-1] if lists["index"] else "",
        extra_index_urls=tuple(dict.fromkeys(lists["extra"])),
        find_links=tuple(dict.fromkeys(lists["links"])),
        pre=reader.pre,
        options=tuple(lists["option"]),
    )


def read_pyproject(path: str | Path, optional_dependencies: Sequence[str] = ()) -> tuple[str, ...]:
    """`project.dependencies` of a pyproject.toml, with the named groups of `project.optional-dependencies`.

    Raises:
        InvalidError: not readable, or a group is not in it.
    """
    try:
        project: Any = tomllib.loads(read_text(Path(path))).get("project")
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"{path}: {error}") from None
    if not isinstance(project, dict) or not isinstance(project.get("dependencies"), list):
        raise InvalidError(f"{path} has no [project] table with dependencies")
    found = [*project["dependencies"]]
    groups = project.get("optional-dependencies", {})
    for name in optional_dependencies:
        if name not in groups:
            raise InvalidError(f"{path} has no optional-dependencies {name!r}", hint=f"there is {', '.join(groups)}")
        found += groups[name]
    if not all(isinstance(line, str) for line in found):
        raise InvalidError(f"{path}: dependencies must be strings")
    return tuple(found)


def read_text(path: Path) -> str:
    """A file of settings.

    Raises:
        InvalidError: it cannot be read, is no text, or is far too long.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidError(f"{path} has over {FILE_BYTES_MAX:,} bytes: is it the right file?")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _logical_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, joined at backslashes and without comments."""
    found: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        start = start if pending else number
        line = re.sub(r"(^|\s+)#.*$", "", line)
        if line.endswith("\\"):
            pending += line[:-1].strip() + " "
            continue
        whole, pending = (pending + line.strip()).strip(), ""
        if whole:
            found.append((start, whole))
    if pending.strip():
        found.append((start, pending.strip()))
    return found
