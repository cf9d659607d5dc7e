"""Who may connect: one secret per server folder, and tokens of containers made from it.

A container's token is `<container id>.<HMAC-SHA256(secret, container id)>`: nothing has to be stored for it, so it can
be checked after a restart too. Comparisons take constant time.
"""

from __future__ import annotations

import hashlib
import hmac

from jitney.errors import AuthError, VersionError
from jitney.values import ids
from jitney.wire.messages import link as m

ROLES = frozenset({"client", "worker", "container"})


class Auth:
    """Checks tokens against the server's secret."""

    def __init__(self, secret: str, version: str, boot_id: str) -> None:
        assert len(secret) >= 32
        self._secret = secret.encode()
        self._version = version
        self._boot_id = boot_id

    def container_token(self, container_id: str) -> str:
        """The token of a container."""
        mac = hmac.new(self._secret, container_id.encode(), hashlib.sha256).hexdigest()
        return f"{container_id}.{mac}"

    def is_container_token(self, container_id: str, token: str) -> bool:
        """Whether `token` is that of the container."""
        return hmac.compare_digest(token.encode(), self.container_token(container_id).encode())

    def is_secret(self, token: str) -> bool:
        """Whether `token` is the server's secret."""
        return hmac.compare_digest(token.encode(), self._secret)

    def admit(self, hello: m.Hello) -> m.Welcome:
        """Let a peer in.

        Raises:
            VersionError: it speaks another protocol. AuthError: the token is not right for its role.
        """
        if hello.protocol != m.PROTOCOL:
            older, newer = ("client", "server") if hello.protocol < m.PROTOCOL else ("server", "client")
            raise VersionError(
                f"this server is Jitney {self._version} (protocol {m.PROTOCOL}), "
                f"the {hello.role} is {hello.version} (protocol {hello.protocol})",
                hint=f"the {older} is older than the {newer}: update it, or run `jitney down` and try again",
            )
        if not hello.token:
            raise AuthError("no token was sent", hint="it is in the file `token` of the server's folder (JITNEY_HOME)")
        if not self._is_right(hello):
            raise AuthError(
                "the token is not that of this server",
                hint="it is in the file `token` of the server's folder; is JITNEY_HOME the same on both sides?",
            )
        return m.Welcome(m.PROTOCOL, self._version, self._boot_id)

    def _is_right(self, hello: m.Hello) -> bool:
        if hello.role == "container":
            container_id = hello.token.partition(".")[0]
            return ids.is_id(container_id, ids.CONTAINER) and self.is_container_token(container_id, hello.token)
        return hello.role in ROLES and self.is_secret(hello.token)
