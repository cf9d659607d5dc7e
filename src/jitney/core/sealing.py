"""Sealing: AES-256-GCM with a context, which whoever opens must name again.

What is sealed for one context opens for no other: a row that was put in another's place is found out, as is any change.
Keys and nonces are arguments. A nonce is used once with a key: data keys seal one thing each, and keys that wrap data
keys have random nonces of 96 bits.
"""

from __future__ import annotations

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class Unsealable(Exception):
    """It was not sealed with this key for this context, or was changed since."""


def context(*parts: str | int) -> bytes:
    """Parts, so that no other parts give the same.

    >>> context("ab", "c") == context("a", "bc")
    False
    """
    return b"".join(f"{len(text)}:{text};".encode() for text in map(str, parts))


def seal(plain: bytes, key: bytes, nonce: bytes, about: bytes) -> bytes:
    """`plain`, unreadable without the key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    assert len(key) == KEY_BYTES
    assert len(nonce) == NONCE_BYTES
    return AESGCM(key).encrypt(nonce, plain, about)


def unseal(sealed: bytes, key: bytes, nonce: bytes, about: bytes) -> bytes:
    """What was sealed.

    Raises:
        Unsealable: not with this key, this nonce and for this context.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES or len(sealed) < TAG_BYTES:
        raise Unsealable("it has not the form of something sealed")
    try:
        return AESGCM(key).decrypt(nonce, sealed, about)
    except InvalidTag:
        raise Unsealable("it was sealed with another key or for something else, or was changed") from None


def seal_key(data_key: bytes, key: bytes, nonce: bytes, about: bytes) -> bytes:
    """A data key, wrapped: the nonce goes with it."""
    return nonce + seal(data_key, key, nonce, about)


def unseal_key(sealed: bytes, key: bytes, about: bytes) -> bytes:
    """A data key that `seal_key` has wrapped.

    Raises:
        Unsealable: not by this key for this context.
    """
    return unseal(sealed[NONCE_BYTES:], key, sealed[:NONCE_BYTES], about)
