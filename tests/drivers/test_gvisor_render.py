"""A sandbox as data, and how runsc is found out about."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.drivers.test_oci_render import IMAGE, order

from jitney.drivers.runtime.gvisor import probe, render
from jitney.drivers.runtime.gvisor.driver import GvisorBoxes
from jitney.drivers.runtime.kept.keeper import BoxFailed
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.render import NOFILE
from jitney.wire.home import Home

ROOT = render.Runsc(path="/bin/runsc", rootless=False)
USER = render.Runsc(path="/bin/runsc", rootless=True, platform="ptrace")


def bundle(runsc=ROOT, with_order=None, **changes):
    folders = {"root": "/b/root", "scratch": "/b/scratch", "volumes": "/b/volumes"}
    return render.render_bundle(with_order or order(), **folders, runsc=runsc, nproc=5, **changes)


def test_a_sandbox_has_no_privilege():
    process = bundle()["process"]
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert process["noNewPrivileges"]
    assert process["user"] == {"uid": FIRST_ID, "gid": FIRST_ID}
    assert {one["type"]: one["hard"] for one in process["rlimits"]} == {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": NOFILE,
        "RLIMIT_NPROC": 5,
    }
    assert bundle()["root"] == {"path": "/b/root", "readonly": True}
    assert {one["type"] for one in bundle()["linux"]["namespaces"]} == {"pid", "network", "ipc", "uts", "mount"}


def test_root_of_a_rootless_sandbox_is_the_worker():
    assert bundle(USER)["process"]["user"] == {"uid": 0, "gid": 0}


def test_only_what_is_to_be_written_is_writable():
    binds = {one["destination"]: one["options"] for one in bundle()["mounts"] if one["type"] == "bind"}
    assert {target for target, options in binds.items() if "rw" in options} == {
        "/run/jitney/scratch",
        "/run/jitney/segments/so-1",
        "/run/jitney/blobs",
    }
    assert all("ro" in options for target, options in binds.items() if "rw" not in options)
    assert {"nosuid", "nodev"} <= set(binds["/usr"])


def test_flags_open_sockets_and_no_network():
    flags = render.render_flags(ROOT, "/state")
    assert {"--network=none", "--host-uds=open", "--root=/state"} <= set(flags)
    assert "--rootless" not in flags
    assert {"--rootless", "--ignore-cgroups", "--platform=ptrace"} <= set(render.render_flags(USER, "/state"))


def test_a_network_is_that_of_the_namespace_that_runsc_is_started_in():
    assert "--network=sandbox" in render.render_flags(ROOT, "/state", has_network=True)
    (own,) = (one for one in bundle(has_network=True)["linux"]["namespaces"] if one["type"] == "network")
    assert own["path"] == "/proc/self/ns/net"
    assert render.render_launch(["runsc"], (), "/b", joins=(3, 4), gate=7) == [[], ["runsc"], [3, 4], 7]


def test_volumes_are_seen_by_links_where_nothing_else_is():
    paths = (
        "/bin/models",
        "/data/set",
        "/data/set/sub",
        "/proc/x",
        "/root",
        "/root/models",
        "/tmp/x",
        "/usr/models",
        "/weights",
    )
    made = msgspec.structs.replace(order(), volumes=paths, links=(("bin", "usr/bin"),))
    assert {path: place for path, place in render.render_places(made).items() if place} == {
        "/data/set": "/run/jitney/volumes/1",
        "/weights": "/run/jitney/volumes/8",
    }
    assert "--dcache=0" in render.render_flags(ROOT, "/state", has_volumes=True)
    mounts = bundle(with_order=made)["mounts"]
    (own,) = (one for one in mounts if one["source"] == "/b/volumes")
    assert (own["destination"], "rw" in own["options"]) == ("/run/jitney/volumes", True)
    assert all(one["source"] != "/b/volumes" for one in bundle()["mounts"])


def test_layers_are_merged_before_runsc_is_started_and_never_written_to():
    ops, argv, joins, gate = render.render_launch(["runsc"], ("/l/0", "/l/1"), "/b")
    assert (argv, joins, gate) == (["runsc"], [], -1)
    assert ops == [["overlay", "/b/root", ["/l/0", "/l/1"], "/b/upper", "/b/work", False]]


@pytest.mark.parametrize(
    "layers, runsc, why",
    [
        (("/", "/l/1"), ROOT, "machine's own file system"),
        (("/l/0", "/l/1"), USER, "needs a worker that is root"),
        (("/l/0", "/l/1"), ROOT, ""),
        (("/l/0",), USER, "needs a worker that is root"),
        ((), USER, ""),
    ],
)
def test_layers_that_cannot_be_a_root_are_refused(layers, runsc, why):
    found = render.why_not_layers(layers, runsc)
    assert why in found
    assert bool(found) == bool(why)


def test_an_id_tells_servers_apart():
    assert render.sandbox_id(order()) != render.sandbox_id(msgspec.structs.replace(order(), marker="other"))
    assert IMAGE.image_id not in render.sandbox_id(order())


# ------------------------------------------------------------------------------------------------ runsc


def works_with(monkeypatch, *good, otherwise="starting sandbox: platform not supported"):
    tried = []

    def attempt(runsc):
        tried.append(runsc.platform)
        return "" if tried[-1] in good else otherwise

    monkeypatch.setattr(probe, "attempt", attempt)
    return tried


def test_the_best_way_that_works_is_taken(monkeypatch):
    tried = works_with(monkeypatch, "", "ptrace")
    assert probe.choose("/r", rootless=False).runsc == render.Runsc(path="/r", rootless=False)
    assert tried == [""]
    works_with(monkeypatch, "ptrace")
    assert probe.choose("/r", rootless=True).runsc.platform == "ptrace"


def test_one_that_does_not_work_says_why(monkeypatch):
    works_with(monkeypatch)
    found = probe.choose("/r", rootless=False)
    assert "platform not supported" in found.why
    assert "systrap" in found.remedy
    works_with(monkeypatch, otherwise="cannot clone: operation not permitted")
    assert "user namespaces" in probe.choose("/r", rootless=True).remedy


def test_one_that_is_too_old_is_not_tried_any_further(monkeypatch):
    tried = works_with(monkeypatch, otherwise=f"ls: cannot access '{probe.CHILDREN}': No such file or directory")
    found = probe.choose("/r", rootless=False)
    assert "too old" in found.why
    assert "backports" in found.remedy
    assert len(tried) == 1


def test_without_runsc_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(probe.shutil, "which", lambda _: None)
    found = probe.probe.__wrapped__()
    assert "no `runsc`" in found.why
    assert "install" in found.remedy


def test_a_runsc_that_cannot_be_run_is_no_crash(tmp_path):
    assert probe.attempt(render.Runsc(path=str(tmp_path / "none"), rootless=True))
    broken = tmp_path / "runsc"
    broken.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 3\n")
    broken.chmod(0o755)
    assert probe.attempt(render.Runsc(path=str(broken), rootless=True)) == "it is broken"


def test_without_root_volumes_are_refused_and_it_is_said_what_has_them(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    async def asked():
        boxes = GvisorBoxes(Home(Path("/h")), {}, probe.Finding, None, None)
        with pytest.raises(BoxFailed, match="use runtime = 'namespaces' or 'process'"):
            await boxes.shell(order(), Path("/h/b")).entrance()

    asyncio.run(asked())
