"""An engine for tests: the one that runs here, or one that is started for them and stopped again. Installs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.oci import where
from jitney.testing.processes import bystanders

START_S = 20.0
# What an engine leaves behind stays below it, though this process adopts orphans in some tests.
ADOPTS_ORPHANS = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"


def why_not(kind: str) -> str:
    """Why there is no such engine here; "" = there is."""
    if _running(kind):
        return ""
    if os.geteuid() != 0:
        return f"needs root to start {kind}, and none runs here"
    needed = ("dockerd", "containerd", "runc") if kind == "docker" else ("podman", "crun")
    missing = [name for name in needed if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def _running(kind: str) -> str:
    given = os.environ.get("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", "").removeprefix("unix://")
    paths = [given] if given else where.candidates(os.environ, os.getuid())
    return next((path for path in paths if kind in path and not where.look_at(path)), "")


@contextmanager
def engine(kind: str) -> Iterator[str]:
    """The path of its socket."""
    running = _running(kind)
    if running:
        yield running
        return
    folder = Path(tempfile.mkdtemp(prefix=f"jitney-{kind}-"))
    processes: list[subprocess.Popen[bytes]] = []
    path = folder / "engine.sock"
    try:
        with open(folder / "log", "wb") as log:
            for argv, ready in (_docker if kind == "docker" else _podman)(folder, path):
                command = [sys.executable, "-c", ADOPTS_ORPHANS, *argv]
                started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                bystanders.add(started.pid)
                processes.append(started)
                _wait_for(ready, processes[-1], folder / "log")
        yield str(path)
    finally:
        for one in reversed(processes):
            _end(one)
            bystanders.discard(one.pid)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end(one: subprocess.Popen[bytes]) -> None:
    """With what it has started: Podman lets a step of a build run on whose client has gone, and after its own end."""
    below = {pid: procfs.stat(pid) for pid in procfs.tree(one.pid)[1:]}
    one.send_signal(signal.SIGTERM)
    try:
        one.wait(START_S)
    except subprocess.TimeoutExpired:
        one.kill()
        one.wait()
    for pid, known in below.items():
        now = procfs.stat(pid)
        if known is not None and now is not None and now.start_ticks == known.start_ticks:
            os.kill(pid, signal.SIGKILL)


def _docker(folder: Path, path: Path) -> list[tuple[list[str], Path]]:
    inner = folder / "containerd.sock"
    config = folder / "containerd.toml"
    config.write_text(
        f'version = 2\nroot = "{folder}/c-root"\nstate = "{folder}/c-state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{inner}"\n'
    )
    return [
        (["containerd", "--config", str(config)], inner),
        (
            [
                "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--containerd", str(inner),
                "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid",
                "-H", f"unix://{path}",
            ],
            path,
        ),
    ]  # fmt: skip


def _podman(folder: Path, path: Path) -> list[tuple[list[str], Path]]:
    (folder / "containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "runc"\n'
    )
    return [
        (
            [
                "env", f"CONTAINERS_CONF={folder}/containers.conf", "podman", "--root", f"{folder}/data",
                "--runroot", f"{folder}/run", "system", "service", "--time=0", f"unix://{path}",
            ],
            path,
        )
    ]  # fmt: skip


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while where.look_at(str(path)):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{process.args} does not listen at {path}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)  # sleep: no event says that an engine listens


def _unmount(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", path], check=False)
