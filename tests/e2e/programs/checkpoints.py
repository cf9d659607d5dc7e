"""A module whose import starts a thread, so that nothing can be forked from it."""

import os
import random
import threading
import time
import uuid
from pathlib import Path

import jitney

app = jitney.App("checkpoints")
beats = [0]
secret = uuid.uuid4().hex


def beat():
    while True:
        beats[0] += 1
        time.sleep(0.001)


threading.Thread(target=beat, daemon=True, name="beat").start()


def state() -> tuple[str, float, str, bool]:
    before = beats[0]
    deadline = time.monotonic() + 20
    while beats[0] == before and time.monotonic() < deadline:
        time.sleep(0.001)
    return secret, random.random(), os.environ["KIND"], beats[0] > before


@app.function(single_use_containers=True, env={"KIND": "kept"}, experimental_options={"enable_checkpoint": True})
def kept():
    print("hello from", os.environ["JITNEY_CONTAINER_ID"])
    return *state(), os.environ["JITNEY_CONTAINER_ID"]


@app.function(single_use_containers=True, env={"KIND": "plain"})
def plain():
    return state()


@app.cls(single_use_containers=True, enable_memory_snapshot=True, experimental_options={"enable_checkpoint": True})
class Model:
    folder: str = jitney.parameter()

    @jitney.enter(snap=True)
    def load(self):
        with open(Path(self.folder) / "loaded", "a") as file:
            file.write("loaded\n")
        self.weights = uuid.uuid4().hex

    @jitney.enter()
    def open(self):
        with open(Path(self.folder) / "opened", "a") as file:
            file.write("opened\n")

    @jitney.method()
    def run(self):
        return self.weights

    @jitney.method()
    def die(self):
        os._exit(9)
