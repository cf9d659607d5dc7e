"""The network namespace of a container of an engine."""

from __future__ import annotations

import os
import select

from jitney.drivers.runtime.kept.render import CONTROL
from jitney.ports.network import NetworkFailed


def namespace_of(pid: int, control: str) -> int:
    """A descriptor of the network namespace of a box's first process. `control`: the folder of it that we know.

    An engine may number processes as another namespace does: what is not the box's would be another's network.

    Raises:
        NetworkFailed: it is not that, or has ended.
    """
    try:
        process = os.pidfd_open(pid)
        try:
            if not os.path.samestat(os.stat(f"/proc/{pid}/root{CONTROL}"), os.stat(control)):
                raise NetworkFailed(f"process {pid} is none of the engine's container")
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if _has_ended(process) or os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
                os.close(namespace)
                raise NetworkFailed(f"process {pid} has ended, or has no network namespace of its own")
            return namespace
        finally:
            os.close(process)
    except OSError as error:
        raise NetworkFailed(
            f"the engine's process {pid} is not to be seen from here ({error.strerror or error}): "
            "the engine must run on this machine, outside of other containers"
        ) from error


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))
