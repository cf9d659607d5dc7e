"""Memory snapshots on a real platform: what runs how often, and what the user is told."""

import pytest

import jitney
from tests.e2e.conftest import serve
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "snapshots.py"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """Containers are plain processes: they write where the test reads, and their process ids are their own."""
    root = tmp_path_factory.mktemp("platform")
    (root / "home").mkdir(mode=0o700)
    (root / "home" / "config.toml").write_text('[worker]\nruntime = "process"\n')
    yield from serve(root)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_what_is_marked_runs_once_for_all_containers(program, tmp_path):
    model = program.Snapped(folder=str(tmp_path))
    found = [model.pids.remote() for _ in range(4)]
    assert len({own for _, _, own in found}) == 4  # each input had a container of its own
    assert lines(tmp_path / "loaded") == [str(found[0][0])]
    assert sorted(lines(tmp_path / "opened")) == sorted(str(own) for _, _, own in found)
    assert all(opened == own and loaded != own for loaded, opened, own in found)
    assert len({model.draw.remote() for _ in range(3)}) == 3


def test_without_memory_snapshots_it_runs_in_each_container(program, tmp_path):
    found = [program.Plain(folder=str(tmp_path)).pids.remote() for _ in range(2)]
    assert [loaded == opened == own for loaded, opened, own in found] == [True, True]
    assert len(lines(tmp_path / "loaded")) == 2


def test_what_cannot_be_shared_is_said_and_runs_in_each_container(program, sdk, tmp_path):
    model = program.Threaded(folder=str(tmp_path))
    found = [model.pids.remote() for _ in range(2)]
    assert [loaded == own for loaded, _, own in found] == [True, True]
    ended = eventually(lambda: sdk.containers("Threaded", all=True))
    shown = sdk.jitney("container", "show", ended[0]["container_id"]).out
    assert "each container runs @enter(snap=True) methods itself" in shown
    assert "the thread 'beat' of snapshots" in shown
    logs = sdk.jitney("container", "logs", ended[0]["container_id"])
    assert "the thread 'beat' of snapshots" in logs.out + logs.err


def test_a_failure_has_the_users_traceback(program, tmp_path):
    with pytest.raises(jitney.exception.StartupError, match="no weights here") as caught:
        program.Broken(folder=str(tmp_path)).pids.remote()
    assert "in fail" in str(caught.value.__cause__)


def test_one_that_does_not_end_fails_by_the_startup_timeout(program, tmp_path):
    with pytest.raises(jitney.exception.StartupError, match="startup_timeout of 2 s"):
        program.Endless(folder=str(tmp_path)).pids.remote()


def test_a_start_shows_where_its_time_went(program, sdk, tmp_path):
    model = program.Snapped(folder=str(tmp_path), slow=True)
    model.pids.remote()
    records = eventually(lambda: [one for one in sdk.containers("Snapped", all=True) if "snapshot" in one["phases_ms"]])
    phases = max((one["phases_ms"] for one in records), key=lambda phases: phases["snapshot"])
    assert phases["template"] >= phases["snapshot"] >= 2_000
    assert {"queued", "fork", "load", "enter"} <= phases.keys()
    eventually(lambda: "most of it snapshot" in sdk.log())


def test_what_the_machine_cannot_wall_off_is_refused(sdk):
    app = jitney.App("walls")

    @app.function(serialized=True, block_network=True)
    def blocked():
        return 1

    @app.function(serialized=True, ephemeral_disk=3 * 1024 * 1024)
    def large():
        return 1

    with app.run():
        with pytest.raises(jitney.exception.StartupError, match="its network is to be restricted"):
            blocked.remote()
        with pytest.raises(jitney.exception.Error, match=r"its disk has .* MiB, 3,145,728 are asked for"):
            large.remote()
