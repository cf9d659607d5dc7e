"""Values as bytes: round trips, references, refusals, hostile bytes."""

import array
import collections
import os
import pickle
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.runner import payload
from jitney.runner.segments import SegmentPool
from jitney.values import calls


def encode(value, **options):
    options = {"pool": None, "blobs": None, "inline_max": payload.INLINE_BYTES_MAX, **options}
    return payload.encode(value, **options)


def test_limits_are_those_of_the_server():
    assert payload.INLINE_BYTES_MAX == calls.INLINE_BYTES_MAX
    assert payload.INLINE_BYTES_MAX_DURABLE == calls.INLINE_BYTES_MAX_DURABLE


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(plain)
def test_values_come_back_equal(value):
    assert payload.decode(encode(value)) == value


@given(st.lists(st.binary(max_size=200_000), max_size=3))
def test_bytes_of_any_size_come_back_equal(value):
    assert payload.decode(encode(((value,), {"rest": value}))) == ((value,), {"rest": value})


def test_what_only_cloudpickle_takes():
    add = 3
    assert payload.decode(encode(lambda x: x + add))(4) == 7


def test_what_refers_to_main_can_be_sent_whole():
    thing = type("Thing", (), {"__module__": "__main__", "value": 5})()
    import __main__

    __main__.Thing = type(thing)
    try:
        by_name = encode(thing)
        whole = encode(thing, main_by_value=True)
    finally:
        del __main__.Thing
    with pytest.raises(payload.UnreadableError, match="Thing"):
        payload.decode(by_name)
    assert payload.decode(whole).value == 5


class Holder:
    def __init__(self, inner):
        self.inner = inner


def test_refusals_name_the_culprit_and_the_way_to_it():
    value = Holder({"locks": [1, threading.Lock()]})
    with pytest.raises(payload.UnpicklableError, match=r"type _thread\.lock at \[0\]\[0\]\.inner\['locks'\]\[1\]"):
        encode(((value,), {}))


def test_deep_nesting_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(payload.UnpicklableError, match="nested too deeply"):
        encode(value)


def test_arrays_keep_their_contents_and_can_be_written():
    numpy = pytest.importorskip("numpy")
    for size in (3, 10_000, 1_000_000):
        value = {"a": numpy.arange(size), "b": [numpy.ones((size, 2), order="F"), array.array("d", [1.0])]}
        back = payload.decode(encode(value))
        assert (back["a"] == value["a"]).all()
        assert (back["b"][0] == 1).all()
        back["a"][0] = 7
        assert value["a"][0] == 0


def test_an_array_that_may_not_be_written_stays_so():
    numpy = pytest.importorskip("numpy")
    value = numpy.arange(100_000)
    value.flags.writeable = False
    assert not payload.decode(encode(value)).flags.writeable


def test_large_values_go_to_a_segment_then_to_a_file_then_stay(tmp_path, segments):
    numpy = pytest.importorskip("numpy")
    value = numpy.arange(100_000)
    pool = SegmentPool(segments, "so-1")
    by_segment = encode(value, pool=pool, blobs=str(tmp_path))
    assert by_segment[:1] == b"S"
    assert len(by_segment) < 64
    back = payload.decode(by_segment, pool=pool)
    assert (back == value).all()
    back[0] = 9  # private to this reader
    assert payload.decode(by_segment, pool=pool)[0] == 0

    full = SegmentPool(segments, "so-1", budget_bytes=0)
    by_file = encode(value, pool=full, blobs=str(tmp_path))
    assert by_file[:1] == b"F"
    assert (payload.decode(by_file, blobs=str(tmp_path)) == value).all()
    assert (payload.decode(encode(value, pool=full)) == value).all()
    pool.close()


def test_durable_values_go_to_the_file_of_that_name(tmp_path):
    value = os.urandom(100_000)
    data = encode(value, blobs=str(tmp_path), name="fc-1.0.in", inline_max=payload.INLINE_BYTES_MAX_DURABLE)
    assert payload.referenced_file(data) == "fc-1.0.in"
    assert payload.referenced(data) is None
    assert os.listdir(tmp_path) == ["fc-1.0.in"]
    assert payload.decode(data, blobs=str(tmp_path)) == value


