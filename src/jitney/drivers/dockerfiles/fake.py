"""Builds Dockerfiles without an engine, as a script says: for tests of what asks for such builds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.dockerfiles import DockerfileOrder


class FakeDockerfiles:
    """See the module.

    Args:
        archive: what a build leaves behind.
        lines: what it prints.
        fails: whether it fails after them.
        gate: where given, a build waits for it after its first line.
        why: why it cannot build, and what would help.
    """

    def __init__(
        self,
        archive: bytes = b"",
        *,
        lines: tuple[str, ...] = ("STEP 1/1: FROM scratch",),
        fails: bool = False,
        gate: asyncio.Event | None = None,
        why: tuple[str, str] = ("", ""),
    ) -> None:
        self.archive = archive
        self.lines = lines
        self.fails = fails
        self.gate = gate
        self.why = why
        self.orders: list[DockerfileOrder] = []
        self.running = 0

    def why_not(self) -> tuple[str, str]:
        """See the port."""
        return self.why

    async def build(self, order: DockerfileOrder, archive: Path, on_line: Callable[[str], None]) -> None:
        """See the port."""
        if self.why[0] or order.base.secrets:
            raise UnsupportedError(f"this Dockerfile cannot be built: {self.why[0] or 'it has secrets'}")
        self.orders.append(order)
        self.running += 1
        try:
            for line in self.lines:
                on_line(line)
                if self.gate is not None:
                    await self.gate.wait()
            if self.fails:
                raise ImageBuildError("the Dockerfile failed:\n" + "\n".join(f"  {line}" for line in self.lines))
            await asyncio.to_thread(archive.write_bytes, self.archive)
        finally:
            self.running -= 1
