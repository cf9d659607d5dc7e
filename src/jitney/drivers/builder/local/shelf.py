"""Images that are there: found, listed, named, held."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

from jitney.core import imagechecks
from jitney.drivers.builder.local import disk
from jitney.drivers.builder.local.collecting import Collector
from jitney.drivers.builder.local.leases import Lease
from jitney.drivers.builder.local.making import Shop
from jitney.errors import NotFoundError
from jitney.values import ids
from jitney.values.images import BuiltImage, ImageRecord


class Hold:
    """An image that nobody removes, nor anything that it consists of, until `release` or the end of this process.

    `fd` is the lock itself: a process that is given it keeps the image too.
    """

    def __init__(self, image: BuiltImage, lease: Lease, on_release: Callable[[], None]) -> None:
        self.image = image
        self._lease = lease
        self._on_release = on_release
        self._is_released = False

    @property
    def fd(self) -> int:
        """Descriptor of the lock."""
        return self._lease.fd

    def release(self) -> None:
        """It may be removed. Twice is as good as once."""
        if not self._is_released:
            self._is_released = True
            self._on_release()  # before it is let go: it was used until now
            self._lease.release()


class Shelf:
    """What stands in the folder of images."""

    def __init__(self, shop: Shop, collector: Collector, clock_ms: Callable[[], int]) -> None:
        self._images = shop.images
        self._shop = shop
        self._collector = collector
        self._clock_ms = clock_ms

    def read(self, image_id: str) -> disk.ImageFile | None:
        """What an image consists of, whether that is there or not. '' is no image."""
        return disk.read(self._images / image_id / disk.IMAGE_FILE, disk.ImageFile) if image_id else None

    def find(self, image_id: str) -> BuiltImage | None:
        """An image, if all of it is there."""
        image = self.read(image_id)
        environment = self._shop.environment(image.environment_id) if image else None
        if image is None or environment is None or not all(map(os.path.isdir, image.layers)):
            return None
        root = self._images / image.environment_id / environment.folder
        return BuiltImage(
            image_id=image_id,
            python_path=str(root / "bin" / "python"),
            python_version=environment.python_version,
            cloudpickle_version=environment.cloudpickle_version or importlib.metadata.version("cloudpickle"),
            env=image.env,
            workdir=image.workdir,
            layers=image.layers,
            mounts=(str(root), *environment.mounts),
            entrypoint=image.entrypoint,
            cmd=image.cmd,
            shell=image.shell,
            cached=True,
        )

    def use(self, image_id: str) -> BuiltImage | None:
        """The same, for use: that counts for what is collected."""
        found = self.find(image_id)
        if found:
            self._used(image_id)
        return found

    def _used(self, image_id: str) -> None:
        disk.touch(self._images / image_id / disk.USED_FILE, self._clock_ms())

    def hold(self, image_id: str) -> Hold | None:
        """An image that nobody removes meanwhile."""
        image = self.read(image_id)
        if image is None:
            return None
        lease = Lease(self._images)
        try:
            lease.add(image_id, *self._collector.needs(image))
            found = self.use(image_id)  # looked at once the lease has it
            if found and found.layers == image.layers:
                return Hold(found, lease, lambda: self._used(image_id))
        except BaseException:
            lease.release()
            raise
        lease.release()
        return None

    def resolve(self, name: str) -> str | None:
        """The id that a name stands for."""
        if ids.is_id(name, ids.IMAGE):
            image_id = name
        else:
            image_id = self._collector.names().get(imagechecks.full_name(name), "")
        return image_id if image_id and self.find(image_id) else None

    def tag(self, image_id: str, name: str) -> str:
        """Give a name."""
        full = imagechecks.full_name(name)
        if not ids.is_id(image_id, ids.IMAGE) or self.find(image_id) is None:
            raise NotFoundError(f"no image {image_id[:80]!r}", hint="`jitney image list` shows those that are there")
        with disk.room_errors(), disk.locked(self._images / disk.COLLECT_LOCK):
            names = {**self._collector.names(), full: image_id}
            disk.commit(self._images / disk.NAMES_FILE, disk.NamesFile(names=names))
        return full

    def records(self) -> list[ImageRecord]:
        """All that are there, the one that was used last first."""
        names = self._collector.names()
        records = []
        for image_id, image in self._collector.image_files():
            found = self.find(image_id)
            if found is None:
                continue
            own = [path for path in self._collector.needs(image) if path != "/"]
            records.append(
                ImageRecord(
                    image_id=image_id,
                    names=tuple(sorted(name for name, which in names.items() if which == image_id)),
                    title=image.title,
                    python_version=found.python_version,
                    size_bytes=sum(disk.measure(Path(path))[0] for path in own),
                    built_at_ms=image.built_at_ms,
                    used_at_ms=self._collector.used_at_ms(image_id),
                )
            )
        return sorted(records, key=lambda record: -record.used_at_ms)
