"""`Volume` against the server's own handlers, over a socket: with the server's folder at hand, and without."""

import asyncio
import errno
import io
import os
import pickle

import pytest

import jitney
from jitney import exception
from jitney.client import blocking, session, volume_files
from jitney.client.portal import PORTAL
from jitney.client.volume_download import download
from jitney.core.volumes import whole
from jitney.drivers.contents.memory import MemoryContents
from jitney.errors import InvalidError
from jitney.testing.fake_volumes import FakeVolumes
from jitney.values.volumes import BLOCK_BYTES, Kind, VolumeMount


@pytest.fixture(params=["at hand", "by the link"])
def fake(server, request):
    """Volumes at the fake server; clients place files in its folder, or send everything."""
    return FakeVolumes(server, is_at_hand=request.param == "at hand")


@pytest.fixture
def volume(fake):
    return jitney.Volume.from_name("weights", create_if_missing=True)


def paths(volume, path="/", **options):
    return [entry.path for entry in volume.iterdir(path, **options)]


def read(volume, path):
    return b"".join(volume.read_file(path))


def put(volume, *, force=True, **files):
    with volume.batch_upload(force=force) as batch:
        for path, data in files.items():
            batch.put_file(io.BytesIO(data), path.replace("__", "/"))
    return batch


def get(volume, path, local, *, force=False):
    async def run():
        return await download(await volume._transfer_place(), path, volume._version, local, force=force)

    return PORTAL.call(run())


LARGE = 2 * BLOCK_BYTES + 12_345


def test_a_handle_asks_nothing_before_its_first_use(server):
    FakeVolumes(server)
    volume = jitney.Volume.from_name("weights")
    assert volume.at(3).read_only().name == "weights"
    assert server.seen.requests == []
    with pytest.raises(exception.NotFoundError, match="create_if_missing=True"):
        volume.info()
    with pytest.raises(exception.InvalidError, match="cannot be the name"):
        jitney.Volume.from_name("../x")


def test_files_and_folders_come_back_as_they_were(volume, tmp_path):
    local = tmp_path / "model"
    (local / "deep" / "er").mkdir(parents=True)
    (local / "empty").mkdir(mode=0o700)
    big = os.urandom(LARGE)
    (local / "big.bin").write_bytes(big)
    (local / "none").write_bytes(b"")
    (local / "run.sh").write_text("#!/bin/sh\n")
    (local / "run.sh").chmod(0o755)
    (local / "deep" / "er" / "caf\u00e9 \n.txt").write_text("x")
    (local / "link").symlink_to("deep/er")
    os.utime(local / "none", ns=(5, 123_456_789))
    with volume.batch_upload() as batch:
        batch.put_directory(local, "/m")
        batch.put_file(local / "run.sh", "/bin/")
        batch.put_file(io.BytesIO(big), "copy.bin", mode=0o600)
    assert [one.version for one in batch.committed] == [1]
    assert paths(volume, "m") == [
        "m/big.bin", "m/deep", "m/empty", "m/link", "m/none", "m/run.sh", "m/deep/er", "m/deep/er/caf\u00e9 \n.txt",
    ]  # fmt: skip
    assert paths(volume, "/", recursive=False) == ["bin", "copy.bin", "m"]
    assert read(volume, "m/big.bin") == read(volume, "/copy.bin") == big
    assert read(volume, "m/none") == b""
    info = volume.info()
    assert (info.name, info.version, info.files) == ("weights", 1, 6)
    done = get(volume, "m", tmp_path / "back")
    assert (done.files, done.collisions) == (4, {})
    for path in ("big.bin", "none", "run.sh", "deep/er/caf\u00e9 \n.txt"):
        assert (tmp_path / "back" / path).read_bytes() == (local / path).read_bytes()
    assert os.readlink(tmp_path / "back" / "link") == "deep/er"
    assert (tmp_path / "back" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "back" / "none").stat().st_mtime_ns == 123_456_789
    assert (tmp_path / "back" / "empty").is_dir()
    [alone] = volume.listdir("m/run.sh")
    assert (alone.kind, alone.size, alone.mode) == (Kind.FILE, 10, 0o755)


