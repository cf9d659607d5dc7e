"""The command lines of CRIU, and what its log says: the decisions of this driver."""

from __future__ import annotations

import re

LOG = "criu.log"
VERSION_MIN = (4, 1)
VERSION = re.compile(r"^Version:\s*(\d+)\.(\d+)(\S*)", re.MULTILINE)
REASON_CHARS_MAX = 400
GHOST_BYTES_MAX = 64 << 20  # of a deleted file that is still open

_ERROR = re.compile(r"^(?:\([\d.]+\)\s*)?(?:\s*\d+:\s*)?Error \((?P<where>[^)]*)\):\s*(?P<what>.*)$")
# Said in passing, or as an end of what was said before.
_HARMLESS = ("rlimit: Can't setup RLIMIT_NOFILE for self", "Dumping FAILED", "Restoring FAILED", "(file-based) sync")

# What the words of CRIU mean: (pattern, what the process has).
_MEANINGS = (
    (re.compile(r"inet: Connected TCP socket|Can't dump .*TCP"), "it has an open TCP connection"),
    (re.compile(r"unix: .*([Ee]xternal|half of stream)"), "it has a Unix socket that leads to another process"),
    (re.compile(r"file locks? are hold|Some file locks"), "it holds a lock on a file"),
    (re.compile(r"Can't dump ghost file|ghost file .* too big"), "it has a large file open that was deleted"),
    (re.compile(r"/dev/nvidia|/dev/kfd|/dev/dri|nvidia"), "it has an accelerator open"),
    (re.compile(r"io_uring|IORING"), "it uses io_uring"),
    (
        re.compile(r"has bad (build-ID|size)|Checking file .* (fail|mismatch)|bad mode"),
        "a file that it had open changed",
    ),
)


def render_dump(criu: str, pid: int, images: str) -> tuple[str, ...]:
    """Write the process `pid` down, and leave it as it is."""
    return (
        criu, "dump", "--tree", str(pid), "--images-dir", images, "--log-file", LOG, "-v1", "--leave-running",
        "--manage-cgroups=ignore", "--ghost-limit", str(GHOST_BYTES_MAX),
    )  # fmt: skip


def render_restore(criu: str, images: str, work: str) -> tuple[str, ...]:
    """Make it again, as a child of whoever runs this, which ends when that is done."""
    return (
        criu, "restore", "--images-dir", images, "--work-dir", work, "--log-file", LOG, "-v1", "--restore-detached",
        "--manage-cgroups=ignore",
    )  # fmt: skip


def render_attended(unshare: str, python: str, attend: str, status_fd: int, criu: tuple[str, ...]) -> tuple[str, ...]:
    """A restore in a process namespace of its own, as the numbers of its processes are taken where it was dumped.

    `attend` is the program that is process 1 there.
    """
    return (
        unshare, "--pid", "--fork", "--kill-child=KILL", "--mount", "--propagation", "slave", "--mount-proc",
        python, "-I", "-S", attend, str(status_fd), *criu,
    )  # fmt: skip


def parse_version(text: str) -> tuple[int, int] | None:
    """Of `criu --version`."""
    found = VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else None


def reason(log: str) -> str:
    """Why it failed, from CRIU's log (or what it wrote to stderr): what it means, and CRIU's own words.

    >>> reason("(00.01) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established")
    'it has an open TCP connection (criu: inet: Connected TCP socket, consider using --tcp-established)'
    >>> reason("no errors")
    'criu does not say why'
    """
    said = []
    for line in log.splitlines():
        found = _ERROR.match(line.strip())
        if found and not any(words in found["what"] for words in _HARMLESS):
            said.append(found["what"].strip())
    if not said:
        return "criu does not say why"
    for pattern, meaning in _MEANINGS:
        for words in said:
            if pattern.search(words):
                return f"{meaning} (criu: {words})"[:REASON_CHARS_MAX]
    return f"criu: {said[0]}"[:REASON_CHARS_MAX]
