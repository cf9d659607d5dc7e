"""The wall around containers: namespaces, mounts, privileges. Standard library and ctypes only; Linux only.

A wall is data: lists of operations (`ops`) that the worker computes and that are performed here by a dumb loop. Who is
who, from the outside in:

    launcher  (`launch`)  made by the worker, with the worker's privileges. Lays out a *stage*: a folder of memory with
                          everything that the wall may see, and nothing else of the machine. Makes the user namespace,
                          enters it, makes the other namespaces, forks the warden, and is gone.
    warden    (`warden`)  process 1 of the wall's pid namespace. Its root is the stage. Trusted: no code of users ever
                          runs in it. Makes templates and pods, and collects what nobody else does.
    template              in a mount namespace of its own, with the image as its root: the image's interpreter, and the
                          user's module. It may join namespaces (setns), and nothing else that a container may not:
                          mounting, unsharing and the like are closed to it by seccomp.
    pod       (`pod`)     process 1 of a container's pid namespace: namespaces, mounts and network, ready to be entered.
                          Made ahead, as it takes some milliseconds.
    container (`enter`)   a fork of the template that has joined a pod: no capability, no new privileges, the strict
                          filter, its control group. Only then user code goes on.

Where an engine makes the wall, a `holder` has what the warden has of the network, and nothing else of this is there.

Killing a pod kills all that runs in it, and killing the warden all that runs in the wall: the kernel sees to it.

What is no boundary: the template imports the user's module with CAP_SYS_ADMIN in the wall's user namespace. Templates
serve containers of one module of one app only, so what that module could do to them is to its own. The boundary to the
rest of the machine is the wall: namespaces, the stage, ids that own nothing outside, and the filter.
"""
