"""A process that has the user's module in memory and forks a container for each request.

    python -m jitney.runner.template FD          (see template_protocol; by path: python .../runner/__main__.py)

It has one thread and waits in one place, so that a fork copies nothing that is half done. What makes forks faster is
done while nobody asks: modules that many containers need are imported, and memory is collapsed into huge pages, because
the kernel copies a page table entry for each page (7 ms to fork a process with torch, 1 ms after it).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from jitney.runner import main as container
from jitney.runner import process, template_protocol
from jitney.runner.boot import Control, start
from jitney.runner.failures import format_traceback
from jitney.runner.pods import Pods
from jitney.runner.rehearsal import rehearse

IDLE_MS = 5  # quiet for so long: do something useful. Steady work leaves no longer pauses
USEFUL_MODULES = ("traceback",)  # each costs every fork some 0.1 ms: only what most containers need
COLLAPSE_RSS_BYTES_MIN = 64 * 1024 * 1024
COLLAPSE_STEP_BYTES = 4 * 1024 * 1024  # some 10 ms, which is how long a request may have to wait for it
HUGE_PAGE_BYTES = 2 * 1024 * 1024
_MADV_COLLAPSE = 25


class Template:
    """See the module."""

    def __init__(self, control: Control, module: Any, *, is_walled: bool = False) -> None:
        self.control = control
        self.module = module
        self.containers: dict[int, str] = {}  # by pid
        self.spared = process.children()  # what the import started
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        self._wake_descriptors = (self._wake, wake)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        process.adopt_orphans()
        process.prepare_reseed()
        rehearse()
        process.freeze()
        self._idle_steps = _idle_steps()
        self._pods = Pods() if is_walled else None
        # Native pools (OpenBLAS has one after `import numpy`) mind forks themselves; Python threads are reported.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"jitney\.runner\.template")

    def run(self, messages: list[dict[str, Any]]) -> None:
        """Serve the worker until it is gone."""
        for message in messages:
            self._handle(message)
        poll = select.poll()
        poll.register(self.control.sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        idle_ms: int | None = IDLE_MS
        while not self.control.ended:
            events = poll.poll(idle_ms)
            if not events:
                idle_ms = IDLE_MS if self._step() else None
            for descriptor, _ in events:
                if descriptor == self._wake:
                    _empty(self._wake)
                    self._reap()
                else:
                    for message in self.control.receive():
                        self._handle(message)
        self._end()

    def _step(self) -> bool:
        """Do a piece of what is useful; whether there is more."""
        try:
            next(self._idle_steps)
        except StopIteration:
            process.freeze()
            return False
        return True

    # ------------------------------------------------------------------ forking

    def _handle(self, message: dict[str, Any]) -> None:
        if message["kind"] != template_protocol.FORK:
            return  # of a newer worker
        name, config = str(message["container"]), message["config"]
        _import_for(config)
        view = _View() if message.get("view") is not None else None
        started_s = time.monotonic()
        why = ""
        try:
            pid = self._fork(message["given"])
        except OSError as error:
            pid, why = -1, str(error)
        if pid == 0:
            self._be_container(message, view)
        if view is not None and (unseen := view.hear()) and pid > 0:
            os.waitpid(pid, 0)
            pid, why = -1, unseen
        if pid < 0:
            self.control.send(template_protocol.FORK_FAILED, container=name, message=why)
        private = () if message["private"] is None else (message["private"],)
        for descriptor in (message["stdout"], message["stderr"], *message["given"], *private):
            os.close(descriptor)
        if pid > 0:
            self.containers[pid] = name
            took_ms = round((time.monotonic() - started_s) * 1000, 3)
            handles = (os.pidfd_open(pid),) if self._pods is not None else ()
            self.control.send(template_protocol.FORKED, handles, container=name, pid=pid, ms=took_ms)
            for descriptor in handles:
                os.close(descriptor)

    def _fork(self, given: list[int]) -> int:
        process.flush_output()
        if self._pods is None:
            return os.fork()
        return self._pods.fork(given[0])

    def _be_container(self, message: dict[str, Any], view: _View | None) -> None:
        """In the fork. Does not return."""
        code = 1
        try:
            process.detach_from_template()
            self.control.sock.close()
            for descriptor in self._wake_descriptors:
                os.close(descriptor)
            if self._pods is not None:
                self._pods.enter(message["given"])
            else:
                process.join(message["given"])
            if view is not None:
                view.enter(message["view"])
            process.set_up(message, message["stdout"], message["stderr"])
            process.reseed()
            code = container.run(message["config"], self.module)
        except BaseException as error:
            os.write(2, format_traceback(error).encode(errors="replace"))
        finally:
            process.end(code)

    # ------------------------------------------------------------------ ending

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self.containers.pop(pid, None)
            if name is not None:
                # A container that could not end its descendants itself (it was killed) has left them to us.
                process.kill_children({*self.containers, *self.spared})
                self._report(name, pid, status, usage)

    def _report(self, name: str, pid: int, status: int, usage: Any) -> None:
        signalled = os.WIFSIGNALED(status)
        self.control.send(
            template_protocol.EXITED,
            container=name,
            pid=pid,
            exit_code=None if signalled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signalled else None,
            cpu_ms=int((usage.ru_utime + usage.ru_stime) * 1000),
            max_rss_kib=usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1),
        )

    def _end(self) -> None:
        """The worker is gone: nobody would ever end the containers."""
        deadline_s = time.monotonic() + template_protocol.GRACE_S
        for pid in list(self.containers):
            os.kill(pid, signal.SIGTERM)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._reap()
        while self.containers and time.monotonic() < deadline_s:
            poll.poll(100)
            _empty(self._wake)
            self._reap()
        process.kill_children(self.spared)


class _View:
    """A fork's own view of the file system (runner.view), and whether it came about: told before code of users runs."""

    def __init__(self) -> None:
        import jitney.runner.view as _view  # noqa: F401  (here, so that no fork has to)

        self._told, self._tell = os.pipe()

    def enter(self, plan: dict[str, Any]) -> None:
        """In the fork. Ends it where there can be no such view."""
        from jitney.runner.view import enter

        os.close(self._told)
        try:
            enter(plan)
        except OSError as error:
            os.write(self._tell, (str(error) or repr(error)).encode(errors="replace"))
            os._exit(1)
        os.close(self._tell)

    def hear(self) -> str:
        """In the template, after the fork: why there is none; '' = there is."""
        os.close(self._tell)
        said = b""
        while part := os.read(self._told, 4096):
            said += part
        os.close(self._told)
        return said.decode(errors="replace")


