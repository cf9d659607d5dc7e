"""What a machine is said to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jitney.values import ids
from jitney.worker import node


def test_this_machine():
    info = node.describe(Path("/h"), "process")
    assert ids.is_id(info.node_id, ids.NODE)
    assert info.node_id == node.describe(Path("/h"), "fake").node_id
    assert info.node_id != node.describe(Path("/other"), "process").node_id
    assert 0 < info.cpu_milli <= 1_000 * (os.cpu_count() or 1)
    assert info.memory_mib > 0


@pytest.mark.parametrize(
    "cgroup, files, cpu_milli, memory_mib",
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/memory.max": "1048576"}, 1_500, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, None, None),
        ("2:cpu,x:/a", {"cpu,x/a/cpu.cfs_quota_us": "50000", "cpu,x/a/cpu.cfs_period_us": "100000"}, 500, None),
        ("2:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None, None),
        ("4:memory:/x/y", {"memory/x/memory.limit_in_bytes": "2097152"}, None, 2),
        ("0::/a\n4:memory:/x", {"memory/memory.limit_in_bytes": "4194304", "unified/a/cpu.max": "1 10"}, 100, 4),
    ],
)  # fmt: skip
def test_limits_of_control_groups(tmp_path, monkeypatch, cgroup, files, cpu_milli, memory_mib):
    read = node._read
    monkeypatch.setattr(node, "CGROUPS", tmp_path)
    monkeypatch.setattr(node, "_read", lambda path: cgroup if path == Path("/proc/self/cgroup") else read(path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert node.cpu_milli() == (cpu_milli or 2_000)
    if memory_mib is not None:
        assert node.memory_mib() == memory_mib
