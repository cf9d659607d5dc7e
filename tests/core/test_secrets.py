"""Which values a container gets, what is wrong with what was asked for, stand-ins in images, files of variables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core import dotenv, imageplan, imagesecrets
from jitney.core import secrets as core
from jitney.core.objects import missing
from jitney.errors import InvalidError, NotFoundError
from jitney.values.functions import FunctionSpec
from jitney.values.images import AptInstall, Dockerfile, ImageSpec, Registry, RunCommands, Workdir
from jitney.values.objects import ObjectKind
from jitney.values.secrets import (
    KEY_CHARS_MAX,
    KEYS_MAX,
    SECRET_BYTES_MAX,
    SECRETS_MAX,
    VALUE_CHARS_MAX,
    SecretRecord,
    SecretRef,
    check_values,
)
from jitney.wire.messages.secrets import SecretCreate, SecretUpdate

ID = "se-0000000000000000000000"


def test_later_secrets_win_and_the_env_of_the_function_wins_over_all():
    parts = [{"A": "1", "B": "1", "C": "1"}, {"B": "2", "C": "2"}]
    assert core.merged(parts, {"C": "of the function", "D": "x"}) == {"A": "1", "B": "2"}
    assert core.merged([], {}) == {}


def test_a_container_has_so_much_and_no_more():
    half = "x" * (SECRET_BYTES_MAX // 2)
    with pytest.raises(InvalidError, match="at most"):
        core.merged([{"A": half}, {"B": half}], {})


@pytest.mark.parametrize("key", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "A" * (KEY_CHARS_MAX + 1)])
def test_names_that_no_variable_can_have_are_refused(key):
    with pytest.raises(InvalidError, match="variable"):
        check_values({key: "v"})


@pytest.mark.parametrize("value", ["x" * (VALUE_CHARS_MAX + 1), "nul\0byte", "half a pair \ud800"])
def test_values_that_no_variable_can_have_are_refused_and_not_shown(value):
    with pytest.raises(InvalidError, match="KEY") as refused:
        check_values({"KEY": value})
    assert value not in str(refused.value)
    assert "byte" not in str(refused.value)


def test_limits_are_inclusive():
    values = {"A" * KEY_CHARS_MAX: "ä" * VALUE_CHARS_MAX}
    assert check_values(values) == values
    with pytest.raises(InvalidError, match="1,001"):
        check_values({f"K{n}": "" for n in range(KEYS_MAX + 1)})
    with pytest.raises(InvalidError, match="bytes"):
        check_values({f"K{n}": "x" * VALUE_CHARS_MAX for n in range(33)})


def test_a_reference_is_by_name_or_by_id():
    for wrong in ({}, {"name": "a", "secret_id": ID}, {"name": ".a"}, {"name": "a/b"}, {"secret_id": "se-1"}):
        with pytest.raises(InvalidError):
            SecretRef(**wrong)
    with pytest.raises(InvalidError, match="secrets"):
        FunctionSpec(name="f", secrets=(SecretRef(name="a"),) * (SECRETS_MAX + 1))


def test_a_required_key_that_is_missing_is_told_with_near_names():
    record = SecretRecord(secret_id=ID, name="db", keys=("API_KEY", "USER"))
    core.check_required(SecretRef(name="db", required_keys=("USER",)), record)
    with pytest.raises(NotFoundError, match=r"required key APIKEY: did you mean 'API_KEY'\?"):
        core.check_required(SecretRef(name="db", required_keys=("USER", "APIKEY")), record)
    with pytest.raises(NotFoundError, match="it has API_KEY, USER"):
        core.check_required(SecretRef(name="db", required_keys=("XXXX",)), record)


def test_a_missing_object_is_told_with_near_names_and_a_remedy():
    error = missing(ObjectKind.VOLUME, "wieghts", ["weights", "data"], "make one")
    assert str(error) == "no volume 'wieghts': did you mean 'weights'? make one"
    assert "create_if_missing" in str(missing(ObjectKind.DICT, "x", []))
    assert "secret list" in str(core.no_secret(SecretRef(name="db"), []))
    assert ID in str(core.no_secret(SecretRef(secret_id=ID), []))


def test_changes_set_and_take_away():
    assert core.changed({"A": "1", "B": "1"}, {"B": "2", "C": "3", "A": None, "D": None}) == {"B": "2", "C": "3"}
    with pytest.raises(InvalidError):
        core.changed({}, {"not a name": "1"})


def test_messages_do_not_show_values():
    create = SecretCreate(secret_id=ID, name="db", values={"A": "hunter2"})
    update = SecretUpdate(name="db", values={"A": "hunter2", "B": None})
    for message in (create, update, [create], {"request": update}):
        assert "hunter2" not in repr(message)
        assert "hunter2" not in f"{message}"


# ------------------------------------------------------------------------------------------------ images

REF = SecretRef(name="hub", required_keys=("TOKEN",))
FOUND = {"hub": {"TOKEN": "t0k", "username": "me", "password": "pw"}}


def test_stand_ins_of_steps_are_filled_in_their_order():
    layer = RunCommands(commands=("true",), secrets={"TOKEN": "mine", **core.stand_in(REF), "password": "later"})
    spec = ImageSpec(layers=(AptInstall(packages=("git",)), layer, Workdir(path="/x")))
    assert imagesecrets.references(spec) == [REF]
    filled = imagesecrets.filled(spec, FOUND)
    assert filled.layers[1].secrets == {"TOKEN": "t0k", "username": "me", "password": "later"}
    assert filled.layers[0] is spec.layers[0]
    assert sorted(imagesecrets.values(filled)) == ["later", "me", "t0k"]
    assert imagesecrets.filled(spec, {}).layers[1].secrets == {"TOKEN": "mine", "password": "later"}


def test_a_stand_in_is_no_part_of_what_identifies_an_image():
    bare = ImageSpec(layers=(RunCommands(commands=("true",)),))
    named = ImageSpec(layers=(RunCommands(commands=("true",), secrets=core.stand_in(REF)),))
    assert imageplan.spec_digest(bare) == imageplan.spec_digest(named)


@pytest.mark.parametrize(
    "kind", [lambda **of: Registry(reference="r", **of), lambda **of: Dockerfile(text="FROM r", **of)]
)
def test_credentials_of_a_registry_come_from_a_secret(kind):
    username, password = imagesecrets.credentials(core.stand_in(REF))
    spec = ImageSpec(base=kind(username=username, password=password))
    assert imagesecrets.references(spec) == [REF]
    base = imagesecrets.filled(spec, FOUND).base
    assert (base.username, base.password) == ("me", "pw")
    assert "pw" in imagesecrets.values(imagesecrets.filled(spec, FOUND))
    with pytest.raises(InvalidError, match="no password"):
        imagesecrets.filled(spec, {"hub": {"TOKEN": "x"}})
    bare = imagesecrets.filled(spec, {}).base
    assert (bare.username, bare.password) == ("", "")


def test_credentials_by_every_name():
    assert imagesecrets.credentials({"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"}) == ("u", "p")
    assert imagesecrets.credentials({"SERVICE_ACCOUNT_JSON": "{}"}) == ("_json_key", "{}")


def test_a_stand_in_that_is_none_is_refused():
    with pytest.raises(InvalidError, match="not understood"):
        core.references({"=x": "{"})
    with pytest.raises(InvalidError):
        core.references({"=x": '{"name": "a/b"}'})


# ------------------------------------------------------------------------------------------------ .env


def test_files_of_variables():
    text = """\
