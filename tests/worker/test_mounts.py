"""Volumes of containers, as the worker lays them out, commits and reloads them; server and runtime are fakes."""

import asyncio
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from jitney.core.layers import STACK_MAX
from jitney.drivers.trees.localdir import LocalTrees
from jitney.errors import ConnectionError, InvalidError
from jitney.ports.mounting import MountBusy
from jitney.ports.runtime import Capabilities, ContainerHandle, StartFailed
from jitney.values.containers import Launch, TemplateSpec, VolumePlace
from jitney.values.isolation import Isolation
from jitney.values.volumes import WORKSPACE, Committed, Entry, VolumeMount
from jitney.wire.home import Home
from jitney.wire.messages import mounts as mm
from jitney.wire.messages import workers
from jitney.worker import layouts, written
from jitney.worker import mounts as module
from jitney.worker.mounts import Mounts

VOLUME = f"vo-{'0' * 22}"
HANDLE = ContainerHandle(container_id="ta-1", pid=1, start_ticks=1)


class Server:
    """Has one volume: a dictionary for each version."""

    def __init__(self, home):
        self.home = home
        self.versions = [{}]
        self.commits = []
        self.down = 0
        self.gone = set()  # versions that were pruned
        self.page = 100
        self.parts = []
        self.refuses = ""

    def file(self, text):
        path = self.home.volumes / WORKSPACE / "files" / text
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return text

    def put(self, **files):
        self.versions.append({**self.versions[-1], **{name: self.file(text) for name, text in files.items()}})

    async def request(self, method, message):
        if self.down:
            self.down -= 1
            raise ConnectionError("the link to the server broke")
        if isinstance(message, mm.VolumeHeads):
            return mm.VolumeHeadsAnswer(versions=(len(self.versions) - 1,) * len(message.volume_ids))
        if isinstance(message, mm.VolumeDiff):
            old, new = self.versions[message.old], self.versions[message.new]
            if message.old in self.gone:
                return mm.VolumeDiffAnswer(puts=(), removes=(), old_is_gone=True)
            paths = sorted(p for p in {*old, *new} if old.get(p) != new.get(p) and p > message.after)
            page = paths[: self.page]
            puts = [Entry(path=p, digest=new[p], size=len(new[p])) for p in page if p in new]
            removes = tuple(p for p in page if p not in new)
            after = page[-1] if len(paths) > len(page) else ""
            return mm.VolumeDiffAnswer(puts=tuple(puts), removes=removes, after=after)
        if message.more:
            self.parts.append(message)
            return Committed(version=message.base, changed=False)
        puts = tuple(put for part in (*self.parts, message) for put in part.puts)
        removes = tuple(path for part in (*self.parts, message) for path in part.removes)
        self.parts.clear()
        return self.commit(msgspec.structs.replace(message, puts=puts, removes=removes))

    def commit(self, message):
        if self.refuses:
            raise InvalidError(self.refuses)
        self.commits.append(message)
        files = {path: text for path, text in self.versions[-1].items() if path not in message.removes}
        for put in message.puts:
            if put.incoming:
                left = self.home.volumes / WORKSPACE / "incoming" / put.incoming
                files[put.entry.path] = self.file(left.read_text())
                left.unlink()
        self.versions.append(files)
        return Committed(version=len(self.versions) - 1)


class Runtime:
    """Has mounts of its own, or not."""

    def __init__(self):
        self.remounted = []
        self.busy = False

    def capabilities(self):
        return Capabilities(name=Isolation.NAMESPACES, isolation=True, memory_limit=True, process_limit=True)

    async def discard(self, container_id=""):
        shutil.rmtree(self.home.uppers / container_id, ignore_errors=True)

    async def remount(self, handle, mounted):
        if self.busy:
            raise MountBusy("files are open")
        self.remounted.append(mounted)


class Plain:
    def capabilities(self):
        return Capabilities(name=Isolation.PROCESS, isolation=False, memory_limit=True, process_limit=True)


