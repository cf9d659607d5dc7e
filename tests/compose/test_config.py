"""Where options come from, and that every problem is told."""

import pytest

from jitney.compose import config as configuration
from jitney.compose.config import Config, check, fields, find, load, parse, read, set_in_file
from jitney.errors import InvalidError
from jitney.wire.home import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def write(home, text):
    (home.root / configuration.FILE_NAME).write_text(text)


def test_defaults_serve_one_machine(home):
    config = load(home, environ={})
    assert config.server == configuration.ServerConfig()
    assert set(config.origins.values()) == {"default"}


def test_later_origins_win(home):
    write(home, "[server]\nhttp_port = 1\nidle_stop_ms = 5\n[worker]\nindex_url = 'https://a'\n")
    config = load(
        home, environ={"JITNEY_HTTP_PORT": "2", "JITNEY_IDLE_STOP_MS": "6"}, flags={"http_port": 3, "store": None}
    )
    assert (config.server.http_port, config.server.idle_stop_ms, config.worker.index_url) == (3, 6, "https://a")
    assert config.origins["server.http_port"] == "--http-port"
    assert config.origins["server.idle_stop_ms"] == "JITNEY_IDLE_STOP_MS"
    assert config.origins["worker.index_url"].endswith("config.toml [worker]")


@pytest.mark.parametrize("text, value", [("true", True), ("false", False), ("1", True), ("0", False)])
def test_booleans_in_the_environment(home, text, value):
    assert load(home, environ={"JITNEY_AUTOSTART": text}).client.autostart is value


def test_every_problem_is_told_at_once(home):
    write(home, "[server]\nhttp_prot = 1\nhttp_port = 'x'\n[wroker]\na = 1\n[worker]\nruntime = 'chroot'\n")
    with pytest.raises(InvalidError) as caught:
        load(home, environ={"JITNEY_IDLE_STOP_MS": "-1", "JITNEY_INDEX_URL": "pypi"})
    text = str(caught.value)
    for part in ("did you mean 'http_port'?", "[wroker]", "http_port = 'x'", "idle_stop_ms = '-1'", "chroot", "pypi"):
        assert part in text


def test_folders_of_archives_are_absolute(home):
    for given in ("own", "", "/srv/images:own:/data"):
        assert load(home, environ={"JITNEY_ARCHIVES": given}).worker.archives == given
    with pytest.raises(InvalidError, match="'images' is no folder"):
        load(home, environ={"JITNEY_ARCHIVES": "/srv:images"})


def test_a_file_that_is_not_toml(home):
    write(home, "[server\n")
    config, problems = read(home, environ={})
    assert config.server == configuration.ServerConfig()
    assert len(problems) == 1
    assert "not TOML" in str(problems[0])


def test_check_finds_nothing_in_the_defaults():
    assert check(Config()) == []


def test_every_option_is_described_and_unique():
    options = list(fields())
    assert all(option.description.endswith(".") for option in options)
    assert len({option.name for option in options}) == len(options)
    assert not {option.env for option in options} & {"JITNEY_HOME"}


def test_find_and_parse():
    assert find("http_port") == find("server.http_port")
    assert parse(find("http_port"), "80") == 80
    with pytest.raises(InvalidError, match="did you mean 'http_port'"):
        find("http_prot")
    with pytest.raises(InvalidError, match="no option"):
        find("worker.http_port")
    with pytest.raises(InvalidError, match="http_port = '70000'"):
        parse(find("http_port"), "70000")


def test_set_leaves_the_rest_of_the_file(home):
    path = home.root / configuration.FILE_NAME
    path.write_text("# mine\n[worker]\nindex_url = 'https://a'  # why\n\n[client]\nautostart = true\n")
    set_in_file(path, "worker", "template_idle_ms", 7)
    set_in_file(path, "client", "autostart", False)
    set_in_file(path, "server", "store", 'me"mory')
    text = path.read_text()
    assert "# mine" in text
    assert "# why" in text
    config, _ = read(home, environ={})
    assert (config.worker.template_idle_ms, config.client.autostart, config.server.store) == (7, False, 'me"mory')
    assert config.worker.index_url == "https://a"


def test_set_refuses_a_broken_file(home):
    write(home, "[server\n")
    with pytest.raises(InvalidError, match="not TOML"):
        set_in_file(home.root / configuration.FILE_NAME, "server", "http_port", 1)


def test_a_command_is_a_list_wherever_it_is_set(home):
    argv = ("vault", "kv", "get", '-field="the key"', "secret/jitney é")
    set_in_file(home.root / configuration.FILE_NAME, "server", "secrets_key_command", argv)
    assert load(home, environ={}).server.secrets_key_command == argv
    environ = {"JITNEY_SECRETS_KEY_COMMAND": '["cat", "/run/key"]'}
    assert load(home, environ=environ).server.secrets_key_command == ("cat", "/run/key")
    assert parse(find("secrets_key_command"), '["cat", "a b"]') == ("cat", "a b")
    for wrong in ("cat /run/key", "[1]", '["cat"'):
        with pytest.raises(InvalidError, match="secrets_key_command"):
            parse(find("secrets_key_command"), wrong)
    assert parse(find("contents"), "[odd]") == "[odd]"
