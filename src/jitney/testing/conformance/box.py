"""The contract of `ports.box`, sentence by sentence.

Commands are shell scripts, which a driver that runs nothing recognises by their text. What needs a root file system or
a wall is skipped, with the reason, where the driver says that it has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from jitney.ports.box import Bind, Box, BoxFailed, BoxSpec, BoxVolume, OverMemory

LOOK_S = 0.002
LOOKS_MAX = 5_000

# What the commands of this suite do. `MARKER` is a name that no other process of the machine has in its command line.
MARKER = "4711.0815"
SAYS_TWO_LINES = "echo one; echo two >&2"
EXITS_3 = "exit 3"
ENDS_ITSELF = "kill -9 $$"
SAYS_WHERE = 'echo "$COLOUR in $PWD"'
WAITS = f"echo started; sleep {MARKER}"
LEAVES_A_CHILD = f"sleep {MARKER} & echo left"
LEAVES_A_DAEMON = f"setsid sleep {MARKER} >/dev/null 2>&1 & echo left"
WRITES = "mkdir -p /opt/made && echo hello > /opt/made/greeting"
READS = "cat /opt/made/greeting"
DELETES = "rm /opt/made/greeting"
READS_BIND = "cat /bound/note"
WRITES_BIND = "echo changed > /bound/note"
WRITES_TMP = "echo x > /tmp/left-in-tmp"
SAYS_IDENTITY = "id -u"
EATS = "echo eating; tail /dev/zero"  # waits for the end of a line that never comes, with all of it in memory
READS_VOLUME = "cat /data/volume/a"
CHANGES_VOLUME = "mkdir -p /data/volume/deep && echo new > /data/volume/deep/new && rm /data/volume/a"
READS_CHANGED = "cat /data/volume/deep/new"
SEES_MOUNTS = "test ! -e /data/volume"
EATS_AND_GOES_ON = f"({EATS}); echo over"


class Stage(Protocol):
    """What a driver's test module brings."""

    def box(self) -> Box:
        """The driver."""
        ...

    def layers(self) -> tuple[str, ...]:
        """Folders of a root file system that has a shell and coreutils; () is the host's own."""
        ...

    def bounds_memory(self) -> bool:
        """Whether `memory_mib` is enforced."""
        ...

    def is_alive(self, marker: str) -> bool:
        """Whether a process with this in its command line lives on the machine."""
        ...


