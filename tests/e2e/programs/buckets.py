"""Functions with a bucket at /b: the test says where it is by the environment."""

import os
import time

import jitney

app = jitney.App("buckets")
KEYS = jitney.Secret.from_dict(
    {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if name in os.environ}
)
PLACE = {"bucket_name": "data", "bucket_endpoint_url": os.environ.get("BUCKETS", "http://127.0.0.1:1")}
WHOLE = jitney.CloudBucketMount(**PLACE, secret=KEYS)
PART = jitney.CloudBucketMount(**PLACE, secret=KEYS, key_prefix="deep/er/", read_only=True)
NONE = jitney.CloudBucketMount(**{**PLACE, "bucket_name": "nobody-made-it"}, secret=KEYS)


def seen(folder):
    return {
        os.path.relpath(os.path.join(at, name), folder): open(os.path.join(at, name)).read()
        for at, _, names in os.walk(folder)
        for name in names
    }


@app.function(volumes={"/b": WHOLE, "/part": PART})
def look():
    try:
        open("/part/new", "w").close()
    except OSError as error:
        refused = error.strerror
    return seen("/b"), seen("/part"), refused, [name for name in os.environ if name.startswith("AWS")]


@app.function(volumes={"/b": WHOLE})
def write(name, text):
    os.makedirs(os.path.dirname(f"/b/{name}"), exist_ok=True)
    with open(f"/b/{name}", "w") as file:
        file.write(text)
    return os.stat(f"/b/{name}").st_uid == os.getuid()


@app.function(volumes={"/b": WHOLE})
def dies(name):
    with open(f"/b/{name}", "w") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), 9)


@app.function(volumes={"/b": NONE})
def never():
    return "it started"


@app.function(volumes={"/b": WHOLE})
def hold():
    time.sleep(60)  # until the test kills what is below


@app.local_entrypoint()
def main():
    print(look.remote())
    print(write.remote("made/by/us.txt", "from a container"))
    until = time.monotonic() + 20
    while "made/by/us.txt" not in (found := look.remote()[0]):  # names are believed for a second
        assert time.monotonic() < until
    print(found)
    try:
        dies.remote("half.txt")
    except jitney.Error as error:
        print("died:", type(error).__name__)
    try:
        never.remote()
    except jitney.Error as error:
        print("never:", error)


@app.local_entrypoint()
def waits():
    hold.remote()
