"""Root file systems in layers: built in a box that runs nothing, and does what a script says."""

import asyncio
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from jitney.drivers.box.fake import WALLED, FakeBox
from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.local import LocalBuilder, Settings, disk
from jitney.drivers.builder.local.interpreters import mounts_of, own_interpreter
from jitney.drivers.dockerfiles.fake import FakeDockerfiles
from jitney.errors import ImageBuildError, InvalidError, NotFoundError, StorageFullError, UnsupportedError
from jitney.ports.box import OverMemory
from jitney.ports.pulls import PulledImage
from jitney.testing.wheels import make_wheel
from jitney.values.images import (
    AptInstall,
    CopyTree,
    Dockerfile,
    Entrypoint,
    Env,
    ImageSpec,
    Micromamba,
    MicromambaInstall,
    Named,
    PipInstall,
    Registry,
    RunCommands,
    RunFunction,
    Scratch,
    Shell,
    UvSync,
    Workdir,
)

MINOR = platform.python_version_tuple()[1]
SERIES = f"3.{MINOR}"
SOURCE = "so-" + "A" * 22
BASE = Registry(reference="python:slim")


class Machine:
    """What a box runs: apt-get, a shell that knows some words, and Pythons that say what they are."""

    def __init__(self):
        self.python = f"JITNEY {SERIES}.9 x86_64 glibc-2.36"
        self.gate = None
        self.at_run = {}  # command word -> what happens

    def run(self, run):
        argv = run.spec.argv
        word = next((word for word in self.at_run if word in argv[-1]), None)
        if word is not None:
            return self.at_run[word](run)
        if "-S" in argv:
            run.say(self.python)
            return 0 if self.python.startswith("JITNEY") else 126
        if argv[:2] == ("apt-get", "install"):
            for name in argv[argv.index("--") + 1 :]:
                run.put(f"/usr/bin/{name}", name, mode=0o755)
        elif argv[0] == "/bin/sh" and argv[-1].startswith("touch "):
            run.put(argv[-1].split()[1])
        elif argv[0] == "/bin/sh" and argv[-1].startswith("fail"):
            run.say("it went wrong")
            return 7
        return 0


class FolderPuller:
    """Gives folders of this test as images."""

    def __init__(self, **images):
        self.images = images
        self.pulls = []
        self.contents = []  # of archives that are the builder's own
        self.kept = None

    async def pull(self, reference, *, username="", password="", platform="", scope="", on_line):
        self.pulls.append(reference)
        on_line(f"pulling {reference}")
        if reference not in self.images:
            raise NotFoundError(f"no image {reference}")
        return self.images[reference]

    async def load(self, path, *, reference="", platform="", scope="", is_own=False, on_line):
        if is_own:
            self.contents.append(await asyncio.to_thread(Path(path).read_bytes))
        return await self.pull(os.path.basename(path) if is_own else path, on_line=on_line)

    async def remove_unused(self, keep):
        self.kept = set(keep)
        return 0

    async def reap(self):
        return 0

    async def close(self):
        pass


class Stage:
    def __init__(self, folder):
        self.folder = folder
        self.images = folder / "images"
        self.machine = Machine()
        self.box = FakeBox(self.machine.run)
        self.base = folder / "pulled" / "base"
        self.puller = FolderPuller(**{"python:slim": self.pulled(self.base)})
        for program in ("usr/bin/apt-get", f"usr/local/bin/python{SERIES}", "bin/sh"):
            self.program(self.base, program)
        (self.base / "usr/local/bin/python3").symlink_to(f"python{SERIES}")
        (folder / "sources" / SOURCE).mkdir(parents=True)

    def pulled(self, *layers, **about):
        return PulledImage(
            reference="x", digest="sha256:0", platform="linux/amd64", layers=tuple(map(str, layers)), **about
        )

    def program(self, layer, path):
        place = layer / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!")
        place.chmod(0o755)

    def source(self, **files):
        for name, text in files.items():
            (self.folder / "sources" / SOURCE / name).write_text(text)
        return SOURCE

    def builder(self, box=None, settings=None, **options):
        options = {"puller": self.puller, "pip_config": {}, "micromamba": "", **options}
        return LocalBuilder(self.images, box or self.box, settings, **options)

    def build(self, *layers, base=BASE, builder=None, python_version="", **changes):
        self.told = []
        spec = self.spec(*layers, base=base, python_version=python_version, **changes)
        return asyncio.run((builder or self.builder()).build(spec, lambda *event: self.told.append(event)))

    def spec(self, *layers, base=BASE, **changes):
        return ImageSpec(base=base, layers=layers, **changes)

    def commands(self):
        return [run.argv[-1] for run in self.box.runs if run.argv[0] == "/bin/sh" and "rm -rf" not in run.argv[-1]]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    # The SDK's own packages are wheels made here: no test asks an index.
    for name in ("cloudpickle", "msgspec"):
        import importlib.metadata

        make_wheel(tmp_path / "wheels", name, importlib.metadata.version(name))
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return Stage(tmp_path)


def read(image, path):
    """A file of an image, from the layer that has it on top."""
    for layer in reversed(image.layers):
        if (Path(layer) / path).exists():
            return (Path(layer) / path).read_text()
    return None


# ------------------------------------------------------------------------------------------------ layers


def test_each_root_step_gives_one_layer_on_top_of_the_base(stage):
    stage.source(a="A")
    image = stage.build(
        AptInstall(packages=("ffmpeg", "git")),
        RunCommands(commands=("touch /opt/one", "touch /opt/two")),
        CopyTree(source_id=SOURCE, target="/data/"),
    )
    assert len(image.layers) == 4
    assert image.layers[0] == str(stage.base)
    assert sorted(os.listdir(f"{image.layers[1]}/usr/bin")) == ["ffmpeg", "git"]
    assert sorted(os.listdir(f"{image.layers[2]}/opt")) == ["one", "two"]
    assert read(image, "data/a") == "A"
    lowers = [run.layers for run in stage.box.runs if run.upper]
    assert lowers[0] == image.layers[:1]
    assert lowers[-1] == image.layers[:2]


