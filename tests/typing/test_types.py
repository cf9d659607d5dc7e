"""mypy and pyright see exact signatures: each `assert_type` holds, and each wrong call is an error."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = [str(HERE / "functions.py"), str(HERE / "classes.py")]


def run(*command):
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy():
    run(sys.executable, "-m", "mypy", "--strict", *FILES)


@pytest.mark.slow
def test_pyright():
    run(sys.executable, "-m", "basedpyright", "-p", str(HERE / "pyrightconfig.json"))
