"""Platforms for tests. Each is asked for leftovers when its tests are over: no process, no scratch folder, no socket
and no shared memory may be left of it.
"""

import os
import sys

import pytest

from jitney.client import blocking, session
from jitney.client.portal import PORTAL
from tests.e2e.platforms import Platform, load


def serve(root, home=None):
    """A platform for a fixture: at the end it is asked for its leftovers."""
    made = Platform(root, home)
    try:
        yield made
        made.end()
    finally:
        made.clean()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A platform that the tests of a module share."""
    yield from serve(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def lone(tmp_path):
    """A platform of one test's own, to break."""
    yield from serve(tmp_path)


@pytest.fixture(scope="module")
def sdk(platform, request):
    """This process is a client of the shared platform: what a test calls, a user's program would."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("JITNEY_")]:
            patch.delenv(name)
        patch.setenv("JITNEY_HOME", str(platform.home.root))
        patch.setenv("JITNEY_HTTP_PORT", "0")
        # Most programs leave word of what they did in files beside them, which a wall would hide.
        patch.setenv("JITNEY_RUNTIME", getattr(request.module, "RUNTIME", "process"))
        yield platform
        for one in session._sessions.values():
            PORTAL.call(one.close())
        session._sessions.clear()
        if blocking._mine.connection is not None:
            blocking._mine.connection.close()
            blocking._mine.connection = None


@pytest.fixture(scope="module")
def program(sdk, request):
    """The module's program (its PROGRAM), imported from the user's folder, with its app running."""
    module = load(sdk.bring(request.module.PROGRAM))
    try:
        with module.app.run():
            yield module
    finally:
        sys.modules.pop(module.__name__, None)
