"""A whole platform whose containers are behind walls, as a user has it who has set up nothing."""

from __future__ import annotations

import re
import socket

import pytest

from jitney.drivers.walls.probe import probe
from jitney.errors import JitneyError, StartupError

WHY_NOT = probe().why
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")]


PROGRAM = "walled.py"
RUNTIME = "namespaces"


def test_code_has_no_privilege_and_sees_itself_alone(platform, program):
    secret = platform.home.root / "token"
    assert secret.exists()
    seen = program.look.remote(str(secret))
    assert seen["uid"] == 0
    assert int(seen["capabilities"], 16) == 0
    assert (seen["seccomp"], seen["no_new_privs"]) == ("2", "1")
    assert seen["processes"] <= 3
    assert not seen["sees_secret"]
    assert seen["home"] == "/root"
    assert "walled.py" in seen["code"]


def test_steps_of_an_image_are_its_files(program):
    assert program.note.remote() == ("built", "b", True)


def test_a_blocked_network_leads_nowhere(program):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert program.reach.remote(server.getsockname()) != "reached"


def test_memory_over_the_limit_ends_with_its_figures(program):
    with pytest.raises(JitneyError, match=r"out of memory at .* over its limit of 128 MiB"):
        program.eat.remote()
    assert program.note.remote()[0] == "built", "others are unhurt"


def test_disk_over_the_limit_ends_with_its_figures(program):
    with pytest.raises(JitneyError, match=r"out of disk space at [\d,]+ MiB, over its limit of 8 MiB"):
        program.fill.remote()


def test_what_is_written_to_a_volume_counts_until_it_is_committed(program):
    with pytest.raises(JitneyError, match=r"out of disk space at [\d,]+ MiB, over its limit of 8 MiB"):
        program.fill_volume.remote(16, 1)
    assert program.fill_volume.remote(6, 3) == 18


def test_a_launch_below_its_policy_is_refused(program):
    with pytest.raises(JitneyError, match="gvisor"):
        program.strict.remote()


def test_a_snapshot_is_shared_and_what_comes_after_is_not(program):
    (born, woken), (born_again, woken_again) = (program.Slow().who.remote() for _ in range(2))
    assert born == born_again
    assert woken != woken_again


def test_a_snapshot_over_the_limit_of_its_class_fails_with_its_figures(program):
    with pytest.raises(StartupError, match=r"out of memory at .* over its limit of 128 MiB"):
        program.Greedy().who.remote()
    assert program.note.remote()[0] == "built", "others are unhurt"


def test_large_values_go_in_and_out(program):
    data = bytes(range(256)) * 20_000
    assert program.large.remote(data) == data[::-1]


IMPORTS = """
    import jitney

    app = jitney.App("imports")
    if __file__.startswith("/root/"):  # behind the wall
        {code}

    @app.function(startup_timeout=5, cpu=0.1, memory=64)
    def never():
        return 1

    @app.local_entrypoint()
    def main():
        never.remote()
"""
EATS = "kept = [bytearray(b'x') * 1_000_000 for _ in range(4_000)]"
HANGS = "__import__('time').sleep(600)"
CRASHES = "__import__('os').kill(__import__('os').getpid(), 11)"
SAID = {
    EATS: r"out of memory at \d+ MiB, over its limit of 200 MiB.*template_limit_mib",
    HANGS: "was not ready within its startup_timeout of 5 s",
    CRASHES: "SIGSEGV",
}


def test_imports_that_never_end_well_fail_their_calls_and_nothing_else(lone):
    lone.environment |= {"JITNEY_RUNTIME": RUNTIME, "JITNEY_TEMPLATE_LIMIT_MIB": "200"}
    for code, said in SAID.items():
        lone.write("imports.py", IMPORTS.format(code=code))
        err = lone.jitney("run", "imports.py", code=5).err
        assert re.search(said, err), err
    lone.write("imports.py", IMPORTS.format(code="pass"))
    lone.jitney("run", "imports.py")
