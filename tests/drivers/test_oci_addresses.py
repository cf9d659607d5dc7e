"""Which addresses a pull may speak to."""

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.drivers.pulls.oci import addresses
from jitney.drivers.pulls.oci.addresses import AddressDenied, Guard
from jitney.errors import ConnectionError, PermissionDeniedError

INSIDE = ["10.0.0.1", "172.16.3.4", "192.168.1.1", "127.0.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1",
          "64:ff9b::10.0.0.1", "2002:0a00:0001::1", "0.0.0.1", "240.0.0.1", "198.18.0.1"]  # fmt: skip
NEVER = [
    "169.254.169.254",
    "fe80::1",
    "fd00:ec2::254",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "::ffff:169.254.169.254",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", INSIDE)
def test_inside_is_for_those_who_may(text):
    address = ipaddress.ip_address(text)
    addresses.check(address, private=True, host="x")
    with pytest.raises(AddressDenied):
        addresses.check(address, private=False, host="x")


@pytest.mark.parametrize("text", NEVER)
def test_some_doors_are_for_nobody(text):
    with pytest.raises(AddressDenied):
        addresses.check(ipaddress.ip_address(text), private=True, host="x")


@pytest.mark.parametrize("text", PUBLIC)
def test_the_internet_is_for_everybody(text):
    addresses.check(ipaddress.ip_address(text), private=False, host="x")


@given(st.ip_addresses())
def test_what_only_wraps_an_address_is_judged_as_it(address):
    if address.version == 4:
        wrapped = ipaddress.ip_address(f"::ffff:{address}")
        assert addresses.is_public(wrapped) == addresses.is_public(address)
        assert addresses.is_forbidden(wrapped) == addresses.is_forbidden(address)


def is_private(host, allowed=()):
    return asyncio.run(addresses.is_private(host, 443, allowed))


def test_registries_of_this_machine_are_known_by_their_names():
    assert is_private("localhost")
    assert is_private("127.0.0.1")
    assert not is_private("1.1.1.1")


def test_other_registries_inside_must_be_allowed():
    with pytest.raises(PermissionDeniedError, match=r"10\.1\.2\.3") as caught:
        is_private("10.1.2.3")
    assert "private_registries" in caught.value.hint
    assert is_private("10.1.2.3", ["10.1.2.3"])
    assert is_private("10.1.2.3", ["10.1.2.3:443"])
    assert is_private("10.1.2.3", ["*"])
    with pytest.raises(PermissionDeniedError):
        is_private("10.1.2.3", ["10.1.2.3:5000"])
    with pytest.raises(PermissionDeniedError):
        is_private("169.254.169.254", ["*"])


def test_a_registry_without_an_address():
    with pytest.raises(ConnectionError, match="has no address") as caught:
        is_private("registry.invalid")
    assert caught.value.hint


def test_names_are_judged_by_where_a_connection_would_go():
    async def inside():
        found = await Guard(private=True).resolve("localhost", 80)
        assert {each["host"] for each in found} <= {"127.0.0.1", "::1"}
        with pytest.raises(AddressDenied):
            await Guard(private=False).resolve("localhost", 80)

    asyncio.run(inside())
