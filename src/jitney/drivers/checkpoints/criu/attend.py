"""Process 1 of the process namespace of one restored process: restores it, waits for its end, and tells of both.

    python attend.py STATUS_FD criu restore ...

Lines of JSON on STATUS_FD: {"restored": exit code of criu}, then {"status": ..., "cpu_ms": ..., "rss_kib": ...}.
When this process ends, the kernel ends whatever is left in the namespace. Standard library only, and run by its path.
"""

import json
import os
import sys


def main(arguments: list[str]) -> int:
    """Do as the module says; the exit code."""
    status_fd = int(arguments[0])
    os.set_inheritable(status_fd, False)
    criu = os.spawnvp(os.P_NOWAIT, arguments[1], arguments[1:])
    code = os.waitstatus_to_exitcode(_collect(criu))
    _tell(status_fd, {"restored": code})
    if code:
        return 1
    # It was left to us, as to process 1. What it leaves behind itself comes to us too, and ends with us.
    with open("/proc/self/task/1/children") as file:
        root = int(file.read().split()[0])
    pid = 0
    while pid != root:
        pid, status, usage = os.wait4(-1, 0)
    _tell(
        status_fd,
        {"status": status, "cpu_ms": int((usage.ru_utime + usage.ru_stime) * 1000), "rss_kib": usage.ru_maxrss},
    )
    return 0


def _collect(pid: int) -> int:
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            return status


def _tell(fd: int, what: dict[str, int]) -> None:
    os.write(fd, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
