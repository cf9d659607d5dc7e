"""Builds Dockerfiles by an engine, for what no other builder can (values.images.Dockerfile).

The engine is given the file and its context, and gives back an archive of what it made: its layers go the way of those
of any archive, and are looked at as hostile. The image itself does not stay with the engine; what that keeps to build
faster next time is its own.

What the steps run with is what the engine gives to containers: the tier `oci`, whatever the runtime is.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import secrets
import tarfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from jitney.core import dockerlines
from jitney.drivers.runtime.oci import archive as archives
from jitney.drivers.runtime.oci import where
from jitney.drivers.runtime.oci.engine import EngineClient, EngineError
from jitney.errors import ImageBuildError, InvalidError, StorageFullError, UnsupportedError
from jitney.ports.builder import LAST_LINES
from jitney.ports.dockerfiles import DockerfileOrder
from jitney.values import references

FILE = ".jitney.Dockerfile"  # in the context, beside whatever Dockerfile that has
REPOSITORY = "localhost/jitney-build"
LABEL = "org.jitney.build"
CPU_PERIOD_US = 100_000
DOCKER_HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls it where credentials are
NO_ID = 1 << 32  # files of a context belong to whom they belong to
FULL = ("no space left on device", "disk quota exceeded")


class OciDockerfiles:
    """`ports.dockerfiles.DockerfileBuilder` by the engine that is found when one is needed.

    Args:
        environ: says where an engine listens, if that is told.
        owner: tells builds of this server's folder from those of others, at the engine.
        socket: of the engine; "" = look for one.
    """

    def __init__(self, environ: Mapping[str, str], *, owner: str, socket: str = "") -> None:
        self._environ = environ
        self._owner = owner
        self._socket = socket
        self._tags: set[str] = set()  # of builds that run

    def why_not(self) -> tuple[str, str]:
        """See the port."""
        found = self._find()
        return found.why, found.remedy

    async def build(self, order: DockerfileOrder, archive: Path, on_line: Callable[[str], None]) -> None:
        """See the port."""
        found = self._find()
        if found.why:
            raise UnsupportedError(f"this Dockerfile cannot be built without an engine: {found.why}", hint=found.remedy)
        refuse(order)
        headers = render_credentials(order)
        tag = f"{REPOSITORY}:{secrets.token_hex(8)}"
        self._tags.add(tag)
        client = EngineClient(found.path)
        last: deque[str] = deque(maxlen=LAST_LINES)

        def tell(line: str) -> None:
            last.append(line)
            on_line(line)

        try:
            await self._remove_left(client)
            query = render_query(order, tag, self._owner)
            await client.build(context_of(order), query=query, headers=headers, on_line=tell)
            await _save(client, tag, archive)
        except EngineError as error:
            raise explain(str(error), [*last]) from error
        finally:
            await asyncio.shield(asyncio.ensure_future(self._clean(client, tag)))

    async def _remove_left(self, client: EngineClient) -> None:
        for tag in await client.image_names(f"{LABEL}={self._owner}"):
            if tag not in self._tags:
                await client.remove_image(tag, force=True)

    async def _clean(self, client: EngineClient, tag: str) -> None:
        try:
            await client.remove_image(tag, force=True)
        except EngineError:
            pass  # the engine has gone
        finally:
            self._tags.discard(tag)
            await client.close()

    def _find(self) -> where.Found:
        if self._socket:
            why = where.look_at(self._socket)
            return where.Found(path=self._socket, why=f"{self._socket}: {why}" if why else "")
        return where.find(self._environ, uid=os.getuid())


def refuse(order: DockerfileOrder) -> None:
    """What an engine would do otherwise than it was meant.

    Raises:
        UnsupportedError: so it is.
    """
    if order.base.secrets:
        raise UnsupportedError(
            "secrets cannot be handed to an engine's build: they would stay in the image as build arguments",
            hint="use `run_commands(secrets=...)` on top of the image, which keeps none",
        )


def render_query(order: DockerfileOrder, tag: str, owner: str) -> dict[str, str]:
    """The parameters of a build."""
    query = {
        "dockerfile": FILE,
        "t": tag,
        "rm": "1",
        "forcerm": "1",
        "buildargs": json.dumps(dict(order.base.build_args)),
        "labels": json.dumps({LABEL: owner}),
    }
    if order.force:
        query["nocache"] = "1"
        query["pull"] = "1"
    if order.memory_mib:
        query["memory"] = query["memswap"] = str(order.memory_mib << 20)
    if order.cpu_milli:
        query["cpuperiod"] = str(CPU_PERIOD_US)
        query["cpuquota"] = str(order.cpu_milli * CPU_PERIOD_US // 1000)
    return query


def render_credentials(order: DockerfileOrder) -> dict[str, str]:
    """The header with the credentials of a private registry: for it alone.

    Raises:
        UnsupportedError: it is not clear which of several registries they are for.
    """
    if not order.base.password:
        return {}
    hosts = registries(order.base.text) or [references.DOCKER_HUB]
    private = [host for host in hosts if host != references.DOCKER_HUB] or hosts
    if len(private) > 1:
        raise UnsupportedError(
            f"registry_secret is for one registry, and this Dockerfile names {', '.join(private)}",
            hint="log the engine in by itself: `docker login`",
        )
    key = DOCKER_HUB_KEY if private[0] == references.DOCKER_HUB else private[0]
    config = {key: {"username": order.base.username, "password": order.base.password}}
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(config).encode()).decode()}


def registries(text: str) -> list[str]:
    """The registries that the stages of a Dockerfile begin with; not those that a variable names."""
    found: dict[str, None] = {}
    stages = {"scratch"}
    for one in dockerlines.read(text):
        words = one.text.split()
        if one.name != "FROM" or not words:
            continue
        if words[0].lower() not in stages and "$" not in words[0]:
            try:
                found[references.parse(words[0]).host] = None
            except InvalidError:
                pass  # the engine will say so in its own words
        if len(words) == 3 and words[1].lower() == "as":
            stages.add(words[2].lower())
    return [*found]


def explain(said: str, last: list[str]) -> ImageBuildError | StorageFullError:
    """What to tell of an engine that refused, or of a step that failed in it."""
    output = "".join(f"\n  {line}" for line in last)
    if any(text in said.lower() for text in FULL):
        return StorageFullError(f"no room where the engine builds: {said}", hint="free some space, and build again")
    text = f"the Dockerfile cannot be built: {said}"
    return ImageBuildError(f"{text}; its last lines:{output}" if output else text, hint="see the step that failed")


async def _save(client: EngineClient, tag: str, target: Path) -> None:
    with target.open("wb") as file:
        async for chunk in client.save(tag):
            await asyncio.to_thread(file.write, chunk)


def context_of(order: DockerfileOrder) -> AsyncIterator[bytes]:
    """The tar of a build: its Dockerfile, and what COPY and ADD see."""
    info = tarfile.TarInfo(FILE)
    data = order.base.text.encode()
    info.size = len(data)
    info.mode = 0o644
    head = info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % archives.BLOCK)
    folders = [str(order.context)] if order.context is not None else []
    members = (one for one in archives.merge(folders) if one.path != FILE)
    return archives.stream(itertools.chain([head], archives.pack(members, (), first_id=NO_ID)))
