"""The filter and Landlock inside the plainest wall that there is (bubblewrap): what do they and namespaces hold?

This is no tier of the platform. It shows that the expectations of the namespaces tier can be met, and by what.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jitney
from jitney.runner.wall import filters, landlock
from jitney.runner.wall.syscalls_table import MACHINES
from jitney.testing.probes import table
from tests.escape.outside import outside

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in MACHINES, reason="there is no filter for this machine"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]
SDK = Path(jitney.__file__).parent.parent

# What this wall does not have: masks in /proc, read-only packages (they are the user's), an init that hides.
NOT_HELD = {
    "procfs.kernel_addresses": "no mask",
    "procfs.timers_and_keys": "no mask",
    "processes.reads_memory_of_init": "its process 1 is of the same user, and is not hidden",
    "processes.reads_environment_of_init": "the same",
    "processes.descriptors_of_init": "the same",
    "privileges.host_ids": "its only id is the one of the user outside",
    # For root outside that id is the machine's own root, and the kernel's settings are root's: ids must be shifted.
    "procfs.core_pattern": "the same",
    "procfs.settings": "the same",
    "procfs.network_settings": "the same",
}


def wall(filter_fd, folder):
    return [
        "bwrap", "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-drop", "ALL", "--new-session",
        "--die-with-parent", "--hostname", "box", "--seccomp", str(filter_fd), "--clearenv",
        "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
        "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/sbin", "/sbin",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/etc",
        "--ro-bind", str(SDK), str(SDK), "--ro-bind", sys.prefix, sys.prefix,
        "--ro-bind", sys.base_prefix, sys.base_prefix, "--ro-bind", str(folder / "targets.json"), "/targets.json",
        "--setenv", "PYTHONPATH", str(SDK), "--chdir", "/tmp",
    ]  # fmt: skip


# What Landlock does about it, where the kernel has it.
HELD_BY_LANDLOCK = {"processes.reads_memory_of_init", "processes.reads_environment_of_init"}
HELD_BY_LANDLOCK |= {"processes.descriptors_of_init"}
RESTRICTED = """
import sys
from jitney.runner.wall import landlock
from jitney.testing.probes.__main__ import main
assert landlock.restrict(["/"], ["/"]).files
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "profile, restricted", [("container", False), ("container+fake_chown", False), ("container", True)]
)
def test_a_plain_wall_with_our_filter_holds(profile, restricted, tmp_path):
    if restricted and landlock.abi() < 2:
        pytest.skip("this kernel has no Landlock (ABI 2), or has it turned off")
    (tmp_path / "filter").write_bytes(filters.program(profile, platform.machine()))
    with outside(tmp_path) as made, open(tmp_path / "filter", "rb") as file:
        made.canary("source", tmp_path)
        made.canary("neighbour", tmp_path)
        (tmp_path / "targets.json").write_text(made.targets().to_json())
        how = ["-c", RESTRICTED] if restricted else ["-m", "jitney.testing.probes"]
        probes = [sys.executable, *how, "run", "--json", "--tier", "namespaces"]
        done = subprocess.run(
            [*wall(file.fileno(), tmp_path), *probes, "--targets", "/targets.json"],
            pass_fds=[file.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        if "Creating new namespace failed" in done.stderr or "setting up uid map" in done.stderr:
            pytest.skip(f"this machine gives no namespaces: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        known = set(NOT_HELD) - (HELD_BY_LANDLOCK if restricted else set())
        rows = table.compare([json.loads(done.stdout)])
        wrong = {row.name: row.detail for row in table.differences(rows) if row.name not in known}
        assert wrong == {}
        open_ = {row.name for row in rows if row.is_as_expected is None}
        assert {name for name in open_ if not name.startswith(("resources.", "sockets."))} == set()
        assert all(made.untouched().values())
        assert os.path.exists(made.canaries[0].path)