def test_only_blocks_that_are_missing_are_sent(server, tmp_path):
    FakeVolumes(server, is_at_hand=False)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    data, path = os.urandom(3 * BLOCK_BYTES), tmp_path / "f"

    def sent():
        before = server.seen.requests.count("volume.put_block")
        path.write_bytes(data)
        with volume.batch_upload(force=True) as batch:
            batch.put_file(path, "f")
        return server.seen.requests.count("volume.put_block") - before

    assert sent() == 3
    assert sent() == 0
    data = data[:BLOCK_BYTES] + os.urandom(BLOCK_BYTES) + data[2 * BLOCK_BYTES :]
    assert sent() == 1
    assert read(volume, "f") == data


def test_a_folder_of_small_files_takes_few_requests(server, fake, volume, tmp_path):
    for number in range(500):
        (tmp_path / f"{number}.txt").write_text(f"{number % 100}")
    with volume.batch_upload() as batch:
        batch.put_directory(tmp_path, "/", recursive=False)
    assert volume.info().files == 500
    assert server.seen.requests.count("volume.put_block") <= 2
    assert server.seen.requests.count("volume.commit") == 1


def test_what_is_there_is_replaced_only_by_force(server, volume):
    put(volume, a=b"1", d__b=b"2")
    before = server.seen.requests.count("volume.put_block")
    with pytest.raises(exception.AlreadyExistsError, match="force=True"):
        put(volume, force=False, c=b"3", a=b"other")
    assert server.seen.requests.count("volume.put_block") == before
    put(volume, a=b"other")
    assert (read(volume, "a"), volume.info().version) == (b"other", 2)


