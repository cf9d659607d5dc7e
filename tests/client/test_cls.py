"""Classes: parameters, hooks, methods, variants, inheritance, and what is refused."""

from __future__ import annotations

import asyncio
import pickle
import sys

import pytest

import jitney
from jitney.errors import InvalidError, NotFoundError

app = jitney.App("classes")


class Base:
    """Hooks and a method to inherit."""

    started: list[str]

    @jitney.enter()
    def first(self):
        self.started = ["first"]

    @jitney.method()
    def inherited(self) -> list[str]:
        return self.started


@app.cls()
@jitney.concurrent(max_inputs=5)
class Model(Base):
    size: str = jitney.parameter(default="small")
    layers: int = jitney.parameter()
    secret: int = jitney.parameter(default=7, init=False)

    @jitney.enter()
    def second(self):
        self.started.append(f"second {self.size}")

    @jitney.method()
    def predict(self, text: str) -> str:
        """Predicts."""
        return f"{text} by {self.size} {self.layers} {self.secret}"

    @jitney.method()
    def twice(self, text: str) -> str:
        return self.predict.local(text) + " & " + self.predict(text)

    @jitney.method()
    async def later(self, text: str) -> str:
        return text

    @jitney.method()
    def letters(self, text: str):
        yield from text

    def helper(self) -> int:
        return 5


@app.cls()
class Plain:
    def __init__(self, a: int, b: int = 2) -> None:
        self.sum = a + b

    @jitney.method()
    def get(self) -> int:
        return self.sum


@app.cls()
class Batched:
    @jitney.batched(max_batch_size=10, wait_ms=5)
    def double(self, values: list[int]) -> list[int]:
        return [2 * value for value in values]


@pytest.fixture
def running(server):
    with app.run():
        yield server


def test_methods_of_instances(running):
    model = Model(size="large", layers=3)
    assert model.predict.remote("x") == "x by large 3 7"
    assert list(model.predict.map(["a", "b"])) == ["a by large 3 7", "b by large 3 7"]
    assert asyncio.run(model.predict.remote.aio("y")) == "y by large 3 7"
    assert model.later.remote("z") == "z"
    assert list(model.letters.remote_gen("abc")) == ["a", "b", "c"]
    assert model.predict.spawn("s").get() == "s by large 3 7"
    assert model.inherited.remote() == ["first", "second large"]
    assert model.predict.__doc__ == "Predicts."


def test_each_set_of_parameters_is_a_pool(running):
    ids = [Model(layers=n).predict.hydrate().object_id for n in (1, 2, 1)]
    assert ids[0] == ids[2] != ids[1]
    assert Model(size="small", layers=1).predict.hydrate().object_id == ids[0]


def test_constructors_with_code(running):
    assert Plain(1).get.remote() == 3
    assert Plain(1, b=5).get.remote() == 6
    assert Plain(1, 5).get.hydrate().object_id == Plain(a=1, b=5).get.hydrate().object_id
    with pytest.raises(TypeError, match="missing a required argument"):
        Plain()


def test_batched_methods(running):
    assert Batched().double.remote(4) == 8
    spec = next(one for one in running.answers.published[0].functions if one.name == "Batched")
    assert (spec.batching.max_batch_size, spec.batching.wait_ms) == (10, 5)


def test_what_is_published(running):
    spec = next(one for one in running.answers.published[0].functions if one.name == "Model")
    assert spec.is_class
    assert spec.concurrency.max_inputs == 5
    assert {one.name: (one.is_async, one.is_generator) for one in spec.methods} == {
        "inherited": (False, False),
        "predict": (False, False),
        "twice": (False, False),
        "later": (True, False),
        "letters": (False, True),
    }


def test_on_this_side():
    model = Model(layers=1)
    assert model.predict.local("x") == "x by small 1 7"
    assert model.twice.local("x") == "x by small 1 7 & x by small 1 7"
    assert model.inherited.local() == ["first", "second small"]
    assert model.inherited.local() is model.inherited.local()  # hooks ran once
    assert (model.size, model.layers, model.helper()) == ("small", 1, 5)
    with pytest.raises(InvalidError, match="a call has to say where it runs"):
        model.predict("x")
    with pytest.raises(AttributeError):
        model.nothing  # noqa: B018


