"""What of a module can be run or deployed, and how the right thing is picked."""

import types

import click
import pytest
from click.testing import CliRunner

import jitney
from jitney.cli import program
from jitney.cli.run import parse, write
from jitney.errors import InvalidError, NotFoundError


def module_of(**names):
    """A module with these names."""
    made = types.ModuleType("made")
    vars(made).update(names)
    return made


@pytest.fixture
def app():
    return jitney.App("shapes")


def add(app, name, function=None, entry=False):
    def f(x: int): ...

    f.__name__ = f.__qualname__ = name
    if entry:
        return app.local_entrypoint()(function or f)
    return app.function(serialized=True, name=name)(function or f)


def test_the_only_entry_point_is_taken(app):
    add(app, "square")
    add(app, "main", entry=True)
    assert program.choose(module_of(app=app), "", "x.py").name == "main"


def test_else_the_only_function(app):
    add(app, "square")
    target = program.choose(module_of(app=app), "", "x.py")
    assert (target.name, target.kind) == ("square", program.FUNCTION)


def test_several_are_listed(app):
    add(app, "square")
    add(app, "cube")
    with pytest.raises(InvalidError) as caught:
        program.choose(module_of(app=app), "", "x.py")
    assert "function square" in caught.value.message
    assert "jitney run x.py::square" in caught.value.hint


def test_a_name_that_is_not_there(app):
    add(app, "square")
    with pytest.raises(NotFoundError, match="did you mean 'square'"):
        program.choose(module_of(app=app), "sqare", "x.py")


def test_no_app_and_no_functions(app):
    with pytest.raises(NotFoundError, match="has no app"):
        program.choose(module_of(), "", "x.py")
    with pytest.raises(NotFoundError, match="has no functions"):
        program.choose(module_of(app=app), "", "x.py")


def test_an_app_with_two_names_counts_once(app):
    assert list(program.apps(module_of(app=app, same=app))) == ["app"]


def test_which_app_is_deployed(app):
    other = jitney.App("other")
    assert program.only_app(module_of(one=app), "", "x.py") is app
    assert program.only_app(module_of(app=app, other=other), "", "x.py") is app
    assert program.only_app(module_of(a=app, b=other), "b", "x.py") is other
    assert program.only_app(module_of(a=app, b=other), "shapes", "x.py") is app
    with pytest.raises(InvalidError, match="2 apps"):
        program.only_app(module_of(a=app, b=other), "", "x.py")


def make_scaler(app):
    @app.cls(serialized=True)
    class Scaler:
        factor: int = jitney.parameter(default=2)
        unit: str = jitney.parameter()

        @jitney.method()
        def scale(self, x: int, *, label: str = "") -> int:
            """Scale.

            Args:
                x: What to scale.
            """
            return self.factor * x

    return Scaler


def test_methods_have_the_flags_of_their_class_too(app):
    make_scaler(app)
    target = program.choose(module_of(app=app), "Scaler.scale", "x.py")
    assert [p.name for p in target.parameters()] == ["factor", "unit", "x", "label"]
    method, args, kwargs = target.bind({"factor": 3, "unit": "m", "x": 4, "label": "a"})
    assert (args, kwargs) == ((), {"x": 4, "label": "a"})
    assert method.local(*args, **kwargs) == 12


def test_parse_gives_values_or_help_or_a_usage_error(app, capsys):
    def main(n: int, label: str = "x"):
        """Do it."""

    add(app, "main", main, entry=True)
    target = program.choose(module_of(app=app), "", "x.py")
    assert parse(target, ("--n", "3"), "run x.py") == {"n": 3, "label": "x"}
    assert parse(target, ("--help",), "run x.py") is None
    assert "Do it." in capsys.readouterr().out
    with pytest.raises(click.UsageError):
        parse(target, (), "run x.py")


@pytest.mark.parametrize(
    "result, content", [("a", b"a"), (b"\x00", b"\x00"), ({"a": [1]}, b'{\n  "a": [\n    1\n  ]\n}\n')]
)
def test_write(tmp_path, result, content):
    write(tmp_path / "out", result)
    assert (tmp_path / "out").read_bytes() == content


def test_write_refuses_what_no_file_has(tmp_path):
    with pytest.raises(InvalidError, match="is a set"):
        write(tmp_path / "out", {1})


def test_options_after_the_file_are_the_program_s(tmp_path, monkeypatch):
    from jitney.cli.run import run

    got = []
    monkeypatch.setattr(run, "callback", lambda **values: got.append(values))
    CliRunner().invoke(run, ["-q", "x.py", "--quiet", "--n", "3", "-d"])
    assert got[0]["quiet"] is True
    assert got[0]["detach"] is False
    assert got[0]["arguments"] == ("--quiet", "--n", "3", "-d")