def test_an_error_in_the_block_puts_nothing(volume):
    def fail(batch):
        batch.put_file(io.BytesIO(b"x"), "x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), volume.batch_upload() as batch:
        fail(batch)
    assert volume.info().version == 0
    with volume.batch_upload():
        pass
    assert volume.info().version == 0


@pytest.mark.parametrize("remote", ["../x", "", "/", "a/../../b", "a\0", "dir/", "n" * 256, "\udc80"])
def test_a_path_that_cannot_be_is_refused_at_once(volume, remote):
    batch = volume.batch_upload()
    with pytest.raises(exception.InvalidError):
        batch.put_file(io.BytesIO(b"x"), remote)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../out", "x/../../y"])
def test_links_that_lead_out_are_refused(volume, tmp_path, target):
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(exception.InvalidError, match="volume"), volume.batch_upload() as batch:
        batch.put_directory(tmp_path, "/d")
    assert volume.info().version == 0


def test_names_that_are_no_text_are_refused(volume, tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb"):
        pass
    with pytest.raises(exception.InvalidError, match="UTF-8"), volume.batch_upload() as batch:
        batch.put_directory(tmp_path, "/d")


def test_what_is_no_file_is_said_so_at_once(volume, tmp_path):
    batch = volume.batch_upload()
    with pytest.raises(exception.InvalidError, match="No such file"):
        batch.put_file(tmp_path / "nothing", "x")
    with pytest.raises(exception.InvalidError, match="put_directory"):
        batch.put_file(tmp_path, "x")
    with pytest.raises(exception.InvalidError, match="not a folder"):
        batch.put_directory(tmp_path / "nothing", "x")
    with pytest.raises(exception.InvalidError, match="'rb'"), volume.batch_upload() as batch:
        batch.put_file(io.StringIO("text"), "x")


def test_versions_are_read_restored_and_never_lost(volume):
    put(volume, a=b"1", b=b"b")
    put(volume, a=b"2")
    volume.remove_file("b")
    assert [(v.version, v.parent, v.files) for v in volume.history()] == [(3, 2, 1), (2, 1, 2), (1, 0, 2)]
    old = volume.at(1)
    assert (read(old, "a"), paths(old), read(volume, "a"), paths(volume)) == (b"1", ["a", "b"], b"2", ["a"])
    with pytest.raises(exception.InvalidError, match="read-only"):
        old.remove_file("a")
    with pytest.raises(exception.InvalidError, match="read-only"):
        volume.read_only().batch_upload()
    assert volume.restore(1).version == 4
    assert (read(volume, "a"), paths(volume)) == (b"1", ["a", "b"])
    with pytest.raises(exception.NotFoundError, match="newest version is 4"):
        volume.restore(9)
    with pytest.raises(exception.NotFoundError, match="newest version is 4"):
        paths(volume.at(9))


def test_files_are_copied_moved_and_removed_on_the_server(volume):
    put(volume, a=b"1", d__x=b"x", d__y=b"y")
    volume.copy_files(["a"], "d/")
    volume.copy_files(["d"], "e", recursive=True)
    assert paths(volume) == ["a", "d", "e", "d/a", "d/x", "d/y", "e/a", "e/x", "e/y"]
    volume.move_file("e", "f/g")
    volume.move_file("a", "f", into=True)
    assert paths(volume, "f") == ["f/a", "f/g", "f/g/a", "f/g/x", "f/g/y"]
    volume.remove_file("f/g/a")
    with pytest.raises(exception.InvalidError, match="recursive=True"):
        volume.remove_file("f")
    with pytest.raises(exception.InvalidError, match="recursive=True"):
        volume.copy_files(["f"], "z")
    with pytest.raises(exception.InvalidError, match="is a folder"):
        volume.move_file("d/x", "f")
    for path, target in (("f", "f/g/h"), ("d/x", "d/x")):
        with pytest.raises(exception.InvalidError, match="itself"):
            volume.move_file(path, target)
    with pytest.raises(exception.NotFoundError, match="did you mean 'x'"):
        volume.remove_file("d/xx")
    volume.remove_file("f", recursive=True)
    assert paths(volume) == ["d", "d/a", "d/x", "d/y"]
    assert read(volume, "d/a") == b"1"


def test_a_volume_is_renamed_by_its_class_and_files_by_another_method(server):
    FakeVolumes(server, is_at_hand=True)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    put(volume, a=b"1")
    jitney.Volume.rename(volume.name, "renamed")
    again = jitney.Volume.from_name("renamed")
    assert (read(again, "a"), again.info().name) == (b"1", "renamed")
    with pytest.raises(exception.NotFoundError, match="did you mean 'renamed'"):
        jitney.Volume.rename("rename", "x")
    with pytest.raises(exception.InvalidError, match="move_file"):
        volume.rename("/a", "/b")
    asyncio.run(jitney.Volume.rename.aio("renamed", volume.name))
    assert read(jitney.Volume.from_name(volume.name), "a") == b"1"


def test_a_container_renames_no_volume(server):
    FakeVolumes(server, is_at_hand=False)
    jitney.Volume.from_name("weights", create_if_missing=True).hydrate()
    with pytest.raises(exception.PermissionDeniedError, match="jitney volume rename"):
        jitney.Volume.rename("weights", "other")


def test_a_file_that_is_no_file_is_not_read(volume):
    put(volume, d__x=b"x")
    with pytest.raises(exception.InvalidError, match="is a dir"):
        read(volume, "d")
    with pytest.raises(exception.NotFoundError):
        read(volume, "d/y")
    target = io.BytesIO()
    told = []

    def tell(*, advance):
        told.append(advance)

    assert volume.read_file_into_fileobj("d/x", target, progress_cb=tell) == 1
    assert (target.getvalue(), told) == (b"x", [1])


def test_damage_on_the_server_is_found(server):
    fake = FakeVolumes(server, is_at_hand=False)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    put(volume, a=b"12345")
    [path] = (fake.contents.folder("main") / "files").glob("*/*")
    path.chmod(0o644)
    path.write_bytes(b"12x45")
    with pytest.raises(exception.StorageCorruptError, match="damaged"):
        read(volume, "a")


def test_damage_in_the_folder_at_hand_is_found_and_nothing_is_left(server, tmp_path):
    fake = FakeVolumes(server)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    put(volume, a=os.urandom(LARGE))
    [path] = (fake.contents.folder("main") / "files").glob("*/*")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(BLOCK_BYTES + 5)
        file.write(b"damage!!")
    with pytest.raises(exception.StorageCorruptError, match="block 1"):
        get(volume, "a", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_no_connection_of_their_own_takes_goes_by_the_link(server, tmp_path, monkeypatch):
    FakeVolumes(server, is_at_hand=False)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    asked = []
    monkeypatch.setattr(blocking, "ask", lambda endpoint, method, *given, **options: asked.append(method))
    data = os.urandom(LARGE)
    (tmp_path / "f").write_bytes(data)
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "f", "f")
    get(volume, "f", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert read(volume, "f") == data
    assert sorted(asked) == ["volume.put_block"] * 3 + ["volume.read"] * 6


def test_a_file_that_shrinks_while_it_is_sent_is_said_so(server, tmp_path, monkeypatch):
    FakeVolumes(server)
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    (tmp_path / "f").write_bytes(bytes(LARGE))
    reserve = volume_files.reserve

    def shrink(file, size):
        os.truncate(tmp_path / "f", BLOCK_BYTES)
        reserve(file, size)

    monkeypatch.setattr(volume_files, "reserve", shrink)
    monkeypatch.setattr(volume_files, "clone", lambda reading, writing: False)
    with pytest.raises(InvalidError, match="changes while it is read"), volume.batch_upload() as batch:
        batch.put_file(tmp_path / "f", "f")
    assert paths(volume) == []
    assert list((server.home.volumes / "main" / "incoming").iterdir()) == []


def test_a_disk_without_room_is_found_before_anything_is_copied(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"x" * LARGE)

    def full(file, size):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(volume_files, "reserve", full)
    monkeypatch.setattr(volume_files, "clone", lambda reading, writing: False)
    with pytest.raises(exception.StorageFullError):
        volume_files.place(str(tmp_path / "f"), tmp_path / "target", lambda count: None)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, LARGE])
def test_copies_are_whole_and_told_by_their_content(tmp_path, size):
    data, told = os.urandom(size), []
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as source, (tmp_path / "g").open("wb") as target:
        found = volume_files.copy_checked(source.fileno(), target.fileno(), size, told.append)
        assert found == whole(data)
    assert volume_files.place(str(tmp_path / "f"), tmp_path / "h", told.append) == size
    assert (tmp_path / "g").read_bytes() == (tmp_path / "h").read_bytes() == data
    assert sum(told) == 2 * size


def test_what_was_collected_between_sending_and_committing_is_sent_again(server, fake, volume, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 100)
    from jitney.errors import NotFoundError

    server.answers.fail["volume.commit"] = NotFoundError("the contents of 1 files are not on this server")
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "f", "f")
    assert read(volume, "f") == b"x" * 100


