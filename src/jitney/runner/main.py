"""The life of a container, from its link to its exit code."""

from __future__ import annotations

import os
import signal
import sys
from time import monotonic
from typing import Any

from jitney.runner import protocol, snapshot
from jitney.runner.failures import encode_failure
from jitney.runner.inbox import Inbox
from jitney.runner.invoke import Invoker, Values, note
from jitney.runner.link import Link, LinkLost
from jitney.runner.load import Loaded, load
from jitney.runner.outbox import Outbox
from jitney.runner.process import guard_forks, remember
from jitney.runner.serial import SerialExecutor
from jitney.runner.state import InputCancellation

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_TERMINATED = 143  # as a shell shows SIGTERM


class Container:
    """One container: what it says of itself, and its parts."""

    def __init__(self, config: dict[str, Any], started_s: float) -> None:
        self.config = config
        self.started_s = started_s
        self.ready = b""  # the READY frame, once it is
        self.link = Link(str(config["runner_socket"]), self._hello, self._after_welcome)
        self.inbox = Inbox(self.link.unreported)
        self.outbox = Outbox(self.link)

    def _hello(self) -> dict[str, Any]:
        # A new Link says HELLO before it is ours.
        unreported = self.link.unreported if hasattr(self, "link") else {}
        return {
            "container": self.config["container"],
            "token": self.config["token"],
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "running": [[token, *of] for token, of in list(unreported.items())],
            "ready": bool(self.ready),
        }

    def _after_welcome(self) -> list[bytes]:
        return [self.ready] if self.ready else []

    def start(self, module: Any) -> tuple[Any, Loaded]:
        """(executor, loaded), with start-up code run and READY said."""
        loaded = load(self.config, module, snapshot.prepared)
        load_s = monotonic()
        invoker = Invoker(loaded.methods, Values(self.config), self.outbox)
        invoker.fork_guard = guard_forks(self.link)
        executor = _executor(loaded, self.config)(self.link, self.inbox, self.outbox, invoker, self.config)
        if loaded.enter:
            # Start-up code may take minutes: a server that restarts meanwhile is found again.
            self.outbox.start()
            executor.run_hooks(loaded, entering=True)
        self.say_ready({"load": _ms(self.started_s, load_s), "enter": _ms(load_s, monotonic())})
        if not loaded.enter:
            self.outbox.start()
        return executor, loaded

    def say_ready(self, phases_ms: dict[str, float]) -> None:
        """Start-up is over."""
        ready = protocol.pack_json(protocol.READY, {"phases_ms": phases_ms})
        with self.link.lock:
            if not self.link.connection.ended:
                self.link.send_locked(ready)
            self.ready = ready  # after a break it is said again, first of all

    def deliver(self) -> None:
        """Get out all that was said, also what could not be sent while the link was broken, and hang up."""
        if self.link.connection.ended:
            try:
                self.link.reconnect(self.link.connection)
            except LinkLost as lost:
                note(f"{lost}; what this container had to say is lost")
                return
        self.link.finish()


def run(config: dict[str, Any], module: Any) -> int:
    """Run a container as `config` (Launch.config) says, with the user's module; its exit code."""
    started_s = monotonic()
    remember(config)
    try:
        container = Container(config, started_s)
    except LinkLost as lost:
        note(str(lost))
        return EXIT_FAILED
    if config.get("hold"):
        return _hold(container)
    try:
        executor, loaded = container.start(module)
    except InputCancellation:
        return EXIT_TERMINATED
    except BaseException as error:
        container.link.send(protocol.pack(protocol.FAILED, encode_failure(error)))
        container.deliver()
        return EXIT_FAILED
    code = EXIT_OK
    try:
        executor.run()
    except LinkLost as lost:
        note(str(lost))
        code = EXIT_FAILED
    executor.run_hooks(loaded, entering=False)
    container.link.send(protocol.pack_json(protocol.BYE, {}))
    if code == EXIT_OK:
        container.deliver()
    return code


def _hold(container: Container) -> int:
    """Run nothing, and be there until told to end: others run commands in this container."""

    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what commands leave behind may come to us, to be collected
    container.say_ready({"load": _ms(container.started_s, monotonic()), "enter": 0.0})
    try:
        while True:
            for kind, _ in container.link.receive():
                if kind in (protocol.STOP, protocol.REJECT):
                    container.link.send(protocol.pack_json(protocol.BYE, {}))
                    container.deliver()
                    return EXIT_OK
    except LinkLost as lost:
        note(str(lost))
        return EXIT_FAILED
    except SystemExit:
        return EXIT_TERMINATED


def _executor(loaded: Loaded, config: dict[str, Any]) -> Any:
    if loaded.is_async:
        from jitney.runner.loop import LoopExecutor

        return LoopExecutor
    if config.get("concurrent") or int(config.get("max_inputs") or 1) > 1:
        from jitney.runner.threads import ThreadsExecutor

        return ThreadsExecutor
    return SerialExecutor


def _ms(start_s: float, end_s: float) -> float:
    return round((end_s - start_s) * 1000, 3)
