"""The rings of keys, and what is particular to the one in a file."""

import asyncio
import base64
import os
import stat
import sys

import pytest

from jitney.drivers.keys.command import OUTPUT_BYTES_MAX, KeyCommand
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


def command(folder, key=bytes(range(32)), name="root"):
    """A command that gives a key, as a vault would."""
    (folder / name).write_text(base64.b64encode(key).decode() + "\n")
    return KeyCommand(["cat", str(folder / name)], option="secrets_key_command")


class TestKeysUnderACommand(KeyContract):
    def make(self, folder):
        return FileKeys(folder / "secrets.key", covers=[command(folder)])

    def lose(self, folder):
        (folder / "secrets.key").unlink()


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


# ------------------------------------------------------------------------------------------------ under a command


def test_the_file_alone_is_of_no_use(path, tmp_path):
    wrapped = run(FileKeys(path, covers=[command(tmp_path)]).wrap(DATA_KEY, ABOUT))
    [line] = path.read_text().splitlines()[1:]
    assert len(base64.b64decode(line.split()[2])) == 12 + 32 + 16
    with pytest.raises(EncryptionKeyError, match=r"sealed with another one, kf-.*secrets_key_command"):
        run(FileKeys(path).unwrap(wrapped, ABOUT))
    with pytest.raises(EncryptionKeyError, match=r"gives another key.*secrets_key_command_before"):
        run(FileKeys(path, covers=[command(tmp_path, b"o" * 32, "other")]).unwrap(wrapped, ABOUT))


def test_the_key_of_the_command_is_changed_by_a_rotation(path, tmp_path):
    old, new = command(tmp_path, b"a" * 32, "old"), command(tmp_path, b"b" * 32, "new")
    first = run(FileKeys(path, covers=[old]).wrap(DATA_KEY, ABOUT))
    both = FileKeys(path, covers=[new, old])
    assert run(both.unwrap(first, ABOUT)) == DATA_KEY
    run(both.rotate())
    alone = FileKeys(path, covers=[new])
    assert run(alone.unwrap(first, ABOUT)) == DATA_KEY
    with pytest.raises(EncryptionKeyError):
        run(FileKeys(path, covers=[old]).unwrap(first, ABOUT))


def test_keys_that_were_there_before_the_command_are_sealed_by_a_rotation(path, tmp_path):
    before = FileKeys(path)
    first = run(before.wrap(DATA_KEY, ABOUT))
    covered = FileKeys(path, covers=[command(tmp_path)])
    assert run(covered.unwrap(first, ABOUT)) == DATA_KEY
    run(covered.rotate())
    assert [len(line.split()) for line in path.read_text().splitlines()[1:]] == [3, 3]
    assert run(FileKeys(path, covers=[command(tmp_path)]).unwrap(first, ABOUT)) == DATA_KEY


def test_a_line_in_the_place_of_another_is_found_out(path, tmp_path):
    keys = FileKeys(path, covers=[command(tmp_path)])
    run(keys.wrap(DATA_KEY, ABOUT))
    run(keys.rotate())
    header, one, two = path.read_text().splitlines()
    path.write_text("\n".join([header, f"{two.split()[0]} {' '.join(one.split()[1:])}", ""]))
    with pytest.raises(EncryptionKeyError, match="line 2 is damaged"):
        run(keys.missing([]))


def test_the_command_runs_once_and_its_bytes_may_be_raw(tmp_path):
    program = "import os, sys; open('ran', 'a').write('x'); sys.stdout.buffer.write(bytes(range(32)))"
    script = f"import os; os.chdir({str(tmp_path)!r}); {program}"
    asked = KeyCommand([sys.executable, "-c", script], option="secrets_key_command")
    assert [asked.key(), asked.key()] == [bytes(range(32))] * 2
    assert (tmp_path / "ran").read_text() == "x"
    assert repr(bytes(range(32))) not in repr(asked)


PRINTED = "Zm9vYmFyZm9vYmFy"  # it must be in no message


@pytest.mark.parametrize(
    "argv, told",
    [
        (["/nowhere/vault"], r"'/nowhere/vault' \(`secrets_key_command`\), cannot be run \(No such file"),
        (["bad\0name"], "cannot be run"),
        (
            ["sh", "-c", f"echo {PRINTED}; echo permission denied for {PRINTED} >&2; exit 3"],
            r"code 3\): permission .*\*\*\*",
        ),
        (["sh", "-c", "kill -9 $$"], r"signal 9\): it said nothing"),
        (["echo", PRINTED], "printed 17 bytes, which are no key: have it print 32 bytes"),
        (["true"], "printed 0 bytes"),
        (["head", "-c", str(OUTPUT_BYTES_MAX * 20), "/dev/zero"], "printed more than 4,096 bytes"),
        (["sh", "-c", "echo waiting >&2; sleep 1000 & wait"], r"did not end within 0.5 s: waiting"),
        (["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' y >&2; exit 1"], r"code 1\): y{500}:"),
    ],
)
def test_what_a_command_does_wrong_is_told_and_its_output_is_not(argv, told):
    asked = KeyCommand(argv, option="secrets_key_command", timeout_s=0.5 if "sleep" in str(argv) else 30.0)
    with pytest.raises(EncryptionKeyError, match=told) as error:
        asked.key()
    assert error.value.hint
    assert PRINTED not in str(error.value)


def test_nothing_is_made_while_the_command_fails(path):
    keys = FileKeys(path, covers=[KeyCommand(["false"], option="secrets_key_command")])
    for work in (keys.wrap(DATA_KEY, ABOUT), keys.rotate(), keys.missing([])):
        with pytest.raises(EncryptionKeyError, match="exit code 1"):
            run(work)
    assert not path.exists()
