"""`jitney volume` as a person uses it: with a server of its own, and by the display alone."""

import json
import os

import pytest

from jitney.cli.progress import Plain
from jitney.cli.screen import Screen, transfer_line
from jitney.values.volumes import BLOCK_BYTES


@pytest.mark.e2e
def test_a_volume_from_its_making_to_its_end(shell):
    assert shell.run("volume", "list")[0] == "no volumes\n"
    assert not shell.home.store.exists()  # looking starts no server
    big = os.urandom(2 * BLOCK_BYTES + 5)
    (shell.place / "model").mkdir()
    (shell.place / "model" / "big.bin").write_bytes(big)
    shell.write("model/run.sh", "#!/bin/sh\n").chmod(0o755)
    assert "no volume 'weights'" in shell.run("volume", "ls", "weights", code=3)[1]
    shell.run("volume", "create", "weights")
    assert "version 1: 3 put" in shell.run("volume", "put", "weights", "model")[0]
    assert "force" in shell.run("volume", "put", "weights", "model", code=5)[1]
    assert "nothing to change" in shell.run("volume", "put", "weights", "model", "--force")[0]
    listed = json.loads(shell.run("volume", "ls", "weights", "--recursive", "--json")[0])
    assert [(one["path"], one["size"]) for one in listed] == [
        ("model", 0), ("model/big.bin", len(big)), ("model/run.sh", 10),
    ]  # fmt: skip
    table = shell.run("volume", "ls", "weights", "/model")[0]
    assert "model/run.sh   0755  10 B" in table
    shell.run("volume", "cp", "weights", "/model/run.sh", "/copy.sh")
    shell.run("volume", "mv", "weights", "/copy.sh", "/model")
    assert "recursive" in shell.run("volume", "rm", "weights", "/model", code=2)[1]
    shell.run("volume", "rm", "weights", "/model", "--recursive")
    assert shell.run("volume", "ls", "weights")[0] == "nothing is there\n"
    [newest, *_, first] = json.loads(shell.run("volume", "history", "weights", "--json")[0])
    assert (newest["version"], first["version"], newest["files"]) == (4, 1, 0)
    assert "version 5" in shell.run("volume", "restore", "weights", "3")[0]
    assert shell.run("volume", "get", "weights", "/model/copy.sh", "-")[0] == "#!/bin/sh\n"
    assert "3 files" in shell.run("volume", "get", "weights", "/model", "back")[0]
    assert (shell.place / "back" / "big.bin").read_bytes() == big
    assert (shell.place / "back" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert "force" in shell.run("volume", "get", "weights", "/model/run.sh", "back", code=5)[1]
    old = shell.run("volume", "get", "weights", "/", "old", "--version", "1", "--json")[0]
    assert json.loads(old) == {"files": 2, "size": len(big) + 10, "collisions": {}}
    assert sorted(path.name for path in (shell.place / "old" / "model").iterdir()) == ["big.bin", "run.sh"]
    [one] = json.loads(shell.run("volume", "list", "--json")[0])
    assert (one["name"], one["version"], one["files"]) == ("weights", 5, 3)
    assert "--yes" in shell.run("volume", "delete", "weights", code=2)[1]
    shell.run("volume", "delete", "weights", "--yes")
    assert "no volume" in shell.run("volume", "history", "weights", code=3)[1]


@pytest.mark.e2e
def test_a_volume_outlives_a_server_that_is_killed(shell):
    shell.write("a.txt", "kept")
    shell.run("volume", "create", "v")
    shell.run("volume", "put", "v", "a.txt")
    os.kill(json.loads(shell.home.server_info.read_text())["pid"], 9)
    assert shell.run("volume", "get", "v", "a.txt", "-")[0] == "kept"


def test_a_transfer_is_shown_with_its_rate_and_what_is_left():
    screen = Screen()
    screen.transfer("model.bin", 0, 4 << 30, 0.0)
    one = screen.transfer("model.bin", 1 << 30, 4 << 30, 2.0)
    line = transfer_line(one, 2.0)
    assert line.startswith("model.bin ━━━━━━────")
    assert line.endswith(" 1.0 GiB of 4.0 GiB 25%, 512.0 MiB/s, 6.0 s left")
    assert screen.lines(2.0, 200) == [line]
    screen.transfer("model.bin", 4 << 30, 4 << 30, 3.0)
    assert "left" not in screen.lines(3.0, 200)[0]
    screen.tidy(5.0)
    assert screen.is_empty
    screen.transfer("none", 0, 0, 6.0)
    screen.tidy(7.0)
    assert screen.is_empty


def test_in_a_pipe_a_transfer_is_a_line_now_and_then(capsys):
    now = [0.0]
    plain = Plain(lambda: now[0])
    for second in range(21):
        now[0] = float(second)
        plain.transfer("data", second * 50, 1_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("data ") for line in lines)
