"""What durability.py runs, in containers and outside: each of these writes or reads until it is told to stop, notes all
that it asks for and is answered (jitney.testing.witness), and may be killed at any time.

A process that begins anew writes under a name of its own: what its predecessor was in the middle of stays as it is.
"""

import hashlib
import os
import random
import secrets
import shutil
import sys
import threading
import time

import jitney
import jitney.errors
from jitney.core.volumes import whole
from jitney.errors import JitneyError
from jitney.runner import state
from jitney.testing.witness import NOTHING, TORN, Event, Step, Witness
from jitney.wire.home import Home

app = jitney.App("durable")
volume = jitney.Volume.from_name("durable", create_if_missing=True)
shared = jitney.Dict.from_name("durable", create_if_missing=True)
queue = jitney.Queue.from_name("durable", create_if_missing=True)

EVENTS, STOP = "durable-events", "durable-stop"  # in the one folder that containers behind walls see and write to
FILES = 4
SIZES = (200, 5_000, 5_000, 150_000)
HALF = ".half"  # of a file that is being written: it is kept as it is when its writer is killed
PAUSE_S = 0.004
LEASE_S = 2.0
SMALL = {"cpu": 0.01, "memory": 64, "timeout": 3600}


def place(name):
    folder = state.config["blobs"] if state.config is not None else str(Home.default().blobs)
    return os.path.join(folder, name)


def content(number, path, size):
    """A file that says its number and its path, and whether it is whole."""
    head = f"{number} {path}\n".encode()
    body = head + hashlib.shake_128(head).digest(size)
    return body + hashlib.sha256(body).digest()


def number_of(data, path):
    body, digest = data[:-32], data[-32:]
    head = body.partition(b"\n")[0].decode(errors="replace").split(" ")
    if hashlib.sha256(body).digest() != digest or head[1:] != [path]:
        return TORN
    return int(head[0])


class Party:
    """One who writes or reads, with the dice and the name of this incarnation."""

    def __init__(self, role):
        self.me = f"{role}-{secrets.token_hex(4)}"
        self.dice = random.Random(self.me)
        self._witness = Witness(place(EVENTS))
        self._number = 0

    def note(self, what, key="", step=Step.DONE, **fields):
        self._witness.note(Event(at_s=time.monotonic(), what=what, step=step, key=key, **fields))

    def rounds(self, pause_s=PAUSE_S):
        """Numbers from 1 on until it is time to stop. What fails in a round is noted."""
        stop = place(STOP)
        while not os.path.exists(stop):
            self._number += 1
            try:
                yield self._number
            finally:
                time.sleep(pause_s * self.dice.random() * 2)

    def run(self, step, pause_s=PAUSE_S):
        """Do this in rounds. Errors are noted: a server that is away for long is no loss."""
        for number in self.rounds(pause_s):
            try:
                step(number)
            except JitneyError as error:
                self.note("trouble", type(error).__name__, item=f"{self.me}: {error}"[:300])


# ------------------------------------------------------------------------------------------------ files


def write_files(role):
    party = Party(role)
    root = f"/data/{party.me}"
    for name in sorted(os.listdir("/data")):
        if name.startswith(f"{role}-"):
            party.note("drop", name)
            shutil.rmtree(f"/data/{name}")

    def commit(number):
        files = {f"{party.me}/f{n}": number for n in range(FILES)}
        party.note("commit", party.me, Step.ASK, number=number, files=files)  # what is written may be kept from here on
        os.makedirs(root, exist_ok=True)
        for n, size in enumerate(SIZES):
            with open(f"{root}/f{n}{HALF}", "wb") as file:
                file.write(content(number, f"{party.me}/f{n}", size))
            os.replace(f"{root}/f{n}{HALF}", f"{root}/f{n}")
        done = volume.commit()
        party.note("commit", party.me, number=number, version=done.version)
        if number % 8 == 0:
            kept = volume.at(done.version)
            there = {e.path: b"".join(kept.read_file(e.path)) for e in kept.listdir(party.me) if HALF not in e.path}
            files = {path: number_of(data, path) for path, data in there.items()}
            party.note("committed", party.me, number=number, version=done.version, files=files)

    party.run(commit)


def upload_files(role):
    """As `write_files`, from outside: so all files of its folder are of one commit in every version."""
    party = Party(role)

    def upload(number):
        import io

        paths = [f"{party.me}/f{n}" for n in range(FILES)]
        party.note("commit", party.me, Step.ASK, number=number, files=dict.fromkeys(paths, number))
        with volume.batch_upload(force=True) as batch:
            for path, size in zip(paths, SIZES, strict=True):
                batch.put_file(io.BytesIO(content(number, path, size)), f"/{path}")
        party.note("commit", party.me, number=number)

    party.run(upload)


def read_files(role, folder="/data"):
    """All files of the newest version, which the version itself confirms."""
    party = Party(role)

    def look(number):
        began_s = time.monotonic()
        version = volume.reload()
        found = {}
        for at, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(at, name), "rb") as file:
                    found[os.path.relpath(os.path.join(at, name), folder)] = file.read()
        see(party, began_s, version, found)

    party.run(look, 0.02)


def fetch_files(role):
    """As `read_files`, from outside."""
    party = Party(role)
    party.run(lambda number: fetch_once(party), 0.05)


def fetch_once(party):
    began_s = time.monotonic()
    version = volume.info().version
    kept = volume.at(version)
    files = [entry for entry in kept.listdir("/", recursive=True) if entry.kind == "file"]
    see(party, began_s, version, {entry.path: b"".join(kept.read_file(entry.path)) for entry in files})


