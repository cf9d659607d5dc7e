"""Importing the user's program, and what is said when that does not work."""

import sys

import pytest

from jitney.cli import loading
from jitney.cli.loading import UserCodeError, format_user_error, load, module_name, pick
from jitney.errors import InvalidError, NotFoundError


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_is_imported_under_its_stem(tmp_path):
    (tmp_path / "neighbour_of_it.py").write_text("x = 5")
    (tmp_path / "program_one.py").write_text("import neighbour_of_it\ny = neighbour_of_it.x")
    module = load(str(tmp_path / "program_one.py"))
    assert (module.__name__, module.y) == ("program_one", 5)
    assert sys.path[0] == str(tmp_path)


def test_a_file_of_a_package_keeps_its_dotted_name(tmp_path):
    package = tmp_path / "pack_one" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "pack_one" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "sib.py").write_text("x = 6")
    (package / "prog.py").write_text("from . import sib\ny = sib.x")
    assert module_name(package / "prog.py") == ("pack_one.inner.prog", tmp_path)
    assert load(str(package / "prog.py")).y == 6


def test_as_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program_two.py").write_text("z = 1")
    assert load("program_two", as_module=True).z == 1
    with pytest.raises(NotFoundError, match="no module 'program_tw0'"):
        load("program_tw0", as_module=True)
    with pytest.raises(NotFoundError, match="leave out -m"):
        load("program_two.py", as_module=True)


@pytest.mark.parametrize(
    "name, hint",
    [("trian.py", "did you mean"), ("train.py:main", "two colons"), ("zzzzzz.py", "looked for from"), ("json", "-m")],
)
def test_a_missing_file(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    with pytest.raises(NotFoundError) as caught:
        load(name)
    assert hint in str(caught.value)


def test_a_folder_and_a_text_file(tmp_path):
    with pytest.raises(NotFoundError, match="is a folder"):
        load(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(InvalidError, match="not a Python file"):
        load(str(tmp_path / "a.txt"))


def test_a_name_that_is_taken(tmp_path):
    (tmp_path / "json.py").touch()
    with pytest.raises(InvalidError, match="rename the file"):
        load(str(tmp_path / "json.py"))


def test_an_error_in_the_file_starts_at_its_frame(tmp_path):
    (tmp_path / "program_three.py").write_text("def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(UserCodeError) as caught:
        load(str(tmp_path / "program_three.py"))
    text = format_user_error(caught.value.__cause__)
    first = text.splitlines()[1]
    assert "program_three.py" in first
    assert "line 3" in first
    assert "importlib" not in text
    assert "ZeroDivisionError" in text


def test_a_syntax_error_shows_the_line(tmp_path):
    (tmp_path / "program_four.py").write_text("def f(:\n")
    with pytest.raises(UserCodeError) as caught:
        load(str(tmp_path / "program_four.py"))
    text = format_user_error(caught.value.__cause__)
    assert "def f(:" in text
    assert loading.OURS not in text


def test_sys_exit_in_the_file_is_an_error_of_it(tmp_path):
    (tmp_path / "program_five.py").write_text("raise SystemExit('no')")
    with pytest.raises(UserCodeError):
        load(str(tmp_path / "program_five.py"))


def test_pick():
    assert pick("a", ["a", "b"], of="x.py", what="function") == "a"
    with pytest.raises(NotFoundError, match="did you mean 'train'"):
        pick("trian", ["train", "test"], of="x.py", what="function")
    with pytest.raises(NotFoundError, match="has none"):
        pick("a", [], of="x.py", what="function")
