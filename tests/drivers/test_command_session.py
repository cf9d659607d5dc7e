"""The flow through a command's descriptors, with a command that is only told of."""

from __future__ import annotations

import asyncio
import os

from jitney.drivers.runtime.forking.session import Session, close_all, open_pipes
from jitney.ports.interactive import KILLED, OUTPUT_BYTES_AHEAD


class Told:
    """A command that does what it does when it is told: `kill` is called with its own ends still open."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.on_ended = lambda code: None
        self.output = -1

    def watch(self, on_ended) -> None:
        self.on_ended = on_ended

    def signal(self, signum: int) -> None:
        pass

    def kill(self) -> None:
        try:
            os.write(self.output, b"x")
        except BrokenPipeError:
            self.found.append("nobody reads any more")  # and so it ends by itself, with whatever code
        except BlockingIOError:
            self.found.append("full")
        else:
            self.found.append("written")


def test_a_command_that_nobody_reads_hears_of_its_end_first():
    async def main():
        command, seen = Told(), []
        ours, theirs = open_pipes()
        command.output = theirs[1]
        os.set_blocking(theirs[1], False)
        feed, *outputs = ours
        session = Session(
            command, feed, dict(enumerate(outputs, 1)), lambda fd, data: seen.append(len(data)), is_tty=False
        )
        while sum(seen) < OUTPUT_BYTES_AHEAD:
            try:
                os.write(theirs[1], b"x" * 65_536)
            except BlockingIOError:
                pass
            await asyncio.sleep(0)
        session.kill()
        session.took(OUTPUT_BYTES_AHEAD)
        await asyncio.sleep(0)
        session.kill()
        assert command.found[0] in {"written", "full"}
        command.on_ended(KILLED)
        assert await session.wait() == KILLED
        assert sum(seen) == OUTPUT_BYTES_AHEAD, "nothing is handed over after a kill"
        session.kill()
        close_all(theirs)

    asyncio.run(main())
