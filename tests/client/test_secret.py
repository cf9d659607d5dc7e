"""Secrets in Python: where they come from, what is sent, what is never shown."""

import asyncio
import pickle
from datetime import UTC, datetime, timedelta

import cloudpickle
import pytest

import jitney
from jitney import Image, Secret
from jitney.client import secret as secrets
from jitney.client.image_value import secret_texts
from jitney.core import imageplan
from jitney.errors import AlreadyExistsError, InvalidError, NotFoundError, SerializationError, UnsupportedError
from jitney.testing.fake_secrets import FakeSecrets
from jitney.values.secrets import SecretRef
from jitney.wire.messages.functions import FunctionBind

VALUE = "swordfish-1234"


@pytest.fixture
def kept(server):
    return FakeSecrets(server)


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("TOKEN", VALUE)
    monkeypatch.setenv("OTHER", "x")


# ------------------------------------------------------------------------------------------------ making


def test_of_a_dictionary():
    one = Secret.from_dict({"B": "2", "A": VALUE, "GONE": None})
    assert repr(one) == "Secret(keys=['A', 'B'])"
    assert one.name is None
    assert secrets.values([one]) == {one._ref().secret_id: {"B": "2", "A": VALUE}}
    assert secrets.references([one, Secret.from_dict({}), Secret.from_dict()]) == (one._ref(),)


@pytest.mark.parametrize("wrong", [{"A": 1}, {1: "A"}, {"1A": "x"}, ["A"], "A=b", {"A": b"x"}, {"A": "\0"}])
def test_what_is_no_secret_is_refused_without_a_value(wrong):
    with pytest.raises(InvalidError) as refused:
        Secret.from_dict(wrong)
    assert "b'x'" not in str(refused.value)


def test_of_this_environment(environment):
    one = Secret.from_local_environ(["TOKEN", "OTHER"])
    assert one._loaded() == {"TOKEN": VALUE, "OTHER": "x"}
    assert VALUE not in repr(one)
    with pytest.raises(InvalidError, match=r"no variable 'TOKEM': did you mean 'TOKEN'"):
        Secret.from_local_environ(["OTHER", "TOKEM"])
    with pytest.raises(InvalidError, match="export QQQQQQQQ"):
        Secret.from_local_environ(["QQQQQQQQ"])
    with pytest.raises(InvalidError, match="list of names"):
        Secret.from_local_environ("TOKEN")


def test_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".env").write_text(f"TOKEN={VALUE}\n")
    (tmp_path / "prod.env").write_text("TOKEN=prod\n")
    script = tmp_path / "deep" / "app.py"
    script.write_text("")
    for place in (tmp_path, tmp_path / ".env", script, tmp_path / "deep" / "er"):
        one = Secret.from_dotenv(place)
        assert one._loaded() == {"TOKEN": VALUE}
        assert VALUE not in repr(one)
    monkeypatch.chdir(tmp_path / "deep")
    assert Secret.from_dotenv()._loaded() == {"TOKEN": VALUE}
    assert Secret.from_dotenv(tmp_path / "prod.env")._loaded() == {"TOKEN": "prod"}
    assert Secret.from_dotenv(filename="prod.env")._loaded() == {"TOKEN": "prod"}
    with pytest.raises(NotFoundError, match=r"no nothing\.env in"):
        Secret.from_dotenv(filename="nothing.env")._loaded()
    (tmp_path / ".env").write_text(f"{VALUE}\n")
    with pytest.raises(InvalidError, match="line 1") as refused:
        Secret.from_dotenv(tmp_path)._loaded()
    assert VALUE not in str(refused.value)


def test_in_a_container_nothing_is_read(tmp_path, monkeypatch, in_container):
    in_container("ap-1")
    assert secrets.references([Secret.from_local_environ(["NOT_THERE"]), Secret.from_dotenv(tmp_path)]) == ()


def test_in_a_template_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv(imageplan.SPEC_VARIABLE, "{}")
    assert secrets.references([Secret.from_local_environ(["NOT_THERE"]), Secret.from_dotenv(tmp_path)]) == ()


