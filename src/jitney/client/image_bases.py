"""The part of `Image` that begins one: what the layers go onto."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jitney.client.ignore import Ignore
from jitney.client.image_dockerfile import dockerfile_context, layers_of
from jitney.client.image_steps import Steps
from jitney.client.image_value import BASE, absolute, is_in_container, secret_texts, stand_in, texts
from jitney.client.requirements import read_text
from jitney.core import dockerparse, imagesecrets
from jitney.core.imagechecks import full_name
from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.images import (
    Dockerfile,
    ImageSpec,
    Micromamba,
    Named,
    OciArchive,
    Registry,
    Scratch,
)


class Bases(Steps):
    """How an image begins."""

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Self:
        """An image with nothing but Debian and Python.

        Args:
            python_version: such as "3.12"; the machine must have it. Default: the version that runs this code.
            force_build: build though it is built already.
        """
        return cls(ImageSpec(python_version=_python(python_version), force_build=force_build))

    @classmethod
    def from_registry(
        cls,
        tag: str,
        secret: Mapping[str, str] | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Self:
        """An image of a registry.

        Args:
            tag: such as "nvidia/cuda:12.8.0-devel-ubuntu24.04" or "ghcr.io/owner/name@sha256:...".
            secret: with `username` and `password` (or REGISTRY_USERNAME and REGISTRY_PASSWORD), for a private one.
                They are not part of what identifies the image, and not kept.
            setup_dockerfile_commands: lines of a Dockerfile that come first.
            force_build: build though it is built already.
            add_python: a Python to have beside what the image has, such as "3.12". Without it the image must have
                one that functions can run in.

        Raises:
            InvalidError: the secret has no password.
        """
        username, password = _credentials(secret)
        base = Registry(reference=tag, username=username, password=password, add_python=_version(add_python))
        image = cls(ImageSpec(base=base, force_build=force_build))
        return image.dockerfile_commands(*setup_dockerfile_commands)

    @classmethod
    def from_aws_ecr(
        cls,
        tag: str,
        secret: Mapping[str, str] | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Self:
        """An image of Amazon's registry: as `from_registry`.

        Args:
            tag: such as "123456789012.dkr.ecr.eu-west-1.amazonaws.com/name:tag".
            secret: with `username` ("AWS") and `password`, what `aws ecr get-login-password` prints.
            setup_dockerfile_commands: see `from_registry`, as are the others.

        Raises:
            UnsupportedError: the secret has access keys, which would have to be changed for a password first.
        """
        if "AWS_ACCESS_KEY_ID" in secret_texts(secret):
            raise UnsupportedError(
                "access keys of AWS cannot be used for its registry directly",
                hint="secret={'username': 'AWS', 'password': the output of `aws ecr get-login-password`}",
            )
        return cls.from_registry(
            tag,
            secret,
            setup_dockerfile_commands=setup_dockerfile_commands,
            force_build=force_build,
            add_python=add_python,
        )

    @classmethod
    def from_gcp_artifact_registry(
        cls,
        tag: str,
        secret: Mapping[str, str] | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Self:
        """An image of Google's registry: as `from_registry`.

        Args:
            tag: such as "europe-docker.pkg.dev/project/repository/name:tag".
            secret: with SERVICE_ACCOUNT_JSON, the key of a service account; or with `username` and `password`.
            setup_dockerfile_commands: see `from_registry`, as are the others.
        """
        return cls.from_registry(
            tag,
            secret,
            setup_dockerfile_commands=setup_dockerfile_commands,
            force_build=force_build,
            add_python=add_python,
        )

    @classmethod
    def from_oci(
        cls, path: str | Path, reference: str = "", *, force_build: bool = False, add_python: str | None = None
    ) -> Self:
        """An image in files: a folder in the OCI layout, a tar of one, or what `docker save` writes.

        Args:
            path: on the machine that builds.
            reference: which of several images it is.
            force_build: build though it is built already.
            add_python: see `from_registry`.
        """
        base = OciArchive(path=absolute(path), reference=reference, add_python=_version(add_python))
        return cls(ImageSpec(base=base, force_build=force_build))

    @classmethod
    def from_dockerfile(
        cls,
        path: str | Path,
        *,
        context_dir: str | Path | None = None,
        force_build: bool = False,
        build_args: Mapping[str, str] | None = None,
        ignore: Sequence[str] | Ignore | None = None,
        add_python: str | None = None,
        registry_secret: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """An image as a Dockerfile says; the file is read now.

        One that has a single stage and no more than RUN, ENV, ARG, WORKDIR, COPY, ADD, CMD, ENTRYPOINT and SHELL is
        made by Jitney itself. Others (several stages, mounts, another user, ...) need an engine on the machine that
        builds.

        Args:
            path: the Dockerfile.
            context_dir: where COPY and ADD find their files; default: the current folder.
            force_build: build though it is built already.
            build_args: values of ARGs.
            ignore: `.dockerignore` patterns of files that are not copied; default: those of `Dockerfile.dockerignore`
                or of `.dockerignore` in the context.
            add_python: see `from_registry`.
            registry_secret: see `from_registry`.
            secrets: private variables of the RUN lines.
            gpu: accepted, and not used: images are built without an accelerator.

        Raises:
            InvalidError: it cannot be read, or is not a Dockerfile.
        """
        if is_in_container():
            return cls(ImageSpec(base=Scratch()), is_whole=False)
        local, context, args = absolute(path), absolute(context_dir or "."), texts(build_args, "build_args")
        text = read_text(Path(local))
        try:
            parsed = dockerparse.parse(text, args)
        except InvalidError as error:
            raise InvalidError(f"{path}, {error.message}", hint=error.hint) from None
        username, password = _credentials(registry_secret)
        python = _version(add_python)
        if parsed.needs_engine:
            base = Dockerfile(
                text=text,
                context_id=stand_in("context", context, ignore),
                build_args=args,
                add_python=python,
                secrets=secret_texts(secrets),
                username=username,
                password=password,
                why=parsed.needs_engine,
            )
            prepare = dockerfile_context(context, ignore, local)
            spec = ImageSpec(base=base, force_build=force_build)
            return cls(spec, is_whole=False, preparations={BASE: prepare})
        if not parsed.base:
            raise InvalidError(f"{path} has no FROM", hint="the lines alone are for Image.dockerfile_commands")
        registry = Registry(reference=parsed.base, username=username, password=password, add_python=python)
        image = cls(ImageSpec(base=Scratch() if parsed.base == "scratch" else registry, force_build=force_build))
        for layer, complete in layers_of(parsed, context, ignore, {}, secret_texts(secrets), local):
            image = image._with(layer, prepare=complete)
        return image._with(is_whole=False)

    @classmethod
    def from_scratch(cls, *, force_build: bool = False) -> Self:
        """An image with nothing in it, not even a shell: bring it all by `add_local_dir(..., "/", copy=True)`."""
        return cls(ImageSpec(base=Scratch(), force_build=force_build))

    @classmethod
    def micromamba(cls, python_version: str | None = None, force_build: bool = False) -> Self:
        """A conda environment with Python in it, made by micromamba.

        Args:
            python_version: such as "3.12". Default: the version that runs this code.
            force_build: build though it is built already.
        """
        version = _python(python_version)
        return cls(ImageSpec(base=Micromamba(), python_version=version, force_build=force_build))

    @classmethod
    def from_id(cls, image_id: str) -> Self:
        """An image that was built before, by its id.

        Raises:
            InvalidError: not an id of an image.
        """
        return cls(ImageSpec(base=Named(reference=ids.check(image_id, ids.IMAGE))))

    @classmethod
    def from_name(cls, name: str) -> Self:
        """An image that was built before and has a name (`Image.publish`).

        Args:
            name: "trainer:v2"; without a tag it is "trainer:latest".

        Raises:
            InvalidError: not a name.
        """
        return cls(ImageSpec(base=Named(reference=full_name(name))))


def _python(version: Any) -> str:
    return _version(version) or f"{sys.version_info.major}.{sys.version_info.minor}"


def _version(version: Any) -> str:
    if version is not None and not isinstance(version, str):
        raise InvalidError(f"python_version={version} is a number", hint="give a string: '3.10' is not 3.1")
    return version or ""


def _credentials(secret: Mapping[str, str] | None) -> tuple[str, str]:
    """User name and password of a registry, for a secret that has them."""
    given = secret_texts(secret)
    # In a container nothing is fetched, and the secret may be empty there.
    if given and not is_in_container():
        imagesecrets.check_credentials(given)
    return imagesecrets.credentials(given)
