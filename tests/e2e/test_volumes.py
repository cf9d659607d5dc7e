"""Volumes, as a user has them: functions in containers of each kind share one."""

import os
import shutil

import pytest

from jitney.drivers.runtime.process.views import try_view
from jitney.drivers.walls.probe import probe
from jitney.testing.buckets import KEYS, s3_server
from tests.e2e.platforms import Platform

WHY_NOT = {"namespaces": probe().why, "process": try_view().why}
pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("runtime", ["namespaces", "process"])
def test_containers_share_a_volume(lone: Platform, runtime: str):
    if why := WHY_NOT[runtime]:
        pytest.skip(f"no mounts here: {why}")
    there = set(os.listdir("/"))
    lone.environment |= {"JITNEY_RUNTIME": runtime}
    lone.bring("volumes.py")
    out = lone.jitney("run", "volumes.py").out
    assert "close its files" in out
    assert "['a.txt', 'c.txt', 'code', 'code/volumes.py', 'd.txt', 'deep', 'deep/b.txt']" in out
    assert set(os.listdir("/")) == there  # no folder for /data is left


@pytest.mark.skipif(bool(WHY_NOT["namespaces"]), reason=f"no walls here: {WHY_NOT['namespaces']}")
def test_files_of_volumes_are_in_a_bucket(lone: Platform, tmp_path):
    """All of it: upload, mount, read, commit; then another server folder's cache, which has nothing yet."""
    pytest.importorskip("obstore", reason="needs the extra s3")
    pytest.importorskip("moto", reason="needs moto, of the extra dev")
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name}={value}\n" for name, value in KEYS.items()))
    keys.chmod(0o600)
    with s3_server() as server:
        lone.environment |= {
            "JITNEY_RUNTIME": "namespaces",
            "JITNEY_CONTENTS": f"s3://{server.make_bucket('files')}/of/volumes",
            "JITNEY_CONTENTS_ENDPOINT": server.url,
            "JITNEY_CONTENTS_CREDENTIALS": str(keys),
        }
        lone.bring("volumes.py")
        out = lone.jitney("run", "volumes.py").out
        assert "['a.txt', 'c.txt', 'code', 'code/volumes.py', 'd.txt', 'deep', 'deep/b.txt']" in out
        lone.jitney("down")
        shutil.rmtree(lone.home.volumes)  # what is kept on this machine, and what was laid out of it
        shutil.rmtree(lone.home.trees)
        (tmp_path / "back").mkdir()
        lone.jitney("volume", "get", "shared", "/", str(tmp_path / "back"))
        assert (tmp_path / "back" / "a.txt").read_text() == "again"
        lone.write("again.py", AGAIN)
        assert "{'a.txt': 'again', 'c.txt': 'three'" in lone.jitney("run", "again.py").out
        for log in (lone.home.server_log, lone.home.worker_log):
            assert KEYS["AWS_SECRET_ACCESS_KEY"] not in log.read_text()
        lone.jitney("down")


AGAIN = """
import os
import jitney

app = jitney.App("again")


@app.function(volumes={"/data": jitney.Volume.from_name("shared")})
def look():
    return {name: open(f"/data/{name}").read() for name in sorted(os.listdir("/data")) if name.endswith(".txt")}


@app.local_entrypoint()
def main():
    print(look.remote())
"""


@pytest.mark.parametrize("runtime", ["namespaces", "process"])
def test_a_memory_snapshot_is_made_from_a_volume(lone: Platform, runtime: str):
    if why := WHY_NOT[runtime]:
        pytest.skip(f"no mounts here: {why}")
    lone.environment |= {"JITNEY_RUNTIME": runtime}
    lone.bring("snapshot_volumes.py")
    out = lone.jitney("run", "snapshot_volumes.py::main").out
    assert "reader ('one', 'one') writer ('one', 'one')" in out
    # One that only reads is made anew, one that may write keeps its own: its commits would throw it away.
    assert "reader ('two', 'two') writer ('one', 'two')" in out
    failed = lone.jitney("run", "snapshot_volumes.py::careless", code=None)
    assert "can read volumes, and not write them" in failed.out + failed.err
    lone.jitney("down")