def test_by_name():
    one = Secret.from_name("db", required_keys=["USER"])
    assert (one.name, repr(one)) == ("db", "Secret('db')")
    assert one._ref() == SecretRef(name="db", required_keys=("USER",))
    for wrong in ("", ".db", "a/b", "x" * 65, 7):
        with pytest.raises(InvalidError):
            Secret.from_name(wrong)
    with pytest.raises(InvalidError, match="list of names"):
        Secret.from_name("db", required_keys="USER")
    with pytest.raises(UnsupportedError):
        Secret.from_name("db", environment_name="dev")


def test_one_with_a_name_can_be_pickled_and_one_without_cannot():
    one = pickle.loads(pickle.dumps(Secret.from_name("db", required_keys=["A"])))
    assert one._ref() == SecretRef(name="db", required_keys=("A",))
    own = Secret.from_dict({"A": VALUE})
    for dump in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(SerializationError, match="secret create"):
            dump(own)


# ------------------------------------------------------------------------------------------------ at a server


def test_create_list_update_info_delete(kept):
    Secret.objects.create("db", {"USER": "me", "PASS": VALUE})
    with pytest.raises(AlreadyExistsError):
        Secret.objects.create("db", {})
    Secret.objects.create("db", {"USER": "you"}, allow_existing=True)
    Secret.objects.create("web", {})
    assert [one.name for one in Secret.objects.list()] == ["web", "db"]
    assert [one.name for one in Secret.objects.list(max_objects=1)] == ["web"]
    assert Secret.objects.list(created_before=datetime.now(UTC) - timedelta(hours=1)) == []
    db = Secret.from_name("db")
    db.update({"PASS": None, "PORT": "1"})
    info = db.info()
    assert (info.name, info.keys, info.version, info.used_at) == ("db", ("PORT", "USER"), 2, None)
    assert info.created_at <= info.updated_at <= datetime.now(UTC)
    Secret.objects.delete("db")
    with pytest.raises(NotFoundError, match="no secret 'db'"):
        Secret.objects.delete("db")
    Secret.objects.delete("db", allow_missing=True)
    with pytest.raises(NotFoundError, match=r"did you mean 'web'\?"):
        Secret.from_name("wep").info()


def test_in_async_code(kept):
    async def main():
        await Secret.objects.create.aio("db", {"A": "b"})
        assert [one.name for one in await Secret.objects.list.aio()] == ["db"]
        assert (await Secret.from_name("db").info.aio()).keys == ("A",)
        await Secret.objects.delete.aio("db")

    asyncio.run(main())


def test_an_answer_that_was_lost_is_no_second_secret(kept, server):
    seen = []
    real = server.answers.secret_create

    async def answer(request, emit):
        seen.append(request)
        made = await real(request, emit)
        if len(seen) == 1:
            server.drop_links()
            await asyncio.sleep(0)  # now it hangs up, before there is an answer
            await asyncio.sleep(0)
        return made

    server.answers.secret_create = answer
    Secret.objects.create("db", {"A": VALUE})
    assert len(seen) >= 2
    assert VALUE not in repr(seen)


def test_one_without_a_name_has_nothing_at_a_server():
    for work in (lambda one: one.info(), lambda one: one.update({"A": "b"})):
        with pytest.raises(InvalidError, match="without a name"):
            work(Secret.from_dict({"A": "b"}))


# ------------------------------------------------------------------------------------------------ functions


def published(server):
    return server.answers.published[-1]


