"""Blobs in a bucket, and what is near of them: the contract with a server of buckets, and what becomes of failures."""

import asyncio
import os

import pytest
from tests.conformance.s3_buckets import open_bucket, settings, spoil

from jitney.drivers.blobs.cached import CachedBlobs
from jitney.drivers.blobs.localdir import LocalBlobs
from jitney.drivers.blobs.s3 import S3Blobs
from jitney.drivers.contents.s3 import S3Contents
from jitney.drivers.sources.localdir import LocalSources
from jitney.errors import (
    BucketAccessError,
    BucketError,
    BucketUnavailableError,
    NotFoundError,
    StorageError,
    StorageFullError,
)
from jitney.testing.buckets import KEYS, PASS, Fault, s3_server
from jitney.testing.conformance.blobs import FOR_EVER, BlobContract
from jitney.testing.conformance.contents import WORKSPACE, parts, sample
from jitney.testing.conformance.running import Running
from jitney.testing.conformance.sources import SourceContract

pytest.importorskip("obstore", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs moto, of the extra dev")

SPACE = "main"


def name_of(digest):
    return f"{SPACE}/blobs/{digest[:2]}/{digest}"


def new_prefix():
    return f"b-{os.urandom(6).hex()}"


class TestS3Blobs(BlobContract):
    @pytest.fixture(autouse=True)
    def at(self, server):
        self.url, self.prefix = server.url, new_prefix()

    def make(self, folder):
        return S3Blobs(settings(self.url, self.prefix), SPACE, owner="us")

    def test_3_a_damaged_content_counts_as_missing(self, blobs, run, tmp_path):
        first, second = run(blobs.put([b"first", b"second"]))
        for digest in (first, second):
            run(blobs._bucket.put(name_of(digest), b"damaged"))
        with pytest.raises(NotFoundError):
            run(blobs.read(first))
        with pytest.raises(NotFoundError):
            run(blobs.place(second, tmp_path / "x"))
        assert not (tmp_path / "x").exists()
        assert run(blobs.missing([first, second])) == [first, second]
        assert run(blobs.put([b"first"])) == [first]
        assert run(blobs.read(first)) == b"first"

    def test_many_are_put_and_listed_over_pages(self, blobs, run):
        contents = [b"%d" % one for one in range(1_200)]
        digests = run(blobs.put(contents))
        assert run(blobs.old(FOR_EVER)) == sorted(digests)
        assert run(blobs.missing(digests)) == []
        run(blobs.remove(digests))
        assert run(blobs.old(FOR_EVER)) == []

    def test_workspaces_are_apart(self, blobs, run):
        [digest] = run(blobs.put([b"ours"]))
        other = S3Blobs(settings(self.url, self.prefix), "another", owner="us")
        assert run(other.missing([digest])) == [digest]
        run(other.put([b"ours"]))
        run(other.remove([digest]))
        assert run(blobs.read(digest)) == b"ours"

    def test_two_servers_do_not_share_a_prefix(self, blobs, run, tmp_path):
        [digest] = run(blobs.put([b"ours"]))
        other = S3Blobs(settings(self.url, self.prefix), SPACE, owner="them")
        for ask in (
            other.missing([digest]),
            other.put([b"x"]),
            other.read(digest),
            other.old(0),
            other.remove([digest]),
        ):
            with pytest.raises(BucketError, match="another server"):
                run(ask)
        assert run(blobs.read(digest)) == b"ours"

    def test_files_of_volumes_and_these_share_a_prefix_and_leave_each_other_alone(self, blobs, run, tmp_path):
        volumes = S3Contents(settings(self.url, self.prefix), tmp_path, owner="us")
        data, content = sample(10)
        [digest] = run(blobs.put([b"a source"]))
        run(volumes.put(WORKSPACE, parts(data, content)))
        assert run(blobs.old(FOR_EVER)) == [digest]
        assert [one.digest for one in run(volumes.old(FOR_EVER))] == [content.digest]
        run(volumes.sweep(FOR_EVER))
        assert run(blobs.read(digest)) == b"a source"


class TestFailures(Running):
    """A proxy between spoils what it is told to."""

    @pytest.fixture
    def blobs(self, proxy):
        return S3Blobs(open_bucket(proxy.url, new_prefix(), answer_s=20, tries=20), SPACE, owner="us")

    @pytest.mark.parametrize("fault", [
        Fault(500), Fault(503, "SlowDown"), Fault(429, "TooManyRequests"), Fault(500, after=True),
    ])  # fmt: skip
    def test_what_fails_for_a_moment_is_asked_again(self, blobs, proxy, run, fault):
        for method in ("PUT", "GET", "HEAD", "POST"):
            spoil(proxy, [fault] * 3, method)
            [digest] = run(blobs.put([method.encode()]))
            assert run(blobs.missing([digest])) == []
            assert run(blobs.read(digest)) == method.encode()
            assert digest in run(blobs.old(FOR_EVER))
            run(blobs.remove([digest]))
            assert run(blobs.missing([digest])) == [digest]

    @pytest.mark.parametrize("cut", [0, 1, 99_999])
    def test_an_answer_that_is_cut_off_is_asked_for_again(self, blobs, proxy, run, tmp_path, cut):
        data = os.urandom(100_000)
        [digest] = run(blobs.put([data]))
        spoil(proxy, [Fault(cut=cut)] * 2, "GET", "/blobs/")
        run(blobs.place(digest, tmp_path / "x"))
        assert (tmp_path / "x").read_bytes() == data
        assert run(blobs.missing([digest])) == []

    @pytest.mark.parametrize("fault", [Fault(500), Fault(503, "SlowDown")])
    def test_what_keeps_failing_is_told_with_its_reason(self, blobs, proxy, run, fault, tmp_path):
        [digest] = run(blobs.put([b"x"]))
        proxy.plan = lambda method, path: fault
        for ask in (
            blobs.put([b"y"]),
            blobs.read(digest),
            blobs.missing([digest]),
            blobs.old(0),
            blobs.remove([digest]),
        ):
            with pytest.raises(BucketUnavailableError, match=r"cannot be used now .*: check") as caught:
                run(ask)
            assert caught.value.retryable
        with pytest.raises(BucketUnavailableError):
            run(blobs.place(digest, tmp_path / "x"))
        assert not (tmp_path / "x").exists()
        proxy.plan = lambda method, path: PASS
        assert run(blobs.read(digest)) == b"x"

    def test_one_that_never_answers_is_given_up(self, proxy, run):
        blobs = S3Blobs(open_bucket(proxy.url, answer_s=0.2, tries=2), SPACE)
        proxy.plan = lambda method, path: Fault(hangs=True)
        with pytest.raises(BucketUnavailableError):
            run(blobs.put([b"x"]))

    @pytest.mark.parametrize("status, code, kind", [
        (403, "SignatureDoesNotMatch", BucketAccessError), (403, "AccessDenied", BucketAccessError),
        (400, "ExpiredToken", BucketAccessError), (507, "XMinioStorageFull", StorageFullError),
        (403, "QuotaExceeded", StorageFullError), (301, "region", BucketError),
    ])  # fmt: skip
    def test_what_is_wrong_for_good_is_told_at_once(self, blobs, proxy, run, status, code, kind, caplog):
        run(blobs.missing([]))  # the prefix is ours
        proxy.asked.clear()
        spoil(proxy, [Fault(status, code)] * 9, "PUT")
        with pytest.raises(kind) as caught:
            run(blobs.put([b"x"]))
        assert code in str(caught.value)
        assert len(proxy.asked) == 1
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in f"{caught.value!r}{caught.value}{caplog.text}"

    def test_a_put_that_failed_in_its_middle_is_right_to_do_again(self, blobs, proxy, run):
        contents = [b"%d" % one for one in range(40)]
        left = [PASS] * 20 + [Fault(507, "XMinioStorageFull")]
        proxy.plan = lambda method, path: left.pop(0) if left else PASS
        with pytest.raises(StorageFullError):
            run(blobs.put(contents))
        digests = run(blobs.put(contents))
        assert [run(blobs.read(digest)) for digest in digests] == contents

    def test_a_bucket_that_is_not_there(self, server, run):
        blobs = S3Blobs(open_bucket(server.url, bucket="no-such-bucket"), SPACE, owner="us")
        with pytest.raises(BucketError, match="there is no bucket 'no-such-bucket'"):
            run(blobs.put([b"x"]))

    def test_placing_on_a_disk_that_refuses(self, blobs, run, tmp_path):
        [digest] = run(blobs.put([b"x"]))
        with pytest.raises(StorageError, match="nowhere"):
            run(blobs.place(digest, tmp_path / "nowhere" / "x"))


def test_wrong_credentials():
    async def ask(url):
        await S3Blobs(open_bucket(url), SPACE).read("0" * 64)

    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="2") as strict:
        strict.make_bucket("contents")
        with pytest.raises(BucketAccessError, match="InvalidAccessKeyId"):
            asyncio.run(ask(strict.url))


