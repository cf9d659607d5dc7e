"""Commands in containers that live already (ports.interactive), for containers that are plain processes.

A command is a child of the worker, started with what the container was started with: variables, folder, limits. It is
branded and marked like a container (see leftovers), so that nothing of it is missed, and its pid is among those that
are ours by right for as long as it runs. What it leaves in the background is a leftover when it ends.

A terminal has to be made the *controlling* one by the process itself, after it has a session and before it is the
command: a few lines of Python are started for that, which then become the command.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

from jitney.drivers.runtime.forking import procfs, visits
from jitney.drivers.runtime.forking.exits import collect, watch_exit
from jitney.drivers.runtime.forking.leftovers import OOM_SCORE_ADJ, end_tree
from jitney.drivers.runtime.forking.session import Session, close_all, open_pipes, open_terminal
from jitney.drivers.runtime.process.container import Container
from jitney.drivers.runtime.process.render import ContainerRecipe
from jitney.drivers.runtime.process.views import needs_own_ids
from jitney.ports.interactive import KILLED, NOT_EXECUTABLE, NOT_FOUND, ExecFailed, ExecSpec, OnOutput

TTY_BOOTSTRAP = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # comes when the terminal goes; ignored by what nohup has started
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
keep, path, *argv = sys.argv[1:]
env = dict(os.environ)
if not keep:
    env.pop("LC_CTYPE", None)  # this interpreter's own doing
try:
    os.execve(path, argv, env)
except OSError as error:
    os.write(2, f"{argv[0]}: {error.strerror}\\r\\n".encode())
    os._exit(126)
"""


