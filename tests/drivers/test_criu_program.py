"""The CRIU driver with programs that only look like CRIU: command lines, reasons, and what is left where it fails."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys

import pytest

from jitney.drivers.checkpoints.criu import CriuCheckpointer, probe, render
from jitney.ports.checkpoints import CheckpointFailed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CRIU is for Linux")


@pytest.fixture
def program(tmp_path):
    """Makes an executable out of shell lines."""

    def make(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def stopped():
    """A process that is stopped."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 19)"])
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield process.pid
    process.kill()
    process.wait()


def found(criu, unshare="/bin/false"):
    return lambda: probe.Finding(criu=criu, unshare=unshare, version="4.2")


def look(criu, unshare="unshare", *, platform="linux", uid=0):
    return probe.look(criu, unshare, platform=platform, uid=uid)


def test_why_it_cannot_be_done_is_said_with_what_to_do(program):
    good = program("criu", 'case $1 in --version) echo "Version: 4.2";; esac')
    assert look(good) == probe.Finding(criu=good, unshare="unshare", version="4.2")
    assert "for Linux" in look(good, platform="darwin").why
    assert look(None).why == "there is no `criu` in PATH"
    assert look(good, None).remedy == "install util-linux"
    assert "needs root" in look(good, uid=1000).why
    old = program("old", 'case $1 in --version) echo "Version: 3.17.1";; esac')
    assert look(old).why == "CRIU 3.17 is too old"
    assert "4.1 or later" in look(old).remedy
    error = "Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds"
    broken = program("broken", f'case $1 in --version) echo "Version: 3.17.1";; *) echo "{error}" >&2; exit 1;; esac')
    assert look(broken).why == ("CRIU 3.17 does not work on this kernel: criu: vdso: Unexpected rt vDSO area bounds")
    assert "does not say its version" in look(program("other", "echo hello")).why
    assert "does not say its version" in look("/nowhere/criu").why


def test_the_command_lines():
    dump = render.render_dump("criu", 7, "/c/images")
    assert dump[:4] == ("criu", "dump", "--tree", "7")
    assert "--leave-running" in dump
    assert "--shell-job" not in dump
    assert "--tcp-established" not in dump
    restore = render.render_restore("criu", "/c/images", "/tmp/work")
    assert restore[:2] == ("criu", "restore")
    assert "--restore-detached" in restore
    attended = render.render_attended("unshare", "python", "attend.py", 9, restore)
    assert attended[-len(restore) :] == restore
    assert attended.index("attend.py") + 1 == attended.index("9")
    assert {"--pid", "--mount-proc", "--kill-child=KILL"} <= set(attended)


@pytest.mark.parametrize(
    "log, words",
    [
        ("Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp", "an open TCP connection"),
        ("Error (criu/sk-unix.c:881): unix: Can't dump half of stream unix connection.", "a Unix socket that leads"),
        ("Error (criu/sk-unix.c:874): unix: External socket is used. Consider using", "a Unix socket that leads"),
        ("(00.1) Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks!", "a lock on a file"),
        (
            "  12: Error (criu/files-reg.c:2130): File /x has bad size 3 (expect 4)",
            "changed (criu: File /x has bad size 3",
        ),
        ("Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no", "criu does not say why"),
        ("Error (criu/a.c:1): first\nError (criu/b.c:2): second\nError (c.c:3): Dumping FAILED.", "criu: first"),
        ("", "criu does not say why"),
    ],
)
def test_a_reason_says_what_the_process_has(log, words):
    assert words in render.reason(log)


def test_a_dump_that_fails_says_why_and_leaves_nothing(program, stopped, tmp_path):
    criu = program(
        "criu",
        'while [ $# -gt 0 ]; do [ "$1" = --images-dir ] && dir=$2; shift; done\n'
        'echo "Error (criu/x.c:1): no such thing" > "$dir/criu.log"; exit 1',
    )
    with pytest.raises(CheckpointFailed, match=r"^criu: no such thing$") as caught:
        asyncio.run(CriuCheckpointer(found(criu)).dump(stopped, tmp_path / "one"))
    assert not caught.value.is_process_lost
    assert not (tmp_path / "one").exists()


def test_a_dump_that_does_not_end_is_ended_and_its_process_lost(program, stopped, tmp_path):
    criu = program("criu", "exec sleep 600")
    with pytest.raises(CheckpointFailed, match=r"longer than 0\.2 s") as caught:
        asyncio.run(CriuCheckpointer(found(criu), dump_s=0.2).dump(stopped, tmp_path / "one"))
    assert caught.value.is_process_lost
    assert not (tmp_path / "one").exists()


def test_a_program_that_is_gone_is_named(stopped, tmp_path):
    checkpointer = CriuCheckpointer(found("/nowhere/criu", "/nowhere/unshare"))
    with pytest.raises(CheckpointFailed, match="/nowhere/criu cannot be started"):
        asyncio.run(checkpointer.dump(stopped, tmp_path / "one"))
    with pytest.raises(CheckpointFailed, match="/nowhere/unshare cannot be started"):
        asyncio.run(checkpointer.restore(tmp_path / "one"))


def test_where_it_cannot_be_done_nothing_is_tried(stopped, tmp_path):
    checkpointer = CriuCheckpointer(lambda: probe.Finding(why="no kernel", remedy="another one"))
    can = checkpointer.capabilities()
    assert (can.possible, can.why, can.remedy) == (False, "no kernel", "another one")
    with pytest.raises(CheckpointFailed, match=r"^no kernel$"):
        asyncio.run(checkpointer.dump(stopped, tmp_path / "one"))
    with pytest.raises(CheckpointFailed, match=r"^no kernel$"):
        asyncio.run(checkpointer.restore(tmp_path / "one"))


def run_restored(criu, tmp_path, let_end):
    """How a process ends that a program in the place of CRIU has made."""

    async def act():
        restored = await CriuCheckpointer(found(criu, "unshare")).restore(tmp_path)
        ended = asyncio.get_running_loop().create_future()
        restored.watch(ended.set_result)
        assert restored.attendants() != (restored.pid,)
        try:
            async with asyncio.timeout(30):
                await asyncio.to_thread(let_end)
                return await ended
        finally:
            restored.kill()

    return asyncio.run(act())


@pytest.mark.skipif(os.geteuid() != 0, reason="process namespaces are for root here")
@pytest.mark.parametrize("ending, end", [("exit 5", (5, None)), ("kill -15 $$", (None, 15))])
def test_the_end_of_what_was_restored_comes_through(program, tmp_path, ending, end):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    child = program("child", f"read line < {gate}; {ending}")
    criu = program("criu", f"setsid {child} > /dev/null 2>&1 &")
    how = run_restored(criu, tmp_path, lambda: gate.write_text("go\n"))
    assert (how.exit_code, how.signal) == end


@pytest.mark.skipif(os.geteuid() != 0, reason="process namespaces are for root here")
def test_a_restore_that_makes_nothing_is_one_that_failed(program, tmp_path):
    for text in ("exit 1", "exit 0", "kill -9 $$"):
        with pytest.raises(CheckpointFailed, match="no process can be made"):
            asyncio.run(CriuCheckpointer(found(program("criu", text), "unshare")).restore(tmp_path))
