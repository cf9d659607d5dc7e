"""Prints how long each of N single-use containers took from the call to the first line of the function, in ms.

starts.py N                     from a warm template
starts.py N spare               with a container kept ready ahead of need
starts.py N torch==2.13.0       from a warm template whose module imports torch
"""

import json
import sys
import time

import jitney

SETTLE_S = 0.1  # the end of one container is not part of the start of the next

app = jitney.App("starts")
kind = sys.argv[2] if len(sys.argv) > 2 else ""
image = jitney.Image.debian_slim()
if kind.startswith("torch"):
    image = image.uv_pip_install(kind)

with image.imports():
    if kind.startswith("torch"):
        import torch  # noqa: F401


@app.function(
    image=image, single_use_containers=True, cpu=0.01, memory=64, min_containers=int(kind == "spare"), timeout=600
)
def born():
    return time.time()


if __name__ == "__main__":
    took = []
    with app.run():
        born.remote()
        for _ in range(int(sys.argv[1])):
            time.sleep(SETTLE_S * (5 if kind == "spare" else 1))
            asked = time.time()
            took.append((born.remote() - asked) * 1e3)
    print(json.dumps(took))
