"""Addresses that stand for names: one each, the one that was not asked for longest is used again."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Network


class NameTable:
    """Both ways between names and addresses of a network."""

    def __init__(self, network: str) -> None:
        self._network = IPv4Network(network)
        self._size = self._network.num_addresses - 2
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._names: dict[int, str] = {}

    def address_of(self, name: str) -> str:
        """The address that stands for a name from now on."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) < self._size:
                number = len(self._numbers) + 1
            else:
                _, number = self._numbers.popitem(last=False)
            self._numbers[name] = number
            self._names[number] = name
        self._numbers.move_to_end(name)
        return str(self._network[number])

    def name_of(self, address: str) -> str | None:
        """What an address stands for."""
        try:
            number = int.from_bytes(bytes(map(int, address.split("."))), "big") - int(self._network.network_address)
        except ValueError:
            return None
        return self._names.get(number)
