"""What this machine cannot make, said before anything starts: what, why, and what to do instead."""

from __future__ import annotations

from jitney.core.imageplan import ImagePlan, Step, Work, base_title
from jitney.drivers.builder.local import bases
from jitney.drivers.builder.local.tools import Settings
from jitney.drivers.builder.local.volumes import no_lender
from jitney.errors import UnsupportedError
from jitney.ports.box import BoxCapabilities
from jitney.ports.dockerfiles import DockerfileBuilder
from jitney.ports.lending import Lender
from jitney.values.images import DebianSlim, Dockerfile, Micromamba, OciArchive, Registry, volumes_of

NEEDS_ROOT = "it needs a root file system, and there are Python environments only here"
# What to do instead, where there is something.
INSTEAD = {
    "apt_install": "install the packages on the machine that runs the containers",
    "run_function": "do it in an @enter method, or at the module's top level",
    "copy_tree": "leave copy=False: the files are then attached when containers start",
    "volumes": "make it an @app.function(volumes=...) and call it once, with .remote(): what it writes is committed",
    "run_commands": "run them on the machine that runs the containers",
}


def check(
    plan: ImagePlan,
    settings: Settings,
    box: BoxCapabilities,
    *,
    has_puller: bool,
    dockerfiles: DockerfileBuilder | None,
    micromamba: str,
    debootstrap: str,
) -> None:
    """Whether the plan can be made.

    Raises:
        UnsupportedError: it cannot.
    """
    base, what = plan.base, base_title(plan.base)
    if isinstance(base, Dockerfile):
        _check_engine(base, dockerfiles)
    is_debian = isinstance(base, DebianSlim)
    is_host = settings.base == bases.HOST and isinstance(base, DebianSlim | Micromamba)
    if not plan.needs_root and (is_host or not is_debian):
        return
    if not box.root_filesystem:
        raise _no_root(plan, what, box)
    if is_host and not box.host_layer_writable:
        step = _root_step(plan)
        raise UnsupportedError(
            f"{step.title}: this machine's own file system cannot be the base of a layer"
            + (f" ({box.why})" if box.why else ""),
            hint='begin with Image.from_registry("python:3.12-slim"), or set base = "registry" or base = '
            '"debootstrap" of the worker, so that debian_slim has a file system of its own',
        )
    pulls = isinstance(base, Registry | OciArchive | Dockerfile) or (is_debian and settings.base == bases.REGISTRY)
    if pulls and not has_puller:
        raise UnsupportedError(f"{what}: this worker pulls no images", hint="use Image.debian_slim")
    if is_debian and settings.base == bases.DEBOOTSTRAP and not debootstrap:
        raise UnsupportedError(
            "this machine has neither mmdebstrap nor debootstrap to make a Debian with",
            hint='apt-get install mmdebstrap, or set base = "registry" or "host" of the worker',
        )
    if isinstance(base, Micromamba) and not micromamba:
        raise UnsupportedError(
            "this machine has no micromamba",
            hint="install it where the worker finds it on PATH, or use Image.debian_slim and uv_pip_install",
        )


def check_lender(plan: ImagePlan, lender: Lender | None) -> None:
    """Whether steps that see volumes can have them.

    Raises:
        UnsupportedError: nobody lends any.
    """
    mounts = [mount for step in plan.steps for mount in volumes_of(step.layer)]
    if mounts and lender is None:
        raise no_lender(mounts)


def _check_engine(base: Dockerfile, dockerfiles: DockerfileBuilder | None) -> None:
    why, remedy = dockerfiles.why_not() if dockerfiles is not None else ("this worker uses none", "")
    if why:
        needs = f" ({base.why})" if base.why else ""
        raise UnsupportedError(
            f"this Dockerfile cannot be built without an engine{needs}: {why}",
            hint=remedy or "leave out what needs one, or build it elsewhere and use Image.from_registry",
        )
    if base.secrets:
        raise UnsupportedError(
            "secrets cannot be handed to an engine's build: they would stay in the image",
            hint="use `run_commands(secrets=...)` on top of the image, which keeps none",
        )


def _no_root(plan: ImagePlan, what: str, box: BoxCapabilities) -> UnsupportedError:
    step = _root_step(plan)
    kind = type(step.layer).__struct_config__.tag if step.layer is not None else ""
    if volumes_of(step.layer):
        kind = "volumes"
    instead = INSTEAD.get(str(kind), "use Image.debian_slim" if step.layer is None else "")
    why = f"{NEEDS_ROOT}{f' ({box.why})' if box.why else ''}"
    remedies = "; or ".join(filter(None, (instead, box.remedy)))
    return UnsupportedError(f"{step.title or what} cannot be made on this runtime: {why}", hint=remedies)


def _root_step(plan: ImagePlan) -> Step:
    return next((step for step in plan.steps if step.work is Work.ROOT), plan.steps[0])