def test_what_is_built_is_not_built_again(stage):
    layers = (AptInstall(packages=("git",)), RunCommands(commands=("touch /opt/one",)))
    first = stage.build(*layers)
    runs = len(stage.box.runs)
    again = stage.build(*layers)
    assert again.cached
    assert not stage.told
    longer = stage.build(*layers, RunCommands(commands=("touch /opt/two",)))
    assert longer.layers[:-1] == first.layers
    assert stage.commands() == ["touch /opt/one", "touch /opt/two"]
    assert stage.puller.pulls == ["python:slim"]
    assert len(stage.box.runs) == runs + 1


def test_a_plan_says_what_is_there(stage):
    builder = stage.builder()
    layers = (AptInstall(packages=("git",)), Env(variables={"A": "1"}))
    assert builder.cached(builder.plan(stage.spec(*layers))) == (False, False, False, False, True)
    stage.build(*layers, builder=builder)
    longer = stage.spec(*layers, RunCommands(commands=("touch /x",)))
    assert builder.cached(builder.plan(longer)) == (True, True, True, True, True, False)
    forced = msgspec.structs.replace(longer, force_build=True)
    assert builder.cached(builder.plan(forced)) == (False, False, False, False, True, False)


def test_a_failing_step_shows_itself_and_earlier_layers_stay(stage):
    layers = (RunCommands(commands=("touch /opt/one",)), RunCommands(commands=("touch /opt/two", "fail now")))
    with pytest.raises(ImageBuildError) as raised:
        stage.build(*layers)
    assert "step 5 of 5 (run touch /opt/two; fail now) failed with exit code 7" in raised.value.message
    assert "it went wrong" in raised.value.message
    assert tuple(line for *_, line in stage.told[-2:]) == ("$ fail now", "it went wrong")
    stage.machine.at_run["fail now"] = lambda run: 0
    image = stage.build(*layers)
    assert stage.commands().count("touch /opt/one") == 1
    assert stage.commands().count("touch /opt/two") == 2
    assert asyncio.run(stage.builder().reap()) == 0
    assert len(image.layers) == 3


def test_force_build_makes_new_layers_and_leaves_the_old(stage):
    old = stage.build(RunCommands(commands=("touch /opt/one",)))
    hold = stage.builder().hold(old.image_id)
    new = stage.build(RunCommands(commands=("touch /opt/one",)), force_build=True)
    assert (new.image_id, new.layers[0]) == (old.image_id, old.layers[0])
    assert new.layers[1] != old.layers[1]
    assert asyncio.run(stage.builder().reap()) == 0
    assert Path(old.layers[1]).is_dir()
    hold.release()
    assert asyncio.run(stage.builder().reap()) == 2  # the layer, and its environment
    assert not Path(old.layers[1]).exists()


def test_commands_see_variables_folder_and_environment(stage):
    about = {"env": {"PATH": "/base/bin", "LANG": "C"}, "workdir": "/srv", "shell": ("/bin/bash", "-c")}
    stage.puller.images["python:slim"] = stage.pulled(stage.base, **about)
    image = stage.build(
        Env(variables={"COLOUR": "blue"}),
        Workdir(path="app"),
        RunCommands(commands=("touch /a",), env={"ONCE": "1"}, secrets={"TOKEN": "s3cr3t"}),
        Shell(words=("/bin/sh", "-e", "-c")),
        RunCommands(commands=("touch /b",)),
        Entrypoint(words=("/init",)),
    )
    first, second = [run for run in stage.box.runs if run.upper]
    assert first.argv == ("/bin/bash", "-c", "touch /a")
    assert second.argv == ("/bin/sh", "-e", "-c", "touch /b")
    env = first.env
    assert (env["COLOUR"], env["LANG"], env["ONCE"], env["TOKEN"]) == ("blue", "C", "1", "s3cr3t")
    assert "TOKEN" not in second.env
    assert env["PATH"] == f"{image.mounts[0]}/bin:/base/bin"
    assert first.cwd == "/srv/app"
    assert (Path(first.upper) / "srv/app").is_dir()
    assert (image.env["COLOUR"], image.env["PATH"], image.workdir) == ("blue", "/base/bin", "/srv/app")
    assert (image.entrypoint, image.shell) == (("/init",), ("/bin/sh", "-e", "-c"))
    assert "s3cr3t" not in "".join(path.read_text() for path in stage.images.glob("**/*.json"))


def test_limits_of_the_settings_and_of_a_function_reach_the_box(stage):
    settings = Settings(memory_mib=512, cpu_milli=1_500, pids=99, timeout_ms=60_000)
    function = RunFunction(name="f", pickled=b"x", identity="f", memory_mib=64, cpu_milli=250, timeout_ms=5_000)
    stage.build(RunCommands(commands=("touch /a",)), function, builder=stage.builder(settings=settings))
    first, second = [run for run in stage.box.runs if run.upper]
    assert (first.memory_mib, first.cpu_milli, first.pids, first.timeout_ms) == (512, 1_500, 99, 60_000)
    assert (second.memory_mib, second.cpu_milli, second.pids, second.timeout_ms) == (64, 250, 99, 5_000)


def test_a_step_that_takes_too_long_is_named(stage):
    async def forever(run):
        await asyncio.Event().wait()

    stage.machine.at_run["hang"] = forever
    with pytest.raises(ImageBuildError, match=r"took over 1 s .* 'run hang'"):
        stage.build(RunCommands(commands=("hang",)), builder=stage.builder(settings=Settings(timeout_ms=1_000)))
    assert stage.box.running == 0
    assert not list(stage.images.glob("roots/*/fs-*"))[1:]


