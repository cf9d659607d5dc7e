"""An image as the text of a Dockerfile: for an engine, and to be read. Pure; compared in tests.

The text needs BuildKit's mounts: uv, secrets and files of the build are mounted for their step, and are in no layer.
Files of the build are below one context folder: a tree of local files in a folder named after its id, and the rest as
`context_files` gives it. What is private is not in the text: secrets are named, and the engine is handed their values.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping

from jitney.core.imagechecks import SYNC_OPTIONS, split_options
from jitney.core.imageidentity import chain, layer_identity
from jitney.core.imageplan import ImagePlan, title
from jitney.errors import UnsupportedError
from jitney.values.images import (
    AptInstall,
    Base,
    Cmd,
    CopyTree,
    DebianSlim,
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
    volumes_of,
)

UV_IMAGE = "ghcr.io/astral-sh/uv:latest"
MICROMAMBA_IMAGE = "docker.io/mambaorg/micromamba:latest"
VENV = "/opt/jitney"  # where a Python is that was added to a base
OCI_STAGE = "base"  # the name of the build context that an OCI layout is handed in as
FILES = "jitney-files"  # folder of the context with what `context_files` gives
MOUNTED = "/run/jitney"
CALL = """\
import pickle
import sys

sys.path.insert(0, sys.argv[2])
with open(sys.argv[1], "rb") as stream:
    function, args, kwargs = pickle.load(stream)
