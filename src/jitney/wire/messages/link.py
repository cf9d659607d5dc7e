"""Messages on a link: one Unix socket (same machine) between a peer and the server, both ways, in frames.

A link carries three things: requests of the table in `wire.methods` with their answers, streams of events that a
request opened, and calls, which are the hot path. The first message of a peer is `Hello`; the server answers `Welcome`
or `Failed(id=0)` and closes.

Calls. `Invoke` is a call of one input; `OpenCall`, `Inputs`..., `EndInputs` one of many. Results come as `Outputs`, in
any order. Indices count from 0. The client keeps each input until it has its output: after a break it opens the call
again with the same id and sends what is outstanding; the server takes (call_id, index) that it knows as a repeat.
`Refused` gives inputs back: the client waits `retry_after_ms` and sends them again.
"""

from __future__ import annotations

import msgspec

from jitney.values.calls import CallKind, Output

PROTOCOL = 1  # raised when an older peer could not understand; see Hello


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all; the tag of each is its number on the wire."""


class Hello(Message, frozen=True, tag=1):
    """Who connects. `role` is 'client' or 'worker' (or 'container': a client inside a function)."""

    protocol: int
    version: str
    token: str
    role: str = "client"
    pid: int = 0


class Welcome(Message, frozen=True, tag=2):
    """The server knows the token. `boot_id` differs after each start of the server."""

    protocol: int
    version: str
    boot_id: str


class Request(Message, frozen=True, tag=3):
    """Ask method `method`; answered by `Answer` or `Failed` with the same id; streams also send `Event`s before."""

    id: int
    method: str
    body: bytes


class Answer(Message, frozen=True, tag=4):
    id: int
    body: bytes


class Failed(Message, frozen=True, tag=5):
    """A typed error: see errors.BY_CODE."""

    id: int
    code: str
    message: str
    hint: str = ""


class Event(Message, frozen=True, tag=6):
    """One event of the stream that request `id` opened."""

    id: int
    body: bytes


class CancelRequest(Message, frozen=True, tag=7):
    """The peer no longer wants the answer or the stream."""

    id: int


class Received(Message, frozen=True, tag=8):
    """The peer has the answer to request `id`: what it held is the peer's now. See messages.queues."""

    id: int


class Invoke(Message, frozen=True, tag=10):
    """A connected call of one input (index 0)."""

    call_id: str
    function_id: str
    method: str
    kind: CallKind  # UNARY or GENERATOR
    payload: bytes


class OpenCall(Message, frozen=True, tag=11):
    """A connected call of many inputs."""

    call_id: str
    function_id: str
    method: str
    kind: CallKind = CallKind.MAP


class Inputs(Message, frozen=True, tag=12):
    call_id: str
    first_index: int
    payloads: list[bytes]


class EndInputs(Message, frozen=True, tag=13):
    call_id: str
    total: int


class CancelCall(Message, frozen=True, tag=14):
    """Stop a connected call; its results are no longer wanted."""

    call_id: str
    terminate_containers: bool = False


class Credit(Message, frozen=True, tag=15):
    """The reader of a generator has taken `items` more: the generator may run as far ahead again."""

    call_id: str
    items: int


class Outputs(Message, frozen=True, tag=20):
    call_id: str
    outputs: list[Output]


class Items(Message, frozen=True, tag=21):
    """Yielded values of a generator call, in order."""

    call_id: str
    first: int
    payloads: list[bytes]


class Refused(Message, frozen=True, tag=22):
    """Inputs `first_index`, +1, ... `count` were not taken. `retry_after_ms=0`: never will be, see the code."""

    call_id: str
    first_index: int
    count: int
    code: str
    message: str
    hint: str = ""
    retry_after_ms: int = 0


FromPeer = Hello | Request | CancelRequest | Received | Invoke | OpenCall | Inputs | EndInputs | CancelCall | Credit
FromServer = Welcome | Answer | Failed | Event | Outputs | Items | Refused
