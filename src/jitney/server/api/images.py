"""Images and sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from jitney.core import imagesecrets
from jitney.core.imagechecks import full_name
from jitney.errors import ConnectionError, InvalidError, JitneyError, NotFoundError, from_code
from jitney.ports.sources import SourceStore
from jitney.server.api.table import Emit, Peer, Table
from jitney.server.fleet import Fleet
from jitney.server.scaling import Node
from jitney.server.vault import Vault
from jitney.server.volumes import Volumes
from jitney.values import ids
from jitney.values.images import BuiltImage, Collected, ImageSpec, PlannedImage, volumes_of
from jitney.values.secrets import Action, SecretUse
from jitney.wire import methods
from jitney.wire.messages import images as im
from jitney.wire.messages import workers as wm
from jitney.wire.messages.apps import Done

log = logging.getLogger("jitney.images")

WORKER_WAIT_S = 20.0  # a server that has just started may have no worker yet


class Images:
    """Handlers of the image.* and source.* methods; knows what was built since the server started."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        sources: SourceStore,
        entropy: Callable[[int], bytes],
        vault: Vault | None = None,
        volumes: Volumes | None = None,
    ) -> None:
        self.built: dict[str, BuiltImage] = {}
        self._fleet = fleet
        self._sources = sources
        self._entropy = entropy
        self._vault = vault
        self._volumes = volumes
        self._builds: dict[str, tuple[Emit, asyncio.Future[BuiltImage], Node]] = {}
        self._tasks: dict[str, tuple[asyncio.Future[wm.ImagesAnswer], Node]] = {}

    def register(self, table: Table) -> None:
        """Answer the image.* and source.* methods."""
        table.on(methods.IMAGE_BUILD, self.build)
        table.on(methods.IMAGE_PLAN, self.plan)
        table.on(methods.IMAGE_LIST, self.list)
        table.on(methods.IMAGE_TAG, self.tag)
        table.on(methods.IMAGE_REMOVE, self.remove)
        table.on(methods.IMAGE_COLLECT, self.collect)
        table.on(methods.SOURCE_MISSING, self.missing)
        table.on(methods.SOURCE_PUT, self.put)
        table.on(methods.SOURCE_CREATE, self.create)

    async def build(self, peer: Peer, request: im.ImageBuild, emit: Emit) -> im.ImageBuilt:
        """Let a worker build the image; its progress is the stream."""
        await self._check_volumes(request.spec)
        node = await self._node()
        build_id = ids.make(ids.BUILD, self._entropy(ids.ENTROPY_BYTES))
        done: asyncio.Future[BuiltImage] = asyncio.get_running_loop().create_future()
        self._builds[build_id] = (emit, done, node)
        try:
            node.send(wm.BuildImage(build_id=build_id, spec=await self._with_secrets(request.spec)))
            image = await done
        finally:
            self._builds.pop(build_id, None)
        self.built[image.image_id] = image
        return im.ImageBuilt(image=image)

    async def _with_secrets(self, spec: ImageSpec) -> ImageSpec:
        """With the values of secrets that its steps name."""
        refs = imagesecrets.references(spec)
        if not refs or self._vault is None:
            return spec
        use = SecretUse(at_ms=0, action=Action.BUILT, secret_id="")
        return imagesecrets.filled(spec, await self._vault.by_name(refs, use))

    async def _check_volumes(self, spec: ImageSpec) -> None:
        """Whether the volumes of its steps are there, in the versions that it names: before anything is built."""
        mounts = {(one.volume_id, one.version) for layer in spec.layers for one in volumes_of(layer)}
        for volume_id, version in sorted(mounts, key=repr):
            if self._volumes is not None:
                await self._volumes.version(volume_id, version)

    async def plan(self, peer: Peer, request: im.ImagePlanRequest, emit: Emit) -> PlannedImage:
        """What a build would do, and which of it is done already."""
        await self._check_volumes(request.spec)
        answer = await self._ask(wm.PlanImage(spec=imagesecrets.filled(request.spec, {})))
        assert answer.plan is not None
        return answer.plan

    async def list(self, peer: Peer, request: im.ImageList, emit: Emit) -> im.ImageListed:
        """Images that are there."""
        if request.limit < 1:
            raise InvalidError("limit must be above zero")
        answer = await self._ask(wm.ListImages())
        return im.ImageListed(images=answer.images[: request.limit])

    async def tag(self, peer: Peer, request: im.ImageTag, emit: Emit) -> im.ImageTagged:
        """Give an image a name."""
        answer = await self._ask(wm.TagImage(image=request.image, name=request.name))
        return im.ImageTagged(image_id=answer.image_id, name=answer.name)

    async def remove(self, peer: Peer, request: im.ImageRemove, emit: Emit) -> im.ImageRemoved:
        """Remove an image, by its id or by a name."""
        image_id = request.image
        if not ids.is_id(image_id, ids.IMAGE):
            name = full_name(image_id)
            there = (await self._ask(wm.ListImages())).images
            image_id = next((one.image_id for one in there if name in one.names), "")
            if not image_id:
                raise NotFoundError(f"no image {name!r}", hint="`jitney image list` shows those that are there")
        if image_id in self._in_use():
            raise InvalidError(f"image {image_id} is used by a function", hint="stop its app first: `jitney app stop`")
        await self._ask(wm.RemoveImage(image_id=image_id, in_use=self._in_use()))
        self.built.pop(image_id, None)
        return im.ImageRemoved(image_id=image_id)

    async def collect(self, peer: Peer, request: im.ImageCollect, emit: Emit) -> Collected:
        """Remove what nobody needs."""
        if request.keep_ms < 0:
            raise InvalidError("keep_ms must not be below zero")
        return await self._collect(request.keep_ms, dry_run=request.dry_run)

    async def collect_due(self, report: wm.CollectionDue) -> None:
        """A worker: it is time to. What goes wrong is told, and tried again in an hour."""
        try:
            collected = await self._collect(report.keep_ms)
        except JitneyError as error:
            log.warning("images_not_collected reason=%s", error.message)
            return
        if collected.images or collected.freed_bytes:
            log.info("images_collected count=%d freed_bytes=%d", len(collected.images), collected.freed_bytes)

    async def _collect(self, keep_ms: int, *, dry_run: bool = False) -> Collected:
        answer = await self._ask(wm.CollectImages(keep_ms=keep_ms, dry_run=dry_run, in_use=self._in_use()))
        assert answer.collected is not None
        if not dry_run:
            for image_id in answer.collected.images:
                self.built.pop(image_id, None)
        return answer.collected

    def _in_use(self) -> tuple[str, ...]:
        """Images of functions, whether anything runs or not."""
        return tuple(sorted({pool.spec.image_id for pool in self._fleet.router.pools.values()}))

    async def _ask(self, task: wm.ImageTask) -> wm.ImagesAnswer:
        """Have a worker do something with its images."""
        node = await self._node()
        task_id = ids.make(ids.BUILD, self._entropy(ids.ENTROPY_BYTES))
        done: asyncio.Future[wm.ImagesAnswer] = asyncio.get_running_loop().create_future()
        self._tasks[task_id] = (done, node)
        try:
            node.send(wm.AskImages(task_id=task_id, task=task))
            return await done
        finally:
            self._tasks.pop(task_id, None)

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

    def answered(self, report: wm.ImagesAnswer) -> None:
        """A worker: what was asked about its images."""
        done, _ = self._tasks.get(report.task_id, (None, None))
        if done is None or done.done():
            return
        if report.code:
            done.set_exception(from_code(report.code, report.message, report.hint))
        else:
            done.set_result(report)

    def worker_lost(self, node: Node) -> None:
        """Builds of a worker that went will not end by themselves."""
        builds: list[tuple[asyncio.Future[Any], Node]] = [(done, its) for _, done, its in self._builds.values()]
        for waiting, its in [*builds, *self._tasks.values()]:
            if its is node and not waiting.done():
                waiting.set_exception(ConnectionError("the worker that has the images has gone", hint="run it again"))

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
