"""Functions with a volume: each says what it sees in /data."""

import os
import time

import jitney
import jitney.errors

app = jitney.App("volumes")
volume = jitney.Volume.from_name("shared", create_if_missing=True)
MOUNT = {"/data": volume}


def seen(folder="/data"):
    return {
        os.path.relpath(os.path.join(at, name), folder): open(os.path.join(at, name)).read()
        for at, _, names in os.walk(folder)
        for name in names
    }


@app.function(volumes=MOUNT, single_use_containers=True)
def write(name, text, commit=True):
    path = f"/data/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    if commit:
        volume.commit()
    return seen()


@app.function(volumes=MOUNT, single_use_containers=True)
def remove(name):
    os.remove(f"/data/{name}")


@app.function(volumes=MOUNT, single_use_containers=True)
def read():
    return seen()


@app.function(volumes={"/sub": volume.with_mount_options(read_only=True, sub_path="deep")}, single_use_containers=True)
def below():
    try:
        os.mkdir("/sub/new")
    except OSError as error:
        return seen("/sub"), error.strerror


@app.function(volumes={"/sub": volume.with_mount_options(sub_path="new/part")}, single_use_containers=True)
def write_below():
    os.makedirs("/sub/x")
    with open("/sub/x/y.txt", "w") as file:
        file.write("below")
    volume.commit()


@app.function(volumes=MOUNT)
def wait_for(name):
    before = seen()
    until = time.monotonic() + 20
    while name not in seen() and time.monotonic() < until:
        volume.reload()
    return name in before, name in seen()


@app.function(volumes=MOUNT)
def hold():
    with open("/data/a.txt"):
        write.remote("d.txt", "four")
        try:
            volume.reload()
        except jitney.errors.VolumeBusyError as error:
            return str(error)


@app.function(volumes=MOUNT)
def dies():
    with open("/data/lost.txt", "w") as file:
        file.write("written, and then killed")
    os.kill(os.getpid(), 9)


@app.local_entrypoint()
def main():
    assert read.remote() == {}
    assert write.remote("a.txt", "one") == {"a.txt": "one"}
    write.remote("deep/b.txt", "two")
    assert read.remote() == {"a.txt": "one", "deep/b.txt": "two"}
    assert below.remote() == ({"b.txt": "two"}, "Read-only file system")
    write_below.remote()
    assert read.remote()["new/part/x/y.txt"] == "below"
    volume.remove_file("/new", recursive=True)
    waiting = wait_for.spawn("c.txt")
    write.remote("c.txt", "three", commit=False)  # its end commits
    assert waiting.get() == (False, True)
    remove.remote("a.txt")
    until = time.monotonic() + 20
    while "a.txt" in read.remote():
        assert time.monotonic() < until
    write.remote("a.txt", "again")
    print(hold.remote())
    with volume.batch_upload() as batch:
        batch.put_file(__file__, "/code/volumes.py")
    assert "code/volumes.py" in read.remote()
    print(sorted(entry.path for entry in volume.iterdir("/", recursive=True)))