function(*args, **kwargs)
"""


def render(image: ImagePlan | ImageSpec, *, name_of: Callable[[str], str] = str) -> str:
    """The Dockerfile of an image.

    Args:
        image: its plan, which knows the version of Python, or its declaration.
        name_of: what a tree of files is called in the context; default: its id.

    Raises:
        UnsupportedError: a variable has a line break in it, or a step a volume, which a Dockerfile cannot express.
    """
    base, layers = image.base, _layers(image)
    python = image.python if isinstance(image, ImagePlan) else image.python_version
    lines, target = _base(base, python), "--system --break-system-packages"
    added = getattr(base, "add_python", "")
    if added:
        target = f"--python {VENV}"
        lines += [f"RUN {_uv_mount()} uv venv --managed-python --python {added} {VENV}", f"ENV PATH={VENV}/bin:$PATH"]
    if any(isinstance(layer, PipInstall | UvSync) for layer in layers):
        lines.append("ENV UV_LINK_MODE=copy")
    for layer in layers:
        if volumes_of(layer):
            raise UnsupportedError(
                f"{title(layer)}: a Dockerfile has no place for the volume at {volumes_of(layer)[0].path}",
                hint="fill the volume from a function, and leave `volumes` out of the image",
            )
        lines += _layer(layer, target, name_of)
    return "\n".join(lines) + "\n"


def context_files(image: ImagePlan | ImageSpec) -> dict[str, bytes]:
    """Files that the text of `render` finds in its context, apart from the trees of local files."""
    found: dict[str, bytes] = {}
    for layer in _layers(image):
        folder = _folder(layer)
        match layer:
            case PipInstall():
                found[f"{folder}/requirements.txt"] = "".join(f"{one}\n" for one in layer.requirements).encode()
                if layer.constraints:
                    found[f"{folder}/constraints.txt"] = "".join(f"{one}\n" for one in layer.constraints).encode()
            case RunFunction():
                found[f"{folder}/call.py"] = CALL.encode()
                found[f"{folder}/function.pickle"] = layer.pickled
            case MicromambaInstall(spec_file=text) if text:
                found[f"{folder}/environment.yaml"] = text.encode()
            case _:
                pass
    return found


def _layers(image: ImagePlan | ImageSpec) -> tuple[Layer, ...]:
    if isinstance(image, ImageSpec):
        return image.layers
    return tuple(step.layer for step in image.steps if step.layer is not None)


def _base(base: Base, python: str) -> list[str]:
    match base:
        case DebianSlim():
            return [f"FROM docker.io/library/python:{python or '3'}-slim"]
        case Registry(reference=reference):
            return [f"FROM {reference}"]
        case OciArchive(path=path, reference=reference):
            chosen = f", {reference}" if reference else ""
            return [f"# {OCI_STAGE}: the OCI layout {path}{chosen}", f"FROM {OCI_STAGE}"]
        case Dockerfile(text=text):
            return [text.rstrip("\n")]
        case Scratch():
            return ["FROM scratch"]
        case Micromamba():
            version = f"={python}" if python else ""
            return [
                f"FROM {MICROMAMBA_IMAGE}",
                "USER root",
                "ENV PATH=/opt/conda/bin:$PATH",
                f"RUN micromamba install -y -n base -c conda-forge python{version} && micromamba clean -ay",
            ]
        case Named(reference=reference):
            return [f"FROM {reference}"]


def _layer(layer: Layer, target: str, name_of: Callable[[str], str]) -> list[str]:
    match layer:
        case PipInstall():
            return [_pip(layer, target)]
        case UvSync():
            return [_uv_sync(layer, name_of)]
        case AptInstall(packages=packages):
            return [
                _run(
                    layer,
                    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
                    f"{shlex.join(packages)} && rm -rf /var/lib/apt/lists/*",
                )
            ]
        case RunCommands(commands=commands):
            return [_run(layer, command) for command in commands]
        case RunFunction():
            return [_function(layer, name_of)]
        case MicromambaInstall():
            return [_conda(layer)]
        case CopyTree(source_id=source_id, target=place):
            return [f"COPY {json.dumps([f'{name_of(source_id)}/', place])}"]
        case Env(variables=variables):
            return ["ENV " + " ".join(f"{name}={_quoted(name, value)}" for name, value in variables.items())]
        case Workdir(path=path):
            return [f"WORKDIR {path}"]
        case Entrypoint(words=words):
            return [f"ENTRYPOINT {json.dumps(list(words))}"]
        case Cmd(words=words):
            return [f"CMD {json.dumps(list(words))}"]
        case Shell(words=words):
            return [f"SHELL {json.dumps(list(words))}"]


def _pip(layer: PipInstall, target: str) -> str:
    words = ["uv", "pip", "install", *target.split(), "-r", f"{MOUNTED}/requirements.txt"]
    if layer.constraints:
        words += ["-c", f"{MOUNTED}/constraints.txt"]
    if layer.index_url:
        words.append(f"--default-index={redacted(layer.index_url)}")
    words += [f"--index={redacted(url)}" for url in layer.extra_index_url.split()]
    words += [f"--find-links={redacted(place)}" for place in layer.find_links.split()]
    if layer.pre:
        words.append("--prerelease=allow")
    words += split_options(layer.extra_options)
    return _run(layer, shlex.join(words), _uv_mount(), _bind(_folder(layer), MOUNTED))


def _uv_sync(layer: UvSync, name_of: Callable[[str], str]) -> str:
    words = ["uv", "sync", "--no-install-project", "--inexact", *(["--frozen"] if layer.frozen else [])]
    words += [f"--group={name}" for name in layer.groups] + [f"--extra={name}" for name in layer.extras]
    words += split_options(layer.extra_options, SYNC_OPTIONS)
    prefix = "UV_PROJECT_ENVIRONMENT=\"$(python3 -c 'import sys; print(sys.prefix)')\""
    command = f"cd {MOUNTED} && {prefix} {shlex.join(words)}"
    return _run(layer, command, _uv_mount(), _bind(name_of(layer.source_id), MOUNTED, ",rw"))


def _function(layer: RunFunction, name_of: Callable[[str], str]) -> str:
    mounts = [_bind(_folder(layer), MOUNTED)]
    source = f"{MOUNTED}-source"
    if layer.source_id:
        mounts.append(_bind(name_of(layer.source_id), source))
    return _run(layer, f"python3 {MOUNTED}/call.py {MOUNTED}/function.pickle {source}", *mounts)


def _conda(layer: MicromambaInstall) -> str:
    words = ["micromamba", "install", "-y", "-n", "base"]
    for channel in layer.channels or (() if layer.spec_file else ("conda-forge",)):
        words += ["-c", channel]
    words += layer.packages
    mounts = []
    if layer.spec_file:
        words += ["-f", f"{MOUNTED}/environment.yaml"]
        mounts.append(_bind(_folder(layer), MOUNTED))
    return _run(layer, f"{shlex.join(words)} && micromamba clean -ay", *mounts)


def _run(layer: Layer, command: str, *mounts: str) -> str:
    """RUN with what belongs to the step alone: mounts, private variables, variables of its own."""
    env: Mapping[str, str] = getattr(layer, "env", {})
    secrets = [f"--mount=type=secret,id={name},env={name}" for name in sorted(getattr(layer, "secrets", {}))]
    head = " ".join(["RUN", *mounts, *secrets])
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    is_plain = "\n" not in command and "<<" not in command and not command.endswith("\\")
    if is_plain and not any("\n" in line for line in exports) and not command.lstrip().startswith(("[", "--", "#")):
        return f"{head} {' && '.join([*exports, command])}"
    body = "\n".join([*exports, command.rstrip("\n")])
    word = "EOF"
    while word in body.splitlines():
        word += "_"
    return f"{head} <<'{word}'\n{body}\n{word}"


def _uv_mount() -> str:
    return f"--mount=type=bind,from={UV_IMAGE},source=/uv,target=/usr/local/bin/uv"


def _bind(source: str, target: str, options: str = "") -> str:
    return f"--mount=type=bind,source={source},target={target}{options}"


def _folder(layer: Layer) -> str:
    """Where the files of a layer are in the context."""
    return f"{FILES}/{chain(b'', layer_identity(layer)).hex()[:16]}"


def _quoted(name: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise UnsupportedError(
            f"the variable {name!r} has a line break in it, which a Dockerfile cannot express",
            hint="set it at the function: @app.function(env=...), or write it to a file by run_commands",
        )
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
