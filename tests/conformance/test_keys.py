"""The rings of keys, and what is particular to the one in a file."""

import asyncio
import os
import stat

import pytest

from jitney.drivers.keys.fake import FakeKms
from jitney.drivers.keys.file import FileKeys, id_of
from jitney.errors import ConnectionError, EncryptionKeyError
from jitney.testing.conformance.keys import ABOUT, DATA_KEY, KeyContract

FAKES = {}


class TestFileKeys(KeyContract):
    def make(self, folder):
        return FileKeys(folder / "secrets.key")

    def lose(self, folder):
        (folder / "secrets.key").unlink()


class TestFakeKms(KeyContract):
    def make(self, folder):
        return FakeKms(keys=FAKES.setdefault(folder, {}))

    def lose(self, folder):
        FAKES[folder].clear()


def run(work):
    return asyncio.run(work)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "secrets.key"


def test_the_file_is_its_owners_alone_and_whole(path):
    run(FileKeys(path).wrap(DATA_KEY, ABOUT))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["secrets.key"]
    header, line = path.read_text().splitlines()
    assert header.startswith("# ")
    assert line.startswith("kf-")


def test_a_file_that_others_can_read_is_refused_with_a_remedy(path):
    wrapped = run(FileKeys(path).wrap(DATA_KEY, ABOUT))
    path.chmod(0o640)
    for work in (FileKeys(path).unwrap(wrapped, ABOUT), FileKeys(path).wrap(DATA_KEY, ABOUT), FileKeys(path).rotate()):
        with pytest.raises(EncryptionKeyError, match=r"mode 640.*chmod 600"):
            run(work)


@pytest.mark.parametrize("damage", ["cut", "changed", "garbage", "swapped", "empty", "bytes"])
def test_a_damaged_file_is_refused_and_never_written_over(path, damage):
    keys = FileKeys(path)
    wrapped = run(keys.wrap(DATA_KEY, ABOUT))
    run(keys.rotate())
    text = path.read_text()
    rows = text.splitlines()
    other = "A" if rows[1][25] != "A" else "B"
    damaged = {
        "cut": text[:-20],
        "changed": text.replace(rows[1], f"{rows[1][:25]}{other}{rows[1][26:]}"),
        "garbage": text + "what is this\n",
        "swapped": f"{rows[0]}\n{rows[1].split()[0]} {rows[2].split()[1]}\n",
        "empty": "",
        "bytes": "\0" * 50,
    }[damage]
    path.write_text(damaged)
    for work in (keys.unwrap(wrapped, ABOUT), keys.wrap(DATA_KEY, ABOUT), keys.rotate(), keys.missing(["x"])):
        with pytest.raises(EncryptionKeyError, match="copy"):
            run(work)
    assert path.read_text() == damaged


def test_a_link_in_its_place_is_refused(path, tmp_path):
    run(FileKeys(tmp_path / "real").wrap(DATA_KEY, ABOUT))
    path.symlink_to(tmp_path / "real")
    with pytest.raises(EncryptionKeyError, match="cannot be read"):
        run(FileKeys(path).wrap(DATA_KEY, ABOUT))


def test_a_folder_that_cannot_be_written_leaves_the_old_file(path, monkeypatch):
    keys = FileKeys(path)
    wrapped = run(keys.wrap(DATA_KEY, ABOUT))
    (path.parent / ".secrets.key.partial").mkdir()  # what it would write first
    with pytest.raises((EncryptionKeyError, IsADirectoryError, PermissionError)):
        run(keys.rotate())
    assert run(keys.unwrap(wrapped, ABOUT)) == DATA_KEY


def test_ids_tell_nothing_of_keys_and_differ():
    assert id_of(bytes(32)) != id_of(bytes(31) + b"\1")
    assert len(id_of(bytes(32))) == 19


def test_the_fake_misbehaves_on_request():
    kms = FakeKms()
    wrapped = run(kms.wrap(DATA_KEY, ABOUT))
    kms.fail(ConnectionError("the service does not answer"))
    with pytest.raises(ConnectionError):
        run(kms.unwrap(wrapped, ABOUT))
    assert run(kms.unwrap(wrapped, ABOUT)) == DATA_KEY
    assert kms.requests == ["wrap", "unwrap", "unwrap"]
