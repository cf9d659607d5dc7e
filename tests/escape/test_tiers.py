"""The probes as a function of the platform, in every tier that this machine can do: is the table of promises right?

What runs is a user's function, in a container as any other. Beside it runs another container, whose files and name the
probes know. After the containers have ended, the outside must be as it was.
"""

import json
import re
from pathlib import Path

import pytest

from jitney.compose import registry
from jitney.testing.probes import table, targets
from jitney.testing.probes.probe import TIERS
from tests.e2e.platforms import Platform
from tests.escape.outside import outside

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
RUN_S = 240
MEMORY_LIMIT_MIB = 512
DISK_LIMIT_MIB = 256

# In some tiers the containers of one module share a wall: then the neighbour is of another module.
SHARED = ("oci", "gvisor")
NEIGHBOUR = """
    import os

    import jitney

    app = jitney.App("attack")

    @app.function()
    def neighbour(content):
        for path in ("/tmp/jitney-neighbour", os.path.abspath("jitney-neighbour")):
            try:
                with open(path, "wb") as file:
                    file.write(content)
            except OSError:
                continue
            yield path, os.environ["JITNEY_TASK_ID"]
        while True:
            yield "", ""
"""
PROGRAM = """
    import dataclasses
    import os
    import sys

    {neighbour}

    image = jitney.Image.debian_slim().add_local_python_source({modules})

    @app.function(image=image, memory=(128, {memory}), timeout={timeout}, ephemeral_disk={disk},
                  single_use_containers=True)
    def attack(tier, told, names):
        from jitney.runner import state
        from jitney.testing.probes import run, targets

        known = targets.from_json(told)
        with open(__file__, "rb") as file:
            mine = targets.Canary("source", os.path.abspath(__file__), targets.digest(file.read()))
        canaries = (*known.canaries, mine)
        known = dataclasses.replace(known, runner_socket=state.config["runner_socket"], canaries=canaries)
        return run.report(tier, run.run(tier, known, names))

    @app.local_entrypoint()
    def main(tier: str, told: str, report: str):
        import json
        from jitney.testing.probes import targets
        from jitney.testing.probes.probe import all_probes

        with open(told) as file:
            known = targets.from_json(file.read())
        content = os.urandom(32)
        beside = neighbour.remote_gen(content)
        files = [next(beside)]
        more = next(beside)
        if more[0]:
            files.append(more)
        canaries = [targets.Canary("neighbour", path, targets.digest(content)) for path, _ in files]
        known = dataclasses.replace(known, canaries=(*known.canaries, *canaries), container=files[0][1])
        plain = [one.name for one in all_probes() if not one.limit]
        found = attack.remote(tier, known.to_json(), plain)
        for one in all_probes():
            if one.limit:  # alone: a container that is out of memory is ended, with all that it has found
                try:
                    found["results"] += attack.remote(tier, known.to_json(), [one.name])["results"]
                except Exception as error:
                    verdict = "limited" if "out of memory" in str(error) or "out of disk" in str(error) else "skipped"
                    found["results"].append({{"name": one.name, "verdict": verdict, "detail": str(error)}})
        beside.close()
        for path, _ in files:
            if os.path.exists(path) and tier == "process":
                os.unlink(path)
        with open(report, "w") as file:
            json.dump(found, file)
"""

# The promise is of the tier; what holds it is not there on every machine. Such a row proves nothing rather than breaks.
PROVES_NOTHING_WITHOUT = {"resources.": "a limit", "network.control_plane": "an address", "kernel.thirty_two": "x86"}


# What `jitney doctor` calls a limit, and what the probes do. gVisor's are not of control groups.
LIMITS = {"memory": ("memory", "shared memory"), "processes": ("processes",), "disk": ("disk",)}
OWN_LIMITS = ("gvisor",)


def tier_in_force(platform):
    """The tier that `jitney doctor` says is in force, or why there is none; and the limits that hold."""
    findings = platform.jitney("doctor", "--json", code=None).json()
    said = {one["id"]: one for one in findings}
    runtime, groups = said["runtime"], said["cgroups"]["what"]
    if "it cannot be had" in runtime["why"]:
        return "", runtime["why"], ()
    tier = re.search(r"tier in force: (\w+)", runtime["what"])[1]
    held = ", ".join(re.findall(r"([\w, ]+) limits are enforced", groups)) if tier not in OWN_LIMITS else ""
    names = [name for word, names in LIMITS.items() if word in held for name in names]
    return tier, runtime["what"], ("files", *names)


@pytest.fixture(params=registry.names("runtime"))
def walled(request, tmp_path, monkeypatch):
    """A platform with each runtime that there is: (platform, tier, limits)."""
    monkeypatch.setenv("JITNEY_RUNTIME", request.param)
    platform = Platform(tmp_path)
    platform.environment["JITNEY_RUNTIME"] = request.param
    try:
        tier, text, limits = tier_in_force(platform)
        if not tier:
            pytest.skip(f"the {request.param} runtime cannot work here: {text[:300]}")
        assert tier in TIERS
        yield platform, tier, limits
        platform.end()
    finally:
        platform.clean()


def test_every_probe_finds_what_its_tier_promises(walled, tmp_path):
    platform, tier, limits = walled
    neighbour, modules = NEIGHBOUR.strip(), ""
    if tier in SHARED:
        platform.write("beside.py", NEIGHBOUR)
        neighbour, modules = "import os\n    import jitney\n    from beside import app, neighbour", "'beside'"
    bounds = {"memory": MEMORY_LIMIT_MIB, "disk": DISK_LIMIT_MIB, "timeout": RUN_S}
    filled = PROGRAM.format(neighbour=neighbour, modules=modules, **bounds)
    platform.write("attack.py", filled)
    platform.home.root.mkdir(parents=True, exist_ok=True)
    told, report = tmp_path / "told.json", tmp_path / "report.json"
    with outside(platform.home.root) as made:
        source = next(iter(made.contents))
        assert source.exists()
        told.write_text(made.targets(limits=limits).to_json())
        flags = ["--tier", tier, "--told", str(told), "--report", str(report)]
        platform.jitney("run", "attack.py", *flags, timeout=RUN_S)
        rows = table.compare([json.loads(Path(report).read_text())])
        assert table.differences(rows) == [], "\n".join(table.lines(rows))
        nothing = {row.name: row.detail for row in rows if row.is_as_expected is None}
        if tier != "process":  # where nothing is promised, nothing need be proved
            assert [name for name in nothing if not name.startswith(tuple(PROVES_NOTHING_WITHOUT))] == []
        platform.jitney("down")
        assert all(made.untouched().values()), "something outside was changed"
        assert targets.namespaces_of() == made.targets().namespaces
