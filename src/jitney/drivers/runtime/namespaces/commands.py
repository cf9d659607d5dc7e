"""Commands in containers that live already (ports.interactive): the warden starts them in the container's pod."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Callable

from jitney.drivers.runtime.forking.sdk import command_env
from jitney.drivers.runtime.forking.session import Session, close_all, open_pipes
from jitney.drivers.runtime.namespaces.container import Container
from jitney.drivers.walls import render
from jitney.drivers.walls.wall import WallChild, WallFailed, WallGone
from jitney.ports.interactive import NOT_EXECUTABLE, ContainerGone, ExecFailed, ExecSpec, OnOutput
from jitney.values.containers import Exit


class InnerCommand:
    """See `forking.session.Command`."""

    def __init__(self, child: WallChild) -> None:
        self._child = child

    def watch(self, on_ended: Callable[[int], None]) -> None:
        """See the protocol."""

        def ended(how: Exit) -> None:
            on_ended(128 + how.signal if how.signal is not None else how.exit_code or 0)

        self._child.watch(ended)

    def signal(self, signum: int) -> None:
        """See the protocol."""
        self._child.signal_group(signum)

    def kill(self) -> None:
        """See the protocol."""
        self._child.signal_group(9)
        self._child.kill()


class Commands:
    """The commands that run in the containers of one runtime."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._running: dict[str, set[Session]] = {}

    async def start(self, container: Container, spec: ExecSpec, on_output: OnOutput) -> Session:
        """Run a command in a container.

        Raises:
            ExecFailed: it cannot be started.
            ContainerGone: the container has ended.
        """
        assert container.pod is not None
        assert container.group is not None
        enclosure, launch = container.enclosure, container.launch
        home = render.workdir(enclosure.image)
        cwd = posixpath.normpath(posixpath.join(home, spec.cwd))
        forked = render.render_fork(launch, enclosure.image, nofile_hard=render.NOFILE)
        process = render.render_process(launch.template, enclosure.image, is_cold=True)
        base = command_env(process["env"], (render.SDK,))
        env = {**base, **forked["env"], **launch.secrets, "JITNEY_IS_REMOTE": "1", **spec.env, "PWD": cwd}
        joins = container.group.join_fds
        ours, theirs = open_pipes() if spec.tty is None else ([], [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)] * 3)
        message = {
            "argv": [*spec.argv],
            "env": env,
            "cwd": cwd,
            "tty": [spec.tty.rows, spec.tty.cols] if spec.tty is not None else None,
            "descriptors": 3,
            "joins": len(joins),
        }
        try:
            name = f"x{next(self._numbers)}"
            child, master = await enclosure.wall.start("enter", name, message, [container.pod.pidfd, *theirs, *joins])
        except WallGone:
            close_all(ours)
            raise ContainerGone from None
        except WallFailed as error:
            close_all(ours)
            if container.is_ending:
                raise ContainerGone from None
            raise ExecFailed(str(error), error.code or NOT_EXECUTABLE) from error
        except BaseException:
            close_all(ours)
            raise
        finally:
            close_all([*{*theirs}])
        if spec.tty is not None:
            ours = [os.dup(master[0]), master[0]]
        feed, *outputs = ours
        session = Session(
            InnerCommand(child), feed, dict(enumerate(outputs, 1)), on_output, is_tty=spec.tty is not None
        )
        running = self._running.setdefault(container.id, set())
        running.add(session)
        session.ended.add_done_callback(lambda _: running.discard(session))
        return session

    def end(self, container_id: str) -> None:
        """The container has ended."""
        for session in list(self._running.pop(container_id, ())):
            session.kill()
