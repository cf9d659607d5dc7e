"""What `jitney doctor` says of walls: which tiers are possible, which is in force, and what would change that."""

from __future__ import annotations

import shutil

from jitney.compose import registry, tiers
from jitney.compose.config import Config
from jitney.compose.findings import Finding, ok, warning
from jitney.values.isolation import Isolation
from jitney.wire.home import Home


def tiers_possible(home: Home, config: Config) -> Finding:
    """Every tier, strictest first."""
    found = tiers.survey()
    text = ", ".join(f"{one.isolation.value} {'no' if one.why else 'yes'}" for one in found)
    lines = [
        f"{one.isolation.value}: {one.why}" + (f" ({one.remedy})" if one.remedy else "") for one in found if one.why
    ]
    return ok("tiers", text, "\n".join(lines))


def runtime(home: Home, config: Config) -> Finding:
    """The tier in force, and whether the policy allows it."""
    name = tiers.choose(config.worker.runtime)
    tier = Isolation(name)
    how = "the strictest that this machine can do" if config.worker.runtime == tiers.AUTO else "as configured"
    text = f"tier in force: {name} ({how}); lowest allowed: {config.server.isolation.value}"
    if not config.server.isolation.allows(tier):
        return warning(
            "runtime",
            text,
            "no container will be started: the policy asks for more than this machine's runtime gives",
            fix=f"`jitney config set runtime {config.server.isolation.value}`, where `tiers` says that it can be had",
        )
    (found,) = tiers.survey((tier,))
    if found.why:
        return warning("runtime", text, f"it cannot be had: {found.why}", fix=found.remedy)
    if tier in (Isolation.OCI, Isolation.GVISOR) and not tiers.builds_behind_walls(name):
        why = "images are built without a wall, as this machine can make none of our own: build only what you trust"
        return warning("runtime", text, why)
    if tier is Isolation.PROCESS:
        why = "there is no wall between containers and your files: run only code that you trust"
        return ok("runtime", text, why)
    return ok("runtime", text)


def control_groups(home: Home, config: Config) -> Finding:
    """Which limits of containers hold."""
    if tiers.choose(config.worker.runtime) == Isolation.PROCESS:
        return ok("cgroups", "not used by plain processes: memory limits are looked after, others are not enforced")
    can = registry.limiter(home, tune=False).capabilities()
    held = [name for name, holds in (("cpu", can.cpu), ("memory", can.memory), ("processes", can.pids)) if holds]
    text = f"{can.name}: {', '.join(held) or 'no'} limits are enforced; disk limits are enforced by looking"
    if tiers.choose(config.worker.runtime) == Isolation.GVISOR:
        text += "; they bound a sandbox, which is all containers of a template, and memory is looked at for each"
    if can.cpu and can.memory and can.pids:
        return ok("cgroups", text)
    return warning("cgroups", text, can.why, fix=can.remedy)


def network(home: Home, config: Config) -> Finding:
    """How containers reach the world."""
    if tiers.choose(config.worker.runtime) == Isolation.PROCESS:
        return ok("network", "containers use the machine's own network, and cannot be restricted")
    out = registry.network(home)
    if tiers.choose(config.worker.runtime) == Isolation.OCI:
        has_own = registry.network_for_others(out) is not None
        why = tiers.why_network_is_the_engines(config.worker.oci_network, has_own=has_own)
        if why:
            return _engines_network(config.worker.oci_network, why)
    can = out.capabilities()
    if tiers.choose(config.worker.runtime) == Isolation.GVISOR and registry.network_for_others(out) is None:
        why = "a sandbox of gVisor has links of ours, which only root can make"
        return warning("network", "containers have no network", why, fix=can.remedy or "run the worker as root")
    if can.outbound:
        rules = "addresses and domains" if can.domains else "addresses"
        return ok("network", f"{can.name}: outbound, restricted by {rules} where a function says so")
    return warning("network", "containers have no network", can.why, fix=can.remedy)


def _engines_network(name: str, why: str) -> Finding:
    if name == "none":
        return ok("network", "containers have no network: oci_network says so")
    return warning(
        "network",
        f"containers have a network of the engine's, as {why}",
        "it hides neither this machine's own addresses nor metadata addresses (credentials of a cloud) from them; "
        "a function that asks for a list of addresses or domains is refused",
        fix="run the worker and the engine as root, with `jitney config set oci_network auto`; "
        "or `jitney config set runtime namespaces`",
    )


def checkpoints(home: Home, config: Config) -> Finding:
    """Whether containers that cannot be forked can be restored."""
    runtime = tiers.choose(config.worker.runtime)
    can = registry.checkpointer().capabilities()
    if not can.possible:
        text = "not possible here: what cannot be forked imports its module in each container"
        return ok("checkpoints", text, can.why, fix=can.remedy)
    by = f"{can.name} {can.version}"
    if runtime != Isolation.PROCESS:
        text = f"{by} works here, but not for containers of the tier `{runtime}`"
        why = "CRIU cannot write down a process behind a wall: what cannot be forked imports its module each time"
        return ok("checkpoints", text, why, fix="for trusted code only: `jitney config set runtime process`")
    if not config.worker.checkpoints_mib:
        text = f"{by} works here, and `checkpoints_mib` is 0"
        return ok("checkpoints", text, fix="jitney config set checkpoints_mib 8192")
    text = f"experimental, by {by}: for functions with experimental_options={{'enable_checkpoint': True}}"
    if shutil.which("cuda-checkpoint") is None:
        return ok("checkpoints", text, "without what is on a GPU: there is no `cuda-checkpoint` in PATH")
    return ok("checkpoints", text)


def base(home: Home, config: Config) -> Finding:
    """What Image.debian_slim is made from."""
    asked = config.worker.base
    if asked == "debootstrap":
        tool = shutil.which("mmdebstrap") or shutil.which("debootstrap")
        if tool is None:
            return warning(
                "base",
                "Image.debian_slim cannot be made: neither mmdebstrap nor debootstrap is installed",
                fix="apt-get install mmdebstrap, or `jitney config set base host`",
            )
        return ok("base", f"Image.debian_slim is made by {tool}")
    if asked == "registry":
        return ok("base", f"Image.debian_slim is pulled from {config.worker.registry or 'Docker Hub'}")
    return ok("base", "Image.debian_slim is this machine's own file system, read only, without what is private")
