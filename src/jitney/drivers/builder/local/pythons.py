"""The Python of an image: the host's own, that of its root file system, or one of the host that is shown to it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from jitney.core.imagechecks import PYTHON_MINOR_MIN
from jitney.core.imageplan import ImagePlan
from jitney.drivers.builder.local import bench, interpreters, render
from jitney.drivers.builder.local.bench import Bench, Surroundings
from jitney.drivers.builder.local.disk import RootFile
from jitney.drivers.builder.local.interpreters import Facts, Interpreter
from jitney.drivers.builder.local.tools import Uv
from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.box import Bind
from jitney.values.images import DebianSlim

Tell = Callable[[str], None]
PROBE_TIMEOUT_MS = 60_000


class Pythons:
    """Finds interpreters. What is found on the host is remembered."""

    def __init__(self, uv: Uv, bench_: Bench, images: str) -> None:
        self._uv = uv
        self._bench = bench_
        self._images = images
        self._known: dict[tuple[str, bool], Interpreter] = {}

    async def find(
        self, plan: ImagePlan, layers: tuple[str, ...], about: RootFile, *, is_host: bool, tell: Tell
    ) -> Interpreter | None:
        """The interpreter for an image; None: its root file system has none (yet).

        Raises:
            ImageBuildError: it cannot run here.
            UnsupportedError: there is none of the version that was asked for.
        """
        added: str = getattr(plan.base, "add_python", "")
        if added:
            return await self._added(added, layers, tell)
        if is_host and not self._has_conda(about):
            return await self.of_host(plan.python)
        found, others = await self._of_root(plan, layers, about, tell)
        if found:
            return found
        if isinstance(plan.base, DebianSlim):
            return await self._added(plan.python, layers, tell)
        if others and plan.python:
            raise UnsupportedError(
                f"the base has Python {', '.join(others)} and not {plan.python}",
                hint=f"give add_python='{plan.python}' to it, or leave python_version to the base",
            )
        if others:
            raise UnsupportedError(
                f"the Python of the base is {', '.join(others)}: functions need 3.{PYTHON_MINOR_MIN} or later",
                hint=f"give add_python='3.{PYTHON_MINOR_MIN}' to the base",
            )
        return None

    async def of_host(self, version: str, *, managed: bool = False) -> Interpreter:
        """One of the host's.

        Raises:
            UnsupportedError: there is none.
        """
        key = (version, managed)
        known = self._known.get(key)
        if known is None or not interpreters.is_executable(known.path):
            env = self._uv.plain_environment()
            known = await interpreters.find_interpreter(self._uv.path, version, env, self._images, managed=managed)
            self._known[key] = known
        return known

    def _has_conda(self, about: RootFile) -> bool:
        return "CONDA_PREFIX" in about.env

    async def _added(self, version: str, layers: tuple[str, ...], tell: Tell) -> Interpreter:
        """A Python of the host, seen in the image at the same place."""
        try:
            found = await self.of_host(version, managed=True)
        except UnsupportedError:
            found = await self.of_host(version)
        prefix = interpreters.prefix_of(found.path)
        if not interpreters.mounts_of(found.path):
            raise UnsupportedError(
                f"Python {version} of this machine is part of its system ({prefix}) and cannot be added to an image",
                hint=f"install one that stands on its own: uv python install {version}",
            )
        mounts = (prefix,)
        facts, said = await self._ask(found.path, layers, mounts, {}, tell)
        if facts is None:
            raise ImageBuildError(
                f"Python {version} of this machine ({found.path}) does not start in this image: {said}",
                hint="a library that it needs, such as the C library, is missing or too old: choose a newer base, "
                "or one that has Python",
            )
        platform = render.platform_of(facts.machine, facts.libc)
        return msgspec.structs.replace(found, mounts=mounts, platform=platform)

    async def _of_root(
        self, plan: ImagePlan, layers: tuple[str, ...], about: RootFile, tell: Tell
    ) -> tuple[Interpreter | None, list[str]]:
        """The Python of the root file system that fits, and the versions of those that do not."""
        view = layers or (bench.HOST_ROOT,)
        others: list[str] = []
        paths = interpreters.pythons_of(view, about.env.get("PATH", ""), plan.python)
        failed = ""
        for path in paths:
            facts, said = await self._ask(path, layers, (), about.env, tell)
            if facts is None:
                failed = failed or f"{path}: {said}"
                continue
            if not _fits(facts.version, plan.python):
                others.append(facts.version)
                continue
            platform = render.platform_of(facts.machine, facts.libc)
            return (
                Interpreter(
                    path=path,
                    version=facts.version,
                    is_of_root=True,
                    tool=await self._tool(facts.version) if platform else "",
                    platform=platform,
                ),
                [],
            )
        if failed and not others:
            raise ImageBuildError(
                f"the Python of the base cannot run here ({failed})",
                hint="is the image made for this machine's processor? give add_python='3.12', or another base",
            )
        return None, list(dict.fromkeys(others))

    async def _tool(self, version: str) -> str:
        """A Python of the host, of the same series, to run uv with; '' if there is none."""
        try:
            return (await self.of_host(interpreters.series(version))).path
        except UnsupportedError:
            return ""

    async def _ask(
        self, path: str, layers: tuple[str, ...], mounts: tuple[str, ...], env: dict[str, str], tell: Tell
    ) -> tuple[Facts | None, str]:
        """What a Python says of itself in a box; None with the reason where it does not start."""
        around = Surroundings(
            layers=layers,
            binds=tuple(Bind(source=folder, target=folder) for folder in mounts),
            env={"PATH": bench.DEFAULT_PATH, **env},
            timeout_ms=PROBE_TIMEOUT_MS,
        )
        lines: list[str] = []
        try:
            outcome = await self._bench.run((path, "-I", "-S", "-c", interpreters.PROBE), around, lines.append)
        except TimeoutError:
            return None, "it does not answer"
        facts = interpreters.read_probe(lines) if outcome.code == 0 else None
        said = outcome.last[-1] if outcome.last else f"exit code {outcome.code}"
        return facts, said


def _fits(version: str, asked: str) -> bool:
    minor = int(version.split(".")[1])
    if minor < PYTHON_MINOR_MIN:
        return False
    return not asked or version == asked or interpreters.series(version) == asked
