"""A class with a memory snapshot behind whatever wall there is: what is drawn is told, not written."""

import os
import random
import ssl
import tempfile
import uuid

import jitney

app = jitney.App("walled-snapshots")


@app.cls(enable_memory_snapshot=True, single_use_containers=True)
class Model:
    @jitney.enter(snap=True)
    def load(self):
        self.weights = uuid.uuid4().hex
        ssl.RAND_bytes(8)
        tempfile.mktemp()

    @jitney.enter()
    def open(self):
        self.own = uuid.uuid4().hex

    @jitney.method()
    def seen(self) -> tuple[str, str, dict[str, object]]:
        drawn = {
            "random": random.random(),
            "urandom": os.urandom(8),
            "ssl": ssl.RAND_bytes(8),
            "uuid1": str(uuid.uuid1()),
            "name": tempfile.mktemp(),
        }
        return self.weights, self.own, drawn
