"""Functions with secrets, as users write them. What they tell is a digest: a value is in no result."""

import base64
import hashlib
import os
import sys
import time
from urllib.parse import quote

import jitney

DB = jitney.Secret.from_name("database", required_keys=["PASSWORD"])
OWN = jitney.Secret.from_dotenv(__file__, filename="own.env")
app = jitney.App("secretive")


def digest(name):
    value = os.environ.get(name)
    return hashlib.sha256(value.encode()).hexdigest() if value is not None else None


@app.function(secrets=[DB, OWN], env={"SET": "by the function"})
def look():
    return {name: digest(name) for name in ("PASSWORD", "TOKEN", "BOTH", "SET")}


@app.function(secrets=[DB])
def talk(wait: float):
    value = os.environ["PASSWORD"]
    print("plain", value)
    print("error", value, file=sys.stderr)
    print("environ", dict(os.environ))
    print("base64", base64.b64encode(b"u:" + value.encode()).decode())
    print("quoted", quote(value, safe=""))
    print("hex", value.encode().hex())
    print("half", value[:9])
    print(value[9:], "half")
    for part in (value[:5], value[5:], "\n"):
        sys.stdout.write(part)
        sys.stdout.flush()
    print("waiting", flush=True)
    time.sleep(wait)


@app.function(secrets=[DB])
def fail():
    raise RuntimeError("for a reason")


@app.function()
def bare():
    return digest("PASSWORD")


@app.cls(secrets=[DB], enable_memory_snapshot=True)
class Kept:
    @jitney.enter(snap=True)
    def before(self):
        self.early = digest("PASSWORD")

    @jitney.enter()
    def after(self):
        self.late = digest("PASSWORD")

    @jitney.method()
    def seen(self):
        return self.early, self.late, digest("PASSWORD")


@app.local_entrypoint()
def tell():
    print(look.remote())
    print(bare.remote())


@app.local_entrypoint()
def snapshot():
    print(Kept().seen.remote())


@app.local_entrypoint()
def chat(wait: float = 0.0):
    talk.remote(wait)
