"""Functions of every kind, called in every way, on a real platform."""

import asyncio
import os
import threading

import pytest

import jitney
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "surface.py"


# ---------------------------------------------------------------------------------------------------- kinds


def test_sync_and_async_functions_answer_a_blocking_caller(program):
    assert program.square.remote(3) == 9
    assert program.asquare.remote(4) == 16


def test_sync_and_async_functions_answer_an_async_caller(program):
    async def both():
        return await asyncio.gather(program.square.remote.aio(3), program.asquare.remote.aio(4))

    assert asyncio.run(both()) == [9, 16]


@pytest.mark.parametrize("name", ["count", "acount"])
def test_generators_stream_to_either_kind_of_caller(program, name):
    function = getattr(program, name)

    async def collect():
        return [item async for item in function.remote_gen.aio(5)]

    assert list(function.remote_gen(5)) == list(range(5))
    assert asyncio.run(collect()) == list(range(5))
    assert list(function.remote_gen(0)) == []


def test_a_generator_that_is_left_early_stops_and_frees_its_container(program):
    items = program.count.remote_gen(10**9)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    eventually(lambda: program.count.get_current_stats().num_running_inputs == 0)
    assert list(program.count.remote_gen(2)) == [0, 1]


def test_a_long_generator_arrives_whole_and_in_order(program):
    assert list(program.count.remote_gen(20_000)) == list(range(20_000))


def test_a_generator_that_raises_gives_its_items_first(program):
    items = program.broken_count.remote_gen(3)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="no more"):
        next(items)


def test_local_runs_here(program):
    assert program.square.local(5) == 25
    assert list(program.count.local(2)) == [0, 1]
    assert asyncio.run(program.asquare.local(5)) == 25


def test_default_and_keyword_arguments(program):
    assert program.add.remote(1) == 111
    assert program.add.remote(1, b=2, c=3) == 6


def test_what_a_function_knows_of_its_call(program):
    found = program.who.remote()
    assert not found["is_local"]
    assert found["call"].startswith("fc-")
    assert found["input"].startswith("in-")
    assert found["pid"] != os.getpid()
    assert jitney.is_local()
    assert jitney.current_input_id() is None


def test_values_and_exceptions_of_the_users_classes_arrive_as_themselves(program):
    assert program.moved.remote(program.Point(1)) == program.Point(2)
    with pytest.raises(program.Refusal) as caught:
        program.refuse.remote(7)
    assert caught.value.code == 7
    assert "in refuse" in str(caught.value.__cause__)


@pytest.mark.parametrize("size", [0, 1_000, 300_000, 40_000_000])
def test_values_of_any_size_travel_both_ways(program, size):
    value = os.urandom(1_000) * (size // 1_000)
    assert program.echo.remote(value) == value
    assert next(program.echo.map([value])) == value


def test_large_values_go_through_shared_memory_and_leave_none_behind(program, sdk):
    values = [bytes([n]) * 1_000_000 for n in range(8)]
    assert list(program.echo.map(values)) == values
    assert list(sdk.home.segments.glob("*/free/*")), "they went another way"
    assert not list(sdk.home.segments.glob("*/used/*"))
    assert not list(sdk.home.blobs.iterdir())


# ---------------------------------------------------------------------------------------------------- from inside


def test_a_remote_function_calls_another(program):
    assert program.sum_of_squares.remote(5) == sum(x * x for x in range(6))
    assert program.asum_of_squares.remote(5) == sum(x * x for x in range(6))


# ---------------------------------------------------------------------------------------------------- options


def test_concurrent_threads_overlap_in_one_container(program):
    assert sorted(program.meet.map(range(4))) == [0, 1, 2, 3]


def test_concurrent_async_inputs_overlap_in_one_container(program):
    assert sorted(program.ameet.map(range(4))) == [0, 1, 2, 3]


def test_batched_inputs_arrive_in_lists_and_leave_as_values(program):
    results = list(program.batch.map(range(8)))
    assert [x for x, _ in results] == list(range(8))
    assert max(size for _, size in results) == 4
    assert program.batch.remote(1) == (1, 1)


def test_with_options_has_a_pool_of_its_own(program):
    variant = program.variable.with_options(env={"GREETING": "good evening"}, max_containers=1)
    assert program.variable.remote("GREETING") == "hello"
    assert variant.remote("GREETING") == "good evening"
    plain = program.who.remote()["pid"]
    assert program.who.with_options(timeout=20).remote()["pid"] != plain


def test_single_use_containers_are_never_used_again(program):
    pids = [program.one_shot.remote() for _ in range(3)]
    assert len(set(pids)) == 3


def test_retries_run_a_failed_input_again(program):
    assert program.second_time_lucky.remote(1) == 1
    assert list(program.second_time_lucky.map(range(10, 14))) == list(range(10, 14))


def test_stats_and_the_autoscaler_of_a_running_function(program):
    program.who.remote()
    assert program.who.get_current_stats().num_total_runners >= 1
    variant = program.who.with_options(scaledown_window=60)
    variant.hydrate()
    assert variant.get_current_stats().num_total_runners == 0
    variant.update_autoscaler(min_containers=2)
    eventually(lambda: variant.get_current_stats().num_total_runners == 2, why="two containers without any input")


def test_many_threads_of_one_client_call_at_once(program):
    results = {}

    def call(n):
        results[n] = program.square.remote(n)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n * n for n in range(20)}


def test_tags_and_state_of_the_app(program):
    assert program.app.app_id
    assert program.app.get_tags() == {"team": "tests"}


# ---------------------------------------------------------------------------------------------------- code that travels


def test_a_serialized_function_needs_no_file(sdk):
    app = jitney.App("pickled")
    offset = 1000

    @app.function(serialized=True)
    def shifted(x):
        return x + offset

    with app.run():
        assert shifted.remote(1) == 1001
        assert list(shifted.map(range(3))) == [1000, 1001, 1002]


def test_a_program_for_another_library_runs_with_one_import_changed(sdk):
    sdk.write(
        "ported.py",
        """
        import jitney as modal

        app = modal.App("ported")
        image = modal.Image.debian_slim().env({"WHO": "world"})

        @app.function(image=image, timeout=60, retries=modal.Retries(max_retries=1))
        def greet(word: str) -> str:
            import os
            return f"{word}, {os.environ['WHO']}"

        @app.cls(image=image)
        class Model:
            size: str = modal.parameter(default="small")

            @modal.enter()
            def load(self):
                self.words = {"small": 1}

            @modal.method()
            def predict(self, text: str) -> int:
                return self.words[self.size] + len(text)

        @app.function()
        @modal.concurrent(max_inputs=10)
        async def twice(x: int) -> int:
            return 2 * x

        @app.local_entrypoint()
        def main(word: str = "hello"):
            print(greet.remote(word))
            print(Model().predict.remote("four"))
            print(sorted(twice.map(range(3))))
            call = twice.spawn(21)
            print(modal.FunctionCall.from_id(call.object_id).get(timeout=20))
            try:
                greet.remote(1, 2, 3)
            except TypeError:
                print("as itself")
        """,
    )
    done = sdk.jitney("run", "-q", "ported.py", "--word", "goodbye")
    assert done.lines == ["goodbye, world", "5", "[0, 2, 4]", "42", "as itself"]