def test_a_folder_that_is_not_the_servers_is_not_taken_for_it(server, tmp_path):
    fake = FakeVolumes(server, contents=MemoryContents())
    other = tmp_path / "other"
    (other / "incoming").mkdir(parents=True)
    fake.contents.folder = lambda workspace: other  # as if it saw another disk under the same path
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    data = os.urandom(LARGE)
    (tmp_path / "f").write_bytes(data)
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "f", "f")
    assert read(volume, "f") == data
    assert get(volume, "f", tmp_path / "back").size == LARGE
    assert (tmp_path / "back").read_bytes() == data
    assert list((other / "incoming").iterdir()) == []


def test_the_folder_of_others_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "incoming").mkdir()
    assert volume_files.incoming_of(str(tmp_path)) == tmp_path / "incoming"
    assert volume_files.incoming_of("") is None
    assert volume_files.incoming_of(str(tmp_path / "nowhere")) is None
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "incoming").symlink_to(tmp_path / "incoming")
    assert volume_files.incoming_of(str(tmp_path / "linked")) is None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert volume_files.incoming_of(str(tmp_path)) is None


def test_a_download_replaces_nothing_unasked_and_writes_through_no_link(volume, tmp_path):
    put(volume, d__x=b"x", d__e__y=b"y")
    target = tmp_path / "t"
    get(volume, "d", target)
    with pytest.raises(exception.AlreadyExistsError, match="force"):
        get(volume, "d", target)
    (target / "x").write_bytes(b"changed")
    get(volume, "d", target, force=True)
    assert (target / "x").read_bytes() == b"x"
    outside = tmp_path / "outside"
    outside.mkdir()
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "e").symlink_to(outside)
    with pytest.raises(exception.InvalidError, match="link"):
        get(volume, "d", hostile)
    assert list(outside.iterdir()) == []
    (hostile / "e").unlink()
    (hostile / "x").symlink_to(outside / "planted")
    get(volume, "d", hostile, force=True)
    assert list(outside.iterdir()) == []
    assert not (hostile / "x").is_symlink()
    assert [path.name for path in target.rglob("*.partial")] == []


