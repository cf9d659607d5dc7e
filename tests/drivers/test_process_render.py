"""What the process runtime starts things with, as values; and its small parts."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from pathlib import Path

import pytest

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.leftovers import JOURNAL, Leftovers, read_journal
from jitney.drivers.runtime.forking.scratch import ScratchFolders
from jitney.drivers.runtime.forking.sdk import link_targets
from jitney.drivers.runtime.process import sdk_paths
from jitney.drivers.runtime.process.render import base_env, render_container, render_template
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.wire.home import Home

HOME = Home(Path("/h"))
SPEC = TemplateSpec(image_id="im-1", source_id="so-1", module="m")
IMAGE = BuiltImage(
    image_id="im-1",
    python_path="/h/images/x/bin/python",
    python_version="3.11.7",
    cloudpickle_version="3",
    env={"MODE": "fast", "PYTHONPATH": "/extra"},
)


def image(**changes) -> BuiltImage:
    fields = {name: getattr(IMAGE, name) for name in IMAGE.__struct_fields__}
    return BuiltImage(**{**fields, **changes})


def launch(**fields) -> Launch:
    ids = {"container_id": "ta-1", "function_id": "fu-1", "app_id": "ap-1", "token": "t"}
    return Launch(**{**ids, "template": SPEC, "config": {}, **fields})


def template(spec=SPEC, built=IMAGE, **options):
    environ = {"PATH": "/bin"}
    return render_template(
        spec, built, home=HOME, sdk=("/sdk",), environ=environ, marker="abc", control_fd=7, **options
    )


def test_a_template():
    recipe = template()
    assert recipe.argv[0] == "/h/images/x/bin/python"
    assert recipe.argv[1] == "-c"
    assert "jitney.runner.template" in recipe.argv[2]
    assert recipe.argv[3:] == ("7", "/sdk")
    assert recipe.cwd == "/h/sources/so-1"
    assert recipe.env == {
        "PATH": "/h/images/x/bin:/bin",
        "VIRTUAL_ENV": "/h/images/x",
        "PYTHONPATH": "/h/sources/so-1:/extra",
        "MODE": "fast",
        "JITNEY_RUNTIME": "abc",
    }


def test_a_template_of_pickled_functions_has_no_source():
    recipe = template(TemplateSpec(image_id="im-1"), image(env={}))
    assert recipe.cwd == "/h/containers"
    assert "PYTHONPATH" not in recipe.env


def test_a_cold_one_runs_the_other_main():
    assert "jitney.runner.cold" in template(is_cold=True).argv[2]


@pytest.mark.parametrize(
    "name", ["JITNEY_HOME", "JITNEY_RUNTIME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PYTEST_X"]
)
def test_our_own_variables_stay_ours(name):
    assert base_env({name: "x", "LANG": "C"}) == {"LANG": "C"}


def test_the_marker_wins_over_the_image():
    assert template(built=image(env={"JITNEY_RUNTIME": "other"})).env["JITNEY_RUNTIME"] == "abc"


def test_a_container():
    recipe = render_container(launch(env={"A": "1"}), IMAGE, home=HOME, nofile_hard=4_096)
    assert recipe.cwd == "/h/containers/ta-1"
    assert recipe.folders == ()
    assert recipe.env["A"] == "1"
    assert recipe.env["TMPDIR"] == "/h/containers/ta-1"
    assert recipe.rlimits == {"CORE": (0, 0), "NOFILE": (4_096, 4_096)}


@pytest.mark.parametrize(
    "workdir, cwd, folders",
    [
        ("app", "/h/containers/ta-1/app", ("/h/containers/ta-1/app",)),
        ("/srv", "/srv", ()),
        ("a/../../b/", "/h/containers/ta-1/b", ("/h/containers/ta-1/b",)),
    ],
)
def test_a_working_folder(workdir, cwd, folders):
    recipe = render_container(launch(), image(workdir=workdir), home=HOME, nofile_hard=4_096)
    assert (recipe.cwd, recipe.folders) == (cwd, folders)


def test_the_sdk_of_the_same_python_is_three_links(tmp_path):
    [folder] = sdk_paths(Home(tmp_path), image(python_version=platform.python_version()))
    assert sorted(os.listdir(folder)) == ["cloudpickle", "jitney", "msgspec"]
    assert sdk_paths(Home(tmp_path), image(python_version=platform.python_version())) == (folder,)
    os.unlink(f"{folder}/msgspec")
    sdk_paths(Home(tmp_path), image(python_version=platform.python_version()))
    assert os.path.exists(f"{folder}/msgspec/__init__.py")


def test_the_sdk_of_another_python_has_only_what_fits():
    assert list(link_targets("3.9.1")) == ["jitney"]


def test_scratch_folders_are_used_again_only_as_new(tmp_path):
    async def main():
        folders = ScratchFolders(tmp_path)
        (tmp_path / "ta-old" / "deep").mkdir(parents=True)
        (tmp_path / "journal").write_text("x")
        folders.prepare()
        assert all(path.name.startswith(".spare") for path in tmp_path.iterdir())
        inode = os.stat(folders.take("ta-1")).st_ino
        folders.give_back(str(tmp_path / "ta-1"))
        assert os.stat(folders.take("ta-2")).st_ino == inode
        (tmp_path / "ta-2" / "file").write_text("x")
        folders.give_back(str(tmp_path / "ta-2"))
        assert os.stat(folders.take("ta-3")).st_ino != inode
        os.chmod(tmp_path / "ta-3", 0o755)
        folders.give_back(str(tmp_path / "ta-3"))
        await asyncio.get_running_loop().shutdown_default_executor()
        assert all(path.name.startswith(".spare") for path in tmp_path.iterdir())
        assert all(path.stat().st_mode & 0o777 == 0o700 for path in tmp_path.iterdir())

    asyncio.run(main())


def test_a_scratch_folder_is_nobody_elses(tmp_path):
    folders = ScratchFolders(tmp_path)
    folders.prepare()
    folders.take("ta-1")
    with pytest.raises(FileExistsError):
        folders.take("ta-1")


def test_the_journal_holds_those_that_run(tmp_path):
    home = Home(tmp_path)
    home.containers.mkdir()
    leftovers = Leftovers(home, "marker")
    for number in range(3_000):
        leftovers.record(f"ta-{number}", number, number * 2)
        if number >= 2:
            leftovers.forget(f"ta-{number - 2}")
    assert len((home.containers / JOURNAL).read_bytes()) < 40_000
    pairs = read_journal(home.containers / JOURNAL)
    assert {(2_998, 5_996), (2_999, 5_998)} <= set(pairs)
    leftovers.forget("ta-2998")
    leftovers.forget("ta-2999")
    leftovers.forget("ta-none")
    assert read_journal(home.containers / JOURNAL) == []


@pytest.mark.parametrize("text", [b"", b"12 ", b"x y\n", b"1 2 3\n", b"12 34"])
def test_a_torn_journal_is_no_trouble(tmp_path, text):
    (tmp_path / JOURNAL).write_bytes(text)
    assert read_journal(tmp_path / JOURNAL) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_procfs_knows_this_process():
    stat = procfs.stat(os.getpid())
    assert (stat.ppid, stat.session, stat.state) == (os.getppid(), os.getsid(0), "R")
    assert stat.start_ticks > 0
    assert procfs.rss_kib(os.getpid()) > 1_000
    assert procfs.private_kib(os.getpid()) > 1_000
    assert procfs.stat(2**22 + 5) is None
    assert procfs.children(2**22 + 5) == []
    assert procfs.rss_kib(2**22 + 5) == 0
    assert os.getpid() in procfs.pids()
