"""Jitney: open, self-hosted serverless compute for AI.

    import jitney

    app = jitney.App("example")

    @app.function()
    def square(x: int) -> int:
        return x * x

    @app.local_entrypoint()
    def main() -> None:
        print(sum(square.map(range(100))))

Names are loaded when they are first used: `import jitney` costs about a millisecond.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jitney import errors as exception
    from jitney.client.app import App as App
    from jitney.client.buckets import CloudBucketMount as CloudBucketMount
    from jitney.client.calls import FunctionCall as FunctionCall
    from jitney.client.cls import Cls as Cls
    from jitney.client.dicts import Dict as Dict
    from jitney.client.function import Function as Function
    from jitney.client.ignore import FilePatternMatcher as FilePatternMatcher
    from jitney.client.image import Image as Image
    from jitney.client.lifecycle import batched as batched
    from jitney.client.lifecycle import concurrent as concurrent
    from jitney.client.lifecycle import enter as enter
    from jitney.client.lifecycle import exit as exit
    from jitney.client.lifecycle import method as method
    from jitney.client.lifecycle import parameter as parameter
    from jitney.client.options import Retries as Retries
    from jitney.client.output import enable_output as enable_output
    from jitney.client.queues import Lease as Lease
    from jitney.client.queues import Queue as Queue
    from jitney.client.secret import Secret as Secret
    from jitney.client.volume import Volume as Volume
    from jitney.errors import JitneyError as Error
    from jitney.runner.state import InputCancellation as InputCancellation
    from jitney.runner.state import current_function_call_id as current_function_call_id
    from jitney.runner.state import current_input_id as current_input_id
    from jitney.runner.state import is_local as is_local

_WHERE = {
    "App": "jitney.client.app",
    "CloudBucketMount": "jitney.client.buckets",
    "Cls": "jitney.client.cls",
    "Dict": "jitney.client.dicts",
    "Error": "jitney.errors:JitneyError",
    "FilePatternMatcher": "jitney.client.ignore",
    "Function": "jitney.client.function",
    "FunctionCall": "jitney.client.calls",
    "Image": "jitney.client.image",
    "InputCancellation": "jitney.runner.state",
    "Lease": "jitney.client.queues",
    "Queue": "jitney.client.queues",
    "Retries": "jitney.client.options",
    "Secret": "jitney.client.secret",
    "Volume": "jitney.client.volume",
    "batched": "jitney.client.lifecycle",
    "concurrent": "jitney.client.lifecycle",
    "current_function_call_id": "jitney.runner.state",
    "current_input_id": "jitney.runner.state",
    "enable_output": "jitney.client.output",
    "enter": "jitney.client.lifecycle",
    "exception": "jitney.errors:",
    "exit": "jitney.client.lifecycle",
    "is_local": "jitney.runner.state",
    "method": "jitney.client.lifecycle",
    "parameter": "jitney.client.lifecycle",
}

__all__ = [
    "App",
    "CloudBucketMount",
    "Cls",
    "Dict",
    "Error",
    "FilePatternMatcher",
    "Function",
    "FunctionCall",
    "Image",
    "InputCancellation",
    "Lease",
    "Queue",
    "Retries",
    "Secret",
    "Volume",
    "batched",
    "concurrent",
    "current_function_call_id",
    "current_input_id",
    "enable_output",
    "enter",
    "exception",
    "exit",
    "is_local",
    "method",
    "parameter",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'jitney' has no {name!r}{_near(name)}")
    module, separator, attribute = where.partition(":")
    found = importlib.import_module(module)
    value = found if separator and not attribute else getattr(found, attribute or name)
    globals()[name] = value
    return value


def _near(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, __all__, n=1)
    return f": did you mean {close[0]!r}?" if close else " in this version"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
