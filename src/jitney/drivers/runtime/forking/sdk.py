"""What containers import that is not of their image: this very `jitney`, and the few packages that it needs.

An image's environment is a bare one. So the SDK comes from a folder of links to the packages of this installation,
put at the END of the container's module search path: whatever the image has of its own is found first. Links to these
packages only, and not their parent folder, as a user's code must not import what happens to be installed here.

Packages with compiled parts fit the minor version of Python that they were built for. For another one the image itself
has them (its plan adds them), and only `jitney` is linked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import posixpath
import shutil
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

import jitney
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

PACKAGES = ("cloudpickle", "msgspec")


def sdk_paths(home: Home, image: BuiltImage) -> tuple[str, ...]:
    """Folders for the end of `sys.path` in containers of this image; they are made at their first use."""
    targets = link_targets(image.python_version)
    digest = hashlib.sha256("\0".join(f"{name}={path}" for name, path in targets.items()).encode())
    folder = home.images / f"sdk-{series(image.python_version)}-{digest.hexdigest()[:8]}"
    if not all((folder / name).exists() for name in targets):
        _make(folder, targets)
    return (str(folder),)


def command_env(env: Mapping[str, str], sdk: Sequence[str]) -> dict[str, str]:
    """The variables of a command in a container, with what makes its Pythons find the SDK (see runner.site)."""
    site = [posixpath.join(folder, "jitney", "runner", "site") for folder in sdk]
    paths = [*filter(None, env.get("PYTHONPATH", "").split(":")), *site]
    return {**env, "PYTHONPATH": ":".join(paths), "JITNEY_SDK": ":".join(sdk)}


def link_targets(python_version: str) -> dict[str, str]:
    """Package name -> where it is, for those that a Python of this version can use."""
    targets = {"jitney": os.path.dirname(os.path.abspath(jitney.__file__))}
    if series(python_version) == series(platform.python_version()):
        for name in PACKAGES:
            found = PathFinder.find_spec(name)
            if found is not None and found.submodule_search_locations:
                targets[name] = os.path.abspath(next(iter(found.submodule_search_locations)))
    return targets


def series(python_version: str) -> str:
    """'3.11' of '3.11.7'."""
    return ".".join(python_version.split(".")[:2])


def _make(folder: Path, targets: dict[str, str]) -> None:
    """The folder appears whole, whoever else makes it at the same time."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, target in targets.items():
        (partial / name).symlink_to(target, target_is_directory=True)
    shutil.rmtree(folder, ignore_errors=True)  # links to an installation that has moved
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
