"""The uv builder: pip's settings, command lines, and builds that go wrong."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.local import LocalBuilder, Settings, disk
from jitney.drivers.builder.local.interpreters import own_interpreter, search_path
from jitney.drivers.builder.local.render import Place, is_disk_full, render_install
from jitney.drivers.builder.local.settings import (
    build_environment,
    parse_pip_config,
    pip_variables,
    uv_environment,
)
from jitney.drivers.command import Lines, run
from jitney.errors import ImageBuildError, StorageFullError, UnsupportedError
from jitney.testing.wheels import make_wheel
from jitney.values.images import Env, ImageSpec, PipInstall


def build(builder, spec, events=None):
    events = [] if events is None else events
    return asyncio.run(builder.build(spec, lambda *event: events.append(event)))


def spec_of(wheels, *requirements, **options):
    install = PipInstall(requirements=requirements, find_links=str(wheels), extra_options="--no-index", **options)
    return ImageSpec(layers=(install,))


@pytest.fixture
def wheels(tmp_path):
    make_wheel(tmp_path / "wheels", "tinypackage", text="ANSWER = 42\n")
    return tmp_path / "wheels"


@pytest.fixture
def scripted(tmp_path):
    """A builder whose uv is a shell script."""

    def make(text, timeout_ms=3_600_000, **options):
        path = tmp_path / "uv"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return LocalBuilder(
            tmp_path / "images",
            HostBox(),
            settings=Settings(timeout_ms=timeout_ms),
            uv=str(path),
            pip_config={},
            **options,
        )

    return make


async def until(holds):
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.002)  # sleep: a real process does not say how far it is
    pytest.fail("it did not happen")


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# ------------------------------------------------------------------------------------------------ settings


def test_pip_settings_become_uv_settings():
    text = r"""
