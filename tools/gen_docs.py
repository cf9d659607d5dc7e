"""Write docs/reference/ from the code: commands, options, errors, the SDK, the HTTP interface.

    python tools/gen_docs.py            write the pages
    python tools/gen_docs.py --check    fail when a page is not what would be written

Each page comes from the one place where the thing is defined, so that there is nothing to keep in step by hand.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
BANNER = "<!-- Written by tools/gen_docs.py: change the code, then run `make docs`. -->\n\n"
LINE_MAX = 110
# What a body of two colours gives to its caller, by what it gives to the descriptor.
COLOURS = (
    (r"AsyncGenerator\[Callable\[\[\], Iterable\[(.*)\]\], None\]$", r"Iterator[\1]"),
    (r"AsyncGenerator\[(.*), None\]$", r"Iterator[\1]"),
    (r"Coroutine\[Any, Any, (.*)\]$", r"\1"),
    (r"Talk\[(.*)\]$", r"\1"),
    (r"Pages\[(.*)\]$", r"Iterator[\1]"),
    (r"Callable\[\[\], (.*)\]$", r"\1"),
)

CONFIGURATION = """
# Configuration

Nothing has to be configured. An option's value comes from, the later the stronger: its default, the file `config.toml`
in the server's folder, the environment, a flag. `jitney config show` prints every value with its origin; `jitney config
set OPTION VALUE` writes the file. Wrong names and values are errors, all of them told at once. The server and its
worker read their options when they start.
"""
ERRORS = """
# Errors

All are in `jitney.errors` and derive from `JitneyError`. `message` says what happened, `hint` what to do next; `str()`
has both. Over HTTP an error is `{"code": ..., "message": ..., "hint": ...}` with the status below.
"""
SDK = """
# SDK

Everything here is `from jitney import ...`. What blocks has an async twin, `.aio`: `await f.remote.aio(x)`.
"""
HTTP = """
# HTTP interface

The server listens on the loopback address only (`server.json` in its folder has the port). Every method is
`POST /v1/<method>` with a JSON body, or msgpack where the `Content-Type` is `application/msgpack`, and
`Authorization: Bearer <token>`, the token being that of the server's folder. Where a method has events, the answer is a
stream: one JSON value a line, the last being `{"answer": ...}` or `{"error": ...}`. Bytes are base64 in JSON.

```
curl -s -X POST http://127.0.0.1:7117/v1/app.list \\
  -H "Authorization: Bearer $(cat ~/.jitney/token)" -d '{}'
