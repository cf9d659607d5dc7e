"""Apps: declaring, running in both colours, deploying, logs, versions, and what is refused."""

import asyncio
import platform
import sys
import threading
import types

import msgspec
import pytest

import jitney
from jitney.client import output
from jitney.client.running import STOP_S_MAX
from jitney.errors import (
    ConnectionError,
    ImageBuildError,
    InvalidError,
    NotFoundError,
    SerializationError,
    UnsupportedError,
    VersionError,
)
from jitney.values.apps import AppState
from jitney.values.images import ImageSpec
from jitney.wire.messages.images import BuildProgress


def square(x: int) -> int:
    return x * x


def count(n: int):
    yield from range(n)


def double(values: list[int]) -> list[int]:
    return [2 * value for value in values]


class Events(output.Quiet):
    """Keeps what happened, in order."""

    def __init__(self):
        self.names = []
        self.lines = []
        self.notes = []

    def app_created(self, app_id, name):
        self.names.append("created")

    def image_step(self, image_id, step, steps, title):
        self.names.append(f"step {step}/{steps} {title}")

    def image_line(self, image_id, line):
        self.names.append(line)

    def image_built(self, image_id, cached, took_ms):
        self.names.append("built")

    def source_shipped(self, files, bytes_sent):
        self.names.append(f"shipped {files}")

    def published(self, app_id, functions):
        self.names.append(f"published {len(functions)}")

    def log(self, line):
        self.lines.append(line.text)

    def note(self, text):
        self.notes.append(text)

    def summary(self, app_id, summary):
        self.names.append("summary")


@pytest.fixture
def events():
    with output.use(Events()) as kept:
        yield kept


def test_running(server, events):
    app = jitney.App("demo", tags={"team": "x"})
    f, g = app.function()(square), app.function()(count)
    server.answers.build_events = [
        BuildProgress(image_id="im", step=1, steps=1, title="base"),
        BuildProgress(image_id="im", step=1, steps=1, title="base", line="a line"),
    ]
    with app.run() as same:
        assert same is app
        assert app.app_id.startswith("ap-")
        assert f.remote(3) == 9
        assert list(f.map([1, 2])) == [1, 4]
        assert list(g.remote_gen(3)) == [0, 1, 2]
        assert f.object_id.startswith("fu-")
        assert server.answers.apps[app.app_id].state is AppState.EPHEMERAL
        assert app.get_tags() == {"team": "x"}
        ran = app.app_id
    assert server.answers.apps[ran].state is AppState.STOPPED
    assert app.app_id is None
    with pytest.raises(InvalidError, match="its app does not run: use `with app"):
        f.remote(3)
    assert events.names[-2:] == ["published 2", "summary"]
    assert {"created", "step 1/1 base", "a line", "built"} <= set(events.names)
    assert any(name.startswith("shipped") for name in events.names)


def test_running_again_is_another_app(server):
    app = jitney.App()
    f = app.function()(square)
    seen = []
    for _ in range(2):
        with app.run():
            seen.append((app.app_id, f.with_options(timeout=9).hydrate().object_id, f.remote(2)))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_running_in_async_code(server):
    app = jitney.App()
    f = app.function()(square)

    async def main():
        async with app.run():
            return await f.remote.aio(4)

    assert asyncio.run(main()) == 16


def test_what_is_published(server):
    app = jitney.App(image=jitney.Image.debian_slim())
    retries = jitney.Retries(max_retries=3, initial_delay=0.5)
    app.function(
        retries=retries, timeout=10, min_containers=1, max_containers=4, buffer_containers=2, scaledown_window=30,
        cpu=(0.5, 2), memory=512, env={"A": "1", "B": None}, single_use_containers=True, startup_timeout=20, name="sq",
    )(jitney.concurrent(max_inputs=10, target_inputs=8)(_copy(square)))  # fmt: skip
    app.function()(jitney.batched(max_batch_size=4, wait_ms=20)(_copy(double)))
    with app.run():
        pass
    sent = {one.name: one for one in server.answers.published[0].functions}
    spec = sent["sq"]
    assert (spec.module, spec.qualname, spec.main_module, spec.pickled) == (__name__, "square", False, b"")
    assert (spec.retries.max_retries, spec.retries.initial_delay_ms, spec.retries.backoff_coefficient) == (3, 500, 2.0)
    assert (spec.timeout_ms, spec.startup_timeout_ms) == (10_000, 20_000)
    assert msgspec.structs.astuple(spec.scaling) == (1, 4, 2, 30_000)
    assert msgspec.structs.astuple(spec.resources) == (500, 2_000, 512, None, None)
    assert spec.env == {"A": "1"}
    assert spec.single_use
    assert (spec.concurrency.max_inputs, spec.concurrency.target_inputs) == (10, 8)
    assert spec.image_id == server.answers.built.image_id
    assert spec.source_id in server.answers.sources
    assert spec.versions.python == ".".join(platform.python_version_tuple()[:2])
    assert sent["double"].batching.max_batch_size == 4
    assert sent["double"].startup_timeout_ms == 300_000
    assert len(server.answers.sources) == 1  # one module, shipped once


