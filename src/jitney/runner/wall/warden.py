"""Process 1 of a wall: makes templates and pods at the worker's word, and collects who has ended.

Messages on its socket (frames as in runner.template_protocol; descriptors come with the first byte):

    worker -> warden
      hub       {"plan": {...} or null, "ops": [...]}       the way out (runner.wall.hub), and what depends on it
      pod       {"pod", "folders": [...], "ops": [...], "net": {...} or null}
      template  {"process", "folders", "ops", "net", "argv", "env", "cwd", "profile", "keeps": [...], "joins": n}
                                                            descriptors: those of the process, the control groups. What
                                                            it may is a profile of runner.wall.filters, and capabilities
      enter     {"process", "argv", "env", "cwd", "descriptors": n, "tty": [rows, columns] or null, "joins": n}
                                                            descriptors: the pod, the process's, the control groups
      mount     {"pod", "mounts": [...]}                    what comes into a pod later (runner.wall.mounting);
                                                            descriptor: the pod
      attach    {"pod", "target", "read_only"}              a mount of the worker's comes into a pod; answer: mounted;
                                                            descriptors: the pod, the mount
    warden -> worker
      hub       {"message": "" or what went wrong}
      pod       {"pod", "message"} with a pidfd
      mounted   {"pod", "message", "code"}                  code: EBUSY where files of what was there are open
      started   {"process", "pid", "message", "code"} with a pidfd (and, with a tty, its master); a command that cannot
                be executed has the code that a shell gives, any other failure 0
      ended     {"process" ("" = one that the warden inherited), "pid", "status", "cpu_ms", "max_rss_kib"}

Each has "handles", the number of its descriptors; pids are those of the wall's own namespace.

A message that fails is answered with the reason; the warden goes on. When the socket closes, the worker is gone: the
warden ends, and with it all that is behind the wall, after the templates had their time to end containers politely.
"""

from __future__ import annotations

import errno
import gc
import os
import resource  # noqa: F401  (os.wait4 imports it, and nothing can be imported once the root is the stage)
import select
import signal
import socket
import time
from typing import Any, NoReturn

from jitney.runner import template_protocol as protocol
from jitney.runner.wall import enter, filters, hub, idle, kernel, mounting, pod
from jitney.runner.wall.ops import perform
from jitney.runner.wall.spawn import NotStarted, Spawn


