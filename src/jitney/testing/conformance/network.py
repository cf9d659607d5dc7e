"""What every network driver must do. Numbers in the names are those of the sentences in ports.network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from jitney.core.egress import PODS_MAX, address_of
from jitney.ports.network import HubPlan, Names, Network, NetworkFailed, OnRefused

NO_PROCESS = 2**22 + 1  # above every process number that the kernel gives
PLAN = HubPlan(subnet="198.18.0.0/23", gateway="198.18.0.1")
A, B = address_of(PLAN, 0), address_of(PLAN, 1)


class NetworkContract:
    """Subclass, and say how a driver and a hub are made, and what is to be seen of either from outside."""

    def make(self) -> Network:
        """A driver; all of them have the same owner."""
        raise NotImplementedError

    def hub(self) -> int:
        """The process of a new hub."""
        raise NotImplementedError

    def end(self, pid: int) -> None:
        """A hub ends."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """Names of what there is on the machine that a driver made."""
        raise NotImplementedError

    def perform(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario, on a machine that may be changed."""
        asyncio.run(scenario())

    def test_1_hubs_have_plans_that_do_not_meet(self) -> None:
        async def scenario() -> None:
            network = self.make()
            plans = [await network.connect(name, self.hub()) for name in ("a", "b", "c")]
            for plan in plans:
                own = [plan.gateway, plan.next_hop, plan.address or plan.gateway, *plan.resolvers]
                pods = {address_of(plan, number) for number in (0, PODS_MAX - 1)}
                assert IPv4Address(plan.gateway) in IPv4Network(plan.subnet)
                assert not pods & set(own)
                assert plan.mtu >= 576
                assert bool(plan.uplink) == bool(plan.next_hop) == network.capabilities().outbound
            assert network.capabilities().outbound or network.capabilities().remedy
            await network.close()
            assert self.left() == []

        self.perform(scenario)

    def test_1_a_hub_has_one_uplink(self) -> None:
        async def scenario() -> None:
            network, pid = self.make(), self.hub()
            assert await network.connect("a", pid) == await network.connect("a", pid)
            await network.disconnect("a")
            assert self.left() == []

        self.perform(scenario)

    def test_1_what_cannot_be_connected_leaves_nothing(self) -> None:
        async def scenario() -> None:
            network = self.make()
            if not network.capabilities().outbound:
                return
            with pytest.raises(NetworkFailed):
                await network.connect("gone", NO_PROCESS)
            assert self.left() == []
            pid = self.hub()
            await network.connect("a", pid)
            before = self.left()
            with pytest.raises(NetworkFailed):
                await network.connect("gone", NO_PROCESS)
            assert self.left() == before
            await network.close()
            assert self.left() == []

        self.perform(scenario)

    def test_1_our_own_namespace_is_no_hub(self) -> None:
        async def scenario() -> None:
            network = self.make()
            if not network.capabilities().outbound or network.capabilities().name == "fake":
                return
            with pytest.raises(NetworkFailed, match="own"):
                await network.connect("self", os.getpid())
            assert self.left() == []

        self.perform(scenario)

    def test_2_disconnecting_is_idempotent(self) -> None:
        async def scenario() -> None:
            network = self.make()
            await network.disconnect("never")
            await network.connect("a", self.hub())
            await network.disconnect("a")
            await network.disconnect("a")
            assert self.left() == []
            await network.connect("a", self.hub())
            await network.close()
            await network.close()
            assert self.left() == []

        self.perform(scenario)

    def test_2_a_hub_that_has_ended_is_cleaned_up(self) -> None:
        async def scenario() -> None:
            network, pid = self.make(), self.hub()
            await network.connect("a", pid)
            self.end(pid)
            await network.disconnect("a")
            assert self.left() == []

        self.perform(scenario)

    def test_2_what_an_earlier_run_left_is_removed_and_ours_is_not(self) -> None:
        async def scenario() -> None:
            earlier = self.make()
            await earlier.connect("a", self.hub())
            await earlier.connect("b", self.hub())
            later = self.make()  # the earlier one is never closed, as after a crash
            await later.reap()
            if later.capabilities().name not in ("fake", "slirp4netns"):  # these end with their owner
                assert self.left() == []
            await later.connect("c", self.hub())
            ours = self.left()
            assert await later.reap() == 0
            assert self.left() == ours
            await later.close()
            await earlier.close()
            assert self.left() == []

        self.perform(scenario)

    def test_2_a_hundred_hubs_leave_nothing(self) -> None:
        async def scenario() -> None:
            network = self.make()
            for number in range(100):
                pid = self.hub()
                await network.connect(f"hub{number}", pid)
                if number % 2:
                    self.end(pid)
                await network.disconnect(f"hub{number}")
                if not number % 2:
                    self.end(pid)
            assert self.left() == []

        self.perform(scenario)


