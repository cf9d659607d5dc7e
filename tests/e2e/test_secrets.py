"""Secrets on a whole platform: in containers without a wall, and behind one."""

import ast
import base64
import hashlib
import os
import secrets
import signal

import pytest

from jitney.drivers.runtime.forking import procfs
from jitney.drivers.walls.probe import probe
from tests.e2e.platforms import Platform, cmdline, environ, eventually

pytestmark = pytest.mark.e2e
WHY_NOT = probe().why
PASSWORD = f"swordfish/{secrets.token_hex(12)}+ä"
TOKEN = f"own {secrets.token_hex(12)}"
FORMS = {
    text.encode()
    for value in (PASSWORD, TOKEN)
    for text in (value, value.encode().hex(), base64.b64encode(value.encode()).decode()[:-4])
}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(
    scope="module",
    params=[
        "process",
        pytest.param("namespaces", marks=pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")),
    ],
)
def tier(request, tmp_path_factory):
    """A platform of each tier, with a secret that it was given in a file."""
    made = Platform(tmp_path_factory.mktemp(request.param))
    made.environment["JITNEY_RUNTIME"] = request.param
    try:
        made.bring("secretive.py")
        made.write("own.env", f"TOKEN='{TOKEN}'\nBOTH=own\nSET=never\n")
        given = made.write("given.env", f"PASSWORD='{PASSWORD}'\nBOTH=database\n")
        made.jitney("secret", "create", "database", "--from-dotenv", given)
        given.unlink()
        yield made
        made.end()
    finally:
        made.clean()


def kept_in_the_clear(platform):
    """Files of the server's folder that have a value in them."""
    return [
        str(path)
        for path in platform.home.root.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in FORMS)
    ]


def test_containers_have_the_values_and_nothing_is_kept_in_the_clear(tier):
    done = tier.jitney("run", "secretive.py::tell")
    found, bare = done.lines[0], done.lines[1]
    assert ast.literal_eval(found) == {
        "PASSWORD": digest(PASSWORD),
        "TOKEN": digest(TOKEN),
        "BOTH": digest("own"),
        "SET": digest("by the function"),
    }
    assert bare == "None", "a function of the same module that has no secret has none"
    assert kept_in_the_clear(tier) == []


def test_no_process_shows_a_value_and_no_template_has_one(tier):
    running = tier.start_jitney("run", "secretive.py::chat", "--wait", "60")
    eventually(lambda: any(one["phase"] == "ready" for one in tier.containers("talk")), why="a container is up")
    eventually(lambda: "waiting" in logs(tier), why="it has its variables")
    for pid in procfs.pids():
        shown = cmdline(pid) + environ(pid)
        assert not any(form in shown for form in FORMS), f"process {pid}: {cmdline(pid)!r}"
    forks = {one["pid"] for one in tier.containers()}
    templates = [pid for pid in procfs.pids() if is_template(pid, tier) and pid not in forks]
    assert templates
    for pid in templates:
        assert not holds(pid), f"template {pid} has a value in its memory"
    [talking] = tier.containers("talk")
    if talking["pid"] and os.geteuid() == 0:
        assert holds(talking["pid"]), "what looks into memory finds what is there"
    tier.jitney("container", "stop", talking["container_id"])
    os.killpg(running.pid, signal.SIGINT)
    tier.finish(running, code=None)


def logs(platform):
    listed = platform.jitney("app", "list", "--json").json()
    return platform.jitney("app", "logs", listed[0]["app_id"]).out if listed else ""


def is_template(pid, platform):
    command = cmdline(pid)
    return b"jitney.runner.template" in command and ancestor(pid, platform.worker())


def ancestor(pid, worker):
    while pid > 1:
        if pid == worker:
            return True
        stat = procfs.stat(pid)
        pid = stat.ppid if stat else 0
    return False


def holds(pid):
    """Whether a value is in the memory of a process."""
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                area, rights = line.split()[:2]
                low, high = (int(number, 16) for number in area.split("-"))
                if rights.startswith("rw") and high - low < 1 << 30:
                    try:
                        memory.seek(low)
                        data = memory.read(high - low) or b""
                    except (OSError, ValueError):
                        continue
                    if PASSWORD.encode() in data or TOKEN.encode() in data:
                        return True
    except PermissionError:
        pytest.skip("this user may not look into the memory of processes")
    return False


def test_what_is_printed_has_no_value_in_it(tier):
    done = tier.jitney("run", "secretive.py::chat")
    shown = done.out + done.err
    assert not any(form in shown.encode() for form in FORMS), shown
    lines = [line.strip() for line in shown.splitlines()]
    for line in ("plain ***", "error ***", "quoted ***", "hex ***", "half ***", "*** half", "***"):
        assert line in lines, shown
    assert any(line.startswith("base64 ") and line.endswith(("***", "***==", "***=")) for line in lines), shown
    assert any(line.startswith("environ {") and "'PASSWORD': '***'" in line for line in lines), shown
    assert PASSWORD[:9] not in shown
    assert kept_in_the_clear(tier) == []


def test_a_memory_snapshot_has_none(tier):
    done = tier.jitney("run", "secretive.py::snapshot")
    assert ast.literal_eval(done.lines[0]) == (None, digest(PASSWORD), digest(PASSWORD))


