"""What an engine is asked for, and how root file systems become archives."""

from __future__ import annotations

import io
import os
import stat
import tarfile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from jitney.drivers.runtime.kept.render import ETC, BoxOrder, Mount, folders, render_code, render_fork, render_order
from jitney.drivers.runtime.oci import archive, render, where
from jitney.drivers.walls.machine import FIRST_ID
from jitney.drivers.walls.render import HostFolder, Outside
from jitney.values.containers import Launch, TemplateSpec
from jitney.values.images import BuiltImage
from jitney.values.network import NetworkPolicy

IMAGE = BuiltImage(
    image_id="im-1",
    python_path="/e/env/bin/python",
    python_version="3.11.7",
    cloudpickle_version="",
    env={"A": "b"},
    mounts=("/e/env",),
)
OUTSIDE = Outside(
    stage="/h/stage",
    scratch="/h/scratch",
    sockets="/h/sockets",
    segments="/shm/so-1",
    blobs="/h/blobs",
    source="/h/so-1",
    sdk={"jitney": "/lib/jitney"},
    host=(HostFolder(name="usr"), HostFolder(name="etc"), HostFolder(name="bin", link="usr/bin")),
)
SPEC = TemplateSpec(image_id="im-1", source_id="so-1", module="m")
BOUNDS = render.Bounds(memory_mib=1000, cpu_milli=1500, pids=99, nofile=77, nproc=66)


def order(image=IMAGE, **changes):
    made = render_order("b1", "mark", SPEC, image, OUTSIDE, control="/h/k", code=["m.py", "lib"], etc=["passwd"])
    return msgspec.structs.replace(made, **changes)


def created(engine=None, network="bridge"):
    return render.render_create(order(), "sha256:1", engine=engine or render.Engine(), bounds=BOUNDS, network=network)


# ------------------------------------------------------------------------------------------------ boxes


def test_a_box_sees_what_it_needs_and_writes_to_two_folders():
    mounts = {one.target: one for one in order().mounts}
    assert {target for target, one in mounts.items() if one.writable} == {
        "/run/jitney/segments/so-1",
        "/run/jitney/blobs",
    }
    assert {target: one.source for target, one in mounts.items() if not one.writable} == {
        "/usr": "/usr",
        "/etc/passwd": "/etc/passwd",
        "/root": "/h/so-1",
        "/e/env": "/e/env",
        "/opt/jitney/sdk/jitney": "/lib/jitney",
        "/run/jitney/sockets": "/h/sockets",
        "/run/jitney/control": "/h/k",
    }
    assert order().links == (("bin", "usr/bin"),)


def test_of_the_machines_etc_nothing_that_is_private_goes_in():
    assert not [name for name in ETC if name.split("/")[0] in ("shadow", "gshadow", "ssh", "sudoers", "security")]
    assert "ssl" not in ETC  # ssl/private


def test_an_image_with_layers_brings_its_own_folders():
    image = msgspec.structs.replace(IMAGE, layers=("/l/0",))
    targets = {one.target for one in order(image).mounts}
    assert not [target for target in targets if target.startswith(("/usr", "/etc"))]
    assert order(image).links == ()


def test_code_is_mounted_in_pieces_where_something_else_is_below_its_folder():
    image = msgspec.structs.replace(IMAGE, mounts=("/root/.jitney/images/im-1/env",))
    assert render_code("/h/so-1", ["m.py", "lib"], image) == [
        Mount(source="/h/so-1/m.py", target="/root/m.py"),
        Mount(source="/h/so-1/lib", target="/root/lib"),
    ]


