"""A fake server and fake workers, ended after each test."""

from __future__ import annotations

import itertools
import os
import shutil
import textwrap

import pytest

from jitney.runner.segments import SegmentPool, prepare
from tests.runner.fake_server import FakeServer
from tests.runner.fake_worker import FakeWorker

_numbers = itertools.count()


@pytest.fixture
def segments(tmp_path):
    """A folder of segments, in shared memory where there is some."""
    root = f"/dev/shm/jitney-test-{os.getpid()}-{next(_numbers)}" if os.path.isdir("/dev/shm") else str(tmp_path / "s")
    prepare(root)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def server(tmp_path, segments):
    """A fake server with shared memory and a folder of blobs."""
    (tmp_path / "blobs").mkdir()
    pool = SegmentPool(segments, "so-1")
    with FakeServer(str(tmp_path / "r.sock"), pool=pool, blobs=str(tmp_path / "blobs")) as fake:
        yield fake
    pool.close()


@pytest.fixture
def worker(server, tmp_path):
    """`worker(code, **options)` starts a template that imports `code`, and waits until it has."""
    started = []

    def start(code: str, *, wait: bool = True, **options):
        name = f"user_code_{next(_numbers)}"
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / f"{name}.py").write_text(textwrap.dedent(code))
        folder = tmp_path / "scratch"
        folder.mkdir(exist_ok=True)
        fake = FakeWorker(server, source=str(source), module=name, folder=str(folder), **options)
        started.append(fake)
        if wait:
            fake.loaded()
        return fake

    yield start
    for fake in started:
        fake.close()
