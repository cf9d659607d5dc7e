"""Nothing builds Dockerfiles: where it must not. It says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jitney.errors import UnsupportedError
from jitney.ports.dockerfiles import DockerfileOrder


class NoDockerfiles:
    """See the module."""

    def __init__(self, *, why: str, remedy: str = "") -> None:
        self._why = why
        self._remedy = remedy

    def why_not(self) -> tuple[str, str]:
        """See the port."""
        return self._why, self._remedy

    async def build(self, order: DockerfileOrder, archive: Path, on_line: Callable[[str], None]) -> None:
        """See the port: it cannot."""
        raise UnsupportedError(f"this Dockerfile cannot be built: {self._why}", hint=self._remedy)