def _copy(f):
    """Marks go on functions: not on those of other tests."""
    copied = types.FunctionType(f.__code__, f.__globals__, f.__name__)
    copied.__module__, copied.__qualname__ = f.__module__, f.__qualname__
    return copied


def test_distinct_images_are_built_once_each(server):
    built = []
    answer = server.answers.image_build

    def count_builds(request, emit):
        built.append(request.spec)
        return answer(request, emit)

    server.answers.image_build = count_builds
    app = jitney.App()
    env = jitney.Image.debian_slim().env({"A": "1"})
    for name, image in (("a", None), ("b", None), ("c", env), ("d", jitney.Image.debian_slim().env({"A": "1"}))):
        app.function(name=name, image=image)(square)
    with app.run():
        pass
    assert len(built) == 2
    assert all(isinstance(spec, ImageSpec) for spec in built)


def test_logs_are_shown_while_it_runs_and_the_last_lines_after(server, capfd):
    app = jitney.App()
    app.function()(square)
    with app.run():
        server.answers.say(app.app_id, "hello")
        server.answers.say(app.app_id, "oops", fd=2)
    out, err = capfd.readouterr()
    assert out == "hello\n"
    assert err == "oops\n"


def test_logs_go_on_after_a_break_without_repeating(server, events):
    app = jitney.App()
    f = app.function()(square)
    with app.run():
        server.answers.say(app.app_id, "before")
        _until(lambda: events.lines == ["before"])
        server.drop_links()
        assert f.remote(2) == 4
        server.answers.say(app.app_id, "after")
        _until(lambda: "after" in events.lines)
    assert events.lines == ["before", "after"]


def _until(condition):
    """Wait for what another thread of this process is about to do."""
    pause = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen")


def test_a_failing_block_stops_the_app(server):
    app = jitney.App()
    app.function()(square)
    ran = []

    def fail():
        with app.run():
            ran.append(app.app_id)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert server.answers.apps[ran[0]].state is AppState.STOPPED
    assert STOP_S_MAX == 10.0


def test_a_failing_build_stops_the_app(server):
    app = jitney.App()
    app.function()(square)
    server.answers.fail["image.build"] = ImageBuildError("step 2 failed")
    with pytest.raises(ImageBuildError, match="step 2 failed"), app.run():
        raise AssertionError("it must not run")
    assert all(one.state is AppState.STOPPED for one in server.answers.apps.values())


def test_a_detached_app_goes_on(server):
    app = jitney.App()
    app.function()(square)
    with app.run(detach=True):
        ran = app.app_id
    assert server.answers.apps[ran].state is AppState.DETACHED


def test_no_server_at_the_end_is_a_note(server, events, monkeypatch):
    from jitney.client import link, running

    monkeypatch.setattr(running, "STOP_S_MAX", 0.3)
    monkeypatch.setattr(link, "GIVE_UP_S", 0.1)
    app = jitney.App()
    app.function()(square)
    with app.run():
        server.stop()
    assert events.notes[0].startswith("app ap-")
    assert "left to the server to stop" in events.notes[0]
    server.start()


def test_deploying(server):
    app = jitney.App("shop")
    f = app.function()(square)
    done = app.deploy(tag="v1")
    assert (done.name, done.version, done.changed) == ("shop", 1, True)
    assert server.answers.published[0].tag == "v1"
    assert f.remote(3) == 9
    assert jitney.Function.from_name("shop", "square").remote(4) == 16
    assert asyncio.run(app.deploy.aio("other")).version == 1
    assert jitney.App.lookup("shop").app_id == done.app_id


def test_looking_up(server):
    with pytest.raises(NotFoundError):
        jitney.App.lookup("nothing")
    made = jitney.App.lookup("nothing", create_if_missing=True)
    assert jitney.App.lookup("nothing").app_id == made.app_id


def test_including_another_app(server):
    shared, app = jitney.App(), jitney.App()
    f = shared.function(name="shared")(square)
    own = app.function()(square)
    assert app.include(shared) is app
    with app.run():
        assert (f.remote(2), own.remote(3)) == (4, 9)
    clash = jitney.App()
    clash.function(name="shared")(count)
    with pytest.raises(InvalidError, match=r"has 'shared' already, from .*square: give the one from .*count a name="):
        app.include(clash)