def test_a_wrong_key_is_found_where_signatures_are_checked(server):
    if not server.admin:
        pytest.skip("moto takes any signature")
    wrong = {**KEYS, "AWS_SECRET_ACCESS_KEY": "another"}
    with pytest.raises(BucketAccessError, match="SignatureDoesNotMatch"):
        asyncio.run(S3Blobs(open_bucket(server.url, credentials=wrong), SPACE).read("0" * 64))


class TestCachedInABucket(BlobContract):
    """As it is composed."""

    @pytest.fixture(autouse=True)
    def at(self, server):
        self.url, self.prefix = server.url, new_prefix()

    def make(self, folder):
        return CachedBlobs(S3Blobs(settings(self.url, self.prefix), SPACE), LocalBlobs(folder, synced=False))


class TestSourcesInABucket(SourceContract):
    """Sources whose contents are in one."""

    @pytest.fixture(autouse=True)
    def at(self, server):
        self.url, self.prefix = server.url, new_prefix()

    def make(self, folder):
        far = S3Blobs(settings(self.url, self.prefix), SPACE)
        return LocalSources(folder / "sources", CachedBlobs(far, LocalBlobs(folder / "near", synced=False)))

    def test_a_damaged_tree_is_made_anew_from_the_bucket(self, sources, run, files, tmp_path):
        source_id = run(sources.create(files))
        root = run(sources.path(source_id))
        (root / "main.py").unlink()
        for near in (tmp_path / "home" / "near").iterdir():
            near.unlink()
        again = self.make(tmp_path / "home")
        assert (run(again.path(source_id)) / "main.py").read_bytes() == b"import pkg.mod\n"