def test_references_that_lead_nowhere(tmp_path, segments):
    pool = SegmentPool(segments, "so-1")
    data = encode(bytes(300_000), pool=pool)
    assert payload.decode(data, pool=pool) == bytes(300_000)
    pool.release(payload.referenced(data))
    with pytest.raises(payload.UnreadableError, match="segment"):
        payload.decode(data, pool=pool)
    with pytest.raises(payload.UnreadableError, match="no access"):
        payload.decode(data)
    pool.close()


@pytest.mark.parametrize(
    "name", [b"../../etc/passwd", b"/etc/passwd", b".", b"", b"a\x00b", b"18-0", "ü".encode(), b"x" * 300]
)
@pytest.mark.parametrize("kind", [b"S", b"F"])
def test_hostile_names_are_refused(tmp_path, segments, kind, name):
    pool = SegmentPool(segments, "so-1")
    data = kind + (10).to_bytes(8, "little") + name
    with pytest.raises(payload.UnreadableError):
        payload.decode(data, pool=pool, blobs=str(tmp_path))
    assert payload.referenced(data) is None
    pool.close()


def test_a_reference_to_a_link_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(encode(1) + bytes(100))
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(payload.UnreadableError):
        payload.decode(b"F" + (10).to_bytes(8, "little") + b"link", blobs=str(tmp_path))


def test_damaged_payloads_are_refused_and_never_read_beyond():
    numpy = pytest.importorskip("numpy")
    whole = encode([numpy.arange(20_000), "x"])
    assert whole[:1] == b"B"
    dice = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole[: dice.randrange(len(whole))])
        for _ in range(3):
            if damaged:
                damaged[dice.randrange(min(len(damaged), 40))] = dice.randrange(256)
        try:
            payload.decode(bytes(damaged))
        except payload.UnreadableError:
            continue
    for data in (b"", b"P", b"B", b"S", b"F", b"E", b"Z123"):
        with pytest.raises(payload.UnreadableError):
            payload.decode(data)


# ------------------------------------------------------------------------------------------------ failures


class Strange(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Hostile(Exception):
    def __reduce__(self):
        raise RuntimeError("no")


def caught(error):
    try:
        raise error
    except BaseException as raised:
        return raised


def test_a_failure_carries_the_exception_and_the_text():
    info = payload.decode_failure(payload.encode_failure(caught(KeyError("missing"))))
    assert (info.type_name, info.module, info.message) == ("KeyError", "builtins", "'missing'")
    assert isinstance(info.exception, KeyError)
    assert "in caught" in info.traceback
    text_only = payload.decode_failure(payload.encode_failure(KeyError(1)), rebuild=False)
    assert text_only.exception is None


@pytest.mark.parametrize("error", [Strange(1, 2), Hostile("boo"), ValueError(threading.Lock())])
def test_exceptions_that_cannot_travel_arrive_as_text(error):
    info = payload.decode_failure(payload.encode_failure(caught(error)))
    assert info.exception is None
    assert info.type_name == type(error).__qualname__
    assert info.message == str(error)


def test_an_exception_group_and_its_notes():
    error = ValueError("inner")
    if hasattr(error, "add_note"):
        error.add_note("a note")
    info = payload.decode_failure(payload.encode_failure(caught(error)))
    assert "a note" in info.traceback


def test_what_an_exception_holds_does_not_make_it_huge():
    info = payload.decode_failure(payload.encode_failure(ValueError(bytes(2_000_000))))
    assert info.exception is None
    assert len(payload.encode_failure(ValueError("x" * 2_000_000))) < 200_000


def test_text_failures_and_hostile_failures():
    data = payload.encode_failure_text("StartupError", "no disk", "trace", module="jitney.errors")
    info = payload.decode_failure(data)
    assert info == payload.FailureInfo("StartupError", "no disk", "trace", None, "jitney.errors")
    for data in (b"", b"E", b"E\xff\xff\xff\xff", b"E\x02\0\0\0[]", b"P123", b"E\x02\0\0\0{}garbage"):
        assert isinstance(payload.decode_failure(data), payload.FailureInfo)
    poisoned = payload.encode_failure_text("A", "b") + pickle.dumps(collections.OrderedDict)
    assert payload.decode_failure(poisoned).exception is None
