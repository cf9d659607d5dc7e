"""The contracts of walls and of mounts once more, by a user without privileges; other tests run as they are."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NOBODY = 65_533
SUITES = (
    "test_runtime_namespaces.py",
    "test_interactive_namespaces.py",
    "test_box_namespaces.py",
    "test_mounting_namespaces.py",
    "test_mounting_process.py",
)


def as_nobody(*command):
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", *command]


def why_not():
    if os.geteuid() != 0:
        return "needs root, to become somebody without privileges"
    if shutil.which("setpriv") is None:
        return "needs setpriv"
    seen = subprocess.run(as_nobody(sys.executable, "-c", "import jitney"), capture_output=True, text=True, check=False)
    return seen.stderr.strip().splitlines()[-1] if seen.returncode else ""


WHY_NOT = why_not()


@pytest.fixture
def folder():
    """One of nobody's: those of pytest are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="jitney-nobody-", ignore_cleanup_errors=True) as name:
        os.chown(name, NOBODY, NOBODY)
        yield name


@pytest.mark.skipif(bool(WHY_NOT), reason=f"nobody cannot run this: {WHY_NOT}")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES)
def test_without_privileges(suite, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
    done = subprocess.run(
        as_nobody(
            sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={folder}/p",
            str(HERE / suite),
        ),
        cwd=HERE.parent.parent,
        env={**environment, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
