"""No process of a container outlives it: how ours are told from others, found and ended.

Three things tell that a process comes from a container of ours, however it was started:

- *Descent.* Each container is a child subreaper, and so is the worker: what a container's processes leave behind
  becomes the container's child, and when the container ends, the worker's. So after the end of a container, whatever
  the worker has for a child that it did not start itself is a leftover, also a daemon that forked twice and made a
  session of its own.
- *A brand.* Templates get OOM_SCORE_ADJ, which forks and execs inherit and only a privileged process can lower. It
  tells leftovers from other children of the worker (an image build). It has a use of its own: when memory runs out,
  the kernel takes a container and not the worker or the server.
- *A marker* in the environment that templates are started with, which names the server folder. It finds what an
  earlier worker left, who died before it could clean up. So does a record of each container, in case the environment
  was wiped: its pid, and the start time that tells it from a later process of the same pid.

A fork bomb is ended too, as each round kills every process of the tree and the children of the dead come to us; but
nothing here limits how many there are meanwhile (`capabilities().process_limit`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.exits import collect
from jitney.wire.home import Home

OOM_SCORE_ADJ = 500
MARKER_NAME = "JITNEY_RUNTIME"
JOURNAL = "running"  # in the folder of scratch folders
JOURNAL_LINES_SPARE = 1_000
STRAY_S = 5.0
ROUNDS_MAX = 200  # of killing: each ends all that can be seen
ROUND_S = 0.005

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make this process the parent of whatever its descendants leave behind; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def can_brand() -> bool:
    """Whether the brand tells our containers from us: not where we were given as high a score ourselves."""
    own = procfs.oom_score_adj(os.getpid())
    return own is not None and own < OOM_SCORE_ADJ


class Leftovers:
    """Ends what containers leave behind. One for each runtime."""

    def __init__(self, home: Home, marker: str) -> None:
        self._home = home
        self._marker = f"{MARKER_NAME}={marker}".encode()
        self._is_branded = can_brand()
        self._journal = -1
        self._journal_lines = 0
        self._strays: dict[int, float] = {}
        self._recorded: dict[str, bytes] = {}

    # -------------------------------------------------------------------------------------------- while we run

    def find(self, known: Collection[int]) -> list[int]:
        """Children of this process that are left over from containers; `known` are those that are not."""
        return [pid for pid in procfs.children(os.getpid()) if pid not in known and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        if self._is_branded and (procfs.oom_score_adj(pid) or 0) >= OOM_SCORE_ADJ:
            return True
        return procfs.carries(pid, self._marker)

    async def sweep(self, known: Collection[int]) -> None:
        """End all leftovers. Costs a look at our children when there are none."""
        for _ in range(ROUNDS_MAX):
            found = self.find(known)
            if not found:
                break
            for pid in found:
                end_tree(pid)
            for pid in found:
                collect(pid)
            if self.find(known):
                await asyncio.sleep(ROUND_S)

    def collect_strays(self, known: Collection[int], now_s: float) -> None:
        """Collect children that have ended and that nobody else collects.

        As we adopt orphans, what an image build leaves comes to us as well. Whoever waits for a child of his own has
        collected it long before STRAY_S.
        """
        dead = [pid for pid in procfs.children(os.getpid()) if pid not in known and not is_alive(pid)]
        self._strays = {pid: self._strays.get(pid, now_s) for pid in dead}
        for pid, seen_s in self._strays.items():
            if now_s - seen_s >= STRAY_S:
                collect(pid)

    def close(self) -> None:
        """Nothing is written down any more."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    # -------------------------------------------------------------------------------------------- after a restart

    def record(self, container_id: str, pid: int, start_ticks: int) -> None:
        """Write down a container, for a later worker.

        One line in one file, which is emptied when no container is left: a file for each would cost half of a start.
        """
        if self._journal < 0:
            path = self._home.containers / JOURNAL
            self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._recorded[container_id] = line = b"%d %d\n" % (pid, start_ticks)
        os.write(self._journal, line)
        self._journal_lines += 1

    def forget(self, container_id: str) -> None:
        """It is gone."""
        if self._recorded.pop(container_id, None) is None:
            return
        if not self._recorded or self._journal_lines > 2 * len(self._recorded) + JOURNAL_LINES_SPARE:
            os.ftruncate(self._journal, 0)
            os.write(self._journal, b"".join(self._recorded.values()))
            self._journal_lines = len(self._recorded)

    async def reap(self) -> int:
        """End what an earlier worker of this folder left running; how many processes that were."""
        ended = 0
        for attempt in range(ROUNDS_MAX):
            roots = self._written_down() if attempt == 0 else []
            roots += [pid for pid in procfs.pids() if pid != os.getpid() and procfs.carries(pid, self._marker)]
            alive = [pid for pid in roots if is_alive(pid)]
            if not alive:
                break
            if attempt == 0:
                ended = len(set(alive))
            for pid in alive:
                end_tree(pid)
                collect(pid)
            await asyncio.sleep(ROUND_S)
        return ended

    def _written_down(self) -> list[int]:
        """Processes of containers that were written down and still run, with whatever is in their sessions."""
        leaders = set()
        for pid, start_ticks in read_journal(self._home.containers / JOURNAL):
            stat = procfs.stat(pid)
            if stat is not None and stat.start_ticks == start_ticks:
                leaders.add(pid)
        if not leaders:
            return []
        stats = [stat for pid in procfs.pids() if (stat := procfs.stat(pid)) is not None]
        return [stat.pid for stat in stats if stat.session in leaders]


def read_journal(path: Path) -> list[tuple[int, int]]:
    """(pid, start_ticks) of each whole line."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    pairs = [line.split() for line in lines]
    return [(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2 and all(map(bytes.isdigit, pair))]


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended and waits for its parent does not."""
    stat = procfs.stat(pid)
    return stat is not None and stat.state not in ("Z", "X")


def end_tree(pid: int) -> None:
    """SIGKILL to a process and all its descendants, parents first, so that none can start another."""
    for one in procfs.tree(pid):
        send(one, signal.SIGKILL)


def send(pid: int, signum: int) -> None:
    """A signal to a process that may be gone."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass
