"""Prints [ms to build an image of three packages that is not there yet, ms to find it built]."""

import json
import sys
import time

import jitney

app = jitney.App("images")
image = jitney.Image.debian_slim().env({"ROUND": sys.argv[1]}).uv_pip_install("six", "click", f"idna>=3.{sys.argv[1]}")


def build():
    started = time.perf_counter()
    image.build(app)
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    with app.run():
        pass
    print(json.dumps([build(), build()]))
