"""An image as declared: a base and layers, each a value whose digest is its identity.

What is private (`secrets`, `username`, `password`, the part of an address before '@') is part of a value, since the
build needs it, but not of its identity and not of its repr: see `core.imageplan.without_secrets`. Layers that run
something may have variables of their own: `env` counts for the identity, `secrets` does not.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from jitney.values.volumes import VolumeMount

_PRIVATE = frozenset({"username", "password", "secrets", "pickled"})
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def redacted(text: str) -> str:
    """`text` without what is before the '@' of addresses in it.

    >>> redacted("six @ git+https://me:token@example.org/six.git@v1")
    'six @ git+https://example.org/six.git@v1'
    """
    return _USERINFO.sub("", text)


class Discreet(msgspec.Struct, frozen=True):
    """A value whose repr, and with it every log and traceback, does not show what is private."""

    def __repr__(self) -> str:
        fields = []
        for name in self.__struct_fields__:
            value: Any = getattr(self, name)
            fields.append(f"{name}={'…' if name in _PRIVATE and value else redacted(repr(value))}")
        return f"{type(self).__name__}({', '.join(fields)})"


class PipInstall(Discreet, frozen=True, kw_only=True, tag="pip_install"):
    """Packages from an index, installed by uv. `requirements` are PEP 508 lines, as are the bounds in `constraints`.

    `find_links` and `extra_index_url` may have several addresses, with spaces between.
    """

    requirements: tuple[str, ...]
    find_links: str = ""
    index_url: str = ""
    extra_index_url: str = ""
    pre: bool = False
    extra_options: str = ""
    constraints: tuple[str, ...] = ()
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}


class Env(msgspec.Struct, frozen=True, kw_only=True, tag="env"):
    """Environment variables of the containers (and of later steps)."""

    variables: dict[str, str]


class Workdir(msgspec.Struct, frozen=True, kw_only=True, tag="workdir"):
    """The folder that user code starts in, below the container's scratch folder when relative."""

    path: str


class AptInstall(Discreet, frozen=True, kw_only=True, tag="apt_install"):
    """Packages of the base's distribution, by apt-get."""

    packages: tuple[str, ...]
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}


class RunCommands(Discreet, frozen=True, kw_only=True, tag="run_commands"):
    """Commands as root of the image, each by the image's shell, in its working folder, with its variables."""

    commands: tuple[str, ...]
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    volumes: tuple[VolumeMount, ...] = ()


class RunFunction(Discreet, frozen=True, kw_only=True, tag="run_function"):
    """A function at build time. What it leaves on the file system is the layer; what it returns is dropped.

    `pickled` is (function, args, kwargs) by cloudpickle. `source_id` has the local code that it imports.
    `identity` is what its digest is made of: the function's source text and its arguments, as pickles are not stable.
    """

    name: str
    pickled: bytes
    identity: str
    source_id: str = ""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    cpu_milli: int = 0
    memory_mib: int = 0
    timeout_ms: int = 3_600_000
    volumes: tuple[VolumeMount, ...] = ()


class CopyTree(msgspec.Struct, frozen=True, kw_only=True, tag="copy_tree"):
    """Local files as a layer: the tree `source_id` (its content is its identity) at `target`.

    The target is a folder and ends in '/'; a relative one is below the working folder of its step. The import root of
    the tree is the target: 'a/b.txt' of it is at `target`a/b.txt.
    """

    source_id: str
    target: str


class UvSync(Discreet, frozen=True, kw_only=True, tag="uv_sync"):
    """What a uv.lock holds. `source_id` has pyproject.toml and uv.lock; the project itself is not installed.

    `frozen`: the lock is taken as it is; without a uv.lock in the tree it is made at the build.
    """

    source_id: str
    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    frozen: bool = True
    extra_options: str = ""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}


class MicromambaInstall(Discreet, frozen=True, kw_only=True, tag="micromamba_install"):
    """Conda packages; `spec_file` is the text of an environment.yaml."""

    packages: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    spec_file: str = ""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}


class Entrypoint(msgspec.Struct, frozen=True, kw_only=True, tag="entrypoint"):
    """What is put before the command of the image."""

    words: tuple[str, ...]


