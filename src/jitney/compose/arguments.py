"""Options that are lists of arguments: a program and what it is given, with no shell between.

In `config.toml` such an option is a list; in the environment and on the command line it is the same as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

# What the options say of themselves.
KEY_COMMAND = (
    "A command that gives the key which the keys of secrets are sealed with, from a vault or a key management service: "
    '`["vault", "kv", "get", "-field=key", "secret/jitney"]`. It prints 32 bytes, as they are or in Base64. '
    "Empty: the file `secrets.key` in the server's folder is all that is needed."
)
KEY_COMMAND_BEFORE = (
    "The command whose key sealed them before, while `secrets_key_command` gives another one; "
    "`jitney secret rotate-key` seals all anew, and then it can go."
)


def convert(raw: Any, kind: Any) -> Any:
    """A value as it was given, as an option has it.

    Raises:
        ValidationError: it cannot be one.
    """
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            return msgspec.convert(msgspec.json.decode(raw), kind)
        except msgspec.DecodeError:
            pass  # it is a text, then
    return msgspec.convert(raw, kind, strict=not isinstance(raw, str))


def toml(value: Sequence[str]) -> str:
    """A list as TOML: strings of JSON are strings of TOML."""
    return f"[{', '.join(json.dumps(one, ensure_ascii=False) for one in value)}]"
