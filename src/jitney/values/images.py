"""An image as declared: a base and layers, each a value whose digest is its identity."""

from __future__ import annotations

import msgspec


class PipInstall(msgspec.Struct, frozen=True, kw_only=True, tag="pip_install"):
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


class Env(msgspec.Struct, frozen=True, kw_only=True, tag="env"):
    """Environment variables of the containers (and of later steps)."""

    variables: dict[str, str]


class Workdir(msgspec.Struct, frozen=True, kw_only=True, tag="workdir"):
    """The folder that user code starts in, below the container's scratch folder when relative."""

    path: str


class Unmakeable(msgspec.Struct, frozen=True, kw_only=True, tag="unmakeable"):
    """A step of the vocabulary that needs a root file system (apt, commands, ...)."""

    method: str
    arguments: str = ""


Layer = PipInstall | Env | Workdir | Unmakeable


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Base and layers, oldest first. Local files are not here: they are attached at start (see sources)."""

    base: str = "debian_slim"
    python_version: str = ""  # "3.11"; "" = that of the client
    layers: tuple[Layer, ...] = ()
    force_build: bool = False


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gave: where it is and what is in it that must fit the client."""

    image_id: str
    python_path: str  # the interpreter to start templates with
    python_version: str  # "3.11.7"
    cloudpickle_version: str
    env: dict[str, str] = {}
    workdir: str = ""
    cached: bool = False
    took_ms: int = 0
