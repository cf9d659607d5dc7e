"""Plans of images: identity, order, what is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.imagechecks import full_name
from jitney.core.imageidentity import without_secrets
from jitney.core.imageplan import Host, Work, plan, spec_digest, split_options, title
from jitney.errors import InvalidError, NotFoundError, UnsupportedError
from jitney.values import ids
from jitney.values.images import (
    AptInstall,
    Cmd,
    CopyTree,
    DebianSlim,
    Dockerfile,
    Entrypoint,
    Env,
    ImageSpec,
    Micromamba,
    MicromambaInstall,
    Named,
    OciArchive,
    PipInstall,
    Registry,
    RunCommands,
    RunFunction,
    Scratch,
    Shell,
    UvSync,
    Workdir,
)
from jitney.values.volumes import VolumeMount

HOST = Host(python_version="3.11.7", platform="linux-x86_64", sdk_needs=("cloudpickle==3.1.2",))

SOURCE = ids.make(ids.SOURCE, bytes(16))

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
volumes = st.lists(
    st.builds(
        VolumeMount,
        path=names.map("/{}".format).filter(lambda path: path not in ("/dev", "/proc", "/sys")),
        volume_id=st.integers(0, 1).map(lambda number: ids.make(ids.VOLUME, bytes([number] * 16))),
        read_only=st.booleans(),
        sub_path=st.sampled_from(["", "a/b"]),
    ),
    max_size=1,
).map(tuple)
layers = st.one_of(
    st.builds(PipInstall, requirements=st.lists(names, min_size=1, max_size=4).map(tuple), pre=st.booleans()),
    st.builds(Env, variables=st.dictionaries(names, st.text("abc", max_size=3), max_size=3)),
    st.builds(Workdir, path=names),
    st.builds(AptInstall, packages=st.lists(names, min_size=1, max_size=3).map(tuple)),
    st.builds(RunCommands, commands=st.lists(names, min_size=1, max_size=3).map(tuple), volumes=volumes),
    st.builds(CopyTree, source_id=st.just(SOURCE), target=names.map("/{}/".format)),
    st.builds(Cmd, words=st.lists(names, max_size=2).map(tuple)),
)
bases = st.one_of(
    st.just(DebianSlim()),
    st.builds(Registry, reference=names, add_python=st.sampled_from(["", "3.12"])),
    st.just(Scratch()),
)
specs = st.builds(ImageSpec, base=bases, layers=st.lists(layers, max_size=5).map(tuple))


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
    assert (made.env, made.workdir) == ({"A": "1", "B": "2"}, "one/two")
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
    with pytest.raises(InvalidError, match="2,000 names"):
        plan(made_of(AptInstall(packages=("git",) * 2_001)), HOST)
    with pytest.raises(InvalidError, match="pickled"):
        plan(made_of(RunFunction(name="f", identity="", pickled=bytes(33 << 20))), HOST)


# ------------------------------------------------------------------------------------------------ root file systems


def made_of(*layers, base=None, **options):
    return ImageSpec(base=base or DebianSlim(), layers=layers, **options)


PIP, APT, RUN = PipInstall(requirements=("six",)), AptInstall(packages=("git",)), RunCommands(commands=("true",))
COPY = CopyTree(source_id=SOURCE, target="/data/")


@pytest.mark.parametrize("layer", [APT, RUN, COPY, RunFunction(name="f", identity="f", pickled=b"x")])
def test_what_writes_the_root_file_system_needs_one_and_packages_do_not(layer):
    plain, rooted = plan(made_of(PIP), HOST), plan(made_of(PIP, layer), HOST)
    assert (plain.needs_root, plain.root_id) == (False, "")
    assert (rooted.needs_root, ids.is_id(rooted.root_id, ids.IMAGE)) == (True, True)
    assert rooted.environment_id == plain.environment_id
    assert [step.work for step in rooted.steps] == [Work.ENVIRONMENT, Work.ENVIRONMENT, Work.ROOT]


def test_steps_carry_what_holds_by_then():
    made = plan(
        made_of(
            Env(variables={"A": "1", "B": "1"}),
            Workdir(path="/app"),
            Shell(words=("/bin/bash", "-c")),
            RunCommands(commands=("make",), env={"B": "2"}, secrets={"T": "s3cret"}),
            Workdir(path="sub"),
            COPY,
            CopyTree(source_id=SOURCE, target="./"),
        ),
        HOST,
    )
    run, copy, here = made.steps[4], made.steps[6], made.steps[7]
    assert (run.env, run.secrets, run.workdir) == ({"A": "1", "B": "2"}, {"T": "s3cret"}, "/app")
    assert run.shell == ("/bin/bash", "-c")
    assert (copy.workdir, copy.layer.target, here.layer.target) == ("/app/sub", "/data/", "/app/sub/")
    assert made.env == {"A": "1", "B": "1"}  # a step's own variables end with it
    assert made.spec.layers[3].secrets == {}
    assert "s3cret" not in repr(made)


@pytest.mark.parametrize(
    "changes, match",
    [
        ([{"volume_id": "im-1"}], "vo"),
        ([{"sub_path": "../up"}], "no path in a volume"),
        ([{"path": "/proc/x"}], "belongs to the system"),
        ([{}, {}], "two are at"),
        ([{}, {"path": "/data/inner"}], "is inside"),
        ([{"path": f"/v{number}"} for number in range(65)], "over the limit"),
    ],
)
def test_volumes_of_a_step_that_cannot_be_are_refused(changes, match):
    mount = VolumeMount(path="/data", volume_id=ids.make(ids.VOLUME, bytes(16)))
    layer = msgspec.structs.replace(RUN, volumes=tuple(msgspec.structs.replace(mount, **one) for one in changes))
    with pytest.raises(InvalidError, match=match):
        plan(made_of(layer), HOST)


@given(specs, layers)
def test_the_root_file_system_is_named_by_its_steps_and_what_is_before_them(spec, layer):
    below, above = plan(spec, HOST), plan(msgspec.structs.replace(spec, layers=(*spec.layers, layer)), HOST)
    is_root = above.steps[-1].work is Work.ROOT
    assert (above.root_id != below.root_id) == is_root
    assert (above.environment_id != below.environment_id) == (above.steps[-1].work is Work.ENVIRONMENT)


@pytest.mark.parametrize(
    "base,python,titles",
    [
        (DebianSlim(), "3.11", ["Python 3.11 environment"]),
        (Registry(reference="debian:12"), "", ["from debian:12", "Python of the base environment"]),
        (
            Registry(reference="debian:12", add_python="3.12"),
            "3.12",
            ["from debian:12", "Python 3.12 environment"],
        ),
        (Micromamba(), "3.11", ["micromamba with Python 3.11", "Python 3.11 environment"]),
        (Scratch(), "", ["from scratch", "Python of the base environment"]),
        (OciArchive(path="/i", reference="a"), "", ["from /i:a", "Python of the base environment"]),
        (Dockerfile(text="FROM a"), "", ["from a Dockerfile", "Python of the base environment"]),
    ],
)
def test_a_base_is_a_step_before_its_python(base, python, titles):
    made = plan(ImageSpec(base=base), HOST)
    assert made.python == python
    assert [step.title for step in made.steps][: len(titles)] == titles
    assert made.needs_root == (base != DebianSlim())
    needs_own = python != "3.11"  # a Python that is not known to be the host's gets what the SDK needs
    assert [step.title for step in made.steps][len(titles) :] == (["pip install cloudpickle==3.1.2"] * needs_own)


def test_what_is_private_changes_no_id_and_is_shown_nowhere():
    def spec(secret):
        return made_of(
            PipInstall(requirements=(f"six @ git+https://me:{secret}@x.example/six.git",), secrets={"A": secret}),
            PipInstall(requirements=("six",), index_url=f"https://{secret}@x.example/simple"),
            RunCommands(commands=("true",), secrets={"TOKEN": secret}),
            AptInstall(packages=("git",), secrets={"TOKEN": secret}),
            RunFunction(name="f", identity="f", pickled=secret.encode(), secrets={"TOKEN": secret}),
            base=Registry(reference="debian:12", username=secret, password=secret),
        )

    one, other = plan(spec("s3cret"), HOST), plan(spec("0ther"), HOST)
    assert (one.image_id, one.spec_digest) == (other.image_id, other.spec_digest)
    assert "s3cret" not in repr(one)
    assert "s3cret" not in repr(spec("s3cret"))
    assert not any("s3cret" in step.title for step in one.steps)
    kept = without_secrets(spec("s3cret"))
    assert plan(kept, HOST).image_id == one.image_id
    assert (kept.base.password, kept.layers[2].secrets) == ("", {})


def test_a_function_is_known_by_its_text_and_not_by_its_pickle():
    one, other = (RunFunction(name="f", identity="f", pickled=pickled, source_id=SOURCE) for pickled in (b"1", b"2"))
    assert plan(made_of(one), HOST).image_id == plan(made_of(other), HOST).image_id
    changed = msgspec.structs.replace(one, identity="g")
    assert plan(made_of(changed), HOST).image_id != plan(made_of(one), HOST).image_id


def test_layers_on_a_named_image_are_those_of_one_declaration():
    parent = made_of(PIP, APT, base=Registry(reference="debian:12"))
    on_top = plan(made_of(RUN, base=Named(reference="trainer")), HOST, parent=plan(parent, HOST).spec)
    whole = plan(msgspec.structs.replace(parent, layers=(PIP, APT, RUN)), HOST)
    assert (on_top.image_id, on_top.root_id, on_top.base) == (whole.image_id, whole.root_id, whole.base)
    assert on_top.spec == whole.spec
    assert on_top.spec_digest == spec_digest(made_of(RUN, base=Named(reference="trainer")))
    with pytest.raises(NotFoundError, match="trainer"):
        plan(made_of(base=Named(reference="trainer")), HOST)


def test_what_runs_in_the_image_is_what_was_said_last():
    made = plan(
        made_of(Cmd(words=("a",)), Entrypoint(words=("e",)), Cmd(words=("b", "c")), Shell(words=("sh", "-c"))), HOST
    )
    assert (made.entrypoint, made.cmd, made.shell) == (("e",), ("b", "c"), ("sh", "-c"))
    assert (plan(made_of(), HOST).entrypoint, plan(made_of(), HOST).cmd) == (None, None)
    assert plan(made_of(Entrypoint(words=("e",))), HOST).cmd == ()


@pytest.mark.parametrize(
    "layer",
    [
        *(AptInstall(packages=(name,)) for name in ("--purge", "-o=x", "git;ls", "git-", "", "a b", "a\n", "/x.deb")),
        RunCommands(commands=()),
        RunCommands(commands=("",)),
        RunCommands(commands=("a\0",)),
        RunCommands(commands=("x" * 130_000,)),
        RunCommands(commands=("true",), env={"A=B": "1"}),
        RunCommands(commands=("true",), secrets={"": "1"}),
        *(CopyTree(source_id=SOURCE, target=path) for path in ("", "/a", "/a/../b/", "../", "a\n/", "x" * 2_000 + "/")),
        *(CopyTree(source_id=name, target="/a/") for name in ("", "local:12", "../so", "so-" + "/" * 22)),
        UvSync(source_id="../x"),
        UvSync(source_id=SOURCE, groups=("--all",)),
        UvSync(source_id=SOURCE, extras=("a b",)),
        UvSync(source_id=SOURCE, extra_options="--project=/etc"),
        RunFunction(name="f", identity="", pickled=b"", timeout_ms=0),
        RunFunction(name="f", identity="", pickled=b"", memory_mib=-1),
        RunFunction(name="", identity="", pickled=b""),
        RunFunction(name="f", identity="", pickled=b"", source_id="/etc"),
        Shell(words=()),
        Shell(words=("",)),
        Cmd(words=("a\0",)),
        Entrypoint(words=("x",) * 1_001),
        MicromambaInstall(packages=("numpy",)),  # on Debian
    ],
)
def test_hostile_layers_are_refused(layer):
    with pytest.raises(InvalidError):
        plan(made_of(layer), HOST)


@pytest.mark.parametrize(
    "layer",
    [
        MicromambaInstall(),
        MicromambaInstall(packages=("--root-prefix=/",)),
        MicromambaInstall(packages=("a\nb",)),
        MicromambaInstall(packages=("numpy",), channels=("-c",)),
        MicromambaInstall(spec_file="a\0"),
    ],
)
def test_hostile_conda_packages_are_refused(layer):
    with pytest.raises(InvalidError):
        plan(made_of(layer, base=Micromamba()), HOST)
    good = MicromambaInstall(packages=("numpy=2.1", "cuda-nvcc>=12,<13"), channels=("nvidia/label/cuda-12.8.0",))
    assert plan(made_of(good, base=Micromamba()), HOST).needs_root


@pytest.mark.parametrize(
    "base",
    [
        *(
            Registry(reference=name)
            for name in ("", "-x", "a b", "UPPER", "a:b:c", "../a", "a@sha256:1", "a\n", "a" * 600)
        ),
        Registry(reference="a", username="a\n"),
        Registry(reference="a", add_python="3"),
        *(OciArchive(path=path) for path in ("", "relative", "/a/../b", "/a\n")),
        OciArchive(path="/a", reference="a\n"),
        Dockerfile(text=" "),
        Dockerfile(text="FROM a\0"),
        Dockerfile(text="FROM a", context_id="../x"),
        Dockerfile(text="FROM a", build_args={"A=B": ""}),
        *(Named(reference=name) for name in ("", "../x", "a/../b", "-a", "a:b:c")),
    ],
)
def test_hostile_bases_are_refused(base):
    with pytest.raises(InvalidError):
        plan(made_of(base=base), HOST)


@pytest.mark.parametrize(
    "reference", ["debian", "python:3.12-slim", "localhost:5000/a/b:c", "ghcr.io/a/b-c_d:v1@sha256:" + "0" * 64]
)
def test_references_of_registries(reference):
    assert plan(made_of(base=Registry(reference=reference)), HOST).base.reference == reference


def test_old_pythons_are_refused_wherever_they_are_named():
    with pytest.raises(UnsupportedError, match="too old"):
        plan(made_of(base=Registry(reference="debian", add_python="3.9")), HOST)


def test_names_of_images():
    assert full_name("a.b/c-d") == "a.b/c-d:latest"
    assert full_name("a:V1.2") == "a:V1.2"


@given(layers)
def test_every_layer_has_a_short_title(layer):
    assert 0 < len(title(layer)) <= 100
