"""Steps that change the root file system: what each runs, and what it gives to the layer.

`render_*` are pure: from a layer as declared to commands. `StepRunner` runs them, one after the other, in boxes that
write to one layer; their lines are told, and a failing command ends the step.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec

import jitney
from jitney.core.imageplan import SHELL, Step
from jitney.drivers.builder.local import bench
from jitney.drivers.builder.local.bench import Bench, Surroundings
from jitney.drivers.builder.local.copying import Target
from jitney.drivers.builder.local.disk import RootFile
from jitney.drivers.builder.local.interpreters import series
from jitney.drivers.builder.local.union import Union
from jitney.drivers.builder.local.volumes import check_paths, opened
from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.box import Bind
from jitney.ports.lending import Lender
from jitney.values.images import AptInstall, CopyTree, MicromambaInstall, RunCommands, RunFunction

Tell = Callable[[str], None]

APT_OPTIONS = ("-y", "-q", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0")
APT_ENV = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", "LC_ALL": "C.UTF-8"}
APT_CLEANUP = "rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb"
CONDA = "/opt/conda"
CONDA_CHANNEL = "conda-forge"
BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [sys.argv.pop()]; "
    "from jitney.runner.build_function import main; sys.exit(main(sys.argv[1:]))"
)
HOST_FOLDERS = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
SDK_PACKAGES = ("cloudpickle", "msgspec")
EXEC_FAILED = (126, 127)  # of a shell, or of a box: there is no such program


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a step. `shown` is told before it runs; '' = nothing."""

    argv: tuple[str, ...]
    shown: str = ""
    env: dict[str, str] = {}


class Python(msgspec.Struct, frozen=True, kw_only=True):
    """The Python that a step may run: of the environment as it is by then."""

    path: str
    version: str
    root: str  # of the environment
    mounts: tuple[str, ...] = ()


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What a step goes onto: layers as a box sees them, what the base says of itself, the Python if there is one, and
    who has volumes.
    """

    layers: tuple[str, ...]
    about: RootFile = RootFile()
    python: Python | None = None
    lender: Lender | None = None  # of volumes
    image_id: str = ""  # what is built

    @property
    def view(self) -> tuple[str, ...]:
        """The layers, for looking at: also where they are the host's own."""
        return self.layers or (bench.HOST_ROOT,)


def render_apt(packages: tuple[str, ...]) -> tuple[Command, ...]:
    """apt-get: lists, packages, and the lists away again."""
    return (
        Command(argv=("apt-get", "update", *APT_OPTIONS[1:]), shown="apt-get update", env=APT_ENV),
        Command(
            argv=("apt-get", "install", *APT_OPTIONS, "--no-install-recommends", "--", *packages),
            shown=f"apt-get install {' '.join(packages)}",
            env=APT_ENV,
        ),
        Command(argv=("/bin/sh", "-c", APT_CLEANUP), env=APT_ENV),
    )


def render_commands(commands: tuple[str, ...], shell: tuple[str, ...]) -> tuple[Command, ...]:
    """Each by the shell of the image, as its last argument."""
    return tuple(Command(argv=(*(shell or SHELL), command), shown=f"$ {command}") for command in commands)


def render_micromamba(program: str, step: MicromambaInstall, spec_file: str) -> tuple[Command, ...]:
    """Packages into the environment of the base. `spec_file` is where its text is in the box."""
    channels = [word for channel in step.channels or (CONDA_CHANNEL,) for word in ("-c", channel)]
    common = (program, "install", "--yes", "--quiet", "--prefix", CONDA, *channels)
    commands = []
    if step.spec_file:
        commands.append(Command(argv=(*common, "--file", spec_file), shown="micromamba install (a file)"))
    if step.packages:
        shown = f"micromamba install {' '.join(step.packages)}"
        commands.append(Command(argv=(*common, *step.packages), shown=shown))
    return tuple(commands)


def render_conda_base(program: str, python: str) -> tuple[Command, ...]:
    """The environment of a `micromamba` image."""
    argv = (program, "create", "--yes", "--quiet", "--prefix", CONDA, "-c", CONDA_CHANNEL, f"python={python}")
    return (Command(argv=argv, shown=f"micromamba create python={python}"),)


def folder_of(step: Step, about: RootFile) -> str:
    """Where a step's commands start."""
    base = about.workdir if about.workdir.startswith("/") else "/"
    return posixpath.normpath(posixpath.join(base, step.workdir))


