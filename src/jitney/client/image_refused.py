"""Steps of the vocabulary that a runtime of plain processes cannot make: names that are there, and say why not.

Each adds a layer that says so when the image is built, and not before: a program that only inspects its images, or
builds them elsewhere, is not stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from jitney.values.images import ImageSpec, Unmakeable

if TYPE_CHECKING:
    from jitney.client.image import Image

ARGUMENTS_CHARS_MAX = 80


def _layer(method: str, arguments: tuple[Any, ...]) -> Unmakeable:
    text = ", ".join(map(repr, arguments))
    return Unmakeable(method=method, arguments=text if len(text) <= ARGUMENTS_CHARS_MAX else text[:79] + "…")


def _base(method: str, *arguments: Any) -> Image:
    from jitney.client.image import Image

    return Image(ImageSpec(layers=(_layer(method, arguments),)))


class Refused:
    """The part of `Image` that needs a root file system."""

    def _refuse(self, method: str, *arguments: Any) -> Image:
        from jitney.client.image import Image

        assert isinstance(self, Image)
        spec = msgspec.structs.replace(self.spec, layers=(*self.spec.layers, _layer(method, arguments)))
        return Image(spec, self.attachments)

    # ------------------------------------------------------------------------------------------------- bases

    @staticmethod
    def from_registry(tag: str, *args: Any, **options: Any) -> Image:
        """An image of a registry. Needs a container runtime."""
        return _base("from_registry", tag)

    @staticmethod
    def from_dockerfile(path: Any, *args: Any, **options: Any) -> Image:
        """An image made by a Dockerfile. Needs a container runtime."""
        return _base("from_dockerfile", str(path))

    @staticmethod
    def from_aws_ecr(tag: str, *args: Any, **options: Any) -> Image:
        """An image of Amazon's registry. Needs a container runtime."""
        return _base("from_aws_ecr", tag)

    @staticmethod
    def from_gcp_artifact_registry(tag: str, *args: Any, **options: Any) -> Image:
        """An image of Google's registry. Needs a container runtime."""
        return _base("from_gcp_artifact_registry", tag)

    @staticmethod
    def from_scratch(**options: Any) -> Image:
        """An image with nothing in it. Needs a container runtime."""
        return _base("from_scratch")

    @staticmethod
    def from_id(image_id: str, **options: Any) -> Image:
        """An image by its id. Needs a container runtime."""
        return _base("from_id", image_id)

    @staticmethod
    def from_name(name: str, **options: Any) -> Image:
        """An image by its name. Needs a container runtime."""
        return _base("from_name", name)

    @staticmethod
    def micromamba(python_version: str | None = None, **options: Any) -> Image:
        """A conda environment. Needs a container runtime."""
        return _base("micromamba", *([python_version] if python_version else []))

    # ------------------------------------------------------------------------------------------------- steps

    def apt_install(self, *packages: Any, **options: Any) -> Image:
        """Debian packages. Needs a container runtime."""
        return self._refuse("apt_install", *packages)

    def run_commands(self, *commands: Any, **options: Any) -> Image:
        """Shell commands. Needs a container runtime."""
        return self._refuse("run_commands", *commands)

    def run_function(self, raw_f: Any, **options: Any) -> Image:
        """A function at build time. Needs a container runtime."""
        return self._refuse("run_function", getattr(raw_f, "__name__", str(raw_f)))

    def dockerfile_commands(self, *commands: Any, **options: Any) -> Image:
        """Lines of a Dockerfile. Needs a container runtime."""
        return self._refuse("dockerfile_commands", *commands)

    def micromamba_install(self, *packages: Any, **options: Any) -> Image:
        """Conda packages. Needs a container runtime."""
        return self._refuse("micromamba_install", *packages)

    def pip_install_private_repos(self, *repositories: Any, **options: Any) -> Image:
        """Packages of private repositories with a secret. Needs a container runtime."""
        return self._refuse("pip_install_private_repos", *repositories)

    def poetry_install_from_file(self, poetry_pyproject_toml: Any, *args: Any, **options: Any) -> Image:
        """What a poetry.lock holds. Needs a container runtime."""
        return self._refuse("poetry_install_from_file", str(poetry_pyproject_toml))

    def uv_sync(self, uv_project_dir: Any = "./", *args: Any, **options: Any) -> Image:
        """What a uv.lock holds. Needs a container runtime."""
        return self._refuse("uv_sync", str(uv_project_dir))

    def cmd(self, cmd: Any) -> Image:
        """The default command of an image. Needs a container runtime."""
        return self._refuse("cmd", cmd)

    def entrypoint(self, entrypoint_commands: Any) -> Image:
        """The entry point of an image. Needs a container runtime."""
        return self._refuse("entrypoint", entrypoint_commands)

    def shell(self, shell_commands: Any) -> Image:
        """The shell of later commands. Needs a container runtime."""
        return self._refuse("shell", shell_commands)
