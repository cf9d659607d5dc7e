"""A Dockerfile as layers of an image, where it has nothing that only an engine can do.

What it is made of here: one FROM; RUN, ENV, ARG, WORKDIR, COPY and ADD of files of the context, CMD, ENTRYPOINT, SHELL.
What only describes (LABEL, EXPOSE, ...) is left out with a note. Anything else (a second stage, mounts, another user,
files from the network) makes the whole of it a matter for an engine: `Parsed.needs_engine` says why.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping

import msgspec

from jitney.core.dockerlines import (
    Instruction,
    expand,
    is_only_heredoc,
    json_words,
    raw_words,
    read,
    unquoted,
    words,
)
from jitney.errors import InvalidError
from jitney.values.images import Cmd, Entrypoint, Env, Layer, RunCommands, Shell, Workdir

SHELL = ("/bin/sh", "-c")
IGNORED = {
    "LABEL": "labels are not kept",
    "MAINTAINER": "it only describes",
    "EXPOSE": "ports are opened by the functions that listen on them",
    "STOPSIGNAL": "containers get SIGTERM",
    "HEALTHCHECK": "containers are watched without it",
    "VOLUME": "volumes are attached to functions",
}
PLATFORM_ARGS = frozenset(
    f"{side}{part}" for side in ("TARGET", "BUILD") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """COPY or ADD of files of the context; sources may be patterns.

    `target` is a folder where it ends in '/'; else it is the name of the file, or of the folder if that is copied.
    """

    line: int
    sources: tuple[str, ...]
    target: str


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a Dockerfile says. `base` is what FROM names ('' without one)."""

    base: str = ""
    items: tuple[Layer | Copy, ...] = ()
    notes: tuple[str, ...] = ()
    needs_engine: str = ""


class _NeedsEngine(Exception):
    pass


def parse(text: str, build_args: Mapping[str, str] | None = None, *, is_part: bool = False) -> Parsed:
    """A Dockerfile; or lines that go onto an image that is there (`is_part`), where no FROM comes first.

    Raises:
        InvalidError: it is not a Dockerfile; the message names the line.
    """
    reader = _Reader(dict(build_args or {}), is_part=is_part)
    instructions = read(text)
    try:
        for instruction in instructions:
            reader.take(instruction)
    except _NeedsEngine as reason:
        return Parsed(base=reader.base, needs_engine=str(reason))
    unused = [name for name in reader.build_args if name not in reader.asked]
    if unused:
        reader.notes.append(f"no ARG asks for the build argument {', '.join(sorted(unused))}")
    return Parsed(base=reader.base, items=tuple(reader.items), notes=tuple(reader.notes))