def test_a_function_cannot_have_more_than_the_machine_gives_to_builds(stage):
    settings = Settings(memory_mib=512, cpu_milli=1_500)
    function = RunFunction(name="f", pickled=b"x", identity="f", memory_mib=4_096, cpu_milli=64_000)
    stage.build(function, builder=stage.builder(settings=settings))
    (run,) = [run for run in stage.box.runs if run.upper]
    assert (run.memory_mib, run.cpu_milli) == (512, 1_500)


def test_a_step_that_needs_too_much_memory_says_how_much_it_may_have(stage):
    def eat(run):
        run.say("cc1plus is at it")
        raise OverMemory(-9, run.spec.memory_mib)

    stage.machine.at_run["eat"] = eat
    with pytest.raises(ImageBuildError) as raised:
        stage.build(RunCommands(commands=("eat",)), builder=stage.builder(settings=Settings(memory_mib=1_536)))
    assert "step 4 of 4 (run eat) needed more than the 1,536 MiB of memory" in raised.value.message
    assert "cc1plus is at it" in raised.value.message
    assert "build_memory_mib" in raised.value.hint
    assert not list(stage.images.glob("roots/*/fs-*"))


def test_where_builds_have_no_network_a_failing_command_says_so(stage):
    capabilities = msgspec.structs.replace(WALLED, network=False, no_network="no TUN device; load the module tun")
    box = FakeBox(stage.machine.run, capabilities=capabilities)
    with pytest.raises(ImageBuildError) as raised:
        stage.build(RunCommands(commands=("fail to fetch",)), builder=stage.builder(box))
    assert "have no network on this machine: no TUN device; load the module tun" in raised.value.hint
    with pytest.raises(ImageBuildError) as raised:
        stage.build(RunCommands(commands=("fail to fetch",)))
    assert "network" not in raised.value.hint


def test_a_wall_that_cannot_be_made_is_told(stage):
    stage.box.refusal = "no user namespaces"
    with pytest.raises(ImageBuildError, match="no user namespaces"):
        stage.build(RunCommands(commands=("touch /a",)))


def test_apt_needs_a_base_that_has_it(stage):
    (stage.base / "usr/bin/apt-get").unlink()
    with pytest.raises(UnsupportedError, match="no apt-get"):
        stage.build(AptInstall(packages=("git",)))


def test_a_program_that_is_not_there_is_named(stage):
    stage.machine.at_run["touch /x"] = lambda run: 127
    with pytest.raises(ImageBuildError, match="no program /bin/sh"):
        stage.build(RunCommands(commands=("touch /x",)))


def test_images_beside_each_other_are_built_at_the_same_time(stage):
    meeting = {}

    async def meet(run):
        meeting.setdefault("event", asyncio.Event())
        meeting["count"] = meeting.get("count", 0) + 1
        if meeting["count"] == 2:
            meeting["event"].set()
        await meeting["event"].wait()
        return 0

    stage.machine.at_run["meet"] = meet
    builder = stage.builder()

    async def both():
        specs = [stage.spec(RunCommands(commands=(f"meet {number}",))) for number in range(2)]
        await asyncio.gather(*(builder.build(spec, lambda *_: None) for spec in specs))

    asyncio.run(both())
    assert stage.box.running_most == 2


def test_a_layer_that_two_images_share_is_made_once(stage):
    builder = stage.builder()
    shared = RunCommands(commands=("touch /shared",))
    specs = [stage.spec(shared, RunCommands(commands=(f"touch /{number}",))) for number in range(3)]

    async def all_of_them():
        return await asyncio.gather(*(builder.build(spec, lambda *_: None) for spec in specs))

    images = asyncio.run(all_of_them())
    assert stage.commands().count("touch /shared") == 1
    assert len({image.layers[1] for image in images}) == 1
    assert len({image.layers[2] for image in images}) == 3


# ------------------------------------------------------------------------------------------------ copying


def test_shipped_links_and_devices_are_not_followed(stage):
    tree = stage.folder / "sources" / SOURCE
    stage.source(plain="x")
    (tree / "passwd").symlink_to("/etc/passwd")
    (tree / "etc").symlink_to("/etc")
    os.mkfifo(tree / "pipe")
    image = stage.build(CopyTree(source_id=SOURCE, target="/data/"))
    assert os.listdir(f"{image.layers[1]}/data") == ["plain"]


def test_links_of_the_image_are_followed_inside_of_it_only(stage):
    outside = stage.folder / "outside"
    outside.mkdir()
    (stage.base / "usr/lib").mkdir()
    (stage.base / "lib").symlink_to("usr/lib")
    (stage.base / "absolute").symlink_to(str(outside))
    (stage.base / "climbing").symlink_to("../../../../../../../../../.." + str(outside))
    (stage.base / "loop").symlink_to("loop")
    stage.source(a="A")
    image = stage.build(
        *(CopyTree(source_id=SOURCE, target=f"/{name}/") for name in ("lib", "absolute", "climbing", "loop"))
    )
    assert (Path(image.layers[1]) / "usr/lib/a").read_text() == "A"
    assert not (Path(image.layers[1]) / "lib").exists()
    assert os.listdir(outside) == []
    assert (Path(image.layers[4]) / "loop/a").read_text() == "A"


def test_a_folder_of_a_layer_has_the_mode_of_the_one_below(stage):
    (stage.base / "tmp").mkdir()
    (stage.base / "tmp").chmod(0o1777)
    stage.source(a="A")
    image = stage.build(CopyTree(source_id=SOURCE, target="/tmp/"), CopyTree(source_id=SOURCE, target="/new/"))
    assert os.stat(f"{image.layers[1]}/tmp").st_mode & 0o7777 == 0o1777
    assert os.stat(f"{image.layers[2]}/new").st_mode & 0o7777 == 0o755