class NamesContract:
    """Subclass, and say how a driver and a hub are made, and how a container asks."""

    def make(self, on_refused: OnRefused) -> Names:
        """A driver."""
        raise NotImplementedError

    def hub(self) -> int:
        """The process of a new hub, set up by PLAN, in which containers A and B are."""
        raise NotImplementedError

    def asks(self, names: Names, address: str, name: str) -> Awaitable[bool]:
        """Whether the container of this address gets an answer with an address for a name."""
        raise NotImplementedError

    def perform(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario, on a machine that may be changed."""
        asyncio.run(scenario())

    def test_4_a_container_may_ask_for_what_it_lists(self) -> None:
        async def scenario() -> None:
            refused: list[tuple[str, str, str]] = []
            names = self.make(lambda r: refused.append((r.hub_id, r.address, r.name)))
            await names.open("hub", self.hub(), PLAN)
            await names.admit("hub", A, ["ok.example.com", "*.wild.example.com"])
            await names.admit("hub", B, ["other.example.com"])
            assert await self.asks(names, A, "ok.example.com")
            assert await self.asks(names, A, "x.wild.example.com")
            assert not await self.asks(names, A, "other.example.com")
            assert not await self.asks(names, A, "wild.example.com")
            assert await self.asks(names, B, "other.example.com")
            assert not await self.asks(names, B, "ok.example.com")
            assert set(refused) == {
                ("hub", A, "other.example.com"),
                ("hub", A, "wild.example.com"),
                ("hub", B, "ok.example.com"),
            }
            await names.close()

        self.perform(scenario)

    def test_4_who_is_not_admitted_gets_no_answer(self) -> None:
        async def scenario() -> None:
            names = self.make(lambda _: None)
            await names.open("hub", self.hub(), PLAN)
            assert not await self.asks(names, A, "ok.example.com")
            await names.admit("hub", A, ["ok.example.com"])
            assert await self.asks(names, A, "ok.example.com")
            await names.admit("hub", A, ["other.example.com"])  # the address is another container's now
            assert not await self.asks(names, A, "ok.example.com")
            await names.forget("hub", A)
            assert not await self.asks(names, A, "other.example.com")
            await names.close()

        self.perform(scenario)

    def test_7_only_open_hubs_admit_and_ending_is_idempotent(self) -> None:
        async def scenario() -> None:
            names = self.make(lambda _: None)
            with pytest.raises(NetworkFailed, match="not open"):
                await names.admit("hub", A, ["ok.example.com"])
            with pytest.raises(NetworkFailed):
                await names.open("gone", 0, PLAN)
            pid = self.hub()
            await names.open("hub", pid, PLAN)
            await names.open("hub", pid, PLAN)
            for _ in range(2):
                await names.forget("hub", A)
                await names.shut("hub")
            with pytest.raises(NetworkFailed, match="not open"):
                await names.admit("hub", A, ["ok.example.com"])
            await names.close()
            await names.close()

        self.perform(scenario)
