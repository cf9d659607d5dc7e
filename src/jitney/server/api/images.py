"""Images and sources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jitney.errors import ConnectionError, from_code
from jitney.ports.sources import SourceStore
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.fleet import Fleet
from jitney.server.scaling import Node
from jitney.values import ids
from jitney.values.images import BuiltImage
from jitney.wire import methods
from jitney.wire.messages import images as im
from jitney.wire.messages import workers as wm
from jitney.wire.messages.apps import Done

WORKER_WAIT_S = 20.0  # a server that has just started may have no worker yet


class Images:
    """Handlers of the image.* and source.* methods; knows what was built since the server started."""

    def __init__(self, *, fleet: Fleet, sources: SourceStore, entropy: Callable[[int], bytes]) -> None:
        self.built: dict[str, BuiltImage] = {}
        self._fleet = fleet
        self._sources = sources
        self._entropy = entropy
        self._builds: dict[str, tuple[Emit, asyncio.Future[BuiltImage], Node]] = {}

    def register(self, table: Table) -> None:
        """Answer the image.* and source.* methods."""
        table.on(methods.IMAGE_BUILD, self.build)
        table.on(methods.SOURCE_MISSING, self.missing)
        table.on(methods.SOURCE_PUT, self.put)
        table.on(methods.SOURCE_CREATE, self.create)

    async def build(self, peer: Peer, request: im.ImageBuild, emit: Emit) -> im.ImageBuilt:
        """Let a worker build the image; its progress is the stream."""
        node = await self._node()
        build_id = ids.make(ids.BUILD, self._entropy(ids.ENTROPY_BYTES))
        done: asyncio.Future[BuiltImage] = asyncio.get_running_loop().create_future()
        self._builds[build_id] = (emit, done, node)
        try:
            node.send(wm.BuildImage(build_id=build_id, spec=request.spec))
            image = await done
        finally:
            self._builds.pop(build_id, None)
        self.built[image.image_id] = image
        return im.ImageBuilt(image=image)

    async def _node(self) -> Node:
        loop = asyncio.get_running_loop()
        until = loop.time() + WORKER_WAIT_S
        while True:
            node = next((node for node in self._fleet.nodes.values() if node.connected), None)
            if node is not None:
                return node
            if loop.time() > until:
                raise ConnectionError("no worker is connected to the server", hint="see worker.log in its folder")
            await self._fleet.wait_node(until - loop.time())

    def line(self, report: wm.BuildLine) -> None:
        """A worker: a build goes on."""
        build = self._builds.get(report.build_id)
        if build is not None:
            build[0](
                im.BuildProgress(
                    image_id=report.image_id,
                    step=report.step,
                    steps=report.steps,
                    title=report.title,
                    line=report.line,
                )
            )

    def ended(self, report: wm.BuildEnded) -> None:
        """A worker: a build is over."""
        build = self._builds.get(report.build_id)
        if build is None or build[1].done():
            return
        if report.image is not None:
            build[1].set_result(report.image)
        else:
            build[1].set_exception(from_code(report.code, report.message, report.hint))

    def worker_lost(self, node: Node) -> None:
        """Builds of a worker that went will not end by themselves."""
        for _, done, its in self._builds.values():
            if its is node and not done.done():
                done.set_exception(ConnectionError("the worker that built the image has gone", hint="run it again"))

    async def missing(self, peer: Peer, request: im.SourceMissing, emit: Emit) -> im.SourceMissingAnswer:
        """Which files must be sent."""
        return im.SourceMissingAnswer(missing=await self._sources.missing(request.digests))

    async def put(self, peer: Peer, request: im.SourcePut, emit: Emit) -> Done:
        """Contents of files."""
        await self._sources.put(request.contents)
        return Done()

    async def create(self, peer: Peer, request: im.SourceCreate, emit: Emit) -> im.SourceCreated:
        """A tree of files that have been sent."""
        return im.SourceCreated(source_id=await self._sources.create(request.files))
