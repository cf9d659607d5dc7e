"""The runtime behind walls runs commands in its containers, with real terminals of their own."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from tests.conformance.test_interactive_process import CommandStage
from tests.conformance.test_runtime_namespaces import Stage, pytestmark

from jitney.testing.conformance.interactive import InteractiveContract
from jitney.testing.processes import open_stage

__all__ = ["pytestmark"]


class WalledCommandStage(CommandStage, Stage):
    """The same commands."""

    def place(self, container_id: str) -> tuple[str, str]:
        return f"place of {container_id}", "/root"


class TestNamespacesCommands(InteractiveContract):
    @pytest.fixture
    def make_stage(self, tmp_path):
        @asynccontextmanager
        async def make():
            async with open_stage(tmp_path / "home", WalledCommandStage) as stage:
                yield stage

        return make
