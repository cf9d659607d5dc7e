"""Prints how long each of N containers of a class took to start whose snapshot took two seconds, in ms."""

import json
import sys
import time

import jitney

app = jitney.App("snapshots")


@app.cls(enable_memory_snapshot=True, single_use_containers=True, cpu=0.01, memory=64)
class Slow:
    @jitney.enter(snap=True)
    def load(self):
        time.sleep(2)
        self.weights = list(range(100_000))

    @jitney.method()
    def born(self):
        return time.time(), len(self.weights)


if __name__ == "__main__":
    took = []
    with app.run():
        Slow().born.remote()
        for _ in range(int(sys.argv[1])):
            time.sleep(0.1)
            asked = time.time()
            at, size = Slow().born.remote()
            assert size == 100_000
            took.append((at - asked) * 1e3)
    print(json.dumps(took))