@pytest.mark.parametrize(
    "workdir, cwd, made",
    [
        ("", "/run/jitney/scratch/ta-1", ()),
        ("/srv/../srv/app", "/srv/app", ()),
        ("data/x", "/run/jitney/scratch/ta-1/data/x", ("/run/jitney/scratch/ta-1/data/x",)),
        ("../../x", "/run/jitney/scratch/ta-1/x", ("/run/jitney/scratch/ta-1/x",)),
    ],
)
def test_a_container_starts_in_its_own_folder_or_where_the_image_says(workdir, cwd, made):
    image = msgspec.structs.replace(IMAGE, workdir=workdir)
    assert folders("ta-1", image) == ("/run/jitney/scratch/ta-1", cwd, made)


@pytest.mark.parametrize("shares_locks", [True, False])
def test_a_container_is_told_whether_it_may_keep_a_hold_on_shared_memory(shares_locks):
    launch = Launch(
        container_id="ta-1", function_id="fu-1", app_id="ap-1", token="t", template=SPEC, config={}, env={"HOME": "/x"}
    )
    made = render_fork(launch, IMAGE, nofile_hard=10, shares_locks=shares_locks)
    assert made["config"]["apart"] is not shares_locks
    assert made["env"]["TMPDIR"] == made["cwd"] == "/run/jitney/scratch/ta-1"
    assert made["env"]["HOME"] == "/x"
    assert made["rlimits"]["NOFILE"] == (10, 10)


# ------------------------------------------------------------------------------------------------ the request


def test_a_container_of_an_engine_has_no_privilege_and_limits():
    body = created()
    host = body["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], [], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"]
    assert (host["PidsLimit"], host["NanoCpus"]) == (99, 1_500_000_000)
    assert host["Memory"] == host["MemorySwap"] == 1000 * 1024 * 1024
    assert {one["Name"]: (one["Soft"], one["Hard"]) for one in host["Ulimits"]} == {
        "core": (0, 0),
        "nofile": (77, 77),
        "nproc": (66, 66),
    }
    assert host["RestartPolicy"] == {"Name": "no"}
    assert "/h/k:/run/jitney/control:ro" in host["Binds"]
    assert "/h/blobs:/run/jitney/blobs:rw" in host["Binds"]
    assert set(host["Tmpfs"]) == {"/tmp", "/var/tmp"}
    assert body["Volumes"] == {"/run/jitney/scratch": {}}
    assert [*body["Entrypoint"], *body["Cmd"]] == [*order().argv]
    assert body["Labels"] == {"org.jitney.home": "mark", "org.jitney.box": "b1"}


def test_code_is_never_the_machines_root():
    assert created()["User"] == f"{FIRST_ID}:{FIRST_ID}"
    assert created(render.Engine(shifts_ids=True))["User"] == "0:0"  # whom the engine makes somebody else


def test_files_that_are_labelled_can_be_read():
    assert "label=disable" in created(render.Engine(labels_files=True))["HostConfig"]["SecurityOpt"]


def test_a_network_is_given_by_policy():
    assert created(network="mine")["HostConfig"]["NetworkMode"] == "mine"
    closed = order(network=NetworkPolicy(blocked=True))
    blocked = render.render_create(closed, "i", engine=render.Engine(), bounds=BOUNDS, network="bridge")
    assert blocked["HostConfig"]["NetworkMode"] == "none"
    assert blocked["NetworkDisabled"]


@pytest.mark.parametrize("policy", [NetworkPolicy(cidrs=("10.0.0.0/8",)), NetworkPolicy(domains=())])
def test_a_policy_that_an_engine_cannot_keep_is_refused(policy):
    refused = render.refused_network(policy, "the engine runs without root")
    assert "the engine runs without root" in refused
    assert "block_network" in refused
    assert render.refused_network(policy, "") == ""
    for kept in (NetworkPolicy(), NetworkPolicy(blocked=True)):
        assert render.refused_network(kept, "the engine runs without root") == ""


