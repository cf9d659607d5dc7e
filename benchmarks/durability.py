"""What a kill -9 loses: nothing that was acknowledged. Volumes, dicts and queues on a real platform that is killed.

    python benchmarks/durability.py [--kills 500] [--seed 1] [--rounds 1] [--runtime namespaces|process] [--smoke]

Containers and a client write and read all the time (programs/durable.py) while a container, the worker, the server, or
the last two together are killed at random moments. A server is started again as a user does it, by `jitney up`; the
rest comes back by itself. At the end the server is killed once more, all is read, and what everybody noted is judged
(jitney.testing.witness). The exit code is 1 where something was lost, torn or wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jitney.compose import folder
from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.process.views import try_view
from jitney.drivers.walls.probe import probe
from jitney.errors import JitneyError
from jitney.testing import witness
from jitney.wire.home import Home

PROGRAMS = Path(__file__).resolve().parent / "programs"
WHY_NOT = {"namespaces": lambda: probe().why, "process": lambda: try_view().why}
KINDS = ("container", "server", "worker", "server and worker")
WEIGHTS = (64, 16, 10, 10)
WORKERS_OF_SERVER = 3  # that are killed: each waits longer than the one before to be started again, by the same server
PAUSE_S = 0.3  # at most, between two kills
AGAIN = 0.1  # kills that do not wait until all is back
BACK_S = 20.0  # until somebody writes again: longer is a stall, which is counted
TAIL_BYTES = 1 << 20
END_S = 60.0


class Platform:
    """A server folder, and how to reach into it."""

    def __init__(self, runtime: str, seed: int) -> None:
        self.home = Home(Path(tempfile.mkdtemp(prefix="jitney-bench-")))
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.stalls: list[str] = []
        os.environ.update(JITNEY_HOME=str(self.home.root), JITNEY_HTTP_PORT="0", JITNEY_RUNTIME=runtime, NO_COLOR="1")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have caches of bytecode
        self.up()
        from durable import EVENTS, STOP  # it asks for this folder

        self.stop = self.home.blobs / STOP
        self.events = self.home.blobs / EVENTS
        self.events.touch()
        self.events.chmod(0o666)  # containers behind walls are other users
        self._read = 0
        self._rest = b""
        self.answered: Counter[str] = Counter()
        self.heard_s: dict[bool, float] = {}  # when the last answer came, inside containers and outside
        self._workers = 0  # that were killed since the server was

    def up(self) -> None:
        """Start the server, as a user does."""
        subprocess.run([sys.executable, "-m", "jitney", "up", "--background"], check=True, stdout=subprocess.DEVNULL)

    def down(self) -> list[str]:
        """End it; gives what is left of it."""
        subprocess.run([sys.executable, "-m", "jitney", "down"], check=True, stdout=subprocess.DEVNULL)
        until_s = time.monotonic() + END_S
        while (left := list(self._processes())) and time.monotonic() < until_s:
            time.sleep(0.1)
        return [f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}" for pid in left]

    def _processes(self) -> Iterator[int]:
        needle = os.fsencode(self.home.root)
        for pid in procfs.pids():
            try:
                if pid != os.getpid() and needle in Path(f"/proc/{pid}/environ").read_bytes():
                    yield pid
            except OSError:
                continue

    # -------------------------------------------------------------------------------------------- killing

    def pid_of(self, kind: str) -> int | None:
        """A process to kill."""
        if kind == "server":
            return folder.server_lock(self.home).holder()
        if kind == "worker":
            return folder.worker_lock(self.home).holder()
        return self._container()

    def _container(self) -> int | None:
        from jitney.client import session
        from jitney.wire.messages.containers import ContainerList
        from jitney.wire.methods import CONTAINER_LIST

        try:
            listed = session.current().ask(CONTAINER_LIST, ContainerList()).containers
        except JitneyError:
            return None
        pids = sorted(one.pid for one in listed if one.pid and procfs.stat(one.pid) is not None)
        return self.dice.choice(pids) if pids else None

    def kill(self) -> str:
        """Kill something; says what."""
        kind = self.dice.choices(KINDS, WEIGHTS)[0]
        if kind == "worker" and self._workers == WORKERS_OF_SERVER:
            kind = "server and worker"
        pids = [self.pid_of(one) for one in kind.split(" and ")]
        if None in pids:
            return ""
        for pid in pids:
            os.kill(pid or 0, signal.SIGKILL)
        self._workers += "worker" in kind
        if "server" in kind:
            self._workers = 0
            time.sleep(self.dice.random() * 0.2)
            self.up()
        self.kills[kind] += 1
        return kind

    def wait_for_writers(self, kind: str) -> None:
        """Until what was killed works again: an answer after now."""
        killed_s = time.monotonic()
        inside = kind == "worker" or ("server" in kind and self.dice.random() < 0.5)
        while self.heard_s.get(inside, 0.0) < killed_s:
            self.listen()
            if time.monotonic() - killed_s > BACK_S:
                self.stalls.append(f"kill {self.kills.total()} ({kind}): no write in {BACK_S:g} s")
                return
            time.sleep(0.01)

    def listen(self) -> None:
        """Read what was noted since."""
        with self.events.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for event in witness.read(lines):
            if event.step is witness.Step.DONE and event.what in ("put", "count", "enqueue", "commit", "finish"):
                self.answered[event.what] += 1
                if event.what == "commit":
                    self.heard_s[not event.key.startswith("outside")] = event.at_s


def drive(platform: Platform, function: Callable[..., object], role: str) -> None:
    """Have a container in this role until it is time to stop."""
    while not platform.stop.exists():
        try:
            function(role)
        except JitneyError as error:
            print(f"\n{role}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            time.sleep(0.2)


@contextmanager
def writers(platform: Platform) -> Iterator[None]:
    """All who write and read, inside and outside."""
    import durable

    outside = subprocess.Popen([sys.executable, str(PROGRAMS / "durable.py"), "outside"])
    with durable.app.run():
        threads = [
            threading.Thread(target=drive, name=role, args=(platform, function.remote, role))
            for function, role in durable.INSIDE
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            platform.stop.touch()
            until_s = time.monotonic() + END_S
            for thread in threads:
                thread.join(max(0.0, until_s - time.monotonic()))
                if thread.is_alive():
                    platform.stalls.append(f"{thread.name} did not end in {END_S:g} s")
            outside.wait(END_S)


def one_round(runtime: str, seed: int, kills: int, keep: Path | None = None) -> bool:
    """Kill so often, and judge; whether all was well."""
    platform = Platform(runtime, seed)
    started_s = time.monotonic()
    try:
        with writers(platform):
            platform.wait_for_writers("worker")
            while platform.kills.total() < kills:
                time.sleep(platform.dice.random() * PAUSE_S)
                kind = platform.kill()
                if kind and platform.dice.random() > AGAIN:
                    platform.wait_for_writers(kind)
                platform.listen()
                show_progress(platform, kills, started_s)
        left = read_all(platform)
        verdict = witness.judge(witness.read(platform.events.read_bytes().splitlines()))
        report(platform, verdict, runtime, seed, time.monotonic() - started_s)
        if left:
            print("left behind:", *left, sep="\n")
        return verdict.is_good
    finally:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for path in (platform.events, platform.home.server_log, platform.home.worker_log):
                shutil.copy(path, keep)
        subprocess.run([sys.executable, "-m", "jitney", "down", "--force"], capture_output=True, check=False)
        shutil.rmtree(platform.home.root, ignore_errors=True)


def read_all(platform: Platform) -> list[str]:
    """With one more kill, as all is to come from the disk. Gives what the platform leaves behind."""
    for kind in ("worker", "server"):
        pid = platform.pid_of(kind)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    platform.up()
    keys = sorted(
        {event.key for event in witness.read(platform.events.read_bytes().splitlines()) if event.what == "put"}
    )
    subprocess.run([sys.executable, str(PROGRAMS / "durable.py"), "end", *keys], check=True)
    return platform.down()


def show_progress(platform: Platform, kills: int, started_s: float) -> None:
    line = f"{platform.kills.total()}/{kills} kills, {platform.answered.total():,} writes acknowledged"
    print(f"\r{line}, {time.monotonic() - started_s:.0f} s ", end="", file=sys.stderr, flush=True)


def report(platform: Platform, verdict: witness.Verdict, runtime: str, seed: int, seconds: float) -> None:
    print(f"\nruntime {runtime}, seed {seed}, {seconds:.0f} s, {platform.kills.total()} kills\n", flush=True)
    print("| killed | times |\n|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {platform.kills[kind]} |")
    print(f"\n{witness.table(verdict)}")
    for stall in platform.stalls:
        print(f"stalled: {stall}")


def main() -> int:
    """Print the tables; the exit code says whether anything was lost, torn or wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="each with a platform, and a seed, of its own")
    parser.add_argument("--runtime", choices=WHY_NOT, default="namespaces", help="what runs the containers")
    parser.add_argument("--keep", type=Path, help="a folder for what was noted, and for the logs of server and worker")
    parser.add_argument("--smoke", action="store_true", help="a few kills: does it run at all?")
    options = parser.parse_args()
    if why := WHY_NOT[options.runtime]():
        print(f"not measured: there are no mounts here ({why})")
        return 0
    sys.path.insert(0, str(PROGRAMS))
    kills = 6 if options.smoke else options.kills
    good = [one_round(options.runtime, options.seed + number, kills, options.keep) for number in range(options.rounds)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