class _Reader:
    """What holds after the instructions so far."""

    def __init__(self, build_args: dict[str, str], *, is_part: bool) -> None:
        self.build_args = build_args
        self._is_part = is_part
        self.base = ""
        self.items: list[Layer | Copy] = []
        self.notes: list[str] = []
        self.asked: set[str] = set()  # build arguments
        self._early: dict[str, str] = {}  # of ARGs before FROM
        self._args: dict[str, str] = {}
        self._env: dict[str, str] = {}
        self._shell: tuple[str, ...] = SHELL
        self._workdir = ""
        self._handlers: dict[str, Callable[[Instruction], None]] = {
            "FROM": self._from,
            "ARG": self._arg,
            "ENV": self._set_env,
            "RUN": self._run,
            "WORKDIR": self._change_folder,
            "COPY": self._copy,
            "ADD": self._copy,
            "CMD": self._cmd,
            "ENTRYPOINT": self._entrypoint,
            "SHELL": self._set_shell,
            "USER": self._user,
            "ONBUILD": self._onbuild,
        }

    def take(self, one: Instruction) -> None:
        """One more instruction."""
        if one.name in IGNORED:
            self.notes.append(f"line {one.line}: {one.name} is passed over: {IGNORED[one.name]}")
            return
        handler = self._handlers.get(one.name)
        if handler is None:
            raise InvalidError(f"line {one.line}: there is no instruction {one.name[:20]!r}")
        if not one.text:
            raise InvalidError(f"line {one.line}: {one.name} says nothing")
        handler(one)

    @property
    def _variables(self) -> dict[str, str]:
        return {**self._args, **self._env}

    def _from(self, one: Instruction) -> None:
        if self.base or self.items:
            raise _NeedsEngine(f"line {one.line}: it has several stages")
        if "platform" in one.flags:
            raise _NeedsEngine(f"line {one.line}: FROM --platform")
        # A stage has a name only for others to copy from it.
        self.base = words(one.text, self._early, one.line)[0]
        if not self.base:
            raise InvalidError(f"line {one.line}: FROM {one.text[:80]!r} names nothing: is a build argument missing?")

    def _arg(self, one: Instruction) -> None:
        for raw in raw_words(one.text, one.line):
            name, equals, default = raw.partition("=")
            is_early = not self.base and not self._is_part
            if name in PLATFORM_ARGS and not is_early:
                raise _NeedsEngine(f"line {one.line}: ARG {name}")
            self.asked.add(name)
            into = self._early if is_early else self._args
            if name in self.build_args:
                into[name] = self.build_args[name]
            elif equals:
                into[name] = unquoted(default, {**self._early, **self._variables})
            elif name in self._early:
                into[name] = self._early[name]

    def _set_env(self, one: Instruction) -> None:
        raws = raw_words(one.text, one.line) if "=" in one.text.split()[0] else []
        pairs = [raw.partition("=") for raw in raws]
        if not pairs:
            name, _, rest = one.text.partition(" ")  # the old form: ENV NAME all of the rest
            found = {name: expand(rest.strip(), self._variables)}
        elif all(equals for _, equals, _ in pairs):
            found = {name: unquoted(value, self._variables) for name, _, value in pairs}
        else:
            raise InvalidError(f"line {one.line}: ENV takes NAME=value pairs")
        self._env.update(found)
        self.items.append(Env(variables=found))

    def _run(self, one: Instruction) -> None:
        if one.flags:
            raise _NeedsEngine(f"line {one.line}: RUN --{next(iter(one.flags))}")
        if one.documents:
            if not is_only_heredoc(one.text) or one.documents[0].startswith("#!"):
                raise _NeedsEngine(f"line {one.line}: a here-document within a command")
            command = one.documents[0]
        else:
            plain = json_words(one.text)
            command = shlex.join(plain) if plain is not None else one.text
        args = {name: value for name, value in self._args.items() if name not in self._env}
        self.items.append(RunCommands(commands=(command,), env=args))

    def _change_folder(self, one: Instruction) -> None:
        path = expand(one.text.strip("\"'"), self._variables)
        self._workdir = posixpath.normpath(posixpath.join(self._workdir, path))
        self.items.append(Workdir(path=path))

    def _copy(self, one: Instruction) -> None:
        for flag in one.flags:
            if flag not in ("link", "chown") or (flag == "chown" and one.flags[flag] not in ("root", "0", "root:root")):
                raise _NeedsEngine(f"line {one.line}: {one.name} --{flag}")
        if one.documents:
            raise _NeedsEngine(f"line {one.line}: {one.name} of a here-document")
        *sources, target = words(one.text, self._variables, one.line)
        if not sources:
            raise InvalidError(f"line {one.line}: {one.name} needs a source and a target")
        for source in sources:
            if one.name == "ADD" and ("://" in source or source.startswith("git@") or source.endswith(ARCHIVES)):
                raise _NeedsEngine(f"line {one.line}: ADD of {source[:80]!r}")
            if ".." in source.split("/"):
                raise InvalidError(f"line {one.line}: {source[:80]!r} leads out of the context")
        is_folder = (
            len(sources) > 1
            or target.endswith(("/", "/.", "/.."))
            or target in (".", "..")
            or posixpath.normpath(posixpath.join(self._workdir, target)) == self._workdir
        )
        target = posixpath.normpath(target) + ("/" if is_folder and target.strip("/") else "")
        self.items.append(Copy(line=one.line, sources=tuple(s.lstrip("/") or "." for s in sources), target=target))

    def _command(self, one: Instruction) -> tuple[str, ...]:
        plain = json_words(one.text)
        return tuple(plain) if plain is not None else (*self._shell, one.text)

    def _cmd(self, one: Instruction) -> None:
        self.items.append(Cmd(words=self._command(one)))

    def _entrypoint(self, one: Instruction) -> None:
        self.items.append(Entrypoint(words=self._command(one)))

    def _set_shell(self, one: Instruction) -> None:
        plain = json_words(one.text)
        if not plain:
            raise InvalidError(f"line {one.line}: SHELL takes a list, such as " + '["/bin/bash", "-c"]')
        self._shell = tuple(plain)
        self.items.append(Shell(words=self._shell))

    def _user(self, one: Instruction) -> None:
        user = expand(one.text, self._variables).partition(":")[0]
        if user not in ("root", "0"):
            raise _NeedsEngine(f"line {one.line}: USER {user[:80]}: containers run as root of their own wall")

    def _onbuild(self, one: Instruction) -> None:
        raise _NeedsEngine(f"line {one.line}: ONBUILD")
