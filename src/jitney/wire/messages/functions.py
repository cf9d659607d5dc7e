"""Functions: look up, bind options and parameters, statistics, autoscaler."""

from __future__ import annotations

import msgspec

from jitney.values.functions import MethodSpec, Overrides
from jitney.values.secrets import discreet


class FunctionGet(msgspec.Struct, frozen=True, kw_only=True):
    """A function by name in an app (id or deployed name)."""

    app: str
    name: str


class FunctionInfo(msgspec.Struct, frozen=True, kw_only=True):
    function_id: str
    app_id: str
    name: str
    is_class: bool = False
    methods: tuple[MethodSpec, ...] = ()
    python_version: str = ""  # "3.11.7": of the image
    cloudpickle_version: str = ""
    scope: str = ""  # of its large values in shared memory (runner.segments)


class FunctionBind(msgspec.Struct, frozen=True, kw_only=True):
    """The same function with other options or class parameters: a pool of its own. Equal binds give the same id.

    `secrets`: as in `app.publish`.
    """

    function_id: str
    overrides: Overrides = Overrides()
    secrets: dict[str, dict[str, str]] = {}

    def __repr__(self) -> str:
        return discreet(self)


class FunctionRef(msgspec.Struct, frozen=True, kw_only=True):
    function_id: str


class FunctionStats(msgspec.Struct, frozen=True, kw_only=True):
    """Modal's `FunctionStats` and what is behind it."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int = 0


class AutoscalerUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Live change of a pool's bounds; None leaves it. Reset by the next deploy."""

    function_id: str
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_ms: int | None = None
