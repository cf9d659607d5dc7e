"""The worker as a process, with real containers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.runtime.forking.leftovers import is_alive
from jitney.testing.processes import ProcessStage, RunnerPeer
from jitney.wire.messages import workers
from jitney.worker import link, node

WORKER = """
import sys
from pathlib import Path
from jitney.drivers.builder.fake import FakeBuilder
from jitney.drivers.runtime.process import ProcessRuntime
from jitney.testing.processes import ProcessStage
from jitney.wire.home import Home
from jitney.worker.main import main

class Builder(FakeBuilder):
    def find(self, image_id):
        return ProcessStage.image

home = Home(Path(sys.argv[1]))
sys.exit(main(home, ProcessRuntime(home), Builder()))
"""


class Stage:
    """A worker process, the server it works for, and the runner's server."""

    def __init__(self, home, server) -> None:
        self.server = server
        self.code = ProcessStage(home)
        self.worker = subprocess.Popen([sys.executable, "-c", WORKER, str(home.root)], stderr=subprocess.PIPE)

    async def start(self, code: str) -> str:
        launch = self.code.launch_code(code)
        self.server.command(workers.StartContainer(launch=launch))
        await self.server.until(lambda: self.server.started(launch.container_id))
        return launch.container_id

    async def until_line(self, container_id: str, text: str) -> None:
        await self.server.until(lambda: any(line.text == text for line in self.server.lines(container_id)))

    async def ended(self) -> int:
        return await asyncio.to_thread(self.worker.wait, 20)


@pytest.fixture
def play(home, link_server):
    def run(act) -> None:
        async def main() -> None:
            server = link_server()
            await server.open()
            loop = asyncio.get_running_loop()
            runner = await loop.create_unix_server(lambda: RunnerPeer([]), str(home.socket("runner.sock")))
            stage = Stage(home, server)
            try:
                async with asyncio.timeout(40), runner:
                    await server.until(lambda: server.attached)
                    await act(stage)
                    await server.close()
            finally:
                stage.worker.kill()
                stage.worker.communicate()

        asyncio.run(main())

    return run


def test_a_container_from_command_to_report(play):
    async def act(stage):
        name = await stage.start("print('hello', flush=True); os._exit(3)")
        exited = await stage.server.until(lambda: stage.server.exit_of(name))
        assert exited.exit.exit_code == 3
        assert [line.text for line in stage.server.lines(name)] == ["hello"]
        assert stage.server.started(name).phases_ms["template"] > 0

    play(act)


def test_sigterm_ends_the_worker_and_everything_below_it(play):
    async def act(stage):
        name = await stage.start("signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); wait()")
        await stage.until_line(name, "ready")
        pids = procfs.tree(stage.worker.pid)
        assert len(pids) == 3
        stage.worker.send_signal(signal.SIGTERM)
        assert (await stage.server.until(lambda: stage.server.exit_of(name))).exit.exit_code == 0
        assert await stage.ended() == 0
        assert [pid for pid in pids if is_alive(pid)] == []

    play(act)


def test_containers_survive_the_server_and_are_told_to_the_next_one(play):
    async def act(stage):
        server = stage.server
        name = await stage.start("wait()")
        await stage.until_line(name, "ready")
        await server.close()
        server.attached = None
        await server.open()
        attached = await server.until(lambda: server.attached)
        [running] = attached.containers
        assert (running.container_id, is_alive(running.pid)) == (name, True)
        server.command(workers.StopContainer(container_id=name, grace_ms=0))
        assert (await server.until(lambda: server.exit_of(name))).exit.signal == signal.SIGKILL

    play(act)


def test_an_interrupt_reaches_the_process(play):
    async def act(stage):
        name = await stage.start(
            "signal.signal(signal.SIGURG, lambda *_: (print('heard', flush=True), os._exit(0))); wait()"
        )
        await stage.until_line(name, "ready")
        stage.server.command(workers.InterruptContainer(container_id=name))
        await stage.until_line(name, "heard")

    play(act)


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_the_worker_is_small(play):
    async def act(stage):
        pss_kib = pss(stage.worker.pid)
        assert pss_kib < 30 * 1024

    play(act)


def test_a_welcomed_link_is_not_cut_off_by_the_limit_for_greetings(home, link_server, monkeypatch):
    monkeypatch.setattr(link, "GREETING_S", 0.02)

    async def main() -> None:
        server = link_server()
        await server.open()
        connection = link.ServerLink(
            home,
            version="1",
            attach=lambda: workers.WorkerAttach(node=node.describe(home.root, "fake")),
            on_command=lambda _: None,
            on_restored=lambda: None,
            on_lost=lambda: lost.set_result(None),
        )
        lost = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(connection.run())
        await server.until(lambda: server.attached)
        done, _ = await asyncio.wait({lost}, timeout=0.1)
        assert not done
        task.cancel()
        await asyncio.wait({task})
        await server.close()

    asyncio.run(main())
