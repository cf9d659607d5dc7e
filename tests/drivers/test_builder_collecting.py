"""What is removed, and above all what is not."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drivers.test_builder_rootfs import read
from tests.drivers.test_builder_rootfs import stage as stage

from jitney.drivers.builder.local import disk, leases
from jitney.drivers.builder.local.collecting import Folder, Image, decide
from jitney.drivers.builder.local.leases import Lease
from jitney.errors import InvalidError
from jitney.values.images import Env, RunCommands

PATHS = st.sampled_from([f"/layer/{number}" for number in range(6)])
IDS = st.sampled_from([f"im-{number}" for number in range(5)])
TIMES = st.integers(0, 10)


@given(
    images=st.lists(
        st.builds(Image, image_id=IDS, needs=st.frozensets(PATHS), used_at_ms=TIMES), unique_by=lambda one: one.image_id
    ),
    folders=st.lists(
        st.builds(Folder, path=PATHS, commit=st.just(""), used_at_ms=TIMES), unique_by=lambda one: one.path
    ),
    named=st.frozensets(IDS),
    held=st.frozensets(PATHS | IDS),
    in_use=st.frozensets(IDS),
    before_ms=TIMES,
)
def test_nothing_goes_that_somebody_needs(images, folders, named, held, in_use, before_ms):
    decision = decide(images, folders, named=named, held=held, in_use=in_use, before_ms=before_ms)
    gone = {folder.path for folder in decision.folders}
    for image in images:
        stays = image.image_id not in decision.images
        kept = image.image_id in named | held | in_use or image.used_at_ms >= before_ms
        assert stays == kept
        assert not (stays and image.needs & gone)
    for folder in folders:
        needed = any(folder.path in image.needs for image in images if image.image_id not in decision.images)
        assert (folder.path in gone) == (not needed and folder.path not in held and folder.used_at_ms < before_ms)
    again = decide(
        [image for image in images if image.image_id not in decision.images],
        [folder for folder in folders if folder.path not in gone],
        named=named,
        held=held,
        in_use=in_use,
        before_ms=before_ms,
    )
    assert (again.images, again.folders) == ((), ())  # one collection is as good as two


def later():
    return time.time_ns() // 1_000_000 + 60_000


def collect(stage, keep_ms=0, **options):
    return asyncio.run(stage.builder().collect(keep_ms, later(), **options))


def layers_on_disk(stage):
    return {str(path).rstrip("/") for path in stage.images.glob("roots/*/fs-*/")}


def test_layers_go_with_the_last_image_that_needs_them(stage):
    shared = RunCommands(commands=("touch /shared",))
    first = stage.build(shared, RunCommands(commands=("touch /opt/one",)))
    second = stage.build(shared, RunCommands(commands=("touch /opt/two",)))
    builder = stage.builder()
    builder.tag(second.image_id, "kept")
    dry = collect(stage, dry_run=True)
    assert layers_on_disk(stage) == {*first.layers[1:], *second.layers[1:]}
    done = collect(stage)
    assert dry.images == done.images == (first.image_id,)
    assert (dry.freed_bytes, done.freed_bytes > 0) == (done.freed_bytes, True)
    assert layers_on_disk(stage) == set(second.layers[1:])
    assert read(second, "shared") == ""
    assert builder.find(second.image_id) == msgspec.structs.replace(second, cached=True, took_ms=0)
    assert stage.puller.kept == {str(stage.base)}


def test_everything_goes_that_nobody_needs(stage):
    stage.build(RunCommands(commands=("touch /one",)))
    collect(stage)
    assert not layers_on_disk(stage)
    assert not [*stage.images.glob("im-*")]
    assert not [*stage.images.glob("trash/*")]
    assert stage.puller.kept == set()
    assert stage.build(RunCommands(commands=("touch /one",))).cached is False


def test_an_image_that_is_held_stays_with_all_that_it_consists_of(stage):
    image = stage.build(RunCommands(commands=("touch /one",)))
    builder = stage.builder()
    hold = builder.hold(image.image_id)
    assert hold.image.layers == image.layers
    assert collect(stage).images == ()
    assert builder.find(image.image_id)
    with pytest.raises(InvalidError, match="in use"):
        asyncio.run(builder.remove(image.image_id))
    hold.release()
    hold.release()
    assert collect(stage).images == (image.image_id,)
    assert builder.hold(image.image_id) is None


def test_a_descriptor_of_a_hold_keeps_it_in_another_process(stage):
    image = stage.build()
    builder = stage.builder()
    hold = builder.hold(image.image_id)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(hold.fd,))
    path = next((stage.images / disk.LEASES).iterdir())
    os.close(hold.fd)  # as if the worker had died
    assert collect(stage).images == ()
    child.communicate(b"\n")
    assert collect(stage).images == (image.image_id,)
    assert not path.exists()


def test_leases_of_the_dead_do_not_count(stage):
    stage.images.mkdir()
    pid = os.fork()
    if pid == 0:
        Lease(stage.images).add("/layer/1")
        os._exit(0)
    os.waitpid(pid, 0)
    living = Lease(stage.images)
    living.add("/layer/2", "/layer/2")
    assert leases.held(stage.images) == {"/layer/2"}
    assert len([*(stage.images / disk.LEASES).iterdir()]) == 1
    living.release()
    assert leases.held(stage.images) == set()


def test_a_running_build_keeps_what_it_stands_on(stage):
    stage.build(RunCommands(commands=("touch /one",)))

    async def collect_meanwhile(run):
        collected.append(await builder.collect(0, later()))
        return 0 if all(map(os.path.isdir, run.spec.layers)) else 9

    collected = []
    builder = stage.builder()
    stage.machine.at_run["touch /two"] = collect_meanwhile
    image = stage.build(RunCommands(commands=("touch /one",)), RunCommands(commands=("touch /two",)), builder=builder)
    assert len(collected) == 1
    assert all(map(os.path.isdir, image.layers))
    assert builder.find(image.image_id)


def test_layers_of_builds_that_failed_stay_for_as_long_as_images_do(stage):
    broken = (RunCommands(commands=("touch /one",)), RunCommands(commands=("fail",)))
    with pytest.raises(Exception, match="it went wrong"):
        stage.build(*broken)
    collect(stage, keep_ms=3_600_000)
    assert len(layers_on_disk(stage)) == 1
    collect(stage, keep_ms=0)
    assert not layers_on_disk(stage)


def test_removing_one_image_takes_what_it_alone_has(stage):
    shared = RunCommands(commands=("touch /shared",))
    first = stage.build(shared, RunCommands(commands=("touch /one",)))
    second = stage.build(shared, Env(variables={"A": "1"}))
    assert asyncio.run(stage.builder().remove(first.image_id))
    assert layers_on_disk(stage) == {second.layers[1]}
    assert stage.builder().find(second.image_id)


def test_a_lost_layer_is_made_again(stage):
    import shutil

    image = stage.build(RunCommands(commands=("touch /one",)))
    shutil.rmtree(image.layers[1])
    builder = stage.builder()
    assert builder.find(image.image_id) is None
    again = stage.build(RunCommands(commands=("touch /one",)), builder=builder)
    assert again.layers[1] != image.layers[1]
    assert Path(again.layers[1], "one").exists()