```

An error has the status and the code of the [table of errors](errors.md). `GET /livez`, `GET /readyz` and `GET /version`
need no token.
"""

# ------------------------------------------------------------------------------------------------ cli


def cli_page() -> str:
    """Every command with its usage, options and examples."""
    from jitney.cli.main import EXIT_CODES, cli

    parts = [
        "# Command line\n\n`jitney COMMAND --help` prints the same.\n",
        "## Exit codes\n\n| Code | Meaning |\n| --- | --- |",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "\nErrors go to standard error: what, why, and what to do next. Data goes to standard output.\n",
    ]
    parts += [command_section(path, command) for path, command in commands(cli, "jitney")]
    return "\n".join(parts)


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """(path, command) of a command and of those below it, but for hidden ones."""
    if command.hidden:
        return
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from commands(found, f"{path} {name}")


def command_section(path: str, command: click.Command) -> str:
    """One command in Markdown."""
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `{path}`\n", f"```\n{path} {usage}\n```\n", prose(command.help or "")]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        lines += ["| Option | Meaning |", "| --- | --- |"]
        lines += [f"| {option_names(option)} | {cell(option_text(option, context))} |" for option in options]
        lines.append("")
    if command.epilog:
        lines.append(prose(command.epilog))
    return "\n".join(lines)


def option_names(option: click.Option) -> str:
    """'`--tail`, `-n` INTEGER'."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.make_metavar(click.Context(click.Command('x')))}"


def option_text(option: click.Option, context: click.Context) -> str:
    """The sentence of an option, with its default."""
    record = option.get_help_record(context)
    return record[1] if record else (option.help or "")


def prose(text: str) -> str:
    """click's help text as Markdown: a paragraph that must not be rewrapped becomes a code block."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            parts.append(paragraph)
            continue
        title, _, rest = paragraph.removeprefix("\b").strip("\n").partition("\n")
        if rest and title.rstrip(":") in ("Example", "Examples"):
            parts.append(f"{title}\n\n```\n{inspect.cleandoc(rest)}\n```")
        else:
            parts.append(f"{title}\n{rest}".rstrip())
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------ configuration


def configuration_page() -> str:
    """Every option with its default, environment variable and sentence."""
    from jitney.compose.config import SECTIONS, WHERE, fields

    parts = [CONFIGURATION]
    for section, kind in SECTIONS.items():
        parts += [
            f"## `[{section}]`\n",
            f"{inspect.getdoc(kind)}\n",
            "| Option | Type | Default | Environment | Meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        for field in fields():
            if field.section == section:
                parts.append(
                    f"| `{field.name}` | {type_name(field.type)} | `{toml(field.default)}` | `{field.env}` | "
                    f"{cell(field.description)} |"
                )
        parts.append("")
    parts += ["## Which server\n", "| Environment | Meaning |", "| --- | --- |"]
    parts += [f"| `{name}` | {cell(text)} |" for name, text in WHERE.items()]
    return "\n".join([*parts, ""])


def toml(value: object) -> str:
    """A default as it would be written in the file."""
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


# ------------------------------------------------------------------------------------------------ errors


def errors_page() -> str:
    """The tree, then every error with its code and status."""
    from jitney import errors

    tree = (inspect.getdoc(errors) or "").partition("\n\n")[2].rpartition("\n\n")[0]
    rest = (inspect.getdoc(errors) or "").rpartition("\n\n")[2]
    parts = [
        ERRORS,
        f"```\n{inspect.cleandoc(tree)}\n```\n",
        f"{rest}\n",
        "| Error | Code | HTTP | Asking again is safe | Meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in error_classes(errors.JitneyError):
        again = "yes" if kind.retryable else "no"
        parts.append(
            f"| `{kind.__name__}` | `{kind.code}` | {kind.http_status} | {again} | {cell(inspect.getdoc(kind) or '')} |"
        )
    parts += ["", "`InputCancellation` is no error of this tree:", "", docstring(errors.InputCancellation), ""]
    return "\n".join(parts)


def error_classes(kind: Any) -> Iterator[Any]:
    """A class and those below it."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ != kind.__module__:  # of one room, for itself
            continue
        yield from error_classes(child)


# ------------------------------------------------------------------------------------------------ sdk


def sdk_page() -> str:
    """Every public name of `jitney` with its signature and docstring, methods included."""
    import jitney

    parts = [SDK]
    for name in sorted(jitney.__all__, key=str.lower):
        thing = getattr(jitney, name)
        if isinstance(thing, type) and issubclass(thing, BaseException):
            same = "" if thing.__name__ == name else f" (`{thing.__name__}`)"
            parts.append(f"## `{name}`\n\nAn exception{same}: see [errors](errors.md).\n")
            continue
        if inspect.ismodule(thing) or name.startswith("__"):
            continue
        parts.append(sdk_section(name, thing))
    return "\n".join(parts)


def sdk_section(name: str, thing: Any) -> str:
    """One public name."""
    lines = [f"## `{name}`\n", f"```python\n{signature(name, thing)}\n```\n", docstring(thing)]
    if inspect.isclass(thing) and not issubclass(thing, enum.Enum):
        for member, value in public_members(thing):
            lines += [f"### `{name}.{member}`\n", f"```python\n{signature(member, value)}\n```\n", docstring(value)]
    return "\n".join(lines)


def public_members(kind: type) -> Iterator[tuple[str, Any]]:
    """Methods, properties and descriptors that a class has of its own or from a base of ours."""
    seen = set()
    for owner in kind.__mro__:
        if not owner.__module__.startswith("jitney"):
            continue
        for name, value in vars(owner).items():
            if name.startswith("_") or name in seen or not inspect.getdoc(unwrapped(value)):
                continue
            seen.add(name)
            if callable(unwrapped(value)) or isinstance(value, property):
                yield name, value


def unwrapped(value: Any) -> Any:
    """The function behind a class method, a static method, a property, a mark or a descriptor of two colours."""
    for attribute in ("__func__", "fget", "_func", "raw"):
        inner = inspect.getattr_static(value, attribute, None)
        found = getattr(value, attribute, None) if inner is not None else vars_of(value).get(attribute)
        if callable(found):
            return found
    return value


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, if it has any."""
    return getattr(value, "__dict__", {})


def signature(name: str, value: Any) -> str:
    """'def name(...)', 'name: type' of a property, 'class name(...)'."""
    inner = unwrapped(value)
    if isinstance(value, property):
        kind = inspect.get_annotations(inner).get("return", "")
        return f"{name}: {annotation_text(kind)}" if kind else name
    try:
        shown = inspect.signature(inner)
    except (TypeError, ValueError):
        return name
    texts = parameter_texts([p for p in shown.parameters.values() if p.name not in ("self", "cls")])
    back = "" if inspect.isclass(value) else answer_text(shown.return_annotation, value is not inner)
    start = f"{'class' if inspect.isclass(value) else 'def'} {name}("
    one_line = f"{start}{', '.join(texts)}){back}"
    if len(one_line) <= LINE_MAX:
        return one_line
    return start + "".join(f"\n    {text}," for text in texts) + f"\n){back}"


def parameter_texts(parameters: list[inspect.Parameter]) -> list[str]:
    """Parameters as written, with `*` where it is needed."""
    texts: list[str] = []
    for index, parameter in enumerate(parameters):
        before = parameters[index - 1] if index else None
        is_first_keyword = parameter.kind is parameter.KEYWORD_ONLY and (
            before is None or before.kind not in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        )
        if is_first_keyword:
            texts.append("*")
        many = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        stars = next((star for kind, star in many.items() if parameter.kind is kind), "")
        text = stars + parameter.name
        has_annotation = parameter.annotation is not parameter.empty
        if has_annotation:
            text += f": {annotation_text(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            equals = " = " if has_annotation else "="
            text += f"{equals}{value_text(parameter.default)}"
        texts.append(text)
    return texts


def value_text(value: object) -> str:
    """A default without addresses."""
    return re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", "...", repr(value))


def answer_text(annotation: object, is_dual: bool) -> str:
    """' -> type', by what the caller gets."""
    if annotation is inspect.Signature.empty:
        return ""
    text = annotation_text(annotation)
    for pattern, replacement in COLOURS if is_dual else ():
        text, count = re.subn(pattern, replacement, text)
        if count:
            break
    return f" -> {text}"


def annotation_text(annotation: object) -> str:
    """A type without module paths."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def docstring(thing: Any) -> str:
    """A docstring as Markdown: sections as lists, examples as code."""
    lines = (inspect.getdoc(unwrapped(thing)) or "").splitlines()
    out: list[str] = []
    in_section = in_code = False
    for line in lines:
        is_code = line.lstrip().startswith((">>>", "...")) or (in_code and bool(line.strip()))
        if is_code != in_code:
            out.append("```python" if is_code else "```")
            in_code = is_code
        section = re.fullmatch(r"(Args|Raises|Returns|Yields|Example|Examples|Attributes):(.*)", line)
        item = re.match(r"    (\*{0,2}[\w, .*]+?): (.*)", line) if in_section else None
        if section:
            in_section = True
            out += [f"**{section[1]}**", *([section[2].strip()] if section[2].strip() else []), ""]
        elif item and not is_code:
            out.append(f"- `{item[1]}`: {item[2]}")
        else:
            in_section = in_section and (line.startswith(" ") or not line.strip())
            out.append(line.strip() if in_section and not is_code else line)
    if in_code:
        out.append("```")
    return "\n".join(out).rstrip() + "\n"


