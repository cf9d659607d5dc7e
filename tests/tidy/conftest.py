"""Every source file, read and parsed once, for the tests that judge style."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Source:
    """One Python file: its text, its tree, and where it is from the root of the repository."""

    path: Path
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.name)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What each imported name stands for: `from time import sleep as nap` gives `nap -> time.sleep`."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found

    def imports(self) -> Iterator[tuple[str, int]]:
        """Full names of imported modules and members, with lines."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Dotted names of what is called, as imported: `nap(1)` is `time.sleep`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                dotted = _dotted(node.func)
                if dotted:
                    head, _, rest = dotted.partition(".")
                    head = self.aliases.get(head, head)
                    yield (f"{head}.{rest}" if rest else head), node


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _read(folder: Path) -> list[Source]:
    """The Python files under a folder."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for file in sorted(files):
            if file.endswith(".py"):
                path = Path(where, file)
                found.append(Source(path, path.read_text(encoding="utf-8")))
    return found


@pytest.fixture(scope="session")
def package() -> list[Source]:
    """All of src/jitney."""
    return _read(ROOT / "src" / "jitney")


@pytest.fixture(scope="session")
def tests() -> list[Source]:
    """All of tests/, but for the users' programs that some of them run."""
    return [source for source in _read(ROOT / "tests") if not source.name.startswith("tests/e2e/programs/")]


@pytest.fixture(scope="session")
def rooms(package):
    """`rooms("core", "values")` gives the files of those packages."""

    def pick(*names: str) -> list[Source]:
        wanted = tuple(f"src/jitney/{name}" for name in names)
        return [
            s for s in package if s.name.startswith(tuple(w + "/" for w in wanted) + tuple(w + ".py" for w in wanted))
        ]

    return pick
