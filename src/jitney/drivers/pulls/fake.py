"""A puller in memory, for tests of everything that waits for images: it has what it was given, as empty folders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from jitney.errors import InvalidError, JitneyError, NotFoundError
from jitney.ports.pulls import OnLine, PulledImage
from jitney.values import references


class FakePuller:
    """Gives images that a test has put there.

    Args:
        folder: where layers are, as folders with the file `layer` in them.
        images: by reference ("python:3.12") or path: the image, whose `layers` are names.
        private: references that want (name, password).
        error: what each pull raises, or None.
        gate: where given, each pull waits for it after its first line.
    """

    def __init__(
        self,
        folder: Path,
        images: Mapping[str, PulledImage],
        *,
        private: Mapping[str, tuple[str, str]] | None = None,
        error: JitneyError | None = None,
        gate: asyncio.Event | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._images = {_name(name): image for name, image in images.items()}
        self._private = {_name(name): login for name, login in (private or {}).items()}
        self.error = error
        self.gate = gate
        self.waiting = asyncio.Event()  # a pull has come to the gate
        self.pulls: list[str] = []  # references that were asked of "the registry"
        self.made: list[str] = []  # layers
        self._here: dict[tuple[str, str], PulledImage] = {}
        self._running: set[asyncio.Task[object]] = set()

    async def pull(
        self,
        reference: str,
        *,
        username: str = "",
        password: str = "",
        platform: str = "",
        scope: str = "",
        on_line: OnLine,
    ) -> PulledImage:
        """See the port."""
        parsed = references.parse(reference)
        if parsed.digest and (found := self.find(parsed.digest, scope=scope)):
            return found
        wanted = self._private.get(_name(reference))
        if wanted and wanted != (username, password):
            raise NotFoundError(f"no {reference}, or no access to it", hint="check the name and the credentials")
        return await self._give(_name(reference), platform, scope if wanted else "", on_line)

    async def load(
        self,
        path: str,
        *,
        reference: str = "",
        platform: str = "",
        scope: str = "",
        is_own: bool = False,
        on_line: OnLine,
    ) -> PulledImage:
        """See the port."""
        return await self._give(path, platform, scope, on_line)

    def find(self, digest: str, *, scope: str = "") -> PulledImage | None:
        """See the port."""
        for each in (scope, ""):
            found = self._here.get((each, digest))
            if found and all(Path(layer).is_dir() for layer in found.layers):
                return found
        return None

    async def remove_unused(self, keep: Collection[str]) -> int:
        """See the port."""
        freed = 0
        for folder in [path for path in self._folder.glob("*") if str(path) not in keep]:
            freed += (folder / "layer").stat().st_size
            (folder / "layer").unlink()
            folder.rmdir()
        return freed

    async def reap(self) -> int:
        """See the port: nothing is ever half-made here."""
        return 0

    async def close(self) -> None:
        """See the port."""
        for task in [*self._running]:
            task.cancel()

    async def _give(self, name: str, platform: str, scope: str, on_line: OnLine) -> PulledImage:
        self.pulls.append(name)
        tell = _careful(on_line)
        tell(f"pulling {name}")
        task = asyncio.current_task()
        assert task
        self._running.add(task)
        try:
            if self.gate:
                self.waiting.set()
                await self.gate.wait()
        finally:
            self._running.discard(task)
        if self.error:
            raise self.error
        image = self._images.get(name)
        if image is None:
            raise NotFoundError(f"there is no image {name}", hint="check the name")
        if platform and platform != image.platform:
            raise NotFoundError(f"{name} is not there for {platform}, only for {image.platform}")
        image = msgspec.structs.replace(image, layers=tuple(self._layer(each, scope) for each in image.layers))
        self._here[scope, image.digest] = image
        return image

    def _layer(self, name: str, scope: str) -> str:
        folder = self._folder / f"{scope}-{name}"
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "layer").write_text(name)
            self.made.append(name)
        return str(folder)


def _name(text: str) -> str:
    try:
        parsed = references.parse(text)
    except InvalidError:
        return text
    return f"{parsed.host}/{parsed.repository}:{parsed.tag}" if not parsed.digest else str(parsed)


def _careful(on_line: OnLine) -> Callable[[str], None]:
    def tell(line: str) -> None:
        try:
            on_line(line)
        except Exception:
            pass  # a reader that went away

    return tell
