"""Classes with memory snapshots, as users write them."""

import os
import random
import threading
import time
from pathlib import Path

import jitney

app = jitney.App("snapshots")


def mark(folder: str, what: str) -> None:
    with open(Path(folder) / what, "a") as file:
        file.write(f"{os.getpid()}\n")


def beat():
    time.sleep(600)


class Base:
    folder: str = jitney.parameter(default="")
    slow: bool = jitney.parameter(default=False)

    @jitney.enter(snap=True)
    def load(self):
        print("weights are read")
        if self.slow:
            time.sleep(2)
        mark(self.folder, "loaded")
        self.loaded_by = os.getpid()

    @jitney.enter()
    def open(self):
        mark(self.folder, "opened")
        self.opened_by = os.getpid()

    @jitney.method()
    def pids(self) -> tuple[int, int, int]:
        return self.loaded_by, self.opened_by, os.getpid()

    @jitney.method()
    def draw(self) -> float:
        return random.random()


@app.cls(enable_memory_snapshot=True, single_use_containers=True, env={"KIND": "snapped"})
class Snapped(Base):
    pass


@app.cls(single_use_containers=True)
class Plain(Base):
    pass


@app.cls(enable_memory_snapshot=True, single_use_containers=True)
class Threaded(Base):
    @jitney.enter(snap=True)
    def beat(self):
        threading.Thread(target=beat, daemon=True, name="beat").start()


@app.cls(enable_memory_snapshot=True)
class Broken(Base):
    @jitney.enter(snap=True)
    def fail(self):
        raise FileNotFoundError("no weights here")


@app.cls(enable_memory_snapshot=True, startup_timeout=2, serialized=True)
class Endless(Base):
    @jitney.enter(snap=True)
    def spin(self):
        while True:
            pass
