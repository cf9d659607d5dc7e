"""What type checkers see of classes. Checked by test_types.py; not run."""

from collections.abc import Generator, Iterator
from typing import Any, assert_type

import jitney

app = jitney.App("types")


@app.cls(timeout=60)
@jitney.concurrent(max_inputs=3)
class Model:
    size: str = jitney.parameter(default="small")
    layers: int = jitney.parameter()

    @jitney.enter()
    def load(self) -> None:
        self.weights = [0.0] * self.layers

    @jitney.method()
    def predict(self, text: str) -> float:
        return self.weights[0] + len(text)

    @jitney.method()
    async def later(self, text: str) -> bytes:
        return text.encode()

    @jitney.method()
    def letters(self, text: str) -> Iterator[str]:
        yield from text

    @jitney.exit()
    def close(self) -> None:
        self.weights.clear()


@app.cls()
class Batched:
    @jitney.batched(max_batch_size=10, wait_ms=5)
    def double(self, values: list[int]) -> list[str]:
        return [str(value) for value in values]


def calls() -> None:
    # mypy does not apply `dataclass_transform` to decorators that are methods, so it does not know the constructor.
    model = Model(size="large", layers=3)  # type: ignore[call-arg]
    assert_type(model.predict.remote("x"), float)
    assert_type(model.predict.local("x"), float)
    assert_type(model.later.remote("x"), bytes)
    assert_type(model.predict.map(["a"]), Generator[float, None, None])
    assert_type(model.predict.spawn("x").get(), float)
    assert_type(Batched().double.remote(3), str)
    for letter in model.letters.remote_gen("abc"):
        assert_type(letter, str)

    model.predict.remote(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Model(size=3, layers=3)  # type: ignore[call-arg]  # pyright: ignore[reportArgumentType]
    Batched().double.remote([3])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def in_async_code() -> None:
    assert_type(await Model(layers=1).predict.remote.aio("x"), float)  # type: ignore[call-arg]


def by_name() -> None:
    assert_type(jitney.Cls.from_name("app", "Model"), jitney.Cls[..., Any])
