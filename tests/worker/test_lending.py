"""The worker lends volumes to steps of builds: by the contract of the port, and what goes wrong on the way."""

import asyncio
import os

import pytest
from tests.worker.test_mounts import Server

from jitney.core.layers import STACK_MAX
from jitney.drivers.trees.localdir import LocalTrees
from jitney.errors import ConnectionError, InvalidError, NotFoundError, StorageError, UnsupportedError
from jitney.testing.conformance.lending import MOUNT, VOLUME, LendingContract, seen
from jitney.values.volumes import WORKSPACE
from jitney.wire.home import Home
from jitney.wire.messages import mounts as mm
from jitney.worker import lending as module
from jitney.worker import written
from jitney.worker.layouts import Layouts
from jitney.worker.lending import Lending


class Strict(Server):
    """Says which volumes and versions are not there, as the real one does."""

    async def request(self, method, message):
        if isinstance(message, mm.VolumeHeads):
            assert not message.container_id
            if {*message.volume_ids} - {VOLUME}:
                raise NotFoundError("no such volume")
        if isinstance(message, mm.VolumeDiff) and message.new >= len(self.versions):
            raise NotFoundError("no such version")
        return await super().request(method, message)


class Stage:
    def __init__(self, folder):
        self.folder = folder
        self.home = Home(folder)
        self.server = Strict(self.home)
        files = self.home.volumes / WORKSPACE / "files"
        self.trees = LocalTrees(self.home.trees, lambda digest: files / digest)
        self._lending = Lending(self.home, Layouts(self.trees, self.server.request))
        self._made = 0

    def lender(self):
        return self._lending

    def put(self, **files):
        self.server.put(**files)

    def files(self):
        return self.server.versions[-1]

    def messages(self):
        others = len(self.server.versions) - 1 - len(self.server.commits)
        return [""] * others + [commit.message for commit in self.server.commits]

    def upper(self):
        self._made += 1
        folder = self.folder / f"upper-{self._made}"
        folder.mkdir()
        return folder

    def left(self):
        folder = self.home.volumes / WORKSPACE / "incoming"
        return os.listdir(folder) if folder.is_dir() else []


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


class TestWorker(LendingContract):
    @pytest.fixture
    def stage(self, tmp_path):
        return Stage(tmp_path)


def test_a_commit_waits_for_the_server_and_reads_again_what_it_may_have_taken(stage, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    async def story():
        upper = stage.upper()
        (upper / "a").write_text("one")
        async with stage.lender().lend([MOUNT]) as loan:
            stage.server.down = 3
            await loan.commit([str(upper)], "by the build")
        assert stage.files() == {"a": "one"}
        assert len(stage.server.commits) == 1

    asyncio.run(story())


def test_a_server_that_stays_away_is_told(stage, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 3)

    async def story():
        upper = stage.upper()
        (upper / "a").write_text("one")
        async with stage.lender().lend([MOUNT]) as loan:
            stage.server.down = 100
            with pytest.raises(ConnectionError):
                await loan.commit([str(upper)], "by the build")
            assert stage.server.down == 97

    asyncio.run(story())


def test_what_cannot_be_read_fails_before_anything_is_committed(stage, monkeypatch):
    """Of two volumes, neither: a file of the second cannot be read."""
    copied = written._copy_whole
    monkeypatch.setattr(written, "_copy_whole", lambda *one: one[2].size != 3 and copied(*one))

    async def story():
        uppers = [stage.upper(), stage.upper()]
        (uppers[0] / "fine").write_text("fine")
        (uppers[1] / "good").write_text("good")
        (uppers[1] / "bad").write_text("bad")
        async with stage.lender().lend([MOUNT, MOUNT]) as loan:
            with pytest.raises(StorageError, match="/data/bad cannot be read"):
                await loan.commit([str(upper) for upper in uppers], "by the build")
        assert stage.server.commits == []
        assert stage.left() == []

    asyncio.run(story())


def test_changes_that_are_refused_leave_nothing(stage):
    async def story():
        stage.server.refuses = "too much"
        uppers = [stage.upper(), stage.upper()]
        for upper in uppers:
            (upper / "a").write_text(upper.name)
        async with stage.lender().lend([MOUNT, MOUNT]) as loan:
            with pytest.raises(InvalidError, match="too much"):
                await loan.commit([str(upper) for upper in uppers], "by the build")
        assert stage.server.versions == [{}]
        assert len(stage.left()) == 1  # that of the refused commit is the server's; the other was not sent

    asyncio.run(story())


def test_layers_that_are_lent_stay_when_the_stack_is_made_anew(stage):
    async def story():
        stage.put(a="first")
        async with stage.lender().lend([MOUNT]) as loan:
            for number in range(STACK_MAX + 2):
                stage.put(a=f"later-{number}")
                async with stage.lender().lend([MOUNT]):
                    pass
            assert seen(loan.volumes[0]) == {"a": "first"}
        assert stage.lender()._lent == []

    asyncio.run(story())


def test_a_worker_without_a_place_for_volumes_says_so(stage):
    async def story():
        with pytest.raises(UnsupportedError, match="no place"):
            async with Lending(stage.home, None).lend([MOUNT]):
                pass

    asyncio.run(story())