def test_secrets_of_functions_classes_and_the_app(server):
    own, other = Secret.from_dict({"A": VALUE}), Secret.from_dict({"B": "b"})
    app = jitney.App("a", secrets=[Secret.from_name("all"), own])

    @app.function(serialized=True, secrets=[other, Secret.from_name("db", required_keys=["X"]), own], env={"E": "e"})
    def f():
        return 1

    @app.function(serialized=True)
    def g():
        return 1

    @app.cls(serialized=True, secrets=[other])
    class C:
        @jitney.method()
        def m(self):
            return 1

    with app.run():
        request = published(server)
    specs = {spec.name: spec for spec in request.functions}
    base = (SecretRef(name="all"), own._ref())
    assert specs["f"].secrets == (
        *base, other._ref(), SecretRef(name="db", required_keys=("X",)), own._ref()
    )  # fmt: skip
    assert (specs["g"].secrets, specs["C"].secrets) == (base, (*base, other._ref()))
    assert request.secrets == {own._ref().secret_id: {"A": VALUE}, other._ref().secret_id: {"B": "b"}}
    assert VALUE not in repr(request)
    assert VALUE.encode() not in b"".join(spec.pickled for spec in request.functions)
    app.deploy()
    assert published(server).secrets == request.secrets


def test_options_replace_them(server):
    binds = []
    real = server.answers.function_bind
    server.answers.function_bind = lambda request, emit: binds.append(request) or real(request, emit)
    own = Secret.from_dict({"A": VALUE})
    app = jitney.App("a")

    @app.function(serialized=True, secrets=[Secret.from_name("db")])
    def f(x):
        return x

    with app.run():
        assert f.with_options(secrets=[own, Secret.from_name("web")]).remote(1) == 1
        assert f.with_options(timeout=5).remote(2) == 2
        assert f.with_options(secrets=[]).remote(3) == 3
    assert [type(bind) for bind in binds] == [FunctionBind] * 3
    assert binds[0].overrides.secrets == (own._ref(), SecretRef(name="web"))
    assert binds[0].secrets == {own._ref().secret_id: {"A": VALUE}}
    assert VALUE not in repr(binds)
    assert [(bind.overrides.secrets, bind.secrets) for bind in binds[1:]] == [(None, {})] * 2
    with pytest.raises(SerializationError):
        cloudpickle.dumps(f.with_options(secrets=[own]))
    cloudpickle.dumps(f.with_options(secrets=[Secret.from_name("web")]))


@pytest.mark.parametrize("wrong", ["db", ["db"], Secret.from_name("db"), [{"A": "b"}], 7, [None]])
def test_what_is_no_list_of_secrets_is_refused(wrong):
    app = jitney.App("a")
    with pytest.raises(InvalidError, match="secret"):
        app.function(secrets=wrong)
    with pytest.raises(InvalidError, match="secret"):
        jitney.App("b", secrets=wrong)


# ------------------------------------------------------------------------------------------------ images


def test_steps_of_images_take_secrets_of_every_kind():
    own = Secret.from_dict({"TOKEN": VALUE})
    image = Image.debian_slim().run_commands("env", secrets=[own, Secret.from_name("hub"), {"PLAIN": "x"}])
    [layer] = image.spec.layers
    assert layer.secrets == {"TOKEN": VALUE, "=hub": '{"name":"hub","secret_id":"","required_keys":[]}', "PLAIN": "x"}
    assert VALUE not in repr(image.spec)
    assert secret_texts(own) == {"TOKEN": VALUE}
    bare = Image.debian_slim().run_commands("env")
    assert imageplan.spec_digest(image.spec) == imageplan.spec_digest(bare.spec)


def test_a_registry_takes_a_secret_of_either_kind():
    named = Image.from_registry("ghcr.io/me/x", Secret.from_name("hub")).spec.base
    assert named.username == "=hub"
    own = Image.from_registry("ghcr.io/me/x", Secret.from_dict({"username": "me", "password": VALUE})).spec.base
    assert (own.username, own.password) == ("me", VALUE)
    key = Image.from_gcp_artifact_registry(
        "x.pkg.dev/p/r/n", Secret.from_dict({"SERVICE_ACCOUNT_JSON": "{}"})
    ).spec.base
    assert (key.username, key.password) == ("_json_key", "{}")
    with pytest.raises(InvalidError, match="no password"):
        Image.from_registry("ghcr.io/me/x", Secret.from_dict({"username": "me"}))
    with pytest.raises(UnsupportedError):
        Image.from_aws_ecr("x", Secret.from_dict({"AWS_ACCESS_KEY_ID": "x"}))
