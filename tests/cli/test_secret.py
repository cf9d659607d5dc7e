"""`jitney secret`: where values come from, and that none is shown."""

import io
import json
import sys

import click
import pytest

from jitney.cli import main
from jitney.client import session
from jitney.client.portal import PORTAL
from jitney.testing.fake_secrets import FakeSecrets
from jitney.testing.fake_server import FakeServer
from jitney.values.secrets import Action, SecretRef, SecretUse

VALUE = "swordfish-1234"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Command:
    """Runs the command line here, with a server that has secrets."""

    def __init__(self, kept, capsys, monkeypatch):
        self.kept, self._capsys, self._patch = kept, capsys, monkeypatch

    def __call__(self, *arguments, stdin="", code=0):
        given = stdin if isinstance(stdin, io.StringIO) else io.StringIO(stdin)
        self._patch.setattr(sys, "stdin", given)
        assert main.invoke(["secret", *map(str, arguments)]) == code
        out, err = self._capsys.readouterr()
        assert VALUE not in out + err
        return out if not code else err

    def values(self, name):
        use = SecretUse(at_ms=0, action=Action.USED, secret_id="", function_name="f")
        return PORTAL.call(self.kept.vault.open([SecretRef(name=name)], {}, use))


@pytest.fixture
def secret(tmp_path, monkeypatch, capsys):
    for name in ("JITNEY_SERVER", "JITNEY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JITNEY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JITNEY_AUTOSTART", "0")
    with FakeServer(tmp_path / "home") as server:
        (tmp_path / "home" / "store.sqlite").touch()  # there has been a server
        yield Command(FakeSecrets(server), capsys, monkeypatch)
        for one in session._sessions.values():
            PORTAL.call(one.close())
        session._sessions.clear()


def test_pairs_files_environment_and_standard_input(secret, tmp_path, monkeypatch):
    monkeypatch.setenv("FROM_HERE", VALUE)
    (tmp_path / "my.env").write_text(f"IN_FILE='{VALUE}'\nOVER=file\n")
    file = tmp_path / "my.env"
    out = secret("create", "db", "OVER=pair", "A=b=c", "EMPTY=", "--from-env", "FROM_HERE", "--from-dotenv", file)
    assert out == "db: version 1, with A, EMPTY, FROM_HERE, IN_FILE, OVER\n"
    assert secret.values("db") == {"A": "b=c", "EMPTY": "", "FROM_HERE": VALUE, "IN_FILE": VALUE, "OVER": "pair"}
    secret("create", "one", "TOKEN", stdin=f"{VALUE}\n")
    assert secret.values("one") == {"TOKEN": VALUE}
    secret("create", "two", "--from-dotenv", "-", stdin=f"TOKEN={VALUE}\n")
    assert secret.values("two") == {"TOKEN": VALUE}


def test_what_is_not_given_is_asked_for_and_not_shown(secret, monkeypatch):
    asked = []
    monkeypatch.setattr(click, "prompt", lambda key, **options: asked.append((key, options["hide_input"])) or VALUE)
    secret("create", "db", "USER=me", "PASS", "TOKEN", stdin=Terminal())
    assert asked == [("PASS", True), ("TOKEN", True)]
    assert secret.values("db") == {"USER": "me", "PASS": VALUE, "TOKEN": VALUE}


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (["db"], main.USAGE, "no values"),
        (["db", "A", "B"], main.USAGE, "one value, of one KEY"),
        (["db", "A", "--from-dotenv", "-"], main.USAGE, "one value, of one KEY"),
        (["db", "--from-env", "NOT_SET_HERE"], main.USAGE, "NOT_SET_HERE"),
        (["db", "--from-dotenv", "/nowhere/.env"], main.NOT_FOUND, "there is no file"),
        (["db", "1A=x"], main.USAGE, "'1A' cannot be"),
        (["a/b", "A=x"], main.USAGE, "name of a secret"),
        (["there", "A=x"], main.FAILED, "--force"),
    ],
)
def test_what_cannot_be_is_told(secret, arguments, code, told):
    secret("create", "there", "A=b")
    assert told in secret("create", *arguments, stdin="A=b", code=code)


def test_force_replaces_and_update_sets(secret):
    secret("create", "db", "A=1", "B=1")
    secret("update", "db", "B=2", "C=3", "--unset", "A")
    assert secret.values("db") == {"B": "2", "C": "3"}
    secret("update", "db", "--unset", "C")
    secret("create", "db", "D=4", "--force")
    assert secret.values("db") == {"D": "4"}
    assert "version 4" in secret("create", "db", "D=4", "--force")


def test_list_info_audit_and_rotation(secret):
    assert secret("list") == "no secrets\n"
    secret("create", "db", "USER=me", f"PASS={VALUE}")
    secret.values("db")
    assert "PASS, USER" in secret("list")
    [listed] = json.loads(secret("list", "--json"))
    assert (listed["name"], listed["keys"], listed["version"]) == ("db", ["PASS", "USER"], 1)
    assert "version 1" in secret("info", "db")
    assert json.loads(secret("info", "db", "--json"))["versions"][0]["version"] == 1
    assert [one["action"] for one in json.loads(secret("audit", "db", "--json"))] == ["used", "created"]
    assert secret("audit").count("db") == 2
    assert "for 1 secret; 1 old key removed" in secret("rotate-key")
    assert json.loads(secret("rotate-key", "--json"))["rewrapped"] == 1
    assert secret.values("db")["PASS"] == VALUE


def test_delete(secret):
    secret("create", "db", "A=b")
    assert "--yes" in secret("delete", "db", code=main.USAGE)
    assert secret("delete", "db", "--yes") == "db is deleted\n"
    assert "no secret 'db'" in secret("delete", "db", "-y", code=main.NOT_FOUND)
    assert secret("delete", "db", "--allow-missing", "-y") == ""
    assert "deleted" in secret("audit", "db")
    secret("create", "database", "A=b")
    assert "did you mean 'database'?" in secret("info", "databse", code=main.NOT_FOUND)


def test_a_secret_comes_from_json_and_is_shown_as_it(secret, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"A": VALUE, "B": "b"}))
    made = json.loads(secret("create", "db", "--from-json", tmp_path / "s.json", "B=later", "--json"))
    assert (made["name"], made["version"], made["keys"]) == ("db", 1, ["A", "B"])
    assert secret.values("db") == {"A": VALUE, "B": "later"}
    assert secret("create", "in", "--from-json", "-", stdin='{"C": "c"}').startswith("in: version 1, with C")
    for text in ('{"A": 1}', "[]", f'{{"A": "{VALUE}"', '"x"'):
        (tmp_path / "s.json").write_text(text)
        assert "no JSON object of texts" in secret("update", "db", "--from-json", tmp_path / "s.json", code=main.USAGE)
    assert "one file" in secret("update", "db", "--from-json", "-", "--from-dotenv", "-", code=main.USAGE)


def test_rename(secret):
    secret("create", "db", f"A={VALUE}")
    secret("create", "taken", "A=b")
    assert "--yes" in secret("rename", "db", "new", code=main.USAGE)
    assert "'taken' already" in secret("rename", "db", "taken", "-y", code=main.FAILED)
    assert secret("rename", "db", "new", "-y") == "db is new now, version 2\n"
    assert json.loads(secret("rename", "new", "newer", "-y", "--json"))["name"] == "newer"
    assert secret.values("newer") == {"A": VALUE}
    assert "renamed (newer)" in secret("audit", "new")
    assert "did you mean 'newer'?" in secret("rename", "newr", "x", "-y", code=main.NOT_FOUND)
