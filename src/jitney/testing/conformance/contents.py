"""What every driver of ports.contents must do. Numbers in the names are those of its sentences."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from jitney.core.volumes import block_digest, content_of, whole
from jitney.errors import InvalidError, NotFoundError
from jitney.ports.contents import Block, Contents, Part, Stored
from jitney.testing.conformance.running import Run, Running
from jitney.values.volumes import BLOCK_BYTES, Content

NONE = "0" * 64
HOSTILE = ("", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 32 + "/" + "a" * 31, "\0" * 64)
WORKSPACE = "main"
NAME = "0123456789abcdef" * 2


class Clock:
    """Unix ms, as a test says. It begins in the far future: files that are read now do not look used then."""

    def __init__(self) -> None:
        self.now_ms = 10_000_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Place(Protocol):
    """How a client on the machine puts a file into `incoming`."""

    def __call__(self, contents: Any, workspace: str, name: str, data: bytes) -> None: ...


def sample(size: int) -> tuple[bytes, Content]:
    """Some bytes, and what they are as a content. No two blocks are equal."""
    data = os.urandom(size)
    return data, whole(data)


def parts(data: bytes, content: Content) -> list[Part]:
    """A content in blocks."""
    count = max(1, content.count)
    return [Part(content.digest, n, data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]) for n in range(count)]


class ContentsContract(Running):
    """Subclass and say how one is made, and how files get into `incoming`."""

    def make(self, folder: Path, now_ms: Callable[[], int]) -> Contents:
        """The contents of this folder: new, or those that were there."""
        raise NotImplementedError

    place: Place
    is_kept = True  # whether it is there again when the same folder is opened

    @pytest.fixture
    def clock(self) -> Clock:
        """The time."""
        return Clock()

    @pytest.fixture
    def contents(self, tmp_path: Path, clock: Clock) -> Contents:
        """New ones."""
        return self.make(tmp_path / "contents", clock)

    @pytest.mark.parametrize("size", [0, 1, 5_000, BLOCK_BYTES])
    def test_1_what_is_put_whole_is_there(self, contents: Contents, run: Run, size: int) -> None:
        data, content = sample(size)
        assert run(contents.absent(WORKSPACE, [content.digest, NONE, NONE])) == [content.digest, NONE]
        run(contents.put(WORKSPACE, parts(data, content)))
        run(contents.put(WORKSPACE, parts(data, content)))
        assert run(contents.absent(WORKSPACE, [NONE, content.digest])) == [NONE]
        assert run(contents.read(WORKSPACE, content.digest, 0, size + 10)) == data
        assert run(contents.begin(WORKSPACE, content, {})) == []

    def test_1_a_content_is_its_blocks_and_its_size(self) -> None:
        digests = block_digest(b"x"), block_digest(b"y")
        given = [
            (digests[0], 1), (digests[1], 1), (digests[0] + digests[1], BLOCK_BYTES + 1),
            (digests[1] + digests[0], BLOCK_BYTES + 1), (digests[0], 2), (b"", 0),
        ]  # fmt: skip
        made = [content_of(*one) for one in given]
        assert len({content.digest for content in made}) == len(made)
        assert whole(b"x") == made[0]

    def test_many_at_once(self, contents: Contents, run: Run) -> None:
        samples = [sample(n) for n in range(200)]
        run(contents.put(WORKSPACE, [part for data, content in samples for part in parts(data, content)]))
        assert run(contents.absent(WORKSPACE, [content.digest for _, content in samples])) == []
        assert all(run(contents.read(WORKSPACE, content.digest, 0, 1_000)) == data for data, content in samples)

    @pytest.mark.parametrize("digest", HOSTILE)
    def test_1_no_path_is_made_of_what_is_no_digest(self, contents: Contents, run: Run, digest: str) -> None:
        hostile = Content(digest=digest, size=0)
        for ask in (
            contents.absent(WORKSPACE, [digest]),
            contents.begin(WORKSPACE, hostile, {}),
            contents.put(WORKSPACE, [Part(digest, 0, b"")]),
            contents.read(WORKSPACE, digest, 0, 1),
            contents.remove(WORKSPACE, [digest], 0),
            contents.adopt(WORKSPACE, digest, 0),
        ):
            with pytest.raises(InvalidError):
                run(ask)

    @pytest.mark.parametrize("workspace", ["", "..", "a/b", "A", "-a", "a" * 64, "a\0"])
    def test_1_no_path_is_made_of_what_is_no_workspace(self, contents: Contents, run: Run, workspace: str) -> None:
        for ask in (
            contents.absent(workspace, [NONE]),
            contents.begin(workspace, whole(b""), {}),
            contents.put(workspace, [Part(whole(b"").digest, 0, b"")]),
            contents.read(workspace, NONE, 0, 1),
            contents.remove(workspace, [NONE], 0),
            contents.adopt(workspace, NAME, 0),
        ):
            with pytest.raises(InvalidError):
                run(ask)

    def test_1_what_does_not_fit_is_refused(self, contents: Contents, run: Run) -> None:
        data, content = sample(2 * BLOCK_BYTES + 5)
        swapped = content.blocks[32:64] + content.blocks[:32] + content.blocks[64:]
        for wrong in (
            Content(digest=content.digest, size=content.size, blocks=swapped),
            Content(digest=content.digest, size=content.size + 1, blocks=content.blocks),
            Content(digest=content.digest, size=content.size, blocks=content.blocks[:64]),
            Content(digest=content.digest, size=-1, blocks=b""),
        ):
            with pytest.raises(InvalidError):
                run(contents.begin(WORKSPACE, wrong, {}))
        with pytest.raises(NotFoundError):
            run(contents.put(WORKSPACE, [Part(content.digest, 0, data[:BLOCK_BYTES])]))
        run(contents.begin(WORKSPACE, content, {}))
        for position, piece in ((1, data[:BLOCK_BYTES]), (0, data[: BLOCK_BYTES - 1]), (3, b""), (-1, data[-5:])):
            with pytest.raises(InvalidError):
                run(contents.put(WORKSPACE, [Part(content.digest, position, piece)]))
        assert run(contents.begin(WORKSPACE, content, {})) == [0, 1, 2]
        assert run(contents.absent(WORKSPACE, [content.digest])) == [content.digest]

    def test_4_blocks_come_in_any_order_at_once_and_again(self, contents: Contents, run: Run) -> None:
        data, content = sample(3 * BLOCK_BYTES + 77)
        first, *rest = parts(data, content)

        async def story() -> None:
            assert await contents.begin(WORKSPACE, content, {}) == [0, 1, 2, 3]
            await contents.put(WORKSPACE, [rest[1], rest[1]])
            assert await contents.begin(WORKSPACE, content, {}) == [0, 1, 3]
            assert await contents.absent(WORKSPACE, [content.digest]) == [content.digest]
            order = (rest[2], first, rest[0], first, rest[1])
            await asyncio.gather(*(contents.put(WORKSPACE, [part]) for part in order))
            assert await contents.absent(WORKSPACE, [content.digest]) == []
            await contents.put(WORKSPACE, [first])
            assert await contents.read(WORKSPACE, content.digest, 0, content.size) == data

        run(story())

    def test_3_a_content_that_is_not_whole_is_gone_on_with(
        self, contents: Contents, run: Run, tmp_path: Path, clock: Clock
    ) -> None:
        data, content = sample(3 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, [parts(data, content)[1]]))
        if self.is_kept:
            contents = self.make(tmp_path / "contents", clock)
        assert run(contents.begin(WORKSPACE, content, {})) == [0, 2]
        run(contents.put(WORKSPACE, [parts(data, content)[n] for n in (0, 2)]))
        assert run(contents.read(WORKSPACE, content.digest, 0, content.size)) == data

    def test_blocks_that_are_there_are_copied(self, contents: Contents, run: Run) -> None:
        data, old = sample(3 * BLOCK_BYTES)
        new_data = data[:BLOCK_BYTES] + os.urandom(BLOCK_BYTES) + data[BLOCK_BYTES : 2 * BLOCK_BYTES] + b"end"
        new = whole(new_data)
        run(contents.begin(WORKSPACE, old, {}))
        run(contents.put(WORKSPACE, parts(data, old)))
        known = {old.block(n): Block(old.digest, n) for n in range(3)}
        wrong = {new.block(1): Block(old.digest, 2), new.block(3): Block(NONE, 0)}
        assert run(contents.begin(WORKSPACE, new, {**known, **wrong})) == [1, 3]
        run(contents.put(WORKSPACE, [parts(new_data, new)[n] for n in (1, 3)]))
        assert run(contents.read(WORKSPACE, new.digest, 0, new.size)) == new_data
        again = content_of(old.block(2) + old.block(0), 2 * BLOCK_BYTES)
        assert run(contents.begin(WORKSPACE, again, known)) == []
        assert run(contents.read(WORKSPACE, again.digest, BLOCK_BYTES, 9)) == data[:9]

    def test_parts_are_read(self, contents: Contents, run: Run) -> None:
        data, content = sample(10_000)
        run(contents.put(WORKSPACE, parts(data, content)))
        for offset, length in ((0, 1), (5_000, 100), (9_999, 10), (10_000, 5), (20_000, 5), (7, 0)):
            assert run(contents.read(WORKSPACE, content.digest, offset, length)) == data[offset : offset + length]
        for offset, length in ((-1, 5), (0, -1)):
            with pytest.raises(InvalidError):
                run(contents.read(WORKSPACE, content.digest, offset, length))
        with pytest.raises(NotFoundError):
            run(contents.read(WORKSPACE, NONE, 0, 1))

    def test_5_workspaces_know_nothing_of_one_another(self, contents: Contents, run: Run) -> None:
        data, content = sample(2 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        assert run(contents.absent("other", [content.digest])) == [content.digest]
        with pytest.raises(NotFoundError):
            run(contents.read("other", content.digest, 0, 1))
        known = {content.block(n): Block(content.digest, n) for n in range(2)}
        assert run(contents.begin("other", content, known)) == [0, 1]

    @pytest.mark.parametrize("size", [0, 9, 2 * BLOCK_BYTES + 1])
    def test_7_what_a_client_placed_is_adopted(self, contents: Contents, run: Run, size: int) -> None:
        data, content = sample(size)
        self.place(contents, WORKSPACE, NAME, data)
        assert run(contents.adopt(WORKSPACE, NAME, size)) == content
        assert run(contents.read(WORKSPACE, content.digest, 0, size)) == data
        with pytest.raises(NotFoundError):
            run(contents.adopt(WORKSPACE, NAME, size))
        self.place(contents, WORKSPACE, NAME, data)
        assert run(contents.adopt(WORKSPACE, NAME, size)) == content

    def test_7_another_size_than_was_said_is_refused(self, contents: Contents, run: Run) -> None:
        self.place(contents, WORKSPACE, NAME, b"12345")
        for size in (4, 6):
            with pytest.raises(InvalidError):
                run(contents.adopt(WORKSPACE, NAME, size))
        assert run(contents.adopt(WORKSPACE, NAME, 5)) == whole(b"12345")

    def test_6_what_is_used_is_not_removed(self, contents: Contents, run: Run, clock: Clock) -> None:
        samples = [sample(100 + n) for n in range(4)]
        run(contents.put(WORKSPACE, [part for data, content in samples for part in parts(data, content)]))
        digests = sorted(content.digest for _, content in samples)
        first_ms = clock.now_ms
        clock.now_ms += 3_600_000
        assert run(contents.old(first_ms)) == []
        assert run(contents.old(clock.now_ms)) == [Stored(WORKSPACE, digest) for digest in digests]
        assert run(contents.old(clock.now_ms, after=Stored(WORKSPACE, digests[0]), limit=2)) == [
            Stored(WORKSPACE, digests[1]), Stored(WORKSPACE, digests[2]),
        ]  # fmt: skip
        by_digest = {content.digest: (data, content) for data, content in samples}
        run(contents.absent(WORKSPACE, [digests[0]]))
        run(contents.put(WORKSPACE, parts(*by_digest[digests[1]])))
        run(contents.begin(WORKSPACE, by_digest[digests[2]][1], {}))
        assert run(contents.old(clock.now_ms)) == [Stored(WORKSPACE, digests[3])]
        assert run(contents.remove(WORKSPACE, [*digests, NONE], clock.now_ms)) == [digests[3], NONE]
        assert run(contents.absent(WORKSPACE, digests)) == [digests[3]]

    def test_what_was_begun_long_ago_is_swept(self, contents: Contents, run: Run, clock: Clock) -> None:
        data, content = sample(2 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, [parts(data, content)[0]]))
        assert run(contents.sweep(0)) == 0
        assert run(contents.sweep(clock.now_ms + 1)) == 1
        with pytest.raises(NotFoundError):
            run(contents.put(WORKSPACE, [parts(data, content)[1]]))
        assert run(contents.begin(WORKSPACE, content, {})) == [0, 1]
        run(contents.put(WORKSPACE, parts(data, content)))
        assert run(contents.read(WORKSPACE, content.digest, 0, content.size)) == data


class ContentsOnDiskContract(ContentsContract):
    """The same, of a driver whose files are placed in a folder of this machine."""

    def place(self, contents: Contents, workspace: str, name: str, data: bytes) -> None:
        (_folder(contents, workspace) / "incoming" / name).write_bytes(data)

    @pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
    def test_7_what_is_no_plain_file_is_not_adopted(
        self, contents: Contents, run: Run, tmp_path: Path, kind: str
    ) -> None:
        target, path = tmp_path / "secret", _folder(contents, WORKSPACE) / "incoming" / NAME
        target.write_bytes(b"12345")
        if kind == "link":
            path.symlink_to(target)
        elif kind == "hard link":
            path.hardlink_to(target)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(InvalidError):
            run(contents.adopt(WORKSPACE, NAME, 5))
        assert run(contents.absent(WORKSPACE, [whole(b"12345").digest])) == [whole(b"12345").digest]
        assert target.read_bytes() == b"12345"


def _folder(contents: Contents, workspace: str) -> Path:
    found = contents.folder(workspace)
    assert found is not None
    return found
