"""Shipped sources in a bucket, as a user has them; large values stay on this machine, and arrive."""

import hashlib
import shutil

import pytest

from jitney.testing.buckets import KEYS, PASS, Fault, FaultyProxy, s3_server
from tests.e2e.platforms import Platform

pytestmark = pytest.mark.e2e
pytest.importorskip("obstore", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto, of the extra dev")

SHOP = """
import jitney

app = jitney.App("shop")
image = jitney.Image.debian_slim().add_local_python_source("prices")


@app.function(image=image)
def double(data):
    import prices

    return data * prices.FACTOR


@app.local_entrypoint()
def main():
    large = bytes(range(256)) * 4096
    assert double.remote(large) == large * 2  # by shared memory
    assert double.spawn(large).get() == large * 2  # durable, by files
    print("large values came back")
"""
PREFIX = "of/all"


@pytest.fixture
def server():
    with s3_server() as found:
        found.make_bucket("files")
        yield found


@pytest.fixture
def proxy(server):
    found = FaultyProxy(server.url)
    yield found
    found.close()


@pytest.fixture
def shop(lone: Platform, proxy, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name}={value}\n" for name, value in KEYS.items()))
    keys.chmod(0o600)
    lone.environment |= {
        "JITNEY_CONTENTS": f"s3://files/{PREFIX}",
        "JITNEY_CONTENTS_ENDPOINT": proxy.url,
        "JITNEY_CONTENTS_CREDENTIALS": str(keys),
    }
    lone.write("shop.py", SHOP)
    lone.write("prices.py", "FACTOR = 2\n")
    return lone


def name_of(digest):
    return f"files/{PREFIX}/main/blobs/{digest[:2]}/{digest}"


def test_a_shipped_source_is_in_the_bucket_and_runs_from_there(shop, server, proxy):
    assert "large values came back" in shop.jitney("run", "shop.py").out
    shipped = {path: path.read_bytes() for path in (shop.place / "shop.py", shop.place / "prices.py")}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in shipped.items()}
    assert {path: server.get(name_of(digest)) for path, digest in digests.items()} == shipped
    assert list(shop.home.files.iterdir()) == []
    assert "shipped sources are in s3://files/of/all" in shop.jitney("doctor", code=None).out
    shop.jitney("down")

    # What has not changed needs no bucket.
    proxy.plan = lambda method, path: Fault(403, "AccessDenied")
    assert "large values came back" in shop.jitney("run", "shop.py").out
    shop.jitney("down")
    proxy.plan = lambda method, path: PASS

    # Without what is near, and with trees that a loss of power has damaged: from the bucket. What is damaged there too
    # is sent again.
    shutil.rmtree(shop.home.near)
    for tree in shop.home.sources.glob("so-*/"):
        shutil.rmtree(tree)
    server.put(name_of(digests[shop.place / "prices.py"]), b"FACTOR = 3\n")
    assert "large values came back" in shop.jitney("run", "shop.py").out
    assert server.get(name_of(digests[shop.place / "prices.py"])) == b"FACTOR = 2\n"
    shop.jitney("down")
    for log in (shop.home.server_log, shop.home.worker_log):
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in log.read_text()


def test_a_bucket_that_refuses_is_told(shop):
    shop.environment["JITNEY_CONTENTS"] = "s3://nobody-made-it/x"
    done = shop.jitney("run", "shop.py", code=None)
    assert done.code != 0
    assert "there is no bucket 'nobody-made-it'" in done.out + done.err
    shop.jitney("down")
