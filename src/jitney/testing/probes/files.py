"""Files of the outside, and what was left open."""

from __future__ import annotations

import glob
import os
import stat
import sys
import sysconfig
import tempfile

from jitney.testing.probes.probe import ALLOWED, ANY, Outcome, allowed, denied, probe
from jitney.testing.probes.targets import Canary, Targets, digest

_CANARY_BYTES_MAX = 65_536
# What a container may have been given: everything else that is open was forgotten.
_HARMLESS = (
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/pts/",
    "/dev/tty",
    "/dev/ptmx",
    "pipe:",
    "socket:",
    "/memfd:",
)
_HARMLESS_ANONYMOUS = ("[eventpoll]", "[eventfd]", "[timerfd]", "[signalfd]")


def _ways_to(path: str) -> list[str]:
    """Names under which a file of the outside might be found."""
    tail = path.lstrip("/")
    roots = [f"/proc/{pid}/root" for pid in ("self", "1", *filter(str.isdigit, os.listdir("/proc")[:60]))]
    folders = [f"/proc/self/fd/{fd}" for fd in _descriptors()]
    climbing = "/.." * 32
    return [
        path,
        f"/{climbing}/{tail}",
        *(f"{root}/{tail}" for root in roots),
        *(f"{folder}{climbing}/{tail}" for folder in folders),
        f"/proc/self/cwd{climbing}/{tail}",
        f"/proc/1/cwd{climbing}/{tail}",
        *(f"{mount}/{tail}" for mount in ("/mnt", "/host", "/rootfs", "/oldroot", "/.old", "/run/host")),
    ]