class Cmd(msgspec.Struct, frozen=True, kw_only=True, tag="cmd"):
    """The default command of the image: what a shell in it, or a sandbox, starts."""

    words: tuple[str, ...]


class Shell(msgspec.Struct, frozen=True, kw_only=True, tag="shell"):
    """What runs the commands of later steps; the command comes as its last argument."""

    words: tuple[str, ...]


Layer = (
    PipInstall
    | Env
    | Workdir
    | AptInstall
    | RunCommands
    | RunFunction
    | CopyTree
    | UvSync
    | MicromambaInstall
    | Entrypoint
    | Cmd
    | Shell
)


def volumes_of(layer: Layer | None) -> tuple[VolumeMount, ...]:
    """The volumes that a step sees. Which they are, and where, counts for its identity; what is in them does not."""
    return layer.volumes if isinstance(layer, RunCommands | RunFunction) else ()


class DebianSlim(msgspec.Struct, frozen=True, kw_only=True, tag="debian_slim"):
    """Debian and Python. What it is made from (the host, debootstrap, a registry) is the worker's setting."""


class Registry(Discreet, frozen=True, kw_only=True, tag="registry"):
    """An image of a registry. `username` and `password` are for a private one; they are not part of its identity."""

    reference: str  # "python:3.12-slim", "ghcr.io/owner/name@sha256:..."
    username: str = ""
    password: str = ""
    add_python: str = ""  # "3.12": a Python to have beside what the image has


class OciArchive(msgspec.Struct, frozen=True, kw_only=True, tag="oci"):
    """An OCI layout (a folder, or a tar of one; also what `docker save` makes) on the worker's machine."""

    path: str
    reference: str = ""  # which of several images it is
    add_python: str = ""


class Dockerfile(Discreet, frozen=True, kw_only=True, tag="dockerfile"):
    """A Dockerfile that only an engine can build, for the reason `why`. `context_id` is the tree of its context."""

    text: str
    context_id: str = ""
    build_args: dict[str, str] = {}
    add_python: str = ""
    secrets: dict[str, str] = {}
    username: str = ""
    password: str = ""
    why: str = ""


class Scratch(msgspec.Struct, frozen=True, kw_only=True, tag="scratch"):
    """Nothing at all."""


class Micromamba(msgspec.Struct, frozen=True, kw_only=True, tag="micromamba"):
    """A conda environment with Python, made by micromamba."""


class Named(msgspec.Struct, frozen=True, kw_only=True, tag="named"):
    """An image that was built before: by its id, or by "name:tag"."""

    reference: str


Base = DebianSlim | Registry | OciArchive | Dockerfile | Scratch | Micromamba | Named


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Base and layers, oldest first. Local files that are attached at start are not here (see sources)."""

    base: Base = DebianSlim()
    python_version: str = ""  # "3.11"; "" = that of the machine, and for a base with a Python of its own, that one
    layers: tuple[Layer, ...] = ()
    force_build: bool = False


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gave: where it is and what is in it that must fit the client.

    `layers` are folders on the worker's machine, the lowest first, that together are a whole root file system; none:
    the host's own file system, read only. `mounts` are host folders that containers see read-only at the same path:
    the Python environment of uv, and the interpreter that it was made from.
    """

    image_id: str
    python_path: str  # the interpreter to start templates with, as seen in the container
    python_version: str  # "3.11.7"
    cloudpickle_version: str
    env: dict[str, str] = {}
    workdir: str = ""
    layers: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    cached: bool = False
    took_ms: int = 0


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is on a machine, for a list. `size_bytes` counts what it shares with others too."""

    image_id: str
    names: tuple[str, ...] = ()  # "name:tag"
    title: str = ""  # its base and its layers in a few words
    python_version: str = ""
    size_bytes: int = 0
    built_at_ms: int = 0
    used_at_ms: int = 0  # when it was last built, found built, or started from


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed (or would be): images that nobody needed, and the room that is free for it."""

    images: tuple[str, ...] = ()
    freed_bytes: int = 0


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan, as shown. `work` is 'environment', 'root' or 'setting'."""

    title: str
    digest: str
    work: str
    cached: bool


class PlannedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a build would do, and what the image will be called."""

    image_id: str
    python: str
    needs_root: bool
    steps: tuple[PlannedStep, ...]
