"""Makes boxes by an engine, and the runtime of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from jitney.drivers.runtime.forking.leftovers import MARKER_NAME, Leftovers
from jitney.drivers.runtime.forking.marker import marker_of
from jitney.drivers.runtime.kept.box import Entrance
from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.runtime.kept.render import CONTROL, MEMORY_RESERVE, PIDS_MAX, BoxOrder
from jitney.drivers.runtime.kept.runtime import KeptRuntime
from jitney.drivers.runtime.kept.wiring import Wires, Wiring
from jitney.drivers.runtime.oci import archive, render, where
from jitney.drivers.runtime.oci.engine import EngineClient, EngineError
from jitney.drivers.runtime.oci.namespace import namespace_of
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.no_names import no_names
from jitney.drivers.walls.render import NOFILE
from jitney.ports.limits import Limiter
from jitney.ports.network import Names, Network, OnRefused
from jitney.values.images import BuiltImage
from jitney.values.isolation import Isolation
from jitney.wire.home import Home

NPROC = 30_000  # of the user of all boxes together; Podman asks for more than it may give, unless it is told
LOG_LINES = 5  # of a first process that has failed


class OciSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is used. `socket` '' is looked for; `base` '' is this machine's own file system, read only."""

    socket: str = ""
    base: str = ""  # an image of the engine, for images of ours that have no root file system
    network: str = render.AUTO  # one of the engine's, for containers that may reach others; or ours, where there can be


class OciShell:
    """One container of the engine (kept.box.Shell)."""

    def __init__(self, boxes: OciBoxes, order: BoxOrder, folder: Path) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.no_network = ""
        self._boxes = boxes
        self._order = order
        self._folder = folder
        self._wiring: Wiring | None = None
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
        try:
            engine = await self._boxes.engine()
            network = await self._network(engine)
            path = render.unmountable(self._order)
            if path:
                raise BoxFailed(f"{path} has a colon in it, which an engine takes for the end of a path")
            await self._create(engine, network)
            await self._boxes.client().start(self._name)
            self._watching = asyncio.get_running_loop().create_task(self._watch())
            await self._join()
        except (EngineError, OSError) as error:
            raise BoxFailed(str(error)) from error

    async def _network(self, engine: render.Engine) -> str:
        """What the engine is to give it: nothing where it has ours, which is made ready here."""
        boxes, policy = self._boxes, self._order.network
        why = boxes.why_the_engines(engine)
        refused = render.refused_network(policy, why)
        if refused:
            raise BoxFailed(refused)
        if not why:
            self._wiring = boxes.wires.wiring(self._order, self._folder, self._lost)
            await self._wiring.open()
            self.no_network = self._wiring.why_not
            mounts = (*self._order.mounts, self._wiring.mount)
            self._order = msgspec.structs.replace(self._order, mounts=mounts)
            return render.NO_NETWORK
        wanted = boxes.settings.network
        if not policy.blocked:
            self.no_network = render.no_network(wanted, engine, await boxes.client().networks())
        return render.NO_NETWORK if self.no_network else render.network_named(wanted)

    async def _join(self) -> None:
        """Nothing but the keeper runs in it yet."""
        if self._wiring is not None:
            state = (await self._boxes.client().inspect(self._name)).get("State") or {}
            control = next(one.source for one in self._order.mounts if one.target == CONTROL)
            await self._wiring.join(lambda: namespace_of(int(state.get("Pid") or 0), control))
            self.no_network = self._wiring.why_not

    def _lost(self) -> None:
        """What holds its network has ended: so does all that had it."""
        if not self.ended.done():
            self.ended.set_result("the process that holds its network has ended")

    async def _create(self, engine: render.Engine, network: str) -> None:
        boxes = self._boxes
        image = await boxes.image_of(self._order)
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

    async def entrance(self) -> Entrance:
        """See the protocol."""
        engine = await self._boxes.engine()
        why = render.no_mounts(engine, is_root=os.geteuid() == 0)
        if why:
            raise BoxFailed(why)
        try:
            state: dict[str, Any] = (await self._boxes.client().inspect(self._name)).get("State") or {}
        except EngineError as error:
            raise BoxFailed(str(error)) from error
        if not state.get("Pid"):
            raise BoxFailed("the container has ended")
        return Entrance(pid=int(state["Pid"]))

    def bound_cpu(self, cpu_milli: int | None) -> None:
        """See the protocol: each container has a control group."""

    async def close(self) -> None:
        """See the protocol."""
        if self._making is not None:
            await asyncio.wait({self._making})
        if self._watching is not None and not self._watching.done():
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if self._is_asked_for:
            try:
                await self._boxes.client().remove(self._name)
            except EngineError:
                pass  # its keeper ends when we hang up, and `reap` of a later run removes it
        if self._wiring is not None:
            await self._wiring.close()
        if not self.ended.done():
            self.ended.set_result("")


class OciBoxes:
    """What an engine is to the runtime (kept.box.Boxes)."""

    tier = Isolation.OCI
    shares_locks = True
    can_join = True

    def __init__(
        self, home: Home, settings: OciSettings, environ: Mapping[str, str], network: Network | None = None
    ) -> None:
        self.settings = settings
        self.bounds = machine_bounds()
        self._marker = marker_of(home)
        self._leftovers = Leftovers(home, self._marker)
        self._environ = environ
        env = {"PATH": environ.get("PATH", os.defpath), MARKER_NAME: self._marker}
        self.wires = Wires(network, env)
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
        count = await self._reap_containers()
        await self.wires.reap(self._leftovers)
        return count

    async def _reap_containers(self) -> int:
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
        return OciShell(self, order, folder)

    def why_the_engines(self, engine: render.Engine) -> str:
        """Why the engine gives its containers their network; '' = we do."""
        return render.why_the_engines(self.settings.network, engine, has_own=self.wires.can_be)

    async def close(self) -> None:
        """See the protocol."""
        await self.wires.close()
        self._leftovers.close()
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
        network: the way out of containers, where the worker can make one for them; None: the engine gives them theirs.
        names: makes what answers for names, where a policy lists domains; what is refused goes to the given function.
    """

    def __init__(
        self,
        home: Home,
        *,
        limiter: Limiter | None = None,
        settings: OciSettings | None = None,
        environ: Mapping[str, str] | None = None,
        network: Network | None = None,
        names: Callable[[OnRefused], Names] = no_names,
    ) -> None:
        self.settings = settings or OciSettings()
        boxes = OciBoxes(home, self.settings, os.environ if environ is None else environ, network)
        super().__init__(home, boxes, limiter=limiter)
        boxes.wires.names = names(self._containers.on_refused)


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
