"""Images built behind a real wall: what scripts in place of a box cannot tell."""

import asyncio
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile

import cloudpickle
import pytest

from jitney.drivers.box.namespaces import NamespacesBox
from jitney.drivers.builder.local import LocalBuilder
from jitney.drivers.builder.local.interpreters import mounts_of, own_interpreter
from jitney.drivers.limits.none import NoLimiter
from jitney.drivers.network.none import NoNetwork
from jitney.drivers.pulls.oci import OciPuller
from jitney.drivers.runtime.forking import leftovers
from jitney.drivers.walls.probe import probe
from jitney.errors import ImageBuildError
from jitney.testing.wheels import make_wheel
from jitney.values.images import CopyTree, Env, ImageSpec, OciArchive, PipInstall, RunCommands, RunFunction

WHY_NOT = probe().why
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers over the machine's own file system"),
]
SOURCE = "so-" + "A" * 22
SERIES = ".".join(platform.python_version_tuple()[:2])


class Stage:
    def __init__(self, folder):
        leftovers.adopt_orphans()
        self.folder = folder
        self.wheels = folder / "wheels"
        (folder / "sources" / SOURCE).mkdir(parents=True)
        network = NoNetwork(why="", remedy="")
        box = NamespacesBox(folder / "boxes", limiter=NoLimiter(why="not looked at here"), network=network)
        self.builder = LocalBuilder(folder / "images", box, pip_config={"global.find-links": str(self.wheels)})

    def build(self, *layers):
        self.lines = []
        tell = self.lines.append
        return asyncio.run(self.builder.build(ImageSpec(layers=layers), lambda *event: tell(event[3])))


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    tmp_path.chmod(0o711)
    return Stage(tmp_path)


def in_layers(image, path):
    found = [f"{layer}/{path}" for layer in image.layers[1:] if os.path.exists(f"{layer}/{path}")]
    return found[-1] if found else None


def test_commands_write_to_layers_and_see_those_before(stage):
    image = stage.build(
        Env(variables={"COLOUR": "blue"}),
        RunCommands(commands=("mkdir /opt/made; echo $COLOUR > /opt/made/a; echo kept > /tmp/b", "cat /tmp/b")),
        RunCommands(commands=("cat /opt/made/a; rm /opt/made/a; ls /tmp/b 2>/dev/null; id -u; python -V",)),
    )
    assert [line for line in stage.lines if line and not line.startswith("$ ")] == [
        "kept",
        "blue",
        "0",
        f"Python {platform.python_version()}",
    ]
    assert not os.path.exists("/opt/made")
    assert os.lstat(f"{image.layers[2]}/opt/made/a").st_rdev == 0  # a whiteout
    # What was mounted has left no folders: neither the environment's nor the interpreter's.
    assert not [path for layer in image.layers[1:] for path, _, _ in os.walk(layer) if "images" in path.split("/")[-3:]]


def test_a_step_cannot_write_to_the_environment_or_see_the_worker(stage):
    with pytest.raises(ImageBuildError, match="Read-only file system"):
        stage.build(RunCommands(commands=("touch $VIRTUAL_ENV/x",)))
    stage.build(RunCommands(commands=("env",)))
    assert not [line for line in stage.lines if "PYTEST" in line or "JITNEY" in line]


def test_copied_files_belong_to_root_and_later_steps_change_them(stage):
    (stage.folder / "sources" / SOURCE / "a.txt").write_text("A\n")
    stage.build(
        CopyTree(source_id=SOURCE, target="/data/"),
        RunCommands(commands=("stat -c '%U %a' /data/a.txt; echo B >> /data/a.txt; cat /data/a.txt",)),
    )
    assert stage.lines[-3:] == ["root 644", "A", "B"]
    assert (stage.folder / "sources" / SOURCE / "a.txt").read_text() == "A\n"


def test_a_function_runs_in_the_image(stage):
    (stage.folder / "sources" / SOURCE / "shipped.py").write_text("ANSWER = 42\n")
    make_wheel(stage.wheels, "tiny", text="NAME = 'tiny'\n")
    image = stage.build(PipInstall(requirements=("tiny",)), _pickled(writes))
    with open(in_layers(image, "opt/answer")) as file:
        assert file.read() == "42 tiny 0"


