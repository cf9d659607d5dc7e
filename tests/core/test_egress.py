"""A policy as routes: a destination is reached if, and only if, the policy allows it."""

from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core import egress
from jitney.core.egress import NAMES, NEVER, PODS_MAX, Route, reaches, routes_to
from jitney.core.uplinks import Surroundings, choose
from jitney.values.network import HubPlan, NetworkPolicy

PLAN = HubPlan(
    subnet="198.18.6.0/23",
    gateway="198.18.6.1",
    next_hop="198.18.6.2",
    uplink="up0",
    resolvers=("9.9.9.9",),
    refused=("192.168.7.7/32",),
)
CUT_OFF = HubPlan(subnet="198.18.6.0/23", gateway="198.18.6.1")

addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
networks = st.tuples(addresses, st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False))
# Near one another, so that they meet: few bits in which they differ.
close = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda pair: IPv4Network((IPv4Address("10.1.2.0") + pair[0], pair[1]), strict=False)
)
some = st.lists(st.one_of(networks, close).map(str), max_size=6)


def near(cidrs):
    """Addresses at the borders of networks, where mistakes are."""
    found = {IPv4Address("10.1.2.77")}
    for network in map(IPv4Network, cidrs):
        for edge in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
            if 0 <= edge < 2**32:
                found.add(IPv4Address(edge))
    return found


@given(some, some, addresses)
def test_reached_is_what_is_allowed_and_not_refused(allowed, refused, anywhere):
    routes = routes_to(allowed, refused)
    for address in {anywhere, *near(allowed + refused)}:
        wanted = any(address in ip_network(a) for a in allowed) and not any(address in ip_network(r) for r in refused)
        assert reaches(routes, address) == wanted, address


@given(some, some)
def test_no_route_can_be_left_out(allowed, refused):
    routes = routes_to(allowed, refused)
    for left_out in routes:
        others = [route for route in routes if route != left_out]
        edges = near([route.cidr for route in routes])
        assert any(reaches(others, address) != reaches(routes, address) for address in edges), left_out


@given(some, some, st.lists(st.integers(0, 2**32 - 1).map(lambda n: f"{IPv4Address(n)}/32"), max_size=3), addresses)
def test_what_is_besides_is_reached_in_any_case(allowed, refused, besides, anywhere):
    routes = routes_to(allowed, refused, besides)
    for address in {anywhere, *near(allowed + refused + besides)}:
        wanted = any(address in ip_network(a) for a in allowed) and not any(address in ip_network(r) for r in refused)
        assert reaches(routes, address) == (wanted or f"{address}/32" in besides), address


@given(some.filter(bool), addresses)
def test_a_list_of_networks_never_leads_to_what_is_always_refused(cidrs, anywhere):
    found = egress.egress(NetworkPolicy(cidrs=tuple(cidrs)), PLAN, 0)
    for address in {anywhere, *near([*cidrs, *NEVER, *PLAN.refused])}:
        refused = any(address in ip_network(no) for no in (*NEVER, *PLAN.refused))
        allowed = any(address in ip_network(cidr) for cidr in cidrs)
        assert reaches(found.routes, address) == (allowed and not refused)


def test_open():
    found = egress.egress(NetworkPolicy(), PLAN, 3)
    assert (found.address, found.gateway, found.resolvers, found.names) == (
        "198.18.6.19",
        "198.18.6.1",
        ("9.9.9.9",),
        None,
    )
    for refused in (
        "169.254.169.254",
        "198.18.6.20",
        "198.18.6.2",
        "100.100.100.200",
        "192.168.7.7",
        "255.255.255.255",
    ):
        assert not reaches(found.routes, IPv4Address(refused))
    for allowed in ("1.1.1.1", "192.168.7.8", "10.0.0.1"):
        assert reaches(found.routes, IPv4Address(allowed))


def test_a_name_server_beside_the_uplink_is_reached_by_open_containers_only():
    plan = HubPlan(subnet="198.18.6.0/23", gateway="198.18.6.1", uplink="up0", resolvers=("198.18.6.3",))
    assert reaches(egress.egress(NetworkPolicy(), plan, 0).routes, IPv4Address("198.18.6.3"))
    assert egress.hub_message(plan)["beside"] == ["198.18.6.3"]
    assert egress.hub_message(PLAN)["beside"] == []
    listed = egress.egress(NetworkPolicy(cidrs=("198.18.0.0/15", "8.0.0.0/8")), plan, 0)
    assert listed.routes == (Route("8.0.0.0/8"),)
    assert listed.resolvers == ()
    assert "no name server" in egress.resolver_file(listed)


def test_without_name_servers_the_hub_answers():
    plan = HubPlan(subnet="198.18.6.0/23", gateway="198.18.6.1", uplink="up0")
    found = egress.egress(NetworkPolicy(), plan, 0)
    assert (found.resolvers, found.names) == (("198.18.6.1",), ("*",))


