"""Containers that are restored from checkpoints, on a real platform with the real CRIU, where that works."""

import pytest

from jitney.drivers.checkpoints.criu import CriuCheckpointer
from tests.e2e.conftest import serve
from tests.e2e.platforms import eventually

CAN = CriuCheckpointer().capabilities()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not CAN.possible, reason=f"{CAN.why} ({CAN.remedy})")]
PROGRAM = "checkpoints.py"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    root = tmp_path_factory.mktemp("platform")
    (root / "home").mkdir(mode=0o700)
    (root / "home" / "config.toml").write_text('[worker]\nruntime = "process"\n')
    yield from serve(root)


def notes(sdk, name, ids=()):
    """Why each was not forked, once all that are named can be seen."""
    found = {one["container_id"]: one["start_note"] for one in sdk.containers(name, all=True)}
    return [note for one, note in found.items() if not ids or one in ids] if set(ids) <= set(found) else []


def test_what_cannot_be_forked_is_restored_with_its_thread(program, sdk):
    found = [program.kept.remote() for _ in range(4)]
    secrets, drawn, kinds, beating, ids = zip(*found, strict=True)
    assert len(set(secrets)) == 1
    assert len(set(drawn)) == 4
    assert set(kinds) == {"kept"}
    assert all(beating)
    first, *others = eventually(lambda: sorted(notes(sdk, "kept", ids), key=lambda note: note.startswith("restored")))
    assert all(note.startswith("restored from a checkpoint") for note in others)
    assert "restored from a checkpoint" in first  # it was written down, unless another test came before this one
    logs = eventually(lambda: sdk.jitney("container", "logs", ids[-1]).out)
    assert f"hello from {ids[-1]}" in logs


def test_several_are_restored_at_once(program):
    assert len({secret for secret, *_ in [program.kept.remote(), *program.kept.starmap([()] * 6)]}) == 1


def test_without_the_experiment_each_imports(program, sdk):
    found = [program.plain.remote() for _ in range(2)]
    assert len({secret for secret, *_ in found}) == 2
    assert all(note.endswith("or in an @enter() method.") for note in notes(sdk, "plain"))


def test_snapshot_methods_run_once_for_all_that_are_restored(program, tmp_path):
    model = program.Model(folder=str(tmp_path))
    assert len({model.run.remote() for _ in range(3)}) == 1
    assert (tmp_path / "loaded").read_text() == "loaded\n"
    assert (tmp_path / "opened").read_text() == "opened\n" * 3


def test_a_restored_container_that_ends_is_told_as_it_ended(program, sdk, tmp_path):
    model = program.Model(folder=str(tmp_path))
    model.run.remote()
    with pytest.raises(Exception, match="exit code 9"):
        model.die.remote()
