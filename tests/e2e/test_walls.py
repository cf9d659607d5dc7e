"""A whole platform whose containers are behind walls, as a user has it who has set up nothing."""

from __future__ import annotations

import socket

import pytest

from jitney.drivers.walls.probe import probe
from jitney.errors import JitneyError

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
    with pytest.raises(JitneyError, match=r"out of disk space, over its limit of 8 MiB"):
        program.fill.remote()


def test_a_launch_below_its_policy_is_refused(program):
    with pytest.raises(JitneyError, match="gvisor"):
        program.strict.remote()


def test_a_snapshot_is_shared_and_what_comes_after_is_not(program):
    (born, woken), (born_again, woken_again) = (program.Slow().who.remote() for _ in range(2))
    assert born == born_again
    assert woken != woken_again


def test_large_values_go_in_and_out(program):
    data = bytes(range(256)) * 20_000
    assert program.large.remote(data) == data[::-1]
