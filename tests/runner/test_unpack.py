"""Layers of strangers, unpacked: what they say is done, and nothing outside of their folder changes."""

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitney.runner import layer, tarstream
from jitney.runner import unpack as script
from jitney.runner.tarstream import Refused, Stream
from jitney.testing.images import make_layer, make_tar, member

SCRIPT = script.__file__
IS_ROOT = os.geteuid() == 0
NOBODY = 65_533


def run(target, archive, *options, user=None):
    """The script as it is run for real."""
    target.mkdir(exist_ok=True)
    if user is not None:
        os.chown(target, user, user)
    return subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-B", SCRIPT, str(target), *options],
        input=archive,
        capture_output=True,
        check=False,
        timeout=60,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def unpacked(target, archive, *options, **how):
    done = run(target, archive, *options, **how)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


def in_process(target, archive, **options):
    """Without the wall: the code has to be safe by itself."""
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return script.unpack(io.BytesIO(archive), root, owner=lambda _: None, **options)
    finally:
        os.close(root)


def seen(folder, but):
    """Everything of a tree that could change, but for what is in one folder of it."""
    found = {}
    for top, folders, files in os.walk(folder):
        for path in [top, *(os.path.join(top, name) for name in [*folders, *files])]:
            about = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(about.st_mode) else b""
            link = os.readlink(path) if stat.S_ISLNK(about.st_mode) else ""
            if path != str(but):
                found[path] = (about.st_mode, about.st_uid, about.st_mtime_ns, about.st_nlink, content, link)
        folders[:] = [name for name in folders if os.path.join(top, name) != str(but)]
    return found


# ------------------------------------------------------------------------------------------------- what is meant


def test_files_folders_and_links_with_their_modes_and_times(tmp_path):
    archive = make_tar(
        [
            member("usr/", mode=0o755, mtime=1_600_000_000),
            member("usr/tool", b"content", mode=0o4755),
            member("usr/same", kind=tarfile.LNKTYPE, target="usr/tool"),
            member("usr/short", kind=tarfile.SYMTYPE, target="tool"),
            member("usr/absolute", kind=tarfile.SYMTYPE, target="/etc/shadow"),
            member("usr/pipe", kind=tarfile.FIFOTYPE, mode=0o600),
            member("closed/", mode=0o500),
            member("closed/inside", b"x"),
            member("tmp/", mode=0o1777),
        ]
    )
    target = tmp_path / "layer"
    result = unpacked(target, archive)
    assert result["files"] == 9
    assert result["diff_id"] == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    tool = target / "usr" / "tool"
    assert tool.read_bytes() == b"content"
    assert stat.S_IMODE(tool.stat().st_mode) == 0o4755
    assert tool.stat().st_mtime == 1_700_000_000
    assert (target / "usr" / "same").stat().st_ino == tool.stat().st_ino
    assert os.readlink(target / "usr" / "short") == "tool"
    assert os.readlink(target / "usr" / "absolute") == "/etc/shadow"
    assert (target / "usr" / "pipe").is_fifo()
    assert (target / "usr").stat().st_mtime == 1_600_000_000
    assert stat.S_IMODE((target / "closed").stat().st_mode) == 0o500
    assert stat.S_IMODE((target / "tmp").stat().st_mode) == 0o1777


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])]
)
def test_plain_packed_and_packed_in_pieces_are_the_same(tmp_path, pack):
    archive = make_layer({"a": b"1" * 5000, "b/": b"", "b/c": b"2"})
    result = unpacked(tmp_path / "layer", pack(archive))
    assert result["diff_id"] == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert (tmp_path / "layer" / "a").read_bytes() == b"1" * 5000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_long_names(tmp_path, form):
    name = "/".join(["a-rather-long-name-of-a-folder"] * 5) + "/file"
    unpacked(tmp_path / "layer", make_tar([member(name, b"here")], form))
    assert (tmp_path / "layer" / name).read_bytes() == b"here"


def test_only_so_many_bytes_of_the_input_are_the_archive(tmp_path):
    archive = make_layer({"a": b"1"})
    result = unpacked(tmp_path / "layer", archive + b"something else", "--bytes", str(len(archive)))
    assert result["diff_id"] == f"sha256:{hashlib.sha256(archive).hexdigest()}"


