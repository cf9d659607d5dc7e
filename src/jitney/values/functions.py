"""What a user declares about a function (or a class, whose methods share one pool)."""

from __future__ import annotations

import msgspec

from jitney.errors import InvalidError
from jitney.values.buckets import BucketMount
from jitney.values.isolation import Isolation
from jitney.values.network import NetworkPolicy
from jitney.values.secrets import SECRETS_MAX, SecretRef
from jitney.values.volumes import VolumeMount

DEFAULT_TIMEOUT_MS = 300_000
TIMEOUT_MS_MIN = 1_000
TIMEOUT_MS_MAX = 24 * 3_600_000
DEFAULT_SCALEDOWN_WINDOW_MS = 60_000
SCALEDOWN_WINDOW_MS_MIN = 2_000
SCALEDOWN_WINDOW_MS_MAX = 3_600_000
DEFAULT_CPU_MILLI = 125
DEFAULT_MEMORY_MIB = 128
EPHEMERAL_DISK_MIB_MAX = 3 * 1024 * 1024
BATCH_SIZE_MAX = 1_000
BATCH_WAIT_MS_MAX = 600_000
CONCURRENT_INPUTS_MAX = 1_000
RETRIES_MAX = 10
PICKLED_FUNCTION_BYTES_MAX = 16 * 1024 * 1024
PARAMETERS_BYTES_MAX = 16 * 1024


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidError(f"{name} must be from {low:,} to {high:,}, not {value:,}")


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and after what delays a failed input runs again. Delays in ms."""

    max_retries: int
    backoff_coefficient: float = 1.0
    initial_delay_ms: int = 1_000
    max_delay_ms: int = 60_000

    def __post_init__(self) -> None:
        _within("retries", self.max_retries, 0, RETRIES_MAX)
        if not 1.0 <= self.backoff_coefficient <= 10.0:
            raise InvalidError("backoff_coefficient must be from 1.0 to 10.0")
        _within("initial_delay (ms)", self.initial_delay_ms, 0, 60_000)
        _within("max_delay (ms)", self.max_delay_ms, 1_000, 60_000)


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs that one container works on at a time: at most `max_inputs`; the autoscaler aims at `target_inputs`."""

    max_inputs: int
    target_inputs: int

    def __post_init__(self) -> None:
        _within("max_inputs", self.max_inputs, 1, CONCURRENT_INPUTS_MAX)
        _within("target_inputs", self.target_inputs, 1, self.max_inputs)


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs are handed over in lists of at most `max_batch_size`, formed within `wait_ms` of the first."""

    max_batch_size: int
    wait_ms: int

    def __post_init__(self) -> None:
        _within("max_batch_size", self.max_batch_size, 1, BATCH_SIZE_MAX)
        _within("wait_ms", self.wait_ms, 0, BATCH_WAIT_MS_MAX)


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a pool. `max_containers=None` means as many as the machine holds."""

    min_containers: int = 0
    max_containers: int | None = None
    buffer_containers: int = 0
    scaledown_window_ms: int = DEFAULT_SCALEDOWN_WINDOW_MS

    def __post_init__(self) -> None:
        _within("min_containers", self.min_containers, 0, 4_000)
        _within("buffer_containers", self.buffer_containers, 0, 4_000)
        _within("scaledown_window (ms)", self.scaledown_window_ms, SCALEDOWN_WINDOW_MS_MIN, SCALEDOWN_WINDOW_MS_MAX)
        if self.max_containers is not None:
            _within("max_containers", self.max_containers, 1, 4_000)
            if self.min_containers > self.max_containers:
                raise InvalidError(
                    f"min_containers ({self.min_containers}) is above max_containers ({self.max_containers})"
                )


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What one container asks for; a limit of None means the request is not a cap."""

    cpu_milli: int = DEFAULT_CPU_MILLI
    cpu_limit_milli: int | None = None
    memory_mib: int = DEFAULT_MEMORY_MIB
    memory_limit_mib: int | None = None
    ephemeral_disk_mib: int | None = None  # what it may write to its own file system; None: the worker's default

    def __post_init__(self) -> None:
        if self.ephemeral_disk_mib is not None:
            _within("ephemeral_disk (MiB)", self.ephemeral_disk_mib, 1, EPHEMERAL_DISK_MIB_MAX)
        if self.cpu_milli <= 0 or self.memory_mib <= 0:
            raise InvalidError("cpu and memory must be above zero")
        if self.cpu_limit_milli is not None and self.cpu_limit_milli < self.cpu_milli:
            raise InvalidError("the cpu limit is below the cpu request")
        if self.memory_limit_mib is not None and self.memory_limit_mib < self.memory_mib:
            raise InvalidError("the memory limit is below the memory request")


class MethodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One callable of a pool. A plain function has exactly one, with the name ''."""

    name: str = ""
    is_async: bool = False
    is_generator: bool = False


