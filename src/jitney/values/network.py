"""What a container may reach."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from jitney.errors import InvalidError

CIDRS_MAX = 100
DOMAINS_MAX = 100
_DOMAIN = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Outbound traffic of a container. Nothing can connect to it from outside.

    `blocked`: none at all. `cidrs` or `domains` given (also empty ones): only there; both: either. Both None: anywhere.
    Metadata addresses, the host's loopback, the control plane and other containers are refused in any case.
    A domain "*.example.com" stands for every name below example.com, and not for itself.
    """

    blocked: bool = False
    cidrs: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.blocked and (self.cidrs is not None or self.domains is not None):
            raise InvalidError("block_network and an outbound allowlist exclude each other")
        if len(self.cidrs or ()) > CIDRS_MAX or len(self.domains or ()) > DOMAINS_MAX:
            raise InvalidError(f"an allowlist may have {CIDRS_MAX} entries")
        for cidr in self.cidrs or ():
            try:
                ipaddress.ip_network(cidr)
            except ValueError as error:
                raise InvalidError(f"outbound_cidr_allowlist: {error}", hint="such as '10.1.0.0/16'") from None
        for domain in self.domains or ():
            if not _DOMAIN.fullmatch(domain):
                raise InvalidError(
                    f"outbound_domain_allowlist: {domain[:80]!r} is not a domain",
                    hint="such as 'pypi.org' or '*.pythonhosted.org', in lower case",
                )

    @property
    def is_open(self) -> bool:
        """Whether nothing but what is always refused is refused."""
        return not self.blocked and self.cidrs is None and self.domains is None


class HubPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The way out of one wall, and how its containers are numbered. Addresses as text; `subnet` as "198.18.6.0/23"."""

    subnet: str
    gateway: str  # of containers; an address of the hub itself
    resolvers: tuple[str, ...] = ()  # name servers that containers may ask; (): the hub's own, which must be opened
    mtu: int = 1500
    uplink: str = ""  # the interface in the hub's namespace that leads out; "" = nothing does
    next_hop: str = ""  # on that interface
    masquerade: bool = False  # the uplink knows no address but this one: "" or the hub's own on it
    address: str = ""  # of the hub on the uplink, where it is not the gateway
    refused: tuple[str, ...] = ()  # never reached, whatever a policy says (core.egress.NEVER is added)
