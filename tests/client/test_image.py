"""Images as declared."""

import pytest

from jitney.client.image import Image
from jitney.client.source import Attachment
from jitney.core import imageplan
from jitney.core.imageplan import Host, plan
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.images import Env, PipInstall, Workdir

HOST = Host(python_version="3.11.7", platform="linux-x86_64")


@pytest.fixture
def in_container(monkeypatch):
    """As a container whose image has the digest that is given."""
    return lambda digest: monkeypatch.setenv(imageplan.SPEC_VARIABLE, digest)


def test_each_method_gives_a_new_image():
    base = Image.debian_slim("3.12")
    other = base.uv_pip_install("numpy", ["attrs", "six"], pre=True).env({"A": "1"}).workdir("w")
    assert base.spec.layers == ()
    assert other.spec.python_version == "3.12"
    assert other.spec.layers == (
        PipInstall(requirements=("numpy", "attrs", "six"), pre=True),
        Env(variables={"A": "1"}),
        Workdir(path="w"),
    )
    assert repr(other) == "Image(debian_slim, Python 3.12, pip install numpy attrs six, env A, workdir w)"


def test_pip_and_uv_install_alike():
    options = {
        "find_links": "/w",
        "index_url": "https://a",
        "extra_index_url": "https://b",
        "extra_options": "--no-deps",
    }
    assert (
        Image.debian_slim().pip_install("six", **options).spec
        == Image.debian_slim().uv_pip_install("six", uv_version="0.9", **options).spec
    )


def test_force_build_of_any_layer_is_one_of_the_image():
    assert not Image.debian_slim().pip_install("six").spec.force_build
    assert Image.debian_slim().pip_install("six", force_build=True).env({}).spec.force_build
    assert Image.debian_slim(force_build=True).spec.force_build


def test_nothing_to_install_is_no_layer():
    assert Image.debian_slim().uv_pip_install().spec == Image.debian_slim().spec


@pytest.mark.parametrize(
    "wrong",
    [
        lambda image: image.pip_install(6),
        lambda image: image.pip_install({"six"}),
        lambda image: image.pip_install(["six", None]),
        lambda image: image.env({"A": 1}),
        lambda image: image.add_local_dir(".", "../up"),
        lambda image: image.add_local_file("x", ""),
        lambda image: image.add_local_dir(".", "/root/x", ignore="*.csv"),
        lambda image: image.add_local_python_source("pkg.sub"),
        lambda image: image.add_local_python_source("pkg/sub"),
        lambda _: Image.debian_slim(3.12),
    ],
)
def test_what_cannot_be_right_is_refused_where_it_is_written(wrong):
    with pytest.raises(InvalidError):
        wrong(Image.debian_slim())


def test_local_files_are_attached_and_not_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = Image.debian_slim().add_local_file("a.txt", "/root/").add_local_dir("d", "/root/d", copy=True)
    image = image.add_local_python_source("one", "two").pip_install("six")
    monkeypatch.chdir("/")
    assert [item[:3] for item in image.attachments] == [
        ("file", str(tmp_path / "a.txt"), "/root/"),
        ("dir", str(tmp_path / "d"), "/root/d"),
        ("module", "one", ""),
        ("module", "two", ""),
    ]
    assert all(isinstance(item, Attachment) for item in image.attachments)
    assert image.spec == Image.debian_slim().pip_install("six").spec


def test_pipe_reads_from_left_to_right():
    def with_cuda(image, version, *, extra):
        return image.env({"CUDA": version + extra})

    assert Image.debian_slim().pipe(with_cuda, "12", extra="!").spec.layers == (Env(variables={"CUDA": "12!"}),)


# ------------------------------------------------------------------------------------------------ files of packages


