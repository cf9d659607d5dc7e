"""What is shipped: which files, how they are read, how the server gets them."""

import asyncio
import hashlib
import os
import runpy
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from jitney.client import source, tree
from jitney.client.image import Image
from jitney.client.source import Attachment, Entry, collect, entry_of, remote_path, ship
from jitney.errors import InvalidError, NotFoundError
from jitney.wire.messages.images import SourceCreated, SourceMissingAnswer


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("·", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def paths(manifest):
    return [file.path for file in manifest.files]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder on sys.path with a package, a namespace package and a module."""
    (tmp_path / "shop" / "data").mkdir(parents=True)
    (tmp_path / "shop" / "__pycache__").mkdir()
    (tmp_path / "plain").mkdir()
    for name, text in {
        "shop/__init__.py": "",
        "shop/app.py": "import jitney",
        "shop/data/prices.csv": "1",
        "shop/__pycache__/app.pyc": "x",
        "plain/part.py": "",
        "alone.py": "x = 1",
        "unrelated.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Server:
    """Answers like the real one: what it lacks, by content."""

    def __init__(self):
        self.has = {}
        self.asked = []
        self.created = None

    async def __call__(self, method, message):
        self.asked.append(method.name)
        if method.name == "source.missing":
            return SourceMissingAnswer(missing=[name for name in message.digests if name not in self.has])
        if method.name == "source.put":
            assert sum(map(len, message.contents)) <= 16 * 1024 * 1024
            self.has.update({hashlib.sha256(data).hexdigest(): data for data in message.contents})
            return None
        assert all(file.digest in self.has for file in message.files)
        self.created = message.files
        return SourceCreated(source_id="so-" + "0" * 22)


# ------------------------------------------------------------------------------------------------ the entry


def test_a_script_ships_itself_alone(project):
    module = types.ModuleType("__main__")
    module.__file__ = str(project / "alone.py")
    assert entry_of(module)[:2] == ("alone", True)
    assert paths(collect(module)) == ["alone.py"]


def test_a_script_is_importable_whatever_its_name(tmp_path):
    script = tmp_path / "my.app-2.py"
    script.write_text("")
    assert entry_of(script) == Entry("my_app-2", False, Attachment("file", str(script), "my_app-2.py"))


def test_a_module_ships_itself_alone(project):
    import alone

    manifest = collect(alone)
    assert (manifest.module, manifest.is_main, paths(manifest)) == ("alone", False, ["alone.py"])
    assert collect("alone").files == manifest.files


def test_a_package_ships_as_a_whole_with_its_data(project):
    import shop.app

    manifest = collect(shop.app)
    assert manifest.module == "shop.app"
    assert paths(manifest) == ["shop/__init__.py", "shop/app.py", "shop/data/prices.csv"]
    assert paths(collect(shop)) == paths(manifest)


def test_a_namespace_package_ships_too(project):
    import plain.part

    assert paths(collect(plain.part)) == ["plain/part.py"]


def test_a_package_run_as_a_program_keeps_its_real_name(project):
    import shop

    assert shop
    module = types.ModuleType("__main__")
    module.__spec__ = ModuleSpec("shop.app", None, origin=str(project / "shop" / "app.py"))
    module.__file__ = str(project / "shop" / "app.py")
    assert entry_of(module)[:2] == ("shop.app", True)


def test_code_without_a_file_ships_nothing():
    assert entry_of(types.ModuleType("__main__")) == Entry("", True, None)
    assert collect(None).files == []
    assert entry_of("jitney.errors").attachment is None
    with pytest.raises(InvalidError):
        entry_of("no_such_module_anywhere")


def test_include_source_false_leaves_the_code_out(project):
    import alone

    (project / "notes.txt").write_text("n")
    image = Image.debian_slim().add_local_file(project / "notes.txt", "/root/")
    manifest = collect(alone, image.attachments, include_source=False)
    assert (manifest.module, paths(manifest)) == ("alone", ["notes.txt"])


# ------------------------------------------------------------------------------------------------ attachments


def test_remote_paths():
    assert remote_path("/root") == remote_path("/root/") == remote_path(".") == ""
    assert remote_path("/root/a//b/") == remote_path("./a/b") == "a/b"
    assert remote_path("/rooted/a") == "/rooted/a"
    assert remote_path("//root/a") == "a"
    assert remote_path("/root/d/", default="f.txt") == "d/f.txt"
    for wrong in ("", "  ", "../a", "/root/../etc", "a\0"):
        with pytest.raises(InvalidError):
            remote_path(wrong)


def test_folders_files_and_modules_land_where_they_were_sent(project):
    image = (
        Image.debian_slim()
        .add_local_dir(project / "shop", "/root/assets", ignore=["**/*.py"])
        .add_local_dir(project / "shop" / "data", "/data")
        .add_local_file(project / "alone.py", "/root/renamed.py")
        .add_local_python_source("shop", "alone")
    )
    assert paths(collect(None, image.attachments)) == [
        "/data/prices.csv",
        "alone.py",
        "assets/data/prices.csv",
        "renamed.py",
        "shop/__init__.py",
        "shop/app.py",
    ]


def test_a_callable_decides_alone(project):
    seen = []
    image = Image.debian_slim().add_local_dir(
        project / "shop", "s", ignore=lambda path: seen.append(path) or path.suffix == ".py"
    )
    assert paths(collect(None, image.attachments)) == ["s/__pycache__/app.pyc", "s/data/prices.csv"]
    assert all(isinstance(path, Path) and not path.is_absolute() for path in seen)


def test_the_later_of_two_files_in_one_place_counts(project):
    write(project, one="1", two="2")
    image = Image.debian_slim().add_local_file(project / "one", "x").add_local_file(project / "two", "x")
    manifest = collect(None, image.attachments)
    assert manifest.read(manifest.files[0].digest) == b"2"


def test_modules_that_cannot_be_shipped(project):
    for name in ("no_such_module_anywhere", "sys"):
        with pytest.raises(InvalidError, match=name):
            collect(None, [source.module_attachment(name)])


def test_files_that_are_not_there(tmp_path):
    for image in (
        Image.debian_slim().add_local_file(tmp_path / "gone", "x"),
        Image.debian_slim().add_local_file(tmp_path, "x"),
        Image.debian_slim().add_local_dir(tmp_path / "gone", "x"),
    ):
        with pytest.raises(InvalidError, match=str(tmp_path)):
            collect(None, image.attachments)


def test_an_executable_stays_one(tmp_path):
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh")
    script.chmod(0o755)
    assert collect(None, [Attachment("file", str(script), "tool")]).files[0].executable


# ------------------------------------------------------------------------------------------------ links


def names_below(folder, *patterns):
    return [name for name, _ in tree.walk(folder, source.ignore_of([*patterns]))]


def test_links_inside_are_followed_and_end(tmp_path):
    write(tmp_path, real__a="1")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / ".#editor").symlink_to("me@host.1234")
    assert names_below(tmp_path) == ["file", "folder/a", "real/a"]


@pytest.mark.parametrize("target", ["outside.txt", "outside"])
def test_links_that_lead_out_are_refused(tmp_path, target):
    write(tmp_path, outside__x="secret", inside__a="1")
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / target)
    with pytest.raises(InvalidError, match="leads out"):
        names_below(tmp_path / "inside")
    assert names_below(tmp_path / "inside", "link") == ["a"]


def test_what_is_no_file_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert names_below(tmp_path) == []


def test_what_is_ignored_is_not_even_looked_into(tmp_path, monkeypatch):
    write(tmp_path, node_modules__a__b="1", keep="1")
    looked = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(Path(path).name) or scan(path))
    assert names_below(tmp_path) == ["keep"]
    assert "node_modules" not in looked


# ------------------------------------------------------------------------------------------------ limits, changes


def _files(count, size, folder="big"):
    file = tree.LocalFile(Path("/x"), size, 0, 0, False)
    return [(f"{folder}/sub/{n}", file) for n in range(count)]


def test_too_much_names_the_largest_folders():
    with pytest.raises(InvalidError, match=r"(?s)25,001 files.*big/sub \(25,000 files"):
        tree.check_limits([*_files(25_000, 1), *_files(1, 9, "small")])
    with pytest.raises(InvalidError, match=r"520\.0 MiB.*big/sub \(13 files, 520\.0 MiB\)"):
        tree.check_limits(_files(13, 40 << 20))
    with pytest.raises(InvalidError, match=r"over 250,001 files"):
        tree.check_limits(_files(300_000, 1))
    with pytest.raises(InvalidError, match=r"a shipped file may have"):
        tree.check_limits(_files(1, 49 << 20))


def old(path):
    os.utime(path, ns=(1_000_000_000, os.stat(path).st_mtime_ns - 10_000_000_000))


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    path = write(tmp_path, a="1") / "a"
    old(path)
    first = tree.digest(tree.look_at(path))
    monkeypatch.setattr(tree, "_read_digest", lambda file: pytest.fail("read again"))
    assert tree.digest(tree.look_at(path)) == first


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path, a="1") / "a"
    first = tree.digest(tree.look_at(path))[1]
    path.write_text("2")
    assert tree.digest(tree.look_at(path))[1] != first == hashlib.sha256(b"1").hexdigest()


def changing(monkeypatch, times):
    """The file has grown each time that it was read, so often."""
    real = tree._read_digest
    left = [times]

    def read(file):
        found = real(file)
        if left[0]:
            left[0] -= 1
            file.path.write_text(file.path.read_text() + "x")
            return found[0], tree.look_at(file.path)
        return found

    monkeypatch.setattr(tree, "_read_digest", read)


def test_a_file_that_changes_once_is_read_once_more(tmp_path, monkeypatch):
    path = write(tmp_path, a="1") / "a"
    changing(monkeypatch, 1)
    assert tree.digest(tree.look_at(path))[1] == hashlib.sha256(b"1x").hexdigest()


def test_a_file_that_keeps_changing_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, a="1") / "a"
    changing(monkeypatch, 5)
    with pytest.raises(InvalidError, match="changed while it was read"):
        tree.digest(tree.look_at(path))


def test_a_file_that_vanishes_is_named(tmp_path):
    path = write(tmp_path, a="1") / "a"
    seen = tree.look_at(path)
    manifest = collect(None, [Attachment("file", str(path), "a")])
    path.unlink()
    with pytest.raises(InvalidError, match=str(path)):
        tree.digest(seen)
    with pytest.raises(InvalidError, match=str(path)):
        asyncio.run(ship(Server(), manifest))


# ------------------------------------------------------------------------------------------------ shipping


def test_shipping_costs_two_round_trips_when_nothing_changed(project):
    server = Server()
    manifest = collect("shop.app" if "shop.app" in sys.modules else _import("shop.app"))
    assert asyncio.run(ship(server, manifest)) == "so-" + "0" * 22
    assert server.asked == ["source.missing", "source.put", "source.create"]
    server.asked.clear()
    asyncio.run(ship(server, collect("shop.app")))
    assert server.asked == ["source.missing", "source.create"]
    assert [file.path for file in server.created] == paths(manifest)


def _import(name):
    __import__(name)
    return name


def test_equal_contents_are_sent_once_and_batches_stay_small(tmp_path):
    for number in range(4):
        (tmp_path / f"large{number}").write_bytes(bytes([number % 3]) * (7 << 20))
    server = Server()
    asyncio.run(ship(server, collect(None, [Attachment("dir", str(tmp_path), "d")])))
    assert server.asked == ["source.missing", "source.put", "source.put", "source.create"]
    assert (len(server.created), len(server.has)) == (4, 3)


def test_what_the_server_has_no_more_is_sent(tmp_path):
    class Losing(Server):
        """One that finds a content damaged, so often, as it makes the source."""

        losses = 1

        async def __call__(self, method, message):
            if method.name == "source.create" and self.losses:
                self.losses -= 1
                self.has.clear()
                self.asked.append("lost")
                raise NotFoundError("1 of the contents of this source are not here")
            return await super().__call__(method, message)

    manifest = collect(None, [Attachment("file", str(write(tmp_path, a="1") / "a"), "a")])
    server = Losing()
    assert asyncio.run(ship(server, manifest)) == "so-" + "0" * 22
    once = ["source.missing", "source.put"]
    assert server.asked == [*once, "lost", *once, "source.create"]
    server.losses = 2
    with pytest.raises(NotFoundError):
        asyncio.run(ship(server, manifest))


def test_nothing_to_ship_asks_nothing():
    server = Server()
    assert asyncio.run(ship(server, collect(None))) == ""
    assert server.asked == []


def test_a_server_gets_no_file_that_was_not_named(tmp_path):
    class Curious(Server):
        async def __call__(self, method, message):
            return SourceMissingAnswer(missing=["f" * 64])

    manifest = collect(None, [Attachment("file", str(write(tmp_path, a="1") / "a"), "a")])
    with pytest.raises(InvalidError, match="not in this source"):
        asyncio.run(ship(Curious(), manifest))


def test_a_real_script_sees_itself_as_the_entry(tmp_path):
    script = tmp_path / "job.py"
    script.write_text("import sys\nfrom jitney.client.source import entry_of\nfound = entry_of('__main__')\n")
    found = runpy.run_path(str(script), run_name="__main__")["found"]
    assert found[:2] == ("job", True)
