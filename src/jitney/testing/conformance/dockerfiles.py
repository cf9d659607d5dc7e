"""The contract of `ports.dockerfiles`, sentence by sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import pytest

from jitney.drivers.pulls.oci import OciPuller
from jitney.errors import ImageBuildError, UnsupportedError
from jitney.ports.dockerfiles import DockerfileBuilder, DockerfileOrder
from jitney.values.images import Dockerfile


class Stage(Protocol):
    """What a driver's test module brings: builders with Dockerfiles that work, fail, or stop in the middle."""

    def working(self) -> tuple[DockerfileBuilder, DockerfileOrder]:
        """A builder, and a Dockerfile of several stages whose image has the file /made ('yes') and the variable A=b."""
        ...

    def failing(self) -> tuple[DockerfileBuilder, DockerfileOrder]:
        """... that prints 'it went wrong' and fails."""
        ...

    def gated(self) -> tuple[DockerfileBuilder, DockerfileOrder]:
        """... that prints 'waiting' and then does not end."""
        ...

    def left(self) -> int:
        """How many images and containers of builds there are at the engine."""
        ...


class DockerfilesContract:
    """Subclass it, and give a fixture `stage(tmp_path)`."""

    def test_1_nothing_is_in_the_way(self, stage: Stage) -> None:
        builder, _ = stage.working()
        assert builder.why_not() == ("", "")

    def test_2_the_archive_is_an_image_that_can_be_loaded(self, stage: Stage, tmp_path: Path) -> None:
        builder, order = stage.working()
        lines: list[str] = []
        archive = tmp_path / "image.tar"
        asyncio.run(builder.build(order, archive, lines.append))
        puller = OciPuller(tmp_path / "layers")
        image = asyncio.run(puller.load(str(archive), is_own=True, on_line=lambda _: None))
        found = [path for layer in image.layers if (path := Path(layer) / "made").is_file()]
        assert {path.read_text().strip() for path in found} == {"yes"}
        assert image.env["A"] == "b"
        assert any("FROM" in line for line in lines)  # 3
        assert stage.left() == 0  # 5

    def test_4_a_failing_step_shows_its_last_lines(self, stage: Stage, tmp_path: Path) -> None:
        builder, order = stage.failing()
        with pytest.raises(ImageBuildError, match="it went wrong"):
            asyncio.run(builder.build(order, tmp_path / "image.tar", lambda _: None))
        assert stage.left() == 0

    def test_4_secrets_are_refused_before_anything(self, stage: Stage, tmp_path: Path) -> None:
        builder, order = stage.working()
        base = Dockerfile(text=order.base.text, secrets={"TOKEN": "s3cr3t"})
        lines: list[str] = []
        with pytest.raises(UnsupportedError):
            asyncio.run(builder.build(DockerfileOrder(base=base), tmp_path / "image.tar", lines.append))
        assert not lines

    def test_5_one_that_is_cancelled_ends_and_leaves_nothing(self, stage: Stage, tmp_path: Path) -> None:
        builder, order = stage.gated()

        async def give_up() -> None:
            waiting = asyncio.Event()

            def on_line(line: str) -> None:
                if line.endswith("waiting"):
                    waiting.set()

            task = asyncio.create_task(builder.build(order, tmp_path / "image.tar", on_line))
            async with asyncio.timeout(60):
                await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
        assert stage.left() == 0
