"""What of the host's own file system is not for builds: a layer that hides it.

With the host for a base, the folders of the machine's programs (/usr, /etc, ...) are the lowest layer, with their ids
shifted: what belongs to root there belongs to root here, and apt can work. That makes readable what only root may read.
So this layer comes over it: /var is new, with a copy of the package database, and of /etc the secrets are gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path

from jitney.drivers.walls.machine import Ids, host_folders

PARTIAL = ".partial"  # the end of the name of one that is not whole
PACKAGES = "var/lib/dpkg"
FRESH = (
    "home",
    "mnt",
    "opt",
    "root",
    "run",
    "srv",
    "tmp",
    "var/tmp",
    "proc",
    "sys",
    "dev",
    "var/log",
    "var/cache/apt/archives/partial",
    "var/lib/apt/lists/partial",
)
SECRETS = (
    "etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/sudoers", "etc/sudoers.d", "etc/ssh",
    "etc/krb5.keytab", "etc/ssl/private", "etc/security/opasswd", "etc/wireguard", "etc/NetworkManager", "etc/ppp",
    "etc/letsencrypt", "etc/docker", "etc/kubernetes", "etc/rancher",
)  # fmt: skip


class HostMask:
    """The layer in `folder`; made when it is first needed, and again when the machine's packages have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, ids: Ids) -> None:
        """Make it. Blocks; a second or so, once. Who comes meanwhile waits."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder.with_name(f"{self.folder.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._prepare(ids)
        finally:
            os.close(lock)

    def _prepare(self, ids: Ids) -> None:
        database = Path("/", PACKAGES, "status")
        mark = self.folder.with_name(f"{self.folder.name}.mark")
        current = f"{database.stat().st_mtime_ns}" if database.exists() else "none"
        if mark.exists() and mark.read_text() == current and self.folder.is_dir():
            return
        partial = self.folder.with_name(f"{self.folder.name}{PARTIAL}")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        self._fill(partial, ids)
        shutil.rmtree(self.folder, ignore_errors=True)
        partial.rename(self.folder)
        mark.write_text(current)

    def _fill(self, root: Path, ids: Ids) -> None:
        for one in host_folders():
            if one.link:
                (root / one.name).symlink_to(one.link)
            else:
                (root / one.name).mkdir()
        for name in FRESH:
            (root / name).mkdir(parents=True, exist_ok=True)
            if name.endswith("tmp"):
                (root / name).chmod(0o1777)
        # Without root nothing is installed over the machine's packages, and some of their files cannot be read.
        if os.path.isdir(f"/{PACKAGES}") and ids.writer == "root":
            shutil.copytree(f"/{PACKAGES}", root / PACKAGES, symlinks=True)
        for secret in SECRETS:
            if os.path.lexists(f"/{secret}"):
                (root / secret).parent.mkdir(parents=True, exist_ok=True)
                _white_out(root / secret)
        # Programs that add users need these files, and may not see who is in the machine's.
        for name, text in (("etc/shadow", "root:*:::::::\n"), ("etc/gshadow", "root:*::\n")):
            (root / name).unlink(missing_ok=True)
            (root / name).write_text(text)
        if ids.writer != "root":
            return  # it is ours, and we are the root of our walls
        for path, folders, files in os.walk(root):
            for name in (*folders, *files):
                os.chown(os.path.join(path, name), ids.first, ids.first, follow_symlinks=False)
        os.chown(root, ids.first, ids.first)


def _white_out(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
