"""Docs are whole: everything public is in them, their links resolve, and the generated pages are current."""

import importlib.util
import inspect
import re
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "tools" / "gen_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(generator):
    return {path.name: text for path, text in generator.render().items()}


def test_generated_pages_are_current(generator):
    stale = [path.name for path, text in generator.render().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run `make docs`"


def test_every_command_and_option_is_documented(generator, reference):
    from jitney.cli.main import cli

    page, missing = reference["cli.md"], []
    for path, command in generator.commands(cli, "jitney"):
        section = page.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
        if not section:
            missing.append(path)
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                missing += [f"{path} {name}" for name in option.opts if f"`{name}`" not in section]
    assert not missing


def test_every_command_and_option_says_what_it_does(generator):
    from jitney.cli.main import cli

    silent = []
    for path, command in generator.commands(cli, "jitney"):
        if not command.help:
            silent.append(path)
        if not isinstance(command, click.Group) and path != "jitney" and "Example" not in (command.help or ""):
            silent.append(f"{path}: no example")
        silent += [
            f"{path} {option.opts[0]}"
            for option in command.params
            if isinstance(option, click.Option) and not option.help
        ]
    assert not silent


def test_the_list_of_commands_says_what_the_commands_say():
    from jitney.cli.main import COMMANDS, cli

    context = click.Context(cli)
    for name, (_, text) in COMMANDS.items():
        assert cli.get_command(context, name).help.startswith(text.removesuffix(".").split(" (")[0]), name


def test_every_option_of_the_configuration_is_documented(reference):
    from jitney.compose.config import WHERE, fields

    page = reference["configuration.md"]
    assert not [field.name for field in fields() if f"| `{field.name}` |" not in page or field.env not in page]
    assert not [name for name in WHERE if name not in page]


def test_every_error_is_documented(reference):
    from jitney.errors import BY_CODE

    page = reference["errors.md"]
    assert not [code for code, kind in BY_CODE.items() if f"`{code}`" not in page or f"`{kind.__name__}`" not in page]


def test_every_method_is_documented(reference):
    from jitney.wire.methods import METHODS

    assert not [name for name in METHODS if f"## `{name}`" not in reference["http.md"]]


def test_every_public_name_is_documented(reference):
    import jitney

    page = reference["sdk.md"] + reference["errors.md"]
    assert not [
        name
        for name in jitney.__all__
        if not name.startswith("__") and not inspect.ismodule(getattr(jitney, name)) and f"`{name}`" not in page
    ]


def test_no_page_of_the_reference_shows_an_address(reference):
    assert not [name for name, text in reference.items() if re.search(r"0x[0-9a-f]{6,}", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def _anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    assert not [
        str(p.relative_to(DOCS)) for p in PAGES if p.name != "README.md" and str(p.relative_to(DOCS)) not in index
    ]


def test_the_glossary_is_in_order_and_says_each_word_once():
    words = re.findall(r"^\| (\w[\w ]*?) \|", (DOCS / "explanation" / "glossary.md").read_text(), re.MULTILINE)
    words.remove("Word")
    assert words == sorted(words, key=str.lower)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_code_blocks_are_python(page):
    if page.parent.name == "reference":
        return
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_commands_in_the_docs_exist(generator):
    from jitney.cli.main import cli

    known = dict(generator.commands(cli, "jitney"))
    unknown = []
    for page in PAGES:
        for line in re.findall(r"(?:^|`)(jitney [a-z][^`\n]*)", page.read_text(), re.MULTILINE):
            words = line.split()
            command = known.get(" ".join(words[:2]))
            is_group_with_a_word = isinstance(command, click.Group) and len(words) > 2 and words[2][0].islower()
            if command is None or (is_group_with_a_word and " ".join(words[:3]) not in known):
                unknown.append(f"{page.name}: {line}")
    assert not unknown
