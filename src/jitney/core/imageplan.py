"""From an image as declared to a plan of steps: what is done, in which order, and what it is called.

Steps. Each is work of one kind. *Environment*: Python packages, installed by uv into a folder that containers see
read-only. *Root*: something that changes the root file system (packages of a distribution, commands, copied files).
*Setting*: a variable, a folder, a command; nothing runs. They are done in order, as each may need what is before it:
a command sees the packages that are installed by then, and a package that is built from source sees the libraries that
apt brought.

Identity. Each step has a digest over the digest before it and its own content, so that the last one names everything
that went in: equal declarations give the same image id on machines of one platform, and order matters. The Python
version is part of it, the patch level only where it was asked for. What is private is not (`core.imageidentity`).

Three ids. `image_id` covers every layer. `environment_id` stops at the last step of the environment, and `root_id` at
the last step of the root file system: images that differ by variables and working folder alone share both, so that a
changed `.env()` builds nothing. Without a root step `root_id` is '': the host's own file system, read only.

What cannot be right is refused here, before anything runs (`core.imagechecks`). What a machine cannot make is for the
driver to refuse: `needs_root` says what the plan asks for.
"""

from __future__ import annotations

import posixpath
from enum import StrEnum

import msgspec

from jitney.core import imagechecks
from jitney.core.imagechecks import split_options as split_options
from jitney.core.imageidentity import base_identity, chain, layer_identity, without_secrets
from jitney.core.imageidentity import spec_digest as spec_digest
from jitney.errors import NotFoundError
from jitney.values import ids
from jitney.values.images import (
    AptInstall,
    Base,
    Cmd,
    CopyTree,
    DebianSlim,
    Discreet,
    Dockerfile,
    Entrypoint,
    Env,
    ImageSpec,
    Layer,
    Micromamba,
    MicromambaInstall,
    Named,
    OciArchive,
    PipInstall,
    Registry,
    RunCommands,
    RunFunction,
    Scratch,
    Shell,
    UvSync,
    Workdir,
    redacted,
)

FORMAT = 2  # raised when the same declaration must give something else
TITLE_CHARS_MAX = 100
SPEC_VARIABLE = "JITNEY_IMAGE_DIGEST"  # in the environment of containers: `spec_digest` of the image they have
SHELL = ("/bin/sh", "-c")
HOME = "/root"  # where steps run, and what relative paths are below, in images that say nothing else


