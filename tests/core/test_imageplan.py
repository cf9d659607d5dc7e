"""Plans of images: identity, order, what is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.imageplan import NEEDS_ROOT, Host, plan, spec_digest, split_options
from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.images import Env, ImageSpec, PipInstall, Unmakeable, Workdir

HOST = Host(python_version="3.11.7", platform="linux-x86_64", sdk_needs=("cloudpickle==3.1.2",))

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
layers = st.one_of(
    st.builds(PipInstall, requirements=st.lists(names, min_size=1, max_size=4).map(tuple), pre=st.booleans()),
    st.builds(Env, variables=st.dictionaries(names, st.text("abc", max_size=3), max_size=3)),
    st.builds(Workdir, path=names),
)
specs = st.builds(ImageSpec, layers=st.lists(layers, max_size=5).map(tuple))


def pip(*requirements, **options):
    return ImageSpec(layers=(PipInstall(requirements=requirements, **options),))


@given(specs)
def test_the_same_declaration_has_the_same_digest_wherever_it_comes_from(spec):
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=ImageSpec)
    assert plan(received, HOST) == plan(spec, HOST)
    assert ids.is_id(plan(spec, HOST).image_id, ids.IMAGE)


@given(specs, specs)
def test_different_declarations_have_different_digests(one, other):
    assert (plan(one, HOST).image_id == plan(other, HOST).image_id) == (one == other)
    assert (spec_digest(one) == spec_digest(other)) == (one == other)


@given(specs, layers)
def test_a_layer_on_top_leaves_the_digests_below(spec, layer):
    below = plan(spec, HOST).steps
    taller = msgspec.structs.replace(spec, layers=(*spec.layers, layer))
    assert plan(taller, HOST).steps[: len(below)] == below


@given(specs, st.dictionaries(names, names, max_size=2))
def test_variables_on_top_share_the_environment(spec, variables):
    taller = msgspec.structs.replace(spec, layers=(*spec.layers, Env(variables=variables), Workdir(path="w")))
    assert plan(taller, HOST).environment_id == plan(spec, HOST).environment_id
    assert plan(taller, HOST).image_id != plan(spec, HOST).image_id


def test_order_matters():
    a, b = PipInstall(requirements=("a",)), PipInstall(requirements=("b",))
    assert plan(ImageSpec(layers=(a, b)), HOST).image_id != plan(ImageSpec(layers=(b, a)), HOST).image_id


def test_the_order_of_variables_does_not_matter():
    one = ImageSpec(layers=(Env(variables={"A": "1", "B": "2"}),))
    other = ImageSpec(layers=(Env(variables={"B": "2", "A": "1"}),))
    assert plan(one, HOST).image_id == plan(other, HOST).image_id


def test_a_forced_build_is_the_same_image():
    assert plan(msgspec.structs.replace(pip("six"), force_build=True), HOST).image_id == plan(pip("six"), HOST).image_id


def test_platform_and_python_are_part_of_the_image():
    ids_ = {
        plan(ImageSpec(python_version=version), msgspec.structs.replace(HOST, platform=platform)).image_id
        for version in ("3.11", "3.11.7", "3.12")
        for platform in ("linux-x86_64", "darwin-arm64")
    }
    assert len(ids_) == 6
    assert plan(ImageSpec(), HOST).image_id == plan(ImageSpec(python_version="3.11"), HOST).image_id


def test_a_patch_release_of_the_machine_changes_nothing():
    newer = msgspec.structs.replace(HOST, python_version="3.11.9")
    assert plan(pip("six"), newer).image_id == plan(pip("six"), HOST).image_id


def test_another_python_gets_what_the_sdk_needs():
    steps = plan(ImageSpec(python_version="3.12"), HOST).steps
    assert [step.title for step in steps] == ["Python 3.12 environment", "pip install cloudpickle==3.1.2"]


def test_variables_merge_and_later_installs_see_them():
    made = plan(
        ImageSpec(
            layers=(
                Env(variables={"A": "1", "B": "1"}),
                PipInstall(requirements=("six",)),
                Env(variables={"B": "2"}),
                Workdir(path="one"),
                Workdir(path="two"),
            )
        ),
        HOST,
    )
    assert (made.env, made.workdir) == ({"A": "1", "B": "2"}, "two")
    assert made.steps[2].env == {"A": "1", "B": "1"}
    assert made.environment_steps == 3


def test_titles_hide_values_and_hashes_and_stay_short():
    secret = ImageSpec(layers=(Env(variables={"TOKEN": "s3cret"}), *pip("six==1.16 --hash=sha256:00").layers))
    titles = [step.title for step in plan(secret, HOST).steps]
    assert titles[1:] == ["env TOKEN", "pip install six==1.16"]
    assert len(plan(pip(*(f"package{n}" for n in range(99))), HOST).steps[1].title) == 100


@pytest.mark.parametrize(
    "requirement",
    [
        "six",
        "six==1.16.0",
        "uvicorn[standard]>=0.30,<1; python_version < '4'",
        "torch ~= 2.4",
        "six @ https://example.org/six-1.0-py3-none-any.whl",
        "six@git+https://example.org/six.git@v1#subdirectory=x-y",
        "git+https://example.org/six.git",
        "six==1.16 --hash=sha256:ab12 --hash=sha512:00",
    ],
)
def test_packages_are_accepted(requirement):
    assert plan(pip(requirement), HOST)


@pytest.mark.parametrize(
    "requirement",
    [
        "--index-url=https://evil.example",
        "-e .",
        "-r/etc/passwd",
        " --target /usr",
        "six\n--target=/usr",
        "six\rother",
        "six\0",
        "six --target=/usr",
        "six -t /usr",
        "six --hash=sha256:ab --user",
        "six \\",
        "",
        "   ",
        "./local",
        "/etc/passwd",
        "~/wheel.whl",
        "folder/wheel.whl",
        "x" * 40_000,
    ],
)
def test_hostile_requirements_are_refused(requirement):
    with pytest.raises(InvalidError):
        plan(pip(requirement), HOST)
    with pytest.raises(InvalidError):
        plan(pip("six", constraints=(requirement,)), HOST)


@pytest.mark.parametrize("name", ["find_links", "index_url", "extra_index_url"])
@pytest.mark.parametrize("value", ["--target=/usr", "https://a.example -t", "https://a.example\n-t", "a\0"])
def test_hostile_addresses_are_refused(name, value):
    with pytest.raises(InvalidError, match=name):
        plan(pip("six", **{name: value}), HOST)


def test_options_that_change_how_are_taken_and_others_are_not():
    assert split_options("--no-deps --only-binary :all: --exclude-newer=2026-01-01") == [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--exclude-newer=2026-01-01",
    ]
    for hostile in ("--target /usr", "--python=/usr/bin/python3", "numpy", "--only-binary", "--no-deps=1", "'", "a\nb"):
        with pytest.raises(InvalidError):
            split_options(hostile)


@pytest.mark.parametrize("variables", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0"}])
def test_variables_that_no_process_can_have(variables):
    with pytest.raises(InvalidError):
        plan(ImageSpec(layers=(Env(variables=variables),)), HOST)


@pytest.mark.parametrize("path", ["", "../up", "a/../../b", "a\nb"])
def test_workdirs_that_lead_elsewhere(path):
    with pytest.raises(InvalidError):
        plan(ImageSpec(layers=(Workdir(path=path),)), HOST)


def test_what_needs_a_root_file_system_says_so_and_names_itself():
    with pytest.raises(UnsupportedError) as raised:
        plan(ImageSpec(layers=(Unmakeable(method="apt_install", arguments="'ffmpeg'"),)), HOST)
    assert "Image.apt_install('ffmpeg')" in str(raised.value)
    assert NEEDS_ROOT in raised.value.hint
    assert "on the machine" in raised.value.hint
    with pytest.raises(UnsupportedError, match="nvidia/cuda"):
        plan(ImageSpec(base="nvidia/cuda"), HOST)


@pytest.mark.parametrize(
    "version,error",
    [
        ("3.10", UnsupportedError),
        ("2.7", InvalidError),
        ("3", InvalidError),
        ("3.13t", InvalidError),
        ("-h", InvalidError),
    ],
)
def test_pythons_that_no_container_can_have(version, error):
    with pytest.raises(error):
        plan(ImageSpec(python_version=version), HOST)


def test_limits():
    with pytest.raises(InvalidError, match="layers"):
        plan(ImageSpec(layers=(Workdir(path="x"),) * 101), HOST)
    with pytest.raises(InvalidError, match="requirements"):
        plan(pip(*["six"] * 5_001), HOST)
