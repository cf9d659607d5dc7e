"""What a handle on a volume stands for: which version, and how it is mounted. It asks the server nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from jitney.client import session as sessions
from jitney.client.objects import NamedObject
from jitney.core import volumes
from jitney.errors import InvalidError
from jitney.values.volumes import VolumeMount
from jitney.wire import methods
from jitney.wire.messages import objects as om

if TYPE_CHECKING:
    from jitney.client.volume_upload import Place


class VolumeHandle(NamedObject):
    """The part of `Volume` that asks nothing."""

    def __init__(self, name: str = "", object_id: str = "", *, create_if_missing: bool = False) -> None:
        """Of the SDK: use `from_name`, `from_id` or `ephemeral`."""
        super().__init__(name, object_id, create_if_missing=create_if_missing)
        self._version: int | None = None
        self._is_read_only = False
        self._sub_path = ""
        self._is_model_cache = False
        self._prefetch: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return super().__repr__() + (f".at({self._version})" if self._version is not None else "")

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (_, *given) = super().__reduce__()
        state = {"_is_model_cache": self._is_model_cache, "_prefetch": self._prefetch}
        return _rebuild, (rebuild, type(self), *given, self._version, self._is_read_only, self._sub_path), state

    # ------------------------------------------------------------------------------------------- handles

    def _but(self, version: int | None, is_read_only: bool, sub_path: str) -> Self:
        other = type(self)()
        vars(other).update(vars(self), _version=version, _is_read_only=is_read_only, _sub_path=sub_path)
        return other

    def at(self, version: int) -> Self:
        """The volume as it was in a version: read-only."""
        if version < 0:
            raise InvalidError(f"a version is a number from 0, not {version!r}")
        return self._but(version, True, self._sub_path)

    def read_only(self) -> Self:
        """The volume, to be mounted so that containers can only read it."""
        return self._but(self._version, True, self._sub_path)

    def as_model_cache(self, *, prefetch: Sequence[str] = ()) -> Self:
        """The volume, to be mounted as the place where Hugging Face's libraries and torch.hub keep what they download:
        `volumes={"/cache": volume.as_model_cache()}` sets their variables too, and needs no other code.

        Args:
            prefetch: as in `with_mount_options`.
        """
        other = self.with_mount_options(prefetch=prefetch or self._prefetch)
        other._is_model_cache = True
        return other

    def with_mount_options(
        self, *, read_only: bool | None = None, sub_path: str | None = None, prefetch: Sequence[str] | None = None
    ) -> Self:
        """The volume, to be mounted in another way.

        Args:
            read_only: containers can only read it.
            sub_path: only this folder of it is mounted.
            prefetch: files whose name or path matches, such as "*.safetensors", are brought into the memory of the
                machine as a container starts, as far as there is room.

        Raises:
            InvalidError: the path cannot be, or a version would be mounted to be written to.
        """
        if read_only is False and self._version is not None:
            raise InvalidError("a version of a volume can only be mounted read-only")
        patterns: Sequence[Any] = prefetch or ()
        if isinstance(prefetch, str) or not all(isinstance(one, str) and one for one in patterns):
            raise InvalidError(
                f"prefetch is a list of patterns, not {prefetch!r}", hint='for example ["*.safetensors"]'
            )
        other = self._but(
            self._version,
            self._is_read_only if read_only is None else read_only,
            self._sub_path if sub_path is None else volumes.plain_path(sub_path),
        )
        other._prefetch = self._prefetch if prefetch is None else tuple(prefetch)
        return other

    def variables_at(self, path: str) -> dict[str, str]:
        """Variables of containers that have it at a path. Of the SDK."""
        from jitney.client import model_cache

        return model_cache.variables(path) if self._is_model_cache else {}

    async def _place(self) -> Place:
        """Where it is. On the portal.

        Raises:
            NotFoundError: there is no such volume.
        """
        from jitney.client.volume_upload import Place

        session = sessions.current()
        request = om.ObjectOpen(kind=self.KIND, object_id=self._object_id)
        if self._name:
            request = om.ObjectOpen(kind=self.KIND, name=self._name, create_if_missing=self._create)
        record = await session.request(methods.OBJECT_OPEN, request)
        return Place(session, record.object_id, None)

    async def mounted_at(self, path: str) -> VolumeMount:
        """As a function has it at a path of its containers. On the portal; of the SDK."""
        return self.mount(path, (await self._place()).volume_id)

    def mount(self, path: str, volume_id: str) -> VolumeMount:
        """The same where it is known which one it is. Of the SDK."""
        return VolumeMount(
            path=path,
            volume_id=volume_id,
            read_only=self._is_read_only,
            sub_path=self._sub_path,
            version=self._version,
            prefetch=self._prefetch,
        )

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise InvalidError(f"{self!r} is read-only", hint="use the volume itself, without at() or read_only()")


def _rebuild(
    rebuild: Callable[..., VolumeHandle],
    kind: type[VolumeHandle],
    name: str,
    object_id: str,
    create_if_missing: bool,
    version: int | None,
    is_read_only: bool,
    sub_path: str,
) -> VolumeHandle:
    return rebuild(kind, name, object_id, create_if_missing)._but(version, is_read_only, sub_path)
