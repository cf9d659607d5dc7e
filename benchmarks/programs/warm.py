"""Prints the median of N warm calls, in ms."""

import json
import statistics
import sys
import time

import jitney

app = jitney.App("warm")


@app.function(max_containers=1)
def echo(value):
    return value


if __name__ == "__main__":
    took, payload = [], b"x" * 100
    with app.run():
        for _ in range(int(sys.argv[1]) // 10):
            echo.remote(payload)
        for _ in range(int(sys.argv[1])):
            started = time.perf_counter()
            echo.remote(payload)
            took.append((time.perf_counter() - started) * 1e3)
    print(json.dumps([statistics.median(took)]))
