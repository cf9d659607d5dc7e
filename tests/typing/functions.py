"""What type checkers see of functions. Checked by test_types.py; not run."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, assert_type

import jitney

app = jitney.App("types", image=jitney.Image.debian_slim())


@app.function(timeout=60, retries=jitney.Retries(max_retries=2), cpu=(1.0, 2.0))
def square(x: int, *, by: float = 1.0) -> float:
    return x * x * by


@app.function()
async def later(text: str) -> bytes:
    return text.encode()


@app.function()
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function()
async def acount(n: int) -> AsyncIterator[str]:
    yield str(n)


@app.function()
def generated(n: int) -> Generator[int, None, None]:
    yield n


@app.function()
@jitney.concurrent(max_inputs=10)
def many(x: int) -> str:
    return str(x)


@app.function()
@jitney.batched(max_batch_size=10, wait_ms=5)
def doubled(values: list[int]) -> list[str]:
    return [str(2 * value) for value in values]


@app.function()
@jitney.batched(max_batch_size=10, wait_ms=5)
async def joined(left: list[int], right: list[str]) -> list[bytes]:
    return [b"" for _ in zip(left, right, strict=True)]


@app.local_entrypoint()
def main(path: str = "x") -> int:
    return len(path)


def calls() -> None:
    assert_type(square.remote(3), float)
    assert_type(square.remote(3, by=2.0), float)
    assert_type(square.local(3), float)
    assert_type(later.remote("x"), bytes)
    coroutine = assert_type(later.local("x"), Coroutine[Any, Any, bytes])
    coroutine.close()
    assert_type(square.spawn(3), jitney.FunctionCall[float])
    assert_type(square.spawn(3).get(timeout=5), float)
    assert_type(square.spawn(3).num_inputs(), int)
    assert_type(jitney.FunctionCall.gather(square.spawn(1), square.spawn(2)), list[float])
    assert_type(many.remote(3), str)
    assert_type(doubled.remote(3), str)
    assert_type(joined.remote(1, "x"), bytes)
    assert_type(main("y"), int)
    assert_type(square.get_raw_f()(3), float)
    assert_type(square.get_current_stats().backlog, int)
    square.update_autoscaler(min_containers=1)

    square.remote("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    square.remote()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    square.remote(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    square.spawn("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    square.local("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    doubled.remote([3])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    main(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def iteration() -> None:
    assert_type(square.map([1, 2]), Generator[float, None, None])
    assert_type(square.map([1, 2], return_exceptions=True), Generator[float | Exception, None, None])
    assert_type(later.map(["a"], order_outputs=False), Generator[bytes, None, None])
    assert_type(square.starmap([(1,), (2,)]), Generator[float, None, None])
    square.for_each([1, 2], ignore_exceptions=True)
    assert_type(square.spawn_map([1, 2]), jitney.FunctionCall[float])
    for value in square.spawn_map([1]).iter(0, 5):
        assert_type(value, float)
    for item in count.remote_gen(3):
        assert_type(item, int)
    for text in acount.remote_gen(3):
        assert_type(text, str)
    for number in generated.remote_gen(3):
        assert_type(number, int)

    square.map(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    count.remote_gen("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def in_async_code() -> None:
    assert_type(await square.remote.aio(3), float)
    assert_type(await later.remote.aio("x"), bytes)
    assert_type(await square.spawn.aio(3), jitney.FunctionCall[float])
    assert_type(await (await square.spawn.aio(3)).get.aio(), float)
    assert_type(square.map.aio([1]), AsyncGenerator[float, None])
    async for item in count.remote_gen.aio(3):
        assert_type(item, int)
    async with app.run() as running:
        assert_type(running, jitney.App)

    await square.remote.aio("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def variants_and_lookups() -> None:
    assert_type(square.with_options(timeout=5, max_containers=2).remote(3), float)
    assert_type(square.with_concurrency(max_inputs=5).remote(3), float)
    found = jitney.Function.from_name("app", "name")
    assert_type(found, jitney.Function[..., Any, Any])
    found.remote(1, "two", three=3)
    with app.run(detach=True) as running:
        assert_type(running, jitney.App)
    assert_type(app.deploy("x").version, int)

    square.with_options(time=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def decorators(f: Callable[[int], str]) -> None:
    app.function(timeut=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.function(timeout="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(app.function(image=jitney.Image.debian_slim())(f).remote(3), str)
