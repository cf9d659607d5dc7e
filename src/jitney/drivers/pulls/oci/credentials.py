"""Credentials that Docker keeps: `~/.docker/config.json`, or that of `DOCKER_CONFIG`. Helper programs are not run."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

import msgspec

from jitney.values.references import DOCKER_HUB, DOCKER_HUB_ALIASES

FILE_BYTES_MAX = 1 << 20


class Credentials(msgspec.Struct, frozen=True):
    """A name and a password, or a token to be exchanged for one that opens an image."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token)

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct):
    auths: dict[str, _Entry] = {}


def docker_config() -> Path:
    """Where Docker keeps its settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def read(path: Path, host: str, repository: str = "") -> Credentials:
    """What the file has for a registry, or for a part of it; nothing where it has none or cannot be read."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=_File)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Credentials()
    hosts = DOCKER_HUB_ALIASES if host == DOCKER_HUB else {host}
    best: tuple[int, _Entry] | None = None
    for key, entry in found.auths.items():
        where, _, path_part = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
        path_part = "" if path_part.rstrip("/") in ("v1", "v2") else path_part.rstrip("/")
        fits = not path_part or f"{repository}/".startswith(f"{path_part}/")
        if where in hosts and fits and (best is None or len(path_part) > best[0]):
            best = len(path_part), entry
    return _decoded(best[1]) if best else Credentials()


def _decoded(entry: _Entry) -> Credentials:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            username, _, password = base64.b64decode(entry.auth).decode().partition(":")
        except (binascii.Error, ValueError):
            return Credentials()
    return Credentials(username, password.strip("\0"), entry.identitytoken)
