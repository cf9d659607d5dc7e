"""Assertions of the suites that drivers share say what they compared."""

import pytest

pytest.register_assert_rewrite("jitney.testing.conformance")
