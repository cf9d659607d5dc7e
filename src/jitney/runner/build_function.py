"""Runs the function of a `run_function` step: what a build starts with the image's own Python, behind the wall.

    python -c BOOTSTRAP FILE

FILE has (function, args, kwargs) by cloudpickle. What the function returns is dropped; what it raises is printed.
"""

from __future__ import annotations

import pickle
import sys
import traceback


def main(arguments: list[str]) -> int:
    """Call it; the exit code."""
    try:
        with open(arguments[0], "rb") as file:
            function, args, kwargs = pickle.load(file)
    except Exception:
        sys.stdout.flush()
        traceback.print_exc()
        print(
            "the function cannot be unpickled here: what it needs has to be installed before this step", file=sys.stderr
        )
        return 1
    try:
        function(*args, **kwargs)
    except SystemExit:
        raise
    except BaseException as error:
        sys.stdout.flush()
        # From the user's own code on: our frame says nothing.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        return 1
    return 0
