"""What a template and a container are started with, as values: the decisions of this driver."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

import msgspec

from jitney.drivers.runtime.forking.leftovers import MARKER_NAME
from jitney.runner.failures import encode_failure_text
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.wire.home import Home

NOFILE = 65_536

# Variables of the worker's own environment that containers do not see: they would aim Python at what is installed
# here, or tell a client inside a container the settings of another.
DROPPED = frozenset({"VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__", "LINES", "COLUMNS", "OLDPWD", "PWD"})
DROPPED_PREFIXES = ("JITNEY_", "PYTHON", "PYTEST_", "COV_", "COVERAGE_")

# Runs before anything of the image: `-c` puts '' first in the module search path, and the SDK belongs at its end.
BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + sys.argv.pop().split(':'); "
    "from jitney.runner.{kind} import main; sys.exit(main())"
)


class TemplateRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a template is started."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


class ContainerRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a template is asked to fork. `folders` are made first, in its scratch folder."""

    env: dict[str, str]
    cwd: str
    folders: tuple[str, ...]
    rlimits: dict[str, tuple[int, int]]  # by name, without RLIMIT_


def missing_wall(isolation: Isolation, network: NetworkPolicy) -> str:
    """Why plain processes are not enough for what is asked for; '' where they are. Who asks fails closed."""
    if not isolation.allows(Isolation.PROCESS):
        reason = f"isolation={str(isolation)!r} is asked for, and this machine's containers are plain processes"
    elif not network.is_open:
        reason = "its network is to be restricted, and this machine's containers are plain processes that cannot be"
    else:
        return ""
    return f"{reason}\n`jitney doctor` says what this machine can do; `runtime` in [worker] of config.toml chooses"


def unsupported(reason: str) -> bytes:
    """The failure that says so."""
    return encode_failure_text("UnsupportedError", reason, module="jitney.errors")


def render_template(
    spec: TemplateSpec,
    image: BuiltImage,
    *,
    home: Home,
    sdk: tuple[str, ...],
    environ: Mapping[str, str],
    marker: str,
    control_fd: int,
    is_cold: bool = False,
) -> TemplateRecipe:
    """The command of a template, or of a container that cannot be forked. `environ` is the worker's."""
    env = base_env(environ)
    env.update(image.env)
    source = [str(home.sources / spec.source_id)] if spec.source_id else []
    paths = [*source, *filter(None, image.env.get("PYTHONPATH", "").split(os.pathsep))]
    if paths:
        env["PYTHONPATH"] = os.pathsep.join(paths)
    folder = os.path.dirname(image.python_path)
    env["PATH"] = os.pathsep.join([folder, image.env.get("PATH") or environ.get("PATH") or os.defpath])
    if os.path.basename(folder) == "bin":
        env["VIRTUAL_ENV"] = os.path.dirname(folder)
    env[MARKER_NAME] = marker
    bootstrap = BOOTSTRAP.format(kind="cold" if is_cold else "template")
    argv = (image.python_path, "-c", bootstrap, str(control_fd), os.pathsep.join(sdk))
    return TemplateRecipe(argv=argv, env=env, cwd=source[0] if source else str(home.containers))


def base_env(environ: Mapping[str, str]) -> dict[str, str]:
    """What a container sees of the worker's environment."""
    return {
        name: value for name, value in environ.items() if name not in DROPPED and not name.startswith(DROPPED_PREFIXES)
    }


def render_container(launch: Launch, image: BuiltImage, *, home: Home, nofile_hard: int) -> ContainerRecipe:
    """The scratch folder, environment and limits of a container. `env` is what differs from its template's."""
    scratch = str(home.containers / launch.container_id)
    cwd = scratch
    folders: tuple[str, ...] = ()
    if os.path.isabs(image.workdir):
        cwd = image.workdir
    elif image.workdir:
        below = os.path.normpath(os.sep + image.workdir)  # '..' ends at the scratch folder
        cwd = os.path.normpath(scratch + below)
        folders = (cwd,)
    nofile = NOFILE if nofile_hard == resource.RLIM_INFINITY else min(NOFILE, nofile_hard)
    return ContainerRecipe(
        env={
            "TMPDIR": scratch,
            "PWD": cwd,
            "JITNEY_CONTAINER_ID": launch.container_id,
            **launch.env,
        },
        cwd=cwd,
        folders=folders,
        # No core files of gigabytes in scratch folders. NPROC is not set: it counts all processes of the user, also
        # those of other containers and of the user's desktop. Memory: see memory.py.
        rlimits={"CORE": (0, 0), "NOFILE": (nofile, nofile_hard)},
    )
