"""`jitney image`: which image of a file is meant, and the commands with a server behind them."""

import json
import sys

import pytest

from jitney.cli import main
from jitney.cli.image import mib

TWO = """
    import jitney
    plain = jitney.Image.debian_slim("3.11").env({"A": "1"})
    tools = jitney.Image.from_registry("debian:12", {"password": "s3cret"}).apt_install("git")
    app = jitney.App("x", image=plain)
    number = 3
"""
ONE = """
    import jitney
    app = jitney.App("x", image=jitney.Image.debian_slim().env({"COLOUR": "blue"}))
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a program and gives its path."""
    import textwrap

    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name, text):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    yield write
    for name in ("two_images", "one_image", "no_image"):
        sys.modules.pop(name, None)


def test_an_image_as_a_dockerfile_needs_no_server(file, capsys, tmp_path):
    assert main.invoke(["image", "plan", file("two_images.py", TWO) + "::tools", "--dockerfile"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("FROM debian:12\nRUN apt-get update")
    assert "s3cret" not in out
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name,line", [("::plain", 'ENV A="1"'), ("::app", 'ENV A="1"')])
def test_an_image_is_named_itself_or_by_its_app(file, capsys, name, line):
    assert main.invoke(["image", "plan", file("two_images.py", TWO) + name, "--dockerfile"]) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_the_only_image_of_a_file_needs_no_name(file, capsys):
    assert main.invoke(["image", "plan", file("one_image.py", ONE), "--dockerfile"]) == 0
    assert 'ENV COLOUR="blue"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "name,text,reference,code,error",
    [
        ("two_images.py", TWO, "", main.USAGE, "which image of"),
        ("two_images.py", TWO, "::tolls", main.NOT_FOUND, "has no image 'tolls'"),
        ("two_images.py", TWO, "::number", main.NOT_FOUND, "there is plain, tools"),
        ("no_image.py", "x = 1\n", "", main.USAGE, "it has none"),
    ],
)
def test_what_is_not_clear_is_asked_for(file, capsys, name, text, reference, code, error):
    assert main.invoke(["image", "plan", file(name, text) + reference, "--dockerfile"]) == code
    assert error in capsys.readouterr().err


def test_looking_where_there_never_was_a_server_starts_none(file, capsys, tmp_path):
    file("one_image.py", ONE)
    assert main.invoke(["image", "list"]) == 0
    assert capsys.readouterr().out == "no images\n"
    assert not (tmp_path / "home").exists()


def test_spans_and_sizes(capsys):
    assert main.invoke(["image", "gc", "--older-than", "soon"]) == main.USAGE
    assert "write 30min, 12h or 30d" in capsys.readouterr().err
    assert (mib(5 << 20), mib(3 << 30), mib(1_500 << 20)) == ("5.0 MiB", "3.0 GiB", "1.5 GiB")


@pytest.mark.e2e
def test_the_life_of_an_image(shared):
    shared.write("one_image.py", ONE)
    before, _ = shared.run("image", "plan", "one_image.py", "--json")
    planned = json.loads(before)
    assert [(step["work"], step["cached"]) for step in planned["steps"]] == [("environment", False), ("setting", True)]
    out, _ = shared.run("image", "build", "one_image.py", "--name", "colours:v1")
    assert out == f"{planned['image_id']} colours:v1\n"
    after, _ = shared.run("image", "plan", "one_image.py")
    assert "the machine's root file system" in after
    assert "to do" not in after
    listed, _ = shared.run("image", "list", "--json")
    assert [(one["image_id"], one["names"]) for one in json.loads(listed)] == [(planned["image_id"], ["colours:v1"])]
    _, err = shared.run("image", "gc", "--older-than", "0s", "--dry-run")
    assert err.startswith("0 images would be removed")  # it has a name
    shared.write("named.py", 'import jitney\nimage = jitney.Image.from_name("colours:v1").env({"SIZE": "2"})\n')
    out, _ = shared.run("image", "build", "named.py")
    assert out.strip() not in (planned["image_id"], "")
    out, err = shared.run("image", "gc", "--older-than", "0s")
    assert len(out.split()) == 1
    assert err.startswith("1 image removed")
    out, _ = shared.run("image", "rm", "colours:v1")
    assert out == f"{planned['image_id']} is removed\n"
    _, err = shared.run("image", "rm", "colours:v1", code=3)
    assert "jitney image list" in err
    out, _ = shared.run("image", "list")
    assert out == "no images\n"
