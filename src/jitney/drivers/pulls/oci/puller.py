"""The puller: which manifest, which layers, and what of it is here already."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from yarl import URL

from jitney.drivers.pulls.oci import addresses, archives, credentials, layout, manifest
from jitney.drivers.pulls.oci.layers import Layers, Scopes
from jitney.drivers.pulls.oci.manifest import Descriptor, Manifest, Platform
from jitney.drivers.pulls.oci.plain import make_plain
from jitney.drivers.pulls.oci.progress import Progress, careful
from jitney.drivers.pulls.oci.registry import HTTPS_PORT, Place, Registry, places
from jitney.drivers.pulls.oci.resolve import describe, resolve
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.drivers.pulls.oci.store import Store, now_s, room_errors
from jitney.drivers.pulls.oci.unpacker import Blob, ChildUnpacker, Unpacker
from jitney.drivers.pulls.oci.web import Sleep, Web
from jitney.errors import ConnectionError as UnavailableError
from jitney.errors import InvalidError, JitneyError, NotFoundError, PermissionDeniedError, ResourceExhaustedError
from jitney.ports.pulls import OnLine, PulledImage
from jitney.values import references
from jitney.values.references import Reference

KEEP_NEW_S = 3_600  # a layer that was made or used so lately stays: whoever got it may not have said so yet


class OciPuller:
    """`ports.pulls.Puller` without an engine.

    Args:
        store: folder of layers and images; made if it is not there.
        unpacker: makes layers; None = a child process.
        sleep: waits for seconds, between attempts.
        keep_new_s: layers that were used so lately are never removed.
    """

    def __init__(
        self,
        store: Path,
        *,
        settings: PullSettings | None = None,
        unpacker: Unpacker | None = None,
        sleep: Sleep = asyncio.sleep,
        keep_new_s: int = KEEP_NEW_S,
    ) -> None:
        self._settings = settings or PullSettings()
        self._unpacker = unpacker or ChildUnpacker(self._settings)
        self._store = Store(store.absolute(), self._unpacker.owners)
        self._sleep = sleep
        self._keep_new_s = keep_new_s
        self._layers = Layers(self._store, self._unpacker, self._settings)
        self._running: set[asyncio.Task[PulledImage]] = set()

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
        wanted = manifest.parse_platform(platform) if platform else manifest.machine()
        parsed = references.parse(reference)
        if parsed.digest and (found := self._found(parsed.digest, str(wanted), scope)):
            return found
        given = credentials.Credentials(username, password)
        return await self._tracked(self._pull(parsed, given, wanted, scope, careful(on_line)))

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
        wanted = manifest.parse_platform(platform) if platform else manifest.machine()
        real = path if is_own else archives.allowed(path, self._settings, uid=os.geteuid())
        return await self._tracked(self._load(path, real, reference, wanted, scope, careful(on_line)))

    def find(self, digest: str, *, scope: str = "") -> PulledImage | None:
        """See the port."""
        return self._found(digest, "", scope)

    async def remove_unused(self, keep: Collection[str]) -> int:
        """See the port."""
        freed = 0
        self._store.open()
        before_s = now_s() - self._keep_new_s
        for key, count in self._store.unused([*keep, *self._layers.needed], older_than_s=before_s):
            await self._unpacker.discard(self._store.layers / key)
            freed += count
        self._store.forget_images()
        return freed

    async def reap(self) -> int:
        """See the port."""
        self._store.open()
        removed = self._store.remove_old_parts(now_s())
        for folder in self._store.leftovers():
            await self._unpacker.discard(folder)
            removed += 1
        return removed

    async def close(self) -> None:
        """See the port."""
        running = [*self._running]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    # ---------------------------------------------------------------------------------------------- an image

    async def _tracked(self, work: Coroutine[None, None, PulledImage]) -> PulledImage:
        with room_errors():
            self._store.open()
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise UnavailableError("the pull was stopped", hint="the worker was shut down; try again") from None
            task.cancel()
            await asyncio.wait({task})
            raise

    def _found(self, digest: str, platform: str, scope: str) -> PulledImage | None:
        for each in dict.fromkeys(("", scope)):
            if found := self._store.image(self._store.key(each, "image", digest, platform)):
                for layer in found.layers:
                    self._store.touch(os.path.basename(layer))
                return found
        return None

    async def _pull(
        self, reference: Reference, given: credentials.Credentials, wanted: Platform, scope: str, on_line: OnLine
    ) -> PulledImage:
        first: JitneyError | None = None
        for place in places(reference, self._settings):
            try:
                return await self._pull_from(place, reference, given, wanted, scope, on_line)
            except (NotFoundError, UnavailableError, PermissionDeniedError) as error:
                if not place.is_mirror:
                    raise
                first = error
                on_line(f"the mirror {place.host} does not have it: {error.message}")
        raise first or NotFoundError(f"there is no place to get {reference} from")

    async def _pull_from(
        self,
        place: Place,
        reference: Reference,
        given: credentials.Credentials,
        wanted: Platform,
        scope: str,
        on_line: OnLine,
    ) -> PulledImage:
        on_line(f"pulling {reference} from {place.host}")
        async with self._web(place) as web:
            # Credentials of a registry are for it, not for what stands in for it.
            proof = given if given and not place.is_mirror else self._known(place, reference)
            registry = Registry(place, web, self._settings, proof, str(reference))
            resolved = await resolve(registry, reference.wanted, wanted, str(reference))
            own_scope = scope if given and not registry.is_anonymous else ""
            total = sum(layer.size for layer in resolved.manifest.layers or [])
            self._check_sizes(resolved.manifest, total, str(reference))
            progress = Progress(total, on_line)

            async def obtain(descriptor: Descriptor, part: Path) -> Blob:
                return await self._layers.download(registry, descriptor, part, progress, str(reference))

            full = str(msgspec.structs.replace(reference, digest=resolved.digest))
            layers = await self._layers.all_of(resolved, obtain, Scopes(scope, own_scope), on_line)
        image = describe(resolved, full, layers)
        for digest in {resolved.digest, reference.digest, resolved.asked} - {""}:
            self._remember(own_scope, digest, image, wanted)
        return image

    async def _load(
        self, path: str, real: str, reference: str, wanted: Platform, scope: str, on_line: OnLine
    ) -> PulledImage:
        on_line(f"reading {path}")
        async with AsyncExitStack() as stack:
            plain = real  # a link could be changed meanwhile
            with room_errors():
                try:
                    is_compressed = await asyncio.to_thread(layout.is_compressed, real)
                except OSError as error:
                    raise InvalidError(
                        f"{path} cannot be read ({error.strerror})", hint="the path is one of the worker's machine"
                    ) from None
                if is_compressed:
                    plain = await stack.enter_async_context(self._plain(real))
            source = await asyncio.to_thread(layout.open_local, plain, reference, path)
            resolved = await resolve(source, "", wanted, path)

            async def obtain(descriptor: Descriptor, part: Path) -> Blob:
                return source.blob(descriptor)

            layers = await self._layers.all_of(resolved, obtain, Scopes(scope, scope), on_line)
        image = describe(resolved, path, layers)
        self._remember(scope, resolved.digest, image, wanted)
        return image

    def _remember(self, scope: str, digest: str, image: PulledImage, wanted: Platform) -> None:
        with room_errors():
            for platform in {"", str(wanted)} if digest == image.digest else {str(wanted)}:
                self._store.commit_image(self._store.key(scope, "image", digest, platform), image)

    # ---------------------------------------------------------------------------------------------- surroundings

    @asynccontextmanager
    async def _web(self, place: Place) -> AsyncIterator[Web]:
        where = URL(place.url)
        host, port = where.host or "", where.port or HTTPS_PORT
        allowed = (*self._settings.private, *([host] if place.is_mirror else []))
        insecure = place.scheme == "http"
        async with Web(self._settings, private=False, insecure=insecure, sleep=self._sleep) as web:
            is_proxied = bool(web.proxy_for(place.scheme, host))
            if is_proxied or not await addresses.is_private(host, port, allowed):
                yield web
                return
        async with Web(self._settings, private=True, insecure=insecure, sleep=self._sleep) as web:
            yield web

    def _known(self, place: Place, reference: Reference) -> credentials.Credentials:
        path = Path(self._settings.docker_config) if self._settings.docker_config else credentials.docker_config()
        host = place.host if place.is_mirror else reference.host
        return credentials.read(path, host, place.repository)

    def _check_sizes(self, found: Manifest, total: int, what: str) -> None:
        largest = max((layer.size for layer in found.layers or []), default=0)
        if largest > self._settings.layer_bytes_max or total > self._settings.image_bytes_max:
            raise ResourceExhaustedError(
                f"{what} has {total / 1e9:,.1f} GB, which is over the limit of this machine",
                hint="choose a smaller image, or have the administrator raise the limit",
            )

    @asynccontextmanager
    async def _plain(self, path: str) -> AsyncIterator[str]:
        """The archive without its compression, for as long as it is read."""
        name = f".load-{secrets.token_hex(8)}"
        async with self._store.locked(name):
            copy = self._store.parts / name
            try:
                await make_plain(path, copy, self._settings.image_bytes_max)
                yield str(copy)
            finally:
                copy.unlink(missing_ok=True)
                (self._store.locks / name).unlink(missing_ok=True)
