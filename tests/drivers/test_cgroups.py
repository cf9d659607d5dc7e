"""Control groups: where they can be made on machines of many kinds, what is written and read, and who may enter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.drivers.limits.cgroups import v1, v2
from jitney.drivers.limits.cgroups.counters import Counters, Write, keyed, number
from jitney.drivers.limits.cgroups.driver import CgroupLimiter
from jitney.drivers.limits.cgroups.layout import (
    LEAF,
    Folder,
    Place,
    Role,
    Site,
    Surroundings,
    chain,
    choose,
    places,
    read_mounts,
)
from jitney.drivers.limits.none import NoLimiter
from jitney.ports.limits import Bounds, LimitsFailed

MIB = 1 << 20

# ---------------------------------------------------------------------------------------------------- texts of machines

SYSTEMD = """\
25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""
HYBRID = """\
32 25 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
33 32 0:28 / /sys/fs/cgroup/unified rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
34 32 0:29 / /sys/fs/cgroup/systemd rw,nosuid,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd
37 32 0:32 / /sys/fs/cgroup/memory rw,nosuid,relatime shared:14 - cgroup cgroup rw,memory
38 32 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
39 32 0:34 / /sys/fs/cgroup/pids rw,nosuid,relatime shared:16 - cgroup cgroup rw,pids
40 32 0:35 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,relatime shared:17 - cgroup cgroup rw,net_cls,net_prio
41 32 0:36 / /sys/fs/cgroup/freezer rw,nosuid,relatime shared:18 - cgroup cgroup rw,freezer
"""
HYBRID_GROUPS = """\
12:freezer:/
9:pids:/user.slice/user-0.slice/session-5.scope
7:net_cls,net_prio:/
4:memory:/user.slice/user-0.slice/session-5.scope
3:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-0.slice/session-5.scope
0::/user.slice/user-0.slice/session-5.scope
"""
DOCKER_V1 = """\
600 590 0:60 / /sys/fs/cgroup rw,nosuid,relatime - tmpfs tmpfs rw,mode=755
601 600 0:29 /docker/3f4e /sys/fs/cgroup/systemd ro,nosuid,relatime master:11 - cgroup cgroup rw,xattr,name=systemd
602 600 0:32 /docker/3f4e /sys/fs/cgroup/memory ro,nosuid,relatime master:14 - cgroup cgroup rw,memory
603 600 0:33 /docker/3f4e /sys/fs/cgroup/cpu,cpuacct ro,nosuid,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
"""
DOCKER_V1_GROUPS = "4:memory:/docker/3f4e\n3:cpu,cpuacct:/docker/3f4e\n1:name=systemd:/docker/3f4e\n"
DOCKER_V2 = """\
1196 1187 0:28 / /sys/fs/cgroup ro,nosuid,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
"""
DOCKER_V2_PRIVILEGED = DOCKER_V2.replace("ro,nosuid", "rw,nosuid")
DOCKER_V2_HOST_NAMESPACE = """\
612 590 0:30 /system.slice/docker-1f2e.scope /sys/fs/cgroup rw,nosuid,relatime master:9 propagate_from:2 \
- cgroup2 cgroup rw,nsdelegate
"""
WSL = """\
80 60 0:30 / /sys/fs/cgroup rw,nosuid,relatime - tmpfs tmpfs rw,mode=755
81 80 0:31 / /sys/fs/cgroup/unified rw,nosuid,relatime - cgroup2 cgroup2 rw,nsdelegate
83 80 0:33 / /sys/fs/cgroup/cpu rw,nosuid,relatime - cgroup cgroup rw,cpu
84 80 0:34 / /sys/fs/cgroup/cpuacct rw,nosuid,relatime - cgroup cgroup rw,cpuacct
86 80 0:36 / /sys/fs/cgroup/memory rw,nosuid,relatime - cgroup cgroup rw,memory
91 80 0:41 / /sys/fs/cgroup/pids rw,nosuid,relatime - cgroup cgroup rw,pids
"""
WSL_GROUPS = "11:pids:/\n6:memory:/\n3:cpuacct:/\n2:cpu:/\n0::/\n"
PODMAN_ROOTLESS = """\
900 880 0:26 / /sys/fs/cgroup ro,nosuid,relatime - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""

V2_FILES = frozenset({"cgroup.procs", "cgroup.kill", "cgroup.freeze", "cpu.stat", "memory.max"})
ALL = frozenset({"memory", "cpu", "pids", "io"})


def owns(groups: str, mounts: str) -> dict[str, str]:
    """Mounted controllers -> our own folder."""
    return {"+".join(one.controllers) or "v2": one.own for one in read_mounts(groups, mounts)}


class TestMounts:
    @pytest.mark.parametrize(
        "groups, own",
        [
            ("0::/system.slice/jitney.service\n", "/sys/fs/cgroup/system.slice/jitney.service"),
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n",
                "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n",
                "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope",
            ),
            ("0::/\n", "/sys/fs/cgroup"),
            ("0::/../../outside\n", ""),
            ("", ""),
        ],
    )
    def test_systemd_with_version_2(self, groups, own):
        (mount,) = read_mounts(groups, SYSTEMD)
        assert (mount.version, mount.own, mount.writable) == (2, own, True)

    def test_hybrid(self):
        assert owns(HYBRID_GROUPS, HYBRID) == {
            "v2": "/sys/fs/cgroup/unified/user.slice/user-0.slice/session-5.scope",
            "name=systemd": "/sys/fs/cgroup/systemd/user.slice/user-0.slice/session-5.scope",
            "memory": "/sys/fs/cgroup/memory/user.slice/user-0.slice/session-5.scope",
            "cpu+cpuacct": "/sys/fs/cgroup/cpu,cpuacct/user.slice",
            "pids": "/sys/fs/cgroup/pids/user.slice/user-0.slice/session-5.scope",
            "net_cls+net_prio": "/sys/fs/cgroup/net_cls,net_prio",
            "freezer": "/sys/fs/cgroup/freezer",
        }

    def test_docker_with_version_1_sees_its_own_group_as_the_mount(self):
        mounts = read_mounts(DOCKER_V1_GROUPS, DOCKER_V1)
        assert [one.own for one in mounts if "memory" in one.controllers] == ["/sys/fs/cgroup/memory"]
        assert not any(one.writable for one in mounts)

    @pytest.mark.parametrize(
        "text, groups, writable",
        [
            (DOCKER_V2, "0::/\n", False),
            (PODMAN_ROOTLESS, "0::/\n", False),
            (DOCKER_V2_PRIVILEGED, "0::/\n", True),
            (DOCKER_V2_HOST_NAMESPACE, "0::/system.slice/docker-1f2e.scope\n", True),
            (DOCKER_V2_HOST_NAMESPACE, "0::/system.slice/docker-1f2e.scope/inner\n", True),
        ],
    )
    def test_docker_and_podman_with_version_2(self, text, groups, writable):
        (mount,) = read_mounts(groups, text)
        assert mount.own == ("/sys/fs/cgroup/inner" if "inner" in groups else "/sys/fs/cgroup")
        assert mount.writable == writable

    def test_another_containers_group_is_not_seen(self):
        (mount,) = read_mounts("0::/system.slice/docker-1f2e.scope.d\n", DOCKER_V2_HOST_NAMESPACE)
        assert mount.own == ""

    def test_wsl(self):
        assert set(owns(WSL_GROUPS, WSL)) == {"v2", "cpu", "cpuacct", "memory", "pids"}

    def test_a_hierarchy_that_is_mounted_twice_counts_where_it_can_be_written(self):
        (mount,) = read_mounts("0::/\n", DOCKER_V2 + DOCKER_V2_PRIVILEGED.replace("/sys/fs/cgroup", "/mnt/cg"))
        assert (mount.folder, mount.own, mount.writable) == ("/mnt/cg", "/mnt/cg", True)

    def test_paths_are_unescaped(self):
        (mount,) = read_mounts("0::/b\n", "40 30 0:31 / /mnt/a\\040b rw - cgroup2 none rw\n")
        assert mount.own == "/mnt/a b/b"

    @given(st.text(), st.text())
    def test_no_text_breaks_it(self, groups, mounts):
        read_mounts(groups, mounts)
        read_mounts(groups, SYSTEMD + mounts + HYBRID)

    def test_the_chain_ends_at_the_mount(self):
        (mount,) = read_mounts("0::/a.slice/b.service\n", SYSTEMD)
        assert chain(mount) == (
            "/sys/fs/cgroup/a.slice/b.service",
            "/sys/fs/cgroup/a.slice",
            "/sys/fs/cgroup",
        )


# ---------------------------------------------------------------------------------------------------- version 2: where

TOP = Folder(path="/c", writable=True, processes=(1, 2), is_top=True)
US = 77


class TestPlaces:
    def test_the_root_of_the_tree_needs_no_move(self):
        assert places([TOP], US) == (Place("/c"),)

    def test_a_service_of_ours_is_used_and_we_move_to_a_leaf_of_it(self):
        service = Folder(path="/c/s/j.service", writable=True, processes=(US,))
        slice_ = Folder(path="/c/s", writable=True)
        assert places([service, slice_, TOP], US)[0] == Place("/c/s/j.service", moves=True)

    def test_what_was_delegated_is_used_with_whoever_is_in_it(self):
        scope = Folder(path="/c/u/run.scope", writable=True, processes=(5, US), delegated=True)
        above = Folder(path="/c/u", writable=False)
        assert places([scope, above], US) == (Place("/c/u/run.scope", moves=True),)

    def test_a_shared_session_is_left_alone_where_a_group_above_can_be_had(self):
        session = Folder(path="/c/u/s.scope", writable=True, processes=(5, US))
        above = Folder(path="/c/u", writable=True)
        assert places([session, above, TOP], US) == (Place("/c/u"), Place("/c"), Place("/c/u/s.scope", moves=True))

    def test_the_root_of_a_container_is_moved_as_a_whole(self):
        assert places([Folder(path="/c", writable=True, processes=(1, 9, US))], US) == (Place("/c", moves=True),)

    def test_where_we_were_moved_before_we_stay(self):
        leaf = Folder(path=f"/c/s/{LEAF}", writable=True, processes=(US,))
        assert places([leaf, Folder(path="/c/s", writable=True), TOP], US)[0] == Place("/c/s")

    def test_nothing_without_permission(self):
        folders = [Folder(path="/c/u/s", writable=False, processes=(US,)), Folder(path="/c/u", writable=False)]
        assert places(folders, US) == ()


# ---------------------------------------------------------------------------------------------------- who does what


def site_v1(controllers: str, folder: str = "", problem: str = "") -> Site:
    names = tuple(controllers.split(","))
    folder = folder or ("" if problem else f"/cg/{controllers}/jitney-a")
    return Site(
        version=1, mounted=names, folder=folder, controllers=frozenset(names), files=frozenset(), problem=problem
    )


def site_v2(controllers: frozenset[str] = ALL, files: frozenset[str] = V2_FILES) -> Site:
    return Site(version=2, folder="/cg/u/jitney-a", controllers=controllers, files=files)


def work(layout) -> dict[str, set[str]]:
    return {part.folder: {role.value for role in part.roles} for part in layout.parts}


class TestChoice:
    def test_version_2_does_everything_in_one_folder(self):
        layout = choose([site_v2()], Surroundings())
        assert work(layout) == {"/cg/u/jitney-a": {"memory", "cpu", "pids", "cpuacct", "freezer", "io"}}
        assert (layout.name, layout.why, layout.remedy) == ("cgroup v2", "", "")

    def test_version_1_uses_the_fewest_folders(self):
        sites = [site_v1(one) for one in ("memory", "cpu,cpuacct", "pids", "freezer", "blkio", "cpuset")]
        layout = choose(sites, Surroundings())
        assert work(layout) == {
            "/cg/memory/jitney-a": {"memory"},
            "/cg/cpu,cpuacct/jitney-a": {"cpu", "cpuacct"},
            "/cg/pids/jitney-a": {"pids"},
            "/cg/freezer/jitney-a": {"freezer"},
        }
        assert layout.name == "cgroup v1"

    def test_hybrid_takes_limits_from_version_1_and_the_rest_from_version_2(self):
        sites = [site_v1(one) for one in ("memory", "cpu", "cpuacct", "pids", "freezer")] + [site_v2(frozenset())]
        layout = choose(sites, Surroundings())
        assert work(layout) == {
            "/cg/u/jitney-a": {"cpuacct", "freezer"},
            "/cg/memory/jitney-a": {"memory"},
            "/cg/cpu/jitney-a": {"cpu"},
            "/cg/pids/jitney-a": {"pids"},
        }
        assert layout.name == "cgroup v1 and v2"

    def test_version_2_of_an_old_kernel_leaves_freezing_to_version_1(self):
        sites = [site_v1(one) for one in ("memory", "cpu,cpuacct", "pids", "freezer")]
        layout = choose([*sites, site_v2(frozenset(), frozenset({"cgroup.procs"}))], Surroundings())
        assert work(layout)["/cg/freezer/jitney-a"] == {"freezer"}
        assert "/cg/u/jitney-a" not in work(layout)

    def test_without_controllers_version_2_still_counts_cpu_time_and_kills(self):
        layout = choose([site_v2(frozenset())], Surroundings(is_root=False, has_systemd=True))
        assert work(layout) == {"/cg/u/jitney-a": {"cpuacct", "freezer"}}
        assert layout.why.startswith("no limit on memory: ")
        assert "the pids controller is not enabled for /cg/u/jitney-a" in layout.why
        assert "systemd-run --user --scope -p Delegate=yes" in layout.remedy

    def test_a_read_only_mount_is_named_with_a_way_out(self):
        site = Site(version=2, problem="/sys/fs/cgroup is mounted read-only")
        layout = choose([site], Surroundings(in_container=True))
        assert layout.parts == ()
        assert layout.why == "no limit on memory, CPU and processes: /sys/fs/cgroup is mounted read-only"
        assert "--cgroupns private" in layout.remedy

    def test_one_controller_that_is_missing_is_named(self):
        layout = choose([site_v1("memory"), site_v1("cpu,cpuacct")], Surroundings())
        assert layout.why == "no limit on processes: no control group hierarchy with the pids controller is mounted"
        assert layout.remedy

    def test_a_user_of_version_1_is_told_that_it_cannot_be(self):
        sites = [site_v1(one, problem=f"/cg/{one}: Permission denied") for one in ("memory", "cpu", "pids")]
        layout = choose(sites, Surroundings(is_root=False, has_systemd=True))
        assert layout.why.count("Permission denied") == 3
        assert "as root" in layout.remedy

    def test_a_machine_without_control_groups(self):
        layout = choose([], Surroundings())
        assert layout.parts == ()
        assert layout.why
        assert layout.remedy

    @given(
        st.lists(st.sampled_from(["memory", "cpu", "cpuacct", "pids", "freezer", "blkio"]), unique=True),
        st.frozensets(st.sampled_from(sorted(ALL))),
        st.booleans(),
        st.builds(Surroundings, is_root=st.booleans(), has_systemd=st.booleans(), in_container=st.booleans()),
    )
    def test_each_role_has_one_folder_and_what_is_missing_is_explained(self, old, new, has_v2, where):
        layout = choose([*map(site_v1, old), *([site_v2(new)] if has_v2 else [])], where)
        roles = [role for part in layout.parts for role in part.roles]
        assert len(roles) == len(set(roles))
        assert all(part.roles for part in layout.parts)
        for role in (Role.MEMORY, Role.CPU, Role.PIDS):
            assert (role in roles) == (role.value in old or (has_v2 and role.value in new))
        is_whole = {Role.MEMORY, Role.CPU, Role.PIDS} <= set(roles)
        assert bool(layout.why) == bool(layout.remedy) == (not is_whole)


# ---------------------------------------------------------------------------------------------------- files


class TestFiles:
    def test_what_version_2_is_told(self):
        bounds = Bounds(cpu_weight_milli=2000, cpu_milli=1500, memory_mib=64, pids=50)
        assert v2.writes(bounds, set(Role)) == (
            Write("memory.oom.group", "1", optional=True),
            Write("memory.max", str(64 * MIB)),
            Write("memory.swap.max", "0", optional=True),
            Write("cpu.weight", "200"),
            Write("cpu.max", "150000 100000"),
            Write("pids.max", "50"),
        )

    def test_what_version_1_is_told_with_swap_after_memory(self):
        bounds = Bounds(cpu_weight_milli=2000, cpu_milli=1500, memory_mib=64, pids=50)
        assert v1.writes(bounds, set(Role)) == (
            Write("memory.limit_in_bytes", str(64 * MIB)),
            Write("memory.memsw.limit_in_bytes", str(64 * MIB), optional=True),
            Write("memory.swappiness", "0", optional=True),
            Write("cpu.shares", "2048"),
            Write("cpu.cfs_period_us", "100000"),
            Write("cpu.cfs_quota_us", "150000", optional=True),
            Write("pids.max", "50"),
        )

    @pytest.mark.parametrize("dialect", [v1, v2])
    def test_no_limit_writes_none(self, dialect):
        files = {write.file for write in dialect.writes(Bounds(), set(Role))}
        assert files <= {"memory.oom.group", "cpu.weight", "cpu.shares"}
        assert dialect.writes(Bounds(memory_mib=1, cpu_milli=1, pids=1), set()) == ()

    def test_what_version_2_says(self):
        texts = {
            "memory.current": "5000000\n",
            "memory.peak": "9000000\n",
            "memory.stat": "anon 1\ninactive_file 1000000\nactive_file 3\n",
            "memory.events": "low 0\noom 1\noom_kill 2\noom_group_kill 1\n",
            "cpu.stat": "usage_usec 1500\nuser_usec 1000\nnr_throttled 2\nthrottled_usec 30\n",
            "pids.current": "4\n",
            "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n253:0 \n",
        }
        assert v2.read(set(Role), texts) == Counters(
            cpu_ns=1_500_000,
            throttled_ns=30_000,
            memory_bytes=4_000_000,
            peak_bytes=9_000_000,
            oom_kills=2,
            processes=4,
            read_bytes=11,
            written_bytes=22,
        )

    def test_what_version_1_says(self):
        texts = {
            "memory.usage_in_bytes": "5000000\n",
            "memory.max_usage_in_bytes": "9000000\n",
            "memory.stat": "cache 1\ntotal_inactive_file 1000000\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "cpu.stat": "nr_periods 1\nnr_throttled 2\nthrottled_time 30000\n",
            "cpuacct.usage": "1500000\n",
            "pids.current": "4\n",
            "blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n",
        }
        assert v1.read(set(Role), texts) == Counters(
            cpu_ns=1_500_000,
            throttled_ns=30_000,
            memory_bytes=4_000_000,
            peak_bytes=9_000_000,
            oom_kills=2,
            processes=4,
            read_bytes=10,
            written_bytes=20,
        )

    @pytest.mark.parametrize("dialect", [v1, v2])
    def test_files_that_are_gone_count_nothing(self, dialect):
        assert dialect.read(set(Role), {}) == Counters()

    @given(st.text())
    def test_no_text_breaks_the_readers(self, text):
        number(text)
        keyed(text)
        v1.read(set(Role), {name: text for names in v1.READS.values() for name in names})
        v2.read(set(Role), {name: text for names in v2.READS.values() for name in names})

    def test_a_kernel_without_a_peak_has_the_largest_that_was_seen(self):
        first = Counters(memory_bytes=100).at_least(Counters())
        assert Counters(memory_bytes=10).at_least(first).peak_bytes == 100


class TestNone:
    def test_it_says_why_and_bounds_nothing(self):
        limiter = NoLimiter(why="no control groups", remedy="get some")
        can = limiter.capabilities()
        assert (can.name, can.memory, can.cpu, can.pids, can.freeze, can.accounting) == ("none", *[False] * 5)
        assert (can.why, can.remedy) == ("no control groups", "get some")
        group = limiter.make("g", Bounds(memory_mib=1))
        assert group.join_fds == ()
        assert group.sample(1) == group.usage()
        asyncio.run(group.remove())


# ---------------------------------------------------------------------------------------------------- on this machine


@pytest.fixture
def limiter():
    if not sys.platform.startswith("linux"):
        pytest.skip("control groups are Linux's")
    limiter = CgroupLimiter(f"test-{os.getpid()}-own")
    if not limiter.capabilities().pids:
        asyncio.run(limiter.close())
        pytest.skip(f"no control groups here: {limiter.capabilities().why}")
    yield limiter
    asyncio.run(limiter.close())


ENTER_FROM_A_USER_NAMESPACE = """
import ctypes, os, sys
uid, go, done = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
fds = [int(one) for one in sys.argv[4:]]
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, so that its map can be written
assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())
os.write(done, b"u")
os.read(go, 1)
assert os.getuid() == 0
for fd in fds:
    os.write(fd, b"0")
