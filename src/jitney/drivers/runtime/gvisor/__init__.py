"""Containers in gVisor sandboxes, one for each template: their system calls are answered by a kernel in user space.

The boundary is `runsc`: what code inside calls is not the machine's kernel. Each sandbox serves one `TemplateSpec`: in
it runs a keeper of ours, the template, and the template's forks, which are the platform's containers (see
`runtime.kept`). They have a folder and an end of their own, and nothing between them that would keep hostile code of
the same module apart.

What differs from a kernel that is shared: control groups of the machine bound a sandbox and not what is in it, so the
memory of each container is looked at from inside; locks of files are not seen outside, so large values are copied. Its
network stack is its own too: frames leave it by the links of a hub of ours (see `runtime.kept.wiring`).
"""

from __future__ import annotations

from jitney.drivers.runtime.gvisor.driver import GvisorRuntime as GvisorRuntime
