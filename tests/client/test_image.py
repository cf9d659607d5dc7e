"""Images as declared."""

import pytest

from jitney.client.image import Image
from jitney.client.source import Attachment
from jitney.core import imageplan
from jitney.core.imageplan import Host, plan
from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.images import (
    AptInstall,
    Cmd,
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
    Scratch,
    Shell,
    Workdir,
)

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
    image = Image.debian_slim().pip_install("six").add_local_file("a.txt", "/root/").add_local_dir("d", "/root/d")
    image = image.add_local_python_source("one", "two").env({"A": "1"}).workdir("w")
    monkeypatch.chdir("/")
    assert [item[:3] for item in image.attachments] == [
        ("file", str(tmp_path / "a.txt"), "/root/"),
        ("dir", str(tmp_path / "d"), "/root/d"),
        ("module", "one", ""),
        ("module", "two", ""),
    ]
    assert all(isinstance(item, Attachment) for item in image.attachments)
    assert image.spec == Image.debian_slim().pip_install("six").env({"A": "1"}).workdir("w").spec


def test_a_build_step_after_attached_files_says_what_to_do(tmp_path):
    image = Image.debian_slim().add_local_dir(tmp_path, "/root/x")
    for step in (lambda i: i.pip_install("six"), lambda i: i.run_commands("ls"), lambda i: i.apt_install("git")):
        with pytest.raises(InvalidError, match="comes after local files") as raised:
            step(image)
        assert "copy=True" in raised.value.hint
    Image.debian_slim().add_local_dir(tmp_path, "/root/x", copy=True).run_commands("ls")


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


# ------------------------------------------------------------------------------------------------ bases, root steps


def test_steps_of_a_root_file_system():
    image = (
        Image.debian_slim("3.12")
        .apt_install("ffmpeg", ["git"], env={"A": "1"}, gpu="H100")
        .run_commands("make", ["make install"], secrets=[{"TOKEN": "s3cret"}, {"OTHER": "x"}])
        .shell(["/bin/bash", "-c"])
        .entrypoint([])
        .cmd(["python", "-m", "app"])
    )
    assert image.spec.layers == (
        AptInstall(packages=("ffmpeg", "git"), env={"A": "1"}),
        RunCommands(commands=("make", "make install"), secrets={"TOKEN": "s3cret", "OTHER": "x"}),
        Shell(words=("/bin/bash", "-c")),
        Entrypoint(words=()),
        Cmd(words=("python", "-m", "app")),
    )
    assert plan(image.spec, HOST).needs_root
    assert "s3cret" not in repr(image) + repr(image.spec) + image.dockerfile()


def test_nothing_to_do_is_no_layer():
    image = Image.debian_slim()
    assert image.apt_install().run_commands().dockerfile_commands("").spec == image.spec
    assert Image.micromamba("3.12").micromamba_install().spec.layers == ()


@pytest.mark.parametrize(
    "image,base",
    [
        (Image.from_registry("a:1"), Registry(reference="a:1")),
        (Image.from_registry("a", add_python="3.12"), Registry(reference="a", add_python="3.12")),
        (
            Image.from_registry("a", {"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"}),
            Registry(reference="a", username="u", password="p"),
        ),
        (
            Image.from_aws_ecr("a", {"username": "AWS", "password": "p"}),
            Registry(reference="a", username="AWS", password="p"),
        ),
        (
            Image.from_gcp_artifact_registry("a", {"SERVICE_ACCOUNT_JSON": "{}"}),
            Registry(reference="a", username="_json_key", password="{}"),
        ),
        (Image.from_oci("/i", "r"), OciArchive(path="/i", reference="r")),
        (Image.from_scratch(), Scratch()),
        (Image.micromamba("3.12"), Micromamba()),
        (Image.from_id(ids.make(ids.IMAGE, bytes(16))), Named(reference=ids.make(ids.IMAGE, bytes(16)))),
        (Image.from_name("trainer"), Named(reference="trainer:latest")),
    ],
)
def test_bases(image, base):
    assert image.spec.base == base
    assert image.spec.python_version == ("3.12" if isinstance(base, Micromamba) else "")
    assert image.spec.layers == ()


def test_lines_of_a_dockerfile_before_anything_else():
    image = Image.from_registry("a", setup_dockerfile_commands=["ENV A=1", "RUN echo $A"])
    assert image.spec.layers == (Env(variables={"A": "1"}), RunCommands(commands=("echo $A",)))


