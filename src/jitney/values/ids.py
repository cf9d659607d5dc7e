"""Ids: a prefix that tells the kind, and 22 characters of base 62 (131 bits).

Ids are made by whoever creates the thing, from entropy that is handed in: values have no dice.
"""

from __future__ import annotations

from jitney.errors import InvalidError

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 22
ENTROPY_BYTES = 16

APP = "ap"
FUNCTION = "fu"
CALL = "fc"
CONTAINER = "ta"
IMAGE = "im"
SOURCE = "so"
BUILD = "bu"
NODE = "no"
EXEC = "ex"
DICT = "di"
QUEUE = "qu"
VOLUME = "vo"
SECRET = "se"
KINDS = frozenset({APP, FUNCTION, CALL, CONTAINER, IMAGE, SOURCE, BUILD, NODE, EXEC, DICT, QUEUE, VOLUME, SECRET})


def make(kind: str, entropy: bytes) -> str:
    """The id of `kind` for 16 or more bytes of entropy (random bytes, or a digest).

    >>> make("ap", bytes(16))
    'ap-0000000000000000000000'
    """
    assert kind in KINDS
    assert len(entropy) >= ENTROPY_BYTES
    number = int.from_bytes(entropy[:ENTROPY_BYTES], "big")
    digits = []
    for _ in range(BODY_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return f"{kind}-{''.join(reversed(digits))}"


def is_id(text: str, kind: str) -> bool:
    """Whether `text` has the form of an id of `kind`. Hostile text is safe to ask about."""
    return (
        len(text) == len(kind) + 1 + BODY_LENGTH
        and text.startswith(kind + "-")
        and text.isascii()
        and text[len(kind) + 1 :].isalnum()
    )


def check(text: str, kind: str) -> str:
    """`text`, if it is an id of `kind`.

    Raises:
        InvalidError: it is not.
    """
    if not is_id(text, kind):
        raise InvalidError(f"{text[:64]!r} is not an id of the form {kind}-…")
    return text


def input_id(call_id: str, index: int) -> str:
    """The id of the input at `index` (0-based) of a call: derived, so that nobody has to store it."""
    return f"in-{call_id[3:]}-{index}"
