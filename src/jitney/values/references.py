"""References to images as Docker knows them: `python:3.12-slim`, `ghcr.io/owner/name@sha256:…`, `localhost:5000/x`.

The first part is a registry if it has a dot or a colon, or is `localhost`; otherwise the registry is Docker Hub, where
official images live below `library/`. Without tag and digest, the tag is `latest`. With both, the digest decides.
"""

from __future__ import annotations

import re

import msgspec

from jitney.errors import InvalidError

DOCKER_HUB = "docker.io"
DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
REFERENCE_CHARS_MAX = 512
REPOSITORY_CHARS_MAX = 255
PORT_MAX = 65_535

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a registry, in full. `tag` or `digest` is set; where both are, the digest decides."""

    host: str  # "docker.io", "localhost:5000"
    repository: str  # "library/python"
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"

    @property
    def wanted(self) -> str:
        """What a registry is asked for."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """The image that `text` means.

    >>> str(parse("python"))
    'docker.io/library/python:latest'
    >>> str(parse("localhost:5000/a/b:v1"))
    'localhost:5000/a/b:v1'

    Raises:
        InvalidError: it means none.
    """
    if len(text) > REFERENCE_CHARS_MAX or not text.isascii():
        raise _wrong(text, "it is too long" if text.isascii() else "only ASCII is allowed")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _wrong(text, "a digest is 'sha256:' and 64 characters of 0-9 and a-f")
    host, rest = _split_host(rest)
    name, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag has letters, digits, '_', '.' and '-', 128 at most")
    if not _HOST.fullmatch(host) or int(_port(host) or 1) not in range(1, PORT_MAX + 1):
        raise _wrong(text, f"{host!r} is no registry")
    if host in DOCKER_HUB_ALIASES:
        host = DOCKER_HUB
        name = name if "/" in name or not name else OFFICIAL + name
    if not _REPOSITORY.fullmatch(name) or len(name) > REPOSITORY_CHARS_MAX:
        upper = ": names are lower case" if name.lower() != name else ""
        raise _wrong(text, f"{name[:80]!r} is no repository{upper}")
    if not digest and not tag:
        tag = DEFAULT_TAG
    return Reference(host=host, repository=name, tag=tag, digest=digest)


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of a kind that can be checked here."""
    return _DIGEST.fullmatch(text) is not None


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    return (first, rest) if is_host else (DOCKER_HUB, text)


def _port(host: str) -> str:
    return host.rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""


def _wrong(text: str, why: str) -> InvalidError:
    return InvalidError(
        f"{text[:100]!r} is not the name of an image: {why}",
        hint="write it as for `docker pull`: 'python:3.12-slim', 'ghcr.io/owner/name:tag'",
    )
