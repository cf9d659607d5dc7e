"""`python -m jitney`: the same as the `jitney` command, for where the script folder is not on the path."""

from jitney.cli.main import main

if __name__ == "__main__":
    main()
