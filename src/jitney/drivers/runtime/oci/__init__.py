"""Containers in an engine's container (Docker, Podman): one for each template, by the engine's API on this machine.

The engine's wall is the boundary. Each of its containers serves one `TemplateSpec`: in it runs a keeper of ours, the
template, and the template's forks, which are the platform's containers (see `runtime.kept`). They have a folder, limits
and an end of their own, and nothing between them that would keep hostile code of the same module apart.

An engine's container takes some hundred milliseconds to start, a fork in it a few. So this tier costs once for each
template, and afterwards little.
"""

from __future__ import annotations

from jitney.drivers.runtime.oci.building import OciDockerfiles as OciDockerfiles
from jitney.drivers.runtime.oci.driver import OciRuntime as OciRuntime
from jitney.drivers.runtime.oci.driver import OciSettings as OciSettings
