"""Lock files of poetry and uv, read here.

A poetry.lock becomes requirements with one version each, so that nobody needs poetry. Lock files since poetry 2 say of
each package which groups need it, under which conditions. In older ones that follows from who depends on whom: the
conditions on the way to a package are joined by 'and', those of different ways by 'or'.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jitney.client.requirements import read_text
from jitney.errors import InvalidError, UnsupportedError

MAIN = "main"
WAYS_MAX = 64  # to one package that are told apart; beyond that it is installed without a condition

_Condition = frozenset[str]  # all of these markers
_ALWAYS: _Condition = frozenset()


class Locked(NamedTuple):
    """What a lock file holds for the groups that were asked for."""

    requirements: tuple[str, ...]
    indexes: tuple[str, ...] = ()


def read_poetry(
    project: Path, lock: Path, with_: Sequence[str] = (), without: Sequence[str] = (), only: Sequence[str] = ()
) -> Locked:
    """The packages of a poetry.lock, of the project's groups.

    Raises:
        InvalidError: a file cannot be read, a group is not in it, or a package is a local folder.
    """
    settings, locked = _toml(project), _toml(lock)
    groups = _groups(settings)
    packages = locked.get("package", [])
    if not isinstance(packages, list) or "metadata" not in locked:
        raise InvalidError(f"{lock} is not a lock file of poetry", hint="`poetry lock` makes it")
    wanted = _wanted(groups, with_, without, only, project)
    if any("groups" in package for package in packages):
        chosen = _chosen_by_group(packages, wanted)
    else:
        chosen = _chosen_by_dependency(packages, [groups[name].dependencies for name in wanted], lock)
    requirements = [_requirement(package, condition, lock) for package, condition in chosen]
    indexes = [one["source"]["url"] for one, _ in chosen if one.get("source", {}).get("type") == "legacy"]
    return Locked(tuple(sorted(requirements)), tuple(dict.fromkeys(indexes)))


def read_uv_project(folder: Path, *, needs_lock: bool) -> tuple[str, ...]:
    """Names of the files in the folder of a uv project that `uv sync` needs.

    Raises:
        InvalidError: a file is missing or cannot be read.
        UnsupportedError: it is a workspace.
    """
    settings = _toml(folder / "pyproject.toml")
    if "workspace" in settings.get("tool", {}).get("uv", {}):
        raise UnsupportedError(
            f"{folder} is a workspace of uv, whose members are not shipped",
            hint="`uv export --package NAME > requirements.txt`, and pip_install_from_requirements",
        )
    if (folder / "uv.lock").is_file():
        return ("pyproject.toml", "uv.lock")
    if needs_lock:
        raise InvalidError(f"{folder} has no uv.lock", hint="`uv lock` makes it, or give frozen=False")
    return ("pyproject.toml",)


# ------------------------------------------------------------------------------------------------- groups


class _Group(NamedTuple):
    dependencies: dict[str, Any]
    is_optional: bool


def _groups(settings: Mapping[str, Any]) -> dict[str, _Group]:
    poetry = settings.get("tool", {}).get("poetry", {})
    main = {**poetry.get("dependencies", {}), **_named(settings.get("project", {}).get("dependencies", []))}
    groups = {MAIN: _Group(main, False)}
    if "dev-dependencies" in poetry:
        groups["dev"] = _Group(poetry["dev-dependencies"], False)
    for name, group in poetry.get("group", {}).items():
        groups[name] = _Group(group.get("dependencies", {}), bool(group.get("optional", False)))
    for name, listed in settings.get("dependency-groups", {}).items():
        groups.setdefault(name, _Group(_named(item for item in listed if isinstance(item, str)), False))
    return groups


def _named(requirements: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for requirement in requirements:
        text, _, marker = requirement.partition(";")
        parts = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", text)
        if parts:
            extras = [extra.strip() for extra in (parts[2] or "").split(",") if extra.strip()]
            found[parts[1]] = {"markers": marker.strip(), "extras": extras}
    return found


def _wanted(
    groups: Mapping[str, _Group], with_: Sequence[str], without: Sequence[str], only: Sequence[str], project: Path
) -> list[str]:
    for name in (*with_, *without, *only):
        if name not in groups:
            raise InvalidError(f"{project} has no group {name!r}", hint=f"there is {', '.join(groups)}")
    chosen = [*only] if only else [name for name, group in groups.items() if not group.is_optional or name in with_]
    return [name for name in dict.fromkeys(chosen) if name not in without]


# ------------------------------------------------------------------------------------------------- packages


def _chosen_by_group(packages: Sequence[Any], wanted: Sequence[str]) -> list[tuple[Any, str]]:
    """Packages with their conditions, as a lock file of poetry 2 says them."""
    found = []
    for package in packages:
        groups = [name for name in package.get("groups", ()) if name in wanted]
        if not groups or package.get("optional"):
            continue
        markers = package.get("markers", "")
        if isinstance(markers, dict):
            of_groups = [markers.get(name, "") for name in groups]
            markers = "" if "" in of_groups else " or ".join(f"({one})" for one in dict.fromkeys(of_groups))
        found.append((package, markers))
    return found


def _chosen_by_dependency(
    packages: Sequence[Any], roots: Sequence[Mapping[str, Any]], lock: Path
) -> list[tuple[Any, str]]:
    """Packages with their conditions, by who depends on whom."""
    by_name: dict[str, Any] = {}
    for package in packages:
        name = _normal(package["name"])
        if name in by_name:
            raise InvalidError(
                f"{lock} has two versions of {name}, and is too old to say which is meant when",
                hint="`poetry lock` of poetry 2 or later writes one that does",
            )
        by_name[name] = package
    ways: dict[str, set[_Condition]] = {}
    todo = [edge for dependencies in roots for edge in _edges(dependencies, _ALWAYS)]
    while todo:
        name, extras, condition = todo.pop()
        package = by_name.get(name)
        known = ways.setdefault(name + "".join(f"[{extra}]" for extra in extras), set())
        if package is None or any(way <= condition for way in known):
            continue
        known.add(_ALWAYS if len(known) >= WAYS_MAX else condition)
        named = {_normal(re.split(r"[ (\[<>=!~;]", one)[0]) for extra in extras for one in _of_extra(package, extra)}
        todo += _edges(package.get("dependencies", {}), condition, named)
    conditions: dict[str, set[_Condition]] = {}
    for key, known in ways.items():
        conditions.setdefault(key.partition("[")[0], set()).update(known)
    return [(by_name[name], _joined(known)) for name, known in sorted(conditions.items()) if name in by_name and known]


def _of_extra(package: Mapping[str, Any], extra: str) -> list[str]:
    extras = package.get("extras", {})
    return next((names for name, names in extras.items() if _normal(name) == _normal(extra)), [])


def _edges(
    dependencies: Mapping[str, Any], before: _Condition, named: Iterable[str] = ()
) -> Iterator[tuple[str, tuple[str, ...], _Condition]]:
    """(name, extras, condition) of dependencies; optional ones where an extra names them."""
    for raw, given in dependencies.items():
        name = _normal(raw)
        for one in given if isinstance(given, list) else [given]:
            how = one if isinstance(one, dict) else {}
            is_extra = "extra ==" in how.get("markers", "")
            if name == "python" or ((how.get("optional") or is_extra) and name not in named):
                continue
            marker = "" if is_extra else how.get("markers", "")
            yield name, tuple(sorted(how.get("extras", ()))), before | {marker} if marker else before


def _joined(ways: set[_Condition]) -> str:
    if _ALWAYS in ways:
        return ""
    each = [" and ".join(f"({marker})" for marker in sorted(way)) for way in ways]
    return " or ".join(sorted(each))


def _requirement(package: Mapping[str, Any], condition: str, lock: Path) -> str:
    name, version, source = package["name"], package["version"], package.get("source", {})
    match source.get("type", ""):
        case "" | "legacy":
            text = f"{name}=={version}"
        case "git":
            revision = source.get("resolved_reference") or source.get("reference", "")
            below = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
            text = f"{name} @ git+{source['url']}@{revision}{below}"
        case "url":
            text = f"{name} @ {source['url']}"
        case kind:
            raise InvalidError(
                f"{lock}: {name} is a local {kind}, which the image cannot have",
                hint="leave its group out (without=[...]), and ship it by add_local_python_source",
            )
    return f"{text} ; {condition}" if condition else text


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"{path}: {error}") from None
