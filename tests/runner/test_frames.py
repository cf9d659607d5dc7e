"""Frames of the runner's link that no runner of ours would send."""

import pytest

from jitney.runner import protocol


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(protocol.ProtocolError, match="JSON"):
        protocol.unpack_json(body)