:env:.find-links='/opt/wheels'
global.cert='/etc/ca.pem'
global.constraint='/etc/c1.txt /etc/c2.txt'
global.extra-index-url='\nfile:///a/simple\nhttps://b.example/simple'
global.index-url='https://c.example/simple'
global.trusted-host='c.example'
install.index-url='https://d.example/simple'
freeze.index-url='https://not-for-installing.example'
a line of another form
global.broken='
"""
    assert uv_environment(parse_pip_config(text)) == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_CONSTRAINT": "/etc/c1.txt /etc/c2.txt",
        "UV_DEFAULT_INDEX": "https://d.example/simple",
        "UV_FIND_LINKS": "/opt/wheels",
        "UV_INDEX": "file:///a/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "c.example",
        "UV_SYSTEM_CERTS": "1",
    }


def test_variables_win_over_files():
    config = {"global.index-url": "https://file.example", **pip_variables({"PIP_INDEX_URL": "https://env.example"})}
    assert uv_environment(config)["UV_DEFAULT_INDEX"] == "https://env.example"


def test_no_settings_are_no_settings():
    assert uv_environment({}) == {"UV_SYSTEM_CERTS": "1"}
    assert "UV_PRERELEASE" not in uv_environment({"global.pre": "false"})
    assert uv_environment({"global.pre": "true"})["UV_PRERELEASE"] == "allow"
    assert uv_environment({"install.no-index": "true"})["UV_OFFLINE"] == "1"


def test_a_build_inherits_nothing_that_aims_it_elsewhere():
    env = build_environment(
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/x", "VIRTUAL_ENV": "/y", "HOME": "/h"},
        {"global.index-url": "https://pip.example"},
        {"OF_THE_IMAGE": "1", "UV_PYTHON_DOWNLOADS": "automatic"},
        link_mode="copy",
    )
    assert not {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV"} & set(env)
    assert (env["HOME"], env["OF_THE_IMAGE"], env["UV_PYTHON_DOWNLOADS"]) == ("/h", "1", "never")
    assert (env["UV_DEFAULT_INDEX"], env["UV_LINK_MODE"]) == ("https://pip.example", "copy")


def test_settings_of_uv_itself_win_over_those_of_pip():
    env = build_environment(
        {"UV_INDEX": "https://uv.example"}, {"global.index-url": "https://pip.example"}, {}, link_mode="copy"
    )
    assert env["UV_INDEX"] == "https://uv.example"
    assert "UV_DEFAULT_INDEX" not in env


def test_our_own_index_wins_over_that_of_pip():
    env = build_environment(
        {}, {"global.index-url": "https://pip.example"}, {}, link_mode="copy", index_url="https://o"
    )
    assert env["UV_DEFAULT_INDEX"] == "https://o"


# ------------------------------------------------------------------------------------------------ rendering


def test_requirements_go_by_a_file_and_addresses_as_one_word():
    install = render_install(
        "uv",
        Place(python="/e/bin/python"),
        PipInstall(
            requirements=("six==1.16 --hash=sha256:ab", "attrs"),
            constraints=("attrs<30",),
            index_url="https://a.example",
            extra_index_url="https://b.example https://c.example",
            find_links="/wheels",
            pre=True,
            extra_options="--no-cache-dir --only-binary=:all:",
        ),
        2,
    )
    assert install.files == {
        "requirements-2.txt": "six==1.16 --hash=sha256:ab\nattrs\n",
        "constraints-2.txt": "attrs<30\n",
    }
    assert install.argv == (
        *("uv", "pip", "install", "--python", "/e/bin/python", "--requirements", "requirements-2.txt"),
        *("--constraints", "constraints-2.txt", "--default-index=https://a.example"),
        *("--index=https://b.example", "--index=https://c.example", "--index-strategy=unsafe-best-match"),
        *("--find-links=/wheels", "--prerelease=allow", "--no-cache", "--only-binary=:all:"),
    )


def test_lines_come_whole_and_the_last_are_kept():
    seen = []
    lines = Lines(seen.append)
    for part in (b"one\ntw", b"o\r\n\n", "drei\u00e4".encode()[:-1], b"\xa4\rfour", b"x" * 5_000):
        lines.feed(part)
    lines.end()
    assert seen[:3] == ["one", "two", "drei\u00e4"]
    assert len(seen[3]) == 2_000
    for number in range(30):
        lines.feed(f"{number}\n".encode())
    assert [*lines.last] == [str(number) for number in range(10, 30)]


def test_a_shim_is_never_on_the_search_path(tmp_path):
    real = tmp_path / "versions" / "3.12.1" / "bin"
    real.mkdir(parents=True)
    found = search_path({"PATH": f"/root/.pyenv/shims{os.pathsep}/usr/bin", "PYENV_ROOT": str(tmp_path)})
    assert found.split(os.pathsep) == ["/usr/bin", str(real)]
    assert "shims" not in own_interpreter()


# ------------------------------------------------------------------------------------------------ real builds


def test_what_is_installed_can_be_imported_and_nothing_of_ours(tmp_path, wheels):
    builder = LocalBuilder(tmp_path / "images", HostBox(), pip_config={})
    image = build(builder, spec_of(wheels, "tinypackage"))
    code = (
        "import platform, tinypackage, importlib.util as u; "
        "print(tinypackage.ANSWER, u.find_spec('msgspec'), platform.python_version())"
    )
    done = subprocess.run([image.python_path, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["42", "None", image.python_version]
    assert image.cloudpickle_version  # that of the SDK


def test_an_own_cloudpickle_is_the_one_that_counts(tmp_path, wheels):
    make_wheel(wheels, "cloudpickle", "2.0.1")
    image = build(LocalBuilder(tmp_path / "images", HostBox(), pip_config={}), spec_of(wheels, "cloudpickle"))
    assert image.cloudpickle_version == "2.0.1"


def test_layers_are_replayed_in_order(tmp_path, wheels):
    make_wheel(wheels, "otherpackage")
    first, second = spec_of(wheels, "tinypackage"), spec_of(wheels, "otherpackage")
    events = []
    image = build(
        LocalBuilder(tmp_path / "images", HostBox(), pip_config={}),
        ImageSpec(layers=(*first.layers, *second.layers)),
        events,
    )
    assert [title for _, _, title, line in events if not line][1:] == [
        "pip install tinypackage",
        "pip install otherpackage",
    ]
    code = "import tinypackage, otherpackage"
    subprocess.run([image.python_path, "-I", "-c", code], check=True)


def test_variables_alone_cost_no_build(tmp_path, wheels):
    builder = LocalBuilder(tmp_path / "images", HostBox(), pip_config={})
    spec = spec_of(wheels, "tinypackage")
    plain = build(builder, spec)
    coloured = build(builder, ImageSpec(layers=(*spec.layers, Env(variables={"COLOUR": "blue"}))))
    assert coloured.python_path == plain.python_path
    assert coloured.image_id != plain.image_id
    assert (coloured.env["COLOUR"], "COLOUR" in plain.env) == ("blue", False)


def test_a_package_that_does_not_exist_shows_the_step_and_why(tmp_path, wheels):
    with pytest.raises(ImageBuildError) as raised:
        build(LocalBuilder(tmp_path / "images", HostBox(), pip_config={}), spec_of(wheels, "no-such-package-anywhere"))
    assert "step 2 of 2 (pip install no-such-package-anywhere) failed" in str(raised.value)
    assert "no-such-package-anywhere was not found" in " ".join(str(raised.value).split())
    assert not [*(tmp_path / "images").glob("*/env-*")]


def test_a_python_that_is_not_there_lists_those_that_are(tmp_path):
    with pytest.raises(UnsupportedError) as raised:
        build(LocalBuilder(tmp_path, HostBox(), pip_config={}), ImageSpec(python_version="3.99"))
    assert "no Python 3.99" in raised.value.message
    assert ".".join(map(str, sys.version_info[:3])) in raised.value.hint


def test_an_image_whose_python_has_gone_is_built_again(tmp_path):
    builder = LocalBuilder(tmp_path / "images", HostBox())
    image = build(builder, ImageSpec())
    python = Path(image.python_path)
    target = python.parent / os.readlink(python)
    target.unlink()
    assert builder.find(image.image_id) is None
    assert build(builder, ImageSpec()).python_path != image.python_path


def test_a_damaged_commit_file_is_no_image(tmp_path):
    builder = LocalBuilder(tmp_path, HostBox())
    image = build(builder, ImageSpec())
    (tmp_path / image.image_id / disk.IMAGE_FILE).write_bytes(b'{"environment_id": ')
    assert builder.find(image.image_id) is None
    assert build(builder, ImageSpec()).image_id == image.image_id


def test_pip_is_asked_where_nothing_is_given(tmp_path, wheels):
    builder = LocalBuilder(tmp_path / "images", HostBox())
    assert build(builder, spec_of(wheels, "tinypackage"))
    assert builder._shop.uv._pip_config is not None


# ------------------------------------------------------------------------------------------------ things go wrong


def test_no_process_is_left_when_a_build_is_cancelled(tmp_path, scripted, wheels):
    builder = scripted(f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/own; wait")

    async def cancel():
        task = asyncio.create_task(builder.build(spec_of(wheels, "tinypackage"), lambda *_: None))
        await until(lambda: (tmp_path / "own").exists() and (tmp_path / "own").read_text().strip())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pids = [int((tmp_path / name).read_text()) for name in ("child", "own")]
        await until(lambda: not any(map(is_alive, pids)))

    asyncio.run(cancel())
    assert not [*(tmp_path / "images").glob("*/env-*")]


@pytest.mark.parametrize("turns", range(1, 8))
def test_a_command_that_is_cancelled_while_it_starts_leaves_nothing(tmp_path, turns):
    script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"

    async def cancel():
        command = run(["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": os.defpath}, on_line=lambda _: None)
        task = asyncio.create_task(command)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    child = tmp_path / "child"
    if child.exists() and child.read_text().strip():
        asyncio.run(until(lambda: not is_alive(int(child.read_text()))))


def test_a_build_that_takes_too_long_is_ended_with_its_tree(tmp_path, scripted, wheels):
    builder = scripted(f"sleep 1000 & echo $! > {tmp_path}/child; wait", timeout_ms=200)
    with pytest.raises(ImageBuildError, match=r"over 0 s .* 'pip install tinypackage'"):
        build(builder, spec_of(wheels, "tinypackage"))
    asyncio.run(until(lambda: not is_alive(int((tmp_path / "child").read_text()))))


def test_a_process_in_the_background_does_not_hold_a_build_up(tmp_path, scripted, wheels):
    builder = scripted(f"sleep 1000 & echo $! > {tmp_path}/child; echo done")
    assert build(builder, spec_of(wheels, "tinypackage"))
    asyncio.run(until(lambda: not is_alive(int((tmp_path / "child").read_text()))))


def test_a_full_disk_is_named(scripted, wheels):
    builder = scripted("echo 'failed to write: No space left on device (os error 28)' >&2; exit 1")
    with pytest.raises(StorageFullError, match="step 2 of 2"):
        build(builder, spec_of(wheels, "tinypackage"))
    assert not is_disk_full("no such package")


def test_a_uv_that_is_killed_is_told_from_one_that_fails(scripted, wheels):
    with pytest.raises(ImageBuildError, match="ended by signal 9"):
        build(scripted("kill -9 $$"), spec_of(wheels, "tinypackage"))


def test_a_uv_that_is_not_there(tmp_path, wheels):
    builder = LocalBuilder(tmp_path / "images", HostBox(), uv=str(tmp_path / "none"), pip_config={})
    with pytest.raises(ImageBuildError, match="No such file"):
        build(builder, spec_of(wheels, "tinypackage"))


KILLED = """
import asyncio, sys
from pathlib import Path
from jitney.drivers.box.host import HostBox
from jitney.drivers.builder.local import LocalBuilder
from jitney.values.images import ImageSpec, PipInstall
spec = ImageSpec(layers=(PipInstall(requirements=("tinypackage",)),))
asyncio.run(LocalBuilder(Path(sys.argv[1]), HostBox(), uv=sys.argv[2], pip_config={}).build(spec, lambda *_: None))
"""


def test_killed_in_mid_build_there_is_no_image_and_the_rest_is_removed(tmp_path, scripted):
    builder = scripted(f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    images = tmp_path / "images"
    victim = subprocess.Popen([sys.executable, "-c", KILLED, str(images), str(tmp_path / "uv")])
    pid = tmp_path / "pid"
    asyncio.run(until(lambda: pid.exists() and pid.read_text().strip()))
    victim.kill()
    victim.wait()
    spec = ImageSpec(layers=(PipInstall(requirements=("tinypackage",)),))
    assert builder.find(builder.plan(spec).image_id) is None
    # Its uv outlived it and still writes: what it writes to is not pulled away.
    assert asyncio.run(builder.reap()) == 0
    assert [*images.glob("*/env-*/")]
    os.kill(int(pid.read_text()), signal.SIGKILL)
    asyncio.run(until(lambda: not is_alive(int(pid.read_text()))))
    assert asyncio.run(builder.reap()) == 1
    assert not [*images.glob("*/env-*")]


def test_what_was_replaced_stays_as_long_as_it_is_used(tmp_path):
    builder = LocalBuilder(tmp_path, HostBox())
    old = build(builder, ImageSpec())
    container = subprocess.Popen([old.python_path, "-c", "input()"], stdin=subprocess.PIPE)
    new = build(builder, msgspec.structs.replace(ImageSpec(), force_build=True))
    assert asyncio.run(builder.reap()) == 0
    container.communicate(b"\n")
    assert asyncio.run(builder.reap()) == 1
    assert not Path(old.python_path).exists()
    assert Path(new.python_path).exists()