class Warden:
    """See the module."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._splitter = protocol.Splitter()
        self._descriptors: list[int] = []
        self._processes: dict[int, str] = {}
        self._hub: dict[str, Any] = {}
        self._idle_program = idle.open_program()
        self._own_pids = enter.own_pid_namespace()
        self._own_mounts = mounting.own_mounts()
        self._container = filters.program("container", os.uname().machine)
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the worker is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake:
                    _drain(self._wake)
                    self._collect()
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        try:
            data, descriptors = protocol.receive(self._control)
        except OSError:
            return False
        self._descriptors += descriptors
        for message in self._splitter.feed(data):
            self.handle(message)
        return bool(data)

    def handle(self, message: dict[str, Any]) -> None:
        """Do what the worker asks."""
        getattr(self, f"_on_{message['kind']}")(message)

    def _send(self, kind: str, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        message = {"kind": kind, "handles": len(descriptors), **fields}
        try:
            protocol.send_frame(self._control, protocol.pack(message), descriptors)
        except OSError:
            pass  # its end comes next

    def _take(self, count: int) -> list[int]:
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    # -------------------------------------------------------------------------------------------- pods

    def _on_hub(self, message: dict[str, Any]) -> None:
        try:
            if message["plan"] is not None:
                hub.set_up_hub(message["plan"])
                self._hub = message["plan"]
            perform(message["ops"])
        except OSError as error:
            self._send("hub", message=str(error))
        else:
            self._send("hub", message="")

    def _on_pod(self, message: dict[str, Any]) -> None:
        net = message["net"]
        try:
            _make_folders(message["folders"])
            wire = None if net is None else lambda pid: self._wire(net, pid)
            pid = pod.make(message["ops"], self._own_pids, self._idle_program, wire=wire, finish=lambda: _finish(net))
            pidfd = os.pidfd_open(pid)
        except (OSError, pod.PodFailed) as error:
            self._send("pod", pod=message["pod"], message=str(error) or repr(error))
            return
        self._send("pod", (pidfd,), pod=message["pod"], message="")
        os.close(pidfd)

    def _on_attach(self, message: dict[str, Any]) -> None:
        where, tree = self._take(2)
        reason = ""
        try:
            mounting.attach(where, self._own_mounts, tree, message["target"], read_only=message["read_only"])
        except OSError as error:
            reason = str(error) or repr(error)
        finally:
            os.close(where)
            os.close(tree)
        self._send("mounted", pod=message["pod"], message=reason, code=0)

    def _on_mount(self, message: dict[str, Any]) -> None:
        (where,) = self._take(1)
        reason, code = "", 0
        try:
            mounting.mount(where, self._own_mounts, message["mounts"])
        except OSError as error:
            reason, code = str(error) or repr(error), errno.EBUSY if error.errno == errno.EBUSY else 0
        finally:
            os.close(where)
        self._send("mounted", pod=message["pod"], message=reason, code=code)

    def _wire(self, net: dict[str, Any] | None, pid: int) -> None:
        if net is not None:
            hub.set_up_pod(self._hub, net, pid)

    # -------------------------------------------------------------------------------------------- processes

    def _on_template(self, message: dict[str, Any]) -> None:
        count = message["descriptors"]
        descriptors = self._take(count + message["joins"])
        groups, net = descriptors[count:], message["net"]
        program = filters.program(message["profile"], os.uname().machine)
        ready, tell = os.pipe()
        go, let_go = os.pipe()

        def prepare() -> None:
            enter.join(groups)
            kernel.unshare(kernel.NEWNS | kernel.NEWIPC | kernel.NEWNET)
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            os.write(tell, b"x")
            if os.read(go, 1) != b"x":
                os._exit(1)
            _finish(net)
            perform(message["ops"])
            enter.restrict(program, tuple(message["keeps"]))

        def wire(pid: int) -> None:
            os.close(tell)
            if os.read(ready, 1) == b"x":
                self._wire(net, pid)
                os.write(let_go, b"x")

        try:
            _make_folders(message["folders"])
            self._start(message, descriptors[:count], prepare, wire)
        finally:
            for descriptor in (ready, go, let_go, *groups):
                os.close(descriptor)

    def _on_enter(self, message: dict[str, Any]) -> None:
        count, joins = message["descriptors"], message["joins"]
        where, *descriptors = self._take(1 + count + joins)
        groups = descriptors[count:]
        try:
            enter.aim(where)
        except OSError as error:
            for descriptor in (where, *descriptors):
                os.close(descriptor)
            reason = f"its container has ended: {error}"
            self._send("started", process=message["process"], pid=0, message=reason, code=0)
            return

        def prepare() -> None:
            enter.enter(where, groups, self._container)

        try:
            self._start(message, descriptors[:count], prepare, lambda _pid: None)
        finally:
            enter.aim_back(self._own_pids)
            for descriptor in (where, *groups):
                os.close(descriptor)

    def _start(self, message: dict[str, Any], descriptors: list[int], prepare: Any, wire: Any) -> None:
        spawn = Spawn(message, descriptors, prepare)
        name = message["process"]
        try:
            pid, given = spawn.start(wire)
        except NotStarted as error:
            self._send("started", process=name, pid=0, message=str(error), code=error.code)
            return
        except OSError as error:
            self._send("started", process=name, pid=0, message=str(error) or repr(error), code=0)
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._processes[pid] = name
        self._send("started", tuple(given), process=name, pid=pid, message="")
        for descriptor in given:
            os.close(descriptor)

    # -------------------------------------------------------------------------------------------- ends

    def _collect(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._processes.pop(pid, "")
            cpu_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
            self._send("ended", process=name, pid=pid, status=status, cpu_ms=cpu_ms, max_rss_kib=usage.ru_maxrss)

    def end(self) -> None:
        """Give the templates time to end their containers, as they see their sockets close too."""
        deadline_s = time.monotonic() + protocol.GRACE_S
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._collect()
        while self._processes and time.monotonic() < deadline_s:
            poll.poll(100)
            _drain(self._wake)
            self._collect()


def run(control: socket.socket, wall: dict[str, Any], early: list[dict[str, Any]]) -> NoReturn:
    """Be the warden of a wall whose stage is laid out; `early` messages came with the first. Does not return."""
    code = 1
    try:
        os.setsid()
        os.umask(0o022)
        ops: list[Any] = [["take_proc", "proc"], ["pivot_here"], ["put", "proc", "/proc", False], ["loopback"]]
        perform([*ops, ["hostname", wall["hostname"]], *wall["ops"]])
        warden = Warden(control)
        gc.collect()
        gc.freeze()
        gc.disable()  # the collector writes to every object that it looks at: each pod would have a copy of all
        for message in early:
            warden.handle(message)
        warden.serve()
        warden.end()
        code = 0
    except BaseException as error:
        message = {"kind": "failed", "message": str(error) if isinstance(error, OSError) else repr(error)}
        protocol.send_frame(control, protocol.pack(message))
    finally:
        os._exit(code)


def _make_folders(folders: list[str]) -> None:
    for folder in folders:
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o755)


def _finish(net: dict[str, Any] | None) -> None:
    if net is not None:
        hub.finish_pod(net)
    else:
        perform([["loopback"]])


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass
