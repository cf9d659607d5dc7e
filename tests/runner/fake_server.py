"""The server's side of the runner link, small, for tests: it hands out inputs and keeps whatever comes back.

It can misbehave: hang up (`ContainerLink.hang_up`), be away (`FakeServer.stop_listening`), or reject.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from jitney.runner import payload, protocol

WAIT_S = 20.0
CALL = "fc-" + "0" * 22


def arguments(*args: Any, **kwargs: Any) -> bytes:
    """An input's payload."""
    return payload.encode((args, kwargs), pool=None, blobs=None, inline_max=payload.INLINE_BYTES_MAX)


class ContainerLink:
    """What one container said, and what to say to it."""

    _tokens = itertools.count(1)

    def __init__(self, server: FakeServer, name: str) -> None:
        self.server = server
        self.name = name
        self.hellos: list[dict[str, Any]] = []
        self.ready: list[dict[str, Any]] = []
        self.results: dict[int, protocol.Result] = {}
        self.result_counts: dict[int, int] = {}
        self.items: dict[int, list[bytes]] = {}
        self.recalled: list[list[int]] = []
        self.frames = 0  # RESULTS frames
        self.failed: bytes | None = None
        self.said_bye = False
        self.sock: socket.socket | None = None

    # ------------------------------------------------------------------ to the container

    def run(
        self,
        *inputs: bytes,
        method: str = "",
        durable: bool = False,
        batch: bool = False,
        first_index: int = 0,
    ) -> list[int]:
        """Hand out inputs of one call; their tokens."""
        header = protocol.run_header(CALL, method, durable)
        if batch:  # a batch may be of several calls
            header = json.dumps({"calls": [CALL] * len(inputs), "method": method, "durable": durable}).encode()
        table = [protocol.RunInput(next(self._tokens), first_index + n, 1, data) for n, data in enumerate(inputs)]
        self.send(protocol.pack_run(header, table, batch=batch))
        return [item.token for item in table]

    def cancel(self, *tokens: int) -> None:
        """Cancel inputs; a container that runs user code needs a SIGURG as well."""
        self.send(protocol.pack_tokens(protocol.CANCEL, list(tokens)))

    def recall(self, *tokens: int) -> None:
        """Ask for inputs back."""
        self.send(protocol.pack_tokens(protocol.RECALL, list(tokens)))

    def credit(self, token: int, items: int) -> None:
        """Let a generator go on."""
        self.send(protocol.pack_credit(token, items))

    def stop(self, grace_ms: int = 1_000) -> None:
        """Ask it to drain and end."""
        self.send(protocol.pack_json(protocol.STOP, {"grace_ms": grace_ms}))

    def send(self, frame: bytes) -> None:
        """Any frame."""
        assert self.sock is not None
        self.sock.sendall(frame)

    def hang_up(self) -> None:
        """Break the connection."""
        assert self.sock is not None
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------------ from the container

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is true of what has arrived, and give it."""
        return self.server.wait(condition)

    def wait_ready(self) -> ContainerLink:
        """Wait for READY (or FAILED, which fails the test with its text)."""
        self.wait(lambda: self.ready or self.failed)
        if self.failed is not None:
            info = payload.decode_failure(self.failed)
            raise AssertionError(f"start-up failed: {info.message}\n{info.traceback}")
        return self

    def result(self, token: int) -> protocol.Result:
        """Wait for the result of an input."""
        self.wait(lambda: token in self.results)
        return self.results[token]

    def value(self, token: int) -> Any:
        """Wait for the value of an input; its failure fails the test."""
        result = self.result(token)
        if result.status != protocol.SUCCESS:
            info = payload.decode_failure(result.payload)
            raise AssertionError(f"{info.type_name}: {info.message}\n{info.traceback}")
        return payload.decode(result.payload, pool=self.server.pool, blobs=self.server.blobs)

    def failure(self, token: int) -> payload.FailureInfo:
        """Wait for the failure of an input."""
        result = self.result(token)
        assert result.status == protocol.FAILURE
        return payload.decode_failure(result.payload)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run one input and wait for its value."""
        return self.value(self.run(arguments(*args, **kwargs))[0])

    def yielded(self, token: int) -> list[Any]:
        """The items of a generator so far."""
        return [payload.decode(item, pool=self.server.pool) for item in self.items.get(token, [])]


class FakeServer:
    """Listens at `path`; each container that says HELLO has a ContainerLink in `containers`."""

    def __init__(self, path: str, *, pool: Any = None, blobs: str | None = None) -> None:
        self.path = path
        self.pool = pool
        self.blobs = blobs
        self.containers: dict[str, ContainerLink] = {}
        self.reject: str | None = None
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self) -> None:
        """Be there (again)."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._spawn(self._accept, self._listener)

    def stop_listening(self) -> None:
        """Be away: connections that exist stay."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """End all connections."""
        self.stop_listening()
        for container in self.containers.values():
            if container.sock is not None:
                container.hang_up()
        for thread in self._threads:
            thread.join(WAIT_S)

    def container(self, name: str) -> ContainerLink:
        """Wait for a container's HELLO."""
        self.wait(lambda: name in self.containers)
        return self.containers[name]

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is true of what has arrived, and give it."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while not (found := condition()):
                left = deadline - time.monotonic()
                assert left > 0, "what the test waits for did not arrive"
                self._changed.wait(left)
            return found

    # ------------------------------------------------------------------

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        splitter = protocol.Splitter()
        container: ContainerLink | None = None
        with sock:
            while True:
                try:
                    data = sock.recv(256 * 1024)
                except OSError:
                    return
                if not data:
                    return
                frames = splitter.feed(data)
                with self._changed:
                    for kind, body in frames:
                        if container is None:
                            container = self._hello(sock, kind, body)
                        else:
                            _take(container, kind, body)
                    self._changed.notify_all()

    def _hello(self, sock: socket.socket, kind: int, body: bytes) -> ContainerLink:
        assert kind == protocol.HELLO
        hello = protocol.unpack_json(body)
        container = self.containers.setdefault(hello["container"], ContainerLink(self, hello["container"]))
        container.hellos.append(hello)
        container.sock = sock
        if self.reject is not None:
            sock.sendall(protocol.pack_json(protocol.REJECT, {"reason": self.reject}))
        else:
            with contextlib.suppress(OSError):  # gone already
                sock.sendall(protocol.pack_json(protocol.WELCOME, {}))
        return container


def _take(container: ContainerLink, kind: int, body: bytes) -> None:
    if kind == protocol.READY:
        container.ready.append(protocol.unpack_json(body))
    elif kind == protocol.RESULTS:
        container.frames += 1
        for result in protocol.unpack_results(body):
            container.results[result.token] = result
            container.result_counts[result.token] = container.result_counts.get(result.token, 0) + 1
    elif kind == protocol.ITEMS:
        token, first, payloads = protocol.unpack_items(body)
        items = container.items.setdefault(token, [])
        assert first == len(items), "items come in order, without gaps"
        items += payloads
    elif kind == protocol.RECALLED:
        container.recalled.append(protocol.unpack_tokens(body))
    elif kind == protocol.FAILED:
        container.failed = body
    elif kind == protocol.BYE:
        container.said_bye = True
    else:
        raise AssertionError(f"a frame of unknown kind {kind}")