@pytest.mark.parametrize(
    "wrong,error",
    [
        (lambda: Image.from_registry("a", {"username": "u"}), InvalidError),
        (lambda: Image.from_registry("a", "password"), InvalidError),
        (lambda: Image.from_aws_ecr("a", {"AWS_ACCESS_KEY_ID": "x"}), UnsupportedError),
        (lambda: Image.from_id("trainer"), InvalidError),
        (lambda: Image.from_name("../x"), InvalidError),
        (lambda: Image.micromamba(3.12), InvalidError),
        (lambda: Image.from_registry("a", add_python=3.12), InvalidError),
        (lambda: Image.debian_slim().run_commands(3), InvalidError),
        (lambda: Image.debian_slim().run_commands("x", secrets=["TOKEN"]), InvalidError),
        (lambda: Image.debian_slim().run_commands("x", secrets=[{"TOKEN": 1}]), InvalidError),
        (lambda: Image.debian_slim().cmd("python app.py"), InvalidError),
        (lambda: Image.debian_slim().shell([]), InvalidError),
        (lambda: Image.debian_slim().run_function(len), InvalidError),
        (lambda: Image.debian_slim().run_function(test_bases, timeout=0), InvalidError),
        (lambda: Image.debian_slim().dockerfile_commands("FROM a"), InvalidError),
        (lambda: Image.debian_slim().dockerfile_commands("USER me"), UnsupportedError),
        (lambda: Image.debian_slim().dockerfile_commands("RUM x"), InvalidError),
        (lambda: Image.from_dockerfile("/no/such/Dockerfile"), InvalidError),
        (lambda: Image.debian_slim().uv_sync("/no/such/project"), InvalidError),
        (lambda: Image.debian_slim().pip_install_private_repos("x.example/a/b", git_user="me"), InvalidError),
        (lambda: Image.debian_slim().pip_install_private_repos("github.com/a/b", git_user="me"), InvalidError),
        (lambda: Image.debian_slim().object_id, InvalidError),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(wrong, error):
    with pytest.raises(error) as raised:
        wrong()
    assert type(raised.value) is error


def test_tokens_of_private_repositories_go_to_git_alone():
    def image(token):
        return Image.debian_slim("3.11").pip_install_private_repos(
            "github.com/a/b@v1",
            "gitlab.com/c/d",
            git_user="me",
            secrets=[{"GITHUB_TOKEN": token, "GITLAB_TOKEN": "t/2"}],
        )

    [layer] = image("s3cret").spec.layers
    assert layer.requirements == ("git+https://github.com/a/b@v1", "git+https://gitlab.com/c/d")
    assert layer.secrets["GIT_CONFIG_KEY_0"] == "url.https://me:s3cret@github.com/.insteadOf"
    assert layer.secrets["GIT_CONFIG_VALUE_1"] == "https://gitlab.com/"
    assert "t%2F2@gitlab.com" in layer.secrets["GIT_CONFIG_KEY_1"]
    assert plan(image("s3cret").spec, HOST).image_id == plan(image("0ther").spec, HOST).image_id
    assert "s3cret" not in repr(image("s3cret")) + repr(layer) + image("s3cret").dockerfile()


def test_conda_packages(tmp_path):
    path = tmp_path / "environment.yaml"
    path.write_text("dependencies: [numpy]\n")
    image = Image.micromamba("3.12").micromamba_install("cuda", spec_file=path, channels=["nvidia"])
    assert image.spec.layers == (
        MicromambaInstall(packages=("cuda",), channels=("nvidia",), spec_file="dependencies: [numpy]\n"),
    )


def test_in_a_container_nothing_that_is_built_from_is_read(in_container):
    in_container("another")
    image = Image.from_dockerfile("gone").poetry_install_from_file("gone.toml").uv_sync("gone")
    image = image.pip_install_private_repos("github.com/a/b", git_user="me").micromamba_install(spec_file="gone.yaml")
    image = image.add_local_dir("gone", "/x", copy=True).run_function(test_bases)
    assert not image._is_whole
    assert Image.from_registry("a", {"username": "", "password": ""}).spec == Image.from_registry("a").spec


def test_the_same_steps_on_any_python_know_their_spec():
    assert Image.from_registry("a").apt_install("git").spec == ImageSpec(
        base=Registry(reference="a"), layers=(AptInstall(packages=("git",)),)
    )
