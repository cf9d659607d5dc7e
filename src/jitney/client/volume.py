"""`Volume`: a folder that outlives containers, in versions.

A handle asks the server nothing until it is used. It stands for the newest version, unless `at` gave it another.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from typing import IO, TYPE_CHECKING, Any, ClassVar

from jitney.client import volume_files
from jitney.client.dual import dual, dual_iter
from jitney.client.objects import Named
from jitney.client.talk import Ask, Talk, talk, talk_static
from jitney.client.volume_handle import VolumeHandle
from jitney.core import volumes
from jitney.errors import InvalidError, NotFoundError
from jitney.runner import state
from jitney.values.objects import ObjectKind
from jitney.values.volumes import Committed, Entry, Retention, Version, VolumeInfo
from jitney.wire import methods
from jitney.wire.messages import volumes as vm
from jitney.wire.methods import Method

if TYPE_CHECKING:
    from jitney.client.volume_upload import BatchUpload, Place


def _rename(old_name: str, new_name: str) -> Talk[None]:
    """`Volume.rename("old", "new")`: give a volume another name, as `Volume.objects.rename`. Containers that have it
    mounted, and functions that mount it, go by its id: they notice nothing. Files are moved by `move_file`.

    Raises:
        NotFoundError: there is none of that name.
        AlreadyExistsError: there is one of the new name.
        InvalidError: nothing can have that name.
    """
    if "/" in old_name + new_name:
        raise InvalidError(
            f"Volume.rename gives a volume another name, and {old_name!r} or {new_name!r} is a path",
            hint="volume.move_file(path, new_path) moves a file or a folder",
        )
    yield from Volume.objects.rename.body(old_name, new_name)


class Volume(VolumeHandle):
    """A folder that outlives containers: `volumes={"/data": volume}` mounts it, everything here reaches it from
    anywhere.

    Every commit is a version. A container sees one whole version, and what it writes itself.

        volume = jitney.Volume.from_name("weights", create_if_missing=True)

        with volume.batch_upload() as batch:
            batch.put_directory("model", "/model")
    """

    KIND = ObjectKind.VOLUME
    objects: ClassVar[Named[Volume]]

    def _ask_volume(self, method: Method[Any, Any], **fields: Any) -> Generator[Ask, Any, Any]:
        """The answer of a method; where the volume was deleted and has been made again, of the new one."""
        volume_id = yield from self._id()
        try:
            return (yield Ask(method, method.request(volume_id=volume_id, **fields)))
        except NotFoundError:
            if not self._name or (yield from self._open()) == volume_id:
                raise
        return (yield Ask(method, method.request(volume_id=self._object_id, **fields)))

    async def _transfer_place(self) -> Place:
        """As `_place`, with the server's folder where this process can reach it."""
        import asyncio

        place = await self._place()
        if state.config is not None:
            return place
        detail = await place.ask(methods.VOLUME_INFO, vm.VolumeRef(volume_id=place.volume_id))
        return place._replace(incoming=await asyncio.to_thread(volume_files.incoming_of, detail.folder))

    # ------------------------------------------------------------------------------------------- looking

    @talk
    def info(self) -> Talk[VolumeInfo]:  # type: ignore[override]
        """Its name, newest version, and how much is in it.

        Raises:
            NotFoundError: there is no such volume.
        """
        info: VolumeInfo = (yield from self._ask_volume(methods.VOLUME_INFO)).info
        return info

    @dual_iter
    async def iterdir(self, path: str = "/", *, recursive: bool = True) -> AsyncGenerator[Entry, None]:
        """What is in a folder: entries with `path`, `kind`, `size`, `mode`, `mtime_ns`. Folders come before what is in
        them. Of a file, that one.

        Args:
            path: the folder.
            recursive: also what is in the folders in it.

        Raises:
            NotFoundError: there is nothing at that path.
        """
        from jitney.client.volume_download import entries

        place = await self._place()
        found = entries(place, volumes.plain_path(path), self._version, recursive=recursive)
        async with aclosing(found):
            async for entry in found:
                yield entry

    @dual
    async def listdir(self, path: str = "/", *, recursive: bool = False) -> list[Entry]:
        """As `iterdir`, in a list, and without what is in the folders unless `recursive`."""
        from jitney.client.volume_download import entries

        place = await self._place()
        found = entries(place, volumes.plain_path(path), self._version, recursive=recursive)
        return [entry async for entry in found]

    @dual_iter
    async def read_file(self, path: str) -> AsyncGenerator[bytes, None]:
        """What a file holds, in pieces of at most 8 MiB, each checked by its digest.

        Raises:
            NotFoundError: there is nothing at that path.
            InvalidError: it is no file.
        """
        from jitney.client.volume_download import blocks, stat_file

        place = await self._place()
        found = await stat_file(place, volumes.plain_path(path), self._version)
        async with aclosing(blocks(place, found)) as source:
            async for data in source:
                yield bytes(data)

    @dual
    async def read_file_into_fileobj(
        self, path: str, fileobj: IO[bytes], progress_cb: Callable[..., Any] | None = None
    ) -> int:
        """Write what a file holds to a file object: how many bytes.

        Args:
            path: the file.
            fileobj: open for bytes.
            progress_cb: is called with `advance=` so many bytes as they are written.

        Raises:
            NotFoundError, InvalidError: as `read_file`.
        """
        from jitney.client.volume_download import stat_file, write_to

        place = await self._place()
        found = await stat_file(place, volumes.plain_path(path), self._version)
        told = (lambda count: progress_cb(advance=count)) if progress_cb else None
        return await write_to(place, found, fileobj, told)

    @talk
    def history(self, *, limit: int = 100) -> Talk[list[Version]]:
        """Those of its versions that are kept, newest first: `version`, `parent`, `at_ms`, `message`, `files`,
        `size`."""
        answer = yield from self._ask_volume(methods.VOLUME_HISTORY, limit=limit)
        return list(answer.versions)

    @talk
    def keep(self, *, versions: int | None = None, days: int | None = None) -> Talk[Retention]:
        """Set which versions stay: the newest ones, and all that were the newest within so many days.

        Others are dropped in time, but for those that a container has mounted, a function names, or somebody has read
        within the hour. None leaves one of the two as it is; both: as the server has it for all volumes.

        Raises:
            InvalidError: out of range.
        """
        self._check_writable()
        kept: Retention = yield from self._ask_volume(methods.VOLUME_KEEP, versions=versions, days=days)
        return kept

    @talk
    def kept(self) -> Talk[Retention]:
        """Which of its versions stay: `versions`, so many of the newest; `days`, all of so many last ones."""
        found: Retention = yield from self._ask_volume(methods.VOLUME_KEEP, is_question=True)
        return found

    # ------------------------------------------------------------------------------------------- changing

    def batch_upload(self, *, force: bool = False) -> BatchUpload:
        """Put files: a `with` (or `async with`) block with `put_file` and `put_directory`; one commit at its end.

        Args:
            force: replace files that are there; else that is an error, and nothing is put.
        """
        from jitney.client.volume_upload import BatchUpload

        self._check_writable()
        return BatchUpload(self._transfer_place, force=force)

    @talk
    def copy_files(self, src_paths: Sequence[str], dst_path: str, *, recursive: bool = False) -> Talk[Committed]:
        """Copy inside the volume, without sending anything: into `dst_path` if it is a folder, else to it.

        Raises:
            NotFoundError: there is no such file.
            InvalidError: it is a folder and not `recursive`, or several things are to become one file.
        """
        self._check_writable()
        sources, target = tuple(map(volumes.plain_path, src_paths)), volumes.plain_path(dst_path)
        done: Committed = yield from self._ask_volume(
            methods.VOLUME_COPY, sources=sources, target=target, recursive=recursive
        )
        return done

    @talk
    def move_file(self, path: str, new_path: str, *, into: bool = False) -> Talk[Committed]:
        """Move a file or a folder of the volume to another path; a file that is there is replaced.

        Args:
            path: what is moved.
            new_path: where it is then.
            into: if that is a folder, into it.

        Raises:
            NotFoundError: there is nothing at `path`.
            InvalidError: a folder is at `new_path`, and not `into`.
        """
        self._check_writable()
        source, target = volumes.plain_path(path), volumes.plain_path(new_path)
        done: Committed = yield from self._ask_volume(methods.VOLUME_MOVE, path=source, target=target, into=into)
        return done

    @talk
    def remove_file(self, path: str, recursive: bool = False) -> Talk[Committed]:
        """Remove a file, or (`recursive`) a folder with all that is in it. Earlier versions still have it.

        Raises:
            NotFoundError: there is nothing at that path.
            InvalidError: it is a folder and not `recursive`.
        """
        self._check_writable()
        plain = volumes.plain_path(path)
        done: Committed = yield from self._ask_volume(methods.VOLUME_REMOVE, path=plain, recursive=recursive)
        return done

    @talk
    def restore(self, version: int) -> Talk[Committed]:
        """Make a version that has the content of an earlier one. Nothing is lost: the history goes on.

        Raises:
            NotFoundError: there is no such version.
        """
        self._check_writable()
        key = volume_files.new_name()
        done: Committed = yield from self._ask_volume(methods.VOLUME_RESTORE, version=version, key=key)
        return done

    rename = talk_static(_rename)

    # ------------------------------------------------------------------------------------------- in containers

    @talk
    def commit(self) -> Talk[Committed]:
        """In a container: make what it has written to the volume a version, which others see at their next `reload`.

        Returns when it is safe on the disk. It also happens by itself now and then, and when the container ends.

        Raises:
            InvalidError: this is no container.
        """
        self._check_writable()
        _need_container("commit")
        path = yield from self._id()
        done: Committed = yield Ask(methods.VOLUME_MOUNT_COMMIT, vm.VolumeMounted(path=path))
        return done

    @talk
    def reload(self) -> Talk[int]:
        """In a container: see the newest version; gives its number.

        Raises:
            InvalidError: this is no container, or files of the volume are open.
        """
        _need_container("reload")
        path = yield from self._id()
        reloaded = yield Ask(methods.VOLUME_MOUNT_RELOAD, vm.VolumeMounted(path=path))
        return int(reloaded.version)


Volume.objects = Named(Volume)


def _need_container(what: str) -> None:
    if state.config is None:
        raise InvalidError(
            f"volume.{what}() is for containers, that have the volume mounted",
            hint="elsewhere every upload is committed at once, and every look is at the newest version",
        )
