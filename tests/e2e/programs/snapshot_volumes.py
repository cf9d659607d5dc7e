"""Classes whose memory snapshots are made from files of a volume."""

import io

import jitney

app = jitney.App("snapshot-volumes")
weights = jitney.Volume.from_name("weights", create_if_missing=True)
PATH = "/weights/model.txt"


def text() -> str:
    with open(PATH) as file:
        return file.read()


@app.cls(volumes={"/weights": weights.read_only()}, enable_memory_snapshot=True, single_use_containers=True)
class Reader:
    @jitney.enter(snap=True)
    def load(self) -> None:
        self.loaded = text()

    @jitney.method()
    def seen(self) -> tuple[str, str]:
        return self.loaded, text()


@app.cls(volumes={"/weights": weights}, enable_memory_snapshot=True, single_use_containers=True)
class Writer:
    @jitney.enter(snap=True)
    def load(self) -> None:
        self.loaded = text()

    @jitney.method()
    def seen(self) -> tuple[str, str]:
        with open("/weights/log.txt", "a") as file:
            file.write("called\n")
        return self.loaded, text()


@app.cls(volumes={"/weights": weights}, enable_memory_snapshot=True)
class Careless:
    @jitney.enter(snap=True)
    def load(self) -> None:
        open("/weights/made.txt", "w").close()

    @jitney.method()
    def seen(self) -> None: ...


def put(content: str) -> None:
    with weights.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(content.encode()), PATH.removeprefix("/weights"))


@app.local_entrypoint()
def main() -> None:
    put("one")
    print("reader", Reader().seen.remote(), "writer", Writer().seen.remote())
    put("two")
    print("reader", Reader().seen.remote(), "writer", Writer().seen.remote())


@app.local_entrypoint()
def careless() -> None:
    Careless().seen.remote()
