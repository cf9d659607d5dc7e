"""A box in memory: it runs nothing, writes down what it is asked, and does what its script says.

A script is called with the run: it looks at `spec`, says lines, writes into the layer by `put` and `delete`, waits for
`gate` or for ever, and gives the exit code. So tests of everything that builds need neither a kernel that has
namespaces nor a root file system.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from jitney.ports.box import Bind, BoxCapabilities, BoxFailed, BoxSpec, BoxVolume
from jitney.values.isolation import Isolation

WALLED = BoxCapabilities(
    isolation=Isolation.NAMESPACES, root_filesystem=True, host_layer_writable=True, many_users=True, network=True
)
WHITEOUT = ".deleted."  # before the name of what a layer of this box takes away: a real one needs mknod


class FakeRun:
    """One command, as its script sees it."""

    def __init__(self, spec: BoxSpec, on_line: Callable[[str], None]) -> None:
        self.spec = spec
        self.say = on_line

    def put(self, path: str, text: str = "", *, mode: int = 0o644) -> None:
        """Write a file of the root file system; without `upper` it is thrown away."""
        bind, volume = self._bind_of(path), self._volume_of(path)
        if (bind and not bind.writable) or (volume and not volume.upper):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        if volume:
            place = Path(volume.upper) / _inside(volume, path)
        elif bind:
            place = Path(bind.source + path[len(bind.target) :])
        elif self.spec.upper:
            place = Path(self.spec.upper) / path.lstrip("/")
        else:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link of the root file system."""
        place = Path(self.spec.upper) / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def delete(self, path: str) -> None:
        """Take a file of a lower layer away."""
        folder, name = os.path.split(path.lstrip("/"))
        self.put(f"/{folder}/{WHITEOUT}{name}")

    def read(self, path: str) -> str | None:
        """A file as the command sees it; None: there is none."""
        bind, volume = self._bind_of(path), self._volume_of(path)
        if bind and not volume:
            return _read(Path(bind.source + path[len(bind.target) :]))
        where = _inside(volume, path) if volume else path.lstrip("/")
        upper, layers = (volume.upper, volume.layers) if volume else (self.spec.upper, self.spec.layers)
        folder, name = os.path.split(where)
        for layer in (upper, *reversed(layers)):
            if layer and (Path(layer) / folder / f"{WHITEOUT}{name}").exists():
                return None
            found = _read(Path(layer) / folder / name) if layer else None
            if found is not None:
                return found
        return None

    def _bind_of(self, path: str) -> Bind | None:
        """The innermost bind that a path is below."""
        found = [bind for bind in self.spec.binds if _is_below(path, bind.target)]
        return max(found, key=lambda bind: len(bind.target), default=None)

    def _volume_of(self, path: str) -> BoxVolume | None:
        return next((volume for volume in self.spec.volumes if _is_below(path, volume.target)), None)


Script = Callable[[FakeRun], int | Awaitable[int]]


class FakeBox:
    """See the module.

    Args:
        script: what a command does; None: nothing, with exit code 0.
        capabilities: what it says of itself; without `root_filesystem` it refuses layers.
        refusal: where given, no wall can be made, for this reason.
    """

    def __init__(
        self, script: Script | None = None, *, capabilities: BoxCapabilities = WALLED, refusal: str = ""
    ) -> None:
        self.script = script
        self.refusal = refusal
        self.runs: list[BoxSpec] = []
        self.ended: list[BoxSpec] = []
        self.running = 0
        self.running_most = 0  # at the same time
        self._capabilities = capabilities

    def capabilities(self) -> BoxCapabilities:
        """See the port."""
        return self._capabilities

    async def run(self, spec: BoxSpec, on_line: Callable[[str], None]) -> int:
        """See the port."""
        if self.refusal:
            raise BoxFailed(self.refusal)
        if not self._capabilities.root_filesystem and (spec.layers or spec.upper or spec.volumes):
            raise BoxFailed("there is no root file system here")
        for volume in spec.volumes:
            _check_part(volume)
        self.runs.append(spec)
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        try:
            async with asyncio.timeout(spec.timeout_ms / 1000):
                given = self.script(FakeRun(spec, on_line)) if self.script else 0
                return await given if inspect.isawaitable(given) else given
        finally:
            self.running -= 1
            self.ended.append(spec)

    def adopt(self, folder: str) -> None:
        """See the port."""
        os.mkdir(folder, 0o755)

    async def discard(self, folder: str) -> None:
        """See the port."""
        shutil.rmtree(folder, ignore_errors=True)

    async def reap(self) -> int:
        """See the port: nothing is left anywhere."""
        return 0


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _inside(volume: BoxVolume, path: str) -> str:
    """A path below a volume's target as one of the volume's folders."""
    return os.path.join(volume.sub_path, path[len(volume.target) :].lstrip("/"))


def _check_part(volume: BoxVolume) -> None:
    there = [Path(layer) / volume.sub_path for layer in (*volume.layers, volume.upper) if layer]
    found = next((place for place in reversed(there) if os.path.lexists(place)), None)
    if found.is_symlink() or not found.is_dir() if found else not volume.upper:
        raise BoxFailed(f"the volume has no folder {volume.sub_path!r}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
