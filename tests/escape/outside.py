"""The outside of a wall, with everything in place that code inside would like to get at: canaries and listeners."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jitney.testing.probes import targets as told


class Outside:
    """What was put in place. `targets` is what may be told of it."""

    def __init__(self):
        self.contents = {}  # path -> what a canary holds
        self.canaries = []
        self.listeners = []
        self.processes = []
        self._ends = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ends.close()

    def canary(self, what, folder):
        """A file with a secret, in a folder of its own there. Of files by others: `adopt`."""
        made = Path(tempfile.mkdtemp(prefix="jitney-canary-", dir=folder))
        self._ends.callback(shutil.rmtree, made, ignore_errors=True)
        path = made / "canary"
        content = secrets.token_bytes(32)
        path.write_bytes(content)
        self.contents[path] = content
        self.canaries.append(told.Canary(what, str(path), told.digest(content)))

    def adopt(self, what, path, content):
        """A file that somebody else has made."""
        self.canaries.append(told.Canary(what, path, told.digest(content)))

    def listen(self, what, family, address):
        """A socket that greets with a secret."""
        content = secrets.token_bytes(32)
        listener = self._ends.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind(address)
        listener.listen()

        def greet():
            while True:
                try:
                    guest, _ = listener.accept()
                except OSError:
                    return
                with guest:
                    try:
                        guest.sendall(content)
                    except OSError:
                        continue

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        self._ends.callback(thread.join)
        self._ends.callback(listener.shutdown, socket.SHUT_RDWR)
        name = listener.getsockname()
        where, port = name if isinstance(name, tuple) else (name, 0)
        shown = where.decode().lstrip("\0") if isinstance(where, bytes) else where
        self.listeners.append(told.Listener(what, shown, port, told.digest(content)))

    def process(self, what, pid):
        """A process that code inside should not know of."""
        self.processes.append(told.Target(what, pid, told.started_at(pid)))

    def bystander(self):
        """A process of the same user that does nothing."""
        idle = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._ends.callback(idle.wait)
        self._ends.callback(idle.stdin.close)
        self.process("bystander", idle.pid)

    def targets(self, **more):
        """To be told to the probes."""
        return told.Targets(
            canaries=tuple(self.canaries),
            listeners=tuple(self.listeners),
            processes=tuple(self.processes),
            namespaces=told.namespaces_of(),
            **more,
        )

    def untouched(self):
        """Whether every canary is there and holds what it held."""
        return {str(path): path.read_bytes() == content for path, content in self.contents.items()}


def own_address():
    """An address of this machine that is not its loopback, or ''."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # nothing is sent: only a route is looked up
        except OSError:
            return ""
        return sock.getsockname()[0]


@contextmanager
def outside(state):
    """The usual: secrets in the home, in the state folder, in /tmp, in shared memory; listeners of every kind."""
    with Outside() as made:
        made.canary("home", Path.home())
        made.canary("state", state)
        made.canary("temporary", "/tmp")
        made.canary("memory", "/dev/shm")
        made.listen("loopback", socket.AF_INET, ("127.0.0.1", 0))
        address = own_address()
        if address:
            made.listen("control", socket.AF_INET, (address, 0))
        made.listen("abstract", socket.AF_UNIX, f"\0jitney-{os.getpid()}-{secrets.token_hex(4)}")
        made.listen("unix", socket.AF_UNIX, f"{Path(made.canaries[2].path).parent}/s")
        made.process("platform", os.getpid())
        made.bystander()
        yield made
