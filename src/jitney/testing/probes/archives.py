"""Traps for whoever reads a container's files from outside: collectors of scratch folders, snapshots, build contexts.

Probes here only plant: that is allowed, and is done where the outside has canaries to look after. What counts is what
the outside looks like after the container has ended. For extractors there is `hostile_archives`, and for those who take
paths `HOSTILE_PATHS`.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile

from jitney.testing.probes.probe import ALLOWED, Outcome, allowed, denied, probe, skipped
from jitney.testing.probes.targets import Targets

DEPTH = 100
_LONG_NAME = "n" * 255

# As a path of a source, a volume or an archive: each leads out of its folder, or is not what it looks like.
HOSTILE_PATHS = (
    "../out",
    "a/../../out",
    "/etc/passwd",
    "//etc/passwd",
    "a//b",
    "./a",
    "a/./b",
    "a/",
    "",
    ".",
    "..",
    "a/..",
    "a\0b",
    "n" * 256,
    "a/" + "n" * 256,
    "~root/../..",
    "a/../b",
)


@probe(process=ALLOWED, oci=ALLOWED, namespaces=ALLOWED, gvisor=ALLOWED, needs=("canaries",))
def links_to_outside(targets: Targets) -> Outcome:
    """Leave links to files and folders of the outside in every folder that can be written, for a cleaner to follow."""
    planted = 0
    for folder in _writable():
        for at, canary in enumerate(targets.canaries):
            planted += _plant(canary.path, f"{folder}/jitney-trap-{at}")
            planted += _plant(os.path.dirname(canary.path), f"{folder}/jitney-trap-folder-{at}")
    return allowed(f"planted {planted}") if planted else skipped("no folder can be written")


@probe(needs=("canaries",))
def hard_links_to_outside(targets: Targets) -> Outcome:
    """Give a file of the outside a second name in a folder of one's own."""
    for folder in _writable():
        for canary in targets.canaries:
            path = f"{folder}/jitney-trap-hard"
            try:
                os.link(canary.path, path)
            except OSError:
                continue
            os.unlink(path)
            return allowed(f"linked {canary.path}")
    return denied("none")


@probe(process=ALLOWED, oci=ALLOWED, namespaces=ALLOWED, gvisor=ALLOWED, needs=("canaries",))
def odd_files(_: Targets) -> Outcome:
    """Leave pipes to block readers, names to confuse them, a deep tree, and folders that nobody may read."""
    for folder in _writable()[:1]:
        base = tempfile.mkdtemp(prefix="jitney-trap-", dir=folder)
        os.mkfifo(f"{base}/pipe")
        for name in ("new\nline", "\x1b[2Jescape", "-rf", "*", _LONG_NAME, "\udcff"):
            os.close(os.open(os.path.join(base, name), os.O_CREAT | os.O_WRONLY, 0o600))
        _dig(base, DEPTH)
        os.mkdir(f"{base}/closed")
        os.close(os.open(f"{base}/closed/f", os.O_CREAT | os.O_WRONLY, 0))
        os.chmod(f"{base}/closed", 0)
        with open(f"{base}/sparse", "wb") as file:
            file.truncate(1 << 40)
        return allowed(base)
    return skipped("no folder can be written")


def _writable() -> list[str]:
    folders = {os.path.realpath(path) for path in (os.getcwd(), tempfile.gettempdir(), "/var/tmp")}
    return [folder for folder in sorted(folders) if os.access(folder, os.W_OK) and folder != "/"]


def _plant(text: str, path: str) -> int:
    try:
        os.symlink(text, path)
    except OSError:
        return 0
    return 1


def _dig(folder: str, depth: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 1) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = size if kind == tarfile.REGTYPE else 0
    return member


def hostile_archives() -> dict[str, bytes]:
    """What each tries -> a tar that tries it. An extractor refuses it, or leaves nothing outside its folder."""
    tries: dict[str, list[tarfile.TarInfo]] = {
        "a path above": [_member("../out")],
        "a path above, later": [_member("a/../../out")],
        "an absolute path": [_member("/tmp/jitney-out")],
        "through a link to a folder": [_member("d", tarfile.SYMTYPE, "/tmp"), _member("d/jitney-out")],
        "through a link upwards": [_member("d", tarfile.SYMTYPE, ".."), _member("d/out")],
        "a link to a secret": [_member("secret", tarfile.SYMTYPE, "/etc/passwd")],
        "a hard link to a secret": [_member("secret", tarfile.LNKTYPE, "/etc/passwd")],
        "a hard link upwards": [_member("secret", tarfile.LNKTYPE, "../out")],
        "a link that is written through": [_member("f", tarfile.SYMTYPE, "../out"), _member("f")],
        "a folder that becomes a link": [
            _member("d", tarfile.DIRTYPE),
            _member("d", tarfile.SYMTYPE, ".."),
            _member("d/out"),
        ],
        "a device": [_member("disk", tarfile.BLKTYPE)],
        "a character device": [_member("memory", tarfile.CHRTYPE)],
        "a pipe": [_member("pipe", tarfile.FIFOTYPE)],
        "a setuid file": [_setuid()],
        "the same name twice": [_member("f"), _member("f")],
        "a name of case": [_member("README"), _member("readme")],
    }
    return {what: _tar(members) for what, members in tries.items()}


def _setuid() -> tarfile.TarInfo:
    member = _member("su")
    member.mode, member.uid = 0o4755, 0
    return member


def _tar(members: list[tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x") if member.size else None)
    return file.getvalue()
