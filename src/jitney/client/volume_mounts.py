"""`volumes={"/data": volume}`: checked where it is written, looked up when the function is published."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from jitney.core.volumes import check_mounts
from jitney.errors import InvalidError, UnsupportedError

if TYPE_CHECKING:
    from jitney.client.buckets import CloudBucketMount
    from jitney.client.secret import Secret
    from jitney.client.volume import Volume
    from jitney.values.buckets import BucketMount
    from jitney.values.volumes import VolumeMount

Mounts = tuple[tuple[str, "Volume | CloudBucketMount"], ...]


def checked(given: Any) -> Mounts:
    """The volumes of a function by their paths, in order of these.

    Raises:
        InvalidError: a path that cannot be one, is there twice or is inside another; a value that is no volume.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise InvalidError(
            f"volumes maps paths to volumes, and is {given!r}", hint='for example volumes={"/data": volume}'
        )
    found: dict[str, Volume | CloudBucketMount] = {}
    for path, volume in given.items():
        if not hasattr(volume, "mounted_at"):
            hint = 'jitney.Volume.from_name("name", create_if_missing=True) gives one'
            raise InvalidError(f"volumes: at {str(path)!r} there is no volume but {volume!r}", hint=hint)
        plain = _plain(path)
        if plain in found:
            raise InvalidError(f"volumes: two are at {plain!r}")
        found[plain] = volume
    check_mounts([*found])
    return tuple(sorted(found.items()))


def replaced(given: Any) -> Mounts | None:
    """What comes instead of the declared ones; None: they stay. Raises as `checked` does."""
    return None if given is None else checked(given)


def variables(volumes: Mounts) -> dict[str, str]:
    """Variables that containers get for the volumes that they have."""
    found: dict[str, str] = {}
    for path, volume in volumes:
        found |= getattr(volume, "variables_at", lambda at: {})(path)
    return found


def _plain(path: Any) -> str:
    text = str(path) if isinstance(path, str | PurePosixPath) else ""
    if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
        raise InvalidError(f"volumes: {path!r} is no absolute path", hint='for example "/data"')
    plain = "/" + posixpath.normpath(text).strip("/")
    if plain == "/":
        raise InvalidError("volumes: a volume cannot take the place of the whole file system", hint='use "/data"')
    return plain


async def mounts_of(volumes: Mounts) -> tuple[VolumeMount, ...]:
    """As published. Volumes are looked up, and made where that was asked for. On the portal.

    Raises:
        NotFoundError: a volume is not there.
    """
    return tuple([await one.mounted_at(path) for path, one in volumes if not _is_bucket(one)])  # type: ignore[misc]


def buckets_of(volumes: Mounts) -> tuple[BucketMount, ...]:
    """Those of them that are buckets. May read files of secrets: off the loop."""
    return tuple(one.mounted_at(path) for path, one in volumes if _is_bucket(one))  # type: ignore[misc]


def secrets_of(volumes: Mounts) -> tuple[Secret, ...]:
    """The secrets of those that are buckets."""
    return tuple(one.secret for _, one in volumes if _is_bucket(one) and one.secret is not None)  # type: ignore[union-attr]


def of_step(given: Any) -> Mounts:
    """The volumes of a step of an image.

    Raises:
        InvalidError: as `checked`.
        UnsupportedError: one is a bucket.
    """
    volumes = checked(given)
    for path, one in volumes:
        if _is_bucket(one):
            raise UnsupportedError(
                f"volumes: {path!r} has a bucket, which no step of an image can have",
                hint="bring its files by a volume, or read it from a function",
            )
    return volumes


def stand_ins(volumes: Mounts) -> tuple[VolumeMount, ...]:
    """As declared, before anybody has asked which volumes they are: equal for equal declarations."""
    from jitney.client.image_value import stand_in

    return tuple(one.mount(path, stand_in("volume", repr(one))) for path, one in volumes if not _is_bucket(one))  # type: ignore[union-attr]


def _is_bucket(one: Volume | CloudBucketMount) -> bool:
    return hasattr(one, "bucket_name")