@pytest.mark.parametrize(
    "wanted, engine, has_own, why",
    [
        ("auto", render.Engine(), True, ""),
        ("auto", render.Engine(shifts_ids=True), True, ""),  # root's engine, whose containers' root is somebody else
        ("auto", render.Engine(shifts_ids=True, is_rootless=True), True, "without root"),
        ("auto", render.Engine(), False, "not root"),
        ("bridge", render.Engine(), True, "oci_network"),
        ("none", render.Engine(), True, "oci_network"),
    ],
)
def test_whose_network_it_is_follows_from_who_is_root_and_what_is_asked(wanted, engine, has_own, why):
    found = render.why_the_engines(wanted, engine, has_own=has_own)
    assert why in found
    assert bool(found) == bool(why)


def test_an_engine_without_the_network_is_said_to_be_so():
    docker, podman = render.Engine(), render.Engine(name="podman")
    assert render.no_network("bridge", docker, ["bridge", "host"]) == ""
    assert render.no_network("auto", docker, ["bridge", "host"]) == ""
    assert render.network_named("auto") == "bridge"
    assert render.network_named("mine") == "mine"
    assert render.no_network("bridge", podman, ["podman"]) == ""
    assert "no network 'bridge'" in render.no_network("bridge", docker, ["none", "host"])
    assert "oci_network" in render.no_network("none", docker, ["none"])


def test_a_path_with_a_colon_cannot_be_mounted():
    bad = order(mounts=(Mount(source="/a:b", target="/c"),))
    assert render.unmountable(bad) == "/a:b"
    assert render.unmountable(order()) == ""


@pytest.mark.parametrize(
    "info, version, engine",
    [
        ({"SecurityOptions": ["name=seccomp,profile=default"]}, {"Version": "20.10"}, ("docker", False, False, False)),
        ({"SecurityOptions": ["name=rootless", "name=cgroupns"]}, {}, ("docker", True, True, False)),
        ({"SecurityOptions": ["name=userns", "name=selinux"]}, {}, ("docker", True, False, True)),
        ({"Rootless": True}, {"Components": [{"Name": "Podman Engine"}]}, ("podman", True, True, False)),
        ({"SecurityOptions": None}, {"Components": None}, ("docker", False, False, False)),
    ],
)
def test_an_engine_is_known_by_what_it_says(info, version, engine):
    found = render.engine_of(info, version)
    assert (found.name, found.shifts_ids, found.is_rootless, found.labels_files) == engine


@given(some.text())
def test_an_image_has_a_name_that_engines_take(text):
    tag = render.tag_of(text)
    assert tag
    assert len(tag) <= 100
    assert tag == tag.lower()


# ------------------------------------------------------------------------------------------------ archives


