"""Contract tests are plain functions: they run the coroutines of a driver on one event loop, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Running:
    """Brings `run`."""

    @pytest.fixture
    def run(self) -> Iterator[Run]:
        """Runs a coroutine to its end."""
        with asyncio.Runner() as runner:
            yield runner.run
