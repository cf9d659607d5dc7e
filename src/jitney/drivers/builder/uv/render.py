"""What uv is asked for: pure functions from a step to a command line and the files that it reads."""

from __future__ import annotations

import msgspec

from jitney.core.imageplan import split_options
from jitney.values.images import PipInstall

# In uv's own words where it has them, and the option of pip that it lacks.
ALIASES = {"--no-cache-dir": "--no-cache", "--trusted-host": "--allow-insecure-host"}


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """One `uv pip install`: `files` (name -> text) are written to the folder that `argv` runs in."""

    argv: tuple[str, ...]
    files: dict[str, str]


def render_install(uv: str, python: str, step: PipInstall, number: int) -> Install:
    """The install of step `number` into the environment of `python`.

    Requirements go by a file: locked ones carry hashes, which a command line cannot, and the list of processes is
    no place for addresses that have tokens in them.
    """
    requirements = f"requirements-{number}.txt"
    files = {requirements: "".join(f"{line}\n" for line in step.requirements)}
    argv = [uv, "pip", "install", "--python", python, "--requirements", requirements]
    if step.constraints:
        constraints = f"constraints-{number}.txt"
        files[constraints] = "".join(f"{line}\n" for line in step.constraints)
        argv += ["--constraints", constraints]
    if step.index_url:
        argv += [f"--default-index={step.index_url}"]
    argv += [f"--index={url}" for url in step.extra_index_url.split()]
    if step.extra_index_url or step.index_url:
        argv += ["--index-strategy=unsafe-best-match"]
    argv += [f"--find-links={place}" for place in step.find_links.split()]
    if step.pre:
        argv += ["--prerelease=allow"]
    for word in split_options(step.extra_options):
        name, equals, value = word.partition("=")
        argv.append(f"{ALIASES.get(name, name)}{equals}{value}")
    return Install(argv=tuple(argv), files=files)


def render_venv(uv: str, interpreter: str, folder: str) -> tuple[str, ...]:
    """An empty environment of `interpreter`."""
    return (uv, "venv", "--quiet", "--no-project", "--python", interpreter, folder)


def is_disk_full(output: str) -> bool:
    """Whether a command that printed this failed for want of room."""
    return "No space left on device" in output or "os error 28" in output or "Disk quota exceeded" in output
