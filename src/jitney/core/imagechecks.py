"""What a declaration may say. Everything in it comes from a client and ends on a command line or a disk, so it is taken
as hostile: whatever would make a tool do something else than asked is refused by a sentence that says what is wrong.

A package is never an option, a path or two lines; a target never leads out of the image; a variable is one that a
process can have; and everything has a limit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping

from jitney.core.volumes import check_mounts, check_path
from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
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
    Shell,
    UvSync,
    Workdir,
    redacted,
    volumes_of,
)
from jitney.values.volumes import VolumeMount

LAYERS_MAX = 100
REQUIREMENTS_MAX = 5_000
REQUIREMENT_CHARS_MAX = 32 * 1024  # locked files carry some dozens of hashes in one requirement
OPTIONS_CHARS_MAX = 8 * 1024
VARIABLES_MAX = 1_000
PACKAGES_MAX = 2_000
PACKAGE_CHARS_MAX = 256
COMMANDS_MAX = 1_000
COMMAND_CHARS_MAX = 120_000  # the kernel takes 128 KiB as one argument
WORDS_MAX = 1_000
PATH_CHARS_MAX = 1_024
REFERENCE_CHARS_MAX = 512
TEXT_CHARS_MAX = 1024 * 1024
PICKLED_BYTES_MAX = 32 * 1024 * 1024
TIMEOUT_MS_MAX = 24 * 3_600_000
# The module that defines a function imports the SDK, which needs this; pickled code needs its caller's own version.
PYTHON_MINOR_MIN = 11

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
# Of `uv sync`, in addition to those that it has in common with `uv pip install`.
SYNC_OPTIONS = {
    **{
        name: takes_value
        for name, takes_value in INSTALL_OPTIONS.items()
        if name not in ("--no-deps", "--require-hashes", "--no-verify-hashes", "--torch-backend", "--no-cache-dir")
    },
    "--no-dev": False,
    "--dev": False,
    "--only-dev": False,
    "--all-extras": False,
    "--no-extra": True,
    "--all-groups": False,
    "--no-group": True,
    "--only-group": True,
    "--no-default-groups": False,
    "--no-install-package": True,
    "--no-install-workspace": False,
    "--package": True,
    "--all-packages": False,
    "--index": True,
    "--default-index": True,
    "--find-links": True,
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?=$|[\s\[;@<>=!~(])")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")
_HASH = re.compile(r"--hash=(sha256|sha384|sha512):[0-9a-fA-F]+")
_VERSION = re.compile(r"3\.(\d{1,2})(\.\d{1,3})?")
# A name that ends in '-' would be removed by apt-get, not installed.
_APT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9+._-]*[A-Za-z0-9+])?(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~*-]+|/[a-z0-9._-]+)?")
_CONDA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+*=<>!~,|\[\]'\" -]*")
_CHANNEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@%+~-]*")
_GROUP = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_REFERENCE = re.compile(
    r"(?:[A-Za-z0-9]+(?:[.-]+[A-Za-z0-9]+)*(?::\d{1,5})?/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_NAME = re.compile(
    r"([a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
)


def check(spec: ImageSpec) -> None:
    """Look at everything in a declaration.

    Raises:
        InvalidError: something in it cannot be right.
        UnsupportedError: its Python is too old.
    """
    if len(spec.layers) > LAYERS_MAX:
        raise InvalidError(f"an image may have {LAYERS_MAX:,} layers, not {len(spec.layers):,}")
    _check_base(spec.base)
    if spec.python_version:
        check_python(spec.python_version)
    for layer in spec.layers:
        _check_layer(layer)
        if isinstance(layer, MicromambaInstall) and not isinstance(spec.base, Micromamba | Named):
            raise InvalidError("micromamba_install needs micromamba", hint="begin with Image.micromamba()")


def check_python(version: str) -> None:
    """Whether functions can run in this Python: "3.12" or "3.12.1".

    Raises:
        InvalidError: not a version.
        UnsupportedError: too old.
    """
    found = _VERSION.fullmatch(version)
    if not found:
        raise InvalidError(f"python_version {version[:40]!r} is not of the form '3.12'", hint="give it as a string")
    if int(found[1]) < PYTHON_MINOR_MIN:
        raise UnsupportedError(f"Python {version} is too old", hint=f"functions need 3.{PYTHON_MINOR_MIN} or later")


def full_name(name: str) -> str:
    """A name of an image with its tag.

    >>> full_name("trainer"), full_name("team/trainer:v2")
    ('trainer:latest', 'team/trainer:v2')

    Raises:
        InvalidError: not a name.
    """
    found = _NAME.fullmatch(name) if len(name) <= REFERENCE_CHARS_MAX else None
    if not found:
        raise InvalidError(
            f"{name[:80]!r} is not a name of an image", hint="'trainer' or 'trainer:v2': small letters, digits, '._-/'"
        )
    return f"{found[1]}:{found[2] or 'latest'}"


def split_options(text: str, allowed: Mapping[str, bool] = INSTALL_OPTIONS) -> list[str]:
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
        takes_value = allowed.get(name)
        if takes_value is None or (equals and not takes_value):
            raise InvalidError(
                f"extra_options may not have {word[:80]!r}", hint=f"possible are {', '.join(sorted(allowed))}"
            )
        waiting = name if takes_value and not equals else ""
    if waiting:
        raise InvalidError(f"extra_options: {waiting} needs a value")
    return words


# ---------------------------------------------------------------------------------------------------------- bases


def _check_base(base: Base) -> None:
    match base:
        case Registry():
            if len(base.reference) > REFERENCE_CHARS_MAX or not _REFERENCE.fullmatch(base.reference):
                raise InvalidError(
                    f"{base.reference[:80]!r} is not an image of a registry",
                    hint="for example 'python:3.12-slim' or 'ghcr.io/owner/name:tag'",
                )
            _check_credentials(base.username, base.password)
        case OciArchive():
            _check_text("the path of an OCI layout", base.path, PATH_CHARS_MAX)
            if not base.path.startswith("/") or ".." in base.path.split("/"):
                raise InvalidError(f"{base.path[:80]!r} is not an absolute path", hint="it is on the worker's machine")
            if base.reference:
                _check_text("the reference", base.reference, REFERENCE_CHARS_MAX)
        case Dockerfile():
            if not base.text.strip() or "\0" in base.text or len(base.text) > TEXT_CHARS_MAX:
                raise InvalidError("the Dockerfile is empty, too long, or not text")
            if base.context_id:
                ids.check(base.context_id, ids.SOURCE)
            check_variables(base.build_args)
            check_variables(base.secrets)
            _check_credentials(base.username, base.password)
        case Named(reference=reference):
            if not ids.is_id(reference, ids.IMAGE):
                full_name(reference)
        case DebianSlim() | Micromamba() | _:
            pass
    add_python = getattr(base, "add_python", "")
    if add_python:
        check_python(add_python)


def _check_credentials(username: str, password: str) -> None:
    if _CONTROL.search(username) or "\0" in password or len(password) > TEXT_CHARS_MAX:
        raise InvalidError("the user name or the password of the registry has control characters")


# --------------------------------------------------------------------------------------------------------- layers


def _check_layer(layer: Layer) -> None:
    check_variables(getattr(layer, "env", {}))
    check_variables(getattr(layer, "secrets", {}))
    _check_volumes(volumes_of(layer))
    match layer:
        case PipInstall():
            _check_install(layer)
        case Env(variables=variables):
            check_variables(variables)
        case Workdir(path=path):
            _check_workdir(path)
        case AptInstall(packages=packages):
            _check_each("apt_install", packages, PACKAGES_MAX, _APT, "give names such as 'ffmpeg' or 'git=1:2.39*'")
        case RunCommands(commands=commands):
            _check_commands(commands)
        case RunFunction():
            _check_function(layer)
        case CopyTree():
            ids.check(layer.source_id, ids.SOURCE)
            _check_target(layer.target)
        case UvSync():
            ids.check(layer.source_id, ids.SOURCE)
            for name in (*layer.groups, *layer.extras):
                _check_pattern("uv_sync: the group or extra", name, _GROUP)
            split_options(layer.extra_options, SYNC_OPTIONS)
        case MicromambaInstall():
            _check_conda(layer)
        case Entrypoint(words=words):
            _check_words("entrypoint", words)
        case Cmd(words=words):
            _check_words("cmd", words)
        case Shell(words=words):
            _check_words("shell", words)
            if not words or not words[0]:
                raise InvalidError("shell needs a program", hint="for example ['/bin/bash', '-c']")


def _check_volumes(volumes: tuple[VolumeMount, ...]) -> None:
    check_mounts([one.path for one in volumes])
    for one in volumes:
        ids.check(one.volume_id, ids.VOLUME)
        if one.sub_path:
            check_path(one.sub_path)


def _check_install(layer: PipInstall) -> None:
    if len(layer.requirements) + len(layer.constraints) > REQUIREMENTS_MAX:
        raise InvalidError(f"one step may install {REQUIREMENTS_MAX:,} requirements")
    for requirement in (*layer.requirements, *layer.constraints):
        _check_requirement(requirement)
    for name in ("find_links", "index_url", "extra_index_url"):
        value: str = getattr(layer, name)
        shown = redacted(value)[:80]
        if _CONTROL.search(value) or len(value) > OPTIONS_CHARS_MAX:
            raise InvalidError(f"{name} {shown!r} has a line break or is too long")
        if any(word.startswith("-") for word in value.split()):
            raise InvalidError(f"{name} {shown!r} is an option, not an address")
    split_options(layer.extra_options)


def _check_requirement(text: str) -> None:
    safe = redacted(text)
    shown = repr(safe if len(safe) <= 80 else safe[:79] + "…")
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


def check_variables(variables: Mapping[str, str]) -> None:
    """Whether a process can have these.

    Raises:
        InvalidError: it cannot. The message has no value in it.
    """
    if len(variables) > VARIABLES_MAX:
        raise InvalidError(f"one step may have {VARIABLES_MAX:,} variables")
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidError(f"{name[:80]!r} cannot be an environment variable")


def _check_workdir(path: str) -> None:
    if not path or _CONTROL.search(path) or ".." in path.split("/") or len(path) > PATH_CHARS_MAX:
        raise InvalidError(f"the workdir {path[:80]!r} is not a plain path")


def _check_target(target: str) -> None:
    _check_text("the target", target, PATH_CHARS_MAX)
    if not target.endswith("/") or ".." in target.split("/"):
        raise InvalidError(f"the target {target[:80]!r} is not a folder's plain path", hint="for example '/data/'")


def _check_commands(commands: tuple[str, ...]) -> None:
    if not commands or len(commands) > COMMANDS_MAX:
        raise InvalidError(f"run_commands takes from 1 to {COMMANDS_MAX:,} commands, not {len(commands):,}")
    for command in commands:
        if not command.strip() or "\0" in command or len(command) > COMMAND_CHARS_MAX:
            raise InvalidError(f"the command {command[:80]!r} is empty, too long, or has a NUL in it")


def _check_function(layer: RunFunction) -> None:
    _check_text("the name of the function", layer.name, PATH_CHARS_MAX)
    if layer.source_id:
        ids.check(layer.source_id, ids.SOURCE)
    if len(layer.pickled) > PICKLED_BYTES_MAX or len(layer.identity) > TEXT_CHARS_MAX:
        raise InvalidError(
            f"run_function({layer.name}) has {len(layer.pickled):,} bytes when pickled",
            hint="give large arguments as files, or make them inside the function",
        )
    if layer.cpu_milli < 0 or layer.memory_mib < 0 or not 0 < layer.timeout_ms <= TIMEOUT_MS_MAX:
        raise InvalidError(f"run_function({layer.name}): cpu, memory or timeout is out of bounds")


def _check_conda(layer: MicromambaInstall) -> None:
    if not layer.packages and not layer.spec_file:
        raise InvalidError("micromamba_install has nothing to install")
    _check_each("micromamba_install", layer.packages, PACKAGES_MAX, _CONDA, "give names such as 'numpy=2.1'")
    _check_each("micromamba_install: channels", layer.channels, WORDS_MAX, _CHANNEL, "such as 'conda-forge'")
    if "\0" in layer.spec_file or len(layer.spec_file) > TEXT_CHARS_MAX:
        raise InvalidError("the spec_file is too long or not text")


def _check_words(method: str, words: tuple[str, ...]) -> None:
    if len(words) > WORDS_MAX:
        raise InvalidError(f"{method} may have {WORDS_MAX:,} words")
    for word in words:
        if "\0" in word or len(word) > COMMAND_CHARS_MAX:
            raise InvalidError(f"{method}: the word {word[:80]!r} is too long or has a NUL in it")


def _check_each(method: str, words: Iterable[str], most: int, pattern: re.Pattern[str], hint: str) -> None:
    words = tuple(words)
    if len(words) > most:
        raise InvalidError(f"{method} may have {most:,} names, not {len(words):,}")
    for word in words:
        _check_pattern(method, word, pattern, hint)


def _check_pattern(what: str, word: str, pattern: re.Pattern[str], hint: str = "") -> None:
    if len(word) > PACKAGE_CHARS_MAX or not pattern.fullmatch(word):
        raise InvalidError(f"{what}: {redacted(word)[:80]!r} is not a name", hint=hint)


def _check_text(what: str, text: str, most: int) -> None:
    if not text or len(text) > most or _CONTROL.search(text):
        raise InvalidError(f"{what} {text[:80]!r} is empty, too long, or has control characters")
