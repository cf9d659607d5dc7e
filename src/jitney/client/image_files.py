"""The part of `Image` that brings local files: attached when containers start, or built in."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from jitney.client.ignore import Ignore, ignore_of
from jitney.client.image_value import ImageValue, Prepare, Prepared, absolute, stand_in, tree
from jitney.client.source import IMPORT_ROOT, Attachment, module_attachment, module_files, remote_path
from jitney.client.tree import look_at, walk
from jitney.errors import InvalidError
from jitney.values.images import CopyTree


class LocalFiles(ImageValue):
    """Local files and code."""

    def add_local_file(self, local_path: str | Path, remote_path: str, *, copy: bool = False) -> Self:
        """Have a local file in containers.

        Args:
            local_path: relative to the current folder.
            remote_path: "/root/x" or "x", beside your code; one that ends in "/" gets the file's name.
            copy: build it into the image, so that later steps see it. Otherwise it is attached when containers start,
                and a changed file builds nothing.
        """
        local, remote = absolute(local_path), _checked(remote_path)
        if not copy:
            return self._attach(Attachment("file", local, remote))
        place = _place(remote) + ("/" if remote.endswith("/") else "")
        target, name = posixpath.split(place)

        def prepare(layer: CopyTree) -> Prepared:
            return Prepared(layer, tree([(name or Path(local).name, look_at(Path(local)))]))

        return self._copy(target, stand_in("file", local, name), prepare)

    def add_local_dir(
        self,
        local_path: str | Path,
        remote_path: str,
        *,
        copy: bool = False,
        ignore: Sequence[str] | Ignore | None = None,
    ) -> Self:
        """Have a local folder in containers, with all that is in it.

        Args:
            local_path: relative to the current folder.
            remote_path: "/root/data" or "data"; "/root" lays the files beside your code.
            copy: build it into the image, so that later steps see it. Otherwise it is attached when containers start,
                and a changed file builds nothing.
            ignore: `.dockerignore` patterns, in addition to the usual ones (`.git`, `__pycache__`, `.venv`, ...), or
                a function of a relative path that decides alone.
        """
        local, remote, leave = absolute(local_path), _checked(remote_path), ignore_of(ignore)
        if not copy:
            return self._attach(Attachment("dir", local, remote, leave))

        def prepare(layer: CopyTree) -> Prepared:
            manifest = tree(walk(Path(local), leave))
            if not manifest.files:
                raise InvalidError(f"{local} has no files to copy", hint="is everything in it ignored?")
            return Prepared(layer, manifest)

        return self._copy(_place(remote), stand_in("dir", local, leave), prepare)

    def add_local_python_source(
        self, *modules: str, copy: bool = False, ignore: Sequence[str] | Ignore | None = None
    ) -> Self:
        """Have local packages or modules in containers, importable by the same names.

        Args:
            modules: top-level names, as you import them.
            copy: build them into the image (in /root), so that later steps see them. Otherwise they are attached when
                containers start, and a changed file builds nothing.
            ignore: see `add_local_dir`; the default takes Python files only.

        Raises:
            InvalidError: not a top-level name.
        """
        attachments = [module_attachment(name, ignore) for name in modules]
        if not copy:
            return self._attach(*attachments)

        def prepare(layer: CopyTree) -> Prepared:
            return Prepared(layer, tree(pair for attachment in attachments for pair in module_files(attachment)))

        return self._copy(IMPORT_ROOT, stand_in("module", modules, ignore), prepare)

    def _copy(self, target: str, source_id: str, prepare: Prepare) -> Self:
        layer = CopyTree(source_id=source_id, target=target.rstrip("/") + "/")
        return self._with(layer, is_whole=False, prepare=prepare)


def _checked(remote: str) -> str:
    remote_path(remote)
    return remote


def _place(remote: str) -> str:
    """Where a remote path is in a root file system: relative ones are beside the code."""
    return posixpath.normpath(posixpath.join(IMPORT_ROOT, remote.strip()))