def test_registered_parts():
    app = jitney.App()
    f = app.function()(square)

    @app.local_entrypoint()
    def main(x: int = 1) -> int:
        """The main thing."""
        return x + 1

    assert app.registered_functions == {"square": f}
    assert app.registered_classes == {}
    assert list(app.registered_entrypoints.values()) == [main]
    assert main(2) == 3
    assert main.raw_f(3) == 4
    assert main.__doc__ == "The main thing."
    with pytest.raises(InvalidError, match="missing its parentheses"):
        app.local_entrypoint(name=lambda: 1)


# ------------------------------------------------------------------------------------------------ code that travels


def test_pickled_functions(server):
    app = jitney.App()
    factor = 3

    def local(x):
        return factor * x

    f = app.function(serialized=True)(local)
    with app.run():
        assert f.remote(5) == 15
    spec = server.answers.published[0].functions[0]
    assert (spec.name, spec.module) == ("local", "")
    assert spec.pickled


def test_a_local_function_that_is_not_pickled_is_refused(server):
    app = jitney.App()

    @app.function()
    def local(x):
        return x

    with pytest.raises(InvalidError, match=r"inside a function.*serialized=True"), app.run():
        pass


def test_code_that_cannot_be_pickled(server):
    app = jitney.App()
    lock = threading.Lock()

    @app.function(serialized=True)
    def local():
        return lock

    with pytest.raises(SerializationError, match="local cannot be pickled"), app.run():
        pass


def test_a_large_pickled_function_is_noted(server, events):
    app = jitney.App()
    big = b"x" * 500_000

    @app.function(serialized=True)
    def local():
        return len(big)

    with app.run():
        assert local.remote() == 500_000
    assert "local is 489 KiB when pickled" in events.notes[0]


def test_versions_that_do_not_fit(server, events):
    server.answers.built = msgspec.structs.replace(server.answers.built, python_version="3.9.1")
    app = jitney.App()
    app.function()(square)
    with app.run():
        pass
    mine = ".".join(platform.python_version_tuple()[:2])
    (note,) = events.notes
    assert note.startswith(f"square runs with Python {mine} here and 3.9 in the image: arguments that only cloudpickle")
    app.function(serialized=True, name="sent")(count)
    with pytest.raises(VersionError, match=f"sent is sent pickled, and there is Python {mine} here and 3.9"), app.run():
        pass
    server.answers.built = msgspec.structs.replace(
        server.answers.built, python_version=platform.python_version(), cloudpickle_version="1.2.0"
    )
    with pytest.raises(VersionError, match=r"cloudpickle .* here and 1\.2\.0 in the image"), app.run():
        pass


# ------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be(server, in_container):
    app = jitney.App()
    app.function()(square)
    with pytest.raises(InvalidError, match="with parentheses"):
        app.function()(3)
    with pytest.raises(InvalidError, match=r"methods: @app.cls"):
        app.function()(jitney.method()(square))
    with pytest.raises(InvalidError, match="needs a name"):
        app.deploy()
    with pytest.raises(InvalidError, match="has no functions"):
        jitney.App("x").deploy()
    with pytest.raises(UnsupportedError, match="interactive"):
        app.run(interactive=True)
    with pytest.raises(UnsupportedError, match="name and tag"):
        app.deploy("x", strategy="recreate")
    with pytest.raises(InvalidError, match="no secret"):
        jitney.App(secrets=["s"])
    assert jitney.App(secrets=[], volumes={}).name is None
    with app.run():
        with pytest.raises(InvalidError, match="runs already"), app.run():
            pass
        with pytest.raises(UnsupportedError, match="set them before"):
            app.set_tags({})
    app.set_tags({"a": "b"})
    assert app.get_tags() == {"a": "b"}
    in_container("ap-x")
    with pytest.raises(InvalidError, match="__main__"), app.run():
        pass


def test_no_server(home):
    app = jitney.App()
    app.function()(square)
    with pytest.raises(ConnectionError, match="jitney up"), app.run():
        pass


def test_results_of_classes_of_a_script(server, monkeypatch, tmp_path):
    script = types.ModuleType("__main__")
    script.__file__ = str(tmp_path / "my_script.py")
    (tmp_path / "my_script.py").write_text("def f(): ...\n")
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec("def f(x):\n    return x\n", script.__dict__)
    app = jitney.App()
    f = app.function()(script.f)
    with app.run():
        assert f.remote(3) == 3
        assert sys.modules["my_script"] is script
    spec = server.answers.published[0].functions[0]
    assert (spec.module, spec.qualname, spec.main_module) == ("my_script", "f", True)
    monkeypatch.delitem(sys.modules, "my_script")
