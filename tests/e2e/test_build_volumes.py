"""Images that are built with a volume: weights are fetched once, into the volume, and functions read them."""

import os
from pathlib import Path

import pytest

from jitney.drivers.walls.probe import probe
from tests.e2e.platforms import Platform

WHY_NOT = probe().why
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers over the machine's own file system"),
]

PROGRAM = """
import os

import jitney

app = jitney.App("weights")
weights = jitney.Volume.from_name("weights", create_if_missing=True)


def fetch(name, fails=False):
    print("fetching", sorted(os.listdir("/weights")))
    with open(f"/weights/{name}.bin", "w") as file:
        file.write(f"weights of {name}")
    if name == "large":
        os.remove("/weights/small.bin")
    if fails:
        raise RuntimeError("no such model")


image = jitney.Image.debian_slim().run_function(
    fetch, args=(os.environ.get("MODEL", "small"), "FAILS" in os.environ), volumes={"/weights": weights}
)


@app.function(image=image, volumes={"/models": weights.read_only()})
def load():
    found = {name: open(f"/models/{name}").read() for name in sorted(os.listdir("/models"))}
    return found, os.path.exists("/weights")


@app.local_entrypoint()
def main():
    print(load.remote())
    print([one.message.partition(": ")[2] for one in weights.history()])
"""


def test_a_function_at_build_time_fills_a_volume_that_functions_read(lone: Platform):
    lone.environment["JITNEY_RUNTIME"] = "namespaces"
    lone.write("weights.py", PROGRAM)
    first = lone.jitney("run", "weights.py")
    assert "({'small.bin': 'weights of small'}, False)" in first.out
    assert "['run function fetch']" in first.out
    assert "fetching []" in first.err

    again = lone.jitney("run", "weights.py")  # what is in the volume is no reason to do it again
    assert "fetching" not in again.err
    assert "['run function fetch']" in again.out

    forced = lone.jitney("run", "weights.py", JITNEY_FORCE_BUILD="1")
    assert "fetching ['small.bin']" in forced.err

    failed = lone.jitney("run", "weights.py", code=None, MODEL="large", FAILS="1")
    assert failed.code
    assert "no such model" in failed.err
    assert [line.split()[0] for line in lone.jitney("volume", "ls", "weights").lines] == ["PATH", "small.bin"]

    last = lone.jitney("run", "weights.py", MODEL="large")
    assert "({'large.bin': 'weights of large'}, False)" in last.out
    history = lone.jitney("volume", "history", "weights", "--json").json()
    assert "by the build of im-" in str(history)
    assert str(lone.home.root) not in Path("/proc/self/mounts").read_text()
    assert not [*lone.home.images.glob("steps/*")]


def test_a_volume_that_is_missing_is_told_before_anything_is_built(lone: Platform):
    lone.environment["JITNEY_RUNTIME"] = "namespaces"
    lone.jitney("volume", "create", "weights")
    lone.write("weights.py", PROGRAM.replace('"weights", create_if_missing=True', '"weihgts"'))
    failed = lone.jitney("run", "weights.py", code=None)
    assert failed.code
    assert "weihgts" in failed.err
    assert "weights" in failed.err.replace("weights.py", "")
    assert "step 2" not in failed.err


def test_without_walls_it_is_refused_with_what_to_do(lone: Platform):
    lone.write("weights.py", PROGRAM)
    failed = lone.jitney("run", "weights.py", code=None)
    assert failed.code
    assert "run function fetch cannot be made on this runtime" in failed.err
    assert "@app.function(volumes=...)" in failed.err
