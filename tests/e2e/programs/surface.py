"""One function of every kind, as users write them."""

import asyncio
import os
import threading
import time
from pathlib import Path

import jitney

app = jitney.App("surface", tags={"team": "tests"})


@app.function()
def square(x: int) -> int:
    return x * x


@app.function()
async def asquare(x: int) -> int:
    await asyncio.sleep(0)
    return x * x


@app.function()
def count(n: int):
    for i in range(n):
        yield i


@app.function()
async def acount(n: int):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function()
def broken_count(n: int):
    yield from range(n)
    raise KeyError("no more")


@app.function(max_containers=2)
def uneven(x: int) -> int:
    time.sleep(0.2 if x == 0 else 0.0)
    return x


@app.function()
def odd_only(x: int) -> int:
    if x % 2 == 0:
        raise ValueError(f"{x} is even")
    return x


@app.function()
def add(a: int, b: int = 10, *, c: int = 100) -> int:
    return a + b + c


@app.function()
def note(folder: str, name: str) -> None:
    Path(folder, name).touch()


@app.function()
def who() -> dict:
    return {
        "is_local": jitney.is_local(),
        "input": jitney.current_input_id(),
        "call": jitney.current_function_call_id(),
        "pid": os.getpid(),
        "cwd": os.getcwd(),
    }


@app.function(env={"GREETING": "hello"})
def variable(name: str) -> str | None:
    return os.environ.get(name)


@app.function(single_use_containers=True)
def one_shot() -> int:
    return os.getpid()


@app.function()
def sum_of_squares(n: int) -> int:
    return sum(square.map(range(n))) + square.remote(n)


@app.function()
async def asum_of_squares(n: int) -> int:
    return await asquare.remote.aio(n) + sum([x async for x in square.map.aio(range(n))])


_meeting = threading.Barrier(4)


@app.function(max_containers=1)
@jitney.concurrent(max_inputs=4)
def meet(x: int) -> int:
    _meeting.wait(10)  # all four have to be here at the same time
    return x


_arrived = []


@app.function(max_containers=1)
@jitney.concurrent(max_inputs=4)
async def ameet(x: int) -> int:
    _arrived.append(x)
    while len(_arrived) < 4:
        await asyncio.sleep(0.001)
    return x


@app.function(max_containers=1)
@jitney.batched(max_batch_size=4, wait_ms=300)
def batch(xs: list[int]) -> list[tuple[int, int]]:
    return [(x, len(xs)) for x in xs]


@app.function()
def echo(value):
    return value


_failed_once = []


@app.function(max_containers=1, retries=jitney.Retries(max_retries=2, initial_delay=0.0))
def second_time_lucky(x: int) -> int:
    if x not in _failed_once:
        _failed_once.append(x)
        raise RuntimeError("not yet")
    return x


class Point:
    """A class of the user's own, which travels both ways."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None


class Refusal(Exception):
    """An exception of the user's own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@app.function()
def moved(point: Point) -> Point:
    return Point(point.x + 1)


@app.function()
def refuse(code: int) -> None:
    raise Refusal(code)


@app.cls()
class Counter:
    start: int = jitney.parameter(default=0)
    folder: str = jitney.parameter(default="")

    @jitney.enter()
    def begin(self) -> None:
        self.value = self.start
        self.entered = 1

    @jitney.method()
    def add(self, x: int) -> int:
        self.value += x
        return self.value

    @jitney.method()
    def pid(self) -> int:
        return os.getpid()

    @jitney.method()
    def steps(self, n: int):
        for _ in range(n):
            self.value += 1
            yield self.value

    @jitney.method()
    def plus_square(self, x: int) -> int:
        return self.value + square.remote(x)

    @jitney.exit()
    def finish(self) -> None:
        if self.folder:
            Path(self.folder, "exited").write_text(str(self.value))


@app.cls(max_containers=1)
@jitney.concurrent(max_inputs=10)
class Waiter:
    """Two methods that can only end together."""

    @jitney.enter()
    async def begin(self) -> None:
        self.said = asyncio.Event()

    @jitney.method()
    async def wait(self) -> str:
        await self.said.wait()
        return "heard"

    @jitney.method()
    async def say(self) -> None:
        self.said.set()
