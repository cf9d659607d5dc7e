"""The probes themselves: that they bite where nothing holds, and that results are judged as they should be."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from io import BytesIO

import pytest

from jitney.testing.probes import archives, run, table, targets
from jitney.testing.probes.probe import (
    ALLOWED,
    ANY,
    DENIED,
    FAMILIES,
    SKIPPED,
    TIERS,
    Probe,
    Verdict,
    all_probes,
    allowed,
    denied,
)
from jitney.values.isolation import Isolation
from tests.escape.outside import outside

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it shows what root can do where there is no wall")
NOTHING = targets.Targets()


def a_probe(do, **expected):
    tiers = dict.fromkeys(TIERS, DENIED) | expected
    return Probe("made.up", "Something.", lambda _: do(), tiers)


def test_tiers_are_those_of_the_platform():
    assert set(TIERS) == set(Isolation)


def test_probes_are_many_and_described():
    probes = all_probes()
    assert len(probes) >= 150
    assert {one.name.partition(".")[0] for one in probes} == set(FAMILIES)
    for one in probes:
        assert one.tries.endswith("."), one.name
        assert set(one.expected) == set(TIERS)
        assert all(one.expected.values())
        assert set(one.needs) <= set(targets.Targets.__dataclass_fields__)
        assert not one.limit or one.limit in targets.LIMITS


def test_the_wall_promises_something_for_every_probe_but_those_that_only_plant():
    loose = {one.name for one in all_probes() if Verdict.ALLOWED in one.expected["namespaces"]}
    assert loose == {"archives.links_to_outside", "archives.odd_files"}


def test_what_could_exhaust_a_machine_is_not_run_without_a_limit():
    for one in all_probes():
        if one.limit:
            assert one.expected["process"] == SKIPPED
            for tier in TIERS:
                assert run.run_one(one, tier, NOTHING).verdict is Verdict.SKIPPED


def test_targets_survive_the_journey():
    told = targets.Targets(
        canaries=(targets.Canary("home", "/a", "d"),),
        listeners=(targets.Listener("loopback", "127.0.0.1", 1, "d"),),
        processes=(targets.Target("worker", 1, 2),),
        namespaces={"pid": "pid:[1]"},
        limits=("memory",),
    )
    assert targets.from_json(told.to_json()) == told
    assert targets.from_json("{}") == NOTHING


# ------------------------------------------------------------------------------------------------ running


def test_a_probe_that_fails_proves_nothing():
    outcome = run.run_one(a_probe(lambda: 1 / 0), "process", NOTHING)
    assert outcome.verdict is Verdict.SKIPPED
    assert "ZeroDivisionError" in outcome.detail


@pytest.mark.parametrize(
    "number, verdict", [(signal.SIGSYS, Verdict.DENIED), (signal.SIGKILL, Verdict.SKIPPED)], ids=str
)
def test_a_probe_that_is_ended_by_the_filter_was_denied(number, verdict):
    outcome = run.run_one(a_probe(lambda: os.kill(os.getpid(), number)), "process", NOTHING)
    assert (outcome.verdict, outcome.detail) == (verdict, f"ended by {number.name}")


def test_a_probe_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(run, "PROBE_SECONDS_MAX", 0.05)
    outcome = run.run_one(a_probe(signal.pause), "process", NOTHING)
    assert outcome.verdict is Verdict.SKIPPED
    assert "no answer" in outcome.detail


def test_what_a_probe_gains_is_gone_with_it(tmp_path):
    outcome = run.run_one(a_probe(lambda: os.chdir(tmp_path) or allowed(os.getcwd())), "process", NOTHING)
    assert outcome.detail == str(tmp_path)
    assert os.getcwd() != str(tmp_path)


def test_a_probe_that_was_told_nothing_is_skipped():
    one = a_probe(denied)._replace(needs=("canaries", "container"))
    outcome = run.run_one(one, "process", targets.Targets(container="ta-1"))
    assert (outcome.verdict, outcome.detail) == (Verdict.SKIPPED, "was not told canaries")


# ------------------------------------------------------------------------------------------------ judging


@pytest.mark.parametrize(
    "expected, found, verdict",
    [
        (DENIED, "denied", True),
        (DENIED, "allowed", False),
        (DENIED, "limited", False),
        (DENIED, "skipped", None),
        (ALLOWED, "denied", False),
        (ANY, "allowed", True),
        (ANY, "skipped", None),
        (SKIPPED, "skipped", True),
        (SKIPPED, "denied", False),
    ],
)
def test_found_is_compared_with_expected(monkeypatch, expected, found, verdict):
    monkeypatch.setattr(table, "all_probes", lambda: (a_probe(denied, namespaces=expected),))
    reports = [{"tier": "namespaces", "results": [{"name": "made.up", "verdict": found, "detail": "d"}]}]
    (row,) = table.compare(reports)
    assert row.is_as_expected is verdict
    assert table.differences([row]) == ([row] if verdict is False else [])
    assert table.differences([row], is_strict=True) == ([] if verdict else [row])


def test_a_result_that_is_missing_is_shown(monkeypatch):
    monkeypatch.setattr(table, "all_probes", lambda: (a_probe(denied),))
    (row,) = table.compare([{"tier": "gvisor", "results": []}])
    assert (row.found, row.is_as_expected) == ("missing", None)
    assert "1 probes, 0 differences (!), 1 that prove nothing here (?)" in table.lines([row])[-1]


# ------------------------------------------------------------------------------------------------ biting

# Without a wall each of these works for root on any Linux that has the thing at all: else a probe proves nothing.
BITES = """
    devices.make_disk devices.unexpected files.change_files_outside files.change_source files.files_of_neighbour
    files.home_of_user files.shared_memory_outside files.state_of_server files.temporary_files_outside
    kernel.accounting kernel.file_handles kernel.handle_of_file kernel.move_pages kernel.personality kernel.quotas
    kernel.reboot kernel.set_clock kernel.set_host_name kernel.swap_on mounts.bind mounts.change_attributes
    mounts.change_root mounts.chroot mounts.clone_tree mounts.fresh_proc mounts.move_tree mounts.new_interface
    mounts.new_namespaces mounts.root_writable mounts.tmpfs mounts.unmask network.abstract_sockets
    network.change_interfaces network.change_routes network.kernel_messages network.listen_to_everybody
    network.loopback network.raw_sockets network.unix_sockets privileges.ambient_capabilities privileges.capabilities
    privileges.capabilities_to_gain
    privileges.give_files_away privileges.host_ids privileges.new_privileges privileges.other_user
    privileges.raise_capabilities privileges.real_time privileges.regain_by_exec privileges.unfiltered
    processes.copies_memory processes.reads_environment_outside processes.reads_memory_outside processes.sees_outside
    processes.shares_mounts processes.shares_network processes.shares_processes processes.shares_users
    processes.signals_outside processes.takes_descriptors processes.traces_outside procfs.core_pattern procfs.settings
