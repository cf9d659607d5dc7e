"""Images and source on a real platform: what is in them is there, and what cannot be made says so."""

import os
import shutil

import pytest

from jitney.drivers.builder.local.interpreters import is_own_version, search_path

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(platform):
    platform.write("data/words.txt", "one two")
    platform.write("data/skipped.log", "never shipped")
    platform.write("data/deep/er.txt", "deeper")
    platform.write("first_party.py", "VALUE = 41\n")
    platform.write("toolbox/__init__.py", "from toolbox.inner import twice\n")
    platform.write("toolbox/inner.py", "def twice(x):\n    return 2 * x\n")
    return platform


def run(project, name, text, **options):
    project.write(name, text)
    return project.jitney("run", name, **options)


def test_environment_and_folder_of_an_image(project):
    done = run(
        project,
        "settings.py",
        """
        import os
        import jitney

        app = jitney.App("settings")
        image = jitney.Image.debian_slim().env({"COLOUR": "blue"}).workdir("work")

        @app.function(image=image, env={"SHAPE": "round"})
        def look():
            return os.environ["COLOUR"], os.environ["SHAPE"], os.path.basename(os.getcwd())

        @app.local_entrypoint()
        def main():
            print(look.remote())
        """,
    )
    assert "('blue', 'round', 'work')" in done.lines


def test_local_files_folders_and_modules_come_along(project):
    done = run(
        project,
        "files.py",
        """
        import os
        import jitney
        import toolbox

        image = (
            jitney.Image.debian_slim()
            .add_local_file("data/words.txt", "/root/config/words.txt")
            .add_local_dir("data", "data", ignore=["*.log"])
            .add_local_python_source("toolbox")
        )
        app = jitney.App("files", image=image)

        @app.function()
        def look():
            import files
            root = os.path.dirname(files.__file__)
            names = sorted(
                os.path.relpath(os.path.join(folder, name), root)
                for folder, _, found in os.walk(root) for name in found if not name.endswith(".pyc")
            )
            with open(os.path.join(root, "config/words.txt")) as file:
                return names, file.read(), toolbox.twice(4)

        @app.local_entrypoint()
        def main():
            names, text, number = look.remote()
            print("\\n".join(names))
            print(text, number)
        """,
    )
    assert done.lines[-1] == "one two 8"
    assert set(done.lines[:-1]) == {
        "config/words.txt",
        "data/deep/er.txt",
        "data/words.txt",
        "files.py",
        "toolbox/__init__.py",
        "toolbox/inner.py",
    }


def test_a_module_that_was_not_added_is_named_with_what_to_do(project):
    done = run(
        project,
        "forgotten.py",
        """
        import jitney
        import first_party

        app = jitney.App("forgotten")

        @app.function()
        def look():
            return first_party.VALUE
        """,
        code=5,
    )
    assert "No module named 'first_party'" in done.err
    assert "add_local_python_source" in done.err


def test_a_package_from_the_index_is_there_and_is_built_once(project):
    text = """
        import jitney

        image = jitney.Image.debian_slim().uv_pip_install("iniconfig==2.0.0")
        app = jitney.App("packages", image=image)

        with image.imports():
            import iniconfig

        @app.function()
        def version():
            from importlib.metadata import version
            return version("iniconfig"), iniconfig.__name__

        @app.local_entrypoint()
        def main():
            print(version.remote())
        """
    first = run(project, "packages.py", text)
    assert "('2.0.0', 'iniconfig')" in first.lines
    assert "iniconfig==2.0.0" in first.err, "the step is shown while a person waits"
    again = run(project, "packages.py", text)
    assert "('2.0.0', 'iniconfig')" in again.lines
    assert "uv_pip_install" not in again.err


