"""The model obeys the contract, and misbehaves on request."""

import asyncio

import pytest

from jitney.drivers.store.memory import MemoryStore
from jitney.errors import StorageError
from jitney.testing.conformance.store import StoreContract, call, call_id, inputs


class TestMemoryStore(StoreContract):
    def make(self, folder):
        return MemoryStore()


@pytest.mark.parametrize("applied", [False, True])
def test_the_nth_operation_fails_as_told(applied):
    async def story():
        store = MemoryStore()
        store.fail(2, StorageError("told so"), applied=applied)
        await store.calls.spawn(call(1), inputs(1, 0, 1))
        with pytest.raises(StorageError, match="told so"):
            await store.calls.spawn(call(2), inputs(2, 0, 1))
        return await store.calls.get(call_id(2))

    assert (asyncio.run(story()) is not None) == applied