class BoxContract:
    """Subclass it, and give a fixture `stage(tmp_path)`."""

    def spec(self, stage: Stage, script: str, **changes: object) -> BoxSpec:
        """A command of this suite. `rooted` puts it over the stage's layers."""
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "COLOUR": "blue"}
        spec = BoxSpec(argv=("/bin/sh", "-c", script), env=env, timeout_ms=60_000)
        return msgspec.structs.replace(spec, **changes)

    def over(self, stage: Stage, script: str, upper: str = "", *more: str, **changes: object) -> BoxSpec:
        """The same over the stage's root file system, with `more` layers on it."""
        layers = (*stage.layers(), *more)
        return self.spec(stage, script, layers=layers, upper=upper, **changes)

    def run(self, stage: Stage, spec: BoxSpec) -> tuple[int, list[str]]:
        """Exit code and lines."""
        lines: list[str] = []
        return asyncio.run(stage.box().run(spec, lines.append)), lines

    def needs_root(self, stage: Stage) -> None:
        """Skip where there is no root file system."""
        if not stage.box().capabilities().root_filesystem:
            pytest.skip("this box has no root file system")

    def needs_layers(self, stage: Stage) -> None:
        """Skip where nothing can be written over what the stage has."""
        self.needs_root(stage)
        if not stage.layers() and not stage.box().capabilities().host_layer_writable:
            pytest.skip("this box cannot write over the host's file system")

    def upper(self, stage: Stage, tmp_path: Path, name: str) -> str:
        """An adopted folder."""
        folder = str(tmp_path / name)
        stage.box().adopt(folder)
        return folder

    # ------------------------------------------------------------------------------------------------ sentences

    def test_1_exit_codes_and_signals(self, stage: Stage) -> None:
        assert self.run(stage, self.spec(stage, EXITS_3))[0] == 3
        assert self.run(stage, self.spec(stage, ENDS_ITSELF))[0] == -9

    def test_1_output_comes_by_line_on_the_event_loop(self, stage: Stage) -> None:
        loops = []
        lines = []

        async def run() -> None:
            def on_line(line: str) -> None:
                loops.append(asyncio.get_running_loop())
                lines.append(line)

            assert await stage.box().run(self.spec(stage, SAYS_TWO_LINES), on_line) == 0
            assert loops == [asyncio.get_running_loop()] * 2

        asyncio.run(run())
        assert sorted(lines) == ["one", "two"]

    @pytest.mark.parametrize("script", [LEAVES_A_CHILD, LEAVES_A_DAEMON])
    def test_1_nothing_outlives_it(self, stage: Stage, script: str) -> None:
        code, lines = self.run(stage, self.spec(stage, script))
        assert (code, lines) == (0, ["left"])
        asyncio.run(_until(lambda: not stage.is_alive(MARKER)))

    def test_2_what_is_written_is_a_layer(self, stage: Stage, tmp_path: Path) -> None:
        self.needs_layers(stage)
        first = self.upper(stage, tmp_path, "first")
        assert self.run(stage, self.over(stage, WRITES, first)) == (0, [])
        assert (Path(first) / "opt/made/greeting").read_text() == "hello\n"
        lower = (first,) if stage.layers() else ("/", first)
        assert self.run(stage, self.over(stage, READS, "", *lower)) == (0, ["hello"])

    def test_2_what_is_deleted_is_a_whiteout(self, stage: Stage, tmp_path: Path) -> None:
        self.needs_layers(stage)
        first, second = (self.upper(stage, tmp_path, name) for name in ("first", "second"))
        host = () if stage.layers() else ("/",)
        assert self.run(stage, self.over(stage, WRITES, first))[0] == 0
        assert self.run(stage, self.over(stage, DELETES, second, *host, first))[0] == 0
        assert (Path(first) / "opt/made/greeting").exists()
        assert self.run(stage, self.over(stage, READS, "", *host, first, second))[0] != 0

    def test_2_without_upper_it_is_thrown_away(self, stage: Stage, tmp_path: Path) -> None:
        self.needs_layers(stage)
        before = sorted(os.listdir(tmp_path))
        self.run(stage, self.over(stage, WRITES))
        assert self.run(stage, self.over(stage, READS))[0] != 0
        assert sorted(os.listdir(tmp_path)) == before
        assert not Path("/opt/made/greeting").exists()

    def test_3_environment_and_folder(self, stage: Stage) -> None:
        assert self.run(stage, self.spec(stage, SAYS_WHERE, cwd="/usr")) == (0, ["blue in /usr"])

    def test_3_binds_are_seen_and_read_only_unless_writable(self, stage: Stage, tmp_path: Path) -> None:
        self.needs_root(stage)
        note = tmp_path / "bound" / "note"
        stage.box().adopt(str(note.parent))
        note.write_text("as it was\n")
        owner = note.parent.stat()
        if os.getuid() == 0:
            os.chown(note, owner.st_uid, owner.st_gid)
        reading = Bind(source=str(note.parent), target="/bound")
        assert self.run(stage, self.over(stage, READS_BIND, binds=(reading,))) == (0, ["as it was"])
        assert self.run(stage, self.over(stage, WRITES_BIND, binds=(reading,)))[0] != 0
        assert note.read_text() == "as it was\n"
        writing = msgspec.structs.replace(reading, writable=True)
        assert self.run(stage, self.over(stage, WRITES_BIND, binds=(writing,)))[0] == 0
        assert note.read_text() == "changed\n"

    def test_3_tmp_is_its_own(self, stage: Stage, tmp_path: Path) -> None:
        self.needs_layers(stage)
        upper = self.upper(stage, tmp_path, "upper")
        assert self.run(stage, self.over(stage, WRITES_TMP, upper))[0] == 0
        assert not (Path(upper) / "tmp/left-in-tmp").exists()
        assert not Path("/tmp/left-in-tmp").exists()

    def test_3_it_is_root_inside(self, stage: Stage) -> None:
        self.needs_root(stage)
        assert self.run(stage, self.over(stage, SAYS_IDENTITY)) == (0, ["0"])

    def test_3_without_root_file_systems_layers_and_volumes_are_refused(self, stage: Stage, tmp_path: Path) -> None:
        if stage.box().capabilities().root_filesystem:
            pytest.skip("this box has root file systems")
        volume = BoxVolume(target="/data/volume", layers=(str(tmp_path),))
        for changes in ({"layers": (str(tmp_path),)}, {"upper": str(tmp_path)}, {"volumes": (volume,)}):
            with pytest.raises(BoxFailed):
                self.run(stage, self.spec(stage, EXITS_3, **changes))

    def test_4_cancelled_it_ends_everything(self, stage: Stage) -> None:
        async def cancel() -> None:
            started = asyncio.Event()
            run = stage.box().run(self.spec(stage, WAITS), lambda line: started.set())
            task = asyncio.create_task(run)
            await started.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            await _until(lambda: not stage.is_alive(MARKER))

        asyncio.run(cancel())

    def test_4_over_its_time_it_ends_everything(self, stage: Stage) -> None:
        with pytest.raises(TimeoutError):
            self.run(stage, self.spec(stage, WAITS, timeout_ms=300))
        asyncio.run(_until(lambda: not stage.is_alive(MARKER)))

    def test_5_a_command_that_is_not_there_is_told(self, stage: Stage) -> None:
        spec = msgspec.structs.replace(self.spec(stage, EXITS_3), argv=("/no/such/program",))
        code = 127
        with contextlib.suppress(BoxFailed):
            code, _ = self.run(stage, spec)
        assert code in (126, 127)

    def test_6_adopted_folders_are_empty_and_discarded_ones_gone(self, stage: Stage, tmp_path: Path) -> None:
        folder = self.upper(stage, tmp_path, "layer")
        assert os.listdir(folder) == []
        capabilities = stage.box().capabilities()
        if capabilities.root_filesystem and (stage.layers() or capabilities.host_layer_writable):
            assert self.run(stage, self.over(stage, WRITES, folder))[0] == 0
        asyncio.run(stage.box().discard(folder))
        assert not os.path.lexists(folder)
        asyncio.run(stage.box().discard(folder))  # twice is as good as once

    def test_7_there_is_nothing_to_reap_after_commands_that_ended(self, stage: Stage) -> None:
        assert self.run(stage, self.spec(stage, EXITS_3))[0] == 3
        assert asyncio.run(stage.box().reap()) == 0
        assert self.run(stage, self.spec(stage, EXITS_3))[0] == 3

    def test_8_want_of_memory_is_told_with_its_figures(self, stage: Stage) -> None:
        if not stage.bounds_memory():
            pytest.skip("memory is not bounded here")
        lines: list[str] = []
        with pytest.raises(OverMemory, match="more than 48 MiB") as caught:
            asyncio.run(stage.box().run(self.spec(stage, EATS, memory_mib=48), lines.append))
        assert caught.value.limit_mib == 48
        assert caught.value.code
        assert lines[:1] == ["eating"]

    def test_8_a_command_that_ends_well_all_the_same_has_not_failed(self, stage: Stage) -> None:
        if not stage.bounds_memory():
            pytest.skip("memory is not bounded here")
        code, lines = self.run(stage, self.spec(stage, EATS_AND_GOES_ON, memory_mib=48))
        assert code == 0
        assert lines[-1] == "over"

    # ------------------------------------------------------------------------------------------------ volumes

    def volume(self, stage: Stage, tmp_path: Path, **changes: object) -> BoxVolume:
        """Two layers with a file in the lower one, and an adopted folder above."""
        self.needs_layers(stage)
        tmp_path.chmod(0o711)
        for name in ("low", "high", "own"):
            (tmp_path / name).mkdir(mode=0o711)
        (tmp_path / "low" / "part").mkdir()
        (tmp_path / "low" / "a").write_text("as committed\n")
        (tmp_path / "low" / "part" / "a").write_text("in a part\n")
        (tmp_path / "high" / "away").symlink_to("part")
        layers = (str(tmp_path / "low"), str(tmp_path / "high"))
        for path in (layers[0], f"{layers[0]}/part", layers[1]):
            own_like_adopted(stage, path, tmp_path / "own")
        volume = BoxVolume(target="/data/volume", layers=layers, upper=self.upper(stage, tmp_path / "own", "0"))
        return msgspec.structs.replace(volume, **changes)

    def test_9_a_volume_is_seen_and_what_is_written_is_above_it(self, stage: Stage, tmp_path: Path) -> None:
        volume = self.volume(stage, tmp_path)
        upper = self.upper(stage, tmp_path, "upper")
        seen = (volume,)
        assert self.run(stage, self.over(stage, READS_VOLUME, volumes=seen)) == (0, ["as committed"])
        assert self.run(stage, self.over(stage, CHANGES_VOLUME, upper, volumes=seen)) == (0, [])
        assert self.run(stage, self.over(stage, READS_CHANGED, volumes=seen)) == (0, ["new"])
        assert self.run(stage, self.over(stage, READS_VOLUME, volumes=seen))[0] != 0
        # It is all in the volume's own folder; its layers are as they were, and the command's layer has nothing of it.
        assert (Path(volume.upper) / "deep/new").read_text() == "new\n"
        assert sorted(os.listdir(volume.layers[0])) == ["a", "part"]
        assert os.listdir(tmp_path / "own") == ["0"]
        assert not [name for _, _, names in os.walk(upper) for name in names]
        assert self.run(stage, self.over(stage, SEES_MOUNTS))[0] == 0
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()

    def test_9_without_upper_a_volume_is_read_only(self, stage: Stage, tmp_path: Path) -> None:
        two = self.volume(stage, tmp_path, upper="")
        for volume in (two, msgspec.structs.replace(two, layers=two.layers[:1])):
            assert self.run(stage, self.over(stage, READS_VOLUME, volumes=(volume,))) == (0, ["as committed"])
            assert self.run(stage, self.over(stage, CHANGES_VOLUME, volumes=(volume,)))[0] != 0

    def test_9_only_a_part_is_seen_and_a_link_is_none(self, stage: Stage, tmp_path: Path) -> None:
        volume = self.volume(stage, tmp_path, sub_path="part")
        assert self.run(stage, self.over(stage, READS_VOLUME, volumes=(volume,))) == (0, ["in a part"])
        made = msgspec.structs.replace(volume, sub_path="not/yet")
        assert self.run(stage, self.over(stage, "true", volumes=(made,)))[0] == 0
        read_only = msgspec.structs.replace(made, upper="", sub_path="no/where")
        link = msgspec.structs.replace(volume, sub_path="away")
        for refused in (read_only, link):
            with pytest.raises(BoxFailed, match="has no folder"):
                self.run(stage, self.over(stage, "true", volumes=(refused,)))

    def test_9_cancelled_nothing_stays_mounted(self, stage: Stage, tmp_path: Path) -> None:
        volume = self.volume(stage, tmp_path)

        async def cancel() -> None:
            started = asyncio.Event()
            spec = self.over(stage, WAITS, volumes=(volume,))
            task = asyncio.create_task(stage.box().run(spec, lambda line: started.set()))
            await started.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
        assert os.listdir(tmp_path / "own") == ["0"]
        asyncio.run(stage.box().discard(volume.upper))
        assert not os.path.lexists(volume.upper)


def own_like_adopted(stage: Stage, path: str, beside: Path) -> None:
    """Give a folder, with the files in it, to whom a box has for root."""
    sample = str(beside / "sample")
    stage.box().adopt(sample)
    owner = os.stat(sample)
    os.rmdir(sample)
    if os.getuid() == 0:
        for one in (path, *(entry.path for entry in os.scandir(path))):
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


class _Condition(Protocol):
    def __call__(self) -> bool: ...


async def _until(holds: _Condition) -> None:
    # A process tells nobody how far it is: look again and again, up to a limit.
    for _ in range(LOOKS_MAX):
        if holds():
            return
        await asyncio.sleep(LOOK_S)
    raise TimeoutError("it did not happen")