def test_a_package_that_does_not_exist_fails_with_the_step_and_its_last_lines(project):
    done = run(
        project,
        "missing.py",
        """
        import jitney

        image = jitney.Image.debian_slim().uv_pip_install("no-such-package-of-anybody-4711")
        app = jitney.App("missing", image=image)

        @app.function()
        def nothing(): ...
        """,
        code=5,
    )
    assert "no-such-package-of-anybody-4711" in done.err
    assert "step 2 of 2" in done.err
    assert "not found in the package" in done.err or "no versions" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "step",
    ['apt_install("ffmpeg")', 'run_commands("make")', 'from_registry("python:3.12")', 'dockerfile_commands("RUN x")'],
)
def test_a_step_that_this_runtime_cannot_make_is_refused_in_a_sentence(project, step):
    start = "jitney.Image" if step.startswith("from_") else "jitney.Image.debian_slim()"
    done = run(
        project,
        "refused.py",
        f"""
        import jitney

        app = jitney.App("refused", image={start}.{step})

        @app.function()
        def nothing(): ...
        """,
        code=2,
    )
    assert "cannot be made on this runtime: it needs a root file system" in done.err
    assert "Traceback" not in done.err


def test_a_python_that_is_not_here_is_refused_before_anything_runs(project):
    done = run(
        project,
        "old.py",
        """
        import jitney

        app = jitney.App("old", image=jitney.Image.debian_slim(python_version="3.4"))

        @app.function()
        def nothing(): ...
        """,
        code=None,
    )
    assert done.code in (2, 5)
    assert "3.4" in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_does_not_exist_is_named(project):
    done = run(
        project,
        "nofolder.py",
        """
        import jitney

        app = jitney.App("nofolder", image=jitney.Image.debian_slim().add_local_dir("not-here", "data"))

        @app.function()
        def nothing(): ...
        """,
        code=2,
    )
    assert "not-here" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_arrays_of_an_image_with_numpy_travel_both_ways(project):
    pytest.importorskip("numpy")
    done = run(
        project,
        "arrays.py",
        """
        import jitney

        image = jitney.Image.debian_slim().uv_pip_install("numpy")
        app = jitney.App("arrays", image=image)

        with image.imports():
            import numpy

        @app.function()
        def reverse(array):
            array[0] = -1
            return array[::-1]

        @app.local_entrypoint()
        def main():
            for count in (10, 100_000, 8_000_000):
                array = numpy.arange(count)
                result = reverse.remote(array)
                assert result[-1] == -1 and array[0] == 0 and (result[:-1] == array[:0:-1]).all()
                result[0] = 5
                print(count, result.nbytes, result.flags.writeable)
        """,
        timeout=120,
    )
    assert done.lines[-1] == "8000000 64000000 True"


@pytest.fixture(scope="module")
def other():
    """A version of Python that this machine has beside ours."""
    for version in ("3.12", "3.13", "3.11"):
        if not is_own_version(version) and shutil.which(f"python{version}", path=search_path(os.environ)):
            return version
    pytest.skip("this machine has one Python only")


def test_a_function_runs_under_another_python(project, other):
    done = run(
        project,
        "elsewhere.py",
        f"""
        import sys
        import jitney

        app = jitney.App("elsewhere", image=jitney.Image.debian_slim(python_version="{other}"))

        @app.function()
        def version(x):
            return sys.version_info[:2], x

        @app.local_entrypoint()
        def main():
            print(version.remote([1, "two"]))
        """,
    )
    assert f"(({other.replace('.', ', ')}), [1, 'two'])" in done.lines
    assert f"{other} in the image" in done.err


def test_code_that_another_python_cannot_read_is_refused_before_the_first_call(project, other):
    done = run(
        project,
        "unreadable.py",
        f"""
        import jitney

        app = jitney.App("unreadable", image=jitney.Image.debian_slim(python_version="{other}"))

        @app.function(serialized=True)
        def nothing():
            print("never printed")
        """,
        code=4,
    )
    assert f"{other} in the image" in done.err
    assert "Traceback" not in done.err
    assert "never printed" not in done.out
