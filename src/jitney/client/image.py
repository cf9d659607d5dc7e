"""Images: what is installed where a function runs.

    image = (
        jitney.Image.debian_slim()
        .uv_pip_install("numpy", "scikit-learn")
        .env({"OMP_NUM_THREADS": "1"})
        .add_local_python_source("helpers")
    )

An image is a value: each method gives a new one, and nothing is built before a function needs it. Local files are not
part of what is built: they are attached when containers start, so that a changed file costs no build.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

import msgspec

from jitney.client.ignore import Ignore, ignore_of
from jitney.client.image_refused import Refused
from jitney.client.requirements import Requirements, read_pyproject, read_requirements
from jitney.client.source import Attachment, module_attachment, remote_path
from jitney.core import imageplan
from jitney.errors import InvalidError
from jitney.runner import state
from jitney.values.images import Env, ImageSpec, Layer, PipInstall, Workdir

P = ParamSpec("P")


class Image(Refused):
    """A Python environment, and local files to have beside it.

    Begin with `Image.debian_slim()`. Steps that need a root file system (`apt_install`, `run_commands`, ...) exist as
    names and are refused when the image is built, with what to do instead.
    """

    def __init__(self, spec: ImageSpec, attachments: tuple[Attachment, ...] = (), *, is_whole: bool = True) -> None:
        self._spec = spec
        self._attachments = attachments
        # In a container the files that a layer was read from are not there: then this is a part of the image.
        self._is_whole = is_whole

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """An image with nothing but Python.

        Args:
            python_version: such as "3.12"; the machine must have it. Default: the version that runs this code.
            force_build: build though it is built already.
        """
        version: Any = python_version or f"{sys.version_info.major}.{sys.version_info.minor}"
        if not isinstance(version, str):
            raise InvalidError(f"python_version={version} is a number", hint="give a string: '3.10' is not 3.1")
        return cls(ImageSpec(python_version=version, force_build=force_build))

    # ------------------------------------------------------------------------------------------------- packages

    def uv_pip_install(
        self,
        *packages: str | Sequence[str],
        requirements: Sequence[str | Path] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        uv_version: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Install packages from an index.

        Args:
            packages: requirements such as "numpy" or "torch>=2.4".
            requirements: paths of requirements files, in addition.
            find_links: a page or folder with packages.
            index_url: the index to use instead of the default one.
            extra_index_url: an index to use beside it.
            pre: take pre-releases too.
            extra_options: more options of `uv pip install`, such as "--no-deps".
            uv_version: accepted, and not used: the uv that came with Jitney builds.
            force_build: build though it is built already.

        Raises:
            InvalidError: a requirements file cannot be read, or has something that an image cannot have.
        """
        listed = Requirements()
        is_whole = not requirements or not _is_in_container()
        if requirements and is_whole:
            listed = read_requirements(requirements)
        layer = PipInstall(
            requirements=(*_flatten(packages, "uv_pip_install"), *listed.requirements),
            find_links=" ".join([*_words(find_links), *listed.find_links]),
            index_url=index_url or listed.index_url,
            extra_index_url=" ".join([*_words(extra_index_url), *listed.extra_index_urls]),
            pre=pre or listed.pre,
            extra_options=" ".join([*_words(extra_options), *listed.options]),
            constraints=listed.constraints,
        )
        if is_whole and not layer.requirements:
            return self
        return self._with(layer, force_build=force_build, is_whole=is_whole)

    def pip_install(
        self,
        *packages: str | Sequence[str],
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
    ) -> Image:
        """The same as `uv_pip_install`: uv installs in either case."""
        return self.uv_pip_install(
            *packages,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
        )

    def pip_install_from_requirements(
        self,
        requirements_txt: str | Path,
        find_links: str | None = None,
        *,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
    ) -> Image:
        """Install what a requirements file lists; the file is read now.

        Raises:
            InvalidError: it cannot be read, or has something that an image cannot have.
        """
        return self.uv_pip_install(
            requirements=[requirements_txt],
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
        )

    def pip_install_from_pyproject(
        self,
        pyproject_toml: str | Path,
        optional_dependencies: Sequence[str] = (),
        *,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
    ) -> Image:
        """Install the dependencies (not the project itself) of a pyproject.toml; the file is read now.

        Raises:
            InvalidError: it cannot be read, or lacks one of `optional_dependencies`.
        """
        is_whole = not _is_in_container()
        found = read_pyproject(pyproject_toml, optional_dependencies) if is_whole else ()
        image = self.uv_pip_install(
            *found,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
        )
        return image if is_whole else image._with(is_whole=False)

    # ------------------------------------------------------------------------------------------------- settings

    def env(self, vars: Mapping[str, str]) -> Image:
        """Set environment variables, in containers and in later steps."""
        given: dict[Any, Any] = {**vars}
        for name, value in given.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidError(f"the variable {name!r} must be a string, not {type(value).__name__}")
        return self._with(Env(variables=dict(vars)))

    def workdir(self, path: str | Path) -> Image:
        """The folder that code starts in: below the container's own folder when relative."""
        return self._with(Workdir(path=str(path)))

    # ------------------------------------------------------------------------------------------------- local files

    def add_local_file(self, local_path: str | Path, remote_path: str, *, copy: bool = False) -> Image:
        """Have a local file in containers.

        Args:
            local_path: relative to the current folder.
            remote_path: "/root/x" or "x", beside your code; one that ends in "/" gets the file's name.
            copy: accepted for its name; files are always attached at start.
        """
        local = _absolute(local_path)
        return self._attach(Attachment("file", local, _checked(remote_path)))

    def add_local_dir(
        self,
        local_path: str | Path,
        remote_path: str,
        *,
        copy: bool = False,
        ignore: Sequence[str] | Ignore | None = None,
    ) -> Image:
        """Have a local folder in containers, with all that is in it.

        Args:
            local_path: relative to the current folder.
            remote_path: "/root/data" or "data"; "/root" lays the files beside your code.
            copy: accepted for its name; files are always attached at start.
            ignore: `.dockerignore` patterns, in addition to the usual ones (`.git`, `__pycache__`, `.venv`, ...), or
                a function of a relative path that decides alone.
        """
        return self._attach(Attachment("dir", _absolute(local_path), _checked(remote_path), ignore_of(ignore)))

    def add_local_python_source(
        self, *modules: str, copy: bool = False, ignore: Sequence[str] | Ignore | None = None
    ) -> Image:
        """Have local packages or modules in containers, importable by the same names.

        Args:
            modules: top-level names, as you import them.
            copy: accepted for its name; files are always attached at start.
            ignore: see `add_local_dir`; the default takes Python files only.

        Raises:
            InvalidError: not a top-level name.
        """
        return self._attach(*(module_attachment(name, ignore) for name in modules))

    # ------------------------------------------------------------------------------------------------- the rest

    def imports(self) -> Imports:
        """`with image.imports():` imports that may fail here, where the packages are not installed.

        In a container that has this image a failing import is an error as usual.
        """
        return Imports(self)

    def pipe(self, func: Callable[Concatenate[Image, P], Image], /, *args: P.args, **kwargs: P.kwargs) -> Image:
        """`func(image, ...)`, to read from left to right."""
        return func(self, *args, **kwargs)

    @property
    def spec(self) -> ImageSpec:
        """What is built."""
        return self._spec

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Local files that come along, for `client.source.collect`."""
        return self._attachments

    @cached_property
    def _digest(self) -> str:
        return imageplan.spec_digest(self._spec)

    def __repr__(self) -> str:
        steps = "".join(f", {imageplan.title(layer)}" for layer in self._spec.layers)
        return f"Image({self._spec.base}, Python {self._spec.python_version}{steps})"

    def _with(self, *layers: Layer, force_build: bool = False, is_whole: bool = True) -> Image:
        spec = msgspec.structs.replace(
            self._spec,
            layers=(*self._spec.layers, *layers),
            force_build=self._spec.force_build or force_build,
        )
        return Image(spec, self._attachments, is_whole=self._is_whole and is_whole)

    def _attach(self, *attachments: Attachment) -> Image:
        return Image(self._spec, (*self._attachments, *attachments), is_whole=self._is_whole)


class Imports:
    """What `Image.imports` gives."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallows an ImportError where this image is not."""
        if not isinstance(error, ImportError):
            return False
        if not _is_in_container():
            return True
        # A module may define functions of several images: only the packages of the one that is here can be missed.
        here = os.environ.get(imageplan.SPEC_VARIABLE, "")
        return bool(here) and self._image._is_whole and self._image._digest != here


def _is_in_container() -> bool:
    # The variable is set in templates too, which import the user's module before they are any container.
    return not state.is_local() or imageplan.SPEC_VARIABLE in os.environ


def _flatten(packages: Sequence[str | Sequence[str]], method: str) -> list[str]:
    found: list[str] = []
    for package in packages:
        names = [package] if isinstance(package, str) else package
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InvalidError(f"{method} takes strings, not {package!r}")
        found += names
    return found


def _words(text: str | None) -> list[str]:
    return [text] if text else []


def _absolute(path: str | Path) -> str:
    # Now, since the current folder may be another one when a function is first called.
    return os.path.abspath(os.path.expanduser(path))


def _checked(remote: str) -> str:
    remote_path(remote)
    return remote
