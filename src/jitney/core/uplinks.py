"""Which way out of walls a machine has: the best of what is there, or why there is none.

Measured for one hub: the kernel's own routing costs nothing per packet and is ready in 20 ms; slirp4netns is ready in 6
ms, pasta in 25 ms, and both carry each packet through a process.
"""

from __future__ import annotations

import msgspec


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on the machine. `slirp4netns` and `pasta` are paths; "" = not installed."""

    administers_network: bool  # CAP_NET_ADMIN over the machine's own network
    root: bool = False
    packet_rules: bool = False  # the kernel has nf_tables
    tun: bool = False  # /dev/net/tun opens
    slirp4netns: str = ""
    pasta: str = ""


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """The driver to take: "veth", "slirp4netns", "pasta" or "none", with the reason and what would change it."""

    name: str
    path: str = ""
    why: str = ""
    remedy: str = ""


def choose(found: Surroundings) -> Uplink:
    """The best way out."""
    if found.administers_network and found.packet_rules:
        return Uplink(name="veth", why="root, and nf_tables in the kernel")
    without = "the kernel has no nf_tables" if found.administers_network else "the worker does not run as root"
    # pasta gives up root before it enters the wall, and then may not.
    programs = {"slirp4netns": found.slirp4netns, "pasta": "" if found.root else found.pasta}
    installed = {name: path for name, path in programs.items() if path}
    if not installed:
        return Uplink(
            name="none",
            why=f"{without}, and no program that carries packets is installed",
            remedy="install slirp4netns (apt-get install slirp4netns, dnf install slirp4netns)",
        )
    if not found.tun:
        return Uplink(
            name="none",
            why=f"{without}, and {next(iter(installed))} cannot open /dev/net/tun",
            remedy="let users open it: chmod 666 /dev/net/tun, as most distributions have it",
        )
    name, path = next(iter(installed.items()))
    return Uplink(name=name, path=path, why=f"{without}; {name} carries packets")
