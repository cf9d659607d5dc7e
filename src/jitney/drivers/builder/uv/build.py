"""The builder: plan, find, make."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from jitney.core import imageplan
from jitney.core.imageplan import Host, ImagePlan, Step
from jitney.drivers.builder import Emit, Flights, careful
from jitney.drivers.builder.uv import disk
from jitney.drivers.builder.uv.interpreters import Interpreter, find_interpreter, own_interpreter
from jitney.drivers.builder.uv.process import run
from jitney.drivers.builder.uv.render import is_disk_full, render_install, render_venv
from jitney.drivers.builder.uv.settings import build_environment, parse_pip_config, pip_variables
from jitney.errors import ImageBuildError, StorageFullError
from jitney.ports.builder import OnProgress
from jitney.values import ids
from jitney.values.images import BuiltImage, ImageSpec

BUILD_TIMEOUT_MS = 3_600_000
PIP_TIMEOUT_S = 30
_Tell = Callable[[int, Step, str], None]
SDK_NEEDS = ("cloudpickle", "msgspec")  # what the SDK imports inside a container


class UvBuilder:
    """Makes environments below `images`.

    Args:
        images: folder of images, made if it is not there.
        index_url: package index for images that name none; '' = as the machine's pip (or uv) is set up.
        timeout_ms: limit of one build.
        uv: the uv to run; '' = the one of the `uv` package.
        pip_config: settings in the form of `pip config list`; None = ask pip, once, when something is installed.
    """

    def __init__(
        self,
        images: Path,
        *,
        index_url: str = "",
        timeout_ms: int = BUILD_TIMEOUT_MS,
        uv: str = "",
        pip_config: Mapping[str, str] | None = None,
    ) -> None:
        self._images = images
        self._index_url = index_url
        self._timeout_ms = timeout_ms
        self._given_uv = uv
        self._flights = Flights()
        self._pip_config = pip_config
        self._interpreters: dict[str, Interpreter] = {}

    @cached_property
    def host(self) -> Host:
        """This machine, as plans see it."""
        return Host(
            python_version=platform.python_version(),
            platform=f"{sys.platform}-{platform.machine()}",
            sdk_needs=tuple(f"{name}=={importlib.metadata.version(name)}" for name in SDK_NEEDS),
        )

    def plan(self, spec: ImageSpec) -> ImagePlan:
        """See the port."""
        return imageplan.plan(spec, self.host)

    def find(self, image_id: str) -> BuiltImage | None:
        """See the port."""
        image = disk.read(self._images / ids.check(image_id, ids.IMAGE) / disk.IMAGE_FILE, disk.ImageFile)
        return self._image(image_id, image) if image else None

    async def build(self, spec: ImageSpec, on_progress: OnProgress) -> BuiltImage:
        """See the port."""
        plan = self.plan(spec)
        if not plan.force_build and (found := self.find(plan.image_id)):
            return found
        started_ns = time.monotonic_ns()
        emit = careful(on_progress, len(plan.steps))
        if plan.force_build or self._environment(plan.environment_id) is None:
            await self._flights.join(plan.environment_id, lambda tell: self._make(plan, tell), emit)
        for number, step in enumerate(plan.steps[plan.environment_steps :], plan.environment_steps + 1):
            emit(number, step.title, "")
        image = disk.ImageFile(
            environment_id=plan.environment_id,
            env={**plan.env, imageplan.SPEC_VARIABLE: plan.spec_digest},
            workdir=plan.workdir,
        )
        folder = self._images / plan.image_id
        with disk.room_errors():
            folder.mkdir(parents=True, exist_ok=True)
            disk.commit(folder / disk.IMAGE_FILE, image)
        built = self._image(plan.image_id, image)
        if built is None:
            raise ImageBuildError("the image was removed while it was built", hint="build again")
        took_ms = (time.monotonic_ns() - started_ns) // 1_000_000
        return msgspec.structs.replace(built, cached=False, took_ms=took_ms)

    async def reap(self) -> int:
        """See the port."""
        return await asyncio.to_thread(disk.remove_leftovers, self._images)

    async def close(self) -> None:
        """See the port."""
        await self._flights.close()

    # ---------------------------------------------------------------------------------------------- what is there

    def _environment(self, environment_id: str) -> disk.EnvironmentFile | None:
        folder = self._images / environment_id
        found = disk.read(folder / disk.ENVIRONMENT_FILE, disk.EnvironmentFile)
        # Follows the link: the Python that the environment was made from may have been removed.
        return found if found and os.access(folder / found.folder / "bin" / "python", os.X_OK) else None

    def _image(self, image_id: str, image: disk.ImageFile) -> BuiltImage | None:
        environment = self._environment(image.environment_id)
        if environment is None:
            return None
        python = self._images / image.environment_id / environment.folder / "bin" / "python"
        return BuiltImage(
            image_id=image_id,
            python_path=str(python),
            python_version=environment.python_version,
            cloudpickle_version=environment.cloudpickle_version or importlib.metadata.version("cloudpickle"),
            env=image.env,
            workdir=image.workdir,
            cached=True,
        )

    # ---------------------------------------------------------------------------------------------- making one

    async def _make(self, plan: ImagePlan, emit: Emit) -> None:
        parent = self._images / plan.environment_id
        root = parent / f"{disk.PREFIX}{secrets.token_hex(4)}"
        current = plan.steps[0]

        def tell(number: int, step: Step, line: str) -> None:
            nonlocal current
            current = step
            emit(number, step.title, line)

        with disk.room_errors():
            parent.mkdir(parents=True, exist_ok=True)
            with disk.guarded(root) as guard:
                try:
                    async with asyncio.timeout(self._timeout_ms / 1000):
                        await self._fill(plan, root, guard, tell)
                    disk.commit(parent / disk.ENVIRONMENT_FILE, _describe(root))
                except TimeoutError:
                    raise ImageBuildError(
                        f"the build took over {self._timeout_ms / 1000:,.0f} s and was ended in step {current.title!r}",
                        hint="raise the limit, or split the step",
                    ) from None
                finally:
                    committed = disk.read(parent / disk.ENVIRONMENT_FILE, disk.EnvironmentFile)
                    if not committed or committed.folder != root.name:
                        await asyncio.shield(asyncio.to_thread(shutil.rmtree, root, ignore_errors=True))

    async def _fill(self, plan: ImagePlan, root: Path, guard: int, tell: _Tell) -> None:
        tell(1, plan.steps[0], "")
        interpreter = await self._interpreter(plan.python)
        if interpreter.is_own:
            # The standard library's own takes 5 ms and asks nobody; uv runs the interpreter first (150 ms).
            await asyncio.to_thread(_make_venv, root)
        else:
            argv = render_venv(self._uv, interpreter.path, str(root))
            await self._run(argv, (1, plan.steps[0]), len(plan.steps), root.parent, guard, tell)
        for number, step in enumerate(plan.steps[: plan.environment_steps], 1):
            if number > 1:
                tell(number, step, "")
            if step.install is None:
                continue
            install = render_install(self._uv, str(root / "bin" / "python"), step.install, number)
            for name, text in install.files.items():
                (root / name).write_text(text, encoding="utf-8")
            await self._run(install.argv, (number, step), len(plan.steps), root, guard, tell)

    async def _run(
        self, argv: tuple[str, ...], at: tuple[int, Step], steps: int, cwd: Path, guard: int, tell: _Tell
    ) -> None:
        number, step = at
        env = build_environment(
            os.environ,
            await self._pip_settings(),
            step.env,
            link_mode=self._link_mode(),
            index_url=self._index_url,
        )
        code, last = await run(argv, cwd=cwd, env=env, on_line=lambda line: tell(number, step, line), keep_fds=(guard,))
        if code == 0:
            return
        output = "\n".join(f"  {line}" for line in last)
        what = f"step {number} of {steps} ({step.title})"
        if is_disk_full(output):
            raise StorageFullError(f"no room for {what}:\n{output}\n", hint="free some space, and build again")
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise ImageBuildError(f"{what} {how}; its last lines:\n{output}")

    @cached_property
    def _uv(self) -> str:
        if self._given_uv:
            return self._given_uv
        import uv

        return os.fsdecode(uv.find_uv_bin())

    def _link_mode(self) -> str:
        """Hard links where cache and images are on one file system: no copying, and one copy in memory too."""
        cache = os.environ.get("UV_CACHE_DIR")
        if not cache:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            cache = os.path.join(base, "uv")
        if sys.platform == "darwin":
            return "clone"
        return "hardlink" if _device(Path(cache)) == _device(self._images) else "copy"

    async def _interpreter(self, version: str) -> Interpreter:
        known = self._interpreters.get(version)
        if known is None or not os.access(known.path, os.X_OK):
            env = build_environment(os.environ, {}, {}, link_mode="copy")
            known = await find_interpreter(self._uv, version, env, self._images)
            self._interpreters[version] = known
        return known

    async def _pip_settings(self) -> Mapping[str, str]:
        """What this machine's pip is set up with, asked once: pip takes half a second to say it."""
        if self._pip_config is None:
            self._pip_config = await _ask_pip()
        return self._pip_config


async def _ask_pip() -> Mapping[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    for python in dict.fromkeys((sys.executable, own_interpreter())):
        lines: list[str] = []
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(PIP_TIMEOUT_S):
                code, _ = await run(
                    [python, "-m", "pip", "config", "list"], cwd=Path("/"), env=env, on_line=lines.append
                )
                if code == 0:
                    return parse_pip_config("\n".join(lines))
    return pip_variables(os.environ)  # neither has pip (an environment made by uv, a distribution without it)


def _make_venv(root: Path) -> None:
    import venv

    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)


def _describe(root: Path) -> disk.EnvironmentFile:
    """What an environment that was just made has in it."""
    settings: dict[str, str] = {}
    for line in (root / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        settings[name.strip()] = value.strip()
    site = [str(found) for found in root.glob("lib/python3*/site-packages")]
    own = next(iter(importlib.metadata.distributions(name="cloudpickle", path=site)), None)
    return disk.EnvironmentFile(
        folder=root.name,
        python_version=settings.get("version_info") or settings["version"],
        cloudpickle_version=own.version if own else "",
    )


def _device(path: Path) -> int:
    """The file system that `path` is on, or will be once it is made."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
