"""Inside a wall that somebody else has made (an engine's container, a gVisor sandbox): what is ours there.

    keeper    process 1. Trusted: no code of users runs in it. Starts the template and commands at the worker's word,
              collects what nobody else does, looks at memory, and cleans up after each container.
    sitter    the parent of one command, and the one to whom all that it leaves behind comes.
    template  as everywhere (runner.template), and containers are forks of it.

Nothing can be made *inside* such a wall: an engine gives no privilege for it, and needs none of us. So the containers
of one template share its namespaces and its user, as plain processes do: they serve one module of one app, and the
boundary is the wall around all of them. Killing process 1 kills them all: the kernel sees to it.
"""
