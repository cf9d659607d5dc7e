"""pip's settings, as uv's: a machine whose pip finds packages builds images without being set up again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping

from jitney.errors import ImageBuildError

# Sections of pip's files that count for installing, weakest first; `:env:` is what PIP_* variables said.
SECTIONS = ("global", "install", ":env:")

# pip's option -> uv's variable, for those that have one value.
SINGLE = {
    "index-url": "UV_DEFAULT_INDEX",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
    "proxy": "ALL_PROXY",
}
# ... and for those that have several; pip separates by white space, uv by what stands here.
SEVERAL = {
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}
FALSE = {"", "0", "false", "no", "off", "n", "f"}

# What must not come in from whoever started us: it would aim uv, or a package's build, at another Python, or fold
# lines to somebody's terminal.
UNWANTED = (
    "COLUMNS",
    "LINES",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_PROJECT_ENVIRONMENT",
)
FORCED = {
    "UV_PYTHON_DOWNLOADS": "never",  # a download that nobody asked for; the error says which versions are there
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
}


# What uv on the host may have of the worker's environment where there is a wall: nothing that a requirement could ask
# to be put into an address ("${TOKEN}"), and what uv and git need to work.
MACHINE = re.compile(
    r"HOME|PATH|USER|LANG|LC_\w+|TMPDIR|XDG_\w+|NETRC|SSL_\w+|SSH_AUTH_SOCK|GIT_\w+|UV_\w+|(?i:https?_proxy|no_proxy|all_proxy)"
)
# What the variables of an image may set for it there: where packages come from, and which.
OF_IMAGE = re.compile(
    r"UV_(INDEX|DEFAULT_INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_\w+|PRERELEASE|RESOLUTION|EXCLUDE_NEWER"
    r"|TORCH_BACKEND|HTTP_TIMEOUT|HTTP_RETRIES)"
)
IN_BOX = re.compile(r"UV_\w+|SSL_CERT_FILE|(?i:https?_proxy|no_proxy|all_proxy)")  # of the machine's, in a box
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# A name that says what to run, or where to look for it, is no name of a token.
UNREFERABLE = re.compile(
    r"(LD|GIT|SSH|UV|XDG|PYTHON|DYLD|RUST|GLIBC|GCONV|MALLOC)_?\w*|PATH|HOME|IFS|ENV|BASH_ENV|NETRC|TMPDIR"
)


def parse_pip_config(text: str) -> dict[str, str]:
    """The lines of `pip config list` (`global.index-url='https://…'`) as a mapping; others are skipped."""
    settings: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals or "." not in name:
            continue
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue
        settings[name.strip()] = str(parsed)
    return settings


def pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What PIP_* variables say, in the same form: for machines without pip itself."""
    return {
        f":env:.{name[4:].lower().replace('_', '-')}": value
        for name, value in environ.items()
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"
    }


def uv_environment(pip_config: Mapping[str, str]) -> dict[str, str]:
    """The variables that make uv look where pip would.

    >>> uv_environment({"global.extra-index-url": "https://a.example/simple"})["UV_INDEX_STRATEGY"]
    'unsafe-best-match'
    """
    options: dict[str, str] = {}
    for section in SECTIONS:
        for name, value in pip_config.items():
            where, _, option = name.rpartition(".")
            if where == section:
                options[option] = value.strip()
    found = {"UV_SYSTEM_CERTS": "1"}  # pip, too, trusts what the system trusts
    for option, variable in SINGLE.items():
        if options.get(option):
            found[variable] = options[option]
    for option, (variable, separator) in SEVERAL.items():
        if options.get(option):
            found[variable] = separator.join(options[option].split())
    if "UV_INDEX" in found:
        # pip takes the best version of all indexes; uv's default is the first index that has the name.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if options.get("pre", "").lower() not in FALSE:
        found["UV_PRERELEASE"] = "allow"
    if options.get("no-index", "").lower() not in FALSE:
        found["UV_OFFLINE"] = "1"  # uv has no variable for "no index"; what it may still take is near by
    return found


def build_environment(
    inherited: Mapping[str, str],
    pip_config: Mapping[str, str],
    image: Mapping[str, str],
    *,
    link_mode: str,
    index_url: str = "",
) -> dict[str, str]:
    """The whole environment of a build. The image's variables win over the machine's, and uv's own over pip's."""
    kept = {name: value for name, value in inherited.items() if name not in UNWANTED}
    derived = uv_environment(pip_config)
    if index_url:
        derived["UV_DEFAULT_INDEX"] = index_url
    if "UV_INDEX" in kept or "UV_DEFAULT_INDEX" in kept:
        # Whoever set up uv itself meant it: half of one and half of the other helps nobody.
        for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_STRATEGY"):
            derived.pop(name, None)
    return {**derived, "UV_LINK_MODE": link_mode, **kept, **image, **FORCED}


def referred(texts: Iterable[str]) -> set[str]:
    """Names of variables that requirements have put in by uv: 'git+https://${TOKEN}@...'."""
    return {name for text in texts for name in REFERENCE.findall(text)}


def outside_environment(whole: Mapping[str, str], image: Mapping[str, str], texts: Iterable[str]) -> dict[str, str]:
    """What uv has on the host where nothing of an image may steer it: of `whole`, the environment of a build.

    `texts` are the requirements, whose references to variables of the image go through.

    Raises:
        ImageBuildError: they refer to a variable that the image does not have.
    """
    names = referred(texts)
    missing = sorted(names - set(image))
    if missing:
        raise ImageBuildError(
            f"the requirements refer to ${{{missing[0]}}}, and neither .env() nor a secret of this step has it",
            hint="give it as a secret of the step that installs",
        )
    through = {name: image[name] for name in names if not UNREFERABLE.fullmatch(name)}
    through.update({name: value for name, value in image.items() if OF_IMAGE.fullmatch(name)})
    machine = {name: value for name, value in whole.items() if name not in image and MACHINE.fullmatch(name)}
    return {**machine, **through, **FORCED}


def boxed_environment(whole: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """What uv has in a box: where packages come from here, and all variables of the image."""
    machine = {name: value for name, value in whole.items() if name not in image and IN_BOX.fullmatch(name)}
    return {**machine, **image, **FORCED}