class ClientVersions(msgspec.Struct, frozen=True, kw_only=True):
    """What pickled the function and its arguments: they must be readable by the container's versions."""

    python: str = ""  # "3.11"
    cloudpickle: str = ""
    jitney: str = ""


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A function or class as declared: all that is needed to start containers for it and run inputs."""

    name: str  # "square", or "Model" for a class
    module: str = ""  # imported in the template; "" when `pickled` carries the code
    qualname: str = ""  # attribute path inside the module
    main_module: bool = False  # the module was `__main__` at the client: make it so in the container
    pickled: bytes = b""  # serialized=True: the function or class by cloudpickle
    is_class: bool = False
    methods: tuple[MethodSpec, ...] = (MethodSpec(),)
    image_id: str = ""
    source_id: str = ""
    env: dict[str, str] = {}
    retries: RetryPolicy | None = None
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    startup_timeout_ms: int = DEFAULT_TIMEOUT_MS
    scaling: Scaling = Scaling()
    resources: Resources = Resources()
    concurrency: Concurrency | None = None
    batching: Batching | None = None
    single_use: bool = False
    parameters: bytes = b""  # pickled constructor arguments of a bound class
    versions: ClientVersions = ClientVersions()
    isolation: Isolation | None = None  # the lowest tier that it may run at; None: the server's policy
    network: NetworkPolicy = NetworkPolicy()
    volumes: tuple[VolumeMount, ...] = ()
    buckets: tuple[BucketMount, ...] = ()
    secrets: tuple[SecretRef, ...] = ()  # what its containers get in their environment: later ones win, `env` over all
    snapshot: bool = False  # methods marked @enter(snap=True) run once, in the template
    checkpoint: bool = False  # its containers may be restored from a checkpoint, where they cannot be forked

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidError("a function needs a name")
        _within("timeout (ms)", self.timeout_ms, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
        _within("startup_timeout (ms)", self.startup_timeout_ms, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
        if len(self.secrets) > SECRETS_MAX:
            raise InvalidError(f"function {self.name!r} has {len(self.secrets)} secrets, over {SECRETS_MAX}")
        if len(self.pickled) > PICKLED_FUNCTION_BYTES_MAX:
            raise InvalidError(f"function {self.name!r} is {len(self.pickled):,} bytes when pickled, over 16 MiB")
        if len(self.parameters) > PARAMETERS_BYTES_MAX:
            raise InvalidError(f"the parameters of {self.name!r} are over 16 KiB when pickled")

    @property
    def scope(self) -> str:
        """What its large values in shared memory are filed under: functions of the same code share it."""
        return self.source_id or self.image_id

    @property
    def max_inputs(self) -> int:
        """Inputs (or batches) that one container may work on at a time."""
        return self.concurrency.max_inputs if self.concurrency else 1

    @property
    def target_inputs(self) -> int:
        """Inputs per container that the autoscaler aims at."""
        if self.batching:
            return self.batching.max_batch_size * self.max_inputs
        return self.concurrency.target_inputs if self.concurrency else 1

    def method(self, name: str) -> MethodSpec | None:
        """The method of that name, or None."""
        return next((method for method in self.methods if method.name == name), None)


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What `.with_options` changes; None leaves the declared value."""

    env: dict[str, str] | None = None
    secrets: tuple[SecretRef, ...] | None = None  # instead of all that were declared
    volumes: tuple[VolumeMount, ...] | None = None  # instead of all that were declared
    buckets: tuple[BucketMount, ...] | None = None  # likewise
    retries: RetryPolicy | None = None
    timeout_ms: int | None = None
    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window_ms: int | None = None
    resources: Resources | None = None
    concurrency: Concurrency | None = None
    batching: Batching | None = None
    parameters: bytes | None = None
