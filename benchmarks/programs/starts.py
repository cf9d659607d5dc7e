"""Prints how long each of N single-use containers took from the call to the first line of the function, in ms."""

import json
import sys
import time

import jitney

SETTLE_S = 0.1  # the end of one container is not part of the start of the next

app = jitney.App("starts")


@app.function(single_use_containers=True, cpu=0.01, memory=64)
def born():
    return time.time()


if __name__ == "__main__":
    took = []
    with app.run():
        born.remote()
        for _ in range(int(sys.argv[1])):
            time.sleep(SETTLE_S)
            asked = time.time()
            took.append((born.remote() - asked) * 1e3)
    print(json.dumps(took))
