"""Run as a process by test_mount_kills: a worker that lays out a volume, commits what containers write and ends them,
and dies at a given step.

    python mounting_child.py FOLDER VOLUME_ID SOCKET STEP

SOCKET is the number of a descriptor: the server is at its other end. A step is a call that changes the disk, a request,
or a report, before and after it is done. STEP 0 counts them and prints the number. It says `commit N` when the number N
has been acknowledged.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import msgspec

from jitney.core import layers
from jitney.drivers.trees.localdir import LocalTrees
from jitney.errors import BY_CODE
from jitney.ports.runtime import Capabilities, ContainerHandle
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.isolation import Isolation
from jitney.values.volumes import WORKSPACE, VolumeMount
from jitney.wire import codec
from jitney.wire.home import Home
from jitney.wire.messages import workers
from jitney.worker import written
from jitney.worker.mounts import Mounts

ON_DISK = ["link", "symlink", "mkdir", "mknod", "rename", "replace", "unlink", "rmdir"]
FILES = ("a", "d/b", "d/c")
count = 0
stop_at = 0


def step():
    global count
    count += 1
    if count == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)


def around(function):
    def call(*given, **options):
        step()
        found = function(*given, **options)
        step()
        return found

    return call


class Runtime:
    """Its containers are folders."""

    def __init__(self, home):
        self._home = home

    def capabilities(self):
        return Capabilities(name=Isolation.NAMESPACES, isolation=True, memory_limit=True, process_limit=True)

    async def discard(self, container_id=""):
        shutil.rmtree(self._home.uppers / container_id, ignore_errors=True)

    async def remount(self, handle, mounted):
        pass


class Worker:
    """The part of a worker that has to do with volumes."""

    def __init__(self, home, request, report):
        files = home.volumes / WORKSPACE / "files"
        trees = LocalTrees(home.trees, lambda digest: files / digest[:2] / digest)
        self.home = home
        self.mounts = Mounts(home, Runtime(home), trees, request=request, report=report)

    def seen(self, mounted):
        """What a mount shows: the text of each file."""
        found = {}
        for layer in mounted.layers:
            root = self.home.trees / mounted.volume_id / layer
            for at, _, names in os.walk(root):
                for name in names:
                    path = Path(at, name)
                    shown = str(path.relative_to(root))
                    if path.is_file() and not path.is_symlink():
                        found[shown] = path.read_text()
                    else:  # what is below it is hidden
                        found = {one: text for one, text in found.items() if not f"{one}/".startswith(f"{shown}/")}
        return found

    async def start(self, container_id, volume_id, **options):
        volume = VolumeMount(path="/data", volume_id=volume_id, **options)
        template = TemplateSpec(image_id="im-1", volumes=(volume_id,))
        launch = Launch(
            container_id=container_id, function_id="fu-1", app_id="ap-1", token="t", template=template, config={},
            volumes=(volume,),
        )  # fmt: skip
        (mounted,) = (await self.mounts.ready(launch)).mounts
        handle = ContainerHandle(container_id=container_id, pid=1, start_ticks=1)
        self.attending = asyncio.create_task(self.mounts.attend(handle))
        await asyncio.sleep(0)
        return mounted

    def write(self, container_id, number):
        upper = self.home.uppers / container_id / "0" / "upper"
        for name in FILES:
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}").write_text(str(number))
            os.replace(path.with_name(f".{path.name}"), path)

    async def sync(self, container_id, *, reload=False):
        command = workers.SyncMount(request_id="r", container_id=container_id, path="/data", reload=reload)
        await self.mounts.sync(command)


async def story(worker, volume_id, say):
    """A life in which everything is done that can be."""
    await worker.start("ta-1", volume_id)
    for number in (1, 2):
        worker.write("ta-1", number)
        if number == 2:
            os.symlink("a", worker.home.uppers / "ta-1" / "0" / "upper" / "link")
        await worker.sync("ta-1")
        say(number)
    await worker.start("ta-2", volume_id)
    shutil.rmtree(worker.home.uppers / "ta-1" / "0" / "upper" / "d")  # a folder goes with what is in it, and comes back
    await worker.sync("ta-1")
    worker.write("ta-2", 3)
    await worker.mounts.ended("ta-2")
    say(3)
    await worker.sync("ta-1", reload=True)
    worker.write("ta-1", 4)
    await worker.sync("ta-1")
    say(4)
    for number in (5, 6):
        worker.write("ta-1", number)
        await worker.sync("ta-1")
        say(number)
        await worker.start(f"ta-{number}", volume_id, read_only=True)
        await worker.mounts.ended(f"ta-{number}")
    await worker.mounts.ended("ta-1")


async def main(folder, volume_id, descriptor):
    server = socket.socket(fileno=descriptor)
    answers = server.makefile("rb")

    async def request(method, message):
        step()
        body = codec.encode(message)
        server.sendall(msgspec.json.encode([method.name, body]) + b"\n")
        code, answer = msgspec.json.decode(answers.readline(), type=tuple[str, bytes])
        step()
        if code:
            raise BY_CODE[code](answer.decode())
        return codec.decode(answer, method.answer)

    def report(done):
        step()
        assert not done.code, done
        step()

    def say(number):
        os.write(1, b"commit %d\n" % number)

    written.PART_CHANGES, layers.STACK_MAX = 2, 3
    written._copy_whole = around(written._copy_whole)
    shutil.copyfileobj = around(shutil.copyfileobj)
    for name in ON_DISK:
        setattr(os, name, around(getattr(os, name)))
    await story(Worker(Home(folder), request, report), volume_id, say)
    if not stop_at:
        os.write(1, b"%d\n" % count)


if __name__ == "__main__":
    stop_at = int(sys.argv[4])
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
