"""Builds Dockerfiles by an engine, for what no other builder can (values.images.Dockerfile)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

from jitney.drivers.runtime.oci import archive
from jitney.drivers.runtime.oci.engine import EngineClient

FILE = ".jitney.Dockerfile"  # in the context, beside whatever Dockerfile that has
REPOSITORY = "localhost/jitney-build"
LABEL = "org.jitney.build"


async def build(
    client: EngineClient,
    text: str,
    context: Path | None,
    *,
    build_args: Mapping[str, str] | None = None,
    platform: str = "",
    on_line: Callable[[str], None],
) -> str:
    """Build a Dockerfile with a folder as its context (None: an empty one); the id that the engine gives to the image.

    Raises:
        EngineError: a step has failed, with its message; what it printed went to `on_line`.
    """
    tag = f"{REPOSITORY}:{_digest(text, context, build_args)}"
    query = {
        "dockerfile": FILE,
        "t": tag,
        "rm": "1",
        "forcerm": "1",
        "buildargs": json.dumps(dict(build_args or {})),
        "labels": json.dumps({LABEL: "1"}),
        **({"platform": platform} if platform else {}),
    }
    await client.build(archive.stream(_context(text, context)), query=query, on_line=on_line)
    return str((await client.image(tag))["Id"])


async def export(client: EngineClient, image: str, name: str) -> AsyncIterator[bytes]:
    """The root file system of an image, as a tar, by a container of that name that never runs.

    Raises:
        EngineError: there is no such image.
    """
    container = await client.create(name, {"Image": image, "Cmd": ["-"], "NetworkDisabled": True})
    try:
        async for chunk in client.export(container):
            yield chunk
    finally:
        await client.remove(container)


def _context(text: str, context: Path | None) -> Iterator[bytes]:
    info = tarfile.TarInfo(FILE)
    data = text.encode()
    info.size = len(data)
    info.mode = 0o644
    yield info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % archive.BLOCK)
    yield from archive.pack(archive.merge([str(context)] if context is not None else []), (), first_id=1 << 32)


def _digest(text: str, context: Path | None, build_args: Mapping[str, str] | None) -> str:
    said = io.StringIO()
    json.dump([text, os.fspath(context) if context is not None else "", sorted((build_args or {}).items())], said)
    return hashlib.sha256(said.getvalue().encode()).hexdigest()[:16]
