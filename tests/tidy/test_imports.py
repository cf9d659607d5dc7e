"""The arrows between packages, and the weight of `import jitney`."""

import configparser
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "jitney"

# Anyone who imports the SDK pays for these, in time and in memory, in every container.
HEAVY = {"aiohttp", "asyncio", "click", "cloudpickle", "msgspec", "numpy", "rich", "sqlite3", "uvloop"}


def _exists(module: str) -> bool:
    path = ROOT / "src" / Path(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _for_the_house_as_it_stands(text: str) -> configparser.ConfigParser:
    """The contracts without the rooms that are not built yet, which import-linter would refuse to hear of."""
    contracts = configparser.ConfigParser()
    contracts.read_string(text)
    for section in contracts.sections():
        rules = contracts[section]
        for option in (
            "source_modules",
            "forbidden_modules",
            "protected_modules",
            "allowed_importers",
            "modules",
        ):
            names = rules.get(option, "").split()
            kept = [n for n in names if not n.startswith("jitney.") or _exists(n.split(".*")[0])]
            if names and not kept:
                contracts.remove_section(section)
                break
            if names:
                rules[option] = "\n" + "\n".join(kept)
        if "layers" in rules:
            rules["layers"] = re.sub(
                r"\(?(\w+)\)?",
                lambda m: m[1] if _exists(f"jitney.{m[1]}") else f"({m[1]})",
                rules["layers"],
            )
    return contracts


def test_arrows_point_down(tmp_path):
    config = tmp_path / "contracts.ini"
    with config.open("w") as file:
        _for_the_house_as_it_stands((ROOT / ".importlinter").read_text()).write(file)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
    done = subprocess.run(
        [*command, "--config", str(config), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_sdk_is_light():
    code = (
        f"import sys; before = set(sys.modules); import jitney; print(*sorted({HEAVY!r} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_declaring_an_image_is_light_too():
    code = "import sys, jitney; jitney.Image.debian_slim().pip_install('x'); print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_every_public_name_says_what_it_gives():
    jitney = pytest.importorskip("jitney")
    undocumented = []
    for name in getattr(jitney, "__all__", ()):
        thing = getattr(jitney, name)
        described = inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)
        # An inherited docstring says what the parent gives.
        own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        if described and not own:
            undocumented.append(name)
    assert not undocumented