def writes():
    import os

    import shipped
    import tiny

    with open("/opt/answer", "w") as file:
        file.write(f"{shipped.ANSWER} {tiny.NAME} {os.getuid()}")


def _pickled(function):
    import sys

    module = sys.modules[function.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps((function, (), {}))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return RunFunction(name=function.__name__, pickled=pickled, identity=function.__name__, source_id=SOURCE)


def test_code_of_a_package_runs_behind_the_wall_only(stage):
    """Its build writes where it can: outside nothing of that is seen, and the package is there all the same."""
    escape = stage.folder / "escaped"
    _sdist(stage.wheels, "tinysource", f"try:\n    open({str(escape)!r}, 'w')\nexcept OSError:\n    pass\n")
    image = stage.build(PipInstall(requirements=("tinysource",)), RunCommands(commands=("python -m tinysource",)))
    assert "it runs" in stage.lines
    assert not escape.exists()
    assert os.path.exists(f"{image.mounts[0]}/lib/python{SERIES}/site-packages/tinysource.py")
    # What it was built with stays apart from the cache that environments are linked to.
    assert any((stage.folder / "images" / "cache").iterdir())


def _sdist(folder, name, setup):
    """A package whose backend is in it: building it needs no other."""
    backend = f"""
{setup}
import zipfile

def build_wheel(directory, settings=None, metadata=None):
    path = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{{directory}}/{{path}}", "w") as wheel:
        info = "{name}-1.0.dist-info"
        wheel.writestr("{name}.py", "print('it runs')")
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return path
"""
    root = folder / f"{name}-1.0"
    root.mkdir(parents=True)
    (root / "backend.py").write_text(backend)
    (root / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (root / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        archive.add(root, arcname=root.name)


def _layout(folder, programs):
    """An OCI image of some programs of this machine, with the libraries that they need."""
    found = set()
    for program in (*programs, own_interpreter()):
        done = subprocess.run(["ldd", os.path.realpath(program)], capture_output=True, text=True, check=False)
        found |= set(re.findall(r"(/\S+) \(0x", done.stdout))
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted(found):
            archive.add(os.path.realpath(path), arcname=path.lstrip("/"))
        for program in programs:
            archive.add(os.path.realpath(program), arcname=program.lstrip("/"))
    layer = blob(raw.getvalue())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = {
        "os": "linux",
        "architecture": machine,
        "config": {"Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"], "WorkingDir": "/srv", "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **blob(json.dumps(config).encode())},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar", **layer}],
    }
    entry = {"mediaType": f"{kind}.manifest.v1+json", **blob(json.dumps(manifest).encode())}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.mark.skipif(not mounts_of(own_interpreter()), reason="this machine's Python is part of its system")
@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd, to make an image of this machine's programs")
def test_an_archive_without_python_gets_one_of_the_machine(stage):
    _layout(stage.folder / "layout", ("/bin/sh", "/bin/cat", "/usr/bin/id"))
    make_wheel(stage.wheels, "tiny", text="NAME = 'tiny'\n")
    for name in ("cloudpickle", "msgspec"):
        make_wheel(stage.wheels, name, importlib.metadata.version(name))
    builder = stage.builder
    stage.builder = LocalBuilder(
        stage.folder / "images",
        builder._box,
        puller=OciPuller(stage.folder / "layers"),
        pip_config={"global.find-links": str(stage.wheels)},
    )
    base = OciArchive(path=str(stage.folder / "layout"), add_python=SERIES)
    spec = ImageSpec(
        base=base,
        layers=(
            PipInstall(requirements=("tiny",)),
            RunCommands(commands=("id -u > /made; python -c 'import tiny; print(tiny.NAME)'; echo $FROM_IMAGE",)),
        ),
    )
    lines = []
    image = asyncio.run(stage.builder.build(spec, lambda *event: lines.append(event[3])))
    assert lines[-2:] == ["tiny", "yes"]
    assert (image.workdir, image.cmd, image.env["FROM_IMAGE"]) == ("/srv", ("sh",), "yes")
    assert len(image.layers) == 2
    with open(f"{image.layers[1]}/made") as file:
        assert file.read() == "0\n"
    # What was just pulled stays a while, also when nothing needs it any more.
    asyncio.run(stage.builder.collect(0, 10**14))
    assert stage.builder.find(image.image_id) is None
    assert os.path.exists(image.layers[0])
    assert not os.path.exists(image.layers[1])
