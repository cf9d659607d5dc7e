"""`python -m jitney`: the same as the `jitney` command, for where the script folder is not on the path.

A client that finds no server starts one with `python -m jitney up --background` as the leader of a session of its own:
there is nothing to detach from, and nobody to print for, so it becomes the server without importing the command line.
"""

import os
import sys

if __name__ == "__main__":
    if sys.argv[1:] == ["up", "--background"] and os.getsid(0) == os.getpid():
        from jitney.compose.server import main as serve
        from jitney.wire.home import Home

        sys.exit(serve([str(Home.default().root), "--background"]))
    from jitney.cli.main import main

    main()
