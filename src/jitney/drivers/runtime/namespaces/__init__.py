"""Containers behind a wall of namespaces, forked from warm templates: Linux, root or not, no engine.

How the wall is made and what stands where is told in `runner.wall`; what it is made of is decided in `render`, as data.
`wall` is the worker's end of one, `driver` the runtime.
"""

from __future__ import annotations

from jitney.drivers.runtime.namespaces.driver import NamespacesRuntime as NamespacesRuntime
