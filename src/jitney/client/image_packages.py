"""The part of `Image` that installs Python packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from jitney.client.image_value import (
    ImageValue,
    Prepared,
    absolute,
    flatten,
    is_in_container,
    secret_texts,
    stand_in,
    texts,
    tree,
)
from jitney.client.lockfiles import read_poetry, read_uv_project
from jitney.client.requirements import Requirements, read_pyproject, read_requirements
from jitney.client.tree import look_at
from jitney.errors import InvalidError
from jitney.values.images import PipInstall, UvSync

# Where a token of `pip_install_private_repos` belongs to.
TOKENS = {"github.com": "GITHUB_TOKEN", "gitlab.com": "GITLAB_TOKEN"}


class Packages(ImageValue):
    """Steps that make the Python environment."""

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
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
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
            env: variables of this step alone.
            secrets: private variables of this step alone: not part of what identifies the image, and not kept.
            gpu: accepted, and not used: images are built without an accelerator.

        Raises:
            InvalidError: a requirements file cannot be read, or has something that an image cannot have.
        """
        listed = Requirements()
        is_whole = not requirements or not is_in_container()
        if requirements and is_whole:
            listed = read_requirements(requirements)
        layer = PipInstall(
            requirements=(*flatten(packages, "uv_pip_install"), *listed.requirements),
            find_links=" ".join([*_words(find_links), *listed.find_links]),
            index_url=index_url or listed.index_url,
            extra_index_url=" ".join([*_words(extra_index_url), *listed.extra_index_urls]),
            pre=pre or listed.pre,
            extra_options=" ".join([*_words(extra_options), *listed.options]),
            constraints=listed.constraints,
            env=texts(env, "env"),
            secrets=secret_texts(secrets),
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
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """The same as `uv_pip_install`: uv installs in either case."""
        return self.uv_pip_install(
            *packages,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=secrets,
        )

    def pip_install_private_repos(
        self,
        *repositories: str,
        git_user: str,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] = (),
        gpu: Any = None,
    ) -> Self:
        """Install packages from private repositories of GitHub or GitLab.

        Args:
            repositories: such as "github.com/owner/name@v1.2" (or "@branch", or nothing), with
                "#subdirectory=..." where that is needed.
            git_user: the user that the token belongs to.
            find_links: see `uv_pip_install`, as are the others.
            secrets: with GITHUB_TOKEN or GITLAB_TOKEN. It goes to git alone, and is not part of what identifies
                the image: a new token builds nothing.

        Raises:
            InvalidError: not a repository of these, or its token is missing.
        """
        given = secret_texts(secrets)
        hosts: dict[str, str] = {}
        for repository in flatten(repositories, "pip_install_private_repos"):
            host = repository.partition("/")[0]
            if host not in TOKENS or repository.count("/") < 2 or " " in repository:
                raise InvalidError(
                    f"{repository[:80]!r} is not a repository", hint="for example 'github.com/owner/name@v1.2'"
                )
            # In a container nothing is built, and the token may not be there.
            if TOKENS[host] not in given and not is_in_container():
                raise InvalidError(
                    f"{host} needs {TOKENS[host]} in secrets",
                    hint=f"secrets=[{{'{TOKENS[host]}': os.environ['{TOKENS[host]}']}}]",
                )
            hosts[host] = given.get(TOKENS[host], "")
        return self.uv_pip_install(
            [f"git+https://{repository}" for repository in repositories],
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=[{**given, **_git_variables(hosts, git_user)}],
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
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
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
            env=env,
            secrets=secrets,
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
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """Install the dependencies (not the project itself) of a pyproject.toml; the file is read now.

        Raises:
            InvalidError: it cannot be read, or lacks one of `optional_dependencies`.
        """
        is_whole = not is_in_container()
        found = read_pyproject(pyproject_toml, optional_dependencies) if is_whole else ()
        image = self.uv_pip_install(
            *found,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=secrets,
        )
        return image if is_whole else image._with(is_whole=False)

    def poetry_install_from_file(
        self,
        poetry_pyproject_toml: str | Path,
        poetry_lockfile: str | Path | None = None,
        *,
        ignore_lockfile: bool = False,
        force_build: bool = False,
        with_: Sequence[str] = (),
        without: Sequence[str] = (),
        only: Sequence[str] = (),
        poetry_version: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """Install what a poetry.lock holds, in exactly these versions; the files are read now. No poetry is needed.

        Args:
            poetry_pyproject_toml: the project. It is not installed itself.
            poetry_lockfile: default: poetry.lock beside it.
            ignore_lockfile: not possible: versions come from the lock file.
            force_build: build though it is built already.
            with_: groups to install in addition, of those that are optional.
            without: groups to leave out.
            only: these groups, and nothing else ("main" is the project's own).
            poetry_version: accepted, and not used.
            env: variables of this step alone.
            secrets: private variables of this step alone.
            gpu: accepted, and not used.

        Raises:
            InvalidError: a file cannot be read, or has something that an image cannot have.
        """
        if ignore_lockfile:
            raise InvalidError(
                "poetry_install_from_file needs the lock file", hint="`poetry lock` makes it; or use pip_install"
            )
        if is_in_container():
            return self._with(is_whole=False)
        project = Path(poetry_pyproject_toml)
        locked = read_poetry(project, Path(poetry_lockfile or project.parent / "poetry.lock"), with_, without, only)
        return self.uv_pip_install(
            locked.requirements,
            extra_index_url=" ".join(locked.indexes) or None,
            extra_options="--no-deps",  # the lock is complete
            force_build=force_build,
            env=env,
            secrets=secrets,
        )

    def uv_sync(
        self,
        uv_project_dir: str | Path = "./",
        *,
        force_build: bool = False,
        groups: Sequence[str] | None = None,
        extras: Sequence[str] | None = None,
        frozen: bool = True,
        extra_options: str = "",
        uv_version: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Mapping[str, str]] | None = None,
        gpu: Any = None,
    ) -> Self:
        """Install what a uv.lock holds, in exactly these versions. The project itself is not installed.

        Args:
            uv_project_dir: the folder with pyproject.toml and uv.lock.
            force_build: build though it is built already.
            groups: dependency groups to install in addition.
            extras: extras of the project to install in addition.
            frozen: take uv.lock as it is. False: bring it up to date with pyproject.toml at the build.
            extra_options: more options of `uv sync`, such as "--no-dev".
            uv_version: accepted, and not used.
            env: variables of this step alone.
            secrets: private variables of this step alone.
            gpu: accepted, and not used.

        Raises:
            InvalidError: there is no pyproject.toml (or no uv.lock, and `frozen`), or it is a workspace.
        """
        folder = absolute(uv_project_dir)
        is_whole = not is_in_container()
        names = read_uv_project(Path(folder), needs_lock=frozen) if is_whole else ()

        def prepare(layer: UvSync) -> Prepared:
            return Prepared(layer, tree((name, look_at(Path(folder, name))) for name in names))

        layer = UvSync(
            source_id=stand_in("uv_sync", folder),
            groups=tuple(groups or ()),
            extras=tuple(extras or ()),
            frozen=frozen,
            extra_options=extra_options,
            env=texts(env, "env"),
            secrets=secret_texts(secrets),
        )
        return self._with(layer, force_build=force_build, is_whole=False, prepare=prepare)


def _words(text: str | None) -> list[str]:
    return [text] if text else []


def _git_variables(hosts: Mapping[str, str], user: str) -> dict[str, str]:
    """Settings of git by its environment: addresses with and without credentials are the same to it."""
    found = {"GIT_CONFIG_COUNT": str(len(hosts)), "GIT_TERMINAL_PROMPT": "0"}
    for number, (host, token) in enumerate(sorted(hosts.items())):
        address = f"https://{quote(user, safe='')}:{quote(token, safe='')}@{host}/"
        found[f"GIT_CONFIG_KEY_{number}"] = f"url.{address}.insteadOf"
        found[f"GIT_CONFIG_VALUE_{number}"] = f"https://{host}/"
    return found
