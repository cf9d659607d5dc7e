"""`cold_start` where the module of the function imports torch: only the template pays for it."""

from __future__ import annotations

import time
from importlib.metadata import version

import jitney

app = jitney.App("bench-torch")
image = jitney.Image.debian_slim().uv_pip_install(f"torch=={version('torch')}")  # what the peers have

with image.imports():
    import torch  # noqa: F401


@app.function(image=image, single_use_containers=True)
def born():
    return time.time()


def cold_start_torch(bench):
    from measure import SETTLE_S

    took = []
    with app.run():
        for i in range(bench.size(21, 3)):
            time.sleep(SETTLE_S)
            asked = time.time()
            at = born.remote()
            if i:
                took.append((at - asked) * 1e3)
    return bench.latency(took)


if __name__ == "__main__":
    from measure import main

    main({"cold_start_torch": cold_start_torch})
