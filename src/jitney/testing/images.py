"""Images made on the spot: tests of pulls need no registry of others and no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def digest_of(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One member of a layer; a name that ends in '/' is a folder."""
    info = tarfile.TarInfo(name.rstrip("/") if name.strip("/") else name)
    info.type = tarfile.DIRTYPE if name.endswith("/") and kind == tarfile.REGTYPE else kind
    info.linkname = target
    info.mode = 0o755 if info.isdir() else 0o644
    info.size = len(content) if info.isreg() else 0
    info.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """The members as a tar."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return memory.getvalue()


def make_layer(files: Mapping[str, bytes]) -> bytes:
    """Files, or folders where a name ends in '/', as a tar."""
    return make_tar(member(name, content) for name, content in files.items())


@dataclass
class MadeImage:
    """An image in memory: its blobs by digest, and the digest of its manifest (or index)."""

    digest: str
    media_type: str
    blobs: dict[str, bytes] = field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()

    @property
    def manifest(self) -> bytes:
        """What the digest stands for."""
        return self.blobs[self.digest]


def make_image(
    layers: Sequence[bytes],
    *,
    config: Mapping[str, Any] | None = None,
    architecture: str = "amd64",
    variant: str = "",
    docker: bool = False,
    plain: bool = False,
) -> MadeImage:
    """An image of tars, packed with gzip unless `plain`."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    form = f"{DOCKER}.image.rootfs.diff.tar.gzip" if docker else f"{OCI}.layer.v1.tar{'' if plain else '+gzip'}"
    packed = [add(layer if plain else gzip.compress(layer, 1, mtime=0), form) for layer in layers]
    diff_ids = tuple(digest_of(layer) for layer in layers)
    description = {
        "architecture": architecture,
        "os": "linux",
        **({"variant": variant} if variant else {}),
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    media_type = f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"
    config_type = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": add(json.dumps(description).encode(), config_type),
        "layers": packed,
    }
    found = add(json.dumps(manifest).encode(), media_type)
    return MadeImage(found["digest"], media_type, blobs, diff_ids)


def make_index(images: Mapping[str, MadeImage], *, docker: bool = False) -> MadeImage:
    """One name for images of several platforms ("linux/arm64/v8")."""
    media_type = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
    entries = []
    blobs: dict[str, bytes] = {}
    for platform, image in images.items():
        system, architecture, *variant = platform.split("/")
        entries.append(
            {
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": len(image.manifest),
                "platform": {
                    "os": system,
                    "architecture": architecture,
                    **({"variant": variant[0]} if variant else {}),
                },
            }
        )
        blobs |= image.blobs
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    return MadeImage(digest_of(data), media_type, {**blobs, digest_of(data): data})


def write_layout(folder: Path, images: Mapping[str, MadeImage]) -> Path:
    """An OCI layout with the images under their names ("" = without one)."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = []
    for name, image in images.items():
        for digest, data in image.blobs.items():
            (blobs / digest.partition(":")[2]).write_bytes(data)
        entry: dict[str, Any] = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
        if name:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        entries.append(entry)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return folder


def write_archive(path: Path, folder: Path) -> Path:
    """A folder as a tar, named from its root; gzipped if the path ends in 'gz'."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for each in sorted(folder.rglob("*")):
            archive.add(each, str(each.relative_to(folder)), recursive=False)
    return path


def write_docker_archive(path: Path, images: Mapping[str, MadeImage]) -> Path:
    """What `docker save` made before it made OCI layouts: equal layers are links."""
    members = []
    listed = []
    written: dict[str, str] = {}
    for number, (name, image) in enumerate(images.items()):
        manifest = json.loads(image.manifest)
        config = image.blobs[manifest["config"]["digest"]]
        config_name = f"{digest_of(config)[7:]}.json"
        members.append(member(config_name, config))
        layers = []
        for place, layer in enumerate(manifest["layers"]):
            data = image.blobs[layer["digest"]]
            plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            where = f"image-{number}-{place}/layer.tar"
            if digest_of(plain) in written:
                members.append(member(where, kind=tarfile.SYMTYPE, target=f"../{written[digest_of(plain)]}"))
            else:
                written[digest_of(plain)] = where
                members.append(member(where, plain))
            layers.append(where)
        listed.append({"Config": config_name, "RepoTags": [name] if name else None, "Layers": layers})
    members.append(member("manifest.json", json.dumps(listed).encode()))
    path.write_bytes(make_tar(members))
    return path