def test_what_follows_the_end_counts_for_the_digest(tmp_path):
    archive = make_layer({"a": b"1"}) + bytes(4096)
    assert unpacked(tmp_path / "layer", archive)["diff_id"] == f"sha256:{hashlib.sha256(archive).hexdigest()}"


def test_an_empty_layer(tmp_path):
    assert unpacked(tmp_path / "layer", b"")["files"] == 0


def test_devices_in_dev_are_left_out(tmp_path):
    archive = make_tar([member("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), member("a", b"1")])
    assert unpacked(tmp_path / "layer", archive)["left_out"] == 1
    assert not (tmp_path / "layer" / "dev").exists()


def test_attributes_are_not_taken(tmp_path):
    info, content = member("a", b"1")
    info.pax_headers = {"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.capability": "x"}
    unpacked(tmp_path / "layer", make_tar([(info, content)]))
    assert os.listxattr(tmp_path / "layer" / "a") == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
@pytest.mark.parametrize("way", [(), ("--open",)])
def test_owners_go_through_the_map(tmp_path, way):
    archive = make_tar([member("a", b"1", uid=33, gid=42), member("b", b"1", uid=70_000, gid=0)])
    result = unpacked(tmp_path / "layer", archive, "--ids", "0:1000000:65536", *way)
    assert result["walled"] is not bool(way)
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in (tmp_path / "layer").iterdir()}
    assert owners == {"a": (1_000_033, 1_000_042), "b": (1_000_000, 1_000_000)}
    assert result["unowned"] == 1
    assert (tmp_path / "layer").stat().st_uid == 1_000_000


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else to try it")
@pytest.mark.parametrize("way", [(), ("--open",)])
def test_without_root_everything_is_ours(way):
    top = Path("/tmp") / f"jitney-unpack-{os.getpid()}"  # pytest's own folders are closed to others
    top.mkdir(mode=0o755)
    try:
        archive = make_tar(
            [member("closed/", mode=0), member("closed/a", b"1", uid=33, mode=0o400), member("etc/.wh.gone")]
        )
        unpacked(top / "layer", archive, *way, user=NOBODY)
        assert (top / "layer" / "closed" / "a").stat().st_uid == NOBODY
        assert stat.S_IMODE((top / "layer" / "closed").stat().st_mode) == 0
        assert stat.S_ISCHR((top / "layer" / "etc" / "gone").lstat().st_mode)
    finally:
        shutil.rmtree(top)


# ------------------------------------------------------------------------------------------------- what is gone


def test_markers_become_what_overlays_understand(tmp_path):
    archive = make_tar([member("etc/.wh.passwd"), member("var/"), member("var/.wh..wh..opq"), member("var/new", b"1")])
    unpacked(tmp_path / "layer", archive)
    gone = (tmp_path / "layer" / "etc" / "passwd").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(tmp_path / "layer" / "var", "user.overlay.opaque") == b"y"
    assert (tmp_path / "layer" / "var" / "new").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_gone_and_new_in_one_layer_is_new(tmp_path, order):
    members = [member("etc/.wh.x"), member("etc/x/"), member("opt/.wh.y"), member("opt/y", b"1")]
    unpacked(tmp_path / "layer", make_tar(members[::order]))
    assert os.getxattr(tmp_path / "layer" / "etc" / "x", "user.overlay.opaque") == b"y"
    assert (tmp_path / "layer" / "opt" / "y").read_bytes() == b"1"


def test_gone_and_something_new_below_it(tmp_path):
    unpacked(tmp_path / "layer", make_tar([member("etc/.wh.x"), member("etc/x/deep", b"1")]))
    assert os.getxattr(tmp_path / "layer" / "etc" / "x", "user.overlay.opaque") == b"y"


def test_a_layer_that_hides_all_says_so(tmp_path):
    assert unpacked(tmp_path / "layer", make_tar([member(".wh..wh..opq"), member("a", b"1")]))["hides_all"] is True


def test_without_the_right_to_make_markers_the_other_form_is_used(tmp_path, monkeypatch):
    def mknod(*_, **__):
        raise PermissionError

    monkeypatch.setattr(layer.os, "mknod", mknod)
    in_process(tmp_path, make_tar([member("etc/.wh.passwd")]))
    assert os.getxattr(tmp_path / "etc" / "passwd", "user.overlay.whiteout") == b"y"
    assert os.getxattr(tmp_path / "etc", "user.overlay.opaque") == b"x"


def overlay(folder, *lower):
    """The merged tree, as `find` prints it, in a mount namespace that is gone afterwards."""
    (folder / "merged").mkdir()
    options = f"lowerdir={':'.join(str(each) for each in reversed(lower))},userxattr"
    inside = (
        "import subprocess, os, sys\n"
        "subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', sys.argv[1], sys.argv[2]], check=True)\n"
        "for top, folders, files in os.walk(sys.argv[2]):\n"
        "    for name in folders + files: print(os.path.relpath(os.path.join(top, name), sys.argv[2]))\n"
    )
    command = ["unshare", "-m", sys.executable, "-c", inside, options, str(folder / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()[-200:]}")
    return set(done.stdout.split())


@pytest.mark.skipif(not IS_ROOT, reason="only root can mount an overlay outside of a user namespace")
def test_an_overlay_of_the_layers_is_the_image(tmp_path):
    unpacked(
        tmp_path / "low", make_layer({"etc/": b"", "etc/a": b"", "etc/b": b"", "var/": b"", "var/c": b"", "d": b""})
    )
    upper = [
        member("etc/"),
        member("etc/.wh.a"),
        member("var/"),
        member("var/.wh..wh..opq"),
        member("var/n"),
        member(".wh.d"),
    ]
    unpacked(tmp_path / "up", make_tar(upper))
    assert overlay(tmp_path, tmp_path / "low", tmp_path / "up") == {"etc", "etc/b", "var", "var/n"}


# ------------------------------------------------------------------------------------------------- the hostile


def raw_header(name, *, kind=b"0", size=0, target=b"", **replaced):
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    block[157:257] = target.ljust(100, b"\0")
    for at, value in replaced.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records, kind=b"x"):
    return raw_header(b"pax", kind=kind, size=len(records)) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def link(name, target, kind=tarfile.SYMTYPE):
    return member(name, kind=kind, target=target)


HARD = tarfile.LNKTYPE
END = bytes(1024)
HOSTILE = {
    "leads out": make_tar([member("../outside/new", b"1")]),
    "leads out in the middle": make_tar([member("a/../../outside/secret", b"1")]),
    "absolute": make_tar([member("/etc/passwd", b"1")]),
    "absolute in pax": pax(b"20 path=/etc/passwd\n") + raw_header(b"x") + END,
    "through a link": make_tar([link("a", "../outside"), member("a/new", b"1")]),
    "through an absolute link": make_tar([link("a", "/"), member("a/tmp/new", b"1")]),
    "through a link to a link": make_tar([link("a", "b"), link("b", ".."), member("a/new", b"1")]),
    "over a link": make_tar([link("a", "../outside/secret"), member("a", b"1")]),
    "a folder over a link": make_tar([link("a", "../outside"), member("a/", mode=0o777)]),
    "hard link out": make_tar([link("a", "../outside/secret", HARD)]),
    "absolute hard link": make_tar([link("a", "/etc/passwd", HARD)]),
    "hard link through a link": make_tar([link("a", "../outside"), link("b", "a/secret", HARD)]),
    "hard link to a folder": make_tar([member("a/"), link("b", "a", HARD)]),
    "hard link to a marker": make_tar([member(".wh.a"), link("b", "a", HARD)]),
    "hard link to nothing": make_tar([link("b", "a", HARD)]),
    "block device": make_tar([member("sda", kind=tarfile.BLKTYPE, devmajor=8)]),
    "device that marks": make_tar([member("a", kind=tarfile.CHRTYPE)]),
    "device beside /dev": make_tar([member("x/dev/mem", kind=tarfile.CHRTYPE, devmajor=1, devminor=1)]),
    "twice": make_tar([member("a", b"1"), member("a", b"2")]),
    "a file over a folder": make_tar([member("a/"), member("a", b"2")]),
    "a folder over a file": make_tar([member("a", b"1"), member("a/")]),
    "below a file": make_tar([member("a", b"1"), member("a/b", b"2")]),
    "marks the parent": make_tar([member("a/.wh...", b"")]),
    "marks the folder itself": make_tar([member("a/.wh..", b"")]),
    "marks nothing": make_tar([member("a/.wh.", b"")]),
    "below a marker": make_tar([member(".wh.a/b", b"1")]),
    "the root as a link": raw_header(b"./", kind=b"2", target=b"/tmp") + END,
    "the root as a file": raw_header(b".", kind=b"7") + END,
    "zero byte in a name": pax(b"12 path=a\0b\n") + raw_header(b"x") + END,
    "sparse": pax(b"22 GNU.sparse.major=1\n") + raw_header(b"x") + END,
    "old sparse": raw_header(b"x", kind=b"S") + END,
    "unknown type": raw_header(b"x", kind=b"Z") + END,
    "global names": pax(b"9 path=a\n", b"g") + raw_header(b"x") + END,
    "negative size": raw_header(b"x", size_=(124, b"\xff" * 12)) + END,
    "enormous size": raw_header(b"x", size_=(124, b"\x80" + b"\x7f" * 11)) + END,
    "enormous extension": raw_header(b"x", kind=b"x", size=1 << 30) + END,
    "records that lie": pax(b"99 path=a\n") + raw_header(b"x") + END,
    "wrong checksum": raw_header(b"x")[:-1] + b"!" + END,
    "no archive at all": b"<html>" * 200,
    "cut short": make_layer({"a": b"1" * 5000})[:2000],
    "more after the end": make_layer({"a": b"1"})[:1536] + raw_header(b"b") + END,
    "deep": pax(b"%d path=%s\n" % (614 + 10, b"a/" * 307)) + raw_header(b"x") + END,
    "long name": make_tar([member("a" * 300, b"1")]),
    "link without a target": raw_header(b"x", kind=b"2") + END,
    "packed rubbish": b"\x1f\x8b" + b"rubbish" * 100,
    "packed and cut": gzip.compress(os.urandom(9000) + make_layer({"a": os.urandom(9000)}))[:8000],
}


@pytest.fixture
def jail(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "target").mkdir()
    return tmp_path


def outside_of(jail):
    """All but the target, whose own mode and time may change."""
    return seen(jail, but=jail / "target")


@pytest.mark.parametrize("way", [(), ("--open",)], ids=["walled", "open"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_change_nothing(jail, name, way):
    before = outside_of(jail)
    done = run(jail / "target", HOSTILE[name], *way)
    assert outside_of(jail) == before
    assert done.returncode == script.REFUSED, (done.returncode, done.stderr)
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_a_bomb_is_refused_by_its_ratio(monkeypatch):
    monkeypatch.setattr(tarstream, "RATIO_FROM_BYTES", 1 << 20)
    with pytest.raises(Refused, match="made to fill disks"):
        Stream(io.BytesIO(gzip.compress(bytes(8 << 20)))).drain()


def test_a_bomb_is_refused_by_its_size(jail):
    done = run(jail / "target", gzip.compress(make_layer({"a": bytes(1 << 20)})), "--most", "100000")
    assert done.returncode == script.REFUSED
    assert b"more than 100,000 bytes" in done.stderr
    assert sum(path.stat().st_size for path in (jail / "target").iterdir()) == 0


def test_too_many_files_are_refused(jail):
    done = run(jail / "target", make_layer({f"f{number}": b"" for number in range(11)}), "--files", "10")
    assert done.returncode == script.REFUSED
    assert b"more than 10 files" in done.stderr


def test_a_full_disk_has_a_code_of_its_own(jail):
    if not IS_ROOT:
        pytest.skip("only root can mount a small disk")
    inside = (
        "import subprocess, sys\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', sys.argv[1]], check=True)\n"
        "sys.exit(subprocess.run(sys.argv[2:], stdin=0).returncode)\n"
    )
    command = [sys.executable, "-I", "-S", "-E", SCRIPT, str(jail / "target")]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", inside, str(jail / "target"), *command],
        input=make_layer({"a": b"1" * 200_000}),
        capture_output=True,
        check=False,
        timeout=60,
    )
    if b"mount" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == script.FULL


def test_zstd_without_a_module_says_so(jail):
    if sys.version_info >= (3, 14):
        pytest.skip("this Python reads zstd")
    assert run(jail / "target", tarstream.ZSTD + b"rest").returncode == script.UNREADABLE


@pytest.mark.skipif(not IS_ROOT, reason="the wall is there without root too, but not everywhere")
def test_behind_the_wall_there_is_nothing_else(jail):
    """An entry that the walk would let through, if there were a hole in it, could still reach only the target."""
    inside = (
        f"import sys; sys.argv=['unpack.py']; sys.path[:0]=[{str(Path(SCRIPT).parents[2])!r}]\n"
        "import os, socket\n"
        "from jitney.runner import unpack\n"
        f"root = os.open({str(jail / 'target')!r}, os.O_RDONLY)\n"
        f"os.fchown(root, 1000000, 1000000)\n"
        "if unpack.confine(root, ((0, 1000000, 65536),)):\n"
        "    print(os.listdir('/'), os.path.exists('/etc'), [name for _, name in socket.if_nameindex()])\n"
        "    open('/../../new', 'w').write('x')\n"
    )
    done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=False, timeout=60)
    if not done.stdout:
        pytest.skip("user namespaces cannot be made here")
    assert done.stdout.strip() == "[] False ['lo']"
    assert [path.name for path in (jail / "target").iterdir()] == ["new"]


# ------------------------------------------------------------------------------------------------- properties

PARTS = st.sampled_from(
    ["a", "b", "c", "..", ".", "", "outside", "secret", ".wh.a", ".wh..wh..opq", ".wh...", "target"]
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(bool)
TARGETS = st.one_of(NAMES, st.sampled_from(["/", "..", "../outside", "../outside/secret", "../../..", "OUTSIDE"]))
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
    ]
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, TARGETS, st.binary(max_size=20), st.integers(0, 0o7777)), max_size=12)
IN_ONE_FOLDER = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def emptied(jail):
    for top, folders, _ in os.walk(jail / "target"):
        for name in folders:
            if not os.path.islink(os.path.join(top, name)):
                os.chmod(os.path.join(top, name), 0o700)  # before the walk goes on into it
    os.chmod(jail / "target", 0o700)
    shutil.rmtree(jail / "target")
    (jail / "target").mkdir()