def test_files_that_are_not_here_are_told(stage):
    with pytest.raises(ImageBuildError, match="are not on this machine"):
        stage.build(CopyTree(source_id="so-" + "B" * 22, target="/x/"))


def test_a_file_in_the_way_of_a_folder_is_told(stage):
    (stage.base / "data").write_text("a file")
    with pytest.raises(ImageBuildError, match="/data of the image is a file"):
        stage.build(CopyTree(source_id=stage.source(a="A"), target="/data/"))


# ------------------------------------------------------------------------------------------------ functions


def really(run):
    """Run the command of a box on this machine, with its paths as the box would show them."""
    spec = run.spec
    swap = sorted(spec.binds, key=lambda bind: -len(bind.target))

    def outside(text):
        parts = []
        for part in text.split(":"):
            bind = next((b for b in swap if part == b.target or part.startswith(b.target + "/")), None)
            parts.append(bind.source + part[len(bind.target) :] if bind else part)
        return ":".join(parts)

    # The SDK is bound name by name; here a folder of links does the same.
    sdk = run.spec.argv[-1]
    links = Path(outside(sdk))
    shutil.rmtree(links)
    links.mkdir()
    for bind in spec.binds:
        if bind.target.startswith(sdk + "/"):
            (links / bind.target.rpartition("/")[2]).symlink_to(bind.source)
    env = {name: outside(value) for name, value in spec.env.items()}
    argv = [sys.executable, *(outside(word) for word in spec.argv[1:])]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd="/", check=False)
    for line in (done.stdout + done.stderr).splitlines():
        run.say(line)
    return done.returncode


def function(what, *args, **options):
    import sys as module_sys

    cloudpickle.register_pickle_by_value(module_sys.modules[what.__module__])
    try:
        pickled = cloudpickle.dumps((what, args, {}))
    finally:
        cloudpickle.unregister_pickle_by_value(module_sys.modules[what.__module__])
    return RunFunction(name=what.__name__, pickled=pickled, identity=f"{what.__name__}{args}", **options)


def writes(path):
    import os

    import shipped

    with open(path, "w") as file:
        file.write(f"{shipped.ANSWER} {os.environ['COLOUR']}")


def fails():
    raise RuntimeError("the model cannot be fetched")


def test_a_function_is_called_with_its_files_and_variables(stage, tmp_path):
    stage.machine.at_run["/sdk"] = really
    stage.source(**{"shipped.py": "ANSWER = 42\n"})
    out = tmp_path / "out"
    layer = function(writes, str(out), source_id=SOURCE, env={"COLOUR": "blue"})
    image = stage.build(layer)
    assert out.read_text() == "42 blue"
    assert len(image.layers) == 2
    spec = stage.box.runs[-1]
    assert spec.argv[0] == image.python_path
    assert not [bind for bind in spec.binds if bind.writable and bind.target != "/tmp"]
    assert not list((stage.images / "steps").iterdir())


def test_a_function_that_raises_shows_its_traceback(stage):
    stage.machine.at_run["/sdk"] = really
    with pytest.raises(ImageBuildError) as raised:
        stage.build(function(fails))
    assert "run function fails" in raised.value.message
    assert "RuntimeError: the model cannot be fetched" in raised.value.message
    assert "in fails" in raised.value.message


def test_a_function_that_takes_too_long_is_named(stage):
    async def forever(run):
        await asyncio.Event().wait()

    stage.machine.at_run["/sdk"] = forever
    with pytest.raises(ImageBuildError, match=r"run function fails\) took over 0 s"):
        stage.build(function(fails, timeout_ms=50))


# ------------------------------------------------------------------------------------------------ Python


def test_the_environment_is_made_over_the_python_of_the_base(stage):
    image = stage.build(RunCommands(commands=("touch /a",)))
    root = Path(image.mounts[0])
    assert os.readlink(root / "bin" / f"python{SERIES}") == "/usr/local/bin/python3"
    assert "include-system-site-packages = true" in (root / "pyvenv.cfg").read_text()
    assert (image.python_path, image.python_version) == (f"{root}/bin/python", f"{SERIES}.9")
    assert image.mounts == (str(root),)
    assert (root / f"lib/python{SERIES}/site-packages/cloudpickle.py").exists()


def test_a_base_without_python_says_what_to_do(stage):
    shutil.rmtree(stage.base / "usr/local")
    with pytest.raises(ImageBuildError) as raised:
        stage.build()
    assert "add_python" in raised.value.hint


def test_a_python_that_a_later_step_brings_is_taken(stage):
    shutil.rmtree(stage.base / "usr/local")
    layers = (Env(variables={"A": "1"}), AptInstall(packages=(f"python{SERIES}",)), RunCommands(commands=("touch /a",)))
    image = stage.build(*layers)
    assert os.readlink(Path(image.mounts[0]) / "bin" / f"python{SERIES}") == f"/usr/bin/python{SERIES}"
    assert image.env["A"] == "1"
    assert stage.builder().find(image.image_id)
    other = stage.build(*layers, RunCommands(commands=("touch /b",)))
    assert other.python_path == image.python_path  # the environment is found again


def test_another_version_than_that_of_the_base_is_refused(stage):
    with pytest.raises(UnsupportedError, match=rf"the base has Python {SERIES}.9 and not 3.99") as raised:
        stage.build(python_version="3.99")
    assert "add_python" in raised.value.hint


def test_a_python_that_is_too_old_is_refused(stage):
    stage.machine.python = "JITNEY 3.9.2 x86_64 glibc-2.36"
    with pytest.raises(UnsupportedError, match=r"the Python of the base is 3.9.2"):
        stage.build()


def test_a_base_for_another_processor_is_told(stage):
    stage.machine.python = "exec format error"
    with pytest.raises(ImageBuildError, match=r"cannot run here .*exec format error") as raised:
        stage.build()
    assert "processor" in raised.value.hint


