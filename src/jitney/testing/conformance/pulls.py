"""The contract of `ports.pulls`, sentence by sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from jitney.errors import AuthError, InvalidError, JitneyError, NotFoundError
from jitney.ports.pulls import PulledImage, Puller

LOGIN = ("ann", "secret")


class World(Protocol):
    """Images, and what brings them. `image` and `sibling` (2 layers each, for linux/amd64) share the lower layer."""

    image: str
    sibling: str
    private: str  # one that wants LOGIN
    missing: str
    archive: str  # a path with one image

    def puller(self) -> Puller:
        """A puller; all of them have the same folder, and none keeps unused layers for a while."""
        ...

    def fetched(self) -> int:
        """How many layers were brought so far."""
        ...

    def asked(self) -> int:
        """How often somebody else was asked for anything."""
        ...

    async def hold(self) -> None:
        """From now on, fetching stops in the middle."""
        ...

    async def wait_held(self) -> None:
        """Until something is stopped there."""
        ...

    async def release(self) -> None:
        """Let it go on."""
        ...


Lives = Callable[[], AbstractAsyncContextManager[World]]


def quiet(line: str) -> None:
    """Hear nothing."""


def are_folders(layers: tuple[str, ...]) -> bool:
    """Whether all of them are, by their whole paths."""
    return all(Path(layer).is_absolute() and Path(layer).is_dir() for layer in layers)


class PullerContract:
    """Subclass it, and give a fixture `lives`: makes a world, as an async context manager."""

    def run(self, lives: Lives, body: Callable[[World], Awaitable[None]]) -> None:
        """In a world."""

        async def inside() -> None:
            async with lives() as world:
                await body(world)

        asyncio.run(inside())

    def test_1_the_root_file_system_is_folders_and_the_image_says_what_it_is(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            image = await world.puller().pull(world.image, platform="linux/amd64", on_line=quiet)
            assert len(image.layers) == 2
            assert are_folders(image.layers)
            assert image.digest.startswith("sha256:")
            assert image.platform == "linux/amd64"
            assert image.env["GREETING"] == "hello"

        self.run(lives, body)

    def test_1_so_of_an_archive(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            image = await world.puller().load(world.archive, platform="linux/amd64", on_line=quiet)
            assert are_folders(image.layers)
            assert image.reference == world.archive

        self.run(lives, body)

    def test_3_layers_are_shared_and_fetched_once(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            one = await puller.pull(world.image, platform="linux/amd64", on_line=quiet)
            other = await puller.pull(world.sibling, platform="linux/amd64", on_line=quiet)
            assert one.layers[0] == other.layers[0]
            assert one.layers[1] != other.layers[1]
            assert world.fetched() == 3

        self.run(lives, body)

    def test_3_so_at_the_same_time(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller, second = world.puller(), world.puller()
            images = await asyncio.gather(
                *(each.pull(world.image, platform="linux/amd64", on_line=quiet) for each in (puller, puller, second))
            )
            assert images[0].layers == images[1].layers == images[2].layers
            assert world.fetched() == 2

        self.run(lives, body)

    def test_3_a_digest_that_is_here_needs_nobody(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            first = await world.puller().pull(world.image, platform="linux/amd64", on_line=quiet)
            asked = world.asked()
            name = world.image.rpartition(":")[0]
            again = await world.puller().pull(f"{name}@{first.digest}", platform="linux/amd64", on_line=quiet)
            assert again.layers == first.layers
            assert world.asked() == asked

        self.run(lives, body)

    def test_4_what_needed_credentials_is_for_its_scope(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            name, password = LOGIN

            async def get(scope: str) -> PulledImage:
                return await puller.pull(
                    world.private, username=name, password=password, platform="linux/amd64", scope=scope, on_line=quiet
                )

            ours = await get("ours")
            assert puller.find(ours.digest, scope="ours")
            assert puller.find(ours.digest, scope="theirs") is None
            assert puller.find(ours.digest) is None
            digest = f"{world.private.rpartition(':')[0]}@{ours.digest}"
            with pytest.raises((AuthError, NotFoundError)):
                await puller.pull(digest, platform="linux/amd64", scope="theirs", on_line=quiet)
            theirs = await get("theirs")
            assert not set(theirs.layers) & set(ours.layers)
            anonymous = await puller.pull(world.image, platform="linux/amd64", scope="ours", on_line=quiet)
            assert puller.find(anonymous.digest, scope="theirs")

        self.run(lives, body)

    def test_6_a_platform_that_is_not_there_lists_those_that_are(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            with pytest.raises(NotFoundError, match="linux/amd64"):
                await world.puller().pull(world.image, platform="linux/s390x", on_line=quiet)

        self.run(lives, body)

    def test_an_image_that_is_not_there(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            with pytest.raises(NotFoundError) as caught:
                await world.puller().pull(world.missing, on_line=quiet)
            assert caught.value.hint

        self.run(lives, body)

    @pytest.mark.parametrize("reference", ["", "UPPER", "a b", "../etc", "a@sha256:1", "http://a/b", "a:b:c"])
    def test_a_reference_that_is_none(self, lives: Lives, reference: str) -> None:
        async def body(world: World) -> None:
            with pytest.raises(InvalidError):
                await world.puller().pull(reference, on_line=quiet)
            assert world.asked() == 0

        self.run(lives, body)

    def test_7_lines_tell_what_happens_and_a_reader_may_go_away(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            lines: list[str] = []

            def hear(line: str) -> None:
                lines.append(line)
                raise RuntimeError("gone")

            image = await world.puller().pull(world.image, platform="linux/amd64", on_line=hear)
            assert len(lines) == 1
            assert image.layers

        self.run(lives, body)

    def test_8_a_pull_that_is_cancelled_is_over_and_the_next_one_works(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            await world.hold()
            task = asyncio.create_task(puller.pull(world.image, platform="linux/amd64", on_line=quiet))
            await world.wait_held()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await world.release()
            assert (await puller.pull(world.image, platform="linux/amd64", on_line=quiet)).layers

        self.run(lives, body)

    def test_8_others_that_wait_for_the_same_get_it(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            await world.hold()
            tasks = [
                asyncio.create_task(puller.pull(world.image, platform="linux/amd64", on_line=quiet)) for _ in range(2)
            ]
            await world.wait_held()
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await world.release()
            assert (await tasks[1]).layers

        self.run(lives, body)

    def test_9_find_gives_what_is_whole(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            image = await puller.pull(world.image, platform="linux/amd64", on_line=quiet)
            assert puller.find(image.digest) == image
            assert puller.find("sha256:" + "0" * 64) is None

        self.run(lives, body)

    def test_10_unused_layers_go_and_their_images_with_them(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            one = await puller.pull(world.image, platform="linux/amd64", on_line=quiet)
            other = await puller.pull(world.sibling, platform="linux/amd64", on_line=quiet)
            assert await puller.remove_unused({*one.layers}) > 0
            assert puller.find(one.digest) == one
            assert puller.find(other.digest) is None
            assert not are_folders(other.layers)
            again = await puller.pull(world.sibling, platform="linux/amd64", on_line=quiet)
            assert are_folders(again.layers)

        self.run(lives, body)

    def test_11_closing_ends_what_runs(self, lives: Lives) -> None:
        async def body(world: World) -> None:
            puller = world.puller()
            await puller.reap()
            await world.hold()
            task = asyncio.create_task(puller.pull(world.image, platform="linux/amd64", on_line=quiet))
            await world.wait_held()
            await puller.close()
            with pytest.raises((JitneyError, asyncio.CancelledError)):
                await task
            await world.release()
            assert await world.puller().reap() == 0

        self.run(lives, body)
