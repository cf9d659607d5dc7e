"""The hooks for NVIDIA's GPUs, with a program that only looks like cuda-checkpoint and a /proc of files."""

import asyncio
import stat

import pytest

from jitney.drivers.checkpoints.cuda import CudaHooks
from jitney.ports.checkpoints import CheckpointFailed


@pytest.fixture
def machine(tmp_path):
    """Processes with open devices and children, and a program that writes down what it was told."""

    class Machine:
        proc = tmp_path / "proc"
        program = tmp_path / "cuda-checkpoint"
        log = tmp_path / "log"

        def process(self, pid, *devices, children=()):
            (self.proc / f"{pid}" / "fd").mkdir(parents=True)
            task = self.proc / f"{pid}" / "task" / f"{pid}"
            task.mkdir(parents=True)
            (task / "children").write_text(" ".join(map(str, children)))
            for number, device in enumerate(("/dev/null", *devices)):
                (self.proc / f"{pid}" / "fd" / f"{number}").symlink_to(device)

        def answers(self, code=0, text=""):
            self.program.write_text(f"#!/bin/sh\necho $@ >> {self.log}\necho '{text}'\nexit {code}\n")
            self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

        def hooks(self):
            return CudaHooks(str(self.program), proc=str(self.proc))

        def told(self):
            return self.log.read_text().splitlines() if self.log.exists() else []

    return Machine()


def before(machine, pid):
    return asyncio.run(machine.hooks().before_checkpoint(pid))


def test_a_process_without_a_gpu_is_left_alone(machine):
    machine.answers()
    machine.process(7, children=(8,))
    machine.process(8)
    assert before(machine, 7) is False
    assert machine.told() == []


def test_what_is_on_a_gpu_goes_to_memory_and_back(machine):
    machine.answers()
    machine.process(7, "/dev/nvidiactl", "/dev/nvidia0")
    assert before(machine, 7) is True
    asyncio.run(machine.hooks().after_restore(9))
    assert machine.told() == ["--toggle --pid 7", "--toggle --pid 9"]


def test_a_failure_has_the_programs_words(machine):
    machine.answers(code=1, text="the driver is too old")
    machine.process(7, "/dev/nvidia0")
    with pytest.raises(CheckpointFailed, match="cuda-checkpoint: the driver is too old"):
        before(machine, 7)


@pytest.mark.parametrize("device", ["/dev/kfd", "/dev/dri/renderD128", "/dev/accel/accel0"])
def test_devices_of_others_cannot_be_checkpointed(machine, device):
    machine.answers()
    machine.process(7, device, "/dev/nvidia0")
    with pytest.raises(CheckpointFailed, match=f"it has {device} open"):
        before(machine, 7)
    assert machine.told() == []


def test_a_child_that_uses_a_gpu_cannot_be_checkpointed(machine):
    machine.answers()
    machine.process(7, children=(8,))
    machine.process(8, "/dev/nvidia0")
    with pytest.raises(CheckpointFailed, match="a child process uses a GPU"):
        before(machine, 7)


def test_without_the_program_it_is_said(machine, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    machine.process(7, "/dev/nvidia0")
    with pytest.raises(CheckpointFailed, match="no `cuda-checkpoint` in PATH"):
        asyncio.run(CudaHooks(proc=str(machine.proc)).before_checkpoint(7))
    with pytest.raises(CheckpointFailed, match="cannot be started"):
        before(machine, 7)
