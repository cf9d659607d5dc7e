"""Prints [seconds until N containers live at one moment, MiB that an idle one adds].

scale.py N                      a function that imports nothing
scale.py N torch==2.13.0        one that has torch in memory, and has used it
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jitney

app = jitney.App("scale")
wanted = sys.argv[2] if len(sys.argv) > 2 else ""
image = jitney.Image.debian_slim()
if wanted:
    image = image.uv_pip_install(wanted)

with image.imports():
    if wanted:
        import torch


@app.function(image=image, cpu=0.01, memory=64, max_containers=200, timeout=600)
def linger(seconds):
    started = time.time()
    if wanted:
        torch.ones(8).sum()
    time.sleep(seconds)
    return started


def pss_mib():
    """Of every process of this server folder: the worker and all below it."""
    home = os.environ["JITNEY_HOME"]
    listed = subprocess.run(["pgrep", "-f", home], capture_output=True, text=True, check=False).stdout.split()
    pids = {int(pid) for pid in listed} - {os.getpid()}
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = list(pids)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in pids:
                pids.add(child)
                waiting.append(child)
    total = 0
    for pid in pids - {os.getpid()}:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total / 1024


if __name__ == "__main__":
    count = int(sys.argv[1])
    with app.run():
        linger.remote(0)
        time.sleep(1)
        before = pss_mib()
        asked = time.time()
        started = list(linger.map([5] * count))
        time.sleep(1)
        after = pss_mib()
    print(json.dumps([max(started) - asked, (after - before) / (count - 1)]))
