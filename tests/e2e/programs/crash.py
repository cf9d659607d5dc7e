"""Work that writes down when it runs, so that a test can tell what ran twice.

python crash.py FUNCTION COUNT FOLDER    maps FUNCTION over range(COUNT) and prints each result
"""

import os
import sys
import time
from pathlib import Path

import jitney

app = jitney.App("crash")


def _write_down(folder, x):
    with Path(folder, "runs").open("a") as file:
        file.write(f"{x} {os.getpid()}\n")


@app.function()
def hold(x: int, folder: str):
    """Ends when the file `go` is there."""
    _write_down(folder, x)
    try:
        while not Path(folder, "go").exists():
            time.sleep(0.01)
    except jitney.InputCancellation:
        Path(folder, f"cancelled-{x}").touch()
        raise
    return x * x


@app.function(max_containers=2)
def counted(x, folder):
    _write_down(folder, x)
    time.sleep(0.005)
    return x * x


@app.function(max_containers=2)
def sized(x, folder):
    """Its values are large."""
    _write_down(folder, len(x))
    time.sleep(0.02)
    return x


@app.function()
def items(n, folder):
    _write_down(folder, n)
    yield 0
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    yield from range(1, n)


def main(name, count, folder):
    function = getattr(sys.modules[__name__], name)
    with app.run():
        print("running", flush=True)
        for result in function.map(range(int(count)), kwargs={"folder": folder}):
            print(result, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