def _descriptors() -> list[int]:
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    return [int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")]


def _finds(targets: Targets, what: str) -> Outcome:
    tried = 0
    for canary in (one for one in targets.canaries if one.what == what):
        for path in _ways_to(canary.path):
            tried += 1
            if _is(canary, path):
                return allowed(f"read {path}")
    return denied(f"tried {tried} names") if tried else denied("there is none")


def _is(canary: Canary, path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return digest(os.read(fd, _CANARY_BYTES_MAX)) == canary.sha256
    except OSError:
        return False
    finally:
        os.close(fd)


@probe(process=ALLOWED, needs=("canaries",))
def home_of_user(targets: Targets) -> Outcome:
    """Read a file in the home of the user who runs the platform."""
    return _finds(targets, "home")


@probe(process=ALLOWED, needs=("canaries",))
def state_of_server(targets: Targets) -> Outcome:
    """Read the server's folder, where its token and store are."""
    return _finds(targets, "state")


@probe(process=ALLOWED, needs=("canaries",))
def temporary_files_outside(targets: Targets) -> Outcome:
    """Read a file in the machine's /tmp."""
    return _finds(targets, "temporary")


@probe(process=ALLOWED, needs=("canaries",))
def files_of_neighbour(targets: Targets) -> Outcome:
    """Read a file that another container has written."""
    return _finds(targets, "neighbour")


@probe(process=ALLOWED, needs=("canaries",))
def shared_memory_outside(targets: Targets) -> Outcome:
    """Read a file in the machine's /dev/shm."""
    return _finds(targets, "memory")


@probe(process=ALLOWED, needs=("canaries",))
def change_files_outside(targets: Targets) -> Outcome:
    """Open any file of the outside for writing."""
    for canary in targets.canaries:
        for path in _ways_to(canary.path):
            if _is(canary, path) and os.access(path, os.W_OK):
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                except OSError:
                    continue
                return allowed(f"may write {path}")
    return denied("none")


@probe()
def passwords(_: Targets) -> Outcome:
    """Read hashes of passwords in /etc/shadow."""
    try:
        with open("/etc/shadow") as file:
            hashed = [line for line in file if "$" in [*line.split(":"), ""][1]]
    except OSError as error:
        return denied(error.strerror or "")
    return allowed(f"{len(hashed)} hashes") if hashed else denied("there are none")


@probe()
def keys_of_users(_: Targets) -> Outcome:
    """Find keys and tokens in homes: of SSH, of clouds, of registries, of this platform."""
    names = (
        ".ssh/id_*",
        ".aws/credentials",
        ".netrc",
        ".docker/config.json",
        ".kube/config",
        ".config/gcloud/*",
        ".jitney/token*",
    )
    homes = ["/root", *glob.glob("/home/*"), os.environ.get("HOME") or "/root"]
    for home in homes:
        for pattern in names:
            for path in glob.glob(f"{home}/{pattern}"):
                if os.access(path, os.R_OK):
                    return allowed(f"may read {path}")
    return denied("there are none")


@probe(process=ANY, oci=ANY)
def change_interpreter(_: Targets) -> Outcome:
    """Change the interpreter that runs this, by its path or by /proc/self/exe."""
    for path in ("/proc/self/exe", os.path.realpath(sys.executable)):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            last = f"{path}: {error.strerror}"
        else:
            return allowed(f"may write {path}")
    return denied(last)


@probe(process=ANY, oci=ANY)
def change_packages(_: Targets) -> Outcome:
    """Put a file among the image's Python packages, for the next container to import."""
    folder = sysconfig.get_paths()["purelib"]
    path = os.path.join(folder, f"jitney_probe_{os.getpid()}.py")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        return denied(f"{folder}: {error.strerror}")
    os.unlink(path)
    return allowed(f"made a file in {folder}")


@probe(process=ANY, oci=ANY)
def change_code(_: Targets) -> Outcome:
    """Change the platform's own code, as this container sees it."""
    import jitney

    path = os.path.realpath(jitney.__file__ or "")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return denied(f"{path}: {error.strerror}")
    return allowed(f"may write {path}")


@probe(process=ALLOWED, needs=("canaries",))
def change_source(targets: Targets) -> Outcome:
    """Change the user's code as it was shipped, which other containers run."""
    sources = [canary for canary in targets.canaries if canary.what == "source"]
    for canary in sources:
        try:
            os.close(os.open(canary.path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            continue
        if _is(canary, canary.path):
            return allowed(f"may write {canary.path}")
    return denied("none")


@probe(process=ANY)
def link_to_packages(_: Targets) -> Outcome:
    """Make a second, writable name of a file of the image by a hard link."""
    original = os.path.realpath(os.__file__)
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "link")
        try:
            os.link(original, link)
            os.close(os.open(link, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            return denied(error.strerror or "")
    return allowed(f"may write {original} by a link")


@probe(process=ANY, oci=ANY)
def leaked_descriptors(_: Targets) -> Outcome:
    """Find open files, folders, namespaces or processes that were not meant for the container."""
    mine = {os.path.realpath(path) for path in ("/proc/self/fd",)}
    found = []
    for fd in _descriptors():
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        if link in mine or link.startswith(_HARMLESS) or link.endswith(_HARMLESS_ANONYMOUS):
            continue
        if stat.S_ISREG(mode) and _is_own_file(fd, link):
            continue
        if fd <= 2 and link.startswith("host:") and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            continue  # what gVisor calls the input and the output that it was given
        found.append(f"{fd}: {link}")
    return allowed("; ".join(found)[:300]) if found else denied("none")


def _is_own_file(fd: int, link: str) -> bool:
    """Whether the same file has this name in the container's own root, and is on no control group."""
    try:
        there, here = os.stat(link), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and not link.startswith("/sys/")


@probe()
def folders_left_open(_: Targets) -> Outcome:
    """Climb out of the root by a folder that was left open, or by the current one."""
    root = os.stat("/")
    for path in [".", *(f"/proc/self/fd/{fd}" for fd in _descriptors())]:
        try:
            if not os.path.isdir(path):
                continue
            top = os.stat(path + "/.." * 64)
        except OSError:
            continue
        if (top.st_dev, top.st_ino) != (root.st_dev, root.st_ino):
            return allowed(f"{path} leads out of the root")
    return denied("none leads out")


@probe(process=ANY, oci=ANY)
def shared_mappings(_: Targets) -> Outcome:
    """Find memory that is shared, writable, with whoever this process was forked from."""
    with open("/proc/self/maps") as file:
        shared = [
            line.split(None, 5) for line in file if line.split()[1].startswith("rw") and line.split()[1][3] == "s"
        ]
    names = sorted({parts[5].strip() if len(parts) > 5 else "anonymous" for parts in shared})
    return allowed(", ".join(names)[:300]) if names else denied("none")


@probe(process=ANY, oci=ANY)
def preload_for_everybody(_: Targets) -> Outcome:
    """Have a library loaded into every program that is started in the machine's own root, by /etc/ld.so.preload."""
    path = "/etc/ld.so.preload"
    mounts = {line.split()[4]: line.split(" - ")[1].split()[0] for line in _mountinfo()}
    at = max((mount for mount in mounts if _is_below(path, mount)), key=len)
    if not os.access(os.path.dirname(path), os.W_OK):
        return denied("/etc cannot be written")
    if mounts[at] in {"overlay", "tmpfs"}:
        return denied(f"/etc is the container's own ({mounts[at]})")
    return allowed(f"/etc can be written, and is on {at} ({mounts[at]})")


def _mountinfo() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return file.readlines()


def _is_below(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(folder + "/")