def environment_of(step: Step, about: RootFile, python: Python | None, machine: Mapping[str, str]) -> dict[str, str]:
    """The variables of a step's commands: of the machine (proxies), of the base, of the image, and its own."""
    env = {"HOME": "/root", **machine, **about.env, **step.env}
    path = env.get("PATH") or bench.DEFAULT_PATH
    if python:
        path = f"{python.root}/bin:{path}"
        env["VIRTUAL_ENV"] = python.root
    return {**env, "PATH": path, **step.secrets}


class StepRunner:
    """Fills layers."""

    def __init__(self, bench_: Bench, sources: Path, micromamba: str) -> None:
        self._bench = bench_
        self._sources = sources
        self._micromamba = micromamba

    async def fill(self, folder: Path, step: Step, what: str, scene: Scene, tell: Tell) -> RootFile:
        """Do `step` on top of `scene`, into the empty layer `folder`.

        Raises:
            ImageBuildError: it failed; `what` is the step in the message.
            InvalidError: a volume of it would hide what it needs.
            NotFoundError: a volume of it is not there.
            StorageFullError: the disk is full.
            UnsupportedError: the image has nothing to do it with.
        """
        layer = step.layer
        target = Target(folder, scene.view)
        cwd = folder_of(step, scene.about)
        if isinstance(layer, CopyTree):
            is_host = scene.view[0] == bench.HOST_ROOT
            await asyncio.to_thread(self._copy, layer, target, cwd, is_host=is_host)
            return RootFile(title=step.title)
        union = Union(scene.view)
        if not union.is_folder(cwd):
            await asyncio.to_thread(target.make_folder, cwd)
        async with self._bench.passing() as passing, opened(self._bench, scene.lender, layer) as volumes:
            binds = [self._bench.bind_passing(passing)]
            commands = self._commands(step, scene, union, passing, binds)
            if scene.python:
                paths = (scene.python.root, *scene.python.mounts)
                binds += [Bind(source=path, target=path) for path in paths]
            check_paths(volumes.boxed, binds, what)
            around = Surroundings(
                layers=scene.layers,
                upper=str(folder),
                binds=tuple(binds),
                volumes=volumes.boxed,
                env=environment_of(step, scene.about, scene.python, bench.proxies(os.environ)),
                cwd=cwd,
            )
            if isinstance(layer, RunFunction):
                around = msgspec.structs.replace(
                    around,
                    cpu_milli=layer.cpu_milli or None,
                    memory_mib=layer.memory_mib or None,
                    timeout_ms=layer.timeout_ms,
                    env={**around.env, **_import_path(layer, around.env)},
                )
            await self.run_all(commands, around, what, tell)
            targets = [*(one.target for one in volumes.boxed), *(one.target for one in binds)]
            await asyncio.to_thread(_remove_mount_points, folder, targets, scene.view)
            await volumes.commit(what, f"by the build of {scene.image_id}: {step.title}")
        return RootFile(title=step.title)

    async def run_all(self, commands: tuple[Command, ...], around: Surroundings, what: str, tell: Tell) -> None:
        """Commands, one after the other, until one fails."""
        for command in commands:
            if command.shown:
                tell(command.shown)
            here = msgspec.structs.replace(around, env={**around.env, **command.env})
            try:
                outcome = await self._bench.run(command.argv, here, tell)
            except TimeoutError:
                limit_s = (around.timeout_ms or 0) / 1000
                raise ImageBuildError(
                    f"{what} took over {limit_s:,.0f} s and was ended", hint="raise its timeout"
                ) from None
            if outcome.code in EXEC_FAILED and not outcome.last:
                raise ImageBuildError(f"{what} failed: the image has no program {command.argv[0]}")
            if outcome.code:
                raise self._bench.failure(what, outcome)

    # ---------------------------------------------------------------------------------------------- each kind

    def _commands(
        self, step: Step, scene: Scene, union: Union, passing: Path, binds: list[Bind]
    ) -> tuple[Command, ...]:
        layer = step.layer
        match layer:
            case AptInstall(packages=packages):
                if not union.is_program("/usr/bin/apt-get"):
                    raise UnsupportedError(
                        f"apt_install: the base of this image has no apt-get ({' '.join(packages)[:80]})",
                        hint="use run_commands with the package manager that it has, or a base of Debian or Ubuntu",
                    )
                return render_apt(packages)
            case RunCommands(commands=commands):
                return render_commands(commands, step.shell or scene.about.shell)
            case RunFunction():
                return self._function(layer, scene, passing, binds)
            case MicromambaInstall():
                program = self.give_micromamba(passing, binds)
                on_host, in_box = bench.given(passing, "environment.yaml")
                on_host.write_text(layer.spec_file, encoding="utf-8")
                return render_micromamba(program, layer, in_box)
        raise UnsupportedError(f"{step.title}: this builder cannot do it")

    def give_micromamba(self, passing: Path, binds: list[Bind]) -> str:
        """micromamba as a box sees it.

        Raises:
            UnsupportedError: this machine has none.
        """
        if not self._micromamba:
            raise UnsupportedError(
                "this machine has no micromamba",
                hint="install it where the worker finds it on PATH, or use Image.debian_slim and uv_pip_install",
            )
        on_host, in_box = bench.given(passing, "micromamba")
        on_host.touch(mode=0o755)
        binds.append(Bind(source=self._micromamba, target=in_box))
        return in_box

    def _function(self, layer: RunFunction, scene: Scene, passing: Path, binds: list[Bind]) -> tuple[Command, ...]:
        if scene.python is None:
            raise ImageBuildError(
                f"run_function({layer.name}): there is no Python in the image by then",
                hint="give add_python='3.12' to the base, or install Python in a step before",
            )
        call_on_host, call = bench.given(passing, "call")
        call_on_host.write_bytes(layer.pickled)
        for name, path in _sdk(scene.python.version).items():
            on_host, in_box = bench.given(passing, f"sdk/{name}")
            on_host.mkdir(parents=True)
            binds.append(Bind(source=path, target=in_box))
        if layer.source_id:
            source = self.source(layer.source_id)
            on_host, in_box = bench.given(passing, "source")
            on_host.mkdir()
            binds.append(Bind(source=str(source), target=in_box))
        argv = (scene.python.path, "-c", BOOTSTRAP, call, f"{bench.GIVEN}/sdk")
        return (Command(argv=argv, shown=f"{layer.name}()"),)

    def _copy(self, layer: CopyTree, target: Target, cwd: str, *, is_host: bool) -> None:
        target.copy_tree(self.source(layer.source_id), posixpath.join(cwd, layer.target))
        if is_host:
            # Each of the machine's folders has an overlay of its own there, for which every layer has to have it.
            for name in HOST_FOLDERS:
                if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"):
                    target.make_folder(name)

    def source(self, source_id: str) -> Path:
        """The tree of shipped files.

        Raises:
            ImageBuildError: it is not here.
        """
        path = self._sources / source_id
        if not path.is_dir() or path.is_symlink():
            raise ImageBuildError(
                f"the files {source_id} are not on this machine", hint="build again: they are sent anew"
            )
        return path


