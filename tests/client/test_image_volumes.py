"""Volumes of steps of images, as declared and as they are sent to be built."""

import pytest

import jitney
from jitney.errors import InvalidError, NotFoundError, UnsupportedError
from jitney.testing.fake_volumes import FakeVolumes
from jitney.values import ids
from jitney.values.images import BuiltImage, RunCommands, volumes_of
from jitney.wire.messages.images import ImageBuild

BUILT = BuiltImage(
    image_id=ids.make(ids.IMAGE, bytes(16)), python_path="/python", python_version="3.11.7", cloudpickle_version="3.1.2"
)


def fetch():
    """Is built with."""


@pytest.fixture
def volumes(server):
    server.answers.built = BUILT
    return FakeVolumes(server)


def sent(server):
    """The declarations that were sent to be built."""
    return [one.spec for one in server.answers.asked if isinstance(one, ImageBuild)]


def test_volumes_are_looked_up_and_made_when_the_image_is_built(server, volumes):
    weights = jitney.Volume.from_name("weights", create_if_missing=True)
    old = jitney.Volume.from_name("sets", create_if_missing=True)
    image = (
        jitney.Image.debian_slim()
        .run_function(fetch, volumes={"/weights/": weights.with_mount_options(sub_path="a/b")})
        .run_commands("ls", volumes={"/x": old.at(0), "/w": weights})
    )
    image.hydrate()
    (spec,) = sent(server)
    function, commands = spec.layers
    ((weights_id, sets_id),) = [[one.hydrate().object_id for one in (weights, old)]]
    (mount,) = function.volumes
    assert (mount.path, mount.volume_id, mount.sub_path, mount.read_only) == ("/weights", weights_id, "a/b", False)
    assert [(one.path, one.volume_id, one.version, one.read_only) for one in commands.volumes] == [
        ("/w", weights_id, None, False),
        ("/x", sets_id, 0, True),
    ]
    assert function.pickled
    assert isinstance(commands, RunCommands)


def test_a_volume_that_is_missing_is_told_with_near_names_before_anything_is_built(server, volumes):
    jitney.Volume.from_name("weights", create_if_missing=True).hydrate()
    image = jitney.Image.debian_slim().run_function(fetch, volumes={"/w": jitney.Volume.from_name("weihgts")})
    for use in (image.hydrate, image.plan):
        with pytest.raises(NotFoundError, match="weihgts") as raised:
            use()
        assert "weights" in raised.value.hint
    assert sent(server) == []


def test_declaring_asks_nothing_and_equal_declarations_are_equal():
    one, other = (jitney.Volume.from_name(name) for name in ("one", "other"))
    specs = [
        jitney.Image.debian_slim().run_commands("ls", volumes={"/w": volume}).spec
        for volume in (one, jitney.Volume.from_name("one"), other, one.read_only())
    ]
    assert specs[0] == specs[1]
    assert len({str(spec) for spec in specs}) == 3


def test_a_model_cache_brings_its_variables():
    cache = jitney.Volume.from_name("models").as_model_cache()
    image = jitney.Image.debian_slim().run_function(fetch, volumes={"/cache": cache}, env={"TORCH_HOME": "/own"})
    (layer,) = image.spec.layers
    assert layer.env["HF_HUB_CACHE"].startswith("/cache/")
    assert layer.env["TORCH_HOME"] == "/own"
    assert len(volumes_of(layer)) == 1


@pytest.mark.parametrize(
    "given, error, match",
    [
        ({"data": 1}, InvalidError, "no volume"),
        ({"/dev/x": jitney.Volume.from_name("v")}, InvalidError, "belongs to the system"),
        ({f"/{part}": jitney.Volume.from_name("v") for part in ("a", "a/b")}, InvalidError, "is inside"),
        ({"/b": jitney.CloudBucketMount("bucket")}, UnsupportedError, "which no step of an image can have"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(given, error, match):
    image = jitney.Image.debian_slim()
    with pytest.raises(error, match=match):
        image.run_function(fetch, volumes=given)
    with pytest.raises(error, match=match):
        image.run_commands("ls", volumes=given)


def test_a_dockerfile_has_no_place_for_a_volume():
    volume = jitney.Volume.from_name("v")
    for image in (
        jitney.Image.debian_slim().run_function(fetch, volumes={"/w": volume}),
        jitney.Image.debian_slim().run_commands("ls", volumes={"/w": volume}),
    ):
        with pytest.raises(UnsupportedError, match="no place for the volume at /w"):
            image.dockerfile()
