"""The head of an HTTP/1 request (RFC 9112): which host it asks for. Whatever two readers could see differently is
malformed."""

from __future__ import annotations

import re

from jitney.core.names import Malformed

HEAD_BYTES_MAX = 16 * 1024
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_HOST = re.compile(rb"([A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"http://([^/?#]*)([/?#].*)?", re.IGNORECASE)


def parse_host(data: bytes) -> str | None:
    """The host of the first request, in lower case; None: more is needed.

    Raises:
        Malformed: it is no request, or does not name one host.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise Malformed("too long a head")
        return None
    if end > HEAD_BYTES_MAX:
        raise Malformed("too long a head")
    first, *lines = data[:end].split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise Malformed("no request of HTTP/1")
    hosts = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Malformed("a line that is no header")
        if header[1].lower() == b"host":
            hosts.append(header[2])
    if len(hosts) != 1:
        raise Malformed("it names no host, or several")
    host = _host(hosts[0])
    target = request[2]
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute and _host(absolute[1]) != host:
        raise Malformed("it names two hosts")
    if not absolute and not target.startswith(b"/") and target != b"*":
        raise Malformed("a target that is no path")
    return host


def _host(value: bytes) -> str:
    found = _HOST.fullmatch(value)
    if found is None:
        raise Malformed("it names no host")
    return found[1].decode("ascii").lower().removesuffix(".")