def test_names_that_a_file_system_takes_for_one_are_reported(volume, tmp_path, monkeypatch):
    from jitney.client import volume_download

    put(volume, README=b"1", Readme=b"2", d__a=b"3", D__a=b"4", D__b=b"5")
    assert get(volume, "", tmp_path / "all").collisions == {}
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"README", "Readme", "d", "D"}
    monkeypatch.setattr(volume_download, "folds", lambda folder: (True, True))
    done = get(volume, "", tmp_path / "some")
    assert done.collisions == {"Readme": "README", "d": "D", "d/a": "D/a"}
    assert sorted(path.name for path in (tmp_path / "some").rglob("*")) == ["D", "README", "a", "b"]


def test_whether_a_file_system_folds_names_is_tried(tmp_path):
    from jitney.client.volume_download import folds

    assert folds(tmp_path) == (False, False)
    assert list(tmp_path.iterdir()) == []


def test_ephemeral_volumes_end_with_their_block(fake):
    with jitney.Volume.ephemeral() as volume:
        put(volume, a=b"1")
        assert read(volume, "a") == b"1"
        held = jitney.Volume.from_id(volume.object_id)
    with pytest.raises(exception.NotFoundError):
        held.info()


def test_volumes_are_made_listed_and_deleted_by_name(server):
    FakeVolumes(server)
    jitney.Volume.objects.create("one")
    jitney.Volume.objects.create("two")
    with pytest.raises(exception.AlreadyExistsError):
        jitney.Volume.objects.create("one")
    jitney.Volume.objects.create("one", allow_existing=True)
    assert [volume.name for volume in jitney.Volume.objects.list()] == ["two", "one"]
    with pytest.raises(exception.NotFoundError, match="did you mean 'one'"):
        jitney.Volume.objects.delete("onee")
    jitney.Volume.objects.delete("onee", allow_missing=True)
    jitney.Volume.objects.delete("one")
    assert [volume.name for volume in jitney.Volume.objects.list()] == ["two"]


def test_all_of_it_from_async_code(fake, tmp_path):
    async def story():
        volume = jitney.Volume.from_name("weights", create_if_missing=True)
        async with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"x" * 10), "a")
        await volume.copy_files.aio(["a"], "b")
        await volume.move_file.aio("b", "c")
        listed = [entry.path async for entry in volume.iterdir.aio()]
        data = b"".join([piece async for piece in volume.read_file.aio("c")])
        await volume.remove_file.aio("c")
        await volume.restore.aio(1)
        history = await volume.history.aio()
        async with jitney.Volume.ephemeral() as other:
            info = await other.info.aio()
        return listed, data, [entry.path for entry in await volume.listdir.aio()], len(history), info.name

    assert asyncio.run(story()) == (["a", "c"], b"x" * 10, ["a"], 4, "")


