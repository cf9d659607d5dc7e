"""Contents in a bucket: the contract against a server of buckets, and what becomes of its failures."""

import asyncio
import errno
import logging
import os
import sys

import pytest
from tests.conformance.s3_buckets import open_bucket, settings, spoil

from jitney.core.volumes import whole
from jitney.drivers.contents.s3 import S3Contents, layout, reading
from jitney.drivers.contents.s3.fetching import Fetcher
from jitney.drivers.contents.s3.place import Place
from jitney.drivers.s3.address import Address, parse
from jitney.drivers.s3.bucket import judge
from jitney.errors import (
    BucketAccessError,
    BucketError,
    BucketUnavailableError,
    InvalidError,
    NotFoundError,
    StorageCorruptError,
    StorageFullError,
    UnsupportedError,
)
from jitney.ports.contents import Stored
from jitney.testing.buckets import KEYS, PASS, Fault, s3_server
from jitney.testing.conformance.contents import NAME, WORKSPACE, ContentsOnDiskContract, parts, sample
from jitney.testing.conformance.running import Running
from jitney.values.volumes import BLOCK_BYTES

pytest.importorskip("obstore", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto, of the extra dev")


class TestS3Contents(ContentsOnDiskContract):
    @pytest.fixture(autouse=True)
    def at(self, server, tmp_path):
        self.url, self.prefix = server.url, f"p-{os.urandom(6).hex()}"

    def make(self, folder, now_ms):
        return S3Contents(settings(self.url, self.prefix), folder, owner="us", now_ms=now_ms)

    def test_two_servers_do_not_share_a_prefix(self, contents, run, tmp_path):
        data, content = sample(9)
        run(contents.put(WORKSPACE, parts(data, content)))
        other = S3Contents(settings(self.url, self.prefix), tmp_path / "other", owner="them")
        with pytest.raises(BucketError, match="another server"):
            run(other.absent(WORKSPACE, [content.digest]))
        again = S3Contents(settings(self.url, self.prefix), tmp_path / "other", owner="us")
        assert run(again.absent(WORKSPACE, [content.digest])) == []

    def test_what_was_adopted_is_on_this_machine_too(self, contents, run):
        data, content = sample(BLOCK_BYTES + 3)
        self.place(contents, WORKSPACE, NAME, data)
        run(contents.adopt(WORKSPACE, NAME, len(data)))
        path = contents.folder(WORKSPACE) / "files" / content.digest[:2] / content.digest
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o444
        assert os.listdir(contents.folder(WORKSPACE) / "incoming") == []

    def test_blocks_of_what_was_removed_go_with_the_next_sweep(self, contents, run, clock):
        data, content = sample(2 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        clock.now_ms += 10
        assert run(contents.sweep(clock.now_ms)) == 0
        assert run(contents.remove(WORKSPACE, [content.digest], clock.now_ms)) == [content.digest]
        with pytest.raises(NotFoundError):
            run(contents.read(WORKSPACE, content.digest, 0, 1))
        assert run(contents.sweep(clock.now_ms)) == 1
        assert run(contents.sweep(clock.now_ms)) == 0
        assert run(contents.begin(WORKSPACE, content, {})) == [0, 1]

    def test_6_what_an_earlier_server_was_just_given_is_not_removed(self, contents, run, tmp_path, clock):
        data, content = sample(10)
        run(contents.put(WORKSPACE, parts(data, content)))
        later = self.make(tmp_path / "contents", clock)
        assert run(later.old(1)) == []
        assert run(later.remove(WORKSPACE, [content.digest], 1)) == []
        assert run(later.old(clock.now_ms)) == [Stored(WORKSPACE, content.digest)]
        assert run(later.remove(WORKSPACE, [content.digest], clock.now_ms)) == [content.digest]

    def test_6_who_asks_while_it_is_removed_is_told_the_truth(self, contents, run, clock):
        data, content = sample(10)

        async def story():
            await contents.put(WORKSPACE, parts(data, content))
            clock.now_ms += 3_600_000
            removed, absent = await asyncio.gather(
                contents.remove(WORKSPACE, [content.digest], clock.now_ms), contents.absent(WORKSPACE, [content.digest])
            )
            assert removed == absent
            _again, gone = await asyncio.gather(
                contents.put(WORKSPACE, parts(data, content)),
                contents.remove(WORKSPACE, [content.digest], clock.now_ms),
            )
            if content.digest not in gone:
                assert await contents.read(WORKSPACE, content.digest, 0, 10) == data

        run(story())


class TestFailures(Running):
    """A proxy between spoils what it is told to."""

    @pytest.fixture
    def contents(self, proxy, tmp_path):
        prefix = f"f-{os.urandom(6).hex()}"
        return S3Contents(open_bucket(proxy.url, prefix, answer_s=20, tries=20), tmp_path, owner="us")

    @pytest.mark.parametrize("fault", [
        Fault(500), Fault(503, "SlowDown"), Fault(429, "TooManyRequests"), Fault(500, after=True),
    ])  # fmt: skip
    def test_what_fails_for_a_moment_is_asked_again(self, contents, proxy, run, fault):
        data, content = sample(BLOCK_BYTES + 9)
        for method in ("PUT", "GET", "HEAD"):
            spoil(proxy, [fault] * 3, method)
            run(contents.begin(WORKSPACE, content, {}))
            run(contents.put(WORKSPACE, parts(data, content)))
            assert run(contents.read(WORKSPACE, content.digest, 0, content.size)) == data

    @pytest.mark.parametrize("cut", [0, 1, 5_000_000])
    def test_an_answer_that_is_cut_off_is_asked_for_again(self, contents, proxy, run, tmp_path, cut):
        data, content = sample(BLOCK_BYTES + 9)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        spoil(proxy, [Fault(cut=cut)] * 2, "GET", "/blocks/")
        assert run(contents.read(WORKSPACE, content.digest, 0, content.size)) == data
        fetcher = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        spoil(proxy, [Fault(cut=cut)] * 2, "GET", "/blocks/")
        run(fetcher.fetch([content.digest]))
        assert fetcher.path(content.digest).read_bytes() == data

    @pytest.mark.parametrize("fault", [Fault(500), Fault(503, "SlowDown"), Fault(500, after=True)])
    def test_what_keeps_failing_is_told_with_its_reason(self, contents, proxy, run, fault):
        data, content = sample(100)
        proxy.plan = lambda method, path: fault
        with pytest.raises(BucketUnavailableError, match=r"cannot be used now .*: check") as caught:
            run(contents.put(WORKSPACE, parts(data, content)))
        assert caught.value.retryable
        assert len(proxy.asked) >= 4

    def test_one_that_never_answers_is_given_up(self, proxy, run, tmp_path):
        contents = S3Contents(open_bucket(proxy.url, answer_s=0.2, tries=2), tmp_path)
        proxy.plan = lambda method, path: Fault(hangs=True)
        with pytest.raises(BucketUnavailableError):
            run(contents.absent(WORKSPACE, [whole(b"x").digest]))

    def test_one_that_is_not_there_is_given_up(self, run, tmp_path):
        contents = S3Contents(open_bucket("http://127.0.0.1:1", tries=2), tmp_path)
        with pytest.raises(BucketUnavailableError):
            run(contents.read(WORKSPACE, whole(b"x").digest, 0, 1))

    def test_a_content_whose_last_step_failed_is_not_there_and_is_gone_on_with(self, contents, proxy, run):
        data, content = sample(2 * BLOCK_BYTES)
        first, second = parts(data, content)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, [first]))
        proxy.plan = lambda method, path: Fault(500) if method == "PUT" and "/files/" in path else PASS
        with pytest.raises(BucketUnavailableError):
            run(contents.put(WORKSPACE, [second]))
        assert run(contents.absent(WORKSPACE, [content.digest])) == [content.digest]
        with pytest.raises(NotFoundError):
            run(contents.read(WORKSPACE, content.digest, 0, 1))
        proxy.plan, proxy.asked[:] = lambda method, path: PASS, []
        run(contents.put(WORKSPACE, [second]))
        assert not [path for method, path in proxy.asked if method == "PUT" and "/blocks/" in path]
        assert run(contents.read(WORKSPACE, content.digest, 0, content.size)) == data

    def test_a_bucket_that_is_not_there(self, server, run, tmp_path):
        contents = S3Contents(open_bucket(server.url, bucket="no-such-bucket"), tmp_path, owner="us")
        data, content = sample(5)
        with pytest.raises(BucketError, match="there is no bucket 'no-such-bucket'"):
            run(contents.put(WORKSPACE, parts(data, content)))

    @pytest.mark.parametrize("status, code, kind", [
        (403, "SignatureDoesNotMatch", BucketAccessError), (403, "AccessDenied", BucketAccessError),
        (400, "ExpiredToken", BucketAccessError), (507, "XMinioStorageFull", StorageFullError),
        (403, "QuotaExceeded", StorageFullError), (301, "region", BucketError),
    ])  # fmt: skip
    def test_what_is_wrong_for_good_is_told_at_once(self, contents, proxy, run, status, code, kind, caplog):
        data, content = sample(5)
        spoil(proxy, [Fault(status, code)] * 9, "PUT")
        with caplog.at_level(logging.DEBUG), pytest.raises(kind) as caught:
            run(contents.put(WORKSPACE, parts(data, content)))
        assert code in str(caught.value)
        assert len(proxy.asked) == 1
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in f"{caught.value!r}{caught.value}{caplog.text}"

    def test_a_damaged_block_is_not_brought(self, contents, run, tmp_path):
        data, content = sample(2 * BLOCK_BYTES)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        one = Stored(WORKSPACE, content.digest)
        run(contents._bucket.put(layout.block_name(one, 1), b"x" * BLOCK_BYTES))
        fetcher = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        with pytest.raises(StorageCorruptError):
            run(fetcher.fetch([content.digest]))
        assert not fetcher.path(content.digest).exists()
        assert os.listdir(tmp_path / "here" / WORKSPACE / "incoming") == []

    def test_a_disk_that_refuses_is_no_failure_of_the_bucket(self, contents, proxy, run, tmp_path, monkeypatch):
        data, content = sample(BLOCK_BYTES + 9)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))

        def write_at(file, offset, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(reading, "write_at", write_at)
        fetcher = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        proxy.asked.clear()
        with pytest.raises(StorageFullError):
            run(fetcher.fetch([content.digest]))
        assert len([path for _, path in proxy.asked if "/blocks/" in path]) <= content.count
        assert os.listdir(tmp_path / "here" / WORKSPACE / "incoming") == []

    def test_what_may_not_be_on_the_disk_is_fetched_again(self, contents, run, tmp_path, monkeypatch):
        data, content = sample(BLOCK_BYTES + 9)
        run(contents.begin(WORKSPACE, content, {}))
        run(contents.put(WORKSPACE, parts(data, content)))
        fetcher = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        monkeypatch.setattr(Place, "sync", lambda place, one: None)  # the machine went down before
        run(fetcher.fetch([content.digest]))
        run(fetcher.synced())
        fetcher.path(content.digest).chmod(0o644)
        fetcher.path(content.digest).write_bytes(bytes(len(data)))  # what the disk may have then
        monkeypatch.undo()
        again = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        assert again.forget_half() == 1
        run(again.fetch([content.digest]))
        run(again.synced())
        assert again.path(content.digest).read_bytes() == data
        assert again.forget_half() == 0
        assert again.path(content.digest).read_bytes() == data

    def test_contents_are_fetched_once(self, contents, proxy, run, tmp_path):
        samples = [sample(size) for size in (0, 10, BLOCK_BYTES, 2 * BLOCK_BYTES + 1)]
        for data, content in samples:
            run(contents.begin(WORKSPACE, content, {}))
            run(contents.put(WORKSPACE, parts(data, content)))
        fetcher = Fetcher(contents._bucket, tmp_path / "here", WORKSPACE)
        digests = [content.digest for _, content in samples]

        async def both():
            await asyncio.gather(fetcher.fetch(digests), fetcher.fetch(digests))

        proxy.asked.clear()
        run(both())
        assert [fetcher.path(content.digest).read_bytes() for _, content in samples] == [data for data, _ in samples]
        assert len(proxy.asked) == 4 + 3
        run(fetcher.fetch(digests))
        assert len(proxy.asked) == 4 + 3
        with pytest.raises(NotFoundError):
            run(fetcher.fetch([whole(b"never").digest]))


def test_wrong_credentials(tmp_path):
    async def ask(url, credentials):
        contents = S3Contents(open_bucket(url, credentials=credentials), tmp_path)
        await contents.read(WORKSPACE, whole(b"x").digest, 0, 1)

    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="2") as strict:
        strict.make_bucket("contents")
        with pytest.raises(BucketAccessError, match="InvalidAccessKeyId"):
            asyncio.run(ask(strict.url, KEYS))


def test_no_credentials():
    """The machine was asked for those of its role, and has none."""
    error = RuntimeError("Error performing PUT http://169.254.169.254/latest/api/token: status code: 403 Forbidden")
    judged = judge(error, Address("b", ""))
    assert isinstance(judged, BucketAccessError)
    assert "AWS_ACCESS_KEY_ID" in str(judged)


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UnsupportedError, match=r"jitney\[s3\]"):
        S3Contents(settings("http://127.0.0.1:1"), tmp_path)


@pytest.mark.parametrize(
    "address", ["", "s3://", "http://a", "s3://a", "s3://UPPER CASE", "s3://buck/../x", "s3://b?x"]
)
def test_what_is_no_address(address):
    with pytest.raises(InvalidError):
        parse(address)


def test_addresses():
    assert parse("s3://bucket") == ("bucket", "")
    assert str(parse("s3://bucket//a/b/")) == "s3://bucket/a/b"
    assert "secret" not in repr(settings("http://127.0.0.1:1"))
