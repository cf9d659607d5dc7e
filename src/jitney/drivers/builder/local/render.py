"""What uv is asked for: pure functions from a step to a command line and the files that it reads."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from jitney.core import imagechecks
from jitney.values.images import ImageSpec, PipInstall, UvSync

# In uv's own words where it has them, and the option of pip that it lacks.
ALIASES = {"--no-cache-dir": "--no-cache", "--trusted-host": "--allow-insecure-host"}


# In uv's errors, where it was told to take wheels alone.
NO_WHEEL = ("no usable wheels", "no wheels", "building source distributions", "building from source", "--no-build")
# What makes a package's own code run, whatever wheels there are.
BUILDS = {"--no-binary", "--no-build-isolation", "--no-build-isolation-package"}
TAKEN_BY_BOTH = {"--index", "--default-index", "--find-links", "--index-strategy", "--allow-insecure-host", "--offline"}
PLATFORMS_GLIBC = (17, 28, *range(31, 41))  # the minor versions of glibc 2 that uv has a name for
ONLY_WHEELS = ("--only-binary", ":all:")


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """One `uv pip install`: `files` (name -> text) are written to the folder that `argv` runs in."""

    argv: tuple[str, ...]
    files: dict[str, str] = {}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where uv installs to. With `prefix`, `python` is not that of the environment and runs nothing of it.

    `platform` is uv's word for another system than this one; `only_wheels`: nothing is built.
    """

    python: str
    prefix: str = ""
    platform: str = ""
    only_wheels: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """... as options."""
        return (
            *(("--prefix", self.prefix) if self.prefix else ()),
            *(("--python-platform", self.platform) if self.platform else ()),
            *(ONLY_WHEELS if self.only_wheels else ()),
        )


def render_install(uv: str, place: Place, step: PipInstall, number: int) -> Install:
    """The install of step `number`.

    Requirements go by a file: locked ones carry hashes, which a command line cannot, and the list of processes is
    no place for addresses that have tokens in them.
    """
    requirements = f"requirements-{number}.txt"
    files = {requirements: "".join(f"{line}\n" for line in step.requirements)}
    argv = [uv, "pip", "install", "--python", place.python, "--requirements", requirements]
    if step.constraints:
        constraints = f"constraints-{number}.txt"
        files[constraints] = "".join(f"{line}\n" for line in step.constraints)
        argv += ["--constraints", constraints]
    if step.index_url:
        argv += [f"--default-index={step.index_url}"]
    argv += [f"--index={url}" for url in step.extra_index_url.split()]
    if step.extra_index_url or step.index_url:
        argv += ["--index-strategy=unsafe-best-match"]
    argv += [f"--find-links={where}" for where in step.find_links.split()]
    if step.pre:
        argv += ["--prerelease=allow"]
    for name, value in _split(step.extra_options, imagechecks.INSTALL_OPTIONS):
        argv.append(f"{ALIASES.get(name, name)}{value}")
    return Install(argv=(*argv, *place.options), files=files)


def builds_anyway(step: PipInstall | UvSync) -> bool:
    """Whether the step asks for packages to be built, so that wheels alone cannot do."""
    allowed = imagechecks.INSTALL_OPTIONS if isinstance(step, PipInstall) else imagechecks.SYNC_OPTIONS
    return any(name in BUILDS for name, _ in _split(step.extra_options, allowed))


def render_export(uv: str, python: str, step: UvSync, output: str, *, only_wheels: bool) -> Install:
    """What a lock file holds, as requirements with hashes in the file `output`. Runs in the project's folder."""
    argv = [uv, "export", "--quiet", "--no-header", "--no-annotate", "--no-emit-workspace", "--no-emit-local"]
    argv += ["--python", python, "--output-file", output]
    argv += ["--frozen"] if step.frozen else []
    argv += [f"--group={group}" for group in step.groups]
    argv += [f"--extra={extra}" for extra in step.extras]
    argv += ["--no-build"] if only_wheels else []
    for name, value in _split(step.extra_options, imagechecks.SYNC_OPTIONS):
        if name == "--no-install-package":
            argv.append(f"--no-emit-package{value}")
        elif name in TAKEN_BY_BOTH or name not in {*imagechecks.INSTALL_OPTIONS, "--no-install-workspace"}:
            argv.append(f"{name}{value}")
    return Install(argv=tuple(argv))


def locked_install(step: UvSync, exported: str, indexes: Sequence[str]) -> PipInstall:
    """What `render_export` wrote, as an install like any other. `indexes` are those that the project names.

    Raises:
        InvalidError: it has something in it that no requirement has.
    """
    options = ["--no-deps"]
    for name, value in _split(step.extra_options, imagechecks.SYNC_OPTIONS):
        if name in imagechecks.INSTALL_OPTIONS and name != "--no-deps":
            options.append(shlex.quote(f"{name}{value}"))
    lines = exported.replace("\\\n", " ").splitlines()
    install = PipInstall(
        requirements=tuple(" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")),
        extra_index_url=" ".join(indexes),
        extra_options=" ".join(options),
        env=step.env,
        secrets=step.secrets,
    )
    imagechecks.check(ImageSpec(layers=(install,)))
    return install


def platform_of(machine: str, libc: str) -> str:
    """uv's word for a Linux: `libc` is 'glibc 2.36' or 'musl'; '' where it has none.

    >>> platform_of("x86_64", "glibc 2.30")
    'x86_64-manylinux_2_28'
    """
    if machine not in ("x86_64", "aarch64"):
        return ""
    if libc == "musl":
        return f"{machine}-unknown-linux-musl"
    _, _, version = libc.partition("glibc 2.")
    minor = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    known = [one for one in PLATFORMS_GLIBC if one <= minor]
    return f"{machine}-manylinux_2_{known[-1]}" if known else ""


def is_for_want_of_a_wheel(output: str) -> bool:
    """Whether an install of wheels alone failed because a package has to be built."""
    text = " ".join(output.split()).lower()
    return any(sign in text for sign in NO_WHEEL)


def is_disk_full(output: str) -> bool:
    """Whether a command that printed this failed for want of room."""
    return "No space left on device" in output or "os error 28" in output or "Disk quota exceeded" in output


def _split(options: str, allowed: Mapping[str, bool]) -> Iterator[tuple[str, str]]:
    """(name, '=value' or '') of each option."""
    words = iter(imagechecks.split_options(options, allowed))
    for word in words:
        name, equals, value = word.partition("=")
        if allowed[name] and not equals:
            yield name, f"={next(words)}"
        else:
            yield name, f"{equals}{value}"