def test_a_python_of_the_machine_can_be_added(stage):
    shutil.rmtree(stage.base / "usr/local")
    base = msgspec.structs.replace(BASE, add_python=SERIES)
    if not mounts_of(own_interpreter()):
        pytest.skip("this machine's Python is part of its system")
    image = stage.build(RunCommands(commands=("touch /a",)), base=base)
    assert len(image.mounts) == 2
    assert os.path.realpath(image.python_path).startswith(image.mounts[1] + "/")
    assert any(bind.source == image.mounts[1] for run in stage.box.runs for bind in run.binds)


def test_an_added_python_that_does_not_start_is_told(stage):
    base = msgspec.structs.replace(BASE, add_python=SERIES)
    stage.machine.python = "version `GLIBC_2.34' not found"
    if not mounts_of(own_interpreter()):
        pytest.skip("this machine's Python is part of its system")
    with pytest.raises(ImageBuildError, match=r"GLIBC_2\.34") as raised:
        stage.build(base=base)
    assert "C library" in raised.value.hint


# ------------------------------------------------------------------------------------------------ packages and the wall


def sdist(folder, name="tinysource"):
    folder.mkdir(exist_ok=True)
    root = folder / f"{name}-1.0"
    root.mkdir()
    (root / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (root / "setup.py").write_text(f"import os\nos.mkdir({str(folder / 'escaped')!r})\n")
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
        tar.add(root, arcname=root.name)


def test_wheels_are_installed_outside_without_running_anything_of_the_environment(stage, tmp_path):
    make_wheel(tmp_path / "wheels", "tiny", text="ANSWER = 42\n")
    image = stage.build(PipInstall(requirements=("tiny",)))
    assert not [run for run in stage.box.runs if "pip" in run.argv]
    assert (Path(image.mounts[0]) / f"lib/python{SERIES}/site-packages/tiny.py").exists()


def test_a_package_without_a_wheel_is_built_in_the_box(stage, tmp_path, monkeypatch):
    sdist(tmp_path / "wheels")
    make_wheel(tmp_path / "wheels", "tiny")
    seen = []

    def install(run):
        seen.append(run.spec)
        run.say("Built tinysource")
        return 0

    stage.machine.run_pip = install
    plain = stage.machine.run
    stage.box.script = lambda run: install(run) if "pip" in run.spec.argv else plain(run)
    private = tmp_path / "private"
    private.mkdir()
    layers = (
        PipInstall(requirements=("tiny",)),
        PipInstall(requirements=("tinysource",), env={"UV_INDEX": f"file://{private}"}),
    )
    image = stage.build(*layers)
    assert not (tmp_path / "wheels" / "escaped").exists()
    assert [" ".join(spec.argv[1:3]) for spec in seen] == ["pip install"] * 3  # all of them: SDK, tiny, tinysource
    for spec in seen:
        assert spec.env["UV_LINK_MODE"] == "copy"
        assert spec.argv[spec.argv.index("--python") + 1] == image.python_path
        targets = {bind.target: bind for bind in spec.binds}
        assert targets[image.mounts[0]].writable
        assert str(tmp_path / "wheels") in targets  # of the machine's own settings
        assert str(private) not in targets  # not of the image's
        assert spec.env["UV_CACHE_DIR"] in targets
        assert targets[spec.env["UV_CACHE_DIR"]].source == str(stage.images / disk.CACHE)
    # Made anew: nothing in it is a link into the cache of the machine.
    assert not [path for path in Path(image.mounts[0]).rglob("*") if path.is_file() and path.stat().st_nlink > 1]


def test_other_failures_are_not_tried_again_in_the_box(stage):
    with pytest.raises(ImageBuildError, match="no-such-thing was not found"):
        stage.build(PipInstall(requirements=("no-such-thing",)))
    assert not [run for run in stage.box.runs if "pip" in run.argv]
    assert any("no-such-thing was not found" in line for *_, line in stage.told)


def test_an_image_cannot_aim_uv_on_the_host(stage, tmp_path, monkeypatch):
    make_wheel(tmp_path / "wheels", "tiny")
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "s3cret")
    log = tmp_path / "environment"
    real = shutil.which("env")
    script = tmp_path / "uv"
    import uv

    script.write_text(f'#!/bin/sh\n{real} >> {log}\nexec {uv.find_uv_bin()} "$@"\n')
    script.chmod(0o755)
    builder = stage.builder(uv=str(script))
    variables = {
        "LD_PRELOAD": "/evil.so",
        "PATH": "/evil",
        "GIT_SSH_COMMAND": "evil",
        "UV_CACHE_DIR": str(tmp_path / "evil"),
        "UV_PRERELEASE": "allow",
    }
    stage.build(Env(variables=variables), PipInstall(requirements=("tiny",)), builder=builder)
    text = log.read_text()
    assert "evil" not in text
    assert "SECRET_OF_THE_WORKER" not in text
    assert "UV_PRERELEASE=allow" in text


def test_requirements_refer_to_variables_of_their_step_only(stage):
    with pytest.raises(ImageBuildError, match="refer to \\$\\{HOME\\}"):
        stage.build(PipInstall(requirements=("tiny @ git+https://${HOME}@example.org/x.git",)))


def test_a_lock_file_is_read_in_the_box_and_its_wheels_installed(stage, tmp_path):
    make_wheel(tmp_path / "wheels", "tiny")
    stage.source(**{"pyproject.toml": '[project]\nname = "x"\nversion = "1"\n', "uv.lock": "version = 1\n"})
    plain = stage.machine.run

    def export(run):
        folder = next(bind.source for bind in run.spec.binds if bind.target == "/tmp")
        assert (Path(folder) / "project" / "uv.lock").read_text() == "version = 1\n"
        (Path(folder) / "project" / "exported.txt").write_text("tiny==1.0\n")
        return 0

    stage.box.script = lambda run: export(run) if "export" in run.spec.argv else plain(run)
    image = stage.build(UvSync(source_id=SOURCE, groups=("dev",)))
    spec = next(run for run in stage.box.runs if "export" in run.argv)
    assert "--group=dev" in spec.argv
    assert "--frozen" in spec.argv
    assert (Path(image.mounts[0]) / f"lib/python{SERIES}/site-packages/tiny.py").exists()


