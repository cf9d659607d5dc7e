"""Which files of this machine images may be loaded from.

A path comes from whoever declares an image, and is read with the rights of the worker: without a rule, its name alone
would open an archive that somebody else put aside here. Where folders are named, what is in none of them is refused
before it is looked at, so that the answer does not tell whether it is there.
"""

from __future__ import annotations

import os
from pathlib import Path

from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.errors import InvalidError, PermissionDeniedError


def allowed(path: str, settings: PullSettings, *, uid: int) -> str:
    """The path to read, without links.

    Raises:
        InvalidError: it is relative.
        PermissionDeniedError: images may not be loaded from there.
    """
    if not os.path.isabs(path) or "\0" in path:
        raise InvalidError(f"{path!r} is not an absolute path", hint="it is a path of the worker's machine")
    real = os.path.realpath(path)
    folders = settings.archives
    if folders is None or any(_is_below(real, each) for each in folders):
        return real
    if settings.archives_of_user:
        if not any(_is_below(real, each) for each in settings.kept_out) and _owner(real) in (uid, None):
            return real
        whose = "it belongs to another user than the worker's, or is in the server's own folder"
        raise PermissionDeniedError(
            f"images may not be loaded from {path}: {whose}",
            hint="copy it, or have `archives` of the worker name its folder",
        )
    raise PermissionDeniedError(
        f"{path} is in no folder that images may be loaded from",
        hint=f"put it below {', '.join(folders)}" if folders else "have `archives` of the worker name a folder",
    )


def _is_below(real: str, folder: str) -> bool:
    return Path(real).is_relative_to(os.path.realpath(folder))


def _owner(real: str) -> int | None:
    """Whose it is; None: it is not there, or cannot be seen, and whoever opens it is told so."""
    try:
        return os.lstat(real).st_uid
    except OSError:
        return None
