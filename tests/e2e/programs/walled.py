"""Functions that look at what is around them, behind whatever wall the machine can make."""

import os
import socket
import time
from pathlib import Path

import jitney

volume = jitney.Volume.from_name("walled", create_if_missing=True)
app = jitney.App("walled")
made = jitney.Image.debian_slim().run_commands("echo built > /opt/note", "mkdir -p /usr/local/share/it").env({"A": "b"})


@app.function(cpu=0.1, memory=64)
def look(secret_path):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "uid": os.getuid(),
        "capabilities": status["CapEff"].strip(),
        "seccomp": status["Seccomp"].strip(),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "sees_secret": Path(secret_path).exists(),
        "home": os.getcwd(),
        "code": sorted(name for name in os.listdir("/root") if name.endswith(".py")),
    }


@app.function(image=made, cpu=0.1, memory=64)
def note():
    return Path("/opt/note").read_text().strip(), os.environ["A"], Path("/usr/local/share/it").is_dir()


@app.function(block_network=True, cpu=0.1, memory=64)
def reach(address):
    try:
        socket.create_connection(tuple(address), 2).close()
    except OSError as error:
        return type(error).__name__
    return "reached"


@app.function(memory=(64, 128), cpu=0.1)
def eat():
    return len(b"x" * (1 << 30))


@app.function(ephemeral_disk=8, cpu=0.1, memory=64)
def fill():
    with open("/tmp/much", "wb") as file:
        while True:
            file.write(b"x" * 1_000_000)


@app.function(ephemeral_disk=8, cpu=0.1, memory=64, volumes={"/volume": volume})
def fill_volume(mib, times):
    """Write so much, and commit it, so many times; each time it is looked at before the next."""
    for number in range(times):
        with open(f"/volume/{number}", "wb") as file:
            file.write(bytes(mib << 20))
        time.sleep(1.5 if mib < 8 else 60)
        volume.commit()
    time.sleep(1.5)
    return mib * times


@app.function(isolation="gvisor", cpu=0.1, memory=64)
def strict():
    return "ran"


@app.cls(enable_memory_snapshot=True, cpu=0.1, memory=64, single_use_containers=True)
class Slow:
    @jitney.enter(snap=True)
    def load(self):
        self.born = os.urandom(8).hex()

    @jitney.enter()
    def wake(self):
        self.woken = os.urandom(8).hex()

    @jitney.method()
    def who(self):
        return self.born, self.woken


@app.cls(enable_memory_snapshot=True, cpu=0.1, memory=(64, 128))
class Greedy:
    @jitney.enter(snap=True)
    def load(self):
        self.kept = b"x" * (1 << 30)

    @jitney.method()
    def who(self):
        return len(self.kept)


@app.function(cpu=0.1, memory=64)
def large(data):
    return data[::-1]
