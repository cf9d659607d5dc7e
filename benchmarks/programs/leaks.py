"""Starts and ends N containers; prints what there is more of: mounts, control groups, namespaces, processes, ..."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jitney

CALM_S = 35.0

app = jitney.App("leaks")


@app.function(single_use_containers=True, cpu=0.01, memory=64)
def born():
    return os.getpid()


def worker():
    found = subprocess.run(
        ["pgrep", "-f", f"jitney.compose.worker {os.environ['JITNEY_HOME']}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()[0]


def descendants(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return sum(1 + descendants(child) for child in children)


def count():
    namespaces = set()
    processes = descendants(worker())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                namespaces |= {os.readlink(link) for link in (entry / "ns").iterdir()}
            except OSError:
                continue
    groups = sum(len(found) for _, found, _ in os.walk("/sys/fs/cgroup"))
    home = Path(os.environ["JITNEY_HOME"])
    return [
        len(Path("/proc/self/mounts").read_text().splitlines()),
        groups,
        len(namespaces),
        processes,
        len(os.listdir(f"/proc/{worker()}/fd")),
        sum(len(list(wall.rglob("p*"))) for wall in (home / "containers").glob("*/scratch")),
    ]


def settled():
    """When nothing changes any more: what ends, ends in the background, and stocks shrink when it has been calm."""
    time.sleep(CALM_S)
    last = count()
    for _ in range(50):
        time.sleep(0.3)
        now = count()
        if now == last:
            break
        last = now
    return last


if __name__ == "__main__":
    with app.run():
        for _ in range(10):
            born.remote()
        before = settled()
        for _ in range(int(sys.argv[1])):
            born.remote()
        after = settled()
    print(json.dumps([max(0, now - then) for then, now in zip(before, after, strict=True)]))
