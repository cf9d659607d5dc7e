"""Secrets at the server: kept sealed, given to containers alone, with an entry for each use."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jitney.drivers.keys.fake import FakeKms
from jitney.drivers.keys.file import FileKeys
from jitney.drivers.store.memory import MemoryStore
from jitney.errors import (
    AlreadyExistsError,
    ConnectionError,
    EncryptionKeyError,
    InvalidError,
    NotFoundError,
    SecretUnreadableError,
    StorageFullError,
)
from jitney.ports.secrets import Kept
from jitney.runner.failures import decode_failure
from jitney.server.held import held_pool
from jitney.server.scaling import Node
from jitney.server.vault import AUDIT_KEPT_MS, OF_NO_APP_MS, Vault
from jitney.testing import virtual_loop
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState
from jitney.values.buckets import BucketMount
from jitney.values.calls import Status
from jitney.values.containers import NodeInfo, Phase
from jitney.values.functions import FunctionSpec, Overrides, Scaling
from jitney.values.images import ImageSpec, RunCommands
from jitney.values.secrets import Action, SecretRef, SecretUse
from jitney.wire import codec, methods
from jitney.wire.messages import apps as am
from jitney.wire.messages import functions as fm
from jitney.wire.messages import images as im
from jitney.wire.messages import link as m
from jitney.wire.messages import secrets as sm
from jitney.wire.messages import workers as wm
from tests.server.conftest import serving

VALUE = "hunter2-hunter2"
NODE = NodeInfo(node_id="no-1", cpu_milli=4_000, memory_mib=8_000, disk_mib=10_000)
USE = SecretUse(at_ms=0, action=Action.USED, secret_id="", app_id="ap-1", function_name="f", container_id="ta-1")


def secret_id(number):
    return ids.make(ids.SECRET, number.to_bytes(16, "big"))


class Safe:
    """A vault on fakes, with a clock of its own."""

    def __init__(self, keys=None):
        self.store, self.keys, self.now_ms = MemoryStore(), keys or FakeKms(), 1_000
        self._numbers = 0
        self.vault = Vault(store=self.store, keys=self.keys, entropy=self.entropy, wall_ms=self.clock)

    def clock(self):
        self.now_ms += 1
        return self.now_ms

    def entropy(self, count):
        self._numbers += 1
        return self._numbers.to_bytes(count, "big")

    async def create(self, name="db", *, number=1, overwrite=False, **values):
        return await self.vault.create(secret_id(number), name, values or {"KEY": VALUE}, overwrite=overwrite)

    async def open(self, *names, env=None, **fields):
        refs = [SecretRef(name=name, **fields) for name in names]
        return await self.vault.open(refs, env or {}, USE)


def play(act, keys=None, run=asyncio.run):
    async def main():
        await act(Safe(keys))

    run(main())


# ------------------------------------------------------------------------------------------------ the vault


def test_values_go_in_and_come_out_for_a_container_with_an_entry():
    async def act(safe):
        await safe.create(KEY=VALUE, USER="me")
        await safe.create("other", number=2, USER="later")
        assert await safe.open("db", "other", env={"KEY": "of the function"}) == {"USER": "later"}
        assert await safe.open("db") == {"KEY": VALUE, "USER": "me"}
        used = [one for one in await safe.store.secrets.uses(name="db") if one.action is Action.USED]
        assert [(one.version, one.container_id, one.function_name, one.app_id) for one in used] == [
            (1, "ta-1", "f", "ap-1"),
            (1, "ta-1", "f", "ap-1"),
        ]
        assert used[0].at_ms > used[1].at_ms

    play(act)


def test_nothing_that_is_kept_has_a_value_in_it():
    async def act(safe):
        await safe.create()
        await safe.open("db")
        kept = (await safe.store.secrets.by_name(["db"]))["db"]
        uses = await safe.store.secrets.uses()
        for text in (
            repr(kept),
            repr(uses),
            msgspec.json.encode([kept, uses]).decode(),
            repr(vars(safe.store.secrets)),
        ):
            assert VALUE not in text
        assert VALUE.encode() not in kept.sealed.sealed

    play(act)


def test_a_container_that_cannot_be_audited_gets_nothing():
    async def act(safe):
        await safe.create()
        safe.store.fail(3, StorageFullError("the disk is full"))  # after the two reads
        with pytest.raises(StorageFullError):
            await safe.open("db")

    play(act)


def test_a_new_version_reaches_who_starts_later_and_its_values_replace_the_old():
    async def act(safe):
        assert (await safe.create()).version == 1
        before = (await safe.store.secrets.by_name(["db"]))["db"]
        assert (await safe.vault.update("db", {"KEY": "new-value", "MORE": "x"})).version == 2
        assert await safe.open("db") == {"KEY": "new-value", "MORE": "x"}
        assert (await safe.vault.update("db", {"KEY": None})).keys == ("MORE",)
        after = (await safe.store.secrets.by_name(["db"]))["db"]
        assert before.sealed.sealed != after.sealed.sealed
        assert [one.version for one in await safe.store.secrets.versions(before.record.secret_id)] == [3, 2, 1]

    play(act)


def test_what_would_change_nothing_makes_no_version():
    async def act(safe):
        await safe.create()
        assert (await safe.vault.update("db", {"KEY": VALUE})).version == 1
        assert (await safe.create(number=2, overwrite=True)).version == 1
        assert (await safe.create(number=2, overwrite=True, KEY="other")).version == 2
        assert (await safe.create(number=2, overwrite=True, KEY="other")).version == 2  # asked again

    play(act)


def test_creating_again_with_the_same_id_is_the_same_request():
    async def act(safe):
        first = await safe.create()
        assert await safe.create() == first
        with pytest.raises(AlreadyExistsError, match="--force"):
            await safe.create(number=2)
        with pytest.raises(InvalidError):
            await safe.vault.create("se-x", "db", {}, overwrite=False)
        with pytest.raises(InvalidError, match="name of a secret"):
            await safe.create(".hidden")

    play(act)


def test_missing_secrets_and_keys_are_told_with_near_names():
    async def act(safe):
        await safe.create("database", KEY="v")
        with pytest.raises(NotFoundError, match=r"no secret 'databse': did you mean 'database'\?"):
            await safe.open("databse")
        with pytest.raises(NotFoundError, match=r"required key KEYS: did you mean 'KEY'\?"):
            await safe.open("database", required_keys=("KEYS",))
        for work in (safe.vault.update("databse", {}), safe.vault.delete("databse"), safe.vault.find("databse")):
            with pytest.raises(NotFoundError, match="database"):
                await work
        assert not [one for one in await safe.store.secrets.uses() if one.action is Action.USED]

    play(act)


def test_what_was_deleted_is_gone_and_its_audit_stays():
    async def act(safe):
        await safe.create()
        await safe.vault.delete("db")
        with pytest.raises(NotFoundError):
            await safe.open("db")
        assert [one.action for one in await safe.store.secrets.uses(name="db")] == [Action.DELETED, Action.CREATED]

    play(act)


@pytest.mark.parametrize("swap", ["record", "values", "data key"])
def test_a_row_in_the_place_of_another_does_not_open(swap):
    async def act(safe):
        await safe.create("low", number=1, KEY="of low")
        await safe.create("high", number=2, KEY="of high")
        found = await safe.store.secrets.by_name(["low", "high"])
        low, high = found["low"], found["high"]
        sealed = {
            "record": high.sealed,
            "values": msgspec.structs.replace(high.sealed, data_key=low.sealed.data_key),
            "data key": msgspec.structs.replace(low.sealed, data_key=high.sealed.data_key),
        }[swap]
        safe.store.secrets._secrets[low.record.secret_id] = Kept(low.record, sealed)
        with pytest.raises(SecretUnreadableError, match=r"'low' cannot be opened: its record was damaged.*--force"):
            await safe.open("low")
        assert await safe.open("high") == {"KEY": "of high"}
        assert (await safe.create("low", number=3, overwrite=True, KEY="again")).version == 2  # as it says
        assert await safe.open("low") == {"KEY": "again"}

    play(act)


def test_an_older_version_in_the_place_of_the_current_one_does_not_open():
    async def act(safe):
        await safe.create()
        old = (await safe.store.secrets.by_name(["db"]))["db"]
        await safe.vault.update("db", {"KEY": "new"})
        new = (await safe.store.secrets.by_name(["db"]))["db"]
        safe.store.secrets._secrets[old.record.secret_id] = Kept(new.record, old.sealed)
        with pytest.raises(SecretUnreadableError):
            await safe.open("db")

    play(act)


# ------------------------------------------------------------------------------------------------ keys


def test_a_rotation_wraps_all_and_retires_what_nothing_needs():
    async def act(safe):
        for number in range(250):
            await safe.create(f"s{number}", number=number + 1)
        await safe.vault.settle_refs("ap-1", [SecretRef(secret_id=secret_id(900))], {secret_id(900): {"A": "b"}})
        before = await safe.store.secrets.key_ids()
        sealed = (await safe.store.secrets.by_name(["s7"]))["s7"].sealed
        done = await safe.vault.rotate()
        assert (done.rewrapped, done.retired) == (251, 1)
        assert await safe.store.secrets.key_ids() == [done.key_id] != before
        after = (await safe.store.secrets.by_name(["s7"]))["s7"].sealed
        assert (after.sealed, after.nonce) == (sealed.sealed, sealed.nonce)  # values are not touched
        assert await safe.open("s7") == {"KEY": VALUE}
        assert await safe.keys.missing(before) == set(before)

    play(act)


def test_a_rotation_that_breaks_off_loses_nothing_and_is_done_again():
    async def act(safe):
        for number in range(5):
            await safe.create(f"s{number}", number=number + 1)
        safe.keys.fail(ConnectionError("the service does not answer"))
        with pytest.raises(ConnectionError):
            await safe.vault.rotate()
        await safe.vault.rotate()
        safe.store.fail(2, StorageFullError("full"))
        with pytest.raises(StorageFullError):
            await safe.vault.rotate()
        assert await safe.open("s3") == {"KEY": VALUE}
        assert (await safe.vault.rotate()).rewrapped == 5
        assert await safe.open("s3") == {"KEY": VALUE}

    play(act)


def test_secrets_made_and_opened_during_a_rotation_are_readable_after_it():
    async def act(safe):
        for number in range(120):
            await safe.create(f"s{number}", number=number + 1)

        async def work():
            for number in range(40):
                assert await safe.open(f"s{number}") == {"KEY": VALUE}
                await safe.create(f"t{number}", number=1_000 + number)
                await safe.vault.update(f"s{number + 40}", {"KEY": f"new-{number}"})

        await asyncio.gather(work(), safe.vault.rotate(), safe.vault.rotate())
        for number in range(40):
            assert await safe.open(f"t{number}") == {"KEY": VALUE}
            assert await safe.open(f"s{number + 40}") == {"KEY": f"new-{number}"}

    play(act)


def test_a_lost_key_is_told_and_nothing_new_is_sealed_meanwhile(tmp_path):
    path = tmp_path / "secrets.key"

    async def act(safe):
        await safe.create()
        kept = path.rename(tmp_path / "copy")
        with pytest.raises(EncryptionKeyError, match="bring the file back"):
            await safe.create("new", number=2)
        told_of = r"secret 'db' cannot be opened: .*bring the file back"
        for work in (safe.open("db"), safe.vault.update("db", {"A": "b"}), safe.vault.rename(secret_id(1), "other")):
            with pytest.raises(SecretUnreadableError, match=told_of) as told:
                await work
            assert VALUE not in str(told.value)
        assert not path.exists()
        kept.rename(path)
        assert await safe.open("db") == {"KEY": VALUE}
        path.unlink()
        await safe.vault.delete("db")  # as it says, where there is no copy
        await safe.create("new", number=2)
        assert await safe.open("new") == {"KEY": VALUE}

    play(act, FileKeys(path))


def test_the_key_file_of_another_server_is_told(tmp_path):
    async def act(safe):
        await safe.create()
        (tmp_path / "secrets.key").unlink()
        other = Safe(FileKeys(tmp_path / "secrets.key"))
        await other.create()
        with pytest.raises(SecretUnreadableError, match=r"'db' cannot be opened: .*does not have it"):
            await safe.open("db")

    play(act, FileKeys(tmp_path / "secrets.key"))


def test_a_renamed_secret_has_its_values_and_is_in_the_audit_of_both_names():
    async def act(safe):
        await safe.create()
        await safe.create("taken", number=2)
        with pytest.raises(AlreadyExistsError, match=r"'taken' already.*choose another"):
            await safe.vault.rename(secret_id(1), "taken")
        with pytest.raises(InvalidError, match="cannot be the name"):
            await safe.vault.rename(secret_id(1), "../db")
        with pytest.raises(NotFoundError):
            await safe.vault.rename(secret_id(3), "new")
        renamed = await safe.vault.rename(secret_id(1), "new")
        assert (renamed.name, renamed.version, renamed.secret_id) == ("new", 2, secret_id(1))
        assert await safe.vault.rename(secret_id(1), "new") == renamed, "the answer was lost, and it came again"
        assert await safe.open("new") == {"KEY": VALUE}
        with pytest.raises(NotFoundError, match="no secret 'db'"):
            await safe.open("db")
        audit = {
            name: [(one.action, one.other_name) for one in await safe.store.secrets.uses(name=name)]
            for name in ("db", "new")
        }
        assert audit["db"] == [(Action.RENAMED, "new"), (Action.CREATED, "")]
        assert audit["new"] == [(Action.USED, ""), (Action.RENAMED, "db")]
        await safe.create("db", number=4)  # the name is free
        await safe.vault.rotate()
        assert await safe.open("new", "db") == {"KEY": VALUE}

    play(act)


# ------------------------------------------------------------------------------------------------ of an app


def test_one_of_an_app_that_was_damaged_is_recorded_anew():
    async def act(safe):
        ref = SecretRef(secret_id=secret_id(1))
        [was] = await safe.vault.settle_refs("ap-1", [ref], {secret_id(1): {"A": "1"}})
        known = safe.store.secrets._secrets[was.secret_id]
        damaged = msgspec.structs.replace(known.sealed, sealed=bytes(64))
        safe.store.secrets._secrets[was.secret_id] = Kept(known.record, damaged)
        with pytest.raises(SecretUnreadableError, match=r"of app ap-1, with A, .*deploy the app again"):
            await safe.vault.open([was], {}, USE)
        again = SecretRef(secret_id=secret_id(2))
        [now] = await safe.vault.settle_refs("ap-1", [again], {secret_id(2): {"A": "1"}})
        assert await safe.vault.open([now], {}, USE) == {"A": "1"}

    play(act)


def test_values_of_an_app_keep_their_id_while_they_are_the_same():
    async def act(safe):
        settle = safe.vault.settle_refs
        [first] = await settle("ap-1", [SecretRef(secret_id=secret_id(1))], {secret_id(1): {"A": "1"}})
        [again] = await settle("ap-1", [SecretRef(secret_id=secret_id(2))], {secret_id(2): {"A": "1"}})
        [other] = await settle("ap-1", [SecretRef(secret_id=secret_id(3))], {secret_id(3): {"A": "2"}})
        [foreign] = await settle("ap-2", [SecretRef(secret_id=secret_id(4))], {secret_id(4): {"A": "1"}})
        assert first == again
        assert len({first, other, foreign}) == 3
        assert await safe.vault.open([other], {}, USE) == {"A": "2"}
        with pytest.raises(NotFoundError, match="belongs to this app"):
            await safe.vault.open([foreign], {}, USE)
        with pytest.raises(NotFoundError):
            await settle("ap-1", [foreign], {})
        with pytest.raises(AlreadyExistsError):
            await settle("ap-3", [foreign], {foreign.secret_id: {"A": "x"}})

    play(act)


def test_what_is_of_no_app_and_old_entries_go():
    async def act(safe):
        await safe.store.apps.put([AppRecord(app_id="ap-1", state=AppState.DEPLOYED)])
        for number, app_id in ((1, "ap-1"), (2, "ap-2")):
            await safe.vault.settle_refs(
                app_id, [SecretRef(secret_id=secret_id(number))], {secret_id(number): {"A": app_id}}
            )
        await safe.create("named", number=3)
        safe.now_ms += OF_NO_APP_MS + 1_000
        tidying = asyncio.create_task(safe.vault.keep_tidy())
        await asyncio.sleep(1)  # sleep: on a virtual clock
        assert list(await safe.store.secrets.get([secret_id(n) for n in (1, 2, 3)])) == [secret_id(1), secret_id(3)]
        assert len(await safe.store.secrets.uses()) == 3
        tidying.cancel()
        safe.now_ms += AUDIT_KEPT_MS
        tidying = asyncio.create_task(safe.vault.keep_tidy())
        await asyncio.sleep(1)  # sleep: on a virtual clock
        assert await safe.store.secrets.uses() == []
        tidying.cancel()

    play(act, run=virtual_loop.run)


# ------------------------------------------------------------------------------------------------ a server


def function(*secrets, name="f", **fields):
    return FunctionSpec(name=name, module="m", qualname=name, secrets=secrets, **fields)


NAMED = SecretRef(name="db")
OWN = SecretRef(secret_id=secret_id(1))


class User:
    """Somebody who asks a running server."""

    def __init__(self, server, wire):
        self.server, self.wire, self.sent = server, wire, []
        self.told = asyncio.Event()  # something has become of what was asked for

    async def ask(self, method, request):
        answer = await self.wire.ask(method.name, request)
        if isinstance(answer, m.Failed):
            raise AssertionError(answer.code, answer.message, answer.hint)
        return codec.decode(answer.body, method.answer)

    async def refused(self, method, request):
        answer = await self.wire.ask(method.name, request)
        assert isinstance(answer, m.Failed), answer
        return f"{answer.code}: {answer.message}: {answer.hint}"

    async def create(self, name="db", **values):
        values, number = values or {"KEY": VALUE}, len(name) + 70
        return await self.ask(
            methods.SECRET_CREATE, sm.SecretCreate(secret_id=secret_id(number), name=name, values=values)
        )

    async def deploy(self, *specs, secrets=None):
        request = am.AppPublish(deploy_as="app", functions=specs, secrets=secrets or {})
        return await self.ask(methods.APP_PUBLISH, request)

    def attach(self):
        self.server.fleet.attach(NODE, (), Node(NODE, self.send))

    def send(self, command):
        self.sent.append(command)
        self.told.set()

    async def launches(self, count=1):
        await self.until(lambda: len([one for one in self.sent if isinstance(one, wm.StartContainer)]) >= count)
        return [one.launch for one in self.sent if isinstance(one, wm.StartContainer)]

    async def until(self, probe):
        async with asyncio.timeout(5):
            while not probe():
                self.told.clear()
                await self.told.wait()


def asked(folder, act, role="client"):
    async def main():
        async with serving(folder) as (server, connect):
            wire = await connect()
            token = server._auth.container_token(ids.make(ids.CONTAINER, bytes(16)))
            await (wire.hello() if role == "client" else wire.hello(role, token))
            await act(User(server, wire))

    asyncio.run(main())


def test_no_method_gives_a_value(folder):
    async def act(user):
        made = await user.create(KEY=VALUE, USER="me-too-me")
        assert made.keys == ("KEY", "USER")
        name = sm.SecretName(name="db")
        answers = [
            await user.ask(methods.SECRET_LIST, sm.SecretList()),
            await user.ask(methods.SECRET_INFO, name),
            await user.ask(methods.SECRET_UPDATE, sm.SecretUpdate(name="db", values={"MORE": VALUE})),
            await user.ask(methods.SECRET_AUDIT, sm.SecretAudit(name="db")),
            await user.ask(methods.SECRET_ROTATE_KEY, sm.SecretRotate()),
            await user.ask(methods.SECRET_DELETE, name),
        ]
        assert VALUE not in repr(answers)
        assert "MORE" in repr(answers)
        assert "not_found" in await user.refused(methods.SECRET_INFO, name)
        assert "invalid" in await user.refused(methods.SECRET_LIST, sm.SecretList(limit=0))

    asked(folder, act)


def test_a_container_may_not_ask_about_secrets(folder):
    async def act(user):
        for method in methods.METHODS.values():
            if method.name.startswith("secret."):
                answer = await user.wire.ask(method.name, sm.SecretName(name="db"))
                assert (answer.code, method.scope) == ("permission_denied", "user")

    asked(folder, act, role="container")


def test_a_function_whose_secret_is_missing_is_not_published(folder):
    async def act(user):
        await user.create("database")
        request = am.AppPublish(deploy_as="app", functions=(function(SecretRef(name="databse")),))
        assert "not_found: no secret 'databse': did you mean 'database'?" in await user.refused(
            methods.APP_PUBLISH, request
        )
        ref = SecretRef(name="database", required_keys=("KEYS",))
        request = am.AppPublish(deploy_as="app", functions=(function(ref),))
        assert "required key KEYS: did you mean 'KEY'?" in await user.refused(methods.APP_PUBLISH, request)
        assert not user.server.apps.running

    asked(folder, act)


def test_a_deploy_with_the_same_values_changes_nothing_and_with_others_it_does(folder):
    async def act(user):
        first = await user.deploy(function(OWN), secrets={OWN.secret_id: {"A": "1"}})
        for number, value, changed in ((2, "1", False), (3, "2", True)):
            ref = SecretRef(secret_id=secret_id(number))
            again = await user.deploy(function(ref), secrets={ref.secret_id: {"A": value}})
            assert (again.app_id, again.changed) == (first.app_id, changed)

    asked(folder, act)


def test_a_container_is_started_with_values_and_they_are_in_nothing_else(folder):
    async def act(user):
        user.attach()
        await user.create()
        spec = function(NAMED, OWN, scaling=Scaling(min_containers=1), env={"OVER": "of the function"})
        await user.deploy(spec, secrets={OWN.secret_id: {"OWN": "own-value", "OVER": "never"}})
        [launch] = await user.launches()
        assert launch.secrets == {"KEY": VALUE, "OWN": "own-value"}
        assert VALUE not in repr((launch, user.sent, launch.template, launch.config, launch.env))
        assert VALUE.encode() not in msgspec.msgpack.encode((launch.template, launch.config, launch.env))
        used = await user.ask(methods.SECRET_AUDIT, sm.SecretAudit(name="db"))
        entry = used.entries[0]
        assert (entry.action, entry.container_id, entry.function_name) == (Action.USED, launch.container_id, "f")
        assert (entry.app_id, entry.version) == (launch.app_id, 1)

    asked(folder, act)


def test_a_start_that_was_lost_with_its_link_is_sent_again(folder):
    async def act(user):
        user.attach()
        await user.create()
        await user.deploy(function(NAMED, scaling=Scaling(min_containers=1)))
        await user.launches()
        user.attach()
        first, second = await user.launches(2)
        assert (first.container_id, first.secrets) == (second.container_id, second.secrets)

    asked(folder, act)


def test_one_that_is_stopped_before_its_values_are_known_is_not_started(folder):
    async def act(user):
        user.attach()
        await user.create()
        await user.deploy(function(NAMED, scaling=Scaling(min_containers=1)))
        [container] = user.server.fleet.containers.values()
        user.server.fleet.stop(container, "the test says so", grace_ms=0)
        user.server.fleet.exited(wm.ContainerExited(container_id=container.id, exit=msgspec.convert({}, wm.Exit)))
        await user.create("another")  # whoever asks next is answered after it
        assert container.id not in [launch.container_id for launch in await user.launches(0)]
        assert container.phase in (Phase.STOPPED, Phase.FAILED)

    asked(folder, act)


def test_a_secret_that_is_deleted_fails_what_starts_later(folder):
    async def act(user):
        await user.create()
        deployed = await user.deploy(function(NAMED))
        await user.ask(methods.SECRET_DELETE, sm.SecretName(name="db"))
        user.attach()
        failed = []

        def fail(pool, status, body):
            failed.append((status, decode_failure(body)))
            user.told.set()

        user.server.router.fail_queued = fail
        pool = user.server.router.pools[deployed.function_ids["f"]]
        user.server.fleet.scaler.start_one(pool, user.server.fleet.now_ms())
        await user.until(lambda: failed)
        [(status, failure)] = failed
        assert (status, failure.type_name, failure.module) == (Status.INIT_FAILURE, "NotFoundError", "jitney.errors")
        assert "no secret 'db'" in failure.message
        assert not user.server.fleet.containers
        assert not [one for one in user.sent if isinstance(one, wm.StartContainer)]

    asked(folder, act)


def test_secrets_of_an_app_are_gone_with_it(folder):
    async def act(user):
        deployed = await user.deploy(function(OWN), secrets={OWN.secret_id: {"A": "1"}})
        assert len(await user.server._store.secrets.of_app(deployed.app_id)) == 1
        await user.ask(methods.APP_STOP, am.AppStop(app=deployed.app_id))
        assert await user.server._store.secrets.of_app(deployed.app_id) == []

    asked(folder, act)


def test_options_replace_the_secrets_that_were_declared(folder):
    async def act(user):
        user.attach()
        await user.create()
        deployed = await user.deploy(function(NAMED, env={"A": "b"}))
        request = fm.FunctionBind(
            function_id=deployed.function_ids["f"],
            overrides=Overrides(secrets=(OWN,), min_containers=1),
            secrets={OWN.secret_id: {"KEY": "another-value"}},
        )
        bound = await user.ask(methods.FUNCTION_BIND, request)
        [launch] = await user.launches()
        assert launch.secrets == {"KEY": "another-value"}
        assert launch.env == {"A": "b"}
        other = SecretRef(secret_id=secret_id(5))
        same = fm.FunctionBind(
            function_id=deployed.function_ids["f"],
            overrides=Overrides(secrets=(other,), min_containers=1),
            secrets={other.secret_id: {"KEY": "another-value"}},
        )
        assert (await user.ask(methods.FUNCTION_BIND, same)).function_id == bound.function_id

    asked(folder, act)


def test_options_may_give_buckets_with_secrets(folder):
    bucket = BucketMount(path="/b", bucket="weights", secret=NAMED)
    own = BucketMount(path="/c", bucket="others", secret=OWN)

    async def act(user):
        user.attach()
        await user.create()
        deployed = await user.deploy(function())
        request = fm.FunctionBind(
            function_id=deployed.function_ids["f"],
            overrides=Overrides(buckets=(bucket, own), min_containers=1),
            secrets={OWN.secret_id: {"AWS_ACCESS_KEY_ID": "a"}},
        )
        await user.ask(methods.FUNCTION_BIND, request)
        [launch] = await user.launches()
        assert launch.secrets == {}
        assert [one.path for one in launch.buckets] == ["/b", "/c"]
        assert launch.bucket_secrets == ({"KEY": VALUE}, {"AWS_ACCESS_KEY_ID": "a"})
        missing = BucketMount(path="/b", bucket="weights", secret=SecretRef(name="dbb"))
        nothing = fm.FunctionBind(function_id=deployed.function_ids["f"], overrides=Overrides(buckets=(missing,)))
        assert "did you mean 'db'" in await user.refused(methods.FUNCTION_BIND, nothing)

    asked(folder, act)


def test_code_in_a_container_cannot_give_itself_a_secret(folder):
    async def main():
        async with serving(folder) as (server, connect):
            wire = await connect()
            await wire.hello()
            user = User(server, wire)
            await user.create()
            await user.ask(
                methods.SECRET_CREATE, sm.SecretCreate(secret_id=secret_id(78), name="crown", values={"J": "ewels"})
            )
            deployed = await user.deploy(function(NAMED))
            inner = await connect()
            await inner.hello("container", server._auth.container_token(ids.make(ids.CONTAINER, bytes(16))))
            container = User(server, inner)

            def bind(*refs, **values):
                overrides = Overrides(secrets=refs)
                return fm.FunctionBind(function_id=deployed.function_ids["f"], overrides=overrides, secrets=values)

            assert "permission_denied" in await container.refused(methods.FUNCTION_BIND, bind(SecretRef(name="crown")))
            of_bucket = BucketMount(path="/b", bucket="weights", secret=SecretRef(name="crown"))
            with_bucket = fm.FunctionBind(
                function_id=deployed.function_ids["f"], overrides=Overrides(buckets=(of_bucket,))
            )
            assert "permission_denied" in await container.refused(methods.FUNCTION_BIND, with_bucket)
            await container.ask(methods.FUNCTION_BIND, bind(NAMED))
            await container.ask(methods.FUNCTION_BIND, bind(OWN, **{OWN.secret_id: {"A": "b"}}))
            answer = await inner.ask("app.publish", am.AppPublish(deploy_as="x"))
            assert answer.code == "permission_denied"

    asyncio.run(main())


def test_a_container_for_a_person_has_the_secrets_of_its_function():
    spec = function(OWN, image_id=ids.make(ids.IMAGE, bytes(16)))
    pool = held_pool(spec, bytes, "ap-of-the-function")
    assert (pool.secrets_of, pool.spec.secrets) == ("ap-of-the-function", (OWN,))
    assert pool.app_id != pool.secrets_of


def test_a_build_gets_the_values_of_secrets_and_a_plan_does_not(folder):
    async def act(user):
        await user.create()
        user.attach()
        layer = RunCommands(commands=("true",), secrets={"=db": '{"name":"db"}', "OWN": "own"})
        spec = ImageSpec(layers=(layer,))
        for method, request in (
            (methods.IMAGE_BUILD, im.ImageBuild(spec=spec)),
            (methods.IMAGE_PLAN, im.ImagePlanRequest(spec=spec)),
        ):
            await user.wire.send(m.Request(9, method.name, codec.encode(request)))
        await user.until(lambda: len(user.sent) >= 2)
        by_kind = {type(one): one for one in user.sent}
        assert by_kind[wm.BuildImage].spec.layers[0].secrets == {"KEY": VALUE, "OWN": "own"}
        assert by_kind[wm.AskImages].task.spec.layers[0].secrets == {"OWN": "own"}
        assert VALUE not in repr(user.sent)
        [entry, _] = await user.server._store.secrets.uses(name="db")
        assert entry.action is Action.BUILT

    asked(folder, act)