def test_a_handle_can_be_pickled_with_all_that_it_is(fake, volume):
    put(volume, a=b"1")
    put(volume, a=b"2")
    again = pickle.loads(pickle.dumps(volume.with_mount_options(sub_path="/x/y").at(1)))
    assert repr(again) == repr(volume.at(1))
    mount = PORTAL.call(again.mounted_at("/data"))
    volume_id = volume.hydrate().object_id
    assert mount == VolumeMount(path="/data", volume_id=volume_id, read_only=True, sub_path="x/y", version=1)
    with pytest.raises(exception.InvalidError, match="read-only"):
        again.with_mount_options(read_only=False)


def test_commit_and_reload_are_for_containers(fake, volume, in_container, server):
    for method in (volume.commit, volume.reload):
        with pytest.raises(exception.InvalidError, match="for containers"):
            method()
    volume_id = volume.hydrate().object_id
    asked = []

    def answer(kind, value):
        return lambda request, emit: asked.append((kind, request.path)) or value

    from jitney.values.volumes import Committed
    from jitney.wire.messages.volumes import VolumeReloaded

    server.answers.volume_commit_mount = answer("commit", Committed(version=4))
    server.answers.volume_reload_mount = answer("reload", VolumeReloaded(version=5))
    in_container("ap-1")
    inside = jitney.Volume.from_id(volume_id)
    assert inside.commit().version == 4
    assert inside.reload() == 5
    assert asked == [("commit", volume_id), ("reload", volume_id)]
    with pytest.raises(exception.InvalidError, match="read-only"):
        inside.read_only().commit()


def test_progress_is_told(volume, tmp_path):
    from jitney.client import output

    told = []

    class Watch(output.Quiet):
        def transfer(self, name, done, total):
            told.append((name, done, total))

    (tmp_path / "f").write_bytes(bytes(LARGE))
    with output.use(Watch()), volume.batch_upload() as batch:
        batch.put_file(tmp_path / "f", "f")
    assert told[-1] == ("f", LARGE, LARGE)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert session.current() is not None


def test_functions_are_published_with_their_volumes(fake, server):
    first = jitney.Volume.from_name("first", create_if_missing=True)
    app = jitney.App("mounting")

    @app.function(serialized=True, volumes={"/data/": first, "/old": first.at(0), "/part": first.read_only()})
    def f():
        pass

    with app.run():
        pass
    [spec] = server.answers.published[-1].functions
    volume_id = first.hydrate().object_id
    assert spec.volumes == (
        VolumeMount(path="/data", volume_id=volume_id),
        VolumeMount(path="/old", volume_id=volume_id, read_only=True, version=0),
        VolumeMount(path="/part", volume_id=volume_id, read_only=True),
    )
    missing = jitney.App("missing")
    missing.function(serialized=True, volumes={"/data": jitney.Volume.from_name("frist")})(lambda: None)
    with pytest.raises(exception.NotFoundError, match="did you mean 'first'"), missing.run():
        pass


@pytest.mark.parametrize("mounts", [
    {"data": 1}, {"/": 1}, {"//": 1}, {"/a/../b": 1}, {"/a": 1, "/a/": 1}, {"/a": 1, "/a/b": 1}, {"/proc/x": 1},
    {"/\0": 1}, {7: 1}, {"/a": "name"}, ["/a"],
])  # fmt: skip
def test_mounts_that_cannot_be_are_refused(mounts):
    volume = jitney.Volume.from_name("v")
    given = {path: volume if one == 1 else one for path, one in mounts.items()} if isinstance(mounts, dict) else mounts
    with pytest.raises(exception.InvalidError, match="volume"):
        jitney.App("a").function(volumes=given)


# ---------------------------------------------------------------------------------------------------- options


def test_volumes_of_an_app_are_for_all_its_functions(fake, server):
    shared, own = (jitney.Volume.from_name(name, create_if_missing=True) for name in ("shared", "own"))
    app = jitney.App("v", volumes={"/data": shared, "/more": shared})

    @app.function(serialized=True, volumes={"/more": own.read_only()})
    def first():
        pass

    @app.function(serialized=True)
    def second():
        pass

    with pytest.raises(InvalidError, match="inside"):
        app.function(serialized=True, volumes={"/data/in": own})
    with app.run():
        specs = {spec.name.rpartition(".")[2]: spec for spec in server.answers.published[-1].functions}
        ids = {name: jitney.Volume.from_name(name).info().volume_id for name in ("shared", "own")}
        assert specs["first"].volumes == (
            VolumeMount(path="/data", volume_id=ids["shared"]),
            VolumeMount(path="/more", volume_id=ids["own"], read_only=True),
        )
        assert [one.path for one in specs["second"].volumes] == ["/data", "/more"]


