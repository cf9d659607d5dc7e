"""Process 1 behind a wall that somebody else has made: see the package.

    python -c ... PATH SDK          (PATH is a Unix socket of the worker's, in a mounted folder)

It connects once, before any code of users runs there, and then does what the worker says (frames as in
runner.template_protocol; descriptors come with the first byte):

    worker -> keeper
      start    {"process", "argv", "env", "cwd", "rlimits", "descriptors": n, "joins": n}   a template, or a container
                                      that cannot be forked; descriptors: its own from 0 on, control groups
      command  {"container", "tty", and as above, without "process"}    by a sitter; descriptors: the sitter's
      prepare  {"container", "folders", "cwd"}    its scratch folder, folders in that, and a folder that must be there
      watch    {"pid", "limit_kib"}   count what it uses, and end it above the limit (0 = none)
      look     {"pid"}                what it uses now
      signal   {"pid", "signum"}
      kill     {"pid"}                SIGKILL to it and all its descendants
      end      {}                     at once, and with it all that is behind the wall
      clean    {"container", "pid", "spared": [pids of containers that live], "seen": n}
    keeper -> worker
      started  {"process", "pid", "message"}
      prepared {"container", "message"}
      look     {"pid", "kib"}
      usage    {"pid", "processes", "rss_kib", "cpu_ms"}    about once a second for each that is watched
      over     {"pid", "kib"}         it was above its limit, and is ended
      ended    {"process" ("" = not started by `start`), "pid", "status", "cpu_ms", "max_rss_kib"}
      cleaned  {"container"}

Pids are those of the wall's own namespace. `clean` ends what a container has left: its commands, and whatever else has
come to this process, which adopts all orphans, and is none of the spared. When a template dies its containers come here
too, and the worker may not know all of them yet: so nothing is swept as long as it has not *seen* all ends (`seen` of
those that `start` made).

When the socket closes the worker is gone: once the templates have ended, or had their time for it, so does this, and
all that is behind the wall.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

from jitney.runner import process, template_protocol
from jitney.runner.keep import looks
from jitney.runner.keep.sitter import Sitter
from jitney.runner.keep.spawned import NotStarted, spawn
from jitney.runner.wall import filters

FILTER = "JITNEY_KEEPER_FILTER"
SCRATCH = "/run/jitney/scratch"
USAGE_S = 1.0
LOOK_S = 0.5
LOOK_NEAR_S = 0.05
NEAR = 0.7  # of the limit
KILL_ROUNDS_MAX = 200
KILL_ROUND_S = 0.002


class Keeper:
    """See the module."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._splitter = template_protocol.Splitter()
        self._descriptors: list[int] = []
        self._started: dict[int, str] = {}
        self._sitters: dict[int, str] = {}  # pid -> container
        self._removers: set[int] = set()
        self._ends = 0
        self._watched: dict[int, int] = {}  # pid -> limit in KiB
        self._nearest = 0.0
        self._told_s = self._looked_s = 0.0
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        self._wakes = (self._wake, wake)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the worker is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(self._pause_ms()):
                if descriptor == self._wake:
                    _drain(self._wake)
                    self._collect()
                elif not self._receive():
                    self._end()
                    return
            self._look_around()

    def _receive(self) -> bool:
        try:
            data, descriptors = template_protocol.receive(self._control)
        except OSError:
            return False
        self._descriptors += descriptors
        for message in self._splitter.feed(data):
            getattr(self, f"_on_{message['kind']}")(message)
        return bool(data)

    def _say(self, kind: str, **fields: Any) -> None:
        try:
            template_protocol.send_frame(self._control, template_protocol.pack({"kind": kind, **fields}))
        except OSError:
            pass  # the end of the stream comes next

    def _take(self, count: int) -> list[int]:
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    # ------------------------------------------------------------------ starting

    def _on_start(self, message: dict[str, Any]) -> None:
        descriptors, joins = self._take(message["descriptors"]), self._take(message["joins"])
        pid, why = 0, ""
        try:
            pid = spawn(message, descriptors, joins)
        except (OSError, NotStarted) as error:
            why = str(error) or repr(error)
        for descriptor in (*descriptors, *joins):
            os.close(descriptor)
        if pid:
            self._started[pid] = message["process"]
        self._say("started", process=message["process"], pid=pid, message=why)

    def _on_command(self, message: dict[str, Any]) -> None:
        descriptors, joins = self._take(message["descriptors"]), self._take(message["joins"])
        pid = -1
        try:
            pid = os.fork()
        except OSError:
            pass  # the worker hears the end of the sitter's stream
        if pid == 0:
            try:
                self._control.close()
                signal.set_wakeup_fd(-1)
                for descriptor in self._wakes:
                    os.close(descriptor)
                Sitter(message, descriptors, joins).run()
            finally:
                os._exit(1)
        for descriptor in (*descriptors, *joins):
            os.close(descriptor)
        if pid > 0:
            self._sitters[pid] = message["container"]

    def _on_prepare(self, message: dict[str, Any]) -> None:
        why = ""
        try:
            os.mkdir(os.path.join(SCRATCH, message["container"]), 0o700)
            for folder in message["folders"]:
                os.makedirs(folder, 0o700, exist_ok=True)
            if not os.path.isdir(message["cwd"]):
                why = f"the image's workdir {message['cwd']} is not a folder there"
        except OSError as error:
            why = f"its folder cannot be made: {error}"
        self._say("prepared", container=message["container"], message=why)

    # ------------------------------------------------------------------ looking

    def _on_watch(self, message: dict[str, Any]) -> None:
        self._watched[message["pid"]] = message["limit_kib"]
        self._nearest = 1.0  # start-up code may be the largest of all

    def _on_look(self, message: dict[str, Any]) -> None:
        private = looks.private_kib(message["pid"])
        self._say("look", pid=message["pid"], kib=private if private >= 0 else looks.rss_kib(message["pid"]))

    def _pause_ms(self) -> int | None:
        if not self._watched:
            return None
        if not any(self._watched.values()):
            return int(USAGE_S * 1000)
        return int((LOOK_NEAR_S if self._nearest >= NEAR else LOOK_S) * 1000)

    def _look_around(self) -> None:
        """How much is used is asked at most every LOOK_NEAR_S, as it costs some hundred microseconds for each."""
        now_s = time.monotonic()
        tells = now_s - self._told_s >= USAGE_S
        if not tells and now_s - self._looked_s < LOOK_NEAR_S:
            return
        self._looked_s = now_s
        nearest = 0.0
        for pid, limit_kib in list(self._watched.items()):
            if not tells and not limit_kib:
                continue
            seen = looks.look(pid)
            if limit_kib:
                nearest = max(nearest, seen.rss_kib / limit_kib)
            if tells:
                self._say("usage", pid=pid, processes=seen.processes, rss_kib=seen.rss_kib, cpu_ms=seen.cpu_ms)
            if limit_kib and seen.rss_kib > limit_kib:
                del self._watched[pid]
                self._say("over", pid=pid, kib=seen.rss_kib)
                end_tree(pid)
        self._nearest = nearest
        if tells:
            self._told_s = now_s

    # ------------------------------------------------------------------ ending

    def _on_signal(self, message: dict[str, Any]) -> None:
        _send(message["pid"], message["signum"])

    def _on_kill(self, message: dict[str, Any]) -> None:
        end_tree(message["pid"])

    def _on_end(self, _message: dict[str, Any]) -> None:
        os._exit(0)

    def _on_clean(self, message: dict[str, Any]) -> None:
        self._watched.pop(message["pid"], None)
        for pid, container in list(self._sitters.items()):
            if container == message["container"]:
                end_tree(pid)
        spared = {*message["spared"], *self._started, *self._removers}
        spared |= {pid for pid, container in self._sitters.items() if container != message["container"]}
        strays = set(filter(process.is_process, process.children() - spared))
        self._collect()
        if self._ends == message["seen"]:
            for pid in strays:
                end_tree(pid)
            self._collect()
        self._remove(os.path.join(SCRATCH, message["container"]))
        self._say("cleaned", container=message["container"])

    def _remove(self, folder: str) -> None:
        try:
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            pass
        trash = os.path.join(SCRATCH, f".trash-{os.path.basename(folder)}")
        try:
            os.rename(folder, trash)
            pid = os.fork()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            return
        if pid == 0:
            shutil.rmtree(trash, ignore_errors=True)
            os._exit(0)
        self._removers.add(pid)

    def _collect(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._watched.pop(pid, None)
            if pid in self._removers or pid in self._sitters:
                self._removers.discard(pid)
                self._sitters.pop(pid, None)
                continue
            name = self._started.pop(pid, "")
            self._ends += bool(name)
            self._say(
                "ended",
                process=name,
                pid=pid,
                status=status,
                cpu_ms=int((usage.ru_utime + usage.ru_stime) * 1000),
                max_rss_kib=usage.ru_maxrss,
            )

    def _end(self) -> None:
        """The worker is gone: templates end their containers politely, and hear of it by their own sockets."""
        deadline_s = time.monotonic() + template_protocol.GRACE_S + 1
        while self._started and time.monotonic() < deadline_s:
            select.select([self._wake], [], [], 0.1)
            _drain(self._wake)
            self._collect()


def end_tree(pid: int) -> None:
    """SIGKILL to a process and all its descendants: those first, as long as there are any, for they come to it.

    Until it has ended, which takes the kernel a moment.
    """
    for _ in range(KILL_ROUNDS_MAX):
        doomed = looks.below(pid)
        if not doomed:
            break
        for one in doomed:
            _send(one, signal.SIGKILL)
        time.sleep(KILL_ROUND_S)
    _send(pid, signal.SIGKILL)
    for _ in range(KILL_ROUNDS_MAX):
        if not looks.is_alive(pid):
            break
        time.sleep(KILL_ROUND_S)


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except OSError:
        pass


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass


def main() -> int:
    """Be the keeper on the socket whose path is the first argument.

    The environment's FILTER names a profile of runner.wall.filters, for this process and all that it starts: engines
    let containers make user namespaces and keyrings.
    """
    process.prepare_prctl()
    profile = os.environ.pop(FILTER, "")
    if profile:
        filters.install(filters.program(profile, os.uname().machine))
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(sys.argv[1])
    Keeper(control).serve()
    return 0
