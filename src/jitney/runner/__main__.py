"""Start a template, a cold container or a wall by path, with an interpreter that does not have Jitney installed.

    python .../jitney/runner/__main__.py template|cold|wall|hub FD

Only this package is made importable from where it lies, not what lies beside it: the image's own packages are the
user's, and those of the worker's environment must not be mistaken for them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_RUNNER = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_RUNNER)


class _Finder:
    """Finds the package `jitney`, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """As of importlib.abc.MetaPathFinder."""
        if name != "jitney":
            return None
        from importlib.util import spec_from_file_location

        init = os.path.join(_PACKAGE, "__init__.py")
        return spec_from_file_location(name, init, submodule_search_locations=[_PACKAGE])


def _main() -> None:
    if sys.path and os.path.abspath(sys.path[0]) == _RUNNER:
        sys.path[0] = ""  # its modules have names like `load`; the current folder goes as with `python -m`
    sys.meta_path.append(_Finder)  # last: an installed Jitney comes first
    kind = sys.argv.pop(1)
    if kind == "wall":
        from jitney.runner.wall.launch import main as launch

        sys.exit(launch(int(sys.argv[1])))
    if kind == "hub":
        from jitney.runner.wall.holder import main as hold

        sys.exit(hold(int(sys.argv[1])))
    if kind == "prepared":
        from jitney.runner.keep.prepared import main as become

        become(sys.argv[1])
    if kind in ("attach", "inside", "view"):
        from jitney.runner.wall import visit

        sys.exit(getattr(visit, kind)(sys.argv[1]))
    if kind == "cold":
        from jitney.runner.cold import main
    else:
        from jitney.runner.template import main
    sys.exit(main())


if __name__ == "__main__":
    _main()