def _import_for(config: dict[str, Any]) -> None:
    """What the executor of this container needs, once for all that follow."""
    if config.get("pickled"):
        try:
            import cloudpickle as _cloudpickle  # noqa: F401
        except ImportError:  # the container will say so
            pass
    if any(method.get("is_async") for method in config.get("methods") or ()):
        import jitney.runner.loop as _loop  # noqa: F401
    elif int(config.get("max_inputs") or 1) > 1:
        import jitney.runner.threads as _threads  # noqa: F401


def _idle_steps() -> Iterator[None]:
    for name in USEFUL_MODULES:
        __import__(name)
        yield
    process.freeze()
    yield from _collapse_steps()


def _collapse_steps() -> Iterator[None]:
    """Collapse private anonymous memory into huge pages, where there is enough of it and the system can."""
    libc = process.libc()
    if libc is None or _rss_bytes() < COLLAPSE_RSS_BYTES_MIN:
        return
    import ctypes

    for start_at, end_at in _anonymous_ranges():
        for at in range(start_at, end_at, COLLAPSE_STEP_BYTES):
            size = min(COLLAPSE_STEP_BYTES, end_at - at)
            libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _MADV_COLLAPSE)  # failing is harmless
            yield


def _anonymous_ranges() -> list[tuple[int, int]]:
    ranges = []
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split()
            named = len(fields) > 5 and fields[5] != "[heap]"
            if fields[1].startswith("rw") and fields[1].endswith("p") and not named:
                low, high = (int(number, 16) for number in fields[0].split("-"))
                low += -low % HUGE_PAGE_BYTES
                high -= high % HUGE_PAGE_BYTES
                if low < high:
                    ranges.append((low, high))
    return ranges


def _rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _empty(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass


def main() -> int:
    """Be a template on the control socket whose number is the first argument; the exit code."""
    process.prepare_prctl()
    control = Control(int(sys.argv[1]))
    module, messages = start(control)
    Template(control, module, is_walled="JITNEY_WALL" in os.environ).run(messages)
    return 0


if __name__ == "__main__":
    # As itself, not as `__main__`: the user's module may take that name.
    from jitney.runner.template import main as canonical_main

    sys.exit(canonical_main())
