"""Functions that do what functions should not do."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jitney

app = jitney.App("bad")


@app.function()
def fine(x=1):
    return x


# ---------------------------------------------------------------------------------------------------- values


@app.function()
def anything(value, other=None):
    return value


class Spiky:
    """Refuses to be pickled, in its own words."""

    def __reduce__(self):
        raise RuntimeError("spiky things do not travel")


class OneWay:
    """Leaves, and cannot arrive."""

    def __reduce__(self):
        return (_explode, ())


def _explode():
    if jitney.is_local():
        raise RuntimeError("boom on arrival")
    return OneWay()


@app.function()
def make(kind):
    if kind == "spiky":
        return Spiky()
    if kind == "lock":
        return {"inner": [threading.Lock()]}
    if kind == "deep":
        deep = []
        for _ in range(100_000):
            deep = [deep]
        return deep
    if kind == "one way":
        return OneWay()
    return lambda x: x + 1


@app.function()
def make_items():
    yield 1
    yield threading.Lock()


class Particular(Exception):
    """Cannot be made from its message."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


class Carrier(Exception):
    """Has something that cannot be pickled."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class Mute(Exception):
    """Cannot even say what it is."""

    def __str__(self):
        raise RuntimeError("no comment")


@app.function()
def fail(kind):
    if kind == "particular":
        raise Particular(3, "because")
    if kind == "carrier":
        raise Carrier("with luggage")
    if kind == "mute":
        raise Mute
    if kind == "huge":
        raise ValueError("x" * 100_000_000)
    if kind == "local":

        class Hidden(Exception):
            pass

        raise Hidden("from inside")
    if kind == "recursion":
        return fail.local(kind)
    if kind == "group":
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
    if kind == "exit":
        sys.exit(3)
    raise KeyboardInterrupt


# ---------------------------------------------------------------------------------------------------- the process


@app.function()
def die(how, folder, name="x"):
    """Ends its container, having said that it ran."""
    with Path(folder, name).open("a") as file:
        file.write("ran\n")
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "close":
        os.closerange(3, 256)
    return how


@app.function(timeout=1)
def endless(how, folder=None):
    if folder:
        Path(folder, "pid").write_text(str(os.getpid()))
    if how == "sleep":
        time.sleep(600)
    if how == "loop":
        while True:
            pass
    if how == "hold the lock":
        return sum(range(10**15))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


@app.function()
def stubborn(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, "pid").write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(600)
        except BaseException:
            Path(folder, "told").touch()


@app.function(timeout=1)
@jitney.concurrent(max_inputs=4)
async def block_the_loop():
    time.sleep(600)


@app.function(memory=(64, 200))
def hog():
    held = []
    while True:
        held.append(bytearray(b"x" * 10_000_000))


@app.function(single_use_containers=True)
def leave(how, folder):
    """Leaves a process behind that would live on."""
    pid_file = Path(folder, "pid")
    if how == "child":
        if os.fork() == 0:
            _linger(pid_file)
    elif how == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for name in list(os.environ):
                    del os.environ[name]
                _linger(pid_file)
            os._exit(0)
        os.wait()
    elif how == "program":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
        pid_file.write_text(str(child.pid))
        child.returncode = 0
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.005)
    return int(pid_file.read_text())


def _linger(pid_file):
    pid_file.write_text(str(os.getpid()))
    time.sleep(600)
    os._exit(0)


@app.function()
def two_returns(folder):
    """A fork that comes back too."""
    parent = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    with Path(folder, "returned").open("a") as file:
        file.write(f"{os.getpid() == parent}\n")
    return os.getpid() == parent


@app.function()
def close_output():
    for fd in (0, 1, 2):
        os.close(fd)
    return "quiet"


@app.function()
def make_a_mess():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    return "messy"


@app.cls()
class NeverReady:
    @jitney.enter()
    def begin(self):
        raise OSError("no model here")

    @jitney.method()
    def run(self):
        return 1


@app.cls(startup_timeout=1)
class SlowToBegin:
    @jitney.enter()
    def begin(self):
        time.sleep(600)

    @jitney.method()
    def run(self):
        return 1


@app.cls()
class DiesAtStart:
    @jitney.enter()
    def begin(self):
        os._exit(9)

    @jitney.method()
    def run(self):
        return 1