# ------------------------------------------------------------------------------------------------ http


def http_page() -> str:
    """Every method of the wire's table, with the fields of its request, answer and events."""
    from jitney.wire.methods import METHODS

    parts = [HTTP]
    named: dict[str, Any] = {}
    for method in METHODS.values():
        parts += [f"## `{method.name}`\n"]
        about = inspect.getdoc(method.request) or ""
        if about and not about.startswith(method.request.__name__ + "("):
            parts.append(about + "\n")
        callers = {"user": "the owner's token", "container": "the owner's token, or a running container's"}
        parts.append(f"Who may call: {callers.get(method.scope, 'the worker')}.\n")
        parts.append(fields_of("Request", method.request, named))
        if method.stream is not None:
            parts.append(fields_of("Events", method.stream, named))
        parts.append(fields_of("Answer", method.answer, named))
    parts.append("## Types\n")
    done: set[str] = set()
    while left := sorted(set(named) - done):
        for name in left:
            done.add(name)
            parts.append(type_section(name, named[name], named))
    return "\n".join(parts)


def fields_of(title: str, kind: Any, named: dict[str, Any]) -> str:
    """A table of a Struct's fields; the names of unions."""
    if isinstance(kind, types.UnionType):
        return f"**{title}**: {type_name(kind, named)}\n"
    rows = list(field_rows(kind, named))
    if not rows:
        return f"**{title}**: `{{}}`\n"
    return "\n".join([f"**{title}**\n", "| Field | Type | Default |", "| --- | --- | --- |", *rows, ""])


