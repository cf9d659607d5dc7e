"""A fake server in a folder of its own, which the SDK of this process finds by JITNEY_HOME."""

import pytest

from jitney.client import session
from jitney.client.portal import PORTAL
from jitney.testing.fake_server import FakeServer


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a server that does not run yet, and is not started by itself."""
    for name in ("JITNEY_SERVER", "JITNEY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JITNEY_AUTOSTART", "0")
    yield tmp_path / "home"
    for one in session._sessions.values():
        PORTAL.call(one.close())
    session._sessions.clear()


@pytest.fixture
def server(home):
    """A server that runs, and misbehaves when told to."""
    with FakeServer(home) as running:
        yield running


@pytest.fixture
def in_container(monkeypatch, server):
    """Makes this process look like a container of the server's app `app_id`."""
    from jitney.runner import state

    def enter(app_id: str) -> None:
        monkeypatch.setattr(
            state,
            "config",
            {
                "link_socket": str(server.home.socket()),
                "token": server.home.read_token(),
                "app_id": app_id,
                "segments": str(server.home.segments),
                "blobs": str(server.home.blobs),
            },
        )

    return enter