\ufeff# a comment
PLAIN=one
export EXPORTED = two words  # and a comment
SINGLE='three # $HOME \\n'
DOUBLE="four\\n\\"quoted\\"\\\\ \\x"
EMPTY=
HASH=five#six
LINES="-----BEGIN
-----END"

  INDENTED=seven
LAST=eight"""
    assert dotenv.parse(text) == {
        "PLAIN": "one",
        "EXPORTED": "two words",
        "SINGLE": "three # $HOME \\n",
        "DOUBLE": 'four\n"quoted"\\ \\x',
        "EMPTY": "",
        "HASH": "five#six",
        "LINES": "-----BEGIN\n-----END",
        "INDENTED": "seven",
        "LAST": "eight",
    }
    assert dotenv.parse("A=1\r\nB=2\r\n") == {"A": "1", "B": "2"}


@pytest.mark.parametrize("line", ["what", "A='open", 'A="open', "1A=x", "A='x' y", "=x", "A B=x"])
def test_a_line_that_is_no_variable_is_told_by_its_number_alone(line):
    with pytest.raises(InvalidError, match=r"my\.env: line 2") as refused:
        dotenv.parse(f"OK=1\n{line}\n", "my.env")
    assert "open" not in str(refused.value)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_what_is_quoted_comes_back(variables):
    variables = {name: value.replace("\r\n", "") for name, value in variables.items()}
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in variables.items()}
    assert dotenv.parse("".join(f'{name}="{value}"\n' for name, value in escaped.items())) == variables


@given(st.text(st.sampled_from("A=\"'\\# \n$"), max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        found = dotenv.parse(text)
    except InvalidError:
        return
    assert all(isinstance(value, str) for value in found.values())
