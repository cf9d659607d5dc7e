"""From an image as declared to a plan of steps: what is done, in which order, and what it is called.

Identity. Each step has a digest over the digest before it and its own content, so that the last one names everything
that went in: equal declarations give the same image id on machines of one platform, and order matters. The Python
version is part of it, the patch level only where it was asked for.

Two ids. `image_id` covers every layer. `environment_id` stops at the last layer that installs something: images that
differ by variables and working folder alone share one folder of packages, so that a changed `.env()` builds nothing.

What a runtime cannot make is refused here, before anything runs, and so is whatever would make an installer do
something else than install: a requirement is never an option, a path or two lines.
"""

from __future__ import annotations

import hashlib
import re
import shlex

import msgspec

from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.images import Env, ImageSpec, Layer, PipInstall, Unmakeable, Workdir

FORMAT = 1  # raised when the same declaration must give something else
LAYERS_MAX = 100
REQUIREMENTS_MAX = 5_000
REQUIREMENT_CHARS_MAX = 32 * 1024  # locked files carry some dozens of hashes in one requirement
OPTIONS_CHARS_MAX = 8 * 1024
VARIABLES_MAX = 1_000
TITLE_CHARS_MAX = 100
# The module that defines a function imports the SDK, which needs this; pickled code needs its caller's own version.
PYTHON_MINOR_MIN = 11
SPEC_VARIABLE = "JITNEY_IMAGE_DIGEST"  # in the environment of containers: `spec_digest` of the image they have

NEEDS_ROOT = "it needs a container runtime with a root file system; the process runtime makes Python environments only"
# What to do instead, where there is something.
INSTEAD = {
    "apt_install": "install the packages on the machine that runs the containers",
    "micromamba_install": "most of conda's packages are on PyPI: use uv_pip_install",
    "micromamba": "use Image.debian_slim, and uv_pip_install for packages that are on PyPI",
    "pip_install_private_repos": "use uv_pip_install('name @ git+https://...') with the machine's git credentials",
    "poetry_install_from_file": "export the lock file and use pip_install_from_requirements",
    "uv_sync": "use pip_install_from_pyproject, or 'uv export' and pip_install_from_requirements",
    "run_function": "do it in an @enter method, or at the module's top level",
    "add_python": "use Image.debian_slim(python_version=...)",
}

