"""The bucket that files of volumes, and contents of shipped sources, are kept in, as it is configured: read where it is
used, and nowhere written."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jitney.core import dotenv
from jitney.errors import InvalidError

if TYPE_CHECKING:
    from jitney.compose.config import ServerConfig
    from jitney.drivers.s3.bucket import Settings

LOCAL = "localdir"
SCHEME = "s3://"
VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)

# What the options say of themselves.
CONTENTS = (
    "Where files of volumes and shipped sources are kept: `localdir`, in the server's folder; or "
    "`s3://bucket/prefix`, a bucket (`pip install 'jitney[s3]'`) whose prefix is for this server alone. Files do not "
    "move from one to the other: set it before there are volumes."
)
ENDPOINT = "Address of the bucket's server, such as `https://s3.example.org`. Empty is AWS."
REGION = "Region of the bucket. Empty is AWS_REGION of the environment, or `us-east-1`."
CREDENTIALS = (
    "A file that only you may read, with AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=... (and AWS_SESSION_TOKEN). "
    "Empty takes them from the environment that the server is started in, or else from the machine's role."
)

PROGRAM = (
    "Program that mounts buckets for containers (`CloudBucketMount`). `auto` takes the first that is there, in that "
    "order: the how-to on buckets says what each is good at."
)


def is_bucket(contents: str) -> bool:
    """Whether files of volumes and sources are in a bucket."""
    return contents.startswith(SCHEME)


def problems(contents: str, endpoint: str) -> list[tuple[str, str]]:
    """What is wrong with settings: (name, message)."""
    found = []
    if is_bucket(contents):
        from jitney.drivers.s3 import address

        try:
            address.parse(contents)
        except InvalidError as error:
            found.append(("contents", f"contents = {contents!r}: {error}"))
    elif contents != LOCAL:
        found.append(("contents", f"contents = {contents!r}: it is {LOCAL!r} or begins with {SCHEME}"))
    url = urlsplit(endpoint)
    if endpoint and (url.scheme not in ("http", "https") or not url.hostname or url.username is not None):
        message = "not an address; it begins with https:// or http://, and has no user in it"
        found.append(("contents_endpoint", f"contents_endpoint: {message}"))
    return found


def settings(config: ServerConfig, environ: Mapping[str, str]) -> Settings:
    """How the bucket is reached.

    Raises:
        InvalidError: the file of credentials cannot be used.
    """
    from jitney.drivers.s3 import address
    from jitney.drivers.s3.bucket import Settings

    credentials = {name: environ[name] for name in VARIABLES if environ.get(name)}
    if config.contents_credentials:
        credentials = read_credentials(Path(config.contents_credentials).expanduser())
    return Settings(
        address.parse(config.contents), config.contents_endpoint, config.contents_region, credentials=credentials
    )


def read_credentials(path: Path) -> dict[str, str]:
    """The variables of a file. Messages show nothing of it.

    Raises:
        InvalidError: it cannot be read, others may read it, or something is missing.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1 << 20).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidError(f"contents_credentials: {path} cannot be read: {reason}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidError(f"contents_credentials: others may read {path}", hint=f"chmod 600 {path}")
    found = {name: value for name, value in dotenv.parse(text, str(path)).items() if name in VARIABLES}
    for name in VARIABLES[:2]:
        if not found.get(name):
            raise InvalidError(f"contents_credentials: {path} has no {name}", hint=f"write a line {name}=...")
    return found


def near(folder: Path, config: ServerConfig) -> Path:
    """Where contents of this bucket are near: what was near of another one is of no use, and goes."""
    name = hashlib.sha256(f"{config.contents_endpoint} {config.contents.rstrip('/')}".encode()).hexdigest()[:12]
    for other in folder.glob("*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return folder / name


def owner(path: Path) -> str:
    """The id of this server folder, which its prefix in a bucket belongs to; made when it is first asked for."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(os.urandom(16).hex(), encoding="ascii")
    try:
        os.link(partial, path)  # what another has just made stays
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    return path.read_text(encoding="ascii")


def look(config: ServerConfig, environ: Mapping[str, str]) -> str:
    """Ask the bucket for something: what is there.

    Raises:
        JitneyError: what is wrong.
    """
    import asyncio

    from jitney.drivers.s3.bucket import Bucket

    async def ask() -> list[str]:
        return await Bucket(settings(config, environ)._replace(patience_s=3.0, answer_s=5.0)).folders()

    return ", ".join(asyncio.run(ask()))