def see(party, began_s, version, found):
    listed = {e.path: e.digest for e in volume.at(version).listdir("/", recursive=True) if e.kind == "file"}
    differs = [path for path, data in found.items() if listed.get(path) != whole(data).digest]
    party.note(
        "saw",
        party.me,
        began_s=began_s,
        version=version,
        files={path: number_of(data, path) for path, data in found.items() if not path.endswith(HALF)},
        differs=(*differs, *(listed.keys() - found.keys())),
        whole=tuple({path.partition("/")[0] for path in found if path.startswith("outside")}),
    )


# ------------------------------------------------------------------------------------------------ dicts


def write_dict(role):
    party = Party(role)
    shared.put("swaps", 0, skip_if_exists=True)

    def write(number):
        party.note("put", party.me, Step.ASK, number=number)
        shared.put(party.me, number)
        party.note("put", party.me, number=number)
        party.note("count", "counts", Step.ASK)
        party.note("count", "counts", number=shared.increment("counts"))
        if number % 3 == 0:
            swap(party)
            read_dict(party, [party.me])

    party.run(write)


def swap(party):
    there = shared.get("swaps", 0)
    party.note("count", "swaps", Step.ASK)
    if shared.compare_and_swap("swaps", there, there + 1):
        party.note("count", "swaps", number=there + 1)
    else:
        party.note("count", "swaps", Step.REFUSED)


def read_dict(party, keys):
    for key in keys:
        began_s = time.monotonic()
        party.note("read", key, began_s=began_s, number=shared.get(key, NOTHING))
    for key in ("counts", "swaps"):
        began_s = time.monotonic()
        party.note("total", key, began_s=began_s, number=shared.get(key, 0))


# ------------------------------------------------------------------------------------------------ queues


def put_items(role, partitions):
    party = Party(role)

    def put(number):
        key = party.dice.choice(partitions)
        count = party.dice.choice((1, 1, 1, 5))
        items = [f"{party.me}-{number}-{n}" for n in range(count)]
        for item in items:
            party.note("enqueue", key, Step.ASK, item=item)
        queue.put_many(items, partition=key)
        for item in items:
            party.note("enqueue", key, item=item)

    party.run(put)


def take_items(role, partition):
    party = Party(role)
    party.run(lambda number: take_once(party, partition), 0.0)


def take_once(party, partition, timeout_s=0.5):
    """Whether there was anything."""
    party.note("take", partition, Step.ASK)
    try:
        items = queue.get_many(4, timeout=timeout_s, partition=partition)
    except jitney.errors.QueueEmptyError:
        items = []
    for item in items:
        party.note("got", partition, item=item)
    party.note("take", partition)
    return bool(items)


def lease_items(role, partition):
    party = Party(role)
    party.run(lambda number: lease_once(party, partition), 0.0)


def lease_once(party, partition, *, timeout_s=0.5, always=False):
    """Whether there was anything."""
    began_s = time.monotonic()
    try:
        lease = queue.get(timeout=timeout_s, partition=partition, lease=LEASE_S, max_deliveries=None)
    except jitney.errors.QueueEmptyError:
        return False
    party.note("leased", partition, began_s=began_s, item=lease.value, number=lease.deliveries)
    fate = 1.0 if always else party.dice.random()
    try:
        if fate > 0.1:
            party.note("finish", partition, Step.ASK, item=lease.value)
            lease.ack()
            party.note("finish", partition, item=lease.value)
        elif fate > 0.02:
            lease.nack()
    except jitney.errors.LeaseEndedError:
        if fate > 0.1:
            party.note("finish", partition, Step.REFUSED, item=lease.value)
    return True


# ------------------------------------------------------------------------------------------------ where they are

PLAIN, TAKEN, LEASED = "plain", "taken", "leased"  # got outside, got in containers, leased in containers


@app.function(volumes={"/data": volume}, **SMALL)
def file_writer(role):
    write_files(role)


@app.function(volumes={"/data": volume.read_only()}, **SMALL)
def file_reader(role):
    read_files(role)


@app.function(**SMALL)
def dict_writer(role):
    write_dict(role)


@app.function(**SMALL)
def item_putter(role):
    put_items(role, (PLAIN, TAKEN, LEASED))


@app.function(**SMALL)
def item_taker(role):
    take_items(role, TAKEN)


@app.function(**SMALL)
def item_leaser(role):
    lease_items(role, LEASED)


INSIDE = [
    (file_writer, "files-0"),
    (file_writer, "files-1"),
    (file_reader, "reader-0"),
    (dict_writer, "dict-0"),
    (item_putter, "items-0"),
    (item_taker, "taker-0"),
    (item_leaser, "leaser-0"),
    (item_leaser, "leaser-1"),
]
OUTSIDE = [
    (upload_files, "outside-files"),
    (fetch_files, "outside-reader"),
    (write_dict, "outside-dict"),
    (put_items, "outside-items", (PLAIN, TAKEN, LEASED)),
    (take_items, "outside-taker", PLAIN),
]


def at_the_end(keys):
    """Take what is left, and look at everything."""
    party = Party("outside-end")
    until_s = time.monotonic() + 4 * LEASE_S  # for what somebody who died has leased
    while time.monotonic() < until_s:
        for take in (
            lambda: take_once(party, PLAIN, 0.1),
            lambda: take_once(party, TAKEN, 0.1),
            lambda: lease_once(party, LEASED, timeout_s=0.1, always=True),
        ):
            while take():
                until_s = max(until_s, time.monotonic() + 2 * LEASE_S)
    read_dict(party, keys)
    fetch_once(party)


if __name__ == "__main__":
    if sys.argv[1] == "end":
        at_the_end(sys.argv[2:])
    else:
        threads = [threading.Thread(target=function, args=given) for function, *given in OUTSIDE]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
