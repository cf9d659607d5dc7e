"""`python -m jitney`: the same as the `jitney` command, for where the script folder is not on the path.

A client that finds no server starts one with `python -m jitney up --background`, its output going to the server's log.
Then there is nobody to print for and nothing to detach from, so it becomes the server at once, without the command
line: somebody waits for it.
"""

import os
import sys


def _is_started_by_a_client() -> bool:
    if sys.argv[1:] != ["up", "--background"]:
        return False
    from jitney.wire.home import Home

    try:
        return os.path.samestat(os.fstat(1), Home.default().server_log.stat())
    except OSError:
        return False


if __name__ == "__main__":
    if _is_started_by_a_client():
        from jitney.compose.server import main as serve
        from jitney.wire.home import Home

        sys.exit(serve([str(Home.default().root), "--background"]))
    from jitney.cli.main import main

    main()