def test_blocked_has_no_interface():
    assert egress.egress(NetworkPolicy(blocked=True), PLAN, 0) == egress.Egress()
    assert egress.egress(NetworkPolicy(), None, 0) == egress.Egress()
    assert egress.pod_message(egress.Egress(), 5)["link"] == ""


@pytest.mark.parametrize("policy", [NetworkPolicy(cidrs=()), NetworkPolicy(cidrs=(), domains=())])
def test_an_empty_list_allows_nothing(policy):
    routes = egress.egress(policy, PLAN, 0).routes
    assert {route.cidr for route in routes} <= {NAMES}


def test_domains_lead_to_the_hub_alone():
    found = egress.egress(NetworkPolicy(domains=("pypi.org",), cidrs=("10.0.0.0/8",)), PLAN, 0)
    assert found.routes == (Route("10.0.0.0/8"), Route(NAMES))
    assert (found.resolvers, found.names, found.cidrs) == (("198.18.6.1",), ("pypi.org",), ("10.0.0.0/8",))
    assert egress.resolver_file(found).startswith("nameserver 198.18.6.1\n")


def test_without_an_uplink_only_names_are_reached():
    assert egress.egress(NetworkPolicy(), CUT_OFF, 0).routes == ()
    assert egress.egress(NetworkPolicy(cidrs=("10.0.0.0/8",)), CUT_OFF, 0).routes == ()
    assert egress.egress(NetworkPolicy(domains=("pypi.org",)), CUT_OFF, 0).routes == (Route(NAMES),)


def test_ipv6_does_not_lead_out():
    assert egress.egress(NetworkPolicy(cidrs=("2001:db8::/32",)), PLAN, 0).routes == ()


def test_addresses_of_a_hub_are_its_own():
    numbers = [egress.address_of(PLAN, number) for number in range(PODS_MAX)]
    assert len(set(numbers)) == PODS_MAX
    assert all(IPv4Address(address) in IPv4Network(PLAN.subnet) for address in numbers)
    assert not {PLAN.gateway, PLAN.next_hop, "198.18.7.255"} & set(numbers)
    with pytest.raises(AssertionError):
        egress.address_of(PLAN, PODS_MAX)


@pytest.mark.parametrize(
    "address, may",
    [
        ("93.184.216.34", True),
        ("2606:4700::1", True),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("192.168.7.7", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_where_a_name_may_lead(address, may):
    assert egress.may_stand_for_a_name(address, (), PLAN.refused) == may


def test_a_private_address_of_a_name_must_be_listed_itself():
    assert egress.may_stand_for_a_name("10.1.2.3", ("10.0.0.0/8",), ())
    assert not egress.may_stand_for_a_name("10.1.2.3", ("10.0.0.0/8",), ("10.1.2.3/32",))
    assert not egress.may_stand_for_a_name("169.254.169.254", ("169.254.0.0/16",), ())
    assert egress.may_stand_for_a_name("fd12::1", ("fd12::/16",), ())


def test_name_servers_of_a_file():
    text = "# x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 9.9.9.9\nnameserver 8.8.8.8\nsearch x\nnameserver\n"
    assert egress.nameservers(text) == ("127.0.0.53", "::1", "9.9.9.9")
    assert egress.usable_resolvers(text, ()) == ("9.9.9.9",)
    assert egress.usable_resolvers("nameserver 168.63.129.16\nnameserver bad\n", ()) == ()
    assert egress.usable_resolvers("nameserver 10.0.0.2\n", ("10.0.0.2/32",)) == ()


def test_hosts_file():
    found = egress.egress(NetworkPolicy(), PLAN, 0)
    assert "198.18.6.16\tbox\n" in egress.hosts_file(found, "box")
    assert "127.0.1.1\tbox\n" in egress.hosts_file(egress.Egress(), "box")


@pytest.mark.parametrize(
    "found, name, says",
    [
        ({"administers_network": True, "packet_rules": True, "slirp4netns": "/s", "tun": True}, "veth", "root"),
        ({"administers_network": True, "root": True, "slirp4netns": "/s", "tun": True}, "slirp4netns", "nf_tables"),
        ({"administers_network": False, "slirp4netns": "/s", "pasta": "/p", "tun": True}, "slirp4netns", "root"),
        ({"administers_network": False, "pasta": "/p", "tun": True}, "pasta", "root"),
        ({"administers_network": True, "root": True, "pasta": "/p", "tun": True}, "none", "nf_tables"),
        ({"administers_network": False, "pasta": "/p"}, "none", "/dev/net/tun"),
        ({"administers_network": False, "tun": True}, "none", "installed"),
    ],
)
def test_the_best_way_out_is_chosen_and_says_why(found, name, says):
    uplink = choose(Surroundings(**found))
    assert uplink.name == name
    assert says in uplink.why
    assert bool(uplink.remedy) == (name == "none")