os.write(done, b"d")
os.read(go, 1)
"""


def test_root_of_a_user_namespace_that_is_nobody_outside_enters(limiter):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    group = limiter.make("g", Bounds(pids=10))
    uid = 1_000_000
    go_read, go = os.pipe()
    done, done_write = os.pipe()
    passed = (go_read, done_write, *group.join_fds)
    arguments = [sys.executable, "-I", "-S", "-c", ENTER_FROM_A_USER_NAMESPACE, str(uid), *map(str, passed)]
    process = subprocess.Popen(arguments, pass_fds=passed, stderr=subprocess.PIPE, text=True)
    os.close(done_write)
    try:
        if os.read(done, 1) != b"u":
            pytest.skip(f"no user namespaces here: {process.communicate()[1]}")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{process.pid}/{name}", "w") as file:
                file.write(f"0 {uid} 1\n")
        os.write(go, b"g")
        answer = os.read(done, 1)
        assert answer == b"d", process.communicate()[1]
        assert group.usage().processes == 1
        group.kill()
        assert process.wait() == -9
    finally:
        process.kill()
        process.communicate()
        for fd in (go, go_read, done):
            os.close(fd)


def test_a_group_that_cannot_be_made_whole_leaves_nothing(limiter):
    part = limiter.layout.parts[-1]
    os.makedirs(f"{part.folder}/half")  # taken in the last hierarchy only
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(LimitsFailed, match="half"):
        limiter.make("half", Bounds(memory_mib=10, pids=5))
    assert sorted(os.listdir("/proc/self/fd")) == before
    for other in limiter.layout.parts[:-1]:
        assert not os.path.exists(f"{other.folder}/half")


def test_groups_of_a_run_elsewhere_are_found(limiter):
    """As a run in another session would have left them: below another group than ours."""
    part = next((one for one in limiter.layout.parts if Role.PIDS in one.roles), None)
    above, name = part.folder.rsplit("/", 1)
    elsewhere = f"{above}/session-of-{name}"
    os.makedirs(f"{elsewhere}/{name}/left/deeper")
    try:
        assert asyncio.run(limiter.reap()) == 1
        assert not os.path.exists(f"{elsewhere}/{name}")
    finally:
        for folder in (f"{elsewhere}/{name}/left/deeper", f"{elsewhere}/{name}/left", f"{elsewhere}/{name}", elsewhere):
            if os.path.exists(folder):
                os.rmdir(folder)


@pytest.mark.parametrize("owner", ["../x", "", "self", "a b"])
def test_a_bad_owner_is_refused(owner):
    with pytest.raises(ValueError, match="cannot name"):
        CgroupLimiter(owner)


def test_an_idle_limiter_has_no_folders(limiter):
    assert [part.folder for part in limiter.layout.parts if os.path.exists(part.folder)] == []


def test_empty_folders_of_others_go_and_come_back_when_they_are_needed(limiter):
    other = CgroupLimiter(f"test-{os.getpid()}-other")
    folders = [part.folder for part in other.layout.parts]

    async def main() -> None:
        await other.make("g", Bounds(pids=3)).remove()
        kept = other.make("kept", Bounds())
        await limiter.reap()
        assert all(map(os.path.exists, folders))
        await kept.remove()
        await limiter.reap()
        assert not any(map(os.path.exists, folders))
        group = other.make("g", Bounds(pids=3))
        assert group.usage().processes == 0
        assert len(group.join_fds) == len(folders)
        await other.close()

    asyncio.run(main())
    assert not any(map(os.path.exists, folders))


AS_A_USER = textwrap.dedent(
    """
    import asyncio, os
    os.setgroups([]); os.setresgid(65533, 65533, 65533); os.setresuid(65533, 65533, 65533)
    limiter = CgroupLimiter("test-user")
    can = limiter.capabilities()
    print(can.name, can.memory, bool(can.why), bool(can.remedy))
    asyncio.run(limiter.close())
    """
)


def test_a_user_without_delegation_is_told_so():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    script = "from jitney.drivers.limits.cgroups.driver import CgroupLimiter\n" + AS_A_USER
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "none False True True\n"
