"""Variables that only the fork gets: read from a pipe, and not there while a snapshot method runs."""

import asyncio
import json
import os

import pytest

from jitney.runner import process, state
from jitney.runner.load import _as_in_template


@pytest.fixture
def private(monkeypatch):
    monkeypatch.setenv("PRIVATE", "swordfish")
    monkeypatch.setenv("OPEN", "x")
    monkeypatch.setattr(state, "private", ("PRIVATE", "GONE_ALREADY"))


def test_variables_come_through_a_pipe_that_is_closed_then():
    reader, writer = os.pipe()
    os.write(writer, json.dumps({"A": "1", "B": "ä\n"}).encode())
    os.close(writer)
    assert process.read_private(reader) == {"A": "1", "B": "ä\n"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_a_snapshot_method_that_a_container_runs_itself_does_not_see_them(private):
    seen = []

    def hook():
        seen.append((os.environ.get("PRIVATE"), os.environ.get("OPEN")))

    async def hook_async():
        hook()

    _as_in_template(hook)()
    asyncio.run(_as_in_template(hook_async)())
    hook()
    assert seen == [(None, "x"), (None, "x"), ("swordfish", "x")]


def test_they_are_back_after_one_that_raises(private):
    def hook():
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        _as_in_template(hook)()
    assert os.environ["PRIVATE"] == "swordfish"


def test_without_any_a_method_is_itself():
    assert _as_in_template(print) is print
