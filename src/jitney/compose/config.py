"""Configuration: one frozen Struct per kind of process, read once, passed down as values.

Where a value comes from, later wins: the default below, `<home>/config.toml` (a table per Struct: `[server]`,
`[worker]`, `[client]`), the environment (`JITNEY_<FIELD>`), a flag of the command line. Field names are unique
over the three Structs, so that one variable names one field. Every wrong value is reported, not only the first.
The variables of `WHERE` are no options: they say which server is meant, and with it where the options are.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from jitney.compose import arguments, buckets, registry, tiers
from jitney.errors import InvalidError
from jitney.values.isolation import Isolation
from jitney.values.volumes import KEPT_DAYS_MAX, KEPT_VERSIONS_MAX, Retention
from jitney.wire.home import Home

ENV_PREFIX = "JITNEY_"
FILE_NAME = "config.toml"
WHERE = {
    "JITNEY_HOME": "The folder of the server: its socket, token, store, images and logs. Default: `~/.jitney`.",
    "JITNEY_SERVER": "The socket of a server that somebody else keeps running, instead of that of the folder.",
    "JITNEY_TOKEN": "The token for it, instead of that of the folder.",
}
DAY_MS = 24 * 3_600_000
OWN_ARCHIVES = "own"

Port = Annotated[int, Meta(ge=0, le=65_535)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server: what it stores and where it listens."""

    http_port: Annotated[
        Port,
        Meta(
            description="Port of the HTTP interface, on the loopback address only. 0 takes any free port. "
            "Where it is taken, the default gives way to any free port; one that was asked for is not replaced: the "
            "server runs without HTTP, and `jitney doctor` says so."
        ),
    ] = 7117
    idle_stop_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=30 * DAY_MS,
            description="A server that was started in the background stops after this long without a client, "
            "a container, a deployed app or unfinished work. In ms; 0 never stops it.",
        ),
    ] = 600_000
    isolation: Annotated[
        Isolation,
        Meta(
            description="The lowest tier of isolation that a container may run at: `process` (any), `oci`, "
            "`namespaces` or `gvisor`. A function may ask for more, and never gets less; what the worker's runtime "
            "cannot do is refused."
        ),
    ] = Isolation.PROCESS
    store: Annotated[
        str,
        Meta(description="Driver of the store of apps, calls and results: `sqlite`, one file in the server's folder."),
    ] = "sqlite"
    contents: Annotated[str, Meta(description=buckets.CONTENTS)] = buckets.LOCAL
    contents_endpoint: Annotated[str, Meta(description=buckets.ENDPOINT)] = ""
    contents_region: Annotated[str, Meta(description=buckets.REGION)] = ""
    contents_credentials: Annotated[str, Meta(description=buckets.CREDENTIALS)] = ""
    secrets_key_command: Annotated[tuple[str, ...], Meta(description=arguments.KEY_COMMAND)] = ()
    secrets_key_command_before: Annotated[tuple[str, ...], Meta(description=arguments.KEY_COMMAND_BEFORE)] = ()
    volume_keep_versions: Annotated[
        int,
        Meta(
            ge=1,
            le=KEPT_VERSIONS_MAX,
            description="The newest versions of a volume that are kept, however old they are, where "
            "`jitney volume keep` has set nothing else for it.",
        ),
    ] = Retention().versions
    volume_keep_days: Annotated[
        int,
        Meta(
            ge=0,
            le=KEPT_DAYS_MAX,
            description="Versions of a volume that were the newest within so many days are kept, however many there "
            "are.",
        ),
    ] = Retention().days


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker: how containers and images are made on this machine."""

    runtime: Annotated[
        str,
        Meta(
            description="Driver that runs containers. `namespaces` puts each behind a wall of its own (Linux, root or "
            "not, no engine needed); `process` runs them as plain processes of your own user, for trusted code only; "
            "`oci` in containers of Docker or Podman; `gvisor` in sandboxes with a kernel of their own. "
            "`auto` takes the first where the machine can do it, and else the second."
        ),
    ] = "auto"
    builder: Annotated[
        str,
        Meta(
            description="Driver that builds images. `local` makes them on this machine: Python environments with uv, "
            "and root file systems in layers where the runtime has them."
        ),
    ] = "local"
    base: Annotated[
        Literal["host", "debootstrap", "registry"],
        Meta(
            description="What `Image.debian_slim` is made from. `host` is this machine's own file system, read only: "
            "nothing is fetched. `debootstrap` makes a Debian with mmdebstrap or debootstrap. `registry` takes "
            "`python:<version>-slim`."
        ),
    ] = "host"
    registry: Annotated[
        str,
        Meta(
            description="Registry for names of images that have no address, such as `mirror.example.org`. "
            "Empty is Docker Hub."
        ),
    ] = ""
    private_registries: Annotated[
        str,
        Meta(
            description="Registries that may be at an address which is not public, with spaces between: "
            "`registry.corp.example 10.0.0.5:5000`, or `*` for any. One on this machine may be named without it."
        ),
    ] = ""
    insecure_registries: Annotated[
        str,
        Meta(
            description="Registries that are spoken to without TLS, with spaces between. "
            "Those on this machine are anyway."
        ),
    ] = ""
    archives: Annotated[
        str,
        Meta(
            description="Where `Image.from_oci` may load images from on the worker's machine: folders, with `:` "
            "between. `own` stands for all that belongs to the worker's user and is not in the server's folder; where "
            "the server's policy (`isolation`) asks for more than `process`, for nothing. Empty is nowhere."
        ),
    ] = "own"
    build_memory_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory that a step of an image build may have, where control groups can hold it to that. "
            "In MiB; 0 is three quarters of the machine's.",
        ),
    ] = 0
    build_cpus: Annotated[
        float,
        Meta(ge=0, description="CPUs that a step of an image build may have; 0 is all of the machine's."),
    ] = 0.0
    build_timeout_ms: Annotated[
        int, Meta(ge=1_000, le=DAY_MS, description="A build of an image that takes longer is ended. In ms.")
    ] = 3_600_000
    images_keep_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=365 * DAY_MS,
            description="An image without a name that nothing used for this long is removed, with what no other image "
            "needs. In ms; 0 removes nothing.",
        ),
    ] = 14 * DAY_MS
    index_url: Annotated[
        str,
        Meta(
            description="Package index for images that name none of their own. Empty leaves it to uv and its settings."
        ),
    ] = ""
    buckets: Annotated[Literal["auto", "rclone", "s3fs", "mount-s3"], Meta(description=buckets.PROGRAM)] = "auto"
    oci_base: Annotated[
        str,
        Meta(
            description="With `runtime = oci`: an image of the engine that containers run in whose own image has no "
            "root file system, such as `debian:12-slim`. Empty is this machine's own file system, read only."
        ),
    ] = ""
    oci_network: Annotated[
        str,
        Meta(
            description="With `runtime = oci`: the network of containers that may reach others. `auto` is our own, "
            "walled as in `namespaces`, where the worker and the engine are root, and else the engine's `bridge`. Any "
            "other is a network of the engine, which hides neither this machine nor metadata. `none` gives none to any."
        ),
    ] = "auto"
    template_idle_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=7 * DAY_MS,
            description="A warm template process that started no container for this long is stopped, "
            "to free its memory. In ms.",
        ),
    ] = 600_000
    template_memory_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory that all warm template processes may have together. When they have more, those that "
            "save the least time for their size are stopped. In MiB; 0 is a quarter of the machine's.",
        ),
    ] = 0
    template_limit_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="With `runtime = namespaces` or `process`: memory that one template may take as it imports a "
            "module, before there is a container whose limit counts. In MiB; 0 is three quarters of the machine's.",
        ),
    ] = 0
    checkpoints_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="With `runtime = process`: what all checkpoints of containers may take on the disk. When they "
            "take more, those go that were used longest ago. In MiB; 0 makes none.",
        ),
    ] = 8_192


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command line and the SDK."""

    autostart: Annotated[
        bool,
        Meta(description="Whether a command that needs a server starts one in the background when none runs here."),
    ] = True


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "worker": WorkerConfig,
    "client": ClientConfig,
}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One option as documented."""

    section: str
    name: str
    type: Any
    default: Any
    description: str

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.upper()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: where the value came from, and what to change."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, and for each field (`server.http_port`) where its value came from."""

    server: ServerConfig = ServerConfig()
    worker: WorkerConfig = WorkerConfig()
    client: ClientConfig = ClientConfig()
    origins: dict[str, str] = {}


