"""A dict in memory: order, expiry, sums, and what of it stays warm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.dicts import DictState, Entry, Warm, incremented
from jitney.errors import InvalidError, ResourceExhaustedError
from jitney.values import dicts, objects
from jitney.values.objects import ObjectKind

keys = st.sampled_from([b"a", b"b", b"c", b"d"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.binary(max_size=3)),
        st.tuples(st.just("drop"), keys),
        st.tuples(st.just("clear")),
    ),
    max_size=200,
)


@given(steps)
def test_it_is_a_dict_with_pages(taken):
    state, model = DictState(), {}
    for number, step in enumerate(taken, 1):
        match step:
            case ("put", key, value):
                state.put(key, value, 0, number)
                model[key] = value
            case ("drop", key):
                dropped = state.drop(key)
                assert (dropped.value if dropped else None) == model.pop(key, None)
            case _:
                assert len(state.clear()) == len(model)
                model.clear()
        paged, after = [], 0
        while page := next(state.after(after), None):
            paged.append((page.key, page.value))
            after = page.number
        assert paged == list(model.items()), "in the order in which keys were first set"
        assert len(state) == len(model)


def test_an_entry_expires_a_week_after_its_last_use():
    state = DictState()
    state.put(b"k", b"v", 0, 1)
    assert state.get(b"k", dicts.ENTRY_TTL_MS - 1).value == b"v"
    assert state.contains(b"k", 2 * dicts.ENTRY_TTL_MS - 2)
    assert state.get(b"k", 2 * dicts.ENTRY_TTL_MS - 1) is None
    assert not state.contains(b"k", 2 * dicts.ENTRY_TTL_MS - 1)


def test_a_full_dict_takes_known_keys_only(monkeypatch):
    monkeypatch.setattr(dicts, "ENTRIES_MAX", 2)
    state = DictState()
    state.put(b"a", b"", 0, 1)
    state.put(b"b", b"", 0, 2)
    state.put(b"a", b"x", 0, 3)
    state.check_room([b"a", b"b"])
    with pytest.raises(ResourceExhaustedError, match="2 entries"):
        state.put(b"c", b"", 0, 4)
    with pytest.raises(ResourceExhaustedError):
        state.check_room([b"a", b"c"])


@given(st.integers(dicts.INTEGER_MIN, dicts.INTEGER_MAX))
def test_small_integers_come_back(number):
    assert dicts.unpack_integer(dicts.pack_integer(number)) == number


def test_sums():
    assert incremented(None, 3) == 3
    assert incremented(dicts.pack_integer(-5), 7) == 2
    with pytest.raises(InvalidError, match="no integer"):
        incremented(b"P123456789", 1)
    with pytest.raises(InvalidError, match="64 bits"):
        incremented(dicts.pack_integer(dicts.INTEGER_MAX), 1)


def test_what_was_used_last_stays_warm():
    warm = Warm(10)
    entries = [Entry(number, b"k%d" % number, b"12345", 5, 0) for number in range(3)]
    warm.use(entries[0])
    warm.use(entries[1])
    warm.use(entries[0])
    warm.use(entries[2])
    assert [entry.value is None for entry in entries] == [False, True, False]
    assert warm.bytes == 10
    warm.forget(entries)
    assert warm.bytes == 0
    big = Entry(9, b"big", bytes(50), 50, 0)
    warm.use(big)
    assert big.value is not None, "one value is there, however large"


@given(st.binary(max_size=80), st.binary(max_size=300))
def test_a_value_names_no_file_of_others(name, rest):
    dict_id = "di-" + "0" * 22
    hostile = b"F" + (10).to_bytes(8, "little") + name + rest
    if dicts.referenced(hostile) and dicts.owner_of(dicts.referenced(hostile)) == dict_id:
        return
    with pytest.raises(InvalidError):
        dicts.check_entry(dict_id, b"k", hostile)


@pytest.mark.parametrize("name", ["../x", "fc-0000000000000000000000.0.in", "di-" + "1" * 22 + "." + "0" * 32])
def test_files_of_others_are_refused(name):
    value = b"F" + (10).to_bytes(8, "little") + name.encode()
    with pytest.raises(InvalidError, match="not of this dict"):
        dicts.check_entry("di-" + "0" * 22, b"k", value)


def test_a_value_over_the_limit_is_refused():
    dict_id = "di-" + "0" * 22
    name = dicts.value_file(dict_id, bytes(16)).encode()
    dicts.check_entry(dict_id, b"k", b"F" + dicts.VALUE_BYTES_MAX.to_bytes(8, "little") + name)
    with pytest.raises(InvalidError, match="104,857,601"):
        dicts.check_entry(dict_id, b"k", b"F" + (dicts.VALUE_BYTES_MAX + 1).to_bytes(8, "little") + name)
    with pytest.raises(InvalidError, match="inline"):
        dicts.check_entry(dict_id, b"k", bytes(dicts.INLINE_VALUE_BYTES_MAX + 1))
    with pytest.raises(InvalidError, match="digest"):
        dicts.check_key(bytes(dicts.KEY_BYTES_MAX + 1))


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "_x", "0", "x" * 64])
def test_names(name):
    assert objects.check_name(name, ObjectKind.QUEUE) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "x" * 65, "ä", "a\n", "a\0"])
def test_no_names(name):
    with pytest.raises(InvalidError, match="name of a queue"):
        objects.check_name(name, ObjectKind.QUEUE)
