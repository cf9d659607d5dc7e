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
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy


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
        ({"cpu": -1}, "above zero"),
        ({"cpu": float("nan")}, "a number of cores that a machine can have"),
        ({"memory": 1e12}, "a number of MiB that a machine can have"),
        ({"memory": (512, 256)}, "memory limit is below"),
        ({"ephemeral_disk": 0}, r"ephemeral_disk \(MiB\) must be from 1 to"),
        ({"ephemeral_disk": -5}, r"ephemeral_disk \(MiB\) must be from 1 to"),
        ({"ephemeral_disk": 4 * 1024 * 1024}, r"ephemeral_disk \(MiB\) must be from 1 to"),
        ({"ephemeral_disk": "1G"}, r"ephemeral_disk \(MiB\) must be a whole number"),
        ({"isolation": "vm"}, "isolation='vm' is no tier of isolation: there is 'process', 'oci', 'namespaces'"),
        ({"block_network": True, "outbound_cidr_allowlist": []}, "exclude each other"),
        ({"outbound_cidr_allowlist": ["10.0.0.0/33"]}, "outbound_cidr_allowlist"),
        ({"outbound_cidr_allowlist": "10.0.0.0/8"}, "is a list of texts"),
        ({"outbound_domain_allowlist": ["https://pypi.org"]}, "is not a domain"),
        ({"outbound_domain_allowlist": [5]}, "is a list of texts"),
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


def test_walls_are_part_of_the_declaration():
    found = of(isolation="namespaces", outbound_domain_allowlist=["pypi.org"], ephemeral_disk=2048, memory=(256, 512))
    assert found.isolation is Isolation.NAMESPACES
    assert found.network == NetworkPolicy(domains=("pypi.org",))
    assert found.resources == Resources(memory_mib=256, memory_limit_mib=512, ephemeral_disk_mib=2048)
    assert of(block_network=True).network == NetworkPolicy(blocked=True)
    assert (of().isolation, of().network.is_open, of().resources.ephemeral_disk_mib) == (None, True, None)
    assert overrides({"cpu": 2}, found.resources).resources.ephemeral_disk_mib == 2048
    for name in ("ephemeral_disk", "block_network", "isolation", "enable_memory_snapshot"):
        with pytest.raises(InvalidError, match=f"no option '{name}': it is part of the declaration"):
            overrides({name: 1})


def test_an_app_may_name_the_isolation_of_its_functions():
    app = jitney.App(isolation="namespaces")

    @app.function(serialized=True)
    def default():
        pass

    @app.function(serialized=True, isolation="gvisor")
    def own():
        pass

    @app.cls(serialized=True)
    class Model:
        @jitney.method()
        def run(self):
            pass

    tiers = {one.name: one.options.isolation for one in app._declared}
    assert tiers == {"default": Isolation.NAMESPACES, "own": Isolation.GVISOR, "Model": Isolation.NAMESPACES}
    with pytest.raises(InvalidError, match="no tier of isolation"):
        jitney.App(isolation="none")


def test_a_snapshot_is_taken_where_it_is_asked_for_and_there_is_something_to_run():
    class Snapped:
        @jitney.enter(snap=True)
        def load(self):
            pass

        @jitney.method()
        def run(self):
            pass

    class Plain:
        @jitney.enter()
        def load(self):
            pass

        @jitney.method()
        def run(self):
            pass

    app = jitney.App()
    app.cls(enable_memory_snapshot=True, serialized=True)(Snapped)
    app.cls(enable_memory_snapshot=True, serialized=True)(Plain)
    app.function(enable_memory_snapshot=True, serialized=True, name="f")(lambda: None)
    assert {one.name: one.has_snapshot for one in app._declared} == {"Snapped": True, "Plain": False, "f": False}
    app = jitney.App()
    app.cls(serialized=True)(Snapped)
    assert not app._declared[0].has_snapshot


def test_checkpoints_are_an_experiment():
    assert not of().checkpoint
    assert not of(experimental_options={}).checkpoint
    assert not of(experimental_options={"enable_checkpoint": False, "made_up": None}).checkpoint
    assert of(experimental_options={"enable_checkpoint": True}).checkpoint
    assert of(experimental_options={"enable_gpu_snapshot": True}).checkpoint
    with pytest.raises(UnsupportedError, match="'made_up'") as caught:
        of(experimental_options={"enable_checkpoint": True, "made_up": 1})
    assert "enable_checkpoint" in caught.value.hint
    with pytest.raises(InvalidError, match="must map names to values"):
        of(experimental_options="enable_checkpoint")


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
