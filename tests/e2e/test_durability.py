"""Volumes, dicts and queues on a platform that is killed again and again; benchmarks/durability.py does it longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.drivers.runtime.process.views import try_view
from jitney.drivers.walls.probe import probe

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "durability.py"
WHY_NOT = {"namespaces": lambda: probe().why, "process": lambda: try_view().why}


@pytest.mark.e2e
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("runtime", WHY_NOT)
def test_nothing_acknowledged_is_lost_to_30_kills(runtime):
    if why := WHY_NOT[runtime]():
        pytest.skip(f"no mounts here: {why}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JITNEY_")}
    command = [sys.executable, str(BENCHMARK), "--kills", "30", "--seed", "7", "--runtime", runtime]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "30 kills" in done.stdout
    assert "left behind" not in done.stdout