def test_parameters_are_checked():
    with pytest.raises(InvalidError, match=r"needs the parameter 'layers': write Model\(layers=\.\.\.\)"):
        Model()
    with pytest.raises(InvalidError, match="no parameter 'depth': it has size, layers"):
        Model(layers=1, depth=2)
    with pytest.raises(InvalidError, match="no parameter 'secret'"):
        Model(layers=1, secret=2)
    with pytest.raises(InvalidError, match="takes int, not str"):
        Model(layers="1")
    with pytest.raises(InvalidError, match="takes int, not bool"):
        Model(layers=True)
    with pytest.raises(InvalidError, match="given by name"):
        Model("large", 3)
    with pytest.raises(InvalidError, match="16 KiB"):
        Model(size="x" * 20_000, layers=1)


def test_variants(running):
    quick = Model.with_options(max_containers=1).with_concurrency(max_inputs=2)
    assert quick(layers=2).predict.remote("x") == "x by small 2 7"
    assert quick(layers=2).predict.object_id == quick(layers=2).predict.hydrate().object_id
    assert quick(layers=2).predict.object_id != Model(layers=2).predict.hydrate().object_id
    assert Model.hydrate().object_id.startswith("fu-")


def test_by_name(server):
    app.deploy("deployed")
    found = jitney.Cls.from_name("deployed", "Model")
    assert found(layers=4).predict.remote("x") == "x by small 4 7"
    assert list(found(layers=4).letters.remote_gen("ab")) == ["a", "b"]
    with pytest.raises(InvalidError, match="its code is not here"):
        found(layers=4).predict.local("x")
    with pytest.raises(InvalidError, match="given by name"):
        found(4)
    with pytest.raises(NotFoundError):
        jitney.Cls.from_name("deployed", "Nothing")().go.remote()


def test_handles_can_be_pickled(running):
    model = pickle.loads(pickle.dumps(Model(layers=1)))
    with pytest.raises(InvalidError, match="its app does not run"):
        model.predict.remote("x")  # it means the app of the container that it is unpickled in


def test_a_method_of_an_undecorated_class_says_so():
    class Loose:
        @jitney.method()
        def go(self):
            pass

    with pytest.raises(InvalidError, match="is not an @app"):
        Loose().go  # noqa: B018


def test_deriving_from_a_decorated_class():
    class Derived(Model):
        pass

    assert Derived.__mro__[1] is Model._get_user_cls()


def test_methods_for_a_snapshot_run_first_here_too():
    class Ordered:
        @jitney.enter()
        def later(self):
            self.seen.append("later")

        @jitney.enter(snap=True)
        def first(self):
            self.seen = ["first"]

        @jitney.method()
        def get(self):
            return self.seen

    cls = jitney.App().cls(serialized=True)(Ordered)
    assert cls().get.local() == ["first", "later"]


def test_what_cannot_be(monkeypatch):
    other = jitney.App()
    with pytest.raises(InvalidError, match="goes on a class"):
        other.cls()(lambda: 1)
    with pytest.raises(InvalidError, match="use @app"):
        other.function()(type("Model", (), {}))
    with pytest.raises(InvalidError, match="no method to call"):
        other.cls()(type("Empty", (), {}))
    with pytest.raises(InvalidError, match="with parentheses"):
        jitney.method()(3)
    with pytest.raises(InvalidError, match="needs a default"):
        jitney.parameter(init=False)
    with pytest.raises(InvalidError, match="put it on the class"):

        @other.cls()
        class Wrong:
            @jitney.concurrent(max_inputs=2)
            def go(self):
                pass

    with pytest.raises(InvalidError, match="must be the only method"):

        @other.cls()
        class Two:
            @jitney.batched(max_batch_size=2, wait_ms=1)
            def go(self, x):
                pass

            @jitney.method()
            def other(self):
                pass

    @other.cls()
    class Typed:
        x: float = jitney.parameter(default=1.0)

        @jitney.method()
        def go(self):
            pass

    with pytest.raises(InvalidError, match="of type float: it may be"):
        Typed()
    assert sys.modules[__name__].Model is Model
