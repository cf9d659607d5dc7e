"""Buckets at paths of containers, as a user has them."""

import os
import signal

import pytest

from jitney.drivers.buckets.fuse import FuseBuckets
from jitney.drivers.buckets.fuse.driver import mount_points
from jitney.drivers.runtime.gvisor.probe import probe as sandboxes
from jitney.drivers.walls.probe import probe
from jitney.testing.buckets import KEYS, s3_server
from tests.e2e.platforms import Platform, cmdline, eventually


def why_not():
    owner = 0 if os.geteuid() == 0 else None
    return probe().why or FuseBuckets(None, owner=owner).why_not()


pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not()), reason=f"no buckets here: {why_not()}")]


@pytest.fixture
def server():
    pytest.importorskip("moto", reason="needs moto, of the extra dev")
    with s3_server() as found:
        found.make_bucket("data")
        found.put("data/top.txt", b"at the top")
        found.put("data/deep/er/low.txt", b"far below")
        yield found


def why_no_sandboxes():
    return sandboxes().why or FuseBuckets(None, owner=0, only=("s3fs",)).why_not()


SANDBOXES = pytest.param(
    "gvisor",
    marks=[pytest.mark.slow, pytest.mark.skipif(bool(why_no_sandboxes()), reason=f"not here: {why_no_sandboxes()}")],
)


@pytest.fixture
def ready(lone: Platform, server, request):
    runtime = getattr(request, "param", "namespaces")
    lone.environment |= {"JITNEY_RUNTIME": runtime, "BUCKETS": server.url, **KEYS}
    lone.bring("buckets.py")
    return lone


def programs(platform):
    """Processes that mount something for this platform."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        words = cmdline(int(name))
        if str(platform.home.buckets) in str(words):
            found.append(int(name))
    return found


@pytest.mark.parametrize("ready", ["namespaces", SANDBOXES], indirect=True)
def test_containers_read_and_write_a_bucket(ready, server):
    before = mount_points()
    out = ready.jitney("run", "buckets.py::main").out
    assert "({'top.txt': 'at the top', 'deep/er/low.txt': 'far below'}, {'low.txt': 'far below'}, " in out
    assert "'Read-only file system', [])" in out
    assert "True\n" in out
    assert server.get("data/made/by/us.txt") == b"from a container"
    assert "'made/by/us.txt': 'from a container'" in out
    assert "died: ContainerCrashError" in out
    assert "there is no bucket 'nobody-made-it'" in out
    logs = ready.home.server_log.read_text() + ready.home.worker_log.read_text()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in logs + out
    ready.jitney("down")
    assert not programs(ready)
    assert mount_points() == before


def test_a_bucket_ends_with_the_worker(ready):
    running = ready.start_jitney("run", "buckets.py::waits")
    eventually(lambda: ready.containers("hold") and ready.containers("hold")[0]["phase"] == "ready")
    [pid] = programs(ready)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(cmdline(pid))
    [wall] = ready.home.containers.glob("w*")
    os.kill(ready.worker(), signal.SIGKILL)
    eventually(lambda: pid not in programs(ready))
    assert not any(path.startswith(str(ready.home.root)) for path in mount_points())
    running.kill()
    running.wait()
    eventually(lambda: not wall.exists())  # the next worker has begun, and removed what was left
    ready.jitney("down")
    assert not programs(ready)
