"""What an administrator can say about registries, and the limits of a pull."""

from __future__ import annotations

import msgspec

MIB = 1 << 20
GIB = 1 << 30


class PullSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How images are fetched.

    `mirrors` has other addresses of a registry ("docker.io" -> "https://mirror.example/prefix"), tried first.
    `insecure` are hosts that are spoken to without TLS; those of this machine are anyway.
    `private` are hosts that may be at addresses which are not public ("*": any). An image's name comes from a user:
    without this list, a name could make the worker knock at doors inside of your network.
    `archives` are folders that layouts and archives may be loaded from (`pulls.oci.archives`); None: any that the
    worker can read. `archives_of_user`: also what belongs to this process's user, but not below one of `kept_out`.
    """

    mirrors: dict[str, str] = {}
    insecure: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    archives: tuple[str, ...] | None = None
    archives_of_user: bool = False
    kept_out: tuple[str, ...] = ()
    docker_config: str = ""  # a file in the form of ~/.docker/config.json; "" = that of the user
    attempts: int = 6
    backoff_ms: int = 500
    backoff_max_ms: int = 20_000
    retry_after_max_ms: int = 60_000  # a registry that wants a longer pause is given up
    connect_timeout_ms: int = 20_000
    stall_timeout_ms: int = 60_000  # without a byte
    downloads: int = 3  # at the same time
    unpacks: int = 2
    layer_bytes_max: int = 64 * GIB  # as it is sent
    image_bytes_max: int = 128 * GIB  # as it is sent
    unpacked_bytes_max: int = 256 * GIB  # of one layer
    files_max: int = 3_000_000  # of one layer
