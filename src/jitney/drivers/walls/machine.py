"""What this machine gives for walls: ids, folders of its own file system, and whether walls can be made at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from jitney.drivers.runtime.forking.scratch import remove_tree
from jitney.drivers.runtime.forking.sdk import link_targets
from jitney.drivers.walls.render import SYS, HostFolder, Outside
from jitney.values.containers import TemplateSpec
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

FIRST_ID = 0x7000_0000  # above what systemd gives to its containers, below what some programs take for negative
ID_COUNT = 65_536
HOST_FOLDERS = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Ids(msgspec.Struct, frozen=True, kw_only=True):
    """Which ids of the machine a wall has, and who may write that down."""

    first: int
    count: int
    writer: str  # "root", or "self" for the one id of a user without privileges
    own: int = 0

    def lines(self) -> list[list[int]]:
        """Lines of a uid_map: inside, outside, how many."""
        if self.writer == "root":
            return [[0, self.first, self.count]]
        return [[0, self.own, 1]]

    def give(self, path: str) -> None:
        """Make the wall's root the owner."""
        if self.writer == "root":
            os.chown(path, self.first, self.first)


def ids_of_machine(environ: Mapping[str, str]) -> Ids:
    """The ids for walls of this process: a range for root, otherwise its own."""
    uid = os.getuid()
    if uid == 0:
        return Ids(first=FIRST_ID, count=ID_COUNT, writer="root")
    return Ids(first=0, count=0, writer="self", own=uid)


def host_folders() -> tuple[HostFolder, ...]:
    """What the machine's own file system has at its root, for images that are made of it."""
    found = []
    for name in HOST_FOLDERS:
        path = f"/{name}"
        if os.path.islink(path):
            found.append(HostFolder(name=name, link=os.readlink(path)))
        elif os.path.isdir(path):
            found.append(HostFolder(name=name))
    return tuple(found)


class Machine:
    """See the module."""

    hostname = "jitney"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.ids = ids_of_machine(os.environ if environ is None else environ)
        self.host = host_folders()
        self.sys = tuple(path for path in SYS if os.path.isdir(path))

    def launcher(self) -> list[str]:
        """The command that makes a wall, but for its last argument."""
        import jitney.runner

        main = os.path.join(os.path.dirname(os.path.abspath(jitney.runner.__file__)), "__main__.py")
        return [sys.executable, "-I", "-S", "-E", main, "wall"]

    def outside(self, home: Home, spec: TemplateSpec, image: BuiltImage, folder: Path) -> Outside:
        """What goes behind a wall of this spec."""
        return Outside(
            stage=str(folder / "stage"),
            scratch=str(folder / "scratch"),
            sockets=str(home.sockets),
            segments=str(home.segments / scope_of(spec)),
            blobs=str(home.blobs),
            source=str(home.sources / spec.source_id) if spec.source_id else "",
            sdk=link_targets(image.python_version),
            host=self.host,
            mask=str(home.boxes / "host-layer"),
            sys=self.sys,
            volumes={one.volume_id: str(home.trees / one.volume_id) for one in spec.volumes},
            uppers=str(home.uppers),
        )

    def bare(self, *, stage: str, scratch: str) -> Outside:
        """What goes behind a wall for one command."""
        return Outside(
            stage=stage,
            scratch=scratch,
            sockets="",
            segments="",
            blobs="",
            host=self.host,
            maps_host=self.ids.writer == "root",
            sys=self.sys,
        )

    def complete(self, image: BuiltImage) -> BuiltImage:
        """The image with all that has to be seen of it."""
        return msgspec.structs.replace(image, mounts=mounts_of(image))

    def remove_tree(self, folder: Path) -> None:
        """Remove what a wall left; blocks."""
        remove_tree(str(folder))


def scope_of(spec: TemplateSpec) -> str:
    """As values.functions.FunctionSpec has it: what the large values of this code are filed under."""
    return spec.source_id or spec.image_id


def mounts_of(image: BuiltImage) -> tuple[str, ...]:
    """The folders that an environment needs where the builder has not said: itself, and its interpreter's."""
    if image.mounts or image.layers or not image.python_path:
        return image.mounts
    environment = Path(image.python_path).parent.parent
    mounts = [str(environment)]
    base = Path(os.path.realpath(image.python_path)).parent.parent
    if not base.is_relative_to("/usr"):
        mounts.append(str(base))
    return tuple(mounts)
