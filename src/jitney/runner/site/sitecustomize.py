"""Lets a Python that is started as a command in a container find the SDK: last of all, as the container's own does.

PYTHONPATH could only put it before what the image has. So this folder is there, which puts the folders that JITNEY_SDK
names at the end of the module search path, takes itself off it, and hands over to the image's own `sitecustomize`.
"""

import os
import sys


def _extend() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    sys.path += [
        folder for folder in os.environ.get("JITNEY_SDK", "").split(os.pathsep) if folder not in ("", *sys.path)
    ]


def _hand_over() -> None:
    ours = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, ours)


if __name__ == "sitecustomize":
    _extend()
    _hand_over()
