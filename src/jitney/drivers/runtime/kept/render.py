"""What goes into a box, as data: what is mounted where, and how processes are started there.

Paths inside are those of `drivers.walls.render`. What differs: a box has one root for all containers of its template,
which is read only, so each has a folder of its own for what it writes, and that is its home and where it starts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from jitney.drivers.walls import render as walls
from jitney.drivers.walls.render import HOME, RUN, SDK, Outside
from jitney.runner.keep.keeper import SCRATCH as SCRATCH
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.network import NetworkPolicy

CONTROL = f"{RUN}/control"
PIDS_MAX = 4_096  # processes and threads of one box, where containers have no limits of their own
MEMORY_RESERVE = 0.1  # of the machine's memory that one box cannot have
CODE_ENTRIES_MAX = 200  # mounted one by one: see `render_code`
# What programs look up in /etc: users, names, certificates, libraries. Passwords, keys and settings are not there.
ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version", "fonts", "group",
    "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "magic",
    "mime.types", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs", "protocols",
    "redhat-release", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
BOOTSTRAP = walls.BOOTSTRAP.format(kind="keep.keeper")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the machine in a box."""

    source: str
    target: str
    writable: bool = False


class BoxOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A box to be made: what any maker of boxes has to know. `image` says what its root is made of."""

    name: str
    marker: str  # of the server folder that it belongs to
    image: BuiltImage
    argv: tuple[str, ...]
    env: dict[str, str]
    mounts: tuple[Mount, ...]
    network: NetworkPolicy = NetworkPolicy()
    volumes: tuple[str, ...] = ()  # paths of those that its containers will have, and of buckets, sorted
    links: tuple[tuple[str, str], ...] = ()  # (name, text): symbolic links at the root, where it is the machine's


def render_order(
    name: str,
    marker: str,
    spec: TemplateSpec,
    image: BuiltImage,
    outside: Outside,
    *,
    control: str,
    code: Sequence[str],
    etc: Sequence[str],
) -> BoxOrder:
    """The box of a template. `code`: what is in the folder of the user's code; `etc`: those of ETC that are there."""
    mounts: list[Mount] = []
    if not image.layers:
        own = [one.name for one in outside.host if not one.link and one.name != "etc"]
        mounts += [Mount(source=f"/{name}", target=f"/{name}") for name in own]
        mounts += [Mount(source=f"/etc/{name}", target=f"/etc/{name}") for name in etc]
    if outside.source:
        mounts += render_code(outside.source, code, image)
    mounts += [Mount(source=path, target=path) for path in image.mounts]
    mounts += [Mount(source=folder, target=f"{SDK}/{package}") for package, folder in outside.sdk.items()]
    mounts += [
        Mount(source=outside.sockets, target=walls.SOCKETS),
        Mount(source=control, target=CONTROL),
        Mount(
            source=outside.segments,
            target=f"{walls.SEGMENTS}/{os.path.basename(outside.segments)}",
            writable=True,
        ),
        Mount(source=outside.blobs, target=walls.BLOBS, writable=True),
    ]
    return BoxOrder(
        name=name,
        marker=marker,
        image=image,
        argv=(image.python_path, "-I", "-S", "-c", BOOTSTRAP, f"{CONTROL}/keeper.sock", SDK),
        env=walls.base_env(image),
        mounts=tuple(mounts),
        network=spec.network,
        volumes=tuple(sorted({*(one.path for one in spec.volumes), *spec.buckets})),
        links=tuple((one.name, one.link) for one in outside.host if one.link) if not image.layers else (),
    )


def hub_of(name: str) -> str:
    """What the hub of a box is called among all that a network connects, where it has one of ours."""
    return f"box-{name}"


def render_code(source: str, entries: Sequence[str], image: BuiltImage) -> list[Mount]:
    """The user's code in /root: the folder, or what is in it, where something else is below /root too.

    (For that a mount point would have to be made in the folder, which is read only.)
    """
    if not any(path.startswith(f"{HOME}/") for path in image.mounts):
        return [Mount(source=source, target=HOME)]
    return [Mount(source=f"{source}/{name}", target=f"{HOME}/{name}") for name in entries]


def render_process(spec: TemplateSpec, image: BuiltImage, *, is_cold: bool) -> dict[str, Any]:
    """argv, env and cwd of a template, or of a container that cannot be forked."""
    made = walls.render_process(spec, image, is_cold=is_cold)
    env = {name: value for name, value in made["env"].items() if name != "JITNEY_WALL"}
    return {**made, "env": env, "cwd": HOME if spec.source_id else "/tmp"}


def render_fork(launch: Launch, image: BuiltImage, *, nofile_hard: int, shares_locks: bool) -> dict[str, Any]:
    """What a template is asked for.

    Without `shares_locks` what a container locks is not locked outside, so it keeps no hold on shared memory: what it
    finds there it copies, and what is large of its own goes through files.
    """
    made = walls.render_fork(launch, image, nofile_hard=nofile_hard)
    scratch, cwd, _ = folders(launch.container_id, image)
    made["config"]["apart"] = not shares_locks
    return {
        **made,
        "cwd": cwd,
        "env": {**made["env"], "HOME": scratch, "TMPDIR": scratch, "PWD": cwd, **launch.env},
    }


def folders(container_id: str, image: BuiltImage) -> tuple[str, str, tuple[str, ...]]:
    """(its own folder, where it starts, what is to be made in the first) of a container."""
    scratch = f"{SCRATCH}/{container_id}"
    if os.path.isabs(image.workdir):
        return scratch, os.path.normpath(image.workdir), ()
    if not image.workdir:
        return scratch, scratch, ()
    cwd = os.path.normpath(scratch + os.path.normpath(os.sep + image.workdir))  # '..' ends at its folder
    return scratch, cwd, (cwd,)