class Stage:
    def __init__(self, root, runtime=None):
        self.home = Home(root)
        self.server = Server(self.home)
        self.runtime = runtime or Runtime()
        self.runtime.home = self.home
        self.reports = []
        files = self.home.volumes / WORKSPACE / "files"
        self.trees = LocalTrees(self.home.trees, lambda digest: files / digest)
        self.mounts = Mounts(
            self.home, self.runtime, self.trees, request=self.server.request, report=self.reports.append
        )

    def launch(self, container_id="ta-1", **changes):
        volume = VolumeMount(path="/data", volume_id=VOLUME, **changes)
        template = TemplateSpec(image_id="im-1", volumes=(VolumePlace(VOLUME, "/data"),))
        return Launch(
            container_id=container_id, function_id="fu-1", app_id="ap-1", token="t", template=template, config={},
            volumes=(volume,),
        )  # fmt: skip

    async def start(self, container_id="ta-1", **changes):
        """The mount of a container that runs; its writable layer is there, as the runtime would make it."""
        launch = await self.mounts.ready(self.launch(container_id, **changes))
        (mounted,) = launch.mounts
        if mounted.upper:
            self.upper(container_id).mkdir(parents=True)
        attending = asyncio.create_task(self.mounts.attend(msgspec.structs.replace(HANDLE, container_id=container_id)))
        await asyncio.sleep(0)
        self.attending = attending
        return mounted

    def upper(self, container_id="ta-1"):
        return self.home.uppers / container_id / "0" / "upper"

    async def sync(self, *, reload=False, path="/data"):
        await self.mounts.sync(workers.SyncMount(request_id="r", container_id="ta-1", path=path, reload=reload))
        return self.reports[-1]

    def seen(self, mounted):
        """The files of a mount, without what was written to it."""
        files = {}
        for layer in mounted.layers:
            for path in (self.trees.folder(VOLUME) / layer).iterdir():
                if path.is_file():
                    files[path.name] = path.read_text()
                else:
                    files.pop(path.name, None)
        return files


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def run(work):
    asyncio.run(work)


def test_a_launch_without_volumes_is_left_as_it_is(stage):
    launch = msgspec.structs.replace(stage.launch(), volumes=())
    run(_same(stage, launch))


async def _same(stage, launch):
    assert await stage.mounts.ready(launch) is launch


def test_a_container_sees_the_newest_version_or_the_one_it_asks_for(stage):
    async def story():
        stage.server.put(a="one")
        stage.server.put(a="two", b="two")
        assert stage.seen(await stage.start("ta-1")) == {"a": "two", "b": "two"}
        pinned = await stage.start("ta-2", version=1, read_only=True)
        assert stage.seen(pinned) == {"a": "one"}
        assert pinned.read_only

    run(story())


@pytest.mark.parametrize("tree", [True, False])
def test_where_there_are_no_mounts_the_start_says_so(tmp_path, tree):
    stage = Stage(tmp_path, None if not tree else Plain())
    if not tree:
        stage.mounts = Mounts(stage.home, stage.runtime, None, request=stage.server.request, report=print)

    async def story():
        with pytest.raises(StartFailed, match="no mounts of their own" if tree else "no place to lay out"):
            await stage.mounts.ready(stage.launch())

    run(story())


def test_what_was_written_is_committed_when_the_container_asks(stage):
    async def story():
        stage.server.put(a="one")
        await stage.start()
        (stage.upper() / "new").write_text("written")
        done = await stage.sync()
        assert (done.version, done.code) == (2, "")
        assert stage.server.versions[-1] == {"a": "one", "new": "written"}
        assert stage.server.commits[0].base == 1
        assert not (await stage.sync()).committed.changed
        (stage.upper() / "new").unlink()
        await stage.sync(path=VOLUME)
        assert stage.server.versions[-1] == {"a": "one"}

    run(story())


def test_a_reload_that_is_asked_for_before_the_start_is_told_of_waits_for_that(stage):
    async def story():
        await stage.mounts.ready(stage.launch())
        asking = asyncio.create_task(stage.sync(reload=True))
        await asyncio.sleep(0)
        stage.server.put(a="one")
        attending = asyncio.create_task(stage.mounts.attend(msgspec.structs.replace(HANDLE, container_id="ta-1")))
        done = await asking
        assert (done.version, done.code) == (1, "")
        attending.cancel()
        await stage.mounts.ready(stage.launch())
        asking = asyncio.create_task(stage.sync(reload=True))
        await asyncio.sleep(0)
        await stage.mounts.ended("ta-1")
        assert "ended" in (await asking).message

    run(story())


def test_a_folder_of_a_volume_is_committed_below_its_path(stage):
    async def story():
        await stage.start(sub_path="models/x")
        (stage.upper() / "models/x").mkdir(parents=True)  # the layer is the volume's, whatever part of it is mounted
        (stage.upper() / "models/x/new").write_text("written")
        await stage.sync()
        assert stage.server.versions[-1] == {"models/x/new": "written"}

    run(story())


def test_a_file_that_is_being_written_to_comes_with_the_next_commit(stage, monkeypatch):
    async def story():
        await stage.start()
        (stage.upper() / "whole").write_text("whole")
        growing = stage.upper() / "growing"
        growing.write_text("be")
        copied = written._copy_whole

        def copy(reading, target: Path, stamp):
            if stamp.inode == growing.stat().st_ino:
                growing.write_text("begun")
            return copied(reading, target, stamp)

        monkeypatch.setattr(written, "_copy_whole", copy)
        await stage.sync()
        assert stage.server.versions[-1] == {"whole": "whole"}
        monkeypatch.setattr(written, "_copy_whole", copied)
        await stage.sync()
        assert stage.server.versions[-1] == {"whole": "whole", "growing": "begun"}
        assert os.listdir(stage.home.volumes / WORKSPACE / "incoming") == []

    run(story())


