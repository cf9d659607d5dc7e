"""The lender in folders, by the contract of its port. (The worker's: tests/worker/test_lending.py.)"""

import pytest

from jitney.testing.conformance.lending import VOLUME, LendingContract
from jitney.testing.lending import FakeLender


class FakeStage:
    def __init__(self, folder):
        self.folder = folder
        self._lender = FakeLender(folder / "volumes")
        self._lender.make(VOLUME)
        self._made = 0

    def lender(self):
        return self._lender

    def put(self, **files):
        folder = self.upper()
        for name, text in files.items():
            (folder / name).write_text(text)
        self._lender.add(VOLUME, folder)

    def files(self):
        return self._lender.files(VOLUME)

    def messages(self):
        return self._lender.messages(VOLUME)

    def upper(self):
        self._made += 1
        folder = self.folder / f"upper-{self._made}"
        folder.mkdir()
        return folder


class TestFake(LendingContract):
    @pytest.fixture
    def stage(self, tmp_path):
        return FakeStage(tmp_path)
