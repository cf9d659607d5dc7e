"""The SQLite store obeys the contract."""

from jitney.drivers.store.sqlite import SqliteStore
from jitney.testing.conformance.store import StoreContract

BALLAST_BYTES = 64 * 1024


class TestSqliteStore(StoreContract):
    def make(self, folder):
        return SqliteStore(folder / "store.sqlite", ballast_bytes=BALLAST_BYTES)
