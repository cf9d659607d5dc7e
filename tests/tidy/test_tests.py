"""Tests wait on events or on a virtual clock, never on time; they use fakes, not mocks."""

import ast

# A line that must take time says why: time.sleep(60)  # sleep: user code that outlives its timeout
REASON = "# sleep: "


def _sleeps(name: str, call: ast.Call) -> bool:
    if name == "time.sleep":
        return True
    if name not in {"asyncio.sleep", "anyio.sleep"} or not call.args:
        return False
    delay = call.args[0]
    return isinstance(delay, ast.Constant) and isinstance(delay.value, int | float) and delay.value > 0


def test_tests_do_not_sleep(tests):
    assert not [
        f"{source.name}:{call.lineno}: {name}: wait for an event, or say why with {REASON!r}"
        for source in tests
        for name, call in source.calls()
        if _sleeps(name, call) and REASON not in source.lines[call.lineno - 1]
    ]


def test_fakes_not_mocks(tests):
    assert not [
        f"{source.name}:{line}: {name}"
        for source in tests
        for name, line in source.imports()
        if name.startswith(("unittest.mock", "mock.", "pytest_mock")) or name == "mock"
    ]
