"""Steps of image builds behind the same wall as containers."""

from __future__ import annotations

from jitney.drivers.box.namespaces.driver import NamespacesBox as NamespacesBox