class Work(StrEnum):
    """What a step changes."""

    ENVIRONMENT = "environment"
    ROOT = "root"
    SETTING = "setting"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that builds. `sdk_needs` is installed where the image's Python cannot share the host's packages."""

    python_version: str  # "3.11.7"
    platform: str  # "linux-x86_64"
    sdk_needs: tuple[str, ...] = ()  # "cloudpickle==3.1.2", ...


class Step(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """One step. A digest names what was done up to here: equal digests, equal results.

    `layer` is what it does; None for the first steps, which make what the layers go onto (`ImagePlan.base`, and its
    Python). `env` (with the layer's own variables), `workdir` and `shell` are what holds by then; for settings they are
    empty. `secrets` are variables of this step alone, which must not be kept anywhere. `install` is `layer`, where
    that is a PipInstall.
    """

    title: str
    digest: str
    work: Work = Work.SETTING
    layer: Layer | None = None
    install: PipInstall | None = None
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    workdir: str = ""  # a relative one (also '') is below the working folder of the base
    shell: tuple[str, ...] = ()


class ImagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do for an image, and what it will be called.

    The steps begin with the base, if it is one that has to be fetched or made (`Work.ROOT`), and the environment of
    `python` (`Work.ENVIRONMENT`). `spec` is the declaration as it may be kept: without secrets, and with the layers of
    the image that a `Named` base stood for.
    """

    image_id: str
    environment_id: str
    spec_digest: str
    python: str  # "3.11", or "3.11.7" where that was asked for; "" = the Python that the base has
    steps: tuple[Step, ...]
    environment_steps: int  # how many of `steps`, from the first, end with the last step of the environment
    env: dict[str, str] = {}
    workdir: str = ""
    force_build: bool = False
    base: Base = DebianSlim()
    root_id: str = ""
    needs_root: bool = False  # a root file system other than the host's, or one that is written to
    entrypoint: tuple[str, ...] | None = None  # None = that of the base
    cmd: tuple[str, ...] | None = None
    shell: tuple[str, ...] = ()  # () = that of the base, or `SHELL`
    spec: ImageSpec = ImageSpec()


def plan(spec: ImageSpec, host: Host, *, parent: ImageSpec | None = None) -> ImagePlan:
    """The plan for `spec` on `host`.

    Args:
        spec: as declared.
        host: the machine that builds.
        parent: what a `Named` base stands for: `ImagePlan.spec` of that image.

    Raises:
        InvalidError: a layer that cannot be right, such as a requirement that is an option.
        NotFoundError: the base is an image that is not there.
        UnsupportedError: the Python is too old.
    """
    imagechecks.check(spec)
    declared, spec = spec, _onto(parent, spec)
    python = _python_of(spec, host)
    draft = _Draft(spec.base)
    draft.begin(spec.base, python, host)
    layers = spec.layers
    if (not python or _series(python) != _series(host.python_version)) and host.sdk_needs:
        layers = (PipInstall(requirements=host.sdk_needs), *layers)
    for layer in layers:
        draft.add(layer)
    return ImagePlan(
        image_id=ids.make(ids.IMAGE, draft.digest),
        environment_id=ids.make(ids.IMAGE, draft.environment),
        root_id=ids.make(ids.IMAGE, draft.root) if draft.root else "",
        spec_digest=spec_digest(declared),
        python=python,
        steps=tuple(draft.steps),
        environment_steps=draft.environment_steps,
        env=draft.env,
        workdir=draft.workdir,
        force_build=spec.force_build,
        base=spec.base,
        needs_root=bool(draft.root),
        entrypoint=draft.entrypoint,
        cmd=draft.cmd,
        shell=draft.shell,
        spec=without_secrets(spec),
    )


class _Draft:
    """A plan on its way: what holds after the steps so far."""

    def __init__(self, base: Base) -> None:
        self.steps: list[Step] = []
        self.digest = b""
        self.environment = b""
        self.environment_steps = 0
        self.root = b""
        self.env: dict[str, str] = {}
        self.workdir = ""
        self.shell: tuple[str, ...] = ()
        self.entrypoint: tuple[str, ...] | None = None
        self.cmd: tuple[str, ...] | None = None
        self._home = HOME if isinstance(base, DebianSlim | Micromamba) else ""

    def begin(self, base: Base, python: str, host: Host) -> None:
        """What the layers go onto."""
        series = f"Python {python}" if python else "Python of the base"
        if isinstance(base, DebianSlim):
            self._step(f"{series} environment", Work.ENVIRONMENT, [FORMAT, base, python, host.platform])
            return
        # micromamba makes its environment with Python in it; elsewhere the base is one whatever Python comes to it.
        made_with = python if isinstance(base, Micromamba) else ""
        identity = [FORMAT, base_identity(base), made_with, host.platform]
        self._step(base_title(base, python), Work.ROOT, identity)
        self._step(f"{series} environment", Work.ENVIRONMENT, [python])

    def add(self, layer: Layer) -> None:
        """One more layer."""
        content = layer_identity(layer)
        match layer:
            case Env(variables=variables):
                self.env = {**self.env, **variables}
            case Workdir(path=path):
                self.workdir = path if path.startswith("/") else posixpath.normpath(posixpath.join(self.workdir, path))
            case Entrypoint(words=words):
                self.entrypoint = words
                if self.cmd is None:
                    self.cmd = ()  # that of the base was for the entrypoint of the base
            case Cmd(words=words):
                self.cmd = words
            case Shell(words=words):
                self.shell = words
            case CopyTree(target=target):
                # The digest has what was declared; where that is, the digest before it says.
                place = posixpath.normpath(posixpath.join(self._folder(), target))
                layer = msgspec.structs.replace(layer, target=place.rstrip("/") + "/")
        self._step(title(layer), work_of(layer), content, layer)

    def _step(self, text: str, work: Work, content: object, layer: Layer | None = None) -> None:
        self.digest = chain(self.digest, content)
        if work is Work.SETTING:
            self.steps.append(Step(title=text, digest=self.digest.hex(), layer=layer))
            return
        self.steps.append(
            Step(
                title=text,
                digest=self.digest.hex(),
                work=work,
                layer=layer,
                install=layer if isinstance(layer, PipInstall) else None,
                env={**self.env, **getattr(layer, "env", {})},
                secrets=getattr(layer, "secrets", {}),
                workdir=self._folder(),
                shell=self.shell,
            )
        )
        if work is Work.ENVIRONMENT:
            self.environment, self.environment_steps = self.digest, len(self.steps)
        else:
            self.root = self.digest

    def _folder(self) -> str:
        return self.workdir if self.workdir.startswith("/") else posixpath.join(self._home, self.workdir)


def work_of(layer: Layer) -> Work:
    """What a layer changes."""
    match layer:
        case PipInstall() | UvSync():
            return Work.ENVIRONMENT
        case AptInstall() | RunCommands() | RunFunction() | CopyTree() | MicromambaInstall():
            return Work.ROOT
        case _:
            return Work.SETTING


def title(layer: Layer) -> str:
    """A layer in a few words, for a line of progress. What is private, and values of variables, are not in it."""
    match layer:
        case PipInstall(requirements=requirements):
            text = "pip install " + " ".join(r.split(" --hash=")[0] for r in requirements)
        case UvSync(groups=groups, extras=extras):
            text = " ".join(["uv sync", *groups, *extras])
        case Env(variables=variables):
            text = "env " + ", ".join(variables)
        case Workdir(path=path):
            text = f"workdir {path}"
        case AptInstall(packages=packages):
            text = "apt install " + " ".join(packages)
        case RunCommands(commands=commands):
            text = "run " + "; ".join(" ".join(command.split()) for command in commands)
        case RunFunction(name=name):
            text = f"run function {name}"
        case CopyTree(target=target):
            text = f"copy files to {target}"
        case MicromambaInstall(packages=packages, spec_file=spec_file):
            text = " ".join(["micromamba install", *packages, *(["(a file)"] if spec_file else [])])
        case Entrypoint(words=words):
            text = " ".join(["entrypoint", *words])
        case Cmd(words=words):
            text = " ".join(["cmd", *words])
        case Shell(words=words):
            text = " ".join(["shell", *words])
    return _short(redacted(text))


def base_title(base: Base, python: str = "") -> str:
    """A base in a few words."""
    match base:
        case DebianSlim():
            text = "debian_slim"
        case Registry(reference=reference):
            text = f"from {reference}"
        case OciArchive(path=path, reference=reference):
            text = f"from {path}{':' if reference else ''}{reference}"
        case Dockerfile():
            text = "from a Dockerfile"
        case Scratch():
            text = "from scratch"
        case Micromamba():
            text = f"micromamba{' with Python ' if python else ''}{python}"
        case Named(reference=reference):
            text = f"from {reference}"
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= TITLE_CHARS_MAX else text[: TITLE_CHARS_MAX - 1] + "…"


def _onto(parent: ImageSpec | None, spec: ImageSpec) -> ImageSpec:
    """`spec` on top of what its base stands for."""
    if not isinstance(spec.base, Named):
        return spec
    if parent is None or isinstance(parent.base, Named):
        raise NotFoundError(f"no image {spec.base.reference!r}", hint="`jitney image list` shows those that are there")
    whole = msgspec.structs.replace(parent, layers=(*parent.layers, *spec.layers), force_build=spec.force_build)
    imagechecks.check(whole)
    return whole


def _python_of(spec: ImageSpec, host: Host) -> str:
    asked = getattr(spec.base, "add_python", "") or spec.python_version
    if asked or not isinstance(spec.base, DebianSlim | Micromamba):
        return asked
    return _series(host.python_version)


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])
