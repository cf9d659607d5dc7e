"""What this machine has for ways out of walls."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from jitney.core.uplinks import Surroundings
from jitney.runner.wall import nftables

_CAP_NET_ADMIN = 12


def look() -> Surroundings:
    """Look at privileges, the kernel, programs."""
    administers = _administers_network()
    return Surroundings(
        administers_network=administers,
        root=os.geteuid() == 0,
        packet_rules=administers and _has_packet_rules(),
        tun=_opens_tun(),
        slirp4netns=shutil.which("slirp4netns") or "",
        pasta=shutil.which("pasta") or "",
    )


def _administers_network() -> bool:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_NET_ADMIN & 1)


def _has_packet_rules() -> bool:
    if not hasattr(socket, "AF_NETLINK"):
        return False
    try:
        nftables.chains_of("jitney")
    except OSError:
        return False
    return True


def _opens_tun() -> bool:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError:
        return False
    return True
