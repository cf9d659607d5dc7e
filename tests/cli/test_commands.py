"""Commands that need no server."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from jitney.cli import main
from jitney.cli.main import COMMANDS, EXIT_CODES, cli, exit_code
from jitney.errors import BY_CODE, ConnectionError, InvalidError, NotFoundError, UnsupportedError

HEAVY = {"aiohttp", "asyncio", "cloudpickle", "msgspec", "rich", "sqlite3", "uvloop", "jitney.client", "jitney.compose"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom jitney.cli.main import invoke\ninvoke(['--help'])\n"
        f"print('IMPORTED', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "IMPORTED"
    assert all(name in done.stdout for name in COMMANDS if name not in main.HIDDEN)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["rnu"], "Did you mean 'run'?"),
        (["train.py"], "To run a file: jitney run train.py"),
        (["up", "--prot", "1"], "--port"),
        (["app", "logs"], "Missing argument 'APP'"),
        (["app", "logs", "x", "--since", "soon"], "write 30s, 10m"),
    ],
)
def test_usage_errors(capsys, arguments, text):
    assert main.invoke(arguments) == main.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error


def test_every_error_has_an_exit_code():
    assert all(exit_code(kind("x")) in EXIT_CODES for kind in BY_CODE.values())
    assert exit_code(NotFoundError()) == main.NOT_FOUND
    assert exit_code(UnsupportedError()) == exit_code(InvalidError()) == main.USAGE
    assert exit_code(ConnectionError()) == main.UNREACHABLE


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_doctor_on_a_machine_that_never_ran_anything(home, capsys):
    assert main.invoke(["doctor"]) == 0
    assert "24 checks, 0 failed" in capsys.readouterr().out
    assert not home.exists()


def test_doctor_as_json(home, capsys):
    main.invoke(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"id", "severity", "what", "why", "fix"} == set(findings[0])
    assert all(finding["fix"] for finding in findings if finding["severity"] != "ok")


def test_doctor_finds_what_is_wrong(home, capsys, monkeypatch):
    home.mkdir(mode=0o700)
    (home / "token").write_text("x")
    (home / "token").chmod(0o644)
    (home / "secrets.key").write_text("damaged\n")
    (home / "secrets.key").chmod(0o600)
    (home / "config.toml").write_text("[server]\nhttp_prot = 1\n")
    (home / "server.json").write_text('{"pid": 1, "version": "0", "socket": "s"}')
    monkeypatch.setenv("JITNEY_HTTP_PROT", "1")
    assert main.invoke(["doctor", "--json"]) == 1
    findings = {finding["id"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["config"]["severity"] == "error"
    assert "did you mean 'http_port'" in findings["config"]["why"]
    assert "did you mean 'JITNEY_HTTP_PORT'" in findings["environment"]["why"]
    assert findings["token"]["severity"] == "error"
    assert findings["secrets"]["severity"] == "error"
    assert "damaged" in findings["secrets"]["what"]
    assert findings["leftovers"]["severity"] == "warning"


@pytest.mark.parametrize(
    "command, severity, told",
    [
        (["printf", "A" * 32], "ok", "sealed with one that printf gives"),
        (["sh", "-c", "echo no permission >&2; exit 2"], "error", "no permission"),
    ],
)
def test_doctor_asks_the_command_of_the_secrets_key(home, capsys, monkeypatch, command, severity, told):
    monkeypatch.setenv("JITNEY_SECRETS_KEY_COMMAND", json.dumps(command))
    main.invoke(["doctor", "--json"])
    [finding] = [one for one in json.loads(capsys.readouterr().out) if one["id"] == "secrets"]
    assert finding["severity"] == severity
    assert told in finding["what"]


def test_config_set_and_show(home, capsys):
    assert main.invoke(["config", "set", "http_port", "0"]) == 0
    assert main.invoke(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert shown["server.http_port"]["value"] == 0
    assert shown["server.http_port"]["origin"].endswith("config.toml [server]")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["http_prot", "0"], "did you mean 'http_port'"),
        (["http_port", "x"], "'x'"),
        (["runtime", "firecracker"], "process"),
    ],
)
def test_config_set_refuses(home, capsys, arguments, text):
    assert main.invoke(["config", "set", *arguments]) == main.USAGE
    assert text in capsys.readouterr().err
    assert not (home / "config.toml").exists()


def test_looking_starts_no_server(home, capsys):
    for noun in ("app", "call", "container"):
        assert main.invoke([noun, "list"]) == 0
        assert main.invoke([noun, "list", "--json"]) == 0
    assert capsys.readouterr().out == "no apps\n[]\nno calls\n[]\nno containers\n[]\n"
    assert not home.exists()


def test_down_with_nothing_to_stop(home, capsys):
    assert main.invoke(["down"]) == 0
    assert "no server runs" in capsys.readouterr().out


def test_without_autostart_there_is_no_server(home, capsys, monkeypatch):
    monkeypatch.setenv("JITNEY_AUTOSTART", "0")
    assert main.invoke(["app", "stop", "x"]) == main.UNREACHABLE
    error = capsys.readouterr().err
    assert "no Jitney server answers" in error
    assert "jitney up" in error


def test_version_as_json(home, capsys):
    assert main.invoke(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == "1"
