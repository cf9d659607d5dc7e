"""Which addresses may be spoken to: names of images come from users, and redirects from whoever answers.

Two kinds of doors are never knocked at: link-local addresses (where clouds hand out credentials), and, unless the
registry itself is at such an address and was allowed to be, everything that is not public. The check is made on the
addresses that a connection is then made to, so a name that changes its mind between the two wins nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult

from jitney.errors import ConnectionError as UnavailableError
from jitney.errors import PermissionDeniedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOOPBACK_NAMES = frozenset({"localhost"})
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressDenied(OSError):
    """An address that may not be spoken to."""


def real(address: Address) -> Address:
    """The IPv4 address that an IPv6 address may only wrap."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if wrapped is None and address in NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return wrapped or address
    return address


def is_public(address: Address) -> bool:
    """Whether it is of the internet."""
    address = real(address)
    return address.is_global and not address.is_multicast


def is_forbidden(address: Address) -> bool:
    """Whether nobody may ask for it at all."""
    address = real(address)
    is_metadata = address == ipaddress.ip_address("fd00:ec2::254")
    return address.is_link_local or address.is_multicast or address.is_unspecified or is_metadata


def literal(host: str) -> Address | None:
    """The address, if the host is written as one."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def is_loopback_name(host: str) -> bool:
    """Whether it means this machine, whatever a name server says."""
    address = literal(host)
    return host in LOOPBACK_NAMES or (address is not None and real(address).is_loopback)


def check(address: Address, *, private: bool, host: str) -> None:
    """Nothing, if it may be spoken to.

    Raises:
        AddressDenied: it may not.
    """
    if is_forbidden(address) or not (private or is_public(address)):
        raise AddressDenied(f"{host} is at {address}, which is not a public address")


class Guard(AbstractResolver):
    """Resolves names to addresses that may be spoken to."""

    def __init__(self, *, private: bool) -> None:
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As of aiohttp."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, where in found:
            address = literal(str(where[0]))
            if address is None:
                continue
            check(address, private=self._private, host=host)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(where[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """As of aiohttp."""


async def is_private(host: str, port: int, allowed: Collection[str]) -> bool:
    """Whether a registry is at an address that is not public, and may be.

    Raises:
        ConnectionError: it has no address.
        PermissionDeniedError: it may not be.
    """
    try:
        known = literal(host)
        if known is None:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            addresses = [address for each in found if (address := literal(str(each[4][0])))]
        else:
            addresses = [known]
    except OSError as error:
        raise UnavailableError(
            f"the registry {host!r} has no address ({error.strerror or error})",
            hint="check its name and this machine's network; an image from an archive needs none",
        ) from None
    if any(is_forbidden(address) for address in addresses):
        raise PermissionDeniedError(f"{host!r} is at an address that no registry may have", hint="check its name")
    if all(is_public(address) for address in addresses):
        return False
    if "*" in allowed or {host, f"{host}:{port}"} & set(allowed) or is_loopback_name(host):
        return True
    raise PermissionDeniedError(
        f"the registry {host!r} is at {addresses[0]}, which is not a public address",
        hint="if it is yours, have the administrator add it to the worker's `private_registries`",
    )
