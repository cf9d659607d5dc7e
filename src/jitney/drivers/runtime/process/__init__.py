"""Containers as plain processes of this user, forked from warm ones: fast, anywhere, and for trusted code only.

What holds: own session, environment, folder and limits for each container; nothing of a container outlives it; its
output is bounded; `memory_limit_mib` is looked after. What does not: there is no wall. A container sees the files,
the network and the other processes of the user who runs the worker, and its CPU share is not enforced.
"""

from __future__ import annotations

from jitney.drivers.runtime.forking.sdk import sdk_paths as sdk_paths
from jitney.drivers.runtime.process.driver import ProcessRuntime as ProcessRuntime
