"""What `jitney doctor` looks at: one function a check, each saying what, why and how to change it.

A check reads and measures; it starts nothing and repairs nothing. One that fails in an unforeseen way is
itself reported, and does not keep the others from being run.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jitney.compose import bucket_checks, folder, registry, tier_checks
from jitney.compose.config import ENV_PREFIX, WHERE, Config, Problem, fields, near
from jitney.compose.findings import ERROR, WARNING, Finding, error, finding, ok, warning
from jitney.errors import EncryptionKeyError
from jitney.wire.home import Home

PYTHON_MIN = (3, 11)
DISK_FREE_BYTES_MIN = 1 << 30
DISK_FREE_BYTES_WARN = 5 << 30
FSYNC_MS_WARN = 20.0
FSYNC_ROUNDS = 5
SHM_BYTES_WARN = 256 << 20
NOFILE_WARN = 4_096
NPROC_WARN = 1_024
CLOCK_MIN_MS = 1_735_689_600_000  # 2025-01-01: a clock before it was never set
CONNECT_TIMEOUT_S = 2.0


def run(home: Home, config: Config, problems: list[Problem]) -> list[Finding]:
    """Every check, in the order in which a person would look."""
    findings = [_configuration(problems), _environment()]
    for name, check in CHECKS.items():
        try:
            findings.append(check(home, config))
        except Exception as failed:
            findings.append(
                warning(
                    name,
                    "could not be checked",
                    f"{type(failed).__name__}: {failed}",
                    fix="please report it: a check must not fail",
                )
            )
    return findings


def _configuration(problems: list[Problem]) -> Finding:
    if not problems:
        return ok("config", "the configuration is valid")
    return error(
        "config",
        f"{len(problems)} configuration problem(s)",
        "\n".join(map(str, problems)),
        fix="correct them; `jitney config show` lists every value and where it came from",
    )


def _environment() -> Finding:
    known = [field.env for field in fields()]
    strangers = [n for n in os.environ if n.startswith(ENV_PREFIX) and n not in known and n not in WHERE]
    if not strangers:
        return ok("environment", "no unknown JITNEY_ variables")
    return warning(
        "environment",
        f"{', '.join(sorted(strangers))}: no such option",
        "".join(near(strangers[0], known)).lstrip("; "),
        fix="unset what is misspelt; others may be of your own program",
    )


def python(home: Home, config: Config) -> Finding:
    """The interpreter."""
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        return error(
            "python",
            f"Python {version}",
            "Jitney needs Python 3.11 or later",
            fix="make a new environment with a later Python",
        )
    return ok("python", f"Python {version} at {sys.executable}")


def home_folder(home: Home, config: Config) -> Finding:
    """The folder of the server."""
    if not home.root.exists():
        parent = next(p for p in home.root.parents if p.exists())
        if os.access(parent, os.W_OK):
            return ok("home", f"{home.root} (made by the first run)")
        return error(
            "home",
            f"{home.root} cannot be made",
            f"{parent} cannot be written to",
            fix="set JITNEY_HOME to a folder that you may write to",
        )
    problem = folder.not_private(home.root)
    if not problem and home.root.stat().st_mode & 0o077:
        return warning(
            "home",
            f"{home.root} can be read by others",
            "it holds arguments, results and logs",
            fix=f"chmod 700 {home.root}",
        )
    if problem:
        return error(
            "home",
            problem,
            "others could change what you run",
            fix=f"chmod 700 {home.root}, or set JITNEY_HOME to a folder of your own",
        )
    return ok("home", f"{home.root}, private")


def token(home: Home, config: Config) -> Finding:
    """The secret of the server."""
    try:
        mode = stat.S_IMODE(home.token.stat().st_mode)
    except FileNotFoundError:
        return ok("token", "none yet (made by the first run)")
    if mode & 0o077:
        return error(
            "token",
            f"{home.token} can be read by others (mode {mode:o})",
            "whoever has it may run code as you",
            fix=f"jitney down; rm {home.token}: the next start makes a new one",
        )
    return ok("token", "readable by you alone")


def secret_keys(home: Home, config: Config) -> Finding:
    """The keys that secrets in the store are encrypted with."""
    command = config.server.secrets_key_command
    used = registry.secret_key_ids(home, config.server)
    if not os.path.lexists(home.secret_keys) and not command and not used:
        return ok("secrets", "no key file (the first secret makes one)")
    try:
        missing = asyncio.run(registry.keys(home, config.server).missing(used))
    except EncryptionKeyError as failed:
        return error("secrets", failed.message, "functions with secrets cannot start", fix=failed.hint)
    if missing:
        return error(
            "secrets",
            f"the key of {len(missing)} of {len(used)} is not in {home.secret_keys}: {', '.join(sorted(missing))}",
            "functions with secrets that are encrypted with it cannot start",
            fix="bring the file back from a copy, or give those secrets their values anew",
        )
    if command:
        return ok("secrets", f"their keys are sealed with one that {command[0]} gives, and can be read")
    return ok("secrets", "their key can be read", fix=f"keep a copy of {home.secret_keys}: without it they are lost")


def server(home: Home, config: Config) -> Finding:
    """Whether a server runs, and answers on its socket."""
    holder = folder.server_lock(home).holder()
    info = home.read_server_info()
    if holder is None:
        return ok("server", "none runs (a command that needs one starts it)")
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(CONNECT_TIMEOUT_S)
            link.connect(str(home.socket()))
    except OSError as failed:
        return error(
            "server",
            f"pid {holder} holds the folder and does not answer",
            f"{home.socket()}: {failed}",
            fix=f"see {home.server_log}; `jitney down --force` ends it",
        )
    version = f", version {info.version}" if info else ""
    return ok("server", f"runs as pid {holder}{version}")


def http_port(home: Home, config: Config) -> Finding:
    """Whether the HTTP interface has its port, or could have it."""
    port = config.server.http_port
    info = home.read_server_info() if folder.server_lock(home).holder() else None
    if info is not None:
        if info.http:
            return ok("http", info.http)
        return warning(
            "http",
            "the server runs without HTTP",
            f"port {port} was taken when it started",
            fix="free the port, or `jitney config set http_port 0`, and restart the server",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as failed:
            return warning(
                "http",
                f"port {port} cannot be had: {failed.strerror}",
                "the server will run without HTTP",
                fix="`jitney config set http_port 0` takes any free port",
            )
    return ok("http", f"port {port} is free")


def disk(home: Home, config: Config) -> Finding:
    """Room for results, logs and images."""
    place = _existing(home.root)
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free for {home.root}"
    if free >= DISK_FREE_BYTES_WARN:
        return ok("disk", text)
    return finding(
        "disk",
        ERROR if free < DISK_FREE_BYTES_MIN else WARNING,
        text,
        "images and durable results need room; when it is full, spawns are refused",
        fix="free some space, or set JITNEY_HOME to a folder on another disk",
    )


def fsync(home: Home, config: Config) -> Finding:
    """What a durable call waits for."""
    place = _existing(home.root)
    took = []
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
        for _ in range(FSYNC_ROUNDS):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - start) * 1000)
    median = sorted(took)[len(took) // 2]
    text = f"{median:.1f} ms for an fsync"
    if median <= FSYNC_MS_WARN:
        return ok("fsync", text)
    return warning(
        "fsync",
        text,
        "every `spawn` waits for one (many at a time share it)",
        fix="set JITNEY_HOME to a folder on a local disk",
    )


def uv(home: Home, config: Config) -> Finding:
    """What builds images."""
    path = _find_uv()
    if path is None:
        return error("uv", "uv is not found", "images are built with it", fix=f"{sys.executable} -m pip install uv")
    indexes = registry.package_indexes(config.worker)
    text = f"{path}, packages from {', '.join(map(_without_secret, indexes)) or 'its own default'}"
    problems = [problem for problem in map(_unreachable, indexes) if problem]
    if problems:
        return warning(
            "uv",
            text,
            "\n".join(problems),
            fix="`jitney config set index_url URL` names another; cached images still work",
        )
    return ok("uv", text)


def shared_memory(home: Home, config: Config) -> Finding:
    """Where large values go between processes."""
    place = home.segments
    if not str(place).startswith("/dev/shm"):
        return warning(
            "shm",
            f"large values go through {place}",
            "this system has no /dev/shm that you may write to: they are files on disk instead",
            fix="mount a tmpfs there where you can",
        )
    size = shutil.disk_usage("/dev/shm").total
    text = f"/dev/shm has {size / (1 << 20):,.0f} MiB"
    if size >= SHM_BYTES_WARN:
        return ok("shm", text)
    return warning(
        "shm",
        text,
        "values that do not fit go by files on disk, slower",
        fix="give it more: `mount -o remount,size=2G /dev/shm`, or `--shm-size` of the container engine",
    )


def limits(home: Home, config: Config) -> Finding:
    """Open files and processes."""
    import resource

    files, files_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tasks, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    text = f"{_count(files)} open files, {_count(tasks)} processes"
    low = []
    if _is_below(files_hard, NOFILE_WARN):
        low.append(f"at most {files_hard:,} open files")
    if _is_below(tasks, NPROC_WARN):
        low.append(f"at most {tasks:,} processes")
    if not low:
        return ok("limits", text)
    return warning(
        "limits",
        " and ".join(low),
        "each container takes several of both",
        fix="raise them: `ulimit -n 65536`, or LimitNOFILE= and TasksMax= of the service",
    )


def clock(home: Home, config: Config) -> Finding:
    """Whether the clock was ever set."""
    now_ms = time.time_ns() // 1_000_000
    newest = max((p.stat().st_mtime_ns // 1_000_000 for p in _ours(home)), default=0)
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_ms / 1000))
    if now_ms < CLOCK_MIN_MS or newest > now_ms + 60_000:
        return warning(
            "clock",
            text,
            "it is behind: files here are from later than that",
            fix="set the clock; what results are kept for is counted by it",
        )
    return ok("clock", text)


def leftovers(home: Home, config: Config) -> Finding:
    """What a server that was killed may leave."""
    holder = folder.server_lock(home).holder()
    if holder is not None:
        return ok("leftovers", "none (a server runs)")
    found = []
    info = home.read_server_info()
    if info is not None:
        found.append(f"server.json of a server that has ended (pid {info.pid})")
    worker = folder.worker_lock(home).holder()
    if worker:
        found.append(f"a worker without a server (pid {worker})")
    if not found:
        return ok("leftovers", "none")
    return warning(
        "leftovers",
        "; ".join(found),
        "the last server was killed; the next one takes over what still runs",
        fix="`jitney up` takes over, then `jitney down` ends all",
    )


def store(home: Home, config: Config) -> Finding:
    """Whether the store is whole, and of this version."""
    if not home.store.exists():
        return ok("store", "none yet (made by the first run)")
    what, problem = registry.inspect_store(home, config.server)
    if not problem:
        return ok("store", what)
    return error(
        "store",
        what,
        problem,
        fix=f"stop the server and move {home.store} aside: a new one is made, without what the old one knew",
    )


CHECKS: dict[str, Callable[[Home, Config], Finding]] = {
    "python": python,
    "home": home_folder,
    "token": token,
    "secrets": secret_keys,
    "server": server,
    "http": http_port,
    "disk": disk,
    "fsync": fsync,
    "store": store,
    "uv": uv,
    "shm": shared_memory,
    "tiers": tier_checks.tiers_possible,
    "runtime": tier_checks.runtime,
    "cgroups": tier_checks.control_groups,
    "network": tier_checks.network,
    "checkpoints": tier_checks.checkpoints,
    "base": tier_checks.base,
    "contents": bucket_checks.contents,
    "buckets": bucket_checks.mounter,
    "limits": limits,
    "clock": clock,
    "leftovers": leftovers,
}


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _ours(home: Home) -> list[Path]:
    return [p for p in (home.token, home.server_info, home.store, home.server_log) if p.exists()]


def _find_uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _unreachable(index: str) -> str:
    """Why a package index cannot be reached; '' when it answers to a connection."""
    url = urlsplit(index)
    if url.scheme == "file":
        return "" if Path(unquote(url.path)).exists() else f"{url.path} does not exist"
    if not url.hostname:
        return f"{_without_secret(index)} is no address"
    if any(name.lower() in ("all_proxy", f"{url.scheme}_proxy") for name in os.environ):
        return ""  # the proxy decides
    try:
        with socket.create_connection(
            (url.hostname, url.port or (443 if url.scheme == "https" else 80)), CONNECT_TIMEOUT_S
        ):
            return ""
    except OSError as failed:
        return f"{url.hostname} cannot be reached: {failed}"


def _without_secret(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else url


def _count(limit: int) -> str:
    return "unlimited" if limit < 0 else f"{limit:,}"


def _is_below(limit: int, least: int) -> bool:
    return 0 <= limit < least
