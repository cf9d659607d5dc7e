"""Images at the server: a worker is asked, and what functions have is not removed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jitney.errors import ConnectionError, InvalidError, NotFoundError, UnsupportedError
from jitney.server.api import images as api
from jitney.server.api.images import Images
from jitney.values import ids
from jitney.values.images import Collected, ImageRecord, ImageSpec, PlannedImage, RunCommands
from jitney.values.objects import ObjectKind
from jitney.values.volumes import VolumeMount
from jitney.wire.messages import images as im
from jitney.wire.messages import workers as wm
from jitney.wire.messages.objects import ObjectOpen
from tests.server.test_volumes import World

ONE, OTHER = (ids.make(ids.IMAGE, bytes([number]) * 16) for number in (1, 2))
PLAN = PlannedImage(image_id=ONE, python="3.11", needs_root=False, steps=())


class Node:
    """A worker that answers at once, from a table."""

    connected = True

    def __init__(self, answers):
        self.answers = answers
        self.asked = []
        self.images: Images | None = None

    def send(self, command):
        self.asked.append(command.task)
        answer = self.answers.get(type(command.task))
        if answer is not None:
            self.images.answered(wm.ImagesAnswer(task_id=command.task_id, **answer))


@pytest.fixture
def serve():
    """Runs `play(images, node)`; `in_use` are images of functions."""

    def run(play, answers=None, in_use=()):
        async def main():
            node = Node(answers or {})
            pools = {name: SimpleNamespace(spec=SimpleNamespace(image_id=name)) for name in in_use}

            async def wait_node(_timeout_s):
                await asyncio.sleep(0)

            fleet = SimpleNamespace(nodes={"n": node}, router=SimpleNamespace(pools=pools), wait_node=wait_node)
            images = node.images = Images(fleet=fleet, sources=None, entropy=bytes, volumes=World().volumes)
            await play(images, node)
            assert not images._tasks

        asyncio.run(main())

    return run


def test_a_worker_answers(serve):
    async def play(images, node):
        assert await images.plan(None, im.ImagePlanRequest(spec=ImageSpec()), None) == PLAN
        assert len((await images.list(None, im.ImageList(limit=1), None)).images) == 1
        tagged = await images.tag(None, im.ImageTag(image=ONE, name="a"), None)
        assert tagged == im.ImageTagged(image_id=ONE, name="a:latest")
        collected = await images.collect(None, im.ImageCollect(keep_ms=5, dry_run=True), None)
        assert collected == Collected(images=(ONE,))
        assert node.asked[-1] == wm.CollectImages(keep_ms=5, dry_run=True, in_use=(OTHER,))

    answers = {
        wm.PlanImage: {"plan": PLAN},
        wm.ListImages: {"images": (ImageRecord(image_id=ONE), ImageRecord(image_id=OTHER))},
        wm.TagImage: {"image_id": ONE, "name": "a:latest"},
        wm.CollectImages: {"collected": Collected(images=(ONE,))},
    }
    serve(play, answers, in_use=[OTHER])


def test_an_error_of_the_worker_is_the_error(serve):
    async def play(images, node):
        with pytest.raises(UnsupportedError, match="no walls here"):
            await images.plan(None, im.ImagePlanRequest(spec=ImageSpec()), None)

    serve(play, {wm.PlanImage: {"code": "unsupported", "message": "no walls here"}})


@pytest.mark.parametrize("version", [None, 3])
def test_a_volume_that_is_not_there_is_told_before_a_worker_is_asked(serve, version):
    async def play(images, node):
        volume_id = ids.make(ids.VOLUME, bytes(16))
        if version is not None:
            request = ObjectOpen(kind=ObjectKind.VOLUME, name="v", create_if_missing=True)
            volume_id = (await images._volumes._objects.open(request)).object_id
        mount = VolumeMount(path="/w", volume_id=volume_id, version=version, read_only=version is not None)
        spec = ImageSpec(layers=(RunCommands(commands=("ls",), volumes=(mount,)),))
        match = "no volume" if version is None else "no version 3"
        with pytest.raises(NotFoundError, match=match):
            await images.build(None, im.ImageBuild(spec=spec), None)
        with pytest.raises(NotFoundError, match=match):
            await images.plan(None, im.ImagePlanRequest(spec=spec), None)
        assert node.asked == []

    serve(play)


def test_images_are_removed_by_id_or_name_unless_functions_have_them(serve):
    async def play(images, node):
        images.built[ONE] = object()
        assert (await images.remove(None, im.ImageRemove(image="trainer"), None)).image_id == ONE
        assert node.asked[-1] == wm.RemoveImage(image_id=ONE, in_use=(OTHER,))
        assert ONE not in images.built
        for name, error in (("nobody", NotFoundError), ("../x", InvalidError), (OTHER, InvalidError)):
            with pytest.raises(error):
                await images.remove(None, im.ImageRemove(image=name), None)

    answers = {
        wm.ListImages: {"images": (ImageRecord(image_id=ONE, names=("trainer:latest",)),)},
        wm.RemoveImage: {"image_id": ONE},
    }
    serve(play, answers, in_use=[OTHER])


def test_a_worker_for_which_it_is_time_is_told_what_functions_have(serve):
    async def play(images, node):
        images.built[ONE] = object()
        await images.collect_due(wm.CollectionDue(keep_ms=7))
        assert node.asked == [wm.CollectImages(keep_ms=7, in_use=(OTHER,))]
        assert ONE not in images.built

    serve(play, {wm.CollectImages: {"collected": Collected(images=(ONE,), freed_bytes=5)}}, in_use=[OTHER])


def test_a_collection_that_fails_is_told_and_ends_nothing(serve, caplog):
    async def play(images, node):
        await images.collect_due(wm.CollectionDue(keep_ms=7))
        assert "the disk has gone" in caplog.text

    serve(play, {wm.CollectImages: {"code": "internal", "message": "the disk has gone"}})


def test_numbers_out_of_their_bounds_are_refused(serve):
    async def play(images, node):
        with pytest.raises(InvalidError):
            await images.collect(None, im.ImageCollect(keep_ms=-1), None)
        with pytest.raises(InvalidError):
            await images.list(None, im.ImageList(limit=0), None)
        assert not node.asked

    serve(play)


def test_a_worker_that_goes_answers_nobody(serve):
    async def play(images, node):
        asking = asyncio.create_task(images.list(None, im.ImageList(), None))
        await asyncio.sleep(0)
        images.worker_lost(object())
        assert not asking.done()
        images.worker_lost(node)
        with pytest.raises(ConnectionError, match="has gone"):
            await asking
        images.answered(wm.ImagesAnswer(task_id="bu-late"))  # late, or not ours

    serve(play)


def test_without_a_worker_nothing_is_asked(serve, monkeypatch):
    async def play(images, node):
        node.connected = False
        with pytest.raises(ConnectionError, match="no worker"):
            await images.list(None, im.ImageList(), None)

    monkeypatch.setattr(api, "WORKER_WAIT_S", -1.0)
    serve(play)
