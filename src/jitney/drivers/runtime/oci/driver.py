"""Makes boxes by an engine, and the runtime of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.runtime.kept.render import MEMORY_RESERVE, PIDS_MAX, BoxOrder
from jitney.drivers.runtime.kept.runtime import KeptRuntime
from jitney.drivers.runtime.oci import archive, render, where
from jitney.drivers.runtime.oci.engine import EngineClient, EngineError
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.render import NOFILE
from jitney.ports.limits import Limiter
from jitney.values.images import BuiltImage
from jitney.values.isolation import Isolation
from jitney.wire.home import Home

NPROC = 30_000  # of the user of all boxes together; Podman asks for more than it may give, unless it is told
LOG_LINES = 5  # of a first process that has failed


class OciSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is used. `socket` '' is looked for; `base` '' is this machine's own file system, read only."""

    socket: str = ""
    base: str = ""  # an image of the engine, for images of ours that have no root file system
    network: str = render.BRIDGE  # the engine's, for containers that may reach others


class OciShell:
    """One container of the engine (kept.box.Shell)."""

    def __init__(self, boxes: OciBoxes, order: BoxOrder) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.no_network = ""
        self._boxes = boxes
        self._order = order
        self._name = f"jitney-{order.marker}-{order.name}"
        self._is_asked_for = False  # the engine may have it
        self._making: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See the protocol."""
        # Whoever waits may go; what the engine has been asked for has to be known, to be removed again.
        self._making = asyncio.get_running_loop().create_task(self._make())
        await asyncio.shield(self._making)

    async def _make(self) -> None:
        why = render.refused_network(self._order.network)
        path = render.unmountable(self._order)
        if path:
            why = f"{path} has a colon in it, which an engine takes for the end of a path"
        if why:
            raise BoxFailed(why)
        try:
            await self._create()
            await self._boxes.client().start(self._name)
        except EngineError as error:
            raise BoxFailed(str(error)) from error
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _create(self) -> None:
        boxes = self._boxes
        engine = await boxes.engine()
        image = await boxes.image_of(self._order)
        network = boxes.settings.network
        if not self._order.network.blocked:
            self.no_network = render.no_network(network, engine, await boxes.client().networks())
        if self.no_network:
            network = render.NO_NETWORK
        body = render.render_create(self._order, image, engine=engine, bounds=boxes.bounds, network=network)
        self._is_asked_for = True
        for attempt in (1, 2):
            try:
                await boxes.client().create(self._name, body)
                return
            except EngineError as error:
                if attempt == 2:
                    raise
                if error.status == 409:  # of an earlier run with our process id
                    await boxes.client().remove(self._name)
                elif error.status == 404 and image == boxes.settings.base:
                    await boxes.client().pull(image)
                else:
                    raise

    async def _watch(self) -> None:
        client = self._boxes.client()
        try:
            code = await client.wait(self._name)
            state: dict[str, Any] = (await client.inspect(self._name)).get("State") or {}
            said = (await client.logs(self._name, LOG_LINES)).strip()
        except EngineError:
            return  # an engine that goes away may leave its containers alone: the keeper tells
        why = "out of memory" if state.get("OOMKilled") else str(state.get("Error") or "") or f"exit code {code}"
        if not self.ended.done():
            self.ended.set_result(f"{why}\n{said}".strip() if code else "")

    async def close(self) -> None:
        """See the protocol."""
        if self._making is not None:
            await asyncio.wait({self._making})
        if self._watching is not None and not self.ended.done():
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if self._is_asked_for:
            try:
                await self._boxes.client().remove(self._name)
            except EngineError:
                pass  # its keeper ends when we hang up, and `reap` of a later run removes it
        if not self.ended.done():
            self.ended.set_result("")


class OciBoxes:
    """What an engine is to the runtime (kept.box.Boxes)."""

    tier = Isolation.OCI
    shares_locks = True
    can_join = True

    def __init__(self, marker: str, settings: OciSettings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.bounds = machine_bounds()
        self._marker = marker
        self._environ = environ
        self._client: EngineClient | None = None
        self._engine: render.Engine | None = None
        self._images: dict[str, str] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def client(self) -> EngineClient:
        """The engine.

        Raises:
            BoxFailed: there is none.
        """
        if self._client is None:
            path = self.settings.socket
            if not path:
                found = where.find(self._environ, uid=os.getuid())
                if found.why:
                    raise BoxFailed(f"no engine can be used: {found.why}\n{found.remedy}")
                path = found.path
            self._client = EngineClient(path)
        return self._client

    async def engine(self) -> render.Engine:
        """What it is."""
        if self._engine is None:
            self._engine = render.engine_of(await self.client().info(), await self.client().version())
        return self._engine

    async def reap(self) -> int:
        """See the protocol. Without an engine nothing of us can be in one."""
        try:
            client = self.client()
            found = await client.containers(f"{render.LABEL_HOME}={self._marker}")
            for container in found:
                await client.remove(container)
        except (BoxFailed, EngineError):
            return 0
        return len(found)

    def shell(self, order: BoxOrder, folder: Path) -> OciShell:
        """See the protocol."""
        return OciShell(self, order)

    async def close(self) -> None:
        """See the protocol."""
        if self._client is not None:
            await self._client.close()

    # -------------------------------------------------------------------------------------------- images

    async def image_of(self, order: BoxOrder) -> str:
        """The engine's image for a box; it is made when it is not there.

        Raises:
            BoxFailed: it cannot be.
            EngineError: the engine refuses.
        """
        if not order.image.layers and self.settings.base:
            return self.settings.base
        extra = render.render_over_layers() if order.image.layers else render.render_empty(order.links)
        tag = _tag(order.image, extra)
        async with self._locks[tag]:
            if tag not in self._images:
                self._images[tag] = await self._import(order.image, extra, tag)
        return self._images[tag]

    async def _import(self, image: BuiltImage, extra: list[render.Entry], tag: str) -> str:
        client = self.client()
        found = await client.images(f"{render.LABEL_IMAGE}={tag}")
        if found:
            return found[0]
        if "/" in image.layers:
            raise BoxFailed(
                "this image is made of layers over the machine's own file system, which an engine cannot be given\n"
                "set base = 'registry' or 'debootstrap' in [worker], or use runtime = 'namespaces'"
            )
        chunks = _packed(image.layers, extra)
        label = f"{render.LABEL_IMAGE}={tag}"
        repository = f"{render.REPOSITORY}/{tag}"
        return await client.import_image(archive.stream(chunks), repository=repository, label=label)


class OciRuntime(KeptRuntime):
    """Containers in containers of an engine.

    Args:
        home: the server folder.
        limiter: bounds and counts what each container uses, where the worker is root; otherwise memory is looked at.
        settings: how the engine is used.
        environ: where it is looked for.
    """

    def __init__(
        self,
        home: Home,
        *,
        limiter: Limiter | None = None,
        settings: OciSettings | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings or OciSettings()
        boxes = OciBoxes(marker_of(home), self.settings, os.environ if environ is None else environ)
        super().__init__(home, boxes, limiter=limiter)


def machine_bounds() -> render.Bounds:
    """What one template with all of its containers may have of this machine."""
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)
    return render.Bounds(
        memory_mib=int(memory_mib * (1 - MEMORY_RESERVE)),
        pids=PIDS_MAX,
        nofile=_least(NOFILE, resource.RLIMIT_NOFILE),
        nproc=_least(NPROC, resource.RLIMIT_NPROC),
    )


def _least(wanted: int, which: int) -> int:
    """What is wanted, and no more than this process may give."""
    _, hard = resource.getrlimit(which)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _packed(layers: Iterable[str], extra: list[render.Entry]) -> Iterator[bytes]:
    return archive.pack(archive.merge([*layers]), extra, first_id=FIRST_ID)


def _tag(image: BuiltImage, extra: list[render.Entry]) -> str:
    """What tells one root file system from another."""
    said = msgspec.json.encode([image.layers, [[one.path, one.mode, one.link] for one in extra]])
    name = render.tag_of(image.image_id) if image.layers else "host"
    return f"{name}-{hashlib.sha256(said).hexdigest()[:12]}"
