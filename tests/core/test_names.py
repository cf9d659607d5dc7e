"""What containers ask and say is read for what it is, whatever bytes they make up."""

import contextlib
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.names import Malformed, dns, listed
from jitney.core.names.head import HEAD_BYTES_MAX, parse_host
from jitney.core.names.hello import HELLO_BYTES_MAX, Hello, parse_hello
from jitney.core.names.table import NameTable

labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)
hostnames = st.lists(labels, min_size=1, max_size=6).map(".".join)


def question(name, kind=1, number=7, flags=0x100, tail=b""):
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack(">6H", number, flags, 1, 0, 0, 0) + encoded + struct.pack(">2H", kind, 1) + tail


def hello(name):
    """What the standard library's TLS says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


# ---------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "name, patterns, is_listed",
    [
        ("pypi.org", ["pypi.org"], True),
        ("a.pypi.org", ["pypi.org"], False),
        ("pypi.org.evil.com", ["pypi.org"], False),
        ("notpypi.org", ["*.pypi.org"], False),
        ("pypi.org", ["*.pypi.org"], False),
        ("a.b.pypi.org", ["*.pypi.org"], True),
        ("anything", ["*"], True),
        ("x", [], False),
    ],
)
def test_listed(name, patterns, is_listed):
    assert listed(name, patterns) == is_listed


# ---------------------------------------------------------------------------------------------------- DNS


@given(hostnames, st.integers(0, 65535), st.integers(1, 255))
def test_a_question_is_read_and_its_answer_answers_it(name, number, kind):
    data = question(name.upper(), kind, number)
    query = dns.parse_query(data)
    assert (query.number, query.name, query.kind, query.recursion) == (number, name, kind, True)
    answer = dns.reply(query, dns.NO_ERROR, "198.19.0.5", 30)
    assert answer[12 : 12 + len(query.question)] == data[12:]  # capital letters come back as they were
    assert answer[-4:] == bytes([198, 19, 0, 5])
    assert dns.answers_to(answer, query)
    assert not dns.answers_to(data, query)
    assert not dns.answers_to(answer, query._replace(number=number ^ 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        bytes(12),
        question("a.b", flags=0x8100),
        question("a.b", flags=0x2900),
        question("a.b")[:-1],
        question("a.b")[:14],
        struct.pack(">6H", 1, 0, 2, 0, 0, 0) + question("a.b")[12:] * 2,
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\0\0\1\0\1",
        struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\3a.b\0\0\1\0\1",
        question(".".join(["a" * 60] * 5)),
    ],
)
def test_what_is_no_question_is_malformed(data):
    with pytest.raises(Malformed):
        dns.parse_query(data)


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: question("a.b")[:12] + tail))
def test_any_packet_is_a_question_or_malformed(data):
    with contextlib.suppress(Malformed):
        query = dns.parse_query(data)
        assert listed(query.name, ["*"])
    reply = dns.reply_malformed(data)
    assert reply is None or (reply[:2] == data[:2] and reply[3] & 15 == dns.FORMAT_ERROR)


# ---------------------------------------------------------------------------------------------------- TLS


@given(hostnames.filter(lambda name: "_" not in name and not name.replace(".", "").isdigit()))
def test_the_server_that_tls_asks_for(name):
    assert parse_hello(hello(name)) == Hello(name, encrypted=False)


def test_every_beginning_wants_more_and_any_cut_into_records_is_the_same():
    data = hello("pypi.org")
    assert all(parse_hello(data[:size]) is None for size in range(len(data)))
    body = data[5:]
    for at in range(1, len(body)):
        parts = (body[:at], body[at:])
        records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
        assert parse_hello(records) == Hello("pypi.org", encrypted=False)


def with_extension(data, extension):
    """`data` with one more extension at its end."""
    body = bytearray(data[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    size = int.from_bytes(body[at : at + 2], "big") + len(extension)
    body[at : at + 2] = size.to_bytes(2, "big")
    body += extension
    message = b"\x01" + len(body).to_bytes(3, "big") + bytes(body)
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def test_an_encrypted_hello_is_seen():
    data = with_extension(hello("pypi.org"), b"\xfe\x0d\x00\x01\x00")
    assert parse_hello(data) == Hello("pypi.org", encrypted=True)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x02\x00\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        hello(None),  # no server name
        with_extension(hello("pypi.org"), b"\x00\x00\x00\x0d\x00\x0b\x00\x00\x08evil.com"),  # a second one
        with_extension(hello(None), b"\x00\x00\x00\x12\x00\x10\x00\x00\x05a.com\x00\x00\x05b.com"),  # two in one
        with_extension(hello(None), b"\x00\x00\x00\x0a\x00\x08\x00\x00\x05\xc3\xa4.de"),  # not ASCII
        hello("pypi.org")[:76] + b"\xff\xff" + hello("pypi.org")[78:],  # ciphers to beyond the end
    ],
)
def test_what_is_no_hello_with_one_server_is_malformed(data):
    with pytest.raises(Malformed):
        parse_hello(data)


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(max_size=8))
def test_any_bytes_are_a_hello_or_malformed_or_too_few(data, at, piece):
    changed = hello("pypi.org")
    for attempt in (data, b"\x16\x03\x01" + data, changed[:at] + piece + changed[at + len(piece) :]):
        with contextlib.suppress(Malformed):
            found = parse_hello(attempt)
            assert found is None or found.name.isascii()


def test_a_first_message_has_a_limit():
    records = (b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xff" + bytes(0x3FFC)) * 2
    with pytest.raises(Malformed):
        parse_hello(b"\x16\x03\x01\x40\x00" + b"\x01" + (HELLO_BYTES_MAX + 1).to_bytes(3, "big"))
    with pytest.raises(Malformed):
        parse_hello(records)


# ---------------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    "head, host",
    [
        (b"GET / HTTP/1.1\r\nHost: PyPI.org\r\n\r\nrest", "pypi.org"),
        (b"GET /a?b HTTP/1.0\r\nX: y\r\nhost:pypi.org:80 \r\n\r\n", "pypi.org"),
        (b"GET http://pypi.org/x HTTP/1.1\r\nHost: pypi.org\r\n\r\n", "pypi.org"),
        (b"OPTIONS * HTTP/1.1\r\nHost: pypi.org.\r\n\r\n", "pypi.org"),
        (b"GET / HTTP/1.1\r\nHost: pypi.org\r\n", None),
        (b"", None),
    ],
)
def test_the_host_that_http_asks_for(head, host):
    assert parse_host(head) == host


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a.com\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com\r\n\tb.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\nHost: b.com\r\nHost: a.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com\rHost: b.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com, b.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.com@b.com\r\n\r\n",
        b"GET http://b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n",
        b"GET http://a.com@b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n",
        b"GET https://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n",
        b"CONNECT b.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a.com\r\n\r\n",
        b"GET /" + b"a" * HEAD_BYTES_MAX,
        b"\x16\x03\x01" + b"a" * HEAD_BYTES_MAX,
    ],
)
def test_what_could_be_read_differently_is_malformed(head):
    with pytest.raises(Malformed):
        parse_host(head)


@given(st.binary(max_size=200), st.integers(0, 60), st.binary(max_size=6))
def test_any_bytes_are_a_head_or_malformed_or_too_few(data, at, piece):
    head = b"GET / HTTP/1.1\r\nHost: a.com\r\nAccept: */*\r\n\r\n"
    for attempt in (data, data + b"\r\n\r\n", head[:at] + piece + head[at:]):
        with contextlib.suppress(Malformed):
            found = parse_host(attempt)
            assert found is None or (found and found.isascii())


# ---------------------------------------------------------------------------------------------------- the table


@given(st.lists(st.integers(0, 40).map(lambda n: f"n{n}.com"), max_size=120))
def test_an_address_stands_for_the_name_that_got_it_last(names):
    table = NameTable("198.19.0.0/28")
    latest = {}
    for name in names:
        address = table.address_of(name)
        latest[address] = name
        assert table.name_of(address) == name
    assert len(latest) <= 14
    assert all(table.name_of(address) == name for address, name in latest.items())


def test_what_stands_for_nothing():
    table = NameTable("198.19.0.0/28")
    table.address_of("a.com")
    assert [table.name_of(address) for address in ("198.19.0.2", "198.18.255.255", "8.8.8.8", "x", "")] == [None] * 5
