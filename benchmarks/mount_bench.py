"""Volumes in containers: what a mount adds to a start, reads through it, and a commit of one file among many.

    python benchmarks/mount_bench.py [--runtime namespaces|process|oci] [--files 100000] [--mib 1024] [--smoke]

The reads are of a large file in the volume, beside the same bytes on the container's own file system, both warm: read
from the disk once, and then from memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jitney.drivers.runtime.oci import where
from jitney.drivers.runtime.process.views import try_view
from jitney.drivers.walls.probe import probe

WHY_NOT = {
    "namespaces": lambda: probe().why,
    "process": lambda: try_view().why,
    "oci": lambda: where.find(os.environ, uid=os.getuid()).why,
}
PROGRAM = Path(__file__).resolve().parent / "programs" / "mounted.py"


def main() -> int:
    """Print the table; the exit code says whether a limit was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runtime", choices=WHY_NOT, default="namespaces", help="what runs the containers")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--smoke", action="store_true", help="small, and no limit counts")
    options = parser.parse_args()
    if why := WHY_NOT[options.runtime]():
        print(f"not measured: there are no mounts here ({why})")
        return 0
    files, mib = (500, 16) if options.smoke else (options.files, options.mib)
    home = tempfile.mkdtemp(prefix="jitney-bench-")
    environment = {**os.environ, "JITNEY_HOME": home, "JITNEY_HTTP_PORT": "0", "NO_COLOR": "1"}
    environment["JITNEY_RUNTIME"] = options.runtime
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users have caches of bytecode
    try:
        command = [sys.executable, str(PROGRAM), str(files), str(mib)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            return 1
        plain, mounted, read, beside, random, random_beside, commit = json.loads(done.stdout.splitlines()[-1])
    finally:
        subprocess.run([sys.executable, "-m", "jitney", "down"], env=environment, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)
    added = mounted - plain
    rows = [
        (
            f"a volume of {files:,} files adds to a start",
            f"{added:.1f} ms",
            "<= 10 ms",
            added <= 10,
        ),
        ("read of a large file", f"{read / beside:.2f}x of the local one", ">= 0.9x", read / beside >= 0.9),
        ("random reads of 4 KiB", f"{random_beside / random:.2f}x", ">= 0.9x", random_beside / random >= 0.9),
        (f"commit of 1 of {files:,} files", f"{commit:.1f} ms", "<= 100 ms", commit <= 100),
    ]
    print(f"| work (runtime {options.runtime}) | measured | must be | |\n|---|---|---|---|")
    for what, figure, limit, passed in rows:
        print(f"| {what} | {figure} | {limit} | {'pass' if passed else 'FAIL'} |")
    return 0 if options.smoke or all(row[3] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
