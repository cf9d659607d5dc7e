"""Control groups of version 2 keep the contract, on a kernel that has its controllers there: in an emulated machine.

A machine has each controller in one version, so that whoever has version 1 cannot test version 2, and the other way
round. This one boots a distribution's kernel in qemu without acceleration, from an archive in memory that has this
interpreter, pytest and the suite in it, and runs the suite in the places that groups can be made in: at the root of the
tree, as a service that shares its group with nobody, and as a user that a group was delegated to.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOT_S = 1500  # the emulator is some 30 times slower than the machine, which may be busy
MEMORY_MIB = 1536
ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).with_name("test_limits_cgroups.py")
LEFT_OUT = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages", "turtledemo", "pydoc_data"}
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "msgspec")

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t tmpfs none /tmp
/bin/busybox mount -t cgroup2 none /sys/fs/cgroup
exec {python} -I -S /run.py
"""

RUN = """\
import os, subprocess, sys, time
ENV = {"PYTHONPATH": "/packages:/src", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin", "HOME": "/tmp"}
TESTS = [sys.executable, "-S", "-m", "pytest", "-c", "/dev/null", "--rootdir", "/", "-q", "-p", "no:cacheprovider",
         "-rs", "--color=no", "-k", "not v1", "/tests/test_limits_cgroups.py"]
TREE = "/sys/fs/cgroup"

def enter(group, uid):
    def prepare():
        if group:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write("0")
        if uid:
            os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
    return prepare

def run(name, group="", uid=0):
    print("PLACE", name, flush=True)
    if group:
        os.mkdir(group)
    if uid:
        for path in (group, *(f"{group}/cgroup.{one}" for one in ("procs", "subtree_control", "threads"))):
            os.chown(path, uid, uid)
        os.setxattr(group, "user.delegate", b"1")  # as systemd does
    started = subprocess.Popen(TESTS, env={**ENV, "JITNEY_TEST_BELOW": group}, preexec_fn=enter(group, uid))
    while True:  # as process 1 it collects the orphans of tests too
        pid, status = os.wait()
        if pid == started.pid:
            print("RESULT", name, os.waitstatus_to_exitcode(status), flush=True)
            return

print("CONTROLLERS", open(f"{TREE}/cgroup.controllers").read().split(), flush=True)
run("service", f"{TREE}/service")
for controller in ("memory", "cpu", "pids", "io"):
    with open(f"{TREE}/cgroup.subtree_control", "w") as file:
        file.write("+" + controller)
run("user", f"{TREE}/user", 1000)
run("root")
os.sync()
subprocess.call(["/bin/busybox", "poweroff", "-f"])
"""


# ---------------------------------------------------------------------------------------------------- what it boots


def find_kernel(folder: Path) -> Path:
    """A kernel with all that is needed built in: one that is named, one that is installed, or one of Debian's."""
    if named := os.environ.get("JITNEY_TEST_KERNEL"):
        return Path(named)
    installed = [path for path in sorted(Path("/boot").glob("vmlinuz-*")) if os.access(path, os.R_OK)]
    if installed:
        return installed[-1]
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no kernel: set JITNEY_TEST_KERNEL to a vmlinuz")
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False, timeout=60
    )
    package = re.search(r"linux-image-\d\S*", depends.stdout)
    if package is None:
        pytest.skip("no kernel: apt has no linux-image-cloud-amd64, and JITNEY_TEST_KERNEL is not set")
    command = ["apt-get", "download", "-o", "APT::Sandbox::User=root", package.group()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"no kernel: apt-get download: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("linux-image-*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "kernel"], check=True, timeout=120)
    return next((folder / "kernel" / "boot").glob("vmlinuz-*"))


def find_busybox() -> Path:
    """A static one."""
    found = shutil.which("busybox")
    if found is None or _libraries(Path(found)):
        pytest.skip("no static busybox (Debian: busybox-static)")
    return Path(found)


def _libraries(binary: Path) -> list[Path]:
    done = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False, timeout=30)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)]


def contents(python: Path, busybox: Path) -> Iterator[tuple[str, bytes, bool]]:
    """(path, bytes, whether it can be run) of each file of the machine."""
    library = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    modules = [path for path in _walk(library) if not LEFT_OUT & set(path.relative_to(library).parts)]
    packages = Path(pytest.__file__).parents[1]
    foreign = [path for name in PACKAGES if (packages / name).is_dir() for path in _walk(packages / name)]
    binaries = (python, *(path for path in (*modules, *foreign) if path.suffix == ".so"))
    shared = {needed for binary in binaries for needed in _libraries(binary)}
    for path in (python, *modules, *sorted(shared)):
        yield str(path), path.read_bytes(), True
    yield "/bin/busybox", busybox.read_bytes(), True
    for path in (*foreign, packages / "py.py"):
        if path.exists():
            yield f"/packages/{path.relative_to(packages)}", path.read_bytes(), False
    for path in _walk(ROOT / "src"):
        if path.suffix == ".py":
            yield f"/src/{path.relative_to(ROOT / 'src')}", path.read_bytes(), False
    yield f"/tests/{SUITE.name}", SUITE.read_bytes(), False
    yield "/run.py", RUN.encode(), False
    yield "/init", INIT.format(python=python).encode(), True


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in LEFT_OUT:
                yield from _walk(path)
        elif path.suffix not in (".a", ".o"):
            yield path


def pack(files: Iterator[tuple[str, bytes, bool]], target: Path) -> None:
    """Write the archive that a kernel unpacks into memory (cpio, "newc")."""
    folders: set[str] = set()
    with target.open("wb") as archive:
        number = 0

        def add(name: str, data: bytes, mode: int) -> None:
            nonlocal number
            number += 1
            raw = name.lstrip("/").encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
            archive.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

        for name, data, is_program in files:
            for parent in reversed(Path(name).parents):
                if str(parent) != "/" and str(parent) not in folders:
                    folders.add(str(parent))
                    add(str(parent), b"", stat.S_IFDIR | 0o755)
            add(name, data, stat.S_IFREG | (0o755 if is_program else 0o644))
        add("TRAILER!!!", b"", 0)


# ---------------------------------------------------------------------------------------------------- the test


@pytest.mark.slow
@pytest.mark.timeout(BOOT_S + 300)
def test_version_2_keeps_the_contract_at_the_root_as_a_service_and_as_a_user(tmp_path):
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-system-x86_64 (Debian: qemu-system-x86), on such a machine")
    busybox = find_busybox()
    kernel = find_kernel(tmp_path)
    python = Path(sys.executable).resolve()
    archive = tmp_path / "initramfs"
    pack(contents(python, busybox), archive)
    done = subprocess.run(
        [
            *(qemu, "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *("-kernel", kernel, "-initrd", archive, "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"),
            *("-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all tsc=unstable"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=BOOT_S,
        check=False,
    )
    output = done.stdout + done.stderr
    (tmp_path / "console").write_text(output)
    results = dict(re.findall(r"^RESULT (\w+) (-?\d+)", output, re.MULTILINE))
    assert results == {"service": "0", "user": "0", "root": "0"}, output[-10_000:]
    for place in output.split("PLACE ")[1:]:
        passed = re.search(r"(\d+) passed", place)
        assert passed is not None, place
        assert int(passed[1]) >= 40, place  # nothing was skipped that tells the versions apart
        assert "no memory here" not in place
