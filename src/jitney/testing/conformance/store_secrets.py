"""What every store must do with secrets: see ports.secrets, and ports.store, whose numbers are in the names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jitney.errors import AlreadyExistsError, NotFoundError
from jitney.ports.secrets import Kept, Rewrapped
from jitney.ports.store import Store
from jitney.testing.conformance.running import Run, Running
from jitney.values import ids
from jitney.values.apps import AppRecord, AppState
from jitney.values.secrets import Action, Sealed, SecretRecord, SecretUse, SecretVersion, Wrapped


def secret_id(number: int = 1) -> str:
    """Some id of a secret."""
    return ids.make(ids.SECRET, number.to_bytes(16, "big"))


def kept(number: int = 1, version: int = 1, *, key_id: str = "k-1", text: str = "", **changes: Any) -> Kept:
    """Some secret, with a name unless `app_id` is given."""
    name = "" if "app_id" in changes else f"name-{number}"
    fields = {"name": name, "keys": ("A", "B"), "created_at_ms": 10, "updated_at_ms": 10 * version}
    record = SecretRecord(secret_id=secret_id(number), version=version, **{**fields, **changes})
    body = (text or f"{number}/{version}").encode()
    return Kept(record, Sealed(data_key=Wrapped(key_id=key_id, sealed=b"dk" + body), nonce=b"n" + body, sealed=body))


def entry(of: Kept, action: Action = Action.USED, *, at_ms: int = 100, **changes: Any) -> SecretUse:
    """An entry of the audit about it."""
    record = of.record
    return SecretUse(
        at_ms=at_ms, action=action, secret_id=record.secret_id, name=record.name, version=record.version, **changes
    )


def rewrapped(of: Kept, key_id: str) -> Rewrapped:
    """Its data key, wrapped by another key."""
    return Rewrapped(
        secret_id=of.record.secret_id,
        version=of.record.version,
        before=of.sealed.data_key.key_id,
        data_key=Wrapped(key_id=key_id, sealed=b"again" + of.sealed.data_key.sealed),
    )


class SecretContract(Running):
    """Subclass and say how a store is made."""

    def make(self, folder: Path) -> Store:
        """The store of this folder: a new one, or the one that was closed there."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, run: Run, tmp_path: Path) -> Iterator[Store]:
        """A new store."""

        async def make() -> Store:
            return self.make(tmp_path)

        made: Store = run(make())
        yield made
        run(made.close())

    def create(self, store: Store, run: Run, of: Kept) -> Any:
        return run(store.secrets.create(of, entry(of, Action.CREATED, at_ms=of.record.updated_at_ms)))

    def update(self, store: Store, run: Run, of: Kept) -> Any:
        return run(store.secrets.update(of, entry(of, Action.UPDATED, at_ms=of.record.updated_at_ms)))

    def test_8_what_was_created_is_found_every_way(self, store: Store, run: Run) -> None:
        one, two, own = kept(1), kept(2, created_at_ms=20), kept(3, app_id="ap-1")
        for each in (one, two, own):
            assert self.create(store, run, each) == each.record
        assert run(store.secrets.get([secret_id(1), secret_id(3), secret_id(9)])) == {
            secret_id(1): one,
            secret_id(3): own,
        }
        assert run(store.secrets.by_name(["name-2", "", "nobody"])) == {"name-2": two}
        assert run(store.secrets.of_app("ap-1")) == [own]
        assert run(store.secrets.of_app("")) == []
        assert run(store.secrets.names()) == ["name-1", "name-2"]
        assert run(store.secrets.names(limit=1)) == ["name-1"]
        assert run(store.secrets.recent()) == [two.record, one.record]
        assert run(store.secrets.recent(before_ms=20)) == [one.record]
        assert run(store.secrets.recent(limit=1)) == [two.record]
        assert run(store.secrets.key_ids()) == ["k-1"]

    def test_6_creating_it_again_gives_what_is_there(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        assert self.create(store, run, kept(1, text="other", keys=())) == kept(1).record
        assert run(store.secrets.get([secret_id(1)])) == {secret_id(1): kept(1)}
        assert len(run(store.secrets.uses())) == 1

    def test_2_a_name_is_of_one_secret(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        with pytest.raises(AlreadyExistsError):
            self.create(store, run, kept(2, name="name-1"))
        assert run(store.secrets.names()) == ["name-1"]
        assert len(run(store.secrets.uses())) == 1
        assert self.create(store, run, kept(4, app_id="ap-1"))
        assert self.create(store, run, kept(5, app_id="ap-1"))

    def test_an_update_replaces_the_values_and_leaves_the_versions(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        second = kept(1, 2, key_id="k-2", keys=("C",))
        self.update(store, run, second)
        assert run(store.secrets.get([secret_id(1)])) == {secret_id(1): second}
        assert run(store.secrets.versions(secret_id(1))) == [
            SecretVersion(version=2, at_ms=20),
            SecretVersion(version=1, at_ms=10),
        ]
        assert run(store.secrets.versions(secret_id(1), limit=1)) == [SecretVersion(version=2, at_ms=20)]
        assert [use.action for use in run(store.secrets.uses(name="name-1"))] == [Action.UPDATED, Action.CREATED]
        assert run(store.secrets.key_ids()) == ["k-2"]

    def test_an_update_may_give_another_name_that_is_free(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        self.create(store, run, kept(2))
        with pytest.raises(AlreadyExistsError):
            self.update(store, run, kept(1, 2, name="name-2"))
        before, after = kept(1), kept(1, 2, name="new")
        entries = [
            entry(one, Action.RENAMED, other_name=other.record.name)
            for one, other in ((before, after), (after, before))
        ]
        run(store.secrets.update(after, *entries))
        assert run(store.secrets.by_name(["name-1", "new"])) == {"new": after}
        assert run(store.secrets.uses(name="new")) == [entries[1]]
        assert run(store.secrets.uses(name="name-1"))[0] == entries[0]
        self.create(store, run, kept(3, name="name-1"))

    def test_6_the_same_update_again_changes_nothing(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        for _ in range(2):
            self.update(store, run, kept(1, 2))
        assert len(run(store.secrets.versions(secret_id(1)))) == 2
        assert len(run(store.secrets.uses())) == 2

    def test_2_only_the_next_version_is_taken(self, store: Store, run: Run) -> None:
        with pytest.raises(NotFoundError):
            self.update(store, run, kept(1, 2))
        self.create(store, run, kept(1))
        for version in (1, 3):
            with pytest.raises(AlreadyExistsError):
                self.update(store, run, kept(1, version, text="other"))
        assert run(store.secrets.get([secret_id(1)])) == {secret_id(1): kept(1)}

    def test_what_is_deleted_is_gone_but_for_the_audit(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        gone = entry(kept(1), Action.DELETED, at_ms=50)
        assert run(store.secrets.delete(secret_id(1), gone)) is True
        assert run(store.secrets.delete(secret_id(1), gone)) is False
        assert run(store.secrets.get([secret_id(1)])) == {}
        assert run(store.secrets.versions(secret_id(1))) == []
        assert [use.action for use in run(store.secrets.uses(secret_id=secret_id(1)))] == [
            Action.DELETED,
            Action.CREATED,
        ]
        self.create(store, run, kept(2, name="name-1"))
        assert run(store.secrets.by_name(["name-1"]))["name-1"].record.secret_id == secret_id(2)

    def test_secrets_of_an_app_go_with_it(self, store: Store, run: Run) -> None:
        for number, app_id in ((1, "ap-1"), (2, "ap-1"), (3, "ap-2")):
            self.create(store, run, kept(number, app_id=app_id))
        self.create(store, run, kept(4))
        assert run(store.secrets.drop("ap-1")) == 2
        assert run(store.secrets.drop("ap-1")) == 0
        assert run(store.secrets.drop("")) == 0
        assert list(run(store.secrets.get([secret_id(n) for n in range(1, 5)]))) == [secret_id(3), secret_id(4)]

    def test_secrets_of_apps_that_are_no_more_expire(self, store: Store, run: Run) -> None:
        states = {"ap-1": AppState.DEPLOYED, "ap-2": AppState.STOPPED}
        run(store.apps.put([AppRecord(app_id=app_id, state=state) for app_id, state in states.items()]))
        for number, app_id in enumerate(("ap-1", "ap-2", "ap-3", "ap-3"), 1):
            self.create(store, run, kept(number, app_id=app_id, created_at_ms=number))
        self.create(store, run, kept(9))
        assert run(store.secrets.expire(4, limit=1)) == 1
        assert run(store.secrets.expire(4)) == 1
        assert run(store.secrets.expire(4)) == 0
        found = run(store.secrets.get([secret_id(n) for n in range(10)]))
        assert list(found) == [secret_id(1), secret_id(4), secret_id(9)]

    def test_uses_are_recorded_once_newest_first(self, store: Store, run: Run) -> None:
        self.create(store, run, kept(1))
        uses = [entry(kept(1), at_ms=100 + n, container_id=f"ta-{n}", function_name="f") for n in range(3)]
        for _ in range(2):
            run(store.secrets.used(uses))
        run(store.secrets.used([entry(kept(2), at_ms=50)]))
        created = entry(kept(1), Action.CREATED, at_ms=10)
        assert run(store.secrets.uses(name="name-1")) == [*uses[::-1], created]
        assert run(store.secrets.uses(name="name-1", limit=1)) == uses[2:]
        assert run(store.secrets.uses(secret_id=secret_id(2))) == [entry(kept(2), at_ms=50)]
        assert len(run(store.secrets.uses())) == 5
        assert run(store.secrets.get([secret_id(1)]))[secret_id(1)].record.used_at_ms == 102

    def test_10_the_audit_is_forgotten_by_age(self, store: Store, run: Run) -> None:
        run(store.secrets.used([entry(kept(1), at_ms=at_ms) for at_ms in (5, 1, 9)]))
        assert run(store.secrets.forget(9, limit=1)) == 1
        assert [use.at_ms for use in run(store.secrets.uses())] == [9, 1]
        assert run(store.secrets.forget(9)) == 1
        assert run(store.secrets.forget(9)) == 0

    def test_data_keys_are_wrapped_anew_where_they_are_still_those(self, store: Store, run: Run) -> None:
        first, second, third = kept(1), kept(2, app_id="ap-1"), kept(3, key_id="k-2")
        for each in (first, second, third):
            self.create(store, run, each)
        assert run(store.secrets.wrapped_by_others("k-2")) == [first, second]
        assert run(store.secrets.wrapped_by_others("k-2", limit=1)) == [first]
        self.update(store, run, kept(2, 2, app_id="ap-1"))
        changes = [rewrapped(one, "k-2") for one in (first, second, third, kept(4))]
        assert run(store.secrets.rewrap([changes[0], changes[1], changes[3]])) == 1
        assert run(store.secrets.rewrap(changes[:1])) == 0
        assert run(store.secrets.key_ids()) == ["k-1", "k-2"]
        found = run(store.secrets.get([secret_id(1)]))[secret_id(1)]
        assert found == Kept(first.record, msgspec.structs.replace(first.sealed, data_key=changes[0].data_key))

    def test_1_what_was_recorded_is_there_after_a_restart(self, store: Store, run: Run, tmp_path: Path) -> None:
        self.create(store, run, kept(1))
        run(store.secrets.used([entry(kept(1))]))
        run(store.close())

        async def make() -> Store:
            return self.make(tmp_path)

        again: Store = run(make())
        try:
            if run(again.meta()).schema_version:  # one that forgets has none
                assert run(again.secrets.names()) == ["name-1"]
                assert len(run(again.secrets.uses())) == 2
        finally:
            run(again.close())
