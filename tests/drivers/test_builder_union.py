"""Layers as the one root file system that they are together, whatever is in them."""

import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.drivers.builder.local.interpreters import PROBE, pythons_of, read_probe
from jitney.drivers.builder.local.render import platform_of
from jitney.drivers.builder.local.settings import outside_environment
from jitney.drivers.builder.local.union import Union


@pytest.fixture
def layers(tmp_path):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder in ("usr/bin", "etc", "deep/er"):
        (lower / folder).mkdir(parents=True)
    upper.mkdir()
    (lower / "etc/name").write_text("lower")
    (lower / "deep/er/file").write_text("x")
    return lower, upper


def test_the_higher_layer_wins(layers):
    _, upper = layers
    (upper / "etc").mkdir()
    (upper / "etc/name").write_text("upper")
    union = Union(layers)
    assert union.read("/etc/name") == b"upper"
    assert union.read("etc/../deep/./er/file") == b"x"
    assert [*union.names("/")] == ["deep", "etc", "usr"]


def test_links_stay_inside(layers):
    _, upper = layers
    (upper / "bin").symlink_to("usr/bin")
    (upper / "passwd").symlink_to("/etc/passwd")
    (upper / "climb").symlink_to("../" * 30 + "etc/name")
    (upper / "loop").symlink_to("loop")
    (upper / "dangling").symlink_to("nowhere")
    union = Union(layers)
    assert union.find("/bin/../name") is None
    assert union.find("/bin")[0] == "/usr/bin"
    assert union.read("/passwd") is None  # the image has none, and the machine's is not looked at
    assert union.read("/climb") == b"lower"
    assert union.find("/loop") is None
    assert union.find("/dangling") is None
    assert union.find("/etc/name/more") is None


def test_only_plain_files_are_read(layers):
    _, upper = layers
    os.mkfifo(upper / "pipe")
    union = Union(layers)
    assert union.read("/pipe") is None
    assert not union.is_file("/pipe")
    assert not union.is_program("/etc")


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are devices, which need root to be made")
def test_whiteouts_hide(layers):
    _, upper = layers
    os.mknod(upper / "deep", stat.S_IFCHR, os.makedev(0, 0))
    union = Union(layers)
    assert union.find("/deep/er/file") is None
    assert [*union.names("/")] == ["etc", "usr"]


def test_an_opaque_folder_hides_what_is_below(layers):
    _, upper = layers
    (upper / "etc").mkdir()
    try:
        os.setxattr(upper / "etc", "user.overlay.opaque", b"y")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes: {error}")
    assert Union(layers).find("/etc/name") is None


def test_a_file_hides_a_folder_and_the_other_way_round(layers):
    _, upper = layers
    (upper / "deep").write_text("a file now")
    (upper / "etc").mkdir()
    (upper / "etc/name").mkdir()
    union = Union(layers)
    assert union.find("/deep/er") is None
    assert union.is_folder("/etc/name")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "..", ".", ""]), max_size=6).map("/".join), st.text("ab./", max_size=8))
def test_nothing_outside_is_ever_found(tmp_path_factory, path, target):
    root = tmp_path_factory.mktemp("union")
    layer = root / "layer"
    (layer / "a").mkdir(parents=True)
    (root / "b").write_text("outside")
    if target and "\0" not in target:
        (layer / "a" / "b").symlink_to(target)
    found = Union([layer]).find(path)
    if found:
        assert found[1].is_relative_to(layer)
        assert ".." not in found[1].relative_to(layer).parts


def test_pythons_are_found_best_first(tmp_path):
    for path in ("usr/bin/python3.9", "usr/bin/python3.11", "usr/local/bin/python3.12", "opt/x/python3"):
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")
        place.chmod(0o755)
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "usr/bin/python3.13").mkdir()
    (tmp_path / "usr/bin/python").symlink_to("/missing")
    assert pythons_of([str(tmp_path)], "/opt/x", "") == [
        "/opt/x/python3",
        "/usr/local/bin/python3.12",
        "/usr/bin/python3",
        "/usr/bin/python3.11",
        "/usr/bin/python3.9",
    ]
    assert pythons_of([str(tmp_path)], "", "3.9")[0] == "/usr/bin/python3.9"


def test_the_answer_of_a_python_is_read_and_nothing_else(capsys):
    exec(PROBE, {})
    facts = read_probe(["a warning", *capsys.readouterr().out.splitlines()])
    assert facts.machine == os.uname().machine
    assert read_probe(["JITNEY 3.11 x86_64 musl"]) is None
    assert read_probe(["JITNEY 3.11.7 x86_64 musl"]).libc == "musl"
    assert read_probe([]) is None


@pytest.mark.parametrize(
    "machine, libc, expected",
    [
        ("x86_64", "glibc 2.36", "x86_64-manylinux_2_36"),
        ("x86_64", "glibc 2.99", "x86_64-manylinux_2_40"),
        ("aarch64", "glibc 2.28", "aarch64-manylinux_2_28"),
        ("x86_64", "glibc 2.12", ""),
        ("x86_64", "musl", "x86_64-unknown-linux-musl"),
        ("riscv64", "glibc 2.36", ""),
        ("x86_64", "glibc 2.x", ""),
    ],
)
def test_platforms_have_the_names_of_uv(machine, libc, expected):
    assert platform_of(machine, libc) == expected


def test_what_a_requirement_refers_to_goes_through_and_nothing_else():
    image = {"TOKEN": "t", "OTHER": "o", "LD_PRELOAD": "/evil", "UV_CACHE_DIR": "/evil", "UV_INDEX_A_PASSWORD": "p"}
    whole = {"HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x", "UV_INDEX": "i", "PATH": "/bin"}
    env = outside_environment(whole, image, ["a @ git+https://${TOKEN}@b", "c @ git+https://${LD_PRELOAD}@b"])
    assert env["TOKEN"] == "t"
    assert env["UV_INDEX_A_PASSWORD"] == "p"
    assert env["UV_INDEX"] == "i"
    assert not {"OTHER", "LD_PRELOAD", "UV_CACHE_DIR", "AWS_SECRET_ACCESS_KEY"} & set(env)
