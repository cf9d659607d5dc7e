"""The first words on a connection, and what a refusal means: the same for both kinds of connection."""

from __future__ import annotations

import os
from typing import NamedTuple

from jitney import __version__
from jitney.errors import AuthError, ConnectionError, VersionError, from_code
from jitney.wire.messages import link as messages
from jitney.wire.messages.link import PROTOCOL, Message

GREETING_S = 10.0  # a server that has not answered by then is none


class Endpoint(NamedTuple):
    """Where a server is, and how to introduce oneself."""

    socket: str
    token: str
    token_place: str  # for a sentence: where the token comes from
    role: str = "client"


def hello(endpoint: Endpoint) -> messages.Hello:
    """The first message on a connection."""
    return messages.Hello(PROTOCOL, __version__, endpoint.token, endpoint.role, os.getpid())


def check_welcome(message: Message, endpoint: Endpoint) -> messages.Welcome:
    """The server's first message, if it is a welcome.

    Raises:
        AuthError: the token is missing or wrong.
        VersionError: the server speaks another protocol.
        JitneyError: another refusal.
    """
    if isinstance(message, messages.Welcome):
        if message.protocol != PROTOCOL:
            raise VersionError(
                f"this is Jitney {__version__}, which speaks protocol {PROTOCOL}; the server is Jitney "
                f"{message.version}, which speaks protocol {message.protocol}",
                hint=f"install jitney=={message.version} here, or restart the server with this version "
                "(`jitney down`, and it starts again when it is needed)",
            )
        return message
    if not isinstance(message, messages.Failed):
        raise ConnectionError(f"what answers at {endpoint.socket} is not a Jitney server")
    if message.code == AuthError.code:
        said = "has no token" if not endpoint.token else "has a token that the server does not accept"
        raise AuthError(
            f"this client {said}",
            hint=f"the server's token is in {endpoint.token_place}: run as the user who started the server, "
            "and with the same JITNEY_HOME",
        )
    if message.code == VersionError.code:
        raise VersionError(
            f"{message.message} (this is Jitney {__version__}, which speaks protocol {PROTOCOL})",
            hint=message.hint or "install the same version of jitney on both sides, or restart the server",
        )
    raise from_code(message.code, message.message, message.hint)


def no_server(endpoint: Endpoint, error: OSError) -> ConnectionError:
    """The error for a socket that nobody answers."""
    return ConnectionError(
        f"no Jitney server answers at {endpoint.socket} ({error.strerror or error})",
        hint="`jitney up` starts one here; `jitney doctor` says what is wrong",
    )