class OwnCommand:
    """See `forking.session.Command`: a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._is_alive = True
        process.returncode = 0  # it is collected here: Popen need not try

    def watch(self, on_ended: Callable[[int], None]) -> None:
        """See the protocol."""

        def ended() -> None:
            self._is_alive = False
            found = collect(self.pid)
            if found is None:  # whoever ended the container has collected it
                on_ended(KILLED)
                return
            code = os.waitstatus_to_exitcode(found[0])
            on_ended(128 - code if code < 0 else code)

        watch_exit(self.pid, ended)

    def signal(self, signum: int) -> None:
        """See the protocol."""
        if self._is_alive:
            try:
                os.killpg(self.pid, signum)
            except OSError:
                pass

    def kill(self) -> None:
        """See the protocol."""
        if self._is_alive:
            end_tree(self.pid)


class Commands:
    """The commands that run in the containers of one runtime.

    Args:
        children: the pids that are ours by right: kept up to date here.
        sweep: ends leftovers, soon.
    """

    def __init__(self, children: set[int], sweep: Callable[[], None]) -> None:
        self._children = children
        self._sweep = sweep
        self._running: dict[str, dict[int, Session]] = {}  # by container and pid

    def start(
        self,
        container: Container,
        spec: ExecSpec,
        on_output: OnOutput,
        *,
        template_env: Mapping[str, str],
        view_of: int = 0,
    ) -> Session:
        """Run a command beside a container; `view_of`: its process, where that has its own view of the file system.

        Raises:
            ExecFailed: it cannot be.
        """
        container_id, recipe = container.id, container.recipe
        cwd = os.path.normpath(os.path.join(recipe.cwd, spec.cwd))
        root = f"/proc/{view_of}/root" if view_of else ""
        if not os.path.isdir(root + cwd) or not os.access(root + cwd, os.X_OK):
            raise ExecFailed(f"the working folder {cwd} cannot be entered", NOT_EXECUTABLE)
        env = {**template_env, **container_env(container_id, recipe), **spec.env, "PWD": cwd}
        path = find_command(spec.argv[0], env, cwd, root)
        try:
            command, session = _start(path, spec, on_output, env, cwd, view_of)
        except OSError as error:
            raise ExecFailed(f"{spec.argv[0]}: {error.strerror or error}", NOT_EXECUTABLE) from error
        _limit(command.pid, recipe.rlimits)
        self._children.add(command.pid)
        self._running.setdefault(container_id, {})[command.pid] = session
        session.ended.add_done_callback(lambda _: self._ended(container_id, command.pid))
        return session

    def _ended(self, container_id: str, pid: int) -> None:
        self._children.discard(pid)
        running = self._running.get(container_id, {})
        running.pop(pid, None)
        if not running:
            self._running.pop(container_id, None)
        self._sweep()

    def end(self, container_id: str) -> None:
        """The container has ended: what runs in it is a leftover from now on."""
        for pid, session in list(self._running.get(container_id, {}).items()):
            session.kill()
            self._children.discard(pid)

    def pids(self, container_id: str) -> list[int]:
        """The commands that run in a container."""
        return list(self._running.get(container_id, ()))


def container_env(container_id: str, recipe: ContainerRecipe) -> dict[str, str]:
    """What a container's environment has beyond its template's (see runner.process)."""
    return {**recipe.env, "JITNEY_IS_REMOTE": "1", "JITNEY_TASK_ID": container_id}


def find_command(name: str, env: Mapping[str, str], cwd: str, root: str = "") -> str:
    """The file of a command, as a shell finds it; `root` is where the command's own root is seen from here.

    Raises:
        ExecFailed: there is none, or it cannot be executed.
    """
    if "/" in name:
        path = os.path.join(cwd, name)
        if not os.path.exists(root + path):
            raise ExecFailed(f"there is no {name} in the container", NOT_FOUND)
        if os.path.isdir(root + path):
            raise ExecFailed(f"{name} is a folder", NOT_EXECUTABLE)
        if not os.access(root + path, os.X_OK):
            raise ExecFailed(f"{name} is not executable", NOT_EXECUTABLE)
        return path
    folders = [os.path.join(cwd, folder) for folder in env.get("PATH", os.defpath).split(os.pathsep)]
    found = shutil.which(name, path=os.pathsep.join(root + folder for folder in folders))
    if found is not None:
        return found.removeprefix(root)
    for folder in folders:
        path = os.path.join(folder, name)
        if os.path.isfile(root + path):
            raise ExecFailed(f"{path} is not executable", NOT_EXECUTABLE)
    raise ExecFailed(f"there is no command {name!r} in the container", NOT_FOUND)


def _start(
    path: str, spec: ExecSpec, on_output: OnOutput, env: Mapping[str, str], cwd: str, view_of: int
) -> tuple[OwnCommand, Session]:
    executable, argv = path, [*spec.argv]
    if spec.tty is None:
        ours, theirs = open_pipes()
    else:
        ours, theirs = open_terminal(spec.tty)
        executable = sys.executable
        argv = [executable, "-I", "-S", "-c", TTY_BOOTSTRAP, "1" if "LC_CTYPE" in env else "", path, *argv]
    joined: list[int] = []
    try:
        if view_of:
            joined = [os.pidfd_open(view_of)]
            argv = _joining(joined[0], path, spec, env, cwd)
            executable = argv[0]
        command = OwnCommand(_spawn(executable, argv, theirs, env, os.sep if view_of else cwd, joined))
    except BaseException:
        close_all(ours)
        raise
    finally:
        close_all([*theirs, *joined])
    feed, *outputs = ours
    return command, Session(command, feed, dict(enumerate(outputs, 1)), on_output, is_tty=spec.tty is not None)


def _joining(pidfd: int, path: str, spec: ExecSpec, env: Mapping[str, str], cwd: str) -> list[str]:
    """What joins a container's view of the file system, and becomes the command there."""
    request = {
        "pidfd": pidfd,
        "own_ids": needs_own_ids(),
        "cwd": cwd,
        "path": path,
        "argv": [*spec.argv],
        "keeps_ctype": "LC_CTYPE" in env,
        "tty": spec.tty is not None,
    }
    return visits.command("inside", request)


def _spawn(
    executable: str, argv: list[str], fds: list[int], env: Mapping[str, str], cwd: str, passed: list[int]
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        argv,
        executable=executable,
        stdin=fds[0],
        stdout=fds[min(1, len(fds) - 1)],
        stderr=fds[-1],
        cwd=cwd,
        env=dict(env),
        pass_fds=passed,
        start_new_session=True,
    )
    procfs.set_oom_score_adj(process.pid, OOM_SCORE_ADJ)
    return process


def _limit(pid: int, rlimits: Mapping[str, tuple[int, int]]) -> None:
    """The container's limits, where the system can set those of another process."""
    if not hasattr(resource, "prlimit"):
        return
    for name, limit in rlimits.items():
        try:
            resource.prlimit(pid, getattr(resource, f"RLIMIT_{name}"), limit)
        except OSError:
            pass  # it has ended already
