"""The options of functions and classes: one list, shared by `@app.function`, `@app.cls` and `.with_options`.

Options arrive as keywords, are checked by name, and become the Structs of `values.functions`. Names, units (seconds,
cores, MiB) and defaults are those of the vocabulary that people know; inside, there are integers with units.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

import msgspec

from jitney.client.volume_mounts import Mounts
from jitney.client.volume_mounts import checked as volumes
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.functions import (
    DEFAULT_SCALEDOWN_WINDOW_MS,
    TIMEOUT_MS_MAX,
    TIMEOUT_MS_MIN,
    Batching,
    Concurrency,
    Overrides,
    Resources,
    RetryPolicy,
    Scaling,
)
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy

if TYPE_CHECKING:
    from jitney.client.buckets import CloudBucketMount
    from jitney.client.image import Image
    from jitney.client.secret import Secret
    from jitney.client.volume import Volume


F = TypeVar("F", bound=Callable[..., Any])


class Retries:
    """How often a failed input runs again, and after what delays.

    Args:
        max_retries: runs after the first, 0 to 10.
        backoff_coefficient: what each delay is multiplied by to get the next, 1.0 to 10.0.
        initial_delay: seconds before the first retry, 0 to 60.
        max_delay: seconds that no delay goes beyond, 1 to 60.

    Raises:
        InvalidError: a value is out of its range.
    """

    def __init__(
        self,
        *,
        max_retries: int,
        backoff_coefficient: float = 2.0,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
    ) -> None:
        _need_int("max_retries", max_retries)
        self.policy = RetryPolicy(
            max_retries=max_retries,
            backoff_coefficient=float(backoff_coefficient),
            initial_delay_ms=_ms("initial_delay", initial_delay),
            max_delay_ms=_ms("max_delay", max_delay),
        )

    def __repr__(self) -> str:
        return f"Retries({self.policy})"


class _Variable(TypedDict, total=False):
    """What `.with_options` may change too."""

    retries: int | Retries | None
    timeout: float
    min_containers: int | None
    max_containers: int | None
    buffer_containers: int | None
    scaledown_window: float | None
    cpu: float | tuple[float, float] | None
    memory: int | tuple[int, int] | None
    env: Mapping[str, str | None] | None
    secrets: Sequence[Secret] | None
    volumes: Mapping[str, Volume | CloudBucketMount] | None


class _Unsupported(TypedDict, total=False):
    """Options of the vocabulary that this version does not do: None, False and empty values pass."""

    gpu: Any
    network_file_systems: Any
    cloud: Any
    region: Any
    routing_region: Any
    nonpreemptible: Any
    proxy: Any
    restrict_modal_access: Any
    i6pn: Any


class _Declared(_Variable, _Unsupported, total=False):
    image: Image | None
    serialized: bool
    startup_timeout: float | None
    single_use_containers: bool
    ephemeral_disk: int | None
    enable_memory_snapshot: bool
    experimental_options: Mapping[str, Any] | None
    isolation: str | None
    block_network: bool
    outbound_cidr_allowlist: Sequence[str] | None
    outbound_domain_allowlist: Sequence[str] | None
    include_source: bool | None


class FunctionOptions(_Declared, total=False):
    """Keywords of `@app.function`."""

    name: str | None
    is_generator: bool | None
    schedule: Any


class ClsOptions(_Declared, total=False):
    """Keywords of `@app.cls`."""


class VariantOptions(_Variable, _Unsupported, total=False):
    """Keywords of `.with_options`."""


NO_RESOURCES = Resources()
RESOURCE_MAX = 1_000_000_000  # cores or MiB; what there really is, placement knows

DEFAULTS: dict[str, Any] = {
    "timeout": 300,
    "scaledown_window": None,
    "serialized": False,
    "single_use_containers": False,
    "enable_memory_snapshot": False,
    "block_network": False,
}

REASONS = {
    "gpu": "it runs functions on the machine's CPUs only",
    "network_file_systems": "it was replaced by volumes",
    "cloud": "it runs on this machine",
    "region": "it runs on this machine",
    "routing_region": "it runs on this machine",
    "nonpreemptible": "its containers are not preempted",
    "proxy": "containers use the machine's network",
    "restrict_modal_access": "a container can call functions of its own app",
    "i6pn": "containers use the machine's network",
    "schedule": "start the function from cron or a systemd timer with `jitney run`",
}

CHECKPOINT_EXPERIMENTS = ("enable_checkpoint", "enable_gpu_snapshot")

RENAMED = {
    "keep_warm": "min_containers",
    "concurrency_limit": "max_containers",
    "container_idle_timeout": "scaledown_window",
    "allow_concurrent_inputs": "@jitney.concurrent(max_inputs=...)",
    "concurrency": "@jitney.concurrent(max_inputs=...)",
    "max_inputs": "single_use_containers=True for 1",
    "mounts": "image.add_local_dir(...)",
    "runtime": "isolation",
    "batch_max_size": "@jitney.batched(max_batch_size=..., wait_ms=...)",
}


class Declared(NamedTuple):
    """Options of one function or class as values."""

    image: Image | None
    name: str | None
    serialized: bool
    is_generator: bool | None
    include_source: bool | None
    retries: RetryPolicy | None
    timeout_ms: int
    startup_timeout_ms: int
    scaling: Scaling
    resources: Resources
    env: dict[str, str]
    secrets: tuple[Secret, ...]
    volumes: Mounts
    single_use: bool
    snapshot: bool
    checkpoint: bool
    isolation: Isolation | None
    network: NetworkPolicy


def declared(kind: type[FunctionOptions | ClsOptions], of: str, options: Mapping[str, Any]) -> Declared:
    """The options of `of` ('@app.function') as values.

    Raises:
        InvalidError: a name that is none, or a value that cannot be.
        UnsupportedError: an option of the vocabulary that this version does not do.
    """
    check_names(kind, of, options)
    timeout_ms = _timeout("timeout", options.get("timeout", 300))
    startup = options.get("startup_timeout")
    return Declared(
        image=_image(options.get("image")),
        name=_name(options.get("name")),
        serialized=bool(options.get("serialized")),
        is_generator=options.get("is_generator"),
        include_source=options.get("include_source"),
        retries=_retries(options.get("retries")),
        timeout_ms=timeout_ms,
        startup_timeout_ms=timeout_ms if startup is None else _timeout("startup_timeout", startup),
        scaling=Scaling(
            min_containers=_count("min_containers", options.get("min_containers")) or 0,
            max_containers=_count("max_containers", options.get("max_containers")),
            buffer_containers=_count("buffer_containers", options.get("buffer_containers")) or 0,
            scaledown_window_ms=_window(options.get("scaledown_window")) or DEFAULT_SCALEDOWN_WINDOW_MS,
        ),
        resources=_with_disk(
            _resources(options.get("cpu"), options.get("memory")) or NO_RESOURCES, options.get("ephemeral_disk")
        ),
        env=_env(options.get("env")) or {},
        secrets=secrets(options.get("secrets")),
        volumes=volumes(options.get("volumes")),
        single_use=bool(options.get("single_use_containers")),
        snapshot=bool(options.get("enable_memory_snapshot")),
        checkpoint=_checkpoint(options.get("experimental_options")),
        isolation=isolation(options.get("isolation")),
        network=_network(
            options.get("block_network"),
            options.get("outbound_cidr_allowlist"),
            options.get("outbound_domain_allowlist"),
        ),
    )


def overrides(options: Mapping[str, Any], base: Resources = NO_RESOURCES) -> Overrides:
    """The keywords of `.with_options` as values. What is not given stays as declared: `base`, for cpu and memory.

    Raises:
        InvalidError, UnsupportedError: as `declared`.
    """
    check_names(VariantOptions, ".with_options", options)
    timeout = options.get("timeout")
    return Overrides(
        env=_env(options.get("env")),
        retries=_retries(options.get("retries")),
        timeout_ms=None if timeout is None else _timeout("timeout", timeout),
        min_containers=_count("min_containers", options.get("min_containers")),
        max_containers=_count("max_containers", options.get("max_containers")),
        buffer_containers=_count("buffer_containers", options.get("buffer_containers")),
        scaledown_window_ms=_window(options.get("scaledown_window")),
        resources=_resources(options.get("cpu"), options.get("memory"), base),
    )


def check_names(kind: type[Any], of: str, options: Mapping[str, Any]) -> None:
    """Refuse names that `kind` does not have, and values of options that are not done."""
    known = kind.__annotations__
    for name, value in options.items():
        if name in REASONS and (name in known or not value):
            if value:
                raise UnsupportedError(f"{of}({name}=...) is not supported by this version", hint=REASONS[name])
        elif name not in known:
            fixed = kind is VariantOptions and name in FunctionOptions.__annotations__
            hint = "it is part of the declaration: give it to @app.function or @app.cls" if fixed else None
            raise InvalidError(f"{of} has no option {name!r}", hint=hint or _near(name, known))


def _near(name: str, known: Mapping[str, Any]) -> str:
    if name in RENAMED:
        return f"its name is now {RENAMED[name]}"
    usable = [option for option in known if option not in REASONS]
    close = difflib.get_close_matches(name, usable, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(usable)}"


def described(kind: type[Any]) -> Callable[[F], F]:
    """Give a function with `**options` the signature that its options make, for `help()` and editors."""

    def decorate(function: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=DEFAULTS.get(name),
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in kind.__annotations__.items()
            if name not in REASONS
        ]
        setattr(function, "__signature__", inspect.Signature([*own, *options]))  # noqa: B010 (functions take it)
        return function

    return decorate


def concurrency(max_inputs: int, target_inputs: int | None) -> Concurrency:
    """The values of `@concurrent`.

    Raises:
        InvalidError: out of range.
    """
    _need_int("max_inputs", max_inputs)
    if target_inputs is not None:
        _need_int("target_inputs", target_inputs)
    return Concurrency(max_inputs=max_inputs, target_inputs=target_inputs or max_inputs)


def batching(max_batch_size: int, wait_ms: int) -> Batching:
    """The values of `@batched`.

    Raises:
        InvalidError: out of range.
    """
    _need_int("max_batch_size", max_batch_size)
    _need_int("wait_ms", wait_ms)
    return Batching(max_batch_size=max_batch_size, wait_ms=wait_ms)


def isolation(given: str | None) -> Isolation | None:
    """The lowest tier of isolation that was asked for.

    Raises:
        InvalidError: there is no such tier.
    """
    if given is None:
        return None
    try:
        return Isolation(given)
    except ValueError:
        tiers = ", ".join(repr(str(tier)) for tier in Isolation)
        raise InvalidError(
            f"isolation={given!r} is no tier of isolation", hint=f"there is {tiers}, each stronger than the one before"
        ) from None


def _checkpoint(experiments: Mapping[str, Any] | None) -> bool:
    """Whether containers may be restored from checkpoints, by either name of that experiment.

    Raises:
        InvalidError: the options are no mapping.
        UnsupportedError: an experiment that this version does not have.
    """
    if not experiments:
        return False
    if not isinstance(experiments, Mapping):
        raise InvalidError(f"experimental_options must map names to values, and is {experiments!r}")
    wanted = {str(name) for name, value in experiments.items() if value}
    unknown = sorted(wanted - set(CHECKPOINT_EXPERIMENTS))
    if unknown:
        raise UnsupportedError(
            f"experimental_options={{{unknown[0]!r}: ...}} is not supported by this version",
            hint=f"there is {', '.join(CHECKPOINT_EXPERIMENTS)}",
        )
    return bool(wanted)


def secrets(given: Any) -> tuple[Secret, ...]:
    """The secrets that were asked for.

    Raises:
        InvalidError: it is no list of secrets.
    """
    if not given and isinstance(given, list | tuple | None):
        return ()
    from jitney.client.secret import listed

    return listed(given)


def _need_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidError(f"{name} must be a whole number, not {value!r}")


def _count(name: str, value: int | None) -> int | None:
    if value is not None:
        _need_int(name, value)
    return value


def _ms(name: str, seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidError(f"{name} must be a number of seconds, not {seconds!r}")
    return round(seconds * 1000)


def _timeout(name: str, seconds: float) -> int:
    found = _ms(name, seconds)
    if not TIMEOUT_MS_MIN <= found <= TIMEOUT_MS_MAX:
        raise InvalidError(f"{name} must be from {TIMEOUT_MS_MIN // 1000} s to 24 h, not {seconds:g} s")
    return found


def _window(seconds: float | None) -> int | None:
    return None if seconds is None else _ms("scaledown_window", seconds)


def _name(name: Any) -> str | None:
    if name is None:
        return None
    if not (isinstance(name, str) and name):
        raise InvalidError(f"name must be a text that is not empty, not {name!r}")
    return name


def _retries(retries: int | Retries | None) -> RetryPolicy | None:
    if retries is None:
        return None
    if isinstance(retries, Retries):
        return retries.policy
    _need_int("retries", retries)
    return RetryPolicy(max_retries=retries)


def _env(env: Mapping[Any, Any] | None) -> dict[str, str] | None:
    """Variables of the containers; those that are None are left out."""
    if env is None:
        return None
    for name, value in env.items():
        if not (isinstance(name, str) and isinstance(value, str | None)):
            raise InvalidError(f"env must map texts to texts, and {name!r} is {value!r}")
    return {name: value for name, value in env.items() if value is not None}


def _image(image: Any) -> Image | None:
    if image is not None and not hasattr(image, "spec"):
        raise InvalidError(f"image must be a jitney.Image, not {image!r}", hint="jitney.Image.debian_slim() makes one")
    return image  # type: ignore[no-any-return]


def _resources(
    cpu: float | tuple[float, float] | None,
    memory: int | tuple[int, int] | None,
    base: Resources = NO_RESOURCES,
) -> Resources | None:
    if cpu is None and memory is None:
        return None
    cpu_milli, cpu_limit_milli = base.cpu_milli, base.cpu_limit_milli
    memory_mib, memory_limit_mib = base.memory_mib, base.memory_limit_mib
    if cpu is not None:
        cpu_milli, cpu_limit_milli = _pair("cpu", cpu, "cores", 1000)
    if memory is not None:
        memory_mib, memory_limit_mib = _pair("memory", memory, "MiB", 1)
    return Resources(
        cpu_milli=cpu_milli,
        cpu_limit_milli=cpu_limit_milli,
        memory_mib=memory_mib,
        memory_limit_mib=memory_limit_mib,
        ephemeral_disk_mib=base.ephemeral_disk_mib,
    )


def _with_disk(resources: Resources, disk_mib: int | None) -> Resources:
    if disk_mib is None:
        return resources
    _need_int("ephemeral_disk (MiB)", disk_mib)
    return Resources(**{**msgspec.structs.asdict(resources), "ephemeral_disk_mib": disk_mib})


def _network(blocked: Any, cidrs: Any, domains: Any) -> NetworkPolicy:
    return NetworkPolicy(
        blocked=bool(blocked),
        cidrs=_texts("outbound_cidr_allowlist", cidrs),
        domains=_texts("outbound_domain_allowlist", domains),
    )


def _texts(name: str, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise InvalidError(f"{name} is a list of texts, not {given!r}")
    return tuple(given)


def _pair(name: str, value: Any, unit: str, scale: int) -> tuple[int, int | None]:
    both: list[Any] = list(value) if isinstance(value, tuple) and len(value) == 2 else [value]
    for one in both:
        if isinstance(one, bool) or not isinstance(one, int | float):
            raise InvalidError(f"{name} must be a number of {unit}, or (request, limit), not {value!r}")
        if not one < RESOURCE_MAX:  # also what is no number
            raise InvalidError(f"{name} must be a number of {unit} that a machine can have, not {one!r}")
    return round(both[0] * scale), round(both[1] * scale) if len(both) == 2 else None
