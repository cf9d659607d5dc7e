"""What every ring of keys must do. Numbers in the names are those of the sentences in ports.keys."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from jitney.core.sealing import KEY_BYTES, Unsealable, context
from jitney.errors import EncryptionKeyError
from jitney.ports.keys import KeyRing
from jitney.testing.conformance.running import Run, Running
from jitney.values.secrets import Wrapped

DATA_KEY = bytes(range(KEY_BYTES))
ABOUT = context("se-1", "name", 1)


class KeyContract(Running):
    """Subclass and say how a ring is made, and how all of its keys get lost."""

    def make(self, folder: Path) -> KeyRing:
        """The ring of this folder: a new one, or the one that was made there."""
        raise NotImplementedError

    def lose(self, folder: Path) -> None:
        """All keys go."""
        raise NotImplementedError

    @pytest.fixture
    def keys(self, tmp_path: Path) -> KeyRing:
        """A new ring."""
        return self.make(tmp_path)

    def test_1_what_is_wrapped_is_unwrapped_for_its_context_only(self, keys: KeyRing, run: Run) -> None:
        wrapped = run(keys.wrap(DATA_KEY, ABOUT))
        assert run(keys.unwrap(wrapped, ABOUT)) == DATA_KEY
        for about in (context("se-2", "name", 1), context("se-1", "other", 1), context("se-1", "name", 2), b""):
            with pytest.raises(Unsealable):
                run(keys.unwrap(wrapped, about))

    def test_1_a_change_of_what_is_wrapped_is_found_out(self, keys: KeyRing, run: Run) -> None:
        wrapped = run(keys.wrap(DATA_KEY, ABOUT))
        for place in range(0, len(wrapped.sealed), 7):
            changed = bytearray(wrapped.sealed)
            changed[place] ^= 1
            with pytest.raises(Unsealable):
                run(keys.unwrap(Wrapped(key_id=wrapped.key_id, sealed=bytes(changed)), ABOUT))
        for size in (0, 5, len(wrapped.sealed) - 1):
            with pytest.raises(Unsealable):
                run(keys.unwrap(Wrapped(key_id=wrapped.key_id, sealed=wrapped.sealed[:size]), ABOUT))

    def test_1_a_key_that_is_not_there_is_told(self, keys: KeyRing, run: Run, tmp_path: Path) -> None:
        wrapped = run(keys.wrap(DATA_KEY, ABOUT))
        with pytest.raises(EncryptionKeyError, match="other"):
            run(keys.unwrap(Wrapped(key_id="other", sealed=wrapped.sealed), ABOUT))
        self.lose(tmp_path)
        with pytest.raises(EncryptionKeyError, match=wrapped.key_id) as told:
            run(self.make(tmp_path).unwrap(wrapped, ABOUT))
        assert told.value.hint

    def test_2_two_wraps_differ_and_have_one_key(self, keys: KeyRing, run: Run) -> None:
        async def together() -> list[Wrapped]:
            return await asyncio.gather(*(keys.wrap(DATA_KEY, ABOUT) for _ in range(5)))

        wraps = run(together())
        assert len({one.key_id for one in wraps}) == 1
        assert len({one.sealed for one in wraps}) == 5

    def test_3_a_rotation_leaves_what_was_wrapped_before(self, keys: KeyRing, run: Run, tmp_path: Path) -> None:
        before = run(keys.wrap(DATA_KEY, ABOUT))
        new = run(keys.rotate())
        after = run(keys.wrap(DATA_KEY, ABOUT))
        assert (after.key_id, before.key_id != new) == (new, True)
        again = self.make(tmp_path)
        assert [run(again.unwrap(one, ABOUT)) for one in (before, after)] == [DATA_KEY] * 2

    def test_3_a_new_ring_can_be_rotated(self, keys: KeyRing, run: Run) -> None:
        new = run(keys.rotate())
        assert run(keys.wrap(DATA_KEY, ABOUT)).key_id == new

    def test_4_retiring_forgets_all_but_what_is_kept_and_the_current_one(self, keys: KeyRing, run: Run) -> None:
        first, second = run(keys.wrap(DATA_KEY, ABOUT)), run(keys.rotate())
        third = run(keys.rotate())
        assert run(keys.retire([first.key_id])) == 1
        assert run(keys.missing([first.key_id, second, third])) == {second}
        assert run(keys.unwrap(first, ABOUT)) == DATA_KEY
        assert run(keys.retire([])) == 1
        assert run(keys.missing([first.key_id, third])) == {first.key_id}
        assert run(keys.retire([])) == 0

    def test_5_asking_what_is_missing_makes_nothing(self, keys: KeyRing, run: Run) -> None:
        asked: Collection[str] = ["nobody's"]
        assert run(keys.missing(asked)) == {"nobody's"}
        assert run(keys.retire(asked)) == 0
        assert run(keys.missing([])) == set()

    def test_6_keys_outlive_the_ring(self, keys: KeyRing, run: Run, tmp_path: Path) -> None:
        wrapped = run(keys.wrap(DATA_KEY, ABOUT))
        again = self.make(tmp_path)
        assert run(again.unwrap(wrapped, ABOUT)) == DATA_KEY
        assert run(again.wrap(DATA_KEY, ABOUT)).key_id == wrapped.key_id

    def test_8_no_key_is_in_a_repr(self, keys: KeyRing, run: Run) -> None:
        wrapped = run(keys.wrap(DATA_KEY, ABOUT))
        assert DATA_KEY.hex() not in repr((keys, wrapped))
        assert repr(DATA_KEY) not in repr((keys, wrapped))
