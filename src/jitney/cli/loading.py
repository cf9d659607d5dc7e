"""The user's program: importing it as the container will, and picking what to run in it.

A file is imported under its stem, with its folder first on the path, so that a container that gets the same
folder can import the same name. A file of a package (its folder has `__init__.py`) keeps its dotted name, and
the folder above the package is what goes on the path.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from jitney.cli.terminal import safe_line
from jitney.errors import InvalidError, JitneyError, NotFoundError

OURS = str(Path(__file__).resolve().parents[1])


class UserCodeError(Exception):
    """The user's code raised while it was imported or run; `__cause__` is what it raised."""


def split_reference(reference: str) -> tuple[str, str]:
    """`file.py::name` as (file.py, name); the name may be empty.

    >>> split_reference("train.py::Model.fit"), split_reference("train.py")
    (('train.py', 'Model.fit'), ('train.py', ''))
    """
    place, _, name = reference.partition("::")
    return place, name


def load(place: str, *, as_module: bool = False) -> ModuleType:
    """The imported file or module.

    Raises:
        NotFoundError: there is no such file or module.
        InvalidError: its name cannot be imported.
        UserCodeError: it raised while it was imported.
    """
    if as_module:
        return _load_module(place)
    path = Path(place)
    if not path.is_file():
        raise NotFoundError(_missing(path), hint=_where_then(path, place))
    return _load_file(path.resolve())


def module_name(path: Path) -> tuple[str, Path]:
    """(dotted name, folder for the path) under which a file is imported."""
    parts, folder = [] if path.stem == "__init__" else [path.stem], path.parent
    while (folder / "__init__.py").exists() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _load_file(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise InvalidError(f"{path.name} is not a Python file", hint="its name must end in .py")
    name, folder = module_name(path)
    if not name or any(not part or "." in part for part in [path.stem]):
        raise InvalidError(
            f"{path.name} cannot be imported under its name",
            hint="rename it: letters, digits and underscores",
        )
    _first_on_path(folder)
    taken = sys.modules.get(name)
    if taken is not None and getattr(taken, "__file__", None) != str(path):
        raise InvalidError(
            f"the name of {path.name} is taken by a module that Python has already loaded",
            hint=f"rename the file; `import {name}` has to mean it, here and in the container",
        )
    return _import(name, str(path))


def _load_module(name: str) -> ModuleType:
    _first_on_path(Path.cwd())
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # A parent is missing; an import that fails inside a parent is the user's to see.
        if error.name is None or not name.startswith(error.name):
            raise UserCodeError(name) from error
        found = None
    except ValueError:
        found = None
    except Exception as error:
        raise UserCodeError(name) from error
    if found is None:
        hint = "`-m` takes a module as Python imports it, `package.module`, from this folder"
        if name.endswith(".py") or "/" in name:
            hint = f"for a file leave out -m: `jitney run {name}`"
        raise NotFoundError(f"no module {name!r}", hint=hint)
    return _import(name, found.origin or "")


def _import(name: str, file: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        error.__traceback__ = from_frame_of(error.__traceback__, file)
        raise UserCodeError(name) from error


def _first_on_path(folder: Path) -> None:
    # An installed script has its own folder first; that is not the user's program.
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not a file"
    return f"no file {path}"


def _where_then(path: Path, place: str) -> str:
    if path.is_dir():
        return "name the file in it that has the app"
    if ":" in place:
        return "a function in a file is named with two colons: file.py::function"
    folder = path.parent
    near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.py")], n=1) if folder.is_dir() else []
    if near:
        return f"did you mean {folder / near[0]}?"
    if not path.suffix and "/" not in place and importlib.util.find_spec(place.partition(".")[0]) is not None:
        return f"for a module use -m: `jitney run -m {place}`"
    return f"it is looked for from {Path.cwd()}"


def pick(name: str, choices: Sequence[str], *, of: str, what: str) -> str:
    """`name` if it is one of the choices.

    Raises:
        NotFoundError: it is not; with near names and the list of what there is.
    """
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, n=1)
    there = f"{of} has {', '.join(choices)}" if choices else f"{of} has none"
    raise NotFoundError(f"no {what} {name!r} in {of}", hint=f"did you mean {near[0]!r}? {there}" if near else there)


def from_frame_of(trace: TracebackType | None, file: str) -> TracebackType | None:
    """The traceback from the first frame in `file` on; all but our own and importlib's where there is
    none."""
    walk = trace
    while walk is not None:
        if walk.tb_frame.f_code.co_filename == file:
            return walk
        walk = walk.tb_next
    return without_ours(trace)


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without frames of Jitney and of the import system at either end or between."""
    kept: list[TracebackType] = []
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith((OURS, "<frozen ")) or _is_click(file)):
            kept.append(trace)
        trace = trace.tb_next
    chain: TracebackType | None = None
    for one in reversed(kept):
        chain = TracebackType(chain, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return chain


def _is_click(file: str) -> bool:
    return "/site-packages/click/" in file


def format_user_error(error: BaseException) -> str:
    """The traceback of an exception of user code, without our frames: the container's part first, then ours."""
    _strip(error, set())
    remote = remote_text(error)
    if remote:
        error.__cause__ = None
        error.__suppress_context__ = True
    local = "".join(traceback.format_exception(error))
    if not remote:
        return local
    if error.__traceback__ is None:
        return f"in the container:\n{remote}"
    return f"in the container:\n{remote}\n\nhere:\n{local}"


def remote_text(error: BaseException) -> str:
    """The container's traceback of an exception that came from there, made safe for the terminal; or ''."""
    text = getattr(error.__cause__, "text", "")
    return "\n".join(map(safe_line, text.rstrip().splitlines())) if isinstance(text, str) else ""


def _strip(error: BaseException, seen: set[int]) -> None:
    if id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = without_ours(error.__traceback__)
    for other in (error.__cause__, error.__context__):
        if other is not None:
            _strip(other, seen)


def raised_at(error: JitneyError) -> str:
    """'file.py:12' of the user's line that led to an error of ours; '' when none did."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((OURS, "<")) and not _is_click(file):
            found = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
