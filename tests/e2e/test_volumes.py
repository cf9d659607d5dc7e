"""Volumes, as a user has them: functions in containers behind walls share one."""

import pytest

from jitney.drivers.walls.probe import probe
from tests.e2e.platforms import Platform

WHY_NOT = probe().why
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")]


def test_containers_share_a_volume(lone: Platform):
    lone.environment |= {"JITNEY_RUNTIME": "namespaces"}
    lone.bring("volumes.py")
    out = lone.jitney("run", "volumes.py").out
    assert "close its files" in out
    assert "['a.txt', 'c.txt', 'code', 'code/volumes.py', 'd.txt', 'deep', 'deep/b.txt']" in out