@pytest.mark.parametrize("line", ["--index-url https://evil.example", "-r /etc/shadow", "../private"])
def test_a_lock_file_cannot_bring_options(stage, line):
    stage.source(**{"pyproject.toml": '[project]\nname = "x"\nversion = "1"\n'})
    plain = stage.machine.run

    def export(run):
        folder = next(bind.source for bind in run.spec.binds if bind.target == "/tmp")
        (Path(folder) / "project" / "exported.txt").write_text(f"{line}\n")
        return 0

    stage.box.script = lambda run: export(run) if "export" in run.spec.argv else plain(run)
    with pytest.raises(InvalidError):
        stage.build(UvSync(source_id=SOURCE))


def test_a_script_of_a_package_starts_with_the_python_of_the_environment(stage, tmp_path):
    wheel = make_wheel(tmp_path / "wheels", "tiny", text="def main():\n    print('hello')\n")
    import zipfile

    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny-1.0.dist-info/entry_points.txt", "[console_scripts]\ntiny-hello = tiny:main\n")
    image = stage.build(PipInstall(requirements=("tiny",)), base=ImageSpec().base)
    script = Path(image.mounts[0]) / "bin" / "tiny-hello"
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "hello\n"
    assert image.python_path in script.read_text()


# ------------------------------------------------------------------------------------------------ bases


def test_root_steps_go_onto_the_host_where_the_box_can(stage):
    image = stage.build(RunCommands(commands=("touch /opt/a",)), base=ImageSpec().base)
    assert image.layers[0] == "/"
    assert len(image.layers) == 2
    run = next(run for run in stage.box.runs if run.upper)
    assert run.layers == ()
    second = stage.build(
        RunCommands(commands=("touch /opt/a",)), RunCommands(commands=("touch /opt/b",)), base=ImageSpec().base
    )
    assert stage.box.runs[-1].layers == ("/", second.layers[1])


def test_the_host_has_no_layers_while_nothing_writes_to_it(stage):
    image = stage.build(Env(variables={"A": "1"}), base=ImageSpec().base)
    assert image.layers == ()
    assert image.mounts[0] == str(Path(image.python_path).parent.parent)


def test_a_host_that_cannot_be_written_over_is_refused_with_the_remedies(stage):
    box = FakeBox(capabilities=msgspec.structs.replace(WALLED, host_layer_writable=False))
    with pytest.raises(UnsupportedError) as raised:
        stage.builder(box).plan(stage.spec(AptInstall(packages=("git",)), base=ImageSpec().base))
    assert "from_registry" in raised.value.hint
    assert "debootstrap" in raised.value.hint


@pytest.mark.parametrize(
    "layer",
    [
        AptInstall(packages=("git",)),
        RunCommands(commands=("true",)),
        RunFunction(name="f", pickled=b"", identity="f"),
        CopyTree(source_id=SOURCE, target="/x/"),
    ],
)
def test_without_root_file_systems_root_steps_are_refused_before_anything(stage, layer):
    builder = stage.builder(HostBox())
    for spec in (stage.spec(layer, base=ImageSpec().base), stage.spec()):
        with pytest.raises(UnsupportedError, match="cannot be made on this runtime") as raised:
            builder.plan(spec)
        assert "namespaces" in raised.value.hint


DOCKERFILE = Dockerfile(text="FROM x AS y\nFROM y\n", context_id=SOURCE, why="line 2: it has several stages")


def test_a_dockerfile_without_an_engine_says_why_it_needs_one_and_what_would_help(stage):
    with pytest.raises(UnsupportedError) as raised:
        stage.builder().plan(stage.spec(base=DOCKERFILE))
    assert "several stages" in raised.value.message
    assert "from_registry" in raised.value.hint
    nobody = FakeDockerfiles(why=("no socket of an engine was found", "install Podman"))
    with pytest.raises(UnsupportedError, match="no socket of an engine") as raised:
        stage.builder(dockerfiles=nobody).plan(stage.spec(base=DOCKERFILE))
    assert raised.value.hint == "install Podman"
    with pytest.raises(UnsupportedError):
        stage.build(base=DOCKERFILE, builder=stage.builder(dockerfiles=nobody))
    assert not nobody.orders


def test_a_dockerfile_is_built_once_by_an_engine_and_layers_go_on_top(stage):
    stage.puller.images["image.tar"] = stage.pulled(stage.base, env={"A": "b"})
    engine = FakeDockerfiles(b"an archive", lines=("STEP 1/2", "STEP 2/2"))
    builder = stage.builder(dockerfiles=engine, settings=Settings(memory_mib=512, cpu_milli=1_500))
    image = stage.build(RunCommands(commands=("touch /one",)), base=DOCKERFILE, builder=builder)
    assert (image.layers[0], image.env["A"]) == (str(stage.base), "b")
    assert [line for *_, line in stage.told[:3]] == ["", "STEP 1/2", "STEP 2/2"]
    (order,) = engine.orders
    assert order.base == DOCKERFILE
    assert order.context == stage.folder / "sources" / SOURCE
    assert (order.memory_mib, order.cpu_milli, order.force) == (512, 1_500, False)
    assert stage.puller.contents == [b"an archive"]
    assert not list(stage.images.glob("steps/*"))
    stage.build(RunCommands(commands=("touch /two",)), base=DOCKERFILE, builder=builder)
    assert len(engine.orders) == 1
    stage.build(base=DOCKERFILE, builder=builder, force_build=True)
    assert engine.orders[-1].force


