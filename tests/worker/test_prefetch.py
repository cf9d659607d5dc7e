"""What is brought into memory: which files, and no more than there is room for."""

import os

import pytest

from jitney.worker.prefetch import FILES_MAX, prefetch, room_bytes, wanted


@pytest.fixture
def layers(tmp_path):
    low, high = tmp_path / "1", tmp_path / "2"
    for folder in (low / "blobs", low / "snap", high / "blobs"):
        folder.mkdir(parents=True)
    (low / "blobs" / "abc").write_bytes(b"old")
    (high / "blobs" / "abc").write_bytes(b"new!")
    (low / "blobs" / "def").write_bytes(b"other")
    (low / "snap" / "model.safetensors").symlink_to("../blobs/abc")
    (low / "snap" / "again.safetensors").symlink_to("model.safetensors")
    (low / "snap" / "config.json").write_bytes(b"{}")
    return [low, high]


def test_links_lead_to_the_files_that_are_seen(layers):
    low, high = layers
    assert list(wanted(layers, ["*.safetensors"])) == [high / "blobs" / "abc"]
    assert list(wanted(layers, ["snap/*.json"])) == [low / "snap" / "config.json"]
    assert list(wanted(layers, ["*.json"], "snap")) == [low / "snap" / "config.json"]
    assert list(wanted(layers, ["*.json"], "blobs")) == []
    assert list(wanted(layers, [])) == []
    assert set(wanted(layers, ["*"])) == {high / "blobs" / "abc", low / "blobs" / "def", low / "snap" / "config.json"}


@pytest.mark.parametrize("target", ["/etc/hostname", "../../out", "../snap/bad", "nothing", "..", "../blobs"])
def test_no_link_leads_out_of_the_volume(layers, tmp_path, target):
    (tmp_path / "out").write_bytes(b"secret")
    (layers[0] / "snap" / "bad").symlink_to(target)
    assert list(wanted(layers, ["bad"])) == []


def test_there_is_an_end_to_what_is_read(tmp_path):
    files = [tmp_path / str(number) for number in range(3)]
    for file in files:
        file.write_bytes(b"x" * 10)
    assert prefetch(iter(files), 1 << 30) == 30
    assert prefetch(iter(files), 15) == 15
    assert prefetch(iter(files), 0) == 0
    assert prefetch(iter([tmp_path / "gone", *files]), 100) == 30
    os.mkfifo(tmp_path / "pipe")
    assert prefetch(iter([files[0]] * (FILES_MAX + 5)), 1 << 40) == 10 * FILES_MAX
    clock = iter([0.0, 1.0, 10_000.0])
    assert prefetch(iter(files), 100, now_s=lambda: next(clock)) == 10
    assert 0 < room_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
