"""Contents of volumes: both drivers obey the contract; the folder one does so on a real disk, full or not."""

import os

from jitney.drivers.contents.localdir import LocalContents
from jitney.drivers.contents.memory import MemoryContents
from jitney.testing.conformance.contents import WORKSPACE, ContentsContract, ContentsOnDiskContract, parts, sample
from jitney.values.volumes import BLOCK_BYTES


class TestMemoryContents(ContentsContract):
    is_kept = False

    def make(self, folder, now_ms):
        return MemoryContents(now_ms)

    def place(self, contents, workspace, name, data):
        contents.place(workspace, name, data)


class TestLocalContents(ContentsOnDiskContract):
    def make(self, folder, now_ms):
        return LocalContents(folder, now_ms=now_ms)

    def test_a_content_is_one_file_that_nobody_may_write_to(self, contents, run):
        data, content = sample(BLOCK_BYTES + 5)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        path = contents.folder(WORKSPACE) / "files" / content.digest[:2] / content.digest
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o444
        assert os.listdir(contents.folder(WORKSPACE) / "incoming") == []

    def test_3_a_block_that_did_not_arrive_whole_is_sent_again(self, contents, run, tmp_path, clock):
        data, content = sample(3 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)[:2]))
        [begun] = (contents.folder(WORKSPACE) / "incoming").iterdir()
        with begun.open("r+b") as file:
            file.seek(BLOCK_BYTES + 100)
            file.write(bytes(4096))
        (begun.parent / "p-left").write_bytes(b"of a killed server")
        contents = self.make(tmp_path / "contents", clock)
        assert [path.name for path in begun.parent.iterdir()] == [begun.name]
        assert run(contents.begin(WORKSPACE, content, {})) == [1, 2]

    def test_reading_and_asking_leave_the_time_of_change(self, contents, run, clock):
        data, content = sample(10)
        run(contents.put(WORKSPACE, parts(data, content)))
        [path] = (contents.folder(WORKSPACE) / "files").rglob(content.digest)
        made = path.stat().st_mtime_ns
        clock.now_ms += 10_000_000
        run(contents.absent(WORKSPACE, [content.digest]))
        assert path.stat().st_mtime_ns == made == 10_000_000_000_000 * 1_000_000
        assert path.stat().st_atime_ns == clock.now_ms * 1_000_000