def unpacked(chunks):
    """path -> (type, content or link, mode) of a tar."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        for one in tar:
            content = tar.extractfile(one).read() if one.isreg() else one.linkname
            found[one.name] = (one.type, content, one.mode)
    return found


def test_an_empty_image_has_places_to_mount_at():
    found = unpacked(archive.pack([], render.render_empty([("bin", "usr/bin")]), first_id=0))
    assert found["bin"] == (tarfile.SYMTYPE, "usr/bin", 0o755)
    assert found["run/jitney/scratch"][2] == 0o1777
    assert {"etc", "root", "run/jitney/sockets", "tmp", "proc"} <= set(found)


def layer(root, files):
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_text(content)
    return str(root)


def test_layers_are_merged_as_the_kernel_would(tmp_path):
    low = layer(tmp_path / "low", {"a": "low", "b": "low", "d/x": "low", "d/y": "low", "file": "is a file"})
    high = layer(tmp_path / "high", {"a": "high", "d/x": "high", "d/z": "high", "file/inner": "is a folder"})
    found = unpacked(archive.pack(archive.merge([low, high]), (), first_id=0))
    files = {path: content for path, (kind, content, _) in found.items() if kind == tarfile.REGTYPE}
    assert files == {
        "a": b"high",
        "b": b"low",
        "d/x": b"high",
        "d/y": b"low",
        "d/z": b"high",
        "file/inner": b"is a folder",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes whiteouts, and owners")
def test_what_a_layer_has_removed_is_gone_and_owners_are_shifted_back(tmp_path):
    low = layer(tmp_path / "low", {"gone": "x", "kept": "x", "dir/old": "x", "was": "x"})
    high = layer(tmp_path / "high", {"dir/new": "x", "was/now": "x"})
    os.mknod(f"{high}/gone", stat.S_IFCHR, 0)
    os.setxattr(f"{high}/dir", "user.overlay.opaque", b"y")
    os.chown(f"{low}/kept", FIRST_ID + 7, FIRST_ID)
    data = b"".join(archive.pack(archive.merge([low, high]), (), first_id=FIRST_ID))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert set(tar.getnames()) == {"kept", "dir", "dir/new", "was", "was/now"}
        assert (tar.getmember("kept").uid, tar.getmember("kept").gid) == (7, 0)


def test_nothing_of_a_layer_is_followed_and_only_files_are_opened(tmp_path):
    (tmp_path / "secret").write_text("outside")
    low = layer(tmp_path / "low", {"plain": "x"})
    os.symlink(tmp_path / "secret", f"{low}/link")
    os.symlink(tmp_path, f"{low}/folder")
    os.mkfifo(f"{low}/pipe")
    os.link(f"{low}/plain", f"{low}/same")
    found = unpacked(archive.pack(archive.merge([low]), (), first_id=0))
    assert found["link"][:2] == (tarfile.SYMTYPE, str(tmp_path / "secret"))
    assert found["folder"][0] == tarfile.SYMTYPE
    assert found["same"][:2] == (tarfile.LNKTYPE, "plain")
    assert set(found) == {"plain", "link", "folder", "same"}


def test_a_long_or_strange_name_survives(tmp_path):
    name = "ä" * 60 + "/" + "x" * 200
    low = layer(tmp_path / "low", {name: "x"})
    assert name in unpacked(archive.pack(archive.merge([low]), (), first_id=0))


# ------------------------------------------------------------------------------------------------ where it is


def test_the_users_own_engine_comes_first_and_a_variable_before_all():
    own = {"XDG_RUNTIME_DIR": "/run/user/5"}
    assert where.find(own, uid=5, look=lambda _: "").path == "/run/user/5/docker.sock"
    assert where.find({}, uid=0, look=lambda _: "").path == "/run/docker.sock"
    assert where.find({"DOCKER_HOST": "unix:///x.sock"}, uid=5, look=lambda _: "").path == "/x.sock"


def test_without_an_engine_it_is_said_what_to_do():
    nothing = where.find({}, uid=5, look=lambda _: "missing")
    assert "no socket" in nothing.why
    assert "install" in nothing.remedy
    refused = where.find({}, uid=5, look=lambda path: "not permitted" if path == "/run/docker.sock" else "missing")
    assert "not permitted" in refused.why
    assert "usermod -aG docker" in refused.remedy
    silent = where.find({}, uid=0, look=lambda path: "nobody listens" if "podman" in path else "missing")
    assert "podman system service" in silent.remedy


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:2375", "ssh://me@there", "unix://relative"])
def test_an_engine_elsewhere_is_refused(address):
    found = where.find({"DOCKER_HOST": address}, uid=0, look=lambda _: "")
    assert found.path == ""
    assert address in found.why
    assert "DOCKER_HOST" in found.remedy


def test_a_socket_is_looked_at(tmp_path):
    assert where.look_at(str(tmp_path / "none")) == "missing"
    (tmp_path / "file").write_text("")
    assert where.look_at(str(tmp_path / "file")) != ""


def test_an_order_is_a_plain_value():
    assert msgspec.json.decode(msgspec.json.encode(order()), type=BoxOrder) == order()


def test_volumes_need_root_on_both_sides():
    assert render.no_mounts(render.Engine(), is_root=True) == ""
    assert "the worker is not root" in render.no_mounts(render.Engine(), is_root=False)
    assert "shifts user ids" in render.no_mounts(render.Engine(shifts_ids=True), is_root=True)