def attempt(jail, archive):
    try:
        in_process(jail / "target", archive)
    except (Refused, OSError):
        pass


@IN_ONE_FOLDER
@given(members=MEMBERS)
def test_nothing_outside_changes_whatever_the_names_are(jail, members):
    emptied(jail)
    before = outside_of(jail)
    archive = make_tar(
        member(name, content if kind == tarfile.REGTYPE else b"", kind=kind, mode=mode,
               target=str(jail / "outside") if target == "OUTSIDE" else target)
        for name, kind, target, content, mode in members
    )  # fmt: skip
    attempt(jail, archive)
    assert outside_of(jail) == before


@IN_ONE_FOLDER
@given(data=st.data())
def test_damaged_archives_are_refused_without_surprise(jail, data):
    emptied(jail)
    archive = bytearray(
        make_tar(
            [member("a/"), member("a/b", b"content"), link("a/c", "b"), link("d", "a/b", HARD), member("e" * 150, b"1")]
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # as who damages on purpose would: with a checksum that fits
            start = at // 512 * 512
            archive[start + 148 : start + 156] = b" " * 8
            archive[start + 148 : start + 156] = b"%06o\0 " % sum(archive[start : start + 512])
    before = outside_of(jail)
    attempt(jail, bytes(archive))
    assert outside_of(jail) == before


LETTERS = st.text("abcäö ☃.-", min_size=1, max_size=60)
WORDS = LETTERS.filter(lambda each: each.strip(".") and not each.startswith(".wh."))
PATHS = st.lists(WORDS, min_size=1, max_size=4).map("/".join)


@settings(IN_ONE_FOLDER, max_examples=150)
@given(
    files=st.dictionaries(PATHS, st.binary(max_size=2000), max_size=8),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    mtime=st.integers(0, 2**33),
    uid=st.integers(0, 2**24),
)
def test_what_tarfile_writes_is_read_as_it_was_meant(jail, files, form, mtime, uid):
    emptied(jail)
    names = [name for name in files if not any(other.startswith(f"{name}/") for other in files)]
    archive = make_tar([member(name, files[name], mtime=mtime, uid=uid) for name in names], form)
    result = in_process(jail / "target", archive)
    found = {str(path.relative_to(jail / "target")): path for path in (jail / "target").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == {name: files[name] for name in names}
    assert all(path.stat().st_mtime == mtime for path in found.values())
    assert result["diff_id"] == f"sha256:{hashlib.sha256(archive).hexdigest()}"