def test_a_dockerfile_that_fails_is_told_with_its_step_and_leaves_nothing(stage):
    engine = FakeDockerfiles(lines=("STEP 2/2: RUN false",), fails=True)
    builder = stage.builder(dockerfiles=engine)
    for _ in range(2):  # it is not remembered
        with pytest.raises(ImageBuildError, match=r"step 1 of 3 \(from a Dockerfile\): .*\n.*RUN false"):
            stage.build(base=DOCKERFILE, builder=builder)
    assert len(engine.orders) == 2
    assert not list(stage.images.glob("steps/*"))
    assert not list(stage.images.glob("roots/*/fs-*"))


def test_a_hostile_archive_of_an_engine_is_refused(stage):
    """What an engine gives was made by a tenant's commands."""

    async def refuse(path, **options):
        raise InvalidError("a layer is refused: '../x' leads out")

    stage.puller.load = refuse
    with pytest.raises(InvalidError, match="leads out"):
        stage.build(base=DOCKERFILE, builder=stage.builder(dockerfiles=FakeDockerfiles(b"x")))
    assert not list(stage.images.glob("steps/*"))
    assert not list(stage.images.glob("im-*/image.json"))


def test_two_builds_of_a_dockerfile_at_once_are_one(stage):
    stage.puller.images["image.tar"] = stage.pulled(stage.base)

    async def both():
        engine = FakeDockerfiles(b"x", gate=asyncio.Event())
        builder = stage.builder(dockerfiles=engine)
        heard = asyncio.Event()
        first = asyncio.create_task(builder.build(stage.spec(base=DOCKERFILE), lambda *_: heard.set()))
        await heard.wait()
        second = asyncio.create_task(builder.build(stage.spec(base=DOCKERFILE), lambda *_: None))
        await asyncio.sleep(0)
        engine.gate.set()
        images = await asyncio.gather(first, second)
        return images, engine.orders

    images, orders = asyncio.run(both())
    assert len(orders) == 1
    assert images[0].layers == images[1].layers


def test_secrets_of_a_dockerfile_are_refused_as_they_would_stay_in_the_image(stage):
    base = msgspec.structs.replace(DOCKERFILE, secrets={"TOKEN": "s3cr3t"})
    with pytest.raises(UnsupportedError, match="would stay in the image"):
        stage.builder(dockerfiles=FakeDockerfiles()).plan(stage.spec(base=base))


def test_a_dockerfile_needs_root_file_systems_and_somebody_who_loads_archives(stage):
    engine = FakeDockerfiles()
    with pytest.raises(UnsupportedError, match="cannot be made on this runtime"):
        stage.builder(HostBox(), dockerfiles=engine).plan(stage.spec(base=DOCKERFILE))
    with pytest.raises(UnsupportedError, match="pulls no images"):
        stage.builder(dockerfiles=engine, puller=None).plan(stage.spec(base=DOCKERFILE))


def test_debian_slim_of_a_registry_is_pulled_once(stage):
    stage.puller.images[f"mirror.example:5000/python:{SERIES}-slim"] = stage.pulled(stage.base)
    builder = stage.builder(settings=Settings(base="registry", registry="mirror.example:5000"))
    image = stage.build(base=ImageSpec().base, builder=builder)
    assert image.layers == (str(stage.base),)
    other = stage.build(RunCommands(commands=("touch /a",)), base=ImageSpec().base, builder=builder)
    assert other.layers[0] == str(stage.base)
    assert len(stage.puller.pulls) == 1
    assert image.image_id != stage.builder().plan(ImageSpec()).image_id  # not the one on the host


def test_debian_slim_by_debootstrap_is_made_in_the_box_once(stage, monkeypatch):
    from jitney.drivers.builder.local import bases

    monkeypatch.setattr(bases, "find_debootstrap", lambda: "/usr/bin/mmdebstrap")

    def bootstrap(run):
        run.put(f"{run.spec.argv[-1]}/usr/bin/python{SERIES}", mode=0o755)
        return 0

    plain = stage.machine.run
    stage.box.script = lambda run: bootstrap(run) if "mmdebstrap" in run.spec.argv[0] else plain(run)
    builder = stage.builder(settings=Settings(base="debootstrap"))
    image = stage.build(base=ImageSpec().base, builder=builder)
    assert (Path(image.layers[0]) / f"usr/bin/python{SERIES}").exists()
    stage.build(RunCommands(commands=("touch /a",)), base=ImageSpec().base, builder=builder)
    assert len([run for run in stage.box.runs if "mmdebstrap" in run.argv[0]]) == 1


def test_scratch_has_what_every_container_needs(stage):
    with pytest.raises(ImageBuildError) as raised:
        stage.build(base=Scratch(), python_version=SERIES)
    assert "add_python" in raised.value.hint
    (layer,) = stage.images.glob("roots/*/fs-*/")
    assert {"etc", "tmp", "proc", "dev"} <= set(os.listdir(layer))


def test_micromamba_needs_its_program(stage):
    spec = stage.spec(MicromambaInstall(packages=("numpy",)), base=Micromamba())
    with pytest.raises(UnsupportedError, match="no micromamba"):
        stage.builder().plan(spec)


def test_micromamba_makes_an_environment_and_installs_into_it(stage, tmp_path):
    program = tmp_path / "micromamba"
    program.write_text("#!")

    def mamba(run):
        if run.spec.argv[1] == "create":
            run.put(f"/opt/conda/bin/python{SERIES}", mode=0o755)
        return 0

    plain = stage.machine.run
    stage.box.script = lambda run: mamba(run) if "micromamba" in run.spec.argv[0] else plain(run)
    builder = stage.builder(micromamba=str(program))
    layer = MicromambaInstall(packages=("numpy=2",), channels=("bioconda",), spec_file="name: x\n")
    image = stage.build(layer, base=Micromamba(), builder=builder)
    argvs = [run.argv for run in stage.box.runs if "micromamba" in run.argv[0]]
    assert f"python={SERIES}" in argvs[0]
    assert "--file" in argvs[1]
    assert argvs[2][-3:] == ("-c", "bioconda", "numpy=2")
    assert os.readlink(Path(image.mounts[0]) / "bin" / f"python{SERIES}") == f"/opt/conda/bin/python{SERIES}"
    assert image.env["PATH"].startswith("/opt/conda/bin:")