def _remove_mount_points(folder: Path, targets: Sequence[str], below: Sequence[str]) -> None:
    """What the box made in a layer for something to be mounted on is no part of the image, where nothing is in it.

    On the machine's own file system what is private is hidden: a folder that is there outside is not there inside.
    """
    union = Union(below)
    is_host = below[0] == bench.HOST_ROOT
    for target in targets:
        path = target
        while path.strip("/"):
            place = folder / path.lstrip("/")
            is_own = not union.find(path) or (is_host and path.count("/") > 1)
            try:
                if not is_own or os.path.realpath(place.parent) != os.path.abspath(place.parent):
                    break
                place.rmdir()
            except OSError:
                break
            path = posixpath.dirname(path)


def find_micromamba() -> str:
    """Where micromamba is on this machine; '' if it is not."""
    found = shutil.which("micromamba")
    return os.path.realpath(found) if found else ""


def _import_path(layer: RunFunction, env: Mapping[str, str]) -> dict[str, str]:
    if not layer.source_id:
        return {}
    return {"PYTHONPATH": ":".join(filter(None, (f"{bench.GIVEN}/source", env.get("PYTHONPATH", ""))))}


def _sdk(version: str) -> dict[str, str]:
    """What the function may import of this installation: name -> folder. Compiled packages fit one Python only."""
    folders = {"jitney": os.path.dirname(os.path.abspath(jitney.__file__))}
    if series(version) != series(_own_version()):
        return folders
    for name in SDK_PACKAGES:
        found = PathFinder.find_spec(name)
        if found is not None and found.submodule_search_locations:
            folders[name] = os.path.abspath(next(iter(found.submodule_search_locations)))
    return folders


def _own_version() -> str:
    import platform

    return platform.python_version()
