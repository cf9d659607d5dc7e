"""What images begin with: the host's own file system, or a root file system that is fetched or made.

Debian without a registry is made by mmdebstrap or debootstrap, in a box over the host's file system where that has
what they need. It is cached by suite and packages, and so is what a registry gave, by what was asked for: a tag is
looked up again by `force_build`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from jitney.drivers.builder.local import bench
from jitney.drivers.builder.local.bench import Bench, Surroundings
from jitney.drivers.builder.local.copying import Target
from jitney.drivers.builder.local.disk import RootFile
from jitney.drivers.builder.local.steps import StepRunner, render_conda_base
from jitney.drivers.builder.local.tools import Settings
from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.box import Bind
from jitney.ports.dockerfiles import DockerfileBuilder, DockerfileOrder
from jitney.ports.pulls import PulledImage, Puller
from jitney.values.images import Base, DebianSlim, Dockerfile, Micromamba, OciArchive, Registry, Scratch

Tell = Callable[[str], None]

HOST, DEBOOTSTRAP, REGISTRY = "host", "debootstrap", "registry"
DEBIAN_PACKAGES = ("ca-certificates", "python3")
DEBIAN_TARGET = "/tmp/.jitney/root"
MIRROR = "http://deb.debian.org/debian"
# What a root file system of a container has, where the base is empty.
SKELETON = ("dev", "etc", "proc", "root", "run", "sys", "tmp")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"


def render_debootstrap(tool: str, suite: str, target: str) -> tuple[str, ...]:
    """A minimal Debian. In a box nothing can be mounted and no device be made: the runtime brings its own /dev."""
    packages = ",".join(DEBIAN_PACKAGES)
    if os.path.basename(tool) == "mmdebstrap":
        skipped = ("check/empty", "chroot/mount", "output/mknod", "output/dev")
        return (
            *(tool, "--mode=root", "--format=directory", "--variant=apt", f"--include={packages}"),
            *(f"--skip={step}" for step in skipped),
            *('--aptopt=APT::Sandbox::User "root"', '--aptopt=Acquire::Languages "none"'),
            *(suite, target),  # its own mirrors: those of security updates are among them
        )
    return (tool, "--variant=minbase", f"--include={packages}", suite, target, MIRROR)


def debian_digest(settings: Settings, machine: str) -> str:
    """Under which name a Debian made here is kept."""
    return hashlib.sha256(repr(("debian", settings.suite, DEBIAN_PACKAGES, machine)).encode()).hexdigest()


def find_debootstrap() -> str:
    """What can make a Debian here; '' if nothing can."""
    return shutil.which("mmdebstrap") or shutil.which("debootstrap") or ""


class Brings(msgspec.Struct, frozen=True, kw_only=True):
    """Who brings what others have made; None: nobody does."""

    puller: Puller | None = None
    dockerfiles: DockerfileBuilder | None = None


class BaseMaker:
    """Fetches bases and makes them."""

    def __init__(self, bench_: Bench, runner: StepRunner, settings: Settings, brings: Brings) -> None:
        self._bench = bench_
        self._runner = runner
        self._puller = brings.puller
        self._dockerfiles = brings.dockerfiles
        self._settings = settings

    async def fill(
        self, folder: Path, base: Base, python: str, what: str, tell: Tell, *, force: bool = False
    ) -> RootFile:
        """Make `base`; into `folder`, if it is not one of folders that are elsewhere.

        Raises:
            ImageBuildError: it failed; `what` is the step in the message.
            UnsupportedError: it cannot be made here.
        """
        match base:
            case Registry():
                scope = hashlib.sha256(f"{base.username}\0{base.password}".encode()).hexdigest()[:16]
                pulled = await self._pulls().pull(
                    self._address(base.reference),
                    username=base.username,
                    password=base.password,
                    scope=scope if base.username or base.password else "",
                    on_line=tell,
                )
                return about_pulled(pulled)
            case OciArchive(path=path, reference=reference):
                return about_pulled(await self._pulls().load(path, reference=reference, on_line=tell))
            case Dockerfile():
                return await self._dockerfile(base, what, tell, force=force)
            case Scratch():
                target = Target(folder, ())
                for name in SKELETON:
                    target.make_folder(name)
                target.write("/etc/passwd", PASSWD)
                target.write("/etc/group", GROUP)
                (folder / "tmp").chmod(0o1777)
                return RootFile(title="scratch")
            case Micromamba():
                return await self._conda(folder, python, what, tell)
            case DebianSlim():
                return await self._debian(folder, python, what, tell)
        raise UnsupportedError(f"{what}: this builder cannot make it")

    async def _dockerfile(self, base: Dockerfile, what: str, tell: Tell, *, force: bool) -> RootFile:
        """By an engine; what that gives is an archive like any other."""
        if self._dockerfiles is None:
            raise UnsupportedError(f"{what}: this worker builds no Dockerfiles")
        order = DockerfileOrder(
            base=base,
            context=self._runner.source(base.context_id) if base.context_id else None,
            force=force,
            memory_mib=self._settings.memory_mib,
            cpu_milli=self._settings.cpu_milli,
        )
        async with self._bench.passing() as passing:
            archive = passing / "image.tar"
            try:
                await self._dockerfiles.build(order, archive, tell)
            except ImageBuildError as error:
                raise ImageBuildError(f"{what}: {error.message}", hint=error.hint) from None
            pulled = await self._pulls().load(str(archive), is_own=True, on_line=lambda line: None)
        return msgspec.structs.replace(about_pulled(pulled), title="from a Dockerfile")

    async def _debian(self, folder: Path, python: str, what: str, tell: Tell) -> RootFile:
        if self._settings.base == REGISTRY:
            reference = self._address(f"python:{python}-slim")
            tell(f"debian_slim is {reference} here")
            return about_pulled(await self._pulls().pull(reference, on_line=tell))
        return await self._debootstrap(folder, what, tell)

    async def _debootstrap(self, folder: Path, what: str, tell: Tell) -> RootFile:
        tool = find_debootstrap()
        if not tool:
            raise UnsupportedError(
                "this machine has neither mmdebstrap nor debootstrap to make a Debian with",
                hint='apt-get install mmdebstrap, or set base = "registry" or "host" of the worker',
            )
        async with self._bench.passing() as passing:
            on_host, in_box = bench.given(passing, "root")
            on_host.mkdir()
            around = Surroundings(
                binds=(
                    self._bench.bind_passing(passing),
                    Bind(source=str(folder), target=in_box, writable=True),
                ),
                env={"PATH": bench.DEFAULT_PATH, "HOME": "/root", "TMPDIR": "/tmp", **bench.proxies(os.environ)},
            )
            argv = render_debootstrap(tool, self._settings.suite, in_box)
            await self._bench.run_or_fail(argv, around, what, tell)
        await asyncio.to_thread(_empty, folder / "dev")  # plain files where devices could not be made
        return RootFile(title=f"Debian {self._settings.suite}")

    async def _conda(self, folder: Path, python: str, what: str, tell: Tell) -> RootFile:
        """A conda environment on top of what `debian_slim` is here."""
        below, about = await self._conda_ground(folder, python, what, tell)
        async with self._bench.passing() as passing:
            binds = [self._bench.bind_passing(passing)]
            program = self._runner.give_micromamba(passing, binds)
            env = {"PATH": bench.DEFAULT_PATH, "HOME": "/root", "MAMBA_ROOT_PREFIX": "/tmp/.mamba"}
            around = Surroundings(
                layers=below,
                upper=str(folder),
                binds=tuple(binds),
                env={**env, **bench.proxies(os.environ)},
            )
            await self._runner.run_all(render_conda_base(program, python), around, what, tell)
        path = about.env.get("PATH") or bench.DEFAULT_PATH
        env = {**about.env, "PATH": f"/opt/conda/bin:{path}", "CONDA_PREFIX": "/opt/conda"}
        return msgspec.structs.replace(about, env=env, layers=(), title=f"micromamba with Python {python}")

    async def _conda_ground(self, folder: Path, python: str, what: str, tell: Tell) -> tuple[tuple[str, ...], RootFile]:
        if self._settings.base == HOST:
            return (), RootFile()
        raise UnsupportedError(
            f"{what}: micromamba images are made on the host's file system here",
            hint='set base = "host" of the worker, or use Image.from_registry("mambaorg/micromamba")',
        )

    def _pulls(self) -> Puller:
        if self._puller is None:
            raise UnsupportedError(
                "this worker pulls no images of registries", hint="use Image.debian_slim, or another runtime"
            )
        return self._puller

    def _address(self, reference: str) -> str:
        """A name that has no address goes to the registry of the settings, if there is one."""
        head = reference.split("/", maxsplit=1)[0]
        has_address = "/" in reference and ("." in head or ":" in head or head == "localhost")
        if has_address or not self._settings.registry:
            return reference
        return f"{self._settings.registry.rstrip('/')}/{reference}"


def _empty(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()


def about_pulled(image: PulledImage) -> RootFile:
    """What is kept of an image that was pulled."""
    return RootFile(
        layers=image.layers,
        title=image.reference,
        env=image.env,
        workdir=image.workdir,
        entrypoint=image.entrypoint,
        cmd=image.cmd,
        shell=image.shell,
    )
