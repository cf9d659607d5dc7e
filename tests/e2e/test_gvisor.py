"""A platform whose containers are in gVisor sandboxes, used as anybody would."""

import os

import pytest

from jitney.drivers.runtime.gvisor.probe import probe
from tests.e2e.platforms import Platform

FOUND = probe()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(bool(FOUND.why), reason=f"no gVisor here: {FOUND.why}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: networks and volumes are given from outside"),
]
PROGRAM = """
    import os
    import socket

    import jitney

    app = jitney.App("sandboxed")
    volume = jitney.Volume.from_name("kept", create_if_missing=True)
    counts = jitney.Dict.from_name("counts", create_if_missing=True)
    secret = jitney.Secret.from_dict({"TOKEN": "never-in-a-log"})

    @app.function(volumes={"/data": volume}, secrets=[secret], cpu=(0.125, 1.0), memory=(128, 512))
    def write(number):
        print("token is", os.environ["TOKEN"])
        with open(f"/data/{number}.txt", "w") as file:
            file.write(str(number))
        volume.commit()
        counts.put("last", number)
        return os.uname().release

    @app.function(volumes={"/data": volume.read_only()})
    def read():
        volume.reload()
        return sorted(os.listdir("/data")), counts.get("last")

    @app.function()
    def links():
        return sorted(name for _, name in socket.if_nameindex())

    @app.function(block_network=True)
    def cut_off():
        return sorted(name for _, name in socket.if_nameindex())

    @app.local_entrypoint()
    def main():
        print("kernel", write.remote(1) == write.remote(2) != os.uname().release)
        print("seen", read.remote())
        print("links", links.remote(), cut_off.remote())
"""


def test_functions_run_with_volumes_secrets_and_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("JITNEY_RUNTIME", "gvisor")
    platform = Platform(tmp_path)
    platform.environment["JITNEY_RUNTIME"] = "gvisor"
    try:
        platform.write("sandboxed.py", PROGRAM)
        done = platform.jitney("run", "sandboxed.py", timeout=120)
        lines = done.out.splitlines()
        assert "token is ***" in lines
        assert "kernel True" in lines
        assert "seen (['1.txt', '2.txt'], 2)" in lines
        assert "links ['eth0', 'lo'] ['lo']" in lines
        assert "never-in-a-log" not in done.out + done.err
        platform.end()
    finally:
        platform.clean()