def test_commands_in_a_container_have_them(tier):
    done = tier.jitney(
        "shell", "secretive.py::look", "--cmd", "sh -c 'printf %s \"$PASSWORD|$TOKEN|$SET\" | sha256sum'"
    )
    assert done.out.split()[0] == digest(f"{PASSWORD}|{TOKEN}|by the function")


def test_each_use_is_in_the_audit(tier):
    tier.jitney("run", "secretive.py::tell")
    entries = tier.jitney("secret", "audit", "database", "--json").json()
    assert entries[-1]["action"] == "created"
    used = [one for one in entries if one["action"] == "used" and one["function_name"] == "look"]
    assert used
    assert used[0]["container_id"].startswith("ta-")
    assert used[0]["app_id"].startswith("ap-")
    [listed] = [one for one in tier.jitney("secret", "list", "--json").json() if one["name"] == "database"]
    assert listed["used_at_ms"] >= used[-1]["at_ms"]


def test_what_is_missing_is_told_with_near_names(tier):
    program = """\
        import jitney

        app = jitney.App("missing")

        @app.function(secrets=[jitney.Secret.from_name({secret!r}, required_keys=[{key!r}])])
        def f():
            return 1

        @app.local_entrypoint()
        def main():
            f.remote()
        """
    tier.write("missing.py", program.format(secret="databse", key="PASSWORD"))
    done = tier.jitney("run", "missing.py", code=3)
    assert "no secret 'databse'" in done.err
    assert "did you mean 'database'?" in done.err
    # Another file: one of the same length, changed within a second, is the same to Python's cache of bytecode.
    tier.write("absent.py", program.format(secret="database", key="PASWORD"))
    done = tier.jitney("run", "absent.py", code=3)
    assert "does not have the required key PASWORD" in done.err
    assert "did you mean 'PASSWORD'?" in done.err


def test_new_values_reach_new_containers_and_running_ones_keep_the_old(tier):
    tier.write(
        "deployed.py",
        """\
        import hashlib, os
        import jitney

        app = jitney.App("deployed")

        @app.function(secrets=[jitney.Secret.from_name("turning")], scaledown_window=600)
        def f():
            return hashlib.sha256(os.environ["KEY"].encode()).hexdigest()
        """,
    )
    call = tier.write("call.py", "import jitney\nprint(jitney.Function.from_name('deployed', 'f').remote())\n")
    tier.jitney("secret", "create", "turning", "KEY=one-of-two")
    tier.jitney("deploy", "deployed.py")
    assert tier.python(call).out.strip() == digest("one-of-two")
    tier.jitney("secret", "update", "turning", "KEY=two-of-two")
    assert tier.python(call).out.strip() == digest("one-of-two")
    [running] = tier.containers("f")
    tier.jitney("container", "stop", running["container_id"])
    assert tier.python(call).out.strip() == digest("two-of-two")
    entries = tier.jitney("secret", "audit", "turning", "--json").json()
    assert [one["version"] for one in entries if one["action"] == "used"] == [2, 1]

    rotated = tier.jitney("secret", "rotate-key", "--json").json()
    assert rotated["retired"] == 1
    tier.jitney("down")
    assert tier.python(call).out.strip() == digest("two-of-two"), "with the new key, after a restart"

    keys = tier.home.secret_keys
    assert keys.stat().st_mode & 0o777 == 0o600
    kept = keys.rename(keys.with_name("copy"))
    [running] = tier.containers("f")
    tier.jitney("container", "stop", running["container_id"])
    eventually(lambda: not tier.containers("f"))
    done = tier.python(call, code=None)
    found = {one["id"]: one for one in tier.jitney("doctor", "--json", code=None).json()}["secrets"]
    is_made_anew = keys.exists()
    kept.rename(keys)  # before anything is judged: others use it too
    assert not is_made_anew
    assert found["severity"] == "error"
    assert "is not in" in found["what"]
    assert "bring the file back from a copy" in found["fix"]
    assert "SecretUnreadableError: secret 'turning' cannot be opened: secrets are encrypted with the key" in done.err
    assert "bring the file back from a copy" in done.err
    assert tier.python(call).out.strip() == digest("two-of-two")
    tier.jitney("app", "stop", "deployed")


@pytest.mark.skipif(bool(WHY_NOT), reason=f"no walls here: {WHY_NOT}")
def test_a_step_of_an_image_has_them_and_the_image_does_not(tier):
    if tier.environment["JITNEY_RUNTIME"] != "namespaces":
        pytest.skip("images without a wall have no steps that run commands")
    tier.write(
        "built.py",
        """\
        import jitney

        hub = jitney.Secret.from_name("database")
        image = jitney.Image.debian_slim().run_commands(
            "echo the password is $PASSWORD", "printf %s \\"$PASSWORD\\" | sha256sum > /told", secrets=[hub]
        )
        app = jitney.App("built", image=image)

        @app.function()
        def f():
            import os
            return open("/told").read().split()[0], os.environ.get("PASSWORD")

        @app.local_entrypoint()
        def main():
            print(f.remote())
        """,
    )
    done = tier.jitney("run", "built.py")
    assert ast.literal_eval(done.lines[-1]) == (digest(PASSWORD), None)
    assert PASSWORD not in done.out + done.err
    assert kept_in_the_clear(tier) == []
    assert tier.jitney("secret", "audit", "database", "--json").json()[0]["action"] == "built"