"""


def is_bare():
    """Whether root here is root: not in a container of an engine, which takes most of this away."""
    with open("/proc/self/status") as file:
        effective = next(line for line in file if line.startswith("CapEff")).split()[1]
    with open("/proc/self/uid_map") as file:
        return int(effective, 16) & (1 << 21 | 1 << 25) == 1 << 21 | 1 << 25 and file.read().split()[1] == "0"


@linux
@root
def test_probes_bite_where_nothing_holds(tmp_path):
    if not is_bare():
        pytest.skip("root has too few capabilities here for a control")
    with outside(tmp_path) as made:
        made.canary("neighbour", tmp_path)
        made.canary("source", tmp_path)
        found = {one.name: one for one in run.run("process", made.targets(), BITES.split())}
        assert set(found) == set(BITES.split())
        assert [one for one in found.values() if one.verdict != "allowed"] == []
        assert all(made.untouched().values())


@linux
def test_the_process_tier_is_as_open_as_it_is_said_to_be(tmp_path):
    with outside(tmp_path) as made:
        made.canary("neighbour", tmp_path)
        made.canary("source", tmp_path)
        found = run.run("process", made.targets(), ["files.", "processes.", "network.abstract", "network.loopback"])
        rows = table.compare([run.report("process", found)])
        assert table.differences([row for row in rows if row.found != "missing"]) == []
        assert all(made.untouched().values())


# ------------------------------------------------------------------------------------------------ the program


@linux
def test_the_program_prints_what_it_compares(tmp_path):
    program = [sys.executable, "-m", "jitney.testing.probes"]
    only = ["--only", "kernel.x32", "--only", "processes.sees"]
    done = subprocess.run([*program, "run", "--json", *only], capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert {one["name"] for one in results["results"]} == {"kernel.x32_calls", "processes.sees_outside"}

    path = tmp_path / "found.json"
    path.write_text(json.dumps(results | {"tier": "namespaces"}))
    compared = subprocess.run([*program, "table", str(path)], capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stdout
    results["results"][0]["verdict"] = "allowed"
    path.write_text(json.dumps(results | {"tier": "namespaces"}))
    compared = subprocess.run([*program, "table", str(path)], capture_output=True, text=True, check=False)
    assert compared.returncode == 1
    assert "1 differences" in compared.stdout


def test_hostile_archives_are_archives():
    for what, content in archives.hostile_archives().items():
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            assert archive.getmembers(), what
