"""Whether walls can be made on this machine: tried, not guessed."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from jitney.runner import template_protocol as protocol

TRY_S = 10.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`why` is '' where walls can be made."""

    why: str = ""
    remedy: str = ""


@functools.cache
def probe() -> Finding:
    """Make a wall with nothing in it, and take it down; once per process."""
    if not sys.platform.startswith("linux"):
        return Finding(why="namespaces are Linux's", remedy="use an engine: runtime = 'oci'")
    from jitney.drivers.walls.machine import Machine
    from jitney.drivers.walls.render import launcher_env

    machine = Machine()
    folder = Path(tempfile.mkdtemp(prefix="jitney-probe-"))
    stage = folder / "stage"
    stage.mkdir()
    wall = {
        "ids": machine.ids.lines(),
        "writer": machine.ids.writer,
        "stage": str(stage),
        "stage_ops": [
            ["tmpfs", str(stage), "mode=755,size=1m"],
            *(["folder", f"{stage}/{name}", 0o755] for name in ("proc", "r", "low", "up", "work", "own")),
        ],
        "ops": [
            ["tmpfs", "/own", "mode=755,size=1m"],
            ["folder", "/own/up", 0o755],
            ["folder", "/own/work", 0o755],
            ["overlay", "/r", ["/low"], "/own/up", "/own/work", False],
        ],
        "hostname": "probe",
    }
    try:
        return _understand(_try([*machine.launcher()], launcher_env(os.environ, "probe"), wall))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try(launcher: list[str], env: dict[str, str], wall: dict[str, Any]) -> str:
    """What went wrong, or ''."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [*launcher, str(theirs.fileno())], stdin=subprocess.DEVNULL, env=env, pass_fds=[theirs.fileno()]
            )
        ours.settimeout(TRY_S)
        splitter = protocol.Splitter()
        try:
            protocol.send_frame(ours, protocol.pack({"kind": "wall", **wall}))
            protocol.send_frame(ours, protocol.pack({"kind": "hub", "plan": None, "ops": []}))
            while data := ours.recv(65536):
                for message in splitter.feed(data):
                    if message["kind"] == "failed":
                        return str(message["message"])
                    if message["kind"] == "hub":
                        return str(message["message"])
        except OSError as error:
            return f"no answer: {error}"
        finally:
            ours.close()
            process.wait()
    return "the launcher ended without a word"


def _understand(problem: str) -> Finding:
    if not problem:
        return Finding()
    if "unshare" in problem or "user namespace" in problem:
        return Finding(
            why=f"user namespaces cannot be made ({problem})",
            remedy="sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0, "
            "or run the worker as root",
        )
    if "proc" in problem:
        return Finding(
            why=f"/proc cannot be mounted ({problem})",
            remedy="inside an engine's container, start that with --security-opt systempaths=unconfined",
        )
    return Finding(why=problem, remedy="use runtime = 'oci' where there is an engine, or 'process' for trusted code")
