"""Images that have local files or functions in them, as they are handed to the server."""

import asyncio
import importlib
import pickle
import sys

import pytest

import jitney
from jitney.client.image import Image
from jitney.client.image_builds import complete_spec
from jitney.client.image_function import identity_of
from jitney.core.imageplan import Host, plan
from jitney.errors import InvalidError, SerializationError
from jitney.values.images import CopyTree, Dockerfile, Env, Registry, RunCommands, Scratch, UvSync, Workdir
from jitney.wire.messages.images import ImageBuild, ImagePlanRequest, ImageTag

HOST = Host(python_version="3.11.7", platform="linux-x86_64")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with some files, which is the current one."""
    for name in ("app/main.py", "app/data/a.csv", "app/data/b.txt", "requirements.txt", "junk/x.pyc", "secret.key"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def complete(server):
    """The spec as the server gets it, and the paths of each tree in it."""

    def run(image):
        image.hydrate()
        spec = [one for one in server.answers.asked if isinstance(one, ImageBuild)][-1].spec
        return spec, {source: sorted(one.path for one in files) for source, files in server.answers.sources.items()}

    return run


def test_files_that_are_built_in(project, complete):
    image = (
        Image.debian_slim()
        .add_local_file("requirements.txt", "/etc/app/", copy=True)
        .add_local_file("requirements.txt", "/etc/app/r.txt", copy=True)
        .add_local_dir("app", "/srv", copy=True, ignore=["**/*.txt"])
        .add_local_dir("app", "beside", copy=True)
        .run_commands("ls")
    )
    spec, trees = complete(image)
    found = [(layer.target, trees[layer.source_id]) for layer in spec.layers if isinstance(layer, CopyTree)]
    assert found == [
        ("/etc/app/", ["requirements.txt"]),
        ("/etc/app/", ["r.txt"]),
        ("/srv/", ["data/a.csv", "main.py"]),
        ("/root/beside/", ["data/a.csv", "data/b.txt", "main.py"]),
    ]
    assert plan(spec, HOST).needs_root


def test_python_source_that_is_built_in(project, complete, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    (project / "helpers_of_test.py").write_text("x = 1\n")
    spec, trees = complete(Image.debian_slim().add_local_python_source("helpers_of_test", copy=True))
    [layer] = spec.layers
    assert (layer.target, trees[layer.source_id]) == ("/root/", ["helpers_of_test.py"])


def test_changed_content_is_another_image(project, complete):
    image = Image.debian_slim().add_local_dir("app", "/srv", copy=True)
    before, _ = complete(image)
    assert complete(image)[0] == before
    (project / "app" / "main.py").write_text("changed")
    after, _ = complete(image)
    assert plan(after, HOST).image_id != plan(before, HOST).image_id


def test_a_folder_without_files_is_refused(project, server):
    (project / "empty").mkdir()
    with pytest.raises(InvalidError, match="no files"):
        Image.debian_slim().add_local_dir("empty", "/x", copy=True).hydrate()


# ------------------------------------------------------------------------------------------------ Dockerfiles

DOCKERFILE = """\
ARG VERSION
FROM python:$VERSION-slim
WORKDIR /app
COPY requirements.txt ./
COPY app/data/*.csv app/main.py sub/
COPY app renamed
COPY app/main.py other.py
COPY . /all/
RUN pip install -r requirements.txt
"""


def test_a_dockerfile_becomes_layers_with_its_files(project, complete):
    (project / "Dockerfile").write_text(DOCKERFILE)
    (project / ".dockerignore").write_text("# not these\n*.key\njunk\n.dockerignore\nDockerfile\n")
    image = Image.from_dockerfile("Dockerfile", build_args={"VERSION": "3.12"}, registry_secret={"password": "p"})
    spec, trees = complete(image)
    assert spec.base == Registry(reference="python:3.12-slim", password="p")
    assert spec.layers[0] == Workdir(path="/app")
    assert spec.layers[-1] == RunCommands(commands=("pip install -r requirements.txt",))
    found = [(layer.target, trees[layer.source_id]) for layer in spec.layers if isinstance(layer, CopyTree)]
    assert found == [
        ("./", ["requirements.txt"]),
        ("sub/", ["a.csv", "main.py"]),
        ("./", ["renamed/data/a.csv", "renamed/data/b.txt", "renamed/main.py"]),
        ("./", ["other.py"]),
        ("/all/", ["app/data/a.csv", "app/data/b.txt", "app/main.py", "requirements.txt"]),
    ]
    targets = [step.layer.target for step in plan(spec, HOST).steps if isinstance(step.layer, CopyTree)]
    assert targets == ["/app/", "/app/sub/", "/app/", "/app/", "/all/"]


def test_what_is_ignored_cannot_be_copied(project, server):
    (project / "Dockerfile").write_text("FROM scratch\nCOPY secret.key /\n")
    (project / "Dockerfile.dockerignore").write_text("*.key\n")
    image = Image.from_dockerfile("Dockerfile")
    assert image.spec.base == Scratch()
    with pytest.raises(InvalidError, match=r"line 2: the context has no 'secret.key'"):
        image.hydrate()


def test_a_dockerfile_for_an_engine_keeps_its_text_and_its_context(project, complete):
    text = "FROM a AS one\nFROM b\nCOPY --from=one /x /y\n"
    (project / "app" / "Dockerfile").write_text(text)
    image = Image.from_dockerfile("app/Dockerfile", context_dir="app", build_args={"A": "1"}, ignore=["data"])
    spec, trees = complete(image.env({"B": "2"}))
    assert isinstance(spec.base, Dockerfile)
    assert (spec.base.text, spec.base.build_args) == (text, {"A": "1"})
    assert spec.base.why == "line 2: it has several stages"
    assert trees[spec.base.context_id] == ["Dockerfile", "main.py"]
    assert spec.layers == (Env(variables={"B": "2"}),)


def test_lines_of_a_dockerfile_on_top_of_an_image(project, complete):
    image = Image.debian_slim().dockerfile_commands(
        ["ARG A", "COPY app/main.py /srv/", "RUN ls /srv"], "ENV B=2", build_args={"A": "1"}, env={"C": "3"}
    )
    spec, trees = complete(image)
    copy, run, env = spec.layers
    assert (copy.target, trees[copy.source_id]) == ("/srv/", ["main.py"])
    assert (run, env) == (RunCommands(commands=("ls /srv",), env={"A": "1", "C": "3"}), Env(variables={"B": "2"}))


def test_a_wrong_dockerfile_names_its_file_and_line(project):
    (project / "Dockerfile").write_text("FROM a\nRUM x\n")
    with pytest.raises(InvalidError, match=r"Dockerfile, line 2: there is no instruction 'RUM'"):
        Image.from_dockerfile("Dockerfile")
    (project / "Dockerfile").write_text("RUN x\n")
    with pytest.raises(InvalidError, match="no FROM"):
        Image.from_dockerfile("Dockerfile")


# ------------------------------------------------------------------------------------------------ lock files


def test_uv_sync_ships_the_lock(project, complete):
    (project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(InvalidError, match=r"no uv\.lock"):
        Image.debian_slim().uv_sync()
    (project / "uv.lock").write_text("version = 1\n")
    spec, trees = complete(Image.debian_slim().uv_sync(groups=["dev"], extras=["gpu"], extra_options="--no-dev"))
    [layer] = spec.layers
    assert layer == UvSync(source_id=layer.source_id, groups=("dev",), extras=("gpu",), extra_options="--no-dev")
    assert trees[layer.source_id] == ["pyproject.toml", "uv.lock"]
    (project / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['a']\n")
    with pytest.raises(jitney.errors.UnsupportedError, match="workspace"):
        Image.debian_slim().uv_sync()


NEW_LOCK = """
[[package]]
name = "numpy"
version = "2.1.0"
optional = false
groups = ["main", "dev"]

[[package]]
name = "colorama"
version = "0.4.6"
optional = false
groups = ["main", "dev"]
markers = {main = "sys_platform == \\"win32\\"", dev = "os_name == \\"nt\\""}

[[package]]
name = "pytest"
version = "8.0.0"
optional = false
groups = ["dev"]

[[package]]
name = "tool"
version = "1.0"
optional = false
groups = ["main"]
[package.source]
type = "git"
url = "https://x.example/tool.git"
reference = "main"
resolved_reference = "abc123"

[[package]]
name = "inner"
version = "3"
optional = false
groups = ["extra"]
[package.source]
type = "legacy"
url = "https://inner.example/simple"
reference = "inner"

[metadata]
lock-version = "2.1"
"""
PROJECT = """
[tool.poetry.dependencies]
python = "^3.11"
numpy = "*"
[tool.poetry.group.dev.dependencies]
pytest = "*"
[tool.poetry.group.extra]
optional = true
[tool.poetry.group.extra.dependencies]
inner = "*"
"""


@pytest.fixture
def poetry(project):
    def install(lock, settings=PROJECT, **options):
        (project / "pyproject.toml").write_text(settings)
        (project / "poetry.lock").write_text(lock)
        [layer] = Image.debian_slim().poetry_install_from_file("pyproject.toml", **options).spec.layers
        assert layer.extra_options == "--no-deps"
        assert plan(Image.debian_slim().pip_install(*layer.requirements).spec, HOST)
        return layer

    return install


def test_a_lock_of_poetry_2(poetry):
    every = poetry(NEW_LOCK)
    assert every.requirements == (
        'colorama==0.4.6 ; (sys_platform == "win32") or (os_name == "nt")',
        "numpy==2.1.0",
        "pytest==8.0.0",
        "tool @ git+https://x.example/tool.git@abc123",
    )
    assert poetry(NEW_LOCK, only=["dev"]).requirements[0] == 'colorama==0.4.6 ; (os_name == "nt")'
    assert "pytest==8.0.0" not in poetry(NEW_LOCK, without=["dev"]).requirements
    inner = poetry(NEW_LOCK, with_=["extra"])
    assert "inner==3" in inner.requirements
    assert inner.extra_index_url == "https://inner.example/simple"


OLD_LOCK = """
[[package]]
name = "web"
version = "1.0"
optional = false
[package.dependencies]
base = "*"
colour = {version = "*", markers = "sys_platform == \\"win32\\""}
fast = {version = "*", optional = true, markers = "extra == \\"speed\\""}
[package.extras]
speed = ["Fast (>=1)"]

[[package]]
name = "base"
version = "2.0"
optional = false
[package.dependencies]
web = "*"

[[package]]
name = "colour"
version = "3.0"
optional = false
[package.dependencies]
deep = {version = "*", markers = "python_version < \\"3.13\\""}

[[package]]
name = "deep"
version = "4.0"
optional = false

[[package]]
name = "Fast"
version = "5.0"
optional = true

[[package]]
name = "stray"
version = "6.0"
optional = true

[metadata]
lock-version = "2.0"
"""


def test_a_lock_of_poetry_1_follows_who_needs_whom(poetry):
    settings = '[tool.poetry.dependencies]\npython = "^3.11"\nweb = {version = "*", extras = ["speed"]}\n'
    assert poetry(OLD_LOCK, settings).requirements == (
        "Fast==5.0",
        "base==2.0",
        'colour==3.0 ; (sys_platform == "win32")',
        'deep==4.0 ; (python_version < "3.13") and (sys_platform == "win32")',
        "web==1.0",
    )
    assert "Fast==5.0" not in poetry(OLD_LOCK, '[tool.poetry.dependencies]\nweb = "*"\n').requirements
    pep = '[project]\ndependencies = ["web[speed]>=1"]\n'
    assert "Fast==5.0" in poetry(OLD_LOCK, pep).requirements


@pytest.mark.parametrize(
    "lock,options,where",
    [
        ("[[package", {}, "poetry.lock: "),
        ("package = 3\n", {}, "not a lock file"),
        (NEW_LOCK, {"with_": ["docs"]}, "no group 'docs'"),
        (NEW_LOCK, {"ignore_lockfile": True}, "needs the lock file"),
        (NEW_LOCK.replace('type = "git"', 'type = "directory"'), {}, "local directory"),
        (OLD_LOCK + OLD_LOCK.replace("[metadata]", "[x]").replace("lock-version", "y"), {}, "two versions"),
    ],
)
def test_locks_that_cannot_be_used(poetry, lock, options, where):
    settings = PROJECT.replace('numpy = "*"', 'web = "*"')
    with pytest.raises(InvalidError, match=where):
        poetry(lock, settings, **options)


# ------------------------------------------------------------------------------------------------ functions

MODULE = '''
import jitney
LIMIT = {limit}
def helper():
    return LIMIT
def fetch(where, *, size=1):
    """{words}"""
    return (where, size, helper())
def other():
    return {other}
'''


@pytest.fixture
def module(project, monkeypatch):
    """Writes and loads a module anew."""
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(limit=1, words="get it", other=1):
        sys.modules.pop("weights_of_test", None)
        (project / "weights_of_test.py").write_text(MODULE.format(limit=limit, words=words, other=other))
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        return importlib.import_module("weights_of_test")

    yield load
    sys.modules.pop("weights_of_test", None)


def test_a_function_travels_with_its_module(module, complete):
    fetch = module().fetch
    image = Image.debian_slim().run_function(
        fetch, args=("x",), kwargs={"size": 2}, env={"A": "1"}, cpu=1.5, memory=256, timeout=60
    )
    spec, trees = complete(image)
    [layer] = spec.layers
    assert (layer.name, layer.env, layer.cpu_milli, layer.memory_mib, layer.timeout_ms) == (
        "fetch", {"A": "1"}, 1_500, 256, 60_000
    )  # fmt: skip
    assert trees[layer.source_id] == ["weights_of_test.py"]
    function, args, kwargs = pickle.loads(layer.pickled)
    assert function(*args, **kwargs) == ("x", 2, 1)
    assert plan(spec, HOST).steps[-1].title == "run function fetch"


def test_a_function_is_known_by_what_it_says_and_refers_to(module):
    def identity(args=(), **changes):
        return identity_of(module(**changes).fetch, args, {})

    same = identity()
    assert identity() == same
    assert identity(other=2) == same  # it does not refer to that
    assert identity(limit=2) != same  # its helper does
    assert identity(words="take it") != same
    assert identity(args=(1,)) != same


def test_a_function_without_a_file_is_sent_whole(complete):
    space = {"__name__": "__main__"}
    exec("def typed(n):\n    return n + 1", space)
    spec, _ = complete(Image.debian_slim().run_function(space["typed"], args=(1,)))
    function, args, _ = pickle.loads(spec.layers[0].pickled)
    assert function(*args) == 2


def test_what_cannot_be_pickled_says_so(server):
    lock = asyncio.Lock()
    with pytest.raises(SerializationError, match="cannot be pickled"):
        Image.debian_slim().run_function(identity_of, args=(lock, iter([]), (x for x in ()))).hydrate()


# ------------------------------------------------------------------------------------------------ asking the server


def test_building_naming_and_planning(server):
    image = Image.debian_slim("3.11").pip_install("six")
    assert image.hydrate() is image
    assert image.build(jitney.App()).object_id == server.answers.built.image_id
    assert image.publish("trainer") == "trainer:latest"
    assert server.answers.asked[-1] == ImageTag(image=server.answers.built.image_id, name="trainer:latest")
    with pytest.raises(InvalidError):
        image.publish("../x")
    planned = image.plan()
    assert [step.title for step in planned.steps] == ["Python 3.11 environment", "pip install six"]
    assert isinstance(server.answers.asked[-1], ImagePlanRequest)


@pytest.mark.parametrize("name", ["JITNEY_FORCE_BUILD", "JITNEY_IGNORE_CACHE"])
def test_the_environment_forces_builds(complete, monkeypatch, name):
    assert not complete(Image.debian_slim())[0].force_build
    monkeypatch.setenv(name, "1")
    assert complete(Image.debian_slim())[0].force_build
    monkeypatch.setenv(name, "0")
    assert not complete(Image.debian_slim())[0].force_build


def test_an_app_builds_what_is_complete(project, server):
    app = jitney.App("x", image=Image.debian_slim().add_local_dir("app", "/srv", copy=True))
    app.function(serialized=True)(lambda: 1)
    with app.run():
        pass
    [build] = [one for one in server.answers.asked if isinstance(one, ImageBuild)]
    assert build.spec.layers[0].source_id in server.answers.sources


def test_nothing_is_shipped_for_an_image_without_files():
    async def refuse(*_):
        raise AssertionError

    image = Image.debian_slim().pip_install("six")
    assert asyncio.run(complete_spec(refuse, image)) == image.spec