def test_options_of_a_variant_may_have_other_volumes(fake, server):
    old, new = (jitney.Volume.from_name(name, create_if_missing=True) for name in ("old", "new"))
    app = jitney.App("v")

    @app.function(serialized=True, volumes={"/data": old})
    def f():
        pass

    binds, real = [], server.answers.function_bind
    server.answers.function_bind = lambda request, emit: binds.append(request) or real(request, emit)
    with app.run():
        f.with_options(volumes={"/new": new.as_model_cache()}, env={"TORCH_HOME": "/mine"}).hydrate()
        f.with_options(volumes={}).hydrate()
        f.with_options(timeout=9).hydrate()
        [other, none, same] = [one.overrides for one in binds]
        assert other.volumes == (VolumeMount(path="/new", volume_id=new.info().volume_id),)
        assert (other.env["HF_HUB_CACHE"], other.env["TORCH_HOME"]) == ("/new/huggingface/hub", "/mine")
        assert (none.volumes, none.env) == ((), None)
        assert (same.volumes, same.env) == (None, None)


def test_a_model_cache_brings_its_variables(fake, server):
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    app = jitney.App("v")

    @app.function(
        serialized=True,
        volumes={"/cache": volume.as_model_cache(prefetch=["*.safetensors"])},
        env={"HF_DATASETS_CACHE": "/elsewhere"},
    )
    def f():
        pass

    with app.run():
        [spec] = server.answers.published[-1].functions
    assert spec.env["HF_HUB_CACHE"] == "/cache/huggingface/hub"
    assert spec.env["HF_DATASETS_CACHE"] == "/elsewhere"
    assert "HF_HOME" not in spec.env  # the token would be on the volume
    assert spec.volumes[0].prefetch == ("*.safetensors",)
    again = pickle.loads(pickle.dumps(volume.as_model_cache(prefetch=["x"])))
    assert (again._prefetch, again.variables_at("/c")["TORCH_HOME"]) == (("x",), "/c/torch")
    assert volume.variables_at("/c") == {}
    for wrong in ("*.bin", [1], [""]):
        with pytest.raises(InvalidError):
            volume.with_mount_options(prefetch=wrong)


def test_a_cache_of_the_hub_is_kept_with_its_links(fake, tmp_path):
    """As huggingface_hub lays it out: snapshots are links to blobs."""
    repo = tmp_path / "hub" / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "abc").write_bytes(b"weights")
    (repo / "snapshots" / "rev1" / "sub").mkdir(parents=True)
    (repo / "snapshots" / "rev1" / "model.safetensors").symlink_to("../../blobs/abc")
    (repo / "snapshots" / "rev1" / "sub" / "again.bin").symlink_to("../../../blobs/abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("rev1")
    volume = jitney.Volume.from_name("weights", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_directory(tmp_path / "hub", "/huggingface/hub")
    links = {entry.path: entry.target for entry in volume.iterdir("/") if entry.kind is Kind.SYMLINK}
    at = "huggingface/hub/models--org--name/snapshots/rev1"
    assert links == {f"{at}/model.safetensors": "../../blobs/abc", f"{at}/sub/again.bin": "../../../blobs/abc"}


def test_what_is_kept_is_set_and_told(server):
    FakeVolumes(server)
    volume = jitney.Volume.from_name("v", create_if_missing=True)
    with pytest.raises(InvalidError):
        volume.keep(versions=0)
    default = volume.kept()
    assert volume.keep(versions=3).days == default.days
    assert (volume.kept().versions, volume.keep(days=0).days, volume.kept().versions) == (3, 0, 3)
    assert volume.keep() == default
