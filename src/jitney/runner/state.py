"""What the code of this process may ask about where it runs: set by the runner, read by the SDK.

Outside a container everything here is empty.
"""

from __future__ import annotations

import contextvars
from typing import Any


class InputCancellation(BaseException):
    """Raised inside a running function when its call is cancelled.

    A `BaseException`, so that `except Exception` in user code does not swallow it. Code that must clean up uses
    `try`/`finally`.
    """


config: dict[str, Any] | None = None  # Launch.config of this container; None outside one
private: tuple[str, ...] = ()  # names of variables that came from secrets
current: contextvars.ContextVar[tuple[str, int, int] | None] = contextvars.ContextVar("jitney_input", default=None)
"""(call id, index, attempt) of the input that this thread or task works on."""


def is_local() -> bool:
    """Whether this code runs outside a container."""
    return config is None


def current_function_call_id() -> str | None:
    """The id ('fc-...') of the call whose input this code works on; None outside one."""
    call = current.get()
    return call[0] if call else None


def current_input_id() -> str | None:
    """The id ('in-...') of the input that this code works on; None outside one."""
    call = current.get()
    return f"in-{call[0][3:]}-{call[1]}" if call else None