def fields() -> Iterator[Field]:
    """Every option, in the order of the documentation."""
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind, include_extras=True)
        for info in msgspec.structs.fields(kind):
            metas = [meta for meta in get_args(hints[info.name])[1:] if isinstance(meta, Meta)]
            text = next((meta.description for meta in reversed(metas) if meta.description), "")
            yield Field(section=section, name=info.name, type=hints[info.name], default=info.default, description=text)


def load(home: Home, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a home. Flags that are None are not given.

    Raises:
        InvalidError: something is wrong; the message lists every problem with its origin.
    """
    config, problems = read(home, environ=environ, flags=flags)
    problems += check(config)
    if problems:
        raise InvalidError(
            "the configuration is not usable\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="`jitney config show` lists every value and where it came from",
        )
    return config


def read(
    home: Home, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> tuple[Config, list[Problem]]:
    """What can be read, with the default where a value is wrong, and what is wrong."""
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    tables, problems = _read_file(home.root / FILE_NAME)
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    origins: dict[str, str] = {}
    for field in fields():
        layers: list[tuple[str, Any]] = []
        if field.name in tables.get(field.section, {}):
            layers.append((f"{home.root / FILE_NAME} [{field.section}]", tables[field.section][field.name]))
        if field.env in environ:
            layers.append((field.env, environ[field.env]))
        if field.name in given:
            layers.append((f"--{field.name.replace('_', '-')}", given[field.name]))
        origins[f"{field.section}.{field.name}"] = "default"
        for origin, raw in layers:
            try:
                value = arguments.convert(raw, field.type)
            except msgspec.ValidationError as error:
                problems.append(Problem(where=origin, message=f"{field.name} = {raw!r}: {_plain(error)}"))
                continue
            values[field.section][field.name] = value
            origins[f"{field.section}.{field.name}"] = origin
    config = Config(
        server=ServerConfig(**values["server"]),
        worker=WorkerConfig(**values["worker"]),
        client=ClientConfig(**values["client"]),
        origins=origins,
    )
    return config, problems


def check(config: Config) -> list[Problem]:
    """Every value that has the right type and still cannot work."""
    problems = []
    for section, name, port in (
        ("server", "store", "store"),
        ("worker", "runtime", "runtime"),
        ("worker", "builder", "builder"),
    ):
        value = getattr(getattr(config, section), name)
        known = [*registry.names(port), *([tiers.AUTO] if port == "runtime" else [])]
        if value not in known:
            problems.append(
                Problem(
                    where=config.origins.get(f"{section}.{name}", "default"),
                    message=f"{name} = {value!r}: no such driver; there is {', '.join(known)}",
                )
            )
    url = config.worker.index_url
    if url and not url.startswith(("https://", "http://", "file://")):
        problems.append(
            Problem(
                where=config.origins.get("worker.index_url", "default"),
                message=f"index_url = {url!r}: not an address; it begins with https://, http:// or file://",
            )
        )
    problems += _check_archives(config)
    server = config.server
    problems += [
        Problem(where=config.origins.get(f"server.{name}", "default"), message=message)
        for name, message in buckets.problems(server.contents, server.contents_endpoint)
    ]
    return problems


def _check_archives(config: Config) -> list[Problem]:
    return [
        Problem(
            where=config.origins.get("worker.archives", "default"),
            message=f"archives: {word!r} is no folder; it begins with '/'",
        )
        for word in config.worker.archives.split(":")
        if word not in ("", OWN_ARCHIVES) and not word.startswith("/")
    ]


def near(name: str, known: list[str]) -> str:
    """', did you mean ...?' for a misspelt name, or ''."""
    import difflib

    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def set_in_file(path: Path, section: str, name: str, value: Any) -> None:
    """Put one value into the file, leaving its other lines and comments as they are.

    Raises:
        InvalidError: the file that is there cannot be read as TOML.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, problems = _read_file(path)
    if problems:
        raise InvalidError(str(problems[0]), hint="correct the file first")
    lines = text.splitlines()
    line = f"{name} = {_toml(value)}"
    start = next((i for i, old in enumerate(lines) if re.fullmatch(rf"\s*\[{section}\]\s*(#.*)?", old)), None)
    if start is None:
        lines += [*([""] if lines else []), f"[{section}]", line]
    else:
        end = next((i for i in range(start + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
        at = next((i for i in range(start + 1, end) if re.match(rf"\s*{name}\s*=", lines[i])), None)
        if at is None:
            lines.insert(start + 1, line)
        else:
            lines[at] = line
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def find(name: str) -> Field:
    """The option called `name` or `section.name`.

    Raises:
        InvalidError: there is none; the message has the nearest name.
    """
    known = {field.name: field for field in fields()}
    section, _, bare = name.rpartition(".")
    field = known.get(bare)
    if field is None or section not in ("", field.section):
        raise InvalidError(f"no option {name!r}{near(bare, list(known))}", hint="`jitney config show` lists them all")
    return field


def parse(field: Field, text: str) -> Any:
    """`text` as a value of the option.

    Raises:
        InvalidError: it is none.
    """
    try:
        return arguments.convert(text, field.type)
    except msgspec.ValidationError as error:
        raise InvalidError(f"{field.name} = {text!r}: {_plain(error)}") from None


def _read_file(path: Path) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Problem(where=str(path), message=f"cannot be read: {error}")]
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return {}, [Problem(where=str(path), message=f"is not TOML: {error}")]
    problems, known = [], {(field.section, field.name) for field in fields()}
    clean: dict[str, dict[str, Any]] = {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            problems.append(
                Problem(
                    where=str(path),
                    message=f"[{section}] is not a table of it; there is {', '.join(SECTIONS)}",
                )
            )
            continue
        clean[section] = table
        for name in table:
            if (section, name) not in known:
                mine = [field for of, field in known if of == section]
                problems.append(Problem(where=f"{path} [{section}]", message=f"no option {name!r}{near(name, mine)}"))
    return clean, problems


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).replace("`", "").replace("Expected", "expected", 1)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return arguments.toml(value)
    import json

    return json.dumps(str(value), ensure_ascii=False)  # a JSON string is a TOML basic string
