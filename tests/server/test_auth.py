"""Who gets in: the secret for clients and workers, derived tokens for containers, one protocol."""

from __future__ import annotations

import pytest

from jitney.errors import AuthError, VersionError
from jitney.server.auth import Auth
from jitney.values import ids
from jitney.wire.messages.link import PROTOCOL, Hello

SECRET = "s" * 43
CONTAINER = ids.make(ids.CONTAINER, bytes(range(16)))
OTHER = ids.make(ids.CONTAINER, bytes(16))


@pytest.fixture
def auth() -> Auth:
    return Auth(SECRET, "1.2.3", "boot")


@pytest.mark.parametrize("role", ["client", "worker"])
def test_the_secret_lets_clients_and_workers_in(auth, role):
    assert auth.admit(Hello(PROTOCOL, "1.2.3", SECRET, role)).boot_id == "boot"


@pytest.mark.parametrize("role", ["client", "worker", "container", "admin", ""])
@pytest.mark.parametrize("token", ["", "wrong", SECRET[:-1], SECRET + "x", f"{OTHER}.{'0' * 64}", "ü" * 43, "."])
def test_anything_else_does_not(auth, role, token):
    with pytest.raises(AuthError):
        auth.admit(Hello(PROTOCOL, "1.2.3", token, role))


def test_a_container_has_a_token_of_its_own_and_no_other_rights(auth):
    token = auth.container_token(CONTAINER)
    assert auth.admit(Hello(PROTOCOL, "1.2.3", token, "container"))
    assert auth.is_container_token(CONTAINER, token)
    assert not auth.is_container_token(OTHER, token)
    for role in ("client", "worker"):
        with pytest.raises(AuthError):
            auth.admit(Hello(PROTOCOL, "1.2.3", token, role))
    with pytest.raises(AuthError):
        auth.admit(Hello(PROTOCOL, "1.2.3", SECRET, "container"))


def test_the_token_survives_a_restart_of_the_server(auth):
    assert Auth(SECRET, "1.2.4", "another").container_token(CONTAINER) == auth.container_token(CONTAINER)


@pytest.mark.parametrize("protocol, older", [(PROTOCOL - 1, "client"), (PROTOCOL + 1, "server")])
def test_another_protocol_is_refused_with_both_versions(auth, protocol, older):
    with pytest.raises(VersionError) as caught:
        auth.admit(Hello(protocol, "9.9", SECRET))
    assert "1.2.3" in str(caught.value)
    assert "9.9" in str(caught.value)
    assert f"the {older} is older" in str(caught.value)
