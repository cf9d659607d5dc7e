"""Whether sandboxes can be made on this machine, and how: tried, not guessed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from jitney.drivers.runtime.gvisor.render import CAPABILITIES, OCI_VERSION, Runsc, render_flags

TRY_S = 30.0
INSTALL = "install gVisor's runsc, one of 2024 or later: gvisor.dev/docs/user_guide/install"


# Without it, and what came with it, processes that a container has left behind cannot be told from others.
CHILDREN = "/proc/1/task/1/children"
TOO_OLD = "this `runsc` is too old: processes that leave their parents cannot be found in its sandboxes"
NEWER = "install one of 2024 or later (Debian 12: `apt install -t bookworm-backports runsc`)"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`runsc` is how it works; `why` is '' then."""

    runsc: Runsc | None = None
    why: str = ""
    remedy: str = ""


@functools.cache
def probe() -> Finding:
    """Make a sandbox that does next to nothing, in the best way that works; once per process. Takes half a second."""
    if not sys.platform.startswith("linux"):
        return Finding(why="gVisor is for Linux", remedy="use an engine in a virtual machine, or isolation='process'")
    path = shutil.which("runsc")
    if path is None:
        return Finding(why="there is no `runsc` in PATH", remedy=INSTALL)
    return choose(path, rootless=os.geteuid() != 0)


def choose(path: str, *, rootless: bool) -> Finding:
    """The first way that works: with the default platform, before that which needs least."""
    reason = ""
    for platform in ("", "ptrace"):
        runsc = Runsc(path=path, rootless=rootless, platform=platform)
        failed = attempt(runsc)
        if not failed:
            return Finding(runsc=runsc)
        if CHILDREN in failed:
            return Finding(why=TOO_OLD, remedy=NEWER)
        reason = reason or failed
    return Finding(why=f"runsc cannot make a sandbox: {reason}", remedy=_remedy(reason, rootless))


def attempt(runsc: Runsc) -> str:
    """What goes wrong with it; '' for nothing."""
    folder = Path(tempfile.mkdtemp(prefix="jitney-runsc-"))
    try:
        (folder / "root").mkdir()
        (folder / "config.json").write_text(json.dumps(_bundle()))
        argv = [*render_flags(runsc, str(folder / "state")), "run", f"--bundle={folder}", f"jitney-{folder.name}"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")[-500:]


def _bundle() -> dict[str, object]:
    folders = [name for name in ("/usr", "/lib", "/lib64", "/bin") if os.path.isdir(name)]
    mounts = [
        {"destination": name, "type": "bind", "source": os.path.realpath(name), "options": ["rbind", "ro"]}
        for name in folders
    ]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [shutil.which("ls") or "/usr/bin/ls", CHILDREN],
            "cwd": "/",
            "capabilities": {name: [] for name in CAPABILITIES},
        },
        "root": {"path": "root", "readonly": True},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


def _remedy(reason: str, rootless: bool) -> str:
    text = reason.lower()
    if "platform" in text or "kvm" in text or "ptrace" in text or "systrap" in text:
        return "its platforms systrap and ptrace were tried: take a newer runsc, or a kernel that lets users trace"
    if rootless:
        return "user namespaces are needed: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run it as root"
    return "`runsc --debug --debug-log=/tmp/runsc/ do true` says more"
