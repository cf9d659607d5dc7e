"""Images that lie on this machine: layouts, archives, and what `docker save` makes."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from jitney.drivers.pulls.oci import OciPuller, PullSettings, archives
from jitney.errors import (
    ImageBuildError,
    InvalidError,
    JitneyError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedError,
)
from jitney.testing.images import (
    digest_of,
    make_image,
    make_index,
    make_layer,
    make_tar,
    member,
    write_archive,
    write_docker_archive,
    write_layout,
)

BASE = make_layer({"base/": b"", "base/file": b"1" * 5000})
IMAGE = make_image([BASE, make_layer({"top": b"2"})], config={"Env": ["A=1"], "Entrypoint": ["/top"], "User": "app"})
OTHER = make_image([BASE, make_layer({"other": b"3"})])
AMD64 = "linux/amd64"


def load(folder, path, **options):
    settings = options.pop("settings", PullSettings())
    puller = OciPuller(folder / "store", settings=settings, keep_new_s=0)
    return asyncio.run(puller.load(str(path), **{"platform": AMD64, "on_line": lambda line: None, **options}))


def content(image):
    return {
        str(path.relative_to(layer)): path.read_bytes()
        for layer in image.layers
        for path in Path(layer).rglob("*")
        if path.is_file()
    }


def layout(folder):
    return write_layout(folder / "layout", {"": IMAGE})


FORMS = {
    "layout": layout,
    "archive": lambda folder: write_archive(folder / "image.tar", layout(folder)),
    "packed archive": lambda folder: write_archive(folder / "image.tar.gz", layout(folder)),
    "docker save": lambda folder: write_docker_archive(folder / "saved.tar", {"app:1": IMAGE}),
    "docker save, plain layers": lambda folder: write_docker_archive(
        folder / "saved.tar", {"app:1": make_image([gzip.decompress(IMAGE.blobs[each]) for each in layers_of(IMAGE)])}
    ),
}


def layers_of(image):
    return [each["digest"] for each in json.loads(image.manifest)["layers"]]


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_root_file_system(tmp_path, form):
    image = load(tmp_path, FORMS[form](tmp_path))
    assert content(image) == {"base/file": b"1" * 5000, "top": b"2"}
    assert [Path(layer).name for layer in image.layers] == [
        Path(layer).name for layer in load(tmp_path, write_layout(tmp_path / "again", {"": IMAGE})).layers
    ]
    if "plain" not in form:
        assert (image.env, image.entrypoint, image.user) == ({"A": "1"}, ("/top",), "app")
    assert not [*(tmp_path / "store" / "parts").iterdir()]


def test_the_same_image_again_is_here(tmp_path):
    path = layout(tmp_path)
    first = load(tmp_path, path)
    assert load(tmp_path, path) == first
    assert OciPuller(tmp_path / "store").find(first.digest) == first


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, images: write_layout(folder / "layout", images),
        lambda folder, images: write_docker_archive(folder / "saved.tar", images),
    ],
    ids=["layout", "docker save"],
)
def test_of_several_images_one_is_named(tmp_path, write):
    path = write(tmp_path, {"app:1": IMAGE, "app:2": OTHER})
    assert "other" in content(load(tmp_path, path, reference="docker.io/library/app:2"))
    assert "top" in content(load(tmp_path, path, reference="app:1"))
    with pytest.raises(NotFoundError, match=r"app:1, app:2"):
        load(tmp_path, path, reference="app:3")
    with pytest.raises(InvalidError, match=r"several images.*app:1, app:2") as caught:
        load(tmp_path, path)
    assert "reference" in caught.value.hint


def test_of_several_platforms_one_is_chosen(tmp_path):
    index = make_index({"linux/arm64": make_image([make_layer({"arm": b""})], architecture="arm64"), AMD64: IMAGE})
    path = write_layout(tmp_path / "layout", {"": index})
    assert "top" in content(load(tmp_path, path))
    assert "arm" in content(load(tmp_path, path, platform="linux/arm64"))
    with pytest.raises(NotFoundError, match=r"linux/amd64, linux/arm64"):
        load(tmp_path, path, platform="linux/s390x")


def test_by_digest(tmp_path):
    path = write_layout(tmp_path / "layout", {"app:1": IMAGE, "app:2": OTHER})
    assert "other" in content(load(tmp_path, path, reference=OTHER.digest))


# ------------------------------------------------------------------------------------------------- the broken


def damaged(folder, name, data):
    path = layout(folder)
    (path / name).write_bytes(data)
    return path


def blob(digest):
    return f"blobs/sha256/{digest.partition(':')[2]}"


def evil_archive(folder, *members):
    archive = folder / "evil.tar"
    archive.write_bytes(make_tar(members))
    return archive


def pointing(digest):
    return json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1}]}).encode()


BROKEN = {
    "nothing": lambda folder: folder / "none",
    "empty folder": lambda folder: shutil.copytree(folder, folder / "empty"),
    "not a tar": lambda folder: _written(folder / "x.tar", b"hello" * 1000),
    "empty file": lambda folder: _written(folder / "x.tar", b""),
    "packed rubbish": lambda folder: _written(folder / "x.tar.gz", b"\x1f\x8brubbish"),
    "index without sense": lambda folder: damaged(folder, "index.json", b"{"),
    "index of nothing": lambda folder: damaged(folder, "index.json", b'{"schemaVersion": 2, "manifests": []}'),
    "digest that leads out": lambda folder: damaged(folder, "index.json", pointing("sha256:../../../etc/passwd")),
    "manifest that is not there": lambda folder: damaged(folder, "index.json", pointing("sha256:" + "0" * 64)),
    "manifest that was changed": lambda folder: damaged(folder, blob(IMAGE.digest), OTHER.manifest),
    "layer that was changed": lambda folder: damaged(
        folder, blob(layers_of(IMAGE)[0]), gzip.compress(BASE + b"\0" * 512)
    ),
    "layer that is another": lambda folder: damaged(folder, blob(layers_of(IMAGE)[0]), b"\x1f\x8brubbish"),
    "saved without sense": lambda folder: evil_archive(folder, member("manifest.json", b"[{}]")),
    "saved, leading out": lambda folder: evil_archive(
        folder, member("manifest.json", b'[{"Config": "../../../../etc/passwd", "Layers": []}]')
    ),
    "saved, linked out": lambda folder: evil_archive(
        folder,
        member("manifest.json", b'[{"Config": "x", "Layers": []}]'),
        member("x", kind=tarfile.SYMTYPE, target="../../../../etc/passwd"),
    ),
    "saved, linked to itself": lambda folder: evil_archive(
        folder,
        member("manifest.json", b'[{"Config": "x", "Layers": []}]'),
        member("x", kind=tarfile.SYMTYPE, target="x"),
    ),
    "saved twice": lambda folder: evil_archive(folder, member("manifest.json", b"[]"), member("manifest.json", b"[]")),
    "archive that leads out": lambda folder: evil_archive(folder, member("../manifest.json", b"[]")),
    "archive of devices": lambda folder: evil_archive(folder, member("x", kind=tarfile.BLKTYPE)),
    "too large a description": lambda folder: evil_archive(folder, member("manifest.json", b" " * (2 << 20))),
}


def _written(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    with pytest.raises((InvalidError, ImageBuildError, NotFoundError)) as caught:
        load(tmp_path, BROKEN[name](tmp_path / "in"))
    assert isinstance(caught.value, JitneyError)
    store = tmp_path / "store"
    whole = {path.stem for path in (store / "layers").glob("*.json")}
    assert {path.name for path in (store / "layers").glob("*/")} == whole
    assert not [*(store / "parts").iterdir()]


def test_links_in_a_layout_are_not_followed(tmp_path):
    path = layout(tmp_path)
    where = path / blob(IMAGE.digest)
    (tmp_path / "elsewhere").write_bytes(where.read_bytes())
    where.unlink()
    where.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidError, match="is a link"):
        load(tmp_path, path)


def test_a_pipe_in_a_layout_holds_nobody_up(tmp_path):
    path = layout(tmp_path)
    (path / "index.json").unlink()
    os.mkfifo(path / "index.json")
    with pytest.raises(InvalidError):
        load(tmp_path, path)


def test_a_bomb_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(InvalidError, match="more than 100,000 bytes"):
        load(tmp_path, path, settings=PullSettings(image_bytes_max=100_000))


def test_only_from_where_it_is_allowed(tmp_path):
    path = layout(tmp_path)
    (tmp_path / "allowed").mkdir()
    settings = PullSettings(archives=(str(tmp_path / "allowed"),))
    with pytest.raises(PermissionDeniedError) as caught:
        load(tmp_path, path, settings=settings)
    assert str(tmp_path / "allowed") in caught.value.hint
    (tmp_path / "allowed" / "link").symlink_to(path)
    with pytest.raises(PermissionDeniedError):
        load(tmp_path, tmp_path / "allowed" / "link", settings=settings)
    shutil.copytree(path, tmp_path / "allowed" / "copy")
    assert load(tmp_path, tmp_path / "allowed" / "copy", settings=settings).layers
    with pytest.raises(InvalidError, match="not an absolute path"):
        load(tmp_path, "layout")


def test_what_is_elsewhere_is_refused_whether_it_is_there_or_not(tmp_path):
    settings = PullSettings(archives=(str(tmp_path / "allowed"),))
    layout(tmp_path)
    answers = set()
    for name in ("layout", "nowhere"):
        with pytest.raises(PermissionDeniedError) as caught:
            load(tmp_path, tmp_path / name, settings=settings)
        answers.add((caught.value.message.replace(name, "X"), caught.value.hint))
    assert len(answers) == 1


def test_where_no_folder_is_named_nothing_can_be_loaded_but_what_is_our_own(tmp_path):
    path = layout(tmp_path)
    with pytest.raises(PermissionDeniedError, match="in no folder") as caught:
        load(tmp_path, path, settings=PullSettings(archives=()))
    assert "`archives`" in caught.value.hint
    assert load(tmp_path, path, settings=PullSettings(archives=()), is_own=True).layers


def test_what_belongs_to_the_user_can_be_loaded_and_what_is_the_servers_cannot(tmp_path):
    home = tmp_path / "home"
    settings = PullSettings(archives=(), archives_of_user=True, kept_out=(str(home),))
    path = layout(tmp_path)
    assert load(tmp_path, path, settings=settings).layers
    shutil.copytree(path, home / "images" / "layout")
    (tmp_path / "link").symlink_to(home / "images" / "layout")
    for place in (home / "images" / "layout", tmp_path / "link", tmp_path / "home" / ".." / "home" / "token"):
        with pytest.raises(PermissionDeniedError, match="server's own folder"):
            load(tmp_path, place, settings=settings)
    with pytest.raises(InvalidError, match="No such file"):
        load(tmp_path, tmp_path / "nowhere", settings=settings)
    # A folder that is named is allowed, wherever it is.
    named = PullSettings(archives=(str(home / "images"),), archives_of_user=True, kept_out=(str(home),))
    assert load(tmp_path, home / "images" / "layout", settings=named).layers


def test_files_of_other_users_are_not_for_whoever_names_them(tmp_path):
    path = layout(tmp_path)
    settings = PullSettings(archives=(), archives_of_user=True)
    assert archives.allowed(str(path), settings, uid=os.geteuid()) == str(path)
    with pytest.raises(PermissionDeniedError, match="another user"):
        archives.allowed(str(path), settings, uid=os.geteuid() + 1)
    for odd in ("relative", "", "/a\0b"):
        with pytest.raises(InvalidError):
            archives.allowed(odd, settings, uid=0)


# ------------------------------------------------------------------------------------------------- zstd


def with_zstd(image_layers):
    """The same image, packed with zstd."""
    made = make_image(image_layers, plain=True)
    manifest = json.loads(made.manifest)
    for layer in manifest["layers"]:
        packed = subprocess.run(
            ["zstd", "-qc"], input=made.blobs[layer["digest"]], capture_output=True, check=True, timeout=60
        ).stdout
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
        layer["digest"], layer["size"] = digest_of(packed), len(packed)
        made.blobs[layer["digest"]] = packed
    data = json.dumps(manifest).encode()
    made.digest = digest_of(data)
    made.blobs[made.digest] = data
    return made


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not installed")
@pytest.mark.parametrize("as_archive", [False, True])
def test_zstd_by_its_program(tmp_path, as_archive):
    path = write_layout(tmp_path / "layout", {"": with_zstd([BASE, make_layer({"top": b"2"})])})
    image = load(tmp_path, write_archive(tmp_path / "image.tar", path) if as_archive else path)
    assert content(image) == {"base/file": b"1" * 5000, "top": b"2"}


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not installed")
def test_zstd_that_is_hostile_is_refused_all_the_same(tmp_path):
    path = write_layout(tmp_path / "layout", {"": with_zstd([make_tar([member("../x", b"1")])])})
    with pytest.raises(InvalidError, match="leads out"):
        load(tmp_path, path)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not installed to make one")
def test_without_the_program_it_says_what_to_install(tmp_path, monkeypatch):
    path = write_layout(tmp_path / "layout", {"": with_zstd([BASE])})
    monkeypatch.setenv("PATH", "")
    from jitney.drivers.pulls.oci import unpacker

    if unpacker._python_knows_zstd():
        pytest.skip("this Python reads zstd")
    with pytest.raises(UnsupportedError, match="zstd") as caught:
        load(tmp_path, path)
    assert "install" in caught.value.hint
