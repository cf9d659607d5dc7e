"""What is sealed opens with its key, its nonce and its context, and with nothing else."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jitney.core.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    Unsealable,
    context,
    seal,
    seal_key,
    unseal,
    unseal_key,
)

keys = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
plains = st.binary(max_size=200)
parts = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


@given(plains, keys, nonces, parts)
def test_what_is_sealed_opens(plain, key, nonce, about):
    sealed = seal(plain, key, nonce, context(*about))
    assert unseal(sealed, key, nonce, context(*about)) == plain
    assert unseal_key(seal_key(plain, key, nonce, b""), key, b"") == plain
    if len(plain) > 4:
        assert plain not in sealed


@given(plains, keys, nonces, st.data())
def test_any_change_is_found_out(plain, key, nonce, data):
    sealed = seal(plain, key, nonce, b"about")
    place = data.draw(st.integers(0, len(sealed) * 8 - 1))
    changed = bytearray(sealed)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(Unsealable):
        unseal(bytes(changed), key, nonce, b"about")
    with pytest.raises(Unsealable):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))], key, nonce, b"about")
    with pytest.raises(Unsealable):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=3)), key, nonce, b"about")


@given(plains, keys, keys, nonces, nonces)
def test_another_key_or_nonce_does_not_open_it(plain, key, other, nonce, another):
    assume(key != other and nonce != another)
    sealed = seal(plain, key, nonce, b"")
    for wrong in ((other, nonce), (key, another), (key[:16], nonce), (key, nonce[:8])):
        with pytest.raises(Unsealable):
            unseal(sealed, *wrong, b"")


@given(keys, nonces, parts, parts)
def test_another_context_does_not_open_it(key, nonce, about, other):
    assume([*map(str, about)] != [*map(str, other)])
    assert context(*about) != context(*other)
    with pytest.raises(Unsealable):
        unseal(seal(b"x", key, nonce, context(*about)), key, nonce, context(*other))