def test_an_image_that_was_named_is_a_base(stage):
    builder = stage.builder()
    parent = stage.build(RunCommands(commands=("touch /a",)), builder=builder)
    assert builder.tag(parent.image_id, "team/base") == "team/base:latest"
    child = stage.build(RunCommands(commands=("touch /b",)), base=Named(reference="team/base"), builder=builder)
    assert child.layers[:2] == parent.layers
    assert stage.commands() == ["touch /a", "touch /b"]
    declared = builder.plan(stage.spec(RunCommands(commands=("touch /a",)), RunCommands(commands=("touch /b",))))
    assert declared.image_id == child.image_id
    with pytest.raises(NotFoundError):
        builder.plan(stage.spec(base=Named(reference="nobody")))


# ------------------------------------------------------------------------------------------------ kills


def child_that_dies(stage, spec, point, lender=None):
    """Build in a process of its own that is killed at its `point`-th chance; whether it was."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def chance():
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

        def around(what):
            def wrapped(*args, **kwargs):
                chance()
                given = what(*args, **kwargs)
                chance()
                return given

            return wrapped

        try:
            disk.commit, disk.settle = around(disk.commit), around(disk.settle)
            stage.box.adopt = around(stage.box.adopt)
            stage.box.script = around(stage.box.script)
            if lender is not None:
                lender.add = around(lender.add)
            asyncio.run(stage.builder().build(spec, lambda *_: None, lender))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_point_there_is_no_half_layer_and_the_next_build_goes_on(stage):
    stage.source(a="A")
    spec = stage.spec(
        RunCommands(commands=("touch /one",)),
        CopyTree(source_id=SOURCE, target="/data/"),
        RunCommands(commands=("touch /two",)),
    )
    builder = stage.builder()
    image_id = builder.plan(spec).image_id
    point = 0
    while True:
        point += 1
        was_killed = child_that_dies(stage, spec, point)
        is_there = builder.find(image_id)
        assert was_killed or is_there
        asyncio.run(builder.reap())
        # What a commit names is there, and nothing else is.
        for parent in stage.images.glob("roots/*/"):
            about = disk.read(parent / disk.ROOT_FILE, disk.RootFile)
            named = {about.folder} - {""} if about else set()
            assert {path.name for path in parent.glob("fs-*/")} == named
        assert not [*stage.images.glob("steps/*/")]
        image = asyncio.run(builder.build(spec, lambda *_: None))
        assert [read(image, name) for name in ("one", "data/a", "two")] == ["", "A", ""]
        if not was_killed:
            break
        shutil.rmtree(stage.images)
    assert point > 20


def test_two_processes_make_a_layer_once_and_both_end_well(stage):
    log = stage.folder / "log"
    barrier = stage.folder / "barrier"
    os.mkfifo(barrier)

    def slow(run):
        with log.open("a") as file:
            file.write("run\n")
        with barrier.open() as gate:
            gate.read()
        run.put("/made")
        return 0

    stage.machine.at_run["slow"] = slow
    spec = stage.spec(RunCommands(commands=("slow",)))
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                image = asyncio.run(stage.builder().build(spec, lambda *_: None))
                code = 0 if read(image, "made") == "" else 2
            finally:
                os._exit(code)
        pids.append(pid)
    with barrier.open("w") as gate:  # opens when one of them is at it
        gate.write("go\n")
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert log.read_text() == "run\n"


def test_a_build_that_is_cancelled_leaves_nothing(stage):
    started = {}

    async def hang(run):
        run.put("/half")
        started["event"].set()
        await asyncio.Event().wait()

    stage.machine.at_run["hang"] = hang

    async def cancel():
        started["event"] = asyncio.Event()
        task = asyncio.create_task(stage.builder().build(stage.spec(RunCommands(commands=("hang",))), lambda *_: None))
        await started["event"].wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert stage.box.running == 0
    assert not [*stage.images.glob("roots/*/fs-*")]
    assert not [*stage.images.glob("steps/*")]
    assert not [*stage.images.glob("leases/*")]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_told_and_passes(stage):
    stage.images.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", stage.images], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr!r}")
    try:
        stage.machine.at_run["large"] = lambda run: run.put("/large", "x" * 4_000_000) or 0
        with pytest.raises(StorageFullError):
            stage.build(RunCommands(commands=("large",)))
        assert not [*stage.images.glob("roots/*/fs-*/large")]
        stage.machine.at_run["large"] = lambda run: run.say("cannot write: No space left on device") or 1
        with pytest.raises(StorageFullError, match="step 4 of 4"):
            stage.build(RunCommands(commands=("large",)))
        stage.machine.at_run["large"] = lambda run: 0
        assert stage.build(RunCommands(commands=("large",)))
    finally:
        subprocess.run(["umount", "-l", stage.images], check=True)


def test_a_step_in_a_process_of_its_own_is_what_a_program_would_do(stage):
    """The module that a step runs is one of the standard library's only."""
    text = textwrap.dedent(
        """
        import sys
        sys.path.append(sys.argv[1])
        import jitney.runner.build_function
        print([name for name in ("msgspec", "cloudpickle", "aiohttp") if name in sys.modules])
        """
    )
    source = str(Path(disk.__file__).parents[4])
    done = subprocess.run([sys.executable, "-I", "-c", text, source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