def test_requirements_files(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("attrs>=20  # why\n--find-links wheels\n")
    (tmp_path / "bounds.txt").write_text("attrs<30\n")
    (tmp_path / "requirements.txt").write_text(
        "\ufeff# ours\n-r more/base.txt\n-c bounds.txt\n--extra-index-url https://b.example\n"
        "-ihttps://a.example\n--pre\n--only-binary=:all:\n\n"
        "six==1.16 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\nuvicorn[standard]; python_version < '4'\n"
    )
    image = Image.debian_slim().pip_install_from_requirements(tmp_path / "requirements.txt")
    assert image.spec.layers == (
        PipInstall(
            requirements=(
                "attrs>=20",
                "six==1.16 --hash=sha256:ab --hash=sha256:cd",
                "uvicorn[standard]; python_version < '4'",
            ),
            constraints=("attrs<30",),
            index_url="https://a.example",
            extra_index_url="https://b.example",
            find_links=str(tmp_path / "more" / "wheels"),
            pre=True,
            extra_options="--only-binary :all:",
        ),
    )
    assert plan(image.spec, HOST)
    both = Image.debian_slim().uv_pip_install("torch", requirements=[tmp_path / "requirements.txt"])
    assert both.spec.layers[0].requirements[:2] == ("torch", "attrs>=20")


@pytest.mark.parametrize(
    "text,where",
    [
        ("six\n-e .\n", ":2: '-e .'"),
        ("--target=/usr\n", ":1: "),
        ("-r missing.txt\n", "missing.txt cannot be read"),
        ("-r\n", ":1: "),
        ("-r self.txt\n", "include one another"),
        ("--pre yes\n", ":1: "),
        ("-r 'a\n", ":1: "),
    ],
)
def test_requirements_that_an_image_cannot_have(tmp_path, text, where):
    path = tmp_path / "self.txt"
    path.write_text(text)
    with pytest.raises(InvalidError, match=where):
        Image.debian_slim().pip_install_from_requirements(path)


def test_pyproject(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\ndependencies = ["six", "attrs>=20"]\noptional-dependencies.dev = ["pytest"]\n')
    image = Image.debian_slim().pip_install_from_pyproject(path, optional_dependencies=["dev"])
    assert image.spec.layers == (PipInstall(requirements=("six", "attrs>=20", "pytest")),)
    with pytest.raises(InvalidError, match=r"'docs': there is dev"):
        Image.debian_slim().pip_install_from_pyproject(path, ["docs"])
    for wrong in ("[tool.x]\n", "[project\n", "[project]\ndependencies = [1]\n"):
        path.write_text(wrong)
        with pytest.raises(InvalidError):
            Image.debian_slim().pip_install_from_pyproject(path)


def test_in_a_container_files_of_packages_are_not_read(in_container):
    in_container("another")
    image = Image.debian_slim().pip_install_from_requirements("gone.txt").pip_install_from_pyproject("gone.toml")
    assert not image._is_whole


# ------------------------------------------------------------------------------------------------ imports


def test_imports_that_fail_here_are_passed_over():
    with Image.debian_slim().imports():
        import no_such_package_anywhere  # noqa: F401
    with pytest.raises(ZeroDivisionError), Image.debian_slim().imports():
        1 / 0  # noqa: B018


def test_imports_that_fail_in_a_container_of_the_image_are_errors(in_container):
    image = Image.debian_slim().pip_install("six")
    in_container(plan(image.spec, HOST).spec_digest)
    with pytest.raises(ImportError), image.imports():
        import no_such_package_anywhere  # noqa: F401


def test_imports_of_another_image_are_passed_over(in_container):
    in_container(plan(Image.debian_slim().spec, HOST).spec_digest)
    with Image.debian_slim().pip_install("six").imports():
        import no_such_package_anywhere  # noqa: F401


def test_imports_of_an_image_that_cannot_be_told_are_errors(in_container):
    in_container(plan(Image.debian_slim().spec, HOST).spec_digest)
    image = Image.debian_slim().pip_install_from_requirements("gone.txt")
    with pytest.raises(ImportError), image.imports():
        import no_such_package_anywhere  # noqa: F401


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    "image",
    [
        Image.debian_slim().apt_install("ffmpeg", ["git"]),
        Image.debian_slim().run_commands("echo hi"),
        Image.debian_slim().run_function(len, timeout=3),
        Image.debian_slim().dockerfile_commands(["RUN true"]),
        Image.debian_slim().micromamba_install("cudatoolkit", channels=["x"]),
        Image.debian_slim().pip_install_private_repos("example.org/a/b", git_user="me"),
        Image.debian_slim().poetry_install_from_file("pyproject.toml"),
        Image.debian_slim().uv_sync(),
        Image.debian_slim().cmd(["a"]),
        Image.debian_slim().entrypoint([]),
        Image.debian_slim().shell(["/bin/bash"]),
        Image.from_registry("nvidia/cuda:12", add_python="3.12"),
        Image.from_dockerfile("Dockerfile"),
        Image.from_aws_ecr("x"),
        Image.from_gcp_artifact_registry("x"),
        Image.from_scratch(),
        Image.from_id("im-1"),
        Image.from_name("x:y"),
        Image.micromamba("3.12"),
    ],
    ids=lambda image: image.spec.layers[0].method,
)
def test_steps_that_need_a_root_file_system_are_refused_when_built(image):
    method = image.spec.layers[0].method
    with pytest.raises(UnsupportedError, match=rf"Image\.{method}\(.*Python environments only"):
        plan(image.pip_install("six").spec, HOST)


def test_a_refused_step_keeps_what_was_attached():
    image = Image.debian_slim().add_local_python_source("one").apt_install("x" * 200)
    assert [item.local for item in image.attachments] == ["one"]
    assert len(image.spec.layers[0].arguments) == 80