def test_a_reload_shows_what_others_committed(stage):
    async def story():
        mounted = await stage.start()
        stage.server.put(a="one")
        assert (await stage.sync(reload=True)).version == 1
        (again,) = stage.runtime.remounted
        assert stage.seen(again) == {"a": "one"}
        assert again.upper == mounted.upper
        await stage.sync(reload=True)
        assert len(stage.runtime.remounted) == 1  # there was nothing new

    run(story())


def test_what_cannot_be_done_is_said(stage):
    async def story():
        await stage.start(read_only=True)
        stage.server.put(a="one")
        assert "read-only" in (await stage.sync()).message
        stage.runtime.busy = True
        busy = await stage.sync(reload=True)
        assert (busy.code, "files are open" in busy.message) == ("volume_busy", True)
        assert (await stage.sync(path="/other")).code == "not_found"

    run(story())


def test_the_last_commit_waits_for_the_server_and_then_nothing_is_left(stage, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    async def story():
        await stage.start()
        (stage.upper() / "new").write_text("last")
        stage.server.down = 3
        await stage.mounts.ended("ta-1")
        assert stage.server.versions[-1] == {"new": "last"}
        assert not (stage.home.uppers / "ta-1").exists()
        await stage.mounts.ended("ta-1")

    run(story())


def test_a_last_commit_that_is_refused_does_not_hold_up_the_end(stage, caplog):
    async def story():
        await stage.start()
        (stage.upper() / "new").write_text("last")
        stage.server.refuses = "no such volume"
        await stage.mounts.ended("ta-1")
        assert "no such volume" in caplog.text
        assert not (stage.home.uppers / "ta-1").exists()

    run(story())


def test_a_stack_that_got_high_is_made_anew(stage):
    async def story():
        for number in range(STACK_MAX + 3):
            stage.server.put(**{f"f{number}": "x"})
            mounted = await stage.start(f"ta-{number}", read_only=True)
            assert len(mounted.layers) <= STACK_MAX
            assert len(stage.seen(mounted)) == number + 1

    run(story())


def test_what_a_killed_worker_left_is_removed(stage):
    async def story():
        (stage.home.uppers / "ta-9" / "0").mkdir(parents=True)
        await stage.mounts.reap()
        assert not stage.home.uppers.exists()

    run(story())


def test_what_cannot_even_be_said_does_not_hold_up_the_end(stage, caplog):
    async def story():
        await stage.start()
        os.mkdir(os.fsencode(stage.upper()) + b"/\xff")
        (stage.upper() / "new").write_text("kept")
        await stage.mounts.ended("ta-1")
        assert stage.server.versions[-1] == {"new": "kept"}

        async def broken(method, message):
            raise RuntimeError("a bug")

        await stage.start("ta-2")
        (stage.upper("ta-2") / "new").write_text("lost")
        stage.mounts._written._request = broken
        await stage.mounts.ended("ta-2")
        assert "a bug" in caplog.text
        assert not (stage.home.uppers / "ta-2").exists()

    run(story())


def test_a_link_in_the_place_of_a_file_is_not_followed(stage, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("of the machine")

    async def story():
        await stage.start()
        (stage.upper() / "a").write_text("mine")
        found = await stage.trees.changes(stage.upper(), {})
        (stage.upper() / "a").unlink()
        os.symlink(secret, stage.upper() / "a")

        async def changes(upper, known):
            return found

        monkeypatch.setattr(stage.trees, "changes", changes)
        await stage.sync()
        assert "of the machine" not in stage.server.versions[-1].values()

    run(story())


def test_much_comes_and_goes_in_pages(stage, monkeypatch):
    monkeypatch.setattr(written, "PART_CHANGES", 2)
    stage.server.page = 2

    async def story():
        stage.server.put(**{name: name for name in "abcde"})
        assert stage.seen(await stage.start()) == {name: name for name in "abcde"}
        for name in "fghij":
            (stage.upper() / name).write_text(name)
        assert (await stage.sync()).version == 2
        assert len(stage.server.commits) == 1
        assert stage.server.versions[-1] == {name: name for name in "abcdefghij"}

    run(story())


def test_where_the_version_of_the_stack_is_gone_it_is_made_anew(stage):
    async def story():
        stage.server.put(a="one", b="one")
        await stage.start("ta-1")
        stage.server.gone = {1}
        stage.server.versions.append({"a": stage.server.file("two")})
        mounted = await stage.start("ta-2")
        assert (stage.seen(mounted), len(mounted.layers)) == ({"a": "two"}, 2)  # the lowest is empty

    run(story())


def test_what_is_asked_for_is_brought_into_memory(stage, monkeypatch):
    brought = []
    monkeypatch.setattr(layouts.prefetch, "prefetch", lambda files, room: brought.extend(files) or 0)

    async def story():
        stage.server.put(a="one", b="two")
        mounted = await stage.start(prefetch=("b*",))
        await asyncio.gather(*stage.mounts.layouts._prefetching)
        [path] = brought
        assert path == stage.trees.folder(VOLUME) / mounted.layers[-1] / "b"

    run(story())


def test_a_commit_of_what_was_committed_meanwhile_says_the_version_that_has_it(stage):
    async def story():
        stage.server.put(a="one")
        await stage.start()
        (stage.upper() / "new").write_text("written")
        [live] = stage.mounts._live["ta-1"]
        await stage.mounts._commit("ta-1", live)  # as it does now and then
        done = await stage.sync()
        assert (done.version, done.committed.changed) == (2, False)
        assert stage.server.versions[2] == {"a": "one", "new": "written"}

    run(story())


def test_layers_that_are_about_to_be_mounted_stay(stage, monkeypatch):
    """While one container takes its time, the stack is made anew for others, and what nobody has is removed."""

    async def high(name):
        for number in range(STACK_MAX + 1):
            stage.server.put(**{f"{name}{number}": "x"})
            await stage.start(f"ta-{name}{number}", read_only=True)
            await stage.mounts.ended(f"ta-{name}{number}")

    async def remount(handle, mounted):
        await high("b")
        assert all((stage.trees.folder(VOLUME) / layer).is_dir() for layer in mounted.layers)
        stage.runtime.remounted.append(mounted)

    async def story():
        await stage.start()
        stage.server.put(a="one")
        monkeypatch.setattr(stage.runtime, "remount", remount)
        assert not (await stage.sync(reload=True)).message
        (mounted,) = stage.runtime.remounted
        assert stage.seen(mounted) == {"a": "one"}

    run(story())


def test_layers_of_a_container_that_waits_for_its_other_volumes_stay(stage):
    other = f"vo-{'1' * 22}"

    async def story():
        stage.server.put(a="one")
        launch = stage.launch()
        more = msgspec.structs.replace(launch.volumes[0], path="/more", volume_id=other)
        lay_out = stage.mounts.layouts.lay_out

        async def slow(volume_id, version, *, is_head):
            if volume_id == other:
                assert await stage.trees.collect(VOLUME, stage.mounts._layers_in_use(VOLUME)) == 0
                await stage.trees.restack(VOLUME, 2, [])
                assert await stage.trees.collect(VOLUME, stage.mounts._layers_in_use(VOLUME)) == 0
            return await lay_out(volume_id, version, is_head=is_head)

        stage.mounts.layouts.lay_out = slow
        launch = await stage.mounts.ready(msgspec.structs.replace(launch, volumes=(*launch.volumes, more)))
        assert stage.seen(launch.mounts[0]) == {"a": "one"}

    run(story())


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("step", ["changes", "_leave", "request"])
def test_what_a_container_has_written_that_dies_while_it_commits_is_kept_once(stage, step, is_after):
    """It is killed before and after each step of the commit that it asked for."""

    async def story():
        loop = asyncio.get_running_loop()
        ending = []
        await stage.start()
        (stage.upper() / "a").write_text("one")
        (stage.upper() / "b").write_text("one")

        def die():
            if not ending:
                ending.append(asyncio.ensure_future(stage.mounts.ended("ta-1")))

        def around(work):
            async def call(*given):
                if not is_after:
                    die()
                await asyncio.sleep(0)
                found = await work(*given)
                die()
                await asyncio.sleep(0)
                return found

            return call

        def around_in_thread(work):
            def call(*given):
                if not is_after:
                    loop.call_soon_threadsafe(die)
                found = work(*given)
                loop.call_soon_threadsafe(die)
                return found

            return call

        owner = {"changes": stage.trees, "_leave": stage.mounts._written, "request": stage.mounts._written}[step]
        name = "_request" if step == "request" else step
        setattr(owner, name, (around_in_thread if step == "_leave" else around)(getattr(owner, name)))
        done = await stage.sync()
        await asyncio.gather(*ending)
        assert len(ending) == 1
        assert (done.code, done.version) == ("", 1)
        assert stage.server.versions == [{}, {"a": "one", "b": "one"}]
        assert not (stage.home.uppers / "ta-1").exists()

    run(story())
