"""Pulls from the registry that everybody runs (Debian's `docker-registry`), of images that other tools have pushed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

import pytest

from jitney.drivers.pulls.oci import OciPuller, PullSettings
from jitney.errors import AuthError, NotFoundError
from jitney.testing.images import make_image, make_index, make_layer, make_tar, member, write_layout

MISSING = [tool for tool in ("docker-registry", "skopeo") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt-get install)")

LOW = make_layer(
    {"etc/": b"", "etc/passwd": b"root:x:0:0::/:/bin/sh\n", "etc/old": b"1", "usr/": b"", "usr/x": b"2" * 9000}
)
HIGH = make_tar([member("etc/"), member("etc/.wh.old"), member("etc/new", b"3"), member("usr/"), member("usr/y", b"4")])
CONFIG = {
    "Env": ["PATH=/usr/bin", "A=b=c"],
    "Cmd": ["sh", "-c", "x"],
    "WorkingDir": "/srv",
    "User": "app",
    "Labels": {"k": "v"},
}
IMAGE = make_image([LOW, HIGH], config=CONFIG)
LOGIN = ("ann", "secret")
HTPASSWD = "ann:$2y$04$G3DlknKUybmKaEQ5Mxk1Y.THRHmtRpZmsnLeHpb21JhW6KWV6a62e\n"


def skopeo(*words):
    """Without credentials of whoever runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "auth.json").write_text("{}")
        env = {**os.environ, "REGISTRY_AUTH_FILE": f"{folder}/auth.json", "TMPDIR": folder}
        done = subprocess.run(["skopeo", *words], capture_output=True, check=False, timeout=60, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Running:
    def __init__(self, folder, auth=""):
        folder.mkdir()
        (folder / "config.yml").write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f'http: {{addr: "127.0.0.1:0"}}\nlog: {{level: info, formatter: json}}\n{auth}'
        )
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
        for line in self.process.stderr:
            if found := re.search(rb"listening on ([0-9.:]+)", line):
                self.host = found.group(1).decode()
                break
        # It would stop at a full pipe.
        self._reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._reader.start()

    def push(self, layout, name, *more):
        to = ("--dest-tls-verify=false", *more, f"oci:{layout}", f"docker://{self.host}/{name}")
        skopeo("copy", "--insecure-policy", *to)
        return f"{self.host}/{name}"

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("registry") / "open")
    yield running
    running.stop()


@pytest.fixture
def closed_registry(tmp_path):
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    running = Running(tmp_path / "closed", f"auth: {{htpasswd: {{realm: x, path: {tmp_path}/htpasswd}}}}\n")
    yield running
    running.stop()


def pull(folder, reference, **options):
    puller = OciPuller(folder / "store", settings=PullSettings(docker_config="/nonexistent"))
    return asyncio.run(puller.pull(reference, **{"platform": "linux/amd64", "on_line": lambda line: None, **options}))


def content(image):
    return {
        str(path.relative_to(layer)): path.read_bytes()
        for layer in image.layers
        for path in Path(layer).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("form", [(), ("--format", "v2s2")], ids=["oci", "docker"])
def test_what_skopeo_pushed(tmp_path, registry, form):
    layout = write_layout(tmp_path / "layout", {"": IMAGE})
    image = pull(tmp_path, registry.push(layout, f"owner/{form[-1] if form else 'oci'}:1", *form))
    assert content(image)["etc/new"] == b"3"
    assert content(image)["usr/x"] == b"2" * 9000
    assert (image.env, image.cmd) == ({"PATH": "/usr/bin", "A": "b=c"}, ("sh", "-c", "x"))
    assert (image.workdir, image.user, image.labels) == ("/srv", "app", {"k": "v"})
    # The digest is the one that other tools know it by.
    told = skopeo("inspect", "--tls-verify=false", f"docker://{image.reference.partition('@')[0]}")
    assert json.loads(told)["Digest"] == image.digest


def test_an_index(tmp_path, registry):
    index = make_index({"linux/arm64/v8": make_image([b""], architecture="arm64"), "linux/amd64": IMAGE})
    layout = write_layout(tmp_path / "layout", {"": index})
    reference = registry.push(layout, "owner/index:1", "--all")
    assert pull(tmp_path, reference).digest == IMAGE.digest
    with pytest.raises(NotFoundError, match=r"linux/amd64, linux/arm64/v8"):
        pull(tmp_path, reference, platform="linux/riscv64")


@pytest.mark.parametrize("name", ["owner/none:1", "owner/oci:none", "owner/oci@sha256:" + "0" * 64])
def test_what_is_not_there(tmp_path, registry, name):
    registry.push(write_layout(tmp_path / "layout", {"": IMAGE}), "owner/oci:1")
    with pytest.raises(NotFoundError, match="unknown"):
        pull(tmp_path, f"{registry.host}/{name}")


def test_credentials(tmp_path, closed_registry):
    layout = write_layout(tmp_path / "layout", {"": IMAGE})
    reference = closed_registry.push(layout, "owner/x:1", "--dest-creds", ":".join(LOGIN))
    with pytest.raises(AuthError):
        pull(tmp_path, reference)
    with pytest.raises(AuthError):
        pull(tmp_path, reference, username="ann", password="wrong")
    assert pull(tmp_path, reference, username=LOGIN[0], password=LOGIN[1]).layers


def test_the_root_file_system_is_the_one_that_umoci_makes(tmp_path, registry):
    if shutil.which("umoci") is None or os.geteuid() != 0:
        pytest.skip("needs umoci, and root to mount an overlay")
    reference = registry.push(write_layout(tmp_path / "layout", {"": IMAGE}), "owner/same:1")
    image = pull(tmp_path, reference)
    there = tmp_path / "umoci"
    skopeo("copy", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{there}:x")
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{there}:x", str(tmp_path / "theirs")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    (tmp_path / "ours").mkdir()
    mount = f"lowerdir={':'.join(reversed(image.layers))},userxattr"
    script = 'mount -t overlay overlay -o "$1" "$2" && cd "$2" && find . -not -type d -printf "%p %m %s %l\\n" | sort'
    ours = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", mount, str(tmp_path / "ours")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if ours.returncode:
        pytest.skip(f"no overlay can be mounted here: {ours.stderr[-200:]}")
    listing = ["find", ".", "-not", "-type", "d", "-printf", "%p %m %s %l\\n"]
    theirs = subprocess.run(listing, cwd=tmp_path / "theirs", capture_output=True, text=True, check=True, timeout=60)
    assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())
    assert any("etc/new" in line for line in ours.stdout.splitlines())
    assert not any("etc/old" in line for line in ours.stdout.splitlines())


def test_the_registry_answers_as_we_think(registry):
    with urllib.request.urlopen(f"http://{registry.host}/v2/", timeout=10) as answer:
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
