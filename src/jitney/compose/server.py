"""The server's process, put together: `python -m jitney.compose.server HOME [--background]`, and `jitney up`.

Somebody waits for the first result of a server that is just being started, so the order is: claim the folder, start
the worker (another process: it imports while we do), then import and listen. The worker is kept: one that ends while
the server runs is started again, with growing pauses; one that outlived the last server is left to attach itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jitney.compose import folder, processes
from jitney.values.volumes import Retention
from jitney.wire.home import Home

if TYPE_CHECKING:
    import asyncio
    import subprocess

    from jitney.compose.config import Config
    from jitney.server.app import Server

LOOK_S = 0.25  # between two looks at the worker
RESTART_S_MIN = 0.5
RESTART_S_MAX = 30.0
STEADY_S = 10.0  # a worker that lived for this long did not fail to start
WORKER_END_S = 10.0  # for a worker that was told to end, then for one that was sent SIGTERM


class Worker:
    """The worker of a folder, seen from its server."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = folder.worker_lock(home)
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = 0.0
        self._started_at_s = 0.0
        self._start_at_s = 0.0

    def start(self) -> None:
        """Start one, unless one lives."""
        import time

        if self._lock.holder() is None:
            self._process = processes.start(processes.worker_argv(self._home), self._home.worker_log)
            self._started_at_s = time.monotonic()

    def look(self, now_s: float) -> str:
        """Start it again if it has ended and its pause is over; what happened, for the log."""
        process = self._process
        if process is None:
            if self._lock.holder() is not None:
                return ""
        elif process.poll() is None:
            return ""
        if self._start_at_s == 0.0:
            is_steady = now_s - self._started_at_s > STEADY_S
            self._pause_s = RESTART_S_MIN if is_steady else min(max(2 * self._pause_s, RESTART_S_MIN), RESTART_S_MAX)
            self._start_at_s = now_s + self._pause_s
            code = process.returncode if process is not None else "unknown"
            return f"the worker has ended (exit code {code}); starting it again in {self._pause_s:g} s"
        if now_s >= self._start_at_s:
            self._start_at_s = 0.0
            self._process = None
            self.start()
        return ""

    def give_up(self) -> None:
        """Tell one that we started to end, for a server that did not come to life."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    async def end(self, *, is_told: bool) -> None:
        """Wait for its end, then insist. `is_told`: the server has asked it to end."""
        import asyncio
        import signal

        for signum in (*((None,) if is_told else ()), signal.SIGTERM, signal.SIGKILL):
            pid = self._lock.holder()
            if pid and signum is not None:
                os.kill(pid, signum)
            for _ in range(int(WORKER_END_S / LOOK_S)):
                if self._process is not None:
                    self._process.poll()
                if self._lock.holder() is None:
                    return
                await asyncio.sleep(LOOK_S / 5)


def run(home: Home, config: Config, *, background: bool, stay: bool = True) -> None:
    """Run the server of a folder until it is stopped. `stay`: also without work.

    Raises:
        AlreadyExistsError: another server runs in the folder.
        InvalidError: the folder cannot be used.
    """
    lock = folder.claim(home)
    raise_file_limit()
    folder.open_segments(home)
    worker = Worker(home)
    try:
        worker.start()
        import asyncio

        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(home, config, worker, background=background, stay=stay))
    except BaseException:
        worker.give_up()
        raise
    finally:
        folder.retract(home)
        lock.release()


def raise_file_limit() -> None:
    """As many files as the system lets us have: each container and each client is a socket."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(home: Home, config: Config, worker: Worker, *, background: bool, stay: bool) -> None:
    """The server's life on the loop."""
    import asyncio

    from jitney import __version__
    from jitney.compose import registry
    from jitney.server.app import Server, ServerOptions

    log_to_stderr(background)
    idle_ms = 0 if stay else config.server.idle_stop_ms
    logs = registry.logs(home)
    server = Server(
        home=home,
        secret=home.read_token(),
        store=registry.store(home, config.server),
        sources=registry.sources(home, config.server),
        contents=registry.contents(home, config.server),
        keys=registry.keys(home, config.server),
        logs=logs,
        options=ServerOptions(
            version=__version__,
            http_port=config.server.http_port,
            isolation=config.server.isolation,
            retention=Retention(versions=config.server.volume_keep_versions, days=config.server.volume_keep_days),
            http_port_may_change=config.origins.get("server.http_port") == "default",
            idle_stop_s=idle_ms / 1000 if idle_ms else None,
        ),
    )
    stop_on_signals(server)
    tasks: list[asyncio.Task[None]] = []

    def on_ready(ready: Server) -> None:
        announce(home, ready)
        tasks.append(asyncio.create_task(announce_http(home, ready, background)))
        tasks.append(asyncio.create_task(keep(worker, ready)))

    is_told = False
    try:
        await server.run(on_ready)
        is_told = True
    finally:
        for task in tasks:
            task.cancel()
        folder.retract(home)
        if not server.keeps_containers:
            await worker.end(is_told=is_told)
            folder.clear(home)
        await logs.close()


def announce(home: Home, server: Server) -> None:
    """Write where the server can be reached."""
    from jitney import __version__
    from jitney.wire.home import ServerInfo

    folder.publish(
        home,
        ServerInfo(
            pid=os.getpid(),
            version=__version__,
            socket=str(home.socket()),
            http=server.http_address,
            boot_id=server.boot_id,
            segments=str(home.segments),
        ),
    )


async def announce_http(home: Home, server: Server, background: bool) -> None:
    """Once the HTTP side is up, or will not be, say so."""

    await server.http_settled.wait()
    announce(home, server)
    if not background:
        at = server.http_address or server.http_problem
        sys.stderr.write(f"the server of {home.root} is ready, {at}\nCtrl-C stops it and its containers.\n")


async def keep(worker: Worker, server: Server) -> None:
    """See to it that there is a worker, until the server begins to stop: then the worker ends because it is told to."""
    import asyncio
    import logging

    log = logging.getLogger("jitney.compose")
    loop = asyncio.get_running_loop()
    while not server.is_stopping:
        happened = worker.look(loop.time())
        if happened:
            log.warning(happened)
        await asyncio.sleep(LOOK_S)


def stop_on_signals(server: Server) -> None:
    """SIGTERM and Ctrl-C end the server and its containers in order; a second one at once."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    told = False

    def stop() -> None:
        nonlocal told
        if told:
            os._exit(128 + signal.SIGINT)
        told = True
        server.stop()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)


def log_to_stderr(background: bool) -> None:
    """One line an event, with the time; in the background standard error is server.log."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)


def main(arguments: list[str]) -> int:
    """The process that a client or `jitney up --background` starts; the exit code."""
    from jitney.compose.config import load
    from jitney.errors import AlreadyExistsError, JitneyError

    home = Home(Path(arguments[0]))
    flags = {}
    if "--http-port" in arguments:
        flags["http_port"] = int(arguments[arguments.index("--http-port") + 1])
    try:
        run(home, load(home, flags=flags), background=True, stay="--stay" in arguments)
    except AlreadyExistsError:
        return 0  # two were started at once: the other one serves
    except JitneyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
