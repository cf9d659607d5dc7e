"""The smallest app: one function, run in a container, from this process, in a map, and as a stream.

jitney run examples/hello.py
jitney run examples/hello.py --name Ada --count 1000
"""

from __future__ import annotations

from collections.abc import Iterator

import jitney

app = jitney.App("hello")


@app.function()
def square(x: int) -> int:
    print(f"squaring {x}")
    return x * x


@app.function()
def letters(word: str) -> Iterator[str]:
    yield from word


@app.local_entrypoint()
def main(name: str = "world", count: int = 20) -> None:
    print(f"Hello, {'-'.join(letters.remote_gen(name))}!")
    print("3 squared, in a container:", square.remote(3))
    print(f"the sum of {count} squares:", sum(square.map(range(count))))