def field_rows(kind: Any, named: dict[str, Any]) -> Iterator[str]:
    """A row per field."""
    hints = typing.get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            default = f"`{default_text(field.default)}`"
        elif field.default_factory is not msgspec.NODEFAULT:
            default = f"`{default_text(field.default_factory())}`"
        else:
            default = "required"
        yield f"| `{field.encode_name}` | {type_name(hints[field.name], named)} | {default} |"


def default_text(value: object) -> str:
    """A default as JSON would have it."""
    return msgspec.json.encode(value).decode() if not isinstance(value, bytes) else '""'


def type_section(name: str, kind: Any, named: dict[str, Any]) -> str:
    """A type that fields refer to."""
    if isinstance(kind, enum.EnumMeta):
        values: list[Any] = list(kind)
        shown = ", ".join(
            f"`{value.value}`" + (f" {value.name}" if isinstance(value.value, int) else "") for value in values
        )
        return f"### {name}\n\n{inspect.getdoc(kind)}\n\nOne of {shown}.\n"
    about = inspect.getdoc(kind) or ""
    about = "" if about.startswith(name + "(") else about + "\n\n"
    shape = "An array, in this order.\n\n" if kind.__struct_config__.array_like else ""
    tag = kind.__struct_config__.tag
    tagged = f'Has `"type": "{tag}"`.\n\n' if tag and not shape else ""
    return f"### {name}\n\n{about}{shape}{tagged}" + fields_of("Fields", kind, named)


def type_name(kind: Any, named: dict[str, Any] | None = None) -> str:
    """A type in words: 'list of Output', 'integer or null'."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return type_name(arguments[0], named)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0], named)}"
    if origin is dict:
        return f"object of {type_name(arguments[1], named)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a, named) for a in arguments)
    simple = {
        int: "integer",
        str: "string",
        float: "number",
        bool: "boolean",
        bytes: "bytes",
        memoryview: "bytes",
        type(None): "null",
        object: "any",
    }
    if kind in simple:
        return simple[kind]
    if named is not None:
        named.setdefault(kind.__name__, kind)
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return str(kind.__name__)


# ------------------------------------------------------------------------------------------------ all


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "errors.md": errors_page,
    "sdk.md": sdk_page,
    "http.md": http_page,
}


def tidy(text: str) -> str:
    """One blank line between paragraphs, none at the ends of lines."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def render() -> dict[Path, str]:
    """Every page as it should be."""
    return {REFERENCE / name: tidy(BANNER + page()) for name, page in PAGES.items()}


def main() -> int:
    """Write the pages, or check them; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when a page is stale; write nothing")
    is_check = parser.parse_args().check
    stale = [path for path, text in render().items() if not path.exists() or path.read_text() != text]
    if is_check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    pages = render()
    for path in stale:
        path.write_text(pages[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
