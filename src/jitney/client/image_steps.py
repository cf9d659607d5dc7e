"""The part of `Image` that changes the root file system, and says what runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self

from jitney.client.ignore import Ignore
from jitney.client.image_dockerfile import layers_of
from jitney.client.image_function import prepare_function
from jitney.client.image_value import (
    ImageValue,
    Prepare,
    Prepared,
    absolute,
    flatten,
    is_in_container,
    secret_texts,
    stand_in,
    texts,
)
from jitney.client.requirements import read_text
from jitney.client.volume_mounts import of_step, stand_ins, variables
from jitney.core import dockerparse
from jitney.errors import InvalidError, UnsupportedError
from jitney.values.images import AptInstall, Cmd, Entrypoint, MicromambaInstall, RunCommands, RunFunction, Shell

if TYPE_CHECKING:
    from jitney.client.volume import Volume


class Steps(ImageValue):
    """Steps that need a root file system, and settings for what runs in it."""

    def apt_install(
        self,
        *packages: str | Sequence[str],
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """Install packages of the distribution, with `apt-get`.

        Args:
            packages: names such as "ffmpeg", or "git=1:2.39*".
            force_build: build though it is built already.
            env: variables of this step alone.
            secrets: private variables of this step alone.
            gpu: accepted, and not used: images are built without an accelerator.
        """
        names = flatten(packages, "apt_install")
        if not names:
            return self
        layer = AptInstall(packages=names, env=texts(env, "env"), secrets=secret_texts(secrets))
        return self._with(layer, force_build=force_build)

    def run_commands(
        self,
        *commands: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        volumes: Mapping[str, Volume] | None = None,
        gpu: Any = None,
        force_build: bool = False,
    ) -> Self:
        """Run shell commands at build time, as root of the image. What they leave on the file system stays.

        Args:
            commands: each by the image's shell, in its working folder, with its variables.
            env: variables of this step alone.
            secrets: private variables of this step alone: not part of what identifies the image, and not kept.
            volumes: by path, as in `run_function`; committed when all commands have ended well.
            gpu: accepted, and not used: images are built without an accelerator.
            force_build: build though it is built already.

        Raises:
            InvalidError: not strings, or volumes that cannot be.
            UnsupportedError: a bucket among the volumes.
        """
        lines = flatten(commands, "run_commands")
        if not lines:
            return self
        mounts = of_step(volumes)
        layer = RunCommands(
            commands=lines,
            env={**variables(mounts), **texts(env, "env")},
            secrets=secret_texts(secrets),
            volumes=stand_ins(mounts),
        )
        if not mounts:
            return self._with(layer, force_build=force_build)
        prepare: Prepare = lambda one: Prepared(one, None, mounts)  # noqa: E731
        return self._with(layer, force_build=force_build, is_whole=False, prepare=prepare)

    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        volumes: Mapping[str, Volume] | None = None,
        gpu: Any = None,
        cpu: float | None = None,
        memory: int | None = None,
        timeout: int = 3_600,
        force_build: bool = False,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        include_source: bool = True,
    ) -> Self:
        """Run a function at build time, for example to download weights. What it leaves on the file system stays.

        It runs again when its source text, the constants and functions of its module that it refers to, or its
        arguments change; what it returns is dropped.

        Args:
            raw_f: a plain function.
            env: variables of this step alone.
            secrets: private variables of this step alone.
            volumes: by path. It sees the newest version as it begins and its own writes, which are committed when it
                has returned, and not when it failed. Which volumes, where and how is part of what identifies the image;
                what is in them is not, and is in no image: `force_build` runs it again.
            gpu: accepted, and not used: images are built without an accelerator.
            cpu: cores that it may use; default: as the builder has it.
            memory: MiB that it may use; default: as the builder has it.
            timeout: seconds that it may take.
            force_build: build though it is built already.
            args: positional arguments.
            kwargs: keyword arguments.
            include_source: ship its module, which it is imported from. False: it is in the image already.

        Raises:
            InvalidError: not a function, or a resource out of its bounds.
            UnsupportedError: a bucket among the volumes.
        """
        mounts = of_step(volumes)
        if not isinstance(raw_f, FunctionType):
            raise InvalidError(
                f"run_function takes a plain function, not {raw_f!r}", hint="declare it without a decorator of an app"
            )
        if timeout < 1 or (cpu is not None and cpu <= 0) or (memory is not None and memory <= 0):
            raise InvalidError(f"run_function({raw_f.__name__}): timeout, cpu and memory must be above zero")
        layer = RunFunction(
            name=raw_f.__qualname__,
            pickled=b"",
            identity=stand_in("function", id(raw_f), args, kwargs),
            env={**variables(mounts), **texts(env, "env")},
            secrets=secret_texts(secrets),
            cpu_milli=round((cpu or 0) * 1000),
            memory_mib=memory or 0,
            timeout_ms=timeout * 1000,
            volumes=stand_ins(mounts),
        )
        prepare = prepare_function(raw_f, tuple(args), dict(kwargs or {}), self._attachments, include_source, mounts)
        return self._with(layer, force_build=force_build, is_whole=False, prepare=prepare)

    def dockerfile_commands(
        self,
        *dockerfile_commands: str | Sequence[str],
        context_dir: str | Path | None = None,
        build_args: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
        ignore: Sequence[str] | Ignore | None = None,
        force_build: bool = False,
    ) -> Self:
        """Lines of a Dockerfile: RUN, ENV, ARG, WORKDIR, COPY and ADD of local files, CMD, ENTRYPOINT, SHELL.

        Args:
            dockerfile_commands: lines, or lists of lines.
            context_dir: where COPY and ADD find their files; default: the current folder.
            build_args: values of ARGs.
            env: variables of the RUN lines alone.
            secrets: private variables of the RUN lines alone.
            gpu: accepted, and not used.
            ignore: `.dockerignore` patterns of files that are not copied; default: those of the file of that name in
                the context.
            force_build: build though it is built already.

        Raises:
            InvalidError: not lines of a Dockerfile; a FROM.
            UnsupportedError: something that only an engine can do, such as USER or a mount.
        """
        text = "\n".join(flatten(dockerfile_commands, "dockerfile_commands"))
        if not text.strip():
            return self
        parsed = dockerparse.parse(text, texts(build_args, "build_args"), is_part=True)
        if parsed.base:
            raise InvalidError(
                "dockerfile_commands may have no FROM: they go onto this image",
                hint="begin with Image.from_registry, or use Image.from_dockerfile for a whole file",
            )
        if parsed.needs_engine:
            raise UnsupportedError(
                f"dockerfile_commands: {parsed.needs_engine}, which is not possible on top of an image",
                hint="Image.from_dockerfile hands a whole Dockerfile to an engine",
            )
        image = self
        own = texts(env, "env"), secret_texts(secrets)
        for layer, prepare in layers_of(parsed, absolute(context_dir or "."), ignore, *own):
            image = image._with(layer, force_build=force_build, is_whole=not prepare, prepare=prepare)
        return image

    def micromamba_install(
        self,
        *packages: str | Sequence[str],
        spec_file: str | Path | None = None,
        channels: Sequence[str] = (),
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """Install conda packages; the image begins with `Image.micromamba()`.

        Args:
            packages: such as "numpy=2.1".
            spec_file: an environment.yaml, in addition; it is read now.
            channels: where to look; default: as the file says, or conda-forge.
            force_build: build though it is built already.
            env: variables of this step alone.
            secrets: private variables of this step alone.
            gpu: accepted, and not used.

        Raises:
            InvalidError: the file cannot be read.
        """
        names, is_whole = flatten(packages, "micromamba_install"), not spec_file or not is_in_container()
        text = read_text(Path(spec_file)) if spec_file and is_whole else ""
        if is_whole and not names and not text:
            return self
        layer = MicromambaInstall(
            packages=names,
            channels=tuple(channels),
            spec_file=text,
            env=texts(env, "env"),
            secrets=secret_texts(secrets),
        )
        return self._with(layer, force_build=force_build, is_whole=is_whole)

    # ------------------------------------------------------------------------------------------------- what runs

    def cmd(self, cmd: Sequence[str]) -> Self:
        """The default command of the image: what a shell in it, or a sandbox, starts."""
        return self._with(Cmd(words=_listed(cmd, "cmd")))

    def entrypoint(self, entrypoint_commands: Sequence[str]) -> Self:
        """What is put before the command of the image. `[]` takes away what the base has."""
        return self._with(Entrypoint(words=_listed(entrypoint_commands, "entrypoint")))

    def shell(self, shell_commands: Sequence[str]) -> Self:
        """What runs the commands of later steps, such as `["/bin/bash", "-c"]`."""
        words = _listed(shell_commands, "shell")
        if not words:
            raise InvalidError("shell needs a program", hint="for example ['/bin/bash', '-c']")
        return self._with(Shell(words=words))


def _listed(words: Sequence[str], method: str) -> tuple[str, ...]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise InvalidError(f"{method} takes a list of strings, not {words!r}", hint=f"for example {method}(['python'])")
    return tuple(words)
