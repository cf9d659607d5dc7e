"""Options: names, units, defaults, and what is refused in which words."""

import inspect

import pytest

import jitney
from jitney.client import output
from jitney.client.options import DEFAULTS, REASONS, ClsOptions, FunctionOptions, VariantOptions, declared, overrides
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.apps import RunSummary
from jitney.values.containers import LogLine
from jitney.values.functions import Resources, RetryPolicy


def of(**given):
    return declared(FunctionOptions, "@app.function", given)


def test_defaults_are_those_of_the_vocabulary():
    found = of()
    assert (found.timeout_ms, found.startup_timeout_ms) == (300_000, 300_000)
    assert found.scaling.scaledown_window_ms == 60_000
    assert (found.scaling.min_containers, found.scaling.max_containers) == (0, None)
    assert found.resources == Resources(cpu_milli=125, memory_mib=128)
    assert found.retries is None
    assert not found.single_use


def test_the_start_may_take_as_long_as_an_input():
    assert of(timeout=7).startup_timeout_ms == 7_000
    assert of(timeout=7, startup_timeout=9).startup_timeout_ms == 9_000


def test_retries():
    assert of(retries=2).retries == RetryPolicy(max_retries=2, backoff_coefficient=1.0, initial_delay_ms=1_000)
    policy = jitney.Retries(max_retries=2).policy
    assert policy == RetryPolicy(max_retries=2, backoff_coefficient=2.0, initial_delay_ms=1_000, max_delay_ms=60_000)
    assert of(retries=jitney.Retries(max_retries=2)).retries == policy
    for wrong in (
        {"max_retries": 11},
        {"max_retries": 1, "max_delay": 0.1},
        {"max_retries": 1, "backoff_coefficient": 0},
    ):
        with pytest.raises(InvalidError):
            jitney.Retries(**wrong)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_what_is_not_done_is_refused_by_name_and_passes_when_empty(name):
    assert of(**{name: None}) == of()
    assert of(**{name: []}) == of()
    with pytest.raises(UnsupportedError, match=rf"@app\.function\({name}=\.\.\.\) is not supported") as caught:
        of(**{name: "x"})
    assert caught.value.hint


@pytest.mark.parametrize(
    "given, words",
    [
        ({"timeut": 3}, r"has no option 'timeut': did you mean 'timeout'\?"),
        ({"keep_warm": 1}, "its name is now min_containers"),
        ({"concurrency_limit": 1}, "its name is now max_containers"),
        ({"allow_concurrent_inputs": 1}, r"@jitney\.concurrent"),
        ({"xyz": 1}, "it has retries, timeout"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not '5'"),
        ({"timeout": True}, "timeout must be a number"),
        ({"timeout": 0}, "timeout must be from 1 s to 24 h, not 0 s"),
        ({"min_containers": 1.5}, "min_containers must be a whole number"),
        ({"min_containers": 5, "max_containers": 2}, "above max_containers"),
        ({"scaledown_window": 1}, "scaledown_window"),
        ({"cpu": "2"}, r"cpu must be a number of cores, or \(request, limit\)"),
        ({"cpu": (2, 1)}, "cpu limit is below"),
        ({"memory": (1, 2, 3)}, "memory must be a number of MiB"),
        ({"memory": 0}, "above zero"),
        ({"env": {"A": 1}}, "'A' is 1"),
        ({"name": ""}, "a text that is not empty"),
        ({"image": "debian"}, r"must be a jitney\.Image"),
        ({"retries": "2"}, "retries must be a whole number"),
    ],
)
def test_wrong_options_say_what_is_right(given, words):
    with pytest.raises(InvalidError, match=words):
        of(**given)


def test_classes_have_no_name_and_no_schedule():
    with pytest.raises(InvalidError, match=r"@app\.cls has no option 'name'"):
        declared(ClsOptions, "@app.cls", {"name": "x"})
    with pytest.raises(InvalidError, match=r"@app\.cls has no option 'schedule'"):
        declared(ClsOptions, "@app.cls", {"schedule": "x"})


def test_overrides_change_what_is_given_only():
    found = overrides({"cpu": 2}, Resources(memory_mib=4096))
    assert found.resources == Resources(cpu_milli=2_000, memory_mib=4096)
    assert (found.timeout_ms, found.env, found.min_containers, found.retries) == (None, None, None, None)
    assert overrides({}).resources is None
    with pytest.raises(InvalidError, match=r"\.with_options has no option 'image'"):
        overrides({"image": None, "timeout": 5} | {"image": 1})
    with pytest.raises(UnsupportedError, match=r"\.with_options\(gpu="):
        overrides({"gpu": "H100"})


def test_help_shows_all_options_with_their_defaults():
    shown = inspect.signature(jitney.App().function).parameters
    assert set(shown) == set(FunctionOptions.__annotations__) - set(REASONS)
    assert shown["timeout"].default == DEFAULTS["timeout"] == 300
    assert all(one.kind is one.KEYWORD_ONLY for one in shown.values())
    assert set(VariantOptions.__annotations__) - set(REASONS) <= set(shown)


def test_marks():
    with pytest.raises(InvalidError, match="max_inputs must be a whole number"):
        jitney.concurrent(max_inputs="3")
    with pytest.raises(InvalidError, match="target_inputs must be from 1 to 5"):
        jitney.concurrent(max_inputs=5, target_inputs=9)
    with pytest.raises(InvalidError, match="max_batch_size must be from 1 to 1,000"):
        jitney.batched(max_batch_size=5_000, wait_ms=1)
    with pytest.raises(InvalidError, match="wait_ms must be a whole number"):
        jitney.batched(max_batch_size=5, wait_ms=1.5)
    with pytest.raises(InvalidError, match="goes on a function or class"):
        jitney.concurrent(max_inputs=2)(3)
    with pytest.raises(InvalidError, match="goes on a function or method"):
        jitney.batched(max_batch_size=2, wait_ms=1)(3)


def test_plain_lines(capsys):
    with jitney.enable_output():
        lines = output.current()
        lines.app_created("ap-1", "demo")
        lines.image_step("im-1", 1, 2, "base")
        lines.image_line("im-1", "text")
        lines.image_built("im-1", False, 1_500)
        lines.image_built("im-1", True, 0)
        lines.source_shipped(1, 2)
        lines.published("ap-1", {})
        lines.map_progress("f", 1, 0, 1, None)
        lines.log(LogLine(0, "ta-1", 1, "printed"))
        lines.summary("ap-1", RunSummary(inputs=3, failed=1, containers=2, wall_ms=2_000))
    assert not isinstance(output.current(), output.Lines)
    out, err = capsys.readouterr()
    assert out == "printed\n"
    assert err.splitlines() == [
        "jitney: app demo created",
        "jitney: image im-1: step 1 of 2: base",
        "jitney:   text",
        "jitney: image im-1 built in 1.5 s",
        "jitney: app ap-1 ended: 3 inputs, 1 failed, 2 containers, 2.0 s",
    ]


def test_quiet_shows_what_was_printed_only(capsys):
    quiet = output.Quiet()
    quiet.app_created("ap-1", "demo")
    quiet.image_step("im-1", 1, 2, "base")
    quiet.image_line("im-1", "text")
    quiet.image_built("im-1", False, 1)
    quiet.source_shipped(1, 2)
    quiet.published("ap-1", {})
    quiet.map_progress("f", 1, 0, 1, None)
    quiet.summary("ap-1", RunSummary())
    assert capsys.readouterr() == ("", "")