# Options that change how packages are found and built, not where they go. True: takes a value.
INSTALL_OPTIONS = {
    "--no-deps": False,
    "--no-build": False,
    "--no-build-isolation": False,
    "--no-build-isolation-package": True,
    "--no-binary": True,
    "--only-binary": True,
    "--config-setting": True,
    "-C": True,
    "--upgrade": False,
    "-U": False,
    "--upgrade-package": True,
    "-P": True,
    "--reinstall": False,
    "--reinstall-package": True,
    "--resolution": True,
    "--prerelease": True,
    "--fork-strategy": True,
    "--exclude-newer": True,
    "--index-strategy": True,
    "--keyring-provider": True,
    "--no-index": False,
    "--no-sources": False,
    "--no-cache": False,
    "--no-cache-dir": False,
    "--refresh": False,
    "--offline": False,
    "--require-hashes": False,
    "--no-verify-hashes": False,
    "--allow-insecure-host": True,
    "--trusted-host": True,
    "--torch-backend": True,
    "--verbose": False,
    "-v": False,
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?=$|[\s\[;@<>=!~(])")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")
_HASH = re.compile(r"--hash=(sha256|sha384|sha512):[0-9a-fA-F]+")
_VERSION = re.compile(r"3\.(\d{1,2})(\.\d{1,3})?")


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that builds. `sdk_needs` is installed where the image's Python cannot share the host's packages."""

    python_version: str  # "3.11.7"
    platform: str  # "linux-x86_64"
    sdk_needs: tuple[str, ...] = ()  # "cloudpickle==3.1.2", ...


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `install` is what it installs, with the variables that are set by then; None: nothing to run."""

    title: str
    digest: str
    install: PipInstall | None = None
    env: dict[str, str] = {}


class ImagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do for an image, and what it will be called. The first step makes the environment of `python`."""

    image_id: str
    environment_id: str
    spec_digest: str
    python: str  # "3.11", or "3.11.7" where that was asked for
    steps: tuple[Step, ...]
    environment_steps: int  # how many of `steps`, from the first, the environment consists of
    env: dict[str, str] = {}
    workdir: str = ""
    force_build: bool = False


def plan(spec: ImageSpec, host: Host) -> ImagePlan:
    """The plan for `spec` on `host`.

    Raises:
        InvalidError: a layer that cannot be right, such as a requirement that is an option.
        UnsupportedError: a layer or a base that needs another runtime; the message names it.
    """
    _check_makeable(spec)
    python = spec.python_version or _series(host.python_version)
    _check_python(python)
    digest = _digest(b"", [FORMAT, spec.base, python, host.platform])
    steps = [Step(title=f"Python {python} environment", digest=digest.hex())]
    layers: list[Layer] = [*spec.layers]
    if _series(python) != _series(host.python_version) and host.sdk_needs:
        layers.insert(0, PipInstall(requirements=host.sdk_needs))
    env: dict[str, str] = {}
    workdir, environment, environment_steps = "", digest, 1
    for layer in layers:
        digest = _digest(digest, layer)
        install = None
        match layer:
            case PipInstall():
                _check_install(layer)
                install, environment, environment_steps = layer, digest, len(steps) + 1
            case Env(variables=variables):
                _check_variables(variables)
                env = {**env, **variables}
            case Workdir(path=path):
                workdir = _checked_workdir(path)
        steps.append(Step(title=title(layer), digest=digest.hex(), install=install, env=env if install else {}))
    return ImagePlan(
        image_id=ids.make(ids.IMAGE, digest),
        environment_id=ids.make(ids.IMAGE, environment),
        spec_digest=spec_digest(spec),
        python=python,
        steps=tuple(steps),
        environment_steps=environment_steps,
        env=env,
        workdir=workdir,
        force_build=spec.force_build,
    )


def spec_digest(spec: ImageSpec) -> str:
    """What tells two declarations apart without knowing the machine: hex, 64 characters."""
    return _digest(b"", msgspec.structs.replace(spec, force_build=False)).hex()


def title(layer: Layer) -> str:
    """A layer in a few words, for a line of progress. Values of variables may be secret and are not in it."""
    match layer:
        case PipInstall(requirements=requirements):
            text = "pip install " + " ".join(r.split(" --hash=")[0] for r in requirements)
        case Env(variables=variables):
            text = "env " + ", ".join(variables)
        case Workdir(path=path):
            text = f"workdir {path}"
        case Unmakeable(method=method):
            text = method
    return text if len(text) <= TITLE_CHARS_MAX else text[: TITLE_CHARS_MAX - 1] + "…"


def split_options(text: str) -> list[str]:
    """`extra_options` as words.

    Raises:
        InvalidError: not of the options that an image's step may have.
    """
    if _CONTROL.search(text) or len(text) > OPTIONS_CHARS_MAX:
        raise InvalidError(f"extra_options {text[:80]!r} has a line break or is too long")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidError(f"extra_options {text[:80]!r}: {error}") from None
    waiting = ""
    for word in words:
        if waiting:
            waiting = ""
            continue
        name, equals, _ = word.partition("=")
        takes_value = INSTALL_OPTIONS.get(name)
        if takes_value is None or (equals and not takes_value):
            raise InvalidError(
                f"extra_options may not have {word[:80]!r}", hint=f"possible are {', '.join(sorted(INSTALL_OPTIONS))}"
            )
        waiting = name if takes_value and not equals else ""
    if waiting:
        raise InvalidError(f"extra_options: {waiting} needs a value")
    return words


def _digest(before: bytes, content: object) -> bytes:
    # Tagged Structs and sorted keys: two different contents never have the same bytes.
    return hashlib.sha256(before + msgspec.msgpack.encode(content, order="deterministic")).digest()


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _check_makeable(spec: ImageSpec) -> None:
    if len(spec.layers) > LAYERS_MAX:
        raise InvalidError(f"an image may have {LAYERS_MAX} layers, not {len(spec.layers):,}")
    for layer in spec.layers:
        if isinstance(layer, Unmakeable):
            instead = INSTEAD.get(layer.method)
            raise UnsupportedError(
                f"Image.{layer.method}({layer.arguments}) cannot be made on this runtime",
                hint=f"{NEEDS_ROOT}. Instead: {instead}" if instead else NEEDS_ROOT,
            )
    if spec.base != "debian_slim":
        raise UnsupportedError(f"the base image {spec.base[:80]!r} cannot be made on this runtime", hint=NEEDS_ROOT)


def _check_python(version: str) -> None:
    found = _VERSION.fullmatch(version)
    if not found:
        raise InvalidError(f"python_version {version[:40]!r} is not of the form '3.12'", hint="give it as a string")
    if int(found[1]) < PYTHON_MINOR_MIN:
        raise UnsupportedError(f"Python {version} is too old", hint=f"functions need 3.{PYTHON_MINOR_MIN} or later")


def _check_install(layer: PipInstall) -> None:
    if len(layer.requirements) + len(layer.constraints) > REQUIREMENTS_MAX:
        raise InvalidError(f"one step may install {REQUIREMENTS_MAX:,} requirements")
    for requirement in layer.requirements:
        _check_requirement(requirement)
    for constraint in layer.constraints:
        _check_requirement(constraint)
    for name in ("find_links", "index_url", "extra_index_url"):
        value: str = getattr(layer, name)
        if _CONTROL.search(value) or len(value) > OPTIONS_CHARS_MAX:
            raise InvalidError(f"{name} {value[:80]!r} has a line break or is too long")
        if any(word.startswith("-") for word in value.split()):
            raise InvalidError(f"{name} {value[:80]!r} is an option, not an address")
    split_options(layer.extra_options)


def _check_requirement(text: str) -> None:
    shown = repr(text if len(text) <= 80 else text[:79] + "…")
    if _CONTROL.search(text) or len(text) > REQUIREMENT_CHARS_MAX:
        raise InvalidError(f"the requirement {shown} has a line break or is too long", hint="give one package each")
    requirement, *hashes = re.split(r"\s+(?=-)", text.strip())
    if not requirement:
        raise InvalidError("a requirement is empty")
    if requirement.startswith("-"):
        raise InvalidError(
            f"the requirement {shown} is an option",
            hint="options have parameters of their own (index_url, pre, ...) or go to extra_options",
        )
    if not all(_HASH.fullmatch(word) for word in hashes) or text.rstrip().endswith("\\"):
        raise InvalidError(f"the requirement {shown} has an option in it", hint="only --hash=sha256:... may follow")
    if not _PROJECT.match(requirement) and not _URL.match(requirement):
        raise InvalidError(
            f"the requirement {shown} is neither a package nor a URL",
            hint="local code is shipped by add_local_python_source; a folder of wheels is found by find_links",
        )


def _check_variables(variables: dict[str, str]) -> None:
    if len(variables) > VARIABLES_MAX:
        raise InvalidError(f"one .env() may have {VARIABLES_MAX:,} variables")
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidError(f"{name[:80]!r} cannot be an environment variable")


def _checked_workdir(path: str) -> str:
    if not path or _CONTROL.search(path) or ".." in path.split("/"):
        raise InvalidError(f"the workdir {path[:80]!r} is not a plain path")
    return path
