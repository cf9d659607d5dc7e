"""Values that cannot travel: a typed error that names them, and a container that goes on."""

import threading

import pytest

from jitney.errors import DeserializationError, RemoteError, SerializationError
from tests.e2e.platforms import eventually

pytestmark = pytest.mark.e2e
PROGRAM = "bad.py"


@pytest.fixture(autouse=True)
def goes_on(program):
    """Whatever was refused, the next call of the same function works."""
    yield
    assert program.anything.remote(5) == 5


def test_an_argument_that_does_not_pickle_is_named(program):
    with pytest.raises(SerializationError, match=r"argument 'other' of anything: .*lock"):
        program.anything.remote(1, threading.Lock())
    with pytest.raises(SerializationError, match="argument 'value' of anything"):
        list(program.anything.map([threading.Lock()]))
    with pytest.raises(SerializationError, match="argument 'value' of anything"):
        program.anything.spawn(threading.Lock())
    with pytest.raises(SerializationError, match="spiky things do not travel"):
        program.anything.remote(program.Spiky())


def test_an_argument_that_is_too_deep_is_refused(program):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="anything"):
        program.anything.remote(deep)


@pytest.mark.parametrize("position", [0, 2, 999])
def test_one_bad_input_ends_its_map_and_frees_the_containers(program, position):
    inputs = [threading.Lock() if n == position else n for n in range(1_000)]
    with pytest.raises(SerializationError, match="'value' of anything"):
        list(program.anything.map(inputs))
    eventually(lambda: program.anything.get_current_stats().num_running_inputs == 0, 5)


@pytest.mark.parametrize(
    "kind, words", [("spiky", "spiky things do not travel"), ("lock", "lock"), ("deep", "nested too deeply")]
)
def test_a_result_that_does_not_pickle_is_named(program, kind, words):
    with pytest.raises(SerializationError, match=f"(?i){words}"):
        program.make.remote(kind)
    with pytest.raises(SerializationError, match=f"(?i){words}"):
        program.make.spawn(kind).get(timeout=20)
    assert program.make.remote("lambda")(1) == 2


def test_a_result_that_cannot_be_read_here_is_named(program):
    with pytest.raises(DeserializationError, match="boom on arrival"):
        program.make.remote("one way")


def test_an_item_that_does_not_pickle_ends_its_generator(program):
    items = program.make_items.remote_gen()
    assert next(items) == 1
    with pytest.raises(SerializationError, match="lock"):
        next(items)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("particular", "Particular: 3: because"),
        ("carrier", "Carrier: with luggage"),
        ("huge", "ValueError: xxx"),
    ],
)
def test_an_exception_that_cannot_be_rebuilt_arrives_as_text(program, kind, words):
    with pytest.raises(RemoteError, match=words) as caught:
        program.fail.remote(kind)
    assert len(str(caught.value)) < 100_000
    assert "in fail" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "kind, type_name",
    [("local", "Hidden"), ("recursion", "RecursionError"), ("group", "ExceptionGroup")],
)
def test_exceptions_that_can_be_rebuilt_are(program, kind, type_name):
    with pytest.raises(Exception, match=r"^") as caught:
        program.fail.remote(kind)
    assert type(caught.value).__name__ == type_name


def test_an_exception_that_cannot_say_what_it_is_arrives_all_the_same(program):
    with pytest.raises(program.Mute):
        program.fail.remote("mute")


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
def test_leaving_by_an_exception_ends_the_input_and_not_the_caller(program, kind):
    with pytest.raises(RemoteError, match=r"SystemExit: 3|KeyboardInterrupt"):
        program.fail.remote(kind)
    assert program.fine.remote(2) == 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_gibibyte_as_argument_works_in_bounded_memory(program, sdk):
    sdk.write(
        "gibibyte.py",
        """
        import resource
        import jitney

        app = jitney.App("gibibyte")

        @app.function()
        def size(value):
            return len(value)

        @app.local_entrypoint()
        def main():
            value = bytes(1 << 30)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(size.remote(value))
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """,
    )
    done = sdk.jitney("run", "-q", "gibibyte.py", timeout=150)
    assert done.lines[0] == str(1 << 30)
    assert int(done.lines[1]) < 1_500, "MiB more in the client: one copy, in shared memory"
