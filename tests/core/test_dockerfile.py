"""Dockerfiles: read into layers, and written from them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.dockerfile import CALL, context_files, render
from jitney.core.dockerlines import expand, read, words
from jitney.core.dockerparse import Copy, parse
from jitney.core.imageplan import Host, plan
from jitney.errors import InvalidError, UnsupportedError
from jitney.values import ids
from jitney.values.images import (
    AptInstall,
    Cmd,
    CopyTree,
    Dockerfile,
    Entrypoint,
    Env,
    ImageSpec,
    Micromamba,
    MicromambaInstall,
    Named,
    OciArchive,
    PipInstall,
    Registry,
    RunCommands,
    RunFunction,
    Scratch,
    Shell,
    UvSync,
    Workdir,
)

SOURCE = ids.make(ids.SOURCE, bytes(16))
HOST = Host(python_version="3.11.7", platform="linux-x86_64")


def run(command, **env):
    return RunCommands(commands=(command,), env=env)


def read_one(text, **build_args):
    parsed = parse(text, build_args)
    assert not parsed.needs_engine
    return parsed


# ------------------------------------------------------------------------------------------------ reading


def test_a_whole_file_becomes_layers():
    parsed = read_one(
        "\ufeff# syntax=docker/dockerfile:1\n"
        "ARG VERSION=3.11\n"
        "FROM python:${VERSION}-slim AS base\n"
        "LABEL who=me\n"
        "ENV A=1 B='two words' C=\"$A-$VERSION\"\n"
        "ARG VERSION\n"
        "ARG EXTRA=x\n"
        "WORKDIR /app\n"
        "RUN apt-get update && \\\n"
        "    # why\n"
        "\n"
        "    apt-get install -y git \\\n"
        "    curl\n"
        "COPY requirements.txt .\n"
        "copy src data/*.csv /srv/\n"
        "ADD one.txt two\n"
        'SHELL ["/bin/bash", "-c"]\n'
        'RUN ["echo", "a b"]\n'
        "EXPOSE 80\n"
        "CMD python app.py\n"
        'ENTRYPOINT ["tini", "--"]\n',
        VERSION="3.12",
    )
    assert parsed.base == "python:3.12-slim"
    assert parsed.items == (
        Env(variables={"A": "1", "B": "two words", "C": "-"}),
        Workdir(path="/app"),
        run("apt-get update &&     apt-get install -y git     curl", VERSION="3.12", EXTRA="x"),
        Copy(line=14, sources=("requirements.txt",), target="./"),
        Copy(line=15, sources=("src", "data/*.csv"), target="/srv/"),
        Copy(line=16, sources=("one.txt",), target="two"),
        Shell(words=("/bin/bash", "-c")),
        run("echo 'a b'", VERSION="3.12", EXTRA="x"),
        Cmd(words=("/bin/bash", "-c", "python app.py")),
        Entrypoint(words=("tini", "--")),
    )
    assert [note.partition(":")[0] for note in parsed.notes] == ["line 4", "line 19"]


def test_variables_of_env_hide_arguments_and_see_what_was_before():
    parsed = read_one("FROM a\nARG X=1\nENV X=2\nENV X=3 Y=$X\nRUN echo $X\nENV Z all of $Y the rest\n")
    assert parsed.items[1] == Env(variables={"X": "3", "Y": "2"})
    assert parsed.items[2] == run("echo $X")  # its shell puts in variables, from the environment
    assert parsed.items[3] == Env(variables={"Z": "all of 2 the rest"})


def test_an_argument_that_nothing_asks_for_is_noted():
    assert read_one("FROM a\nRUN true", TYPO="1").notes == ("no ARG asks for the build argument TYPO",)


def test_a_part_has_its_arguments_from_its_first_line():
    assert parse("ARG A\nRUN echo $A", {"A": "1"}, is_part=True).items == (run("echo $A", A="1"),)


def test_here_documents_are_scripts():
    parsed = read_one(
        "FROM a\nRUN <<EOF\nset -e\necho $X # kept\n\nEOF\nRUN <<-'END'\n\techo hi\n\tEND\nRUN cat <<< x\n"
    )
    assert [item.commands[0] for item in parsed.items] == ["set -e\necho $X # kept\n\n", "echo hi\n", "cat <<< x"]


def test_copies_know_folders_from_names():
    def target(line, before=""):
        return read_one(f"FROM a\n{before}\n{line}\n").items[-1].target

    assert target("COPY a b/") == "b/"
    assert target("COPY a ./b/.") == "b/"
    assert target("COPY a /") == "/"
    assert target("COPY a b") == "b"
    assert target("COPY a b c") == "c/"
    assert target("COPY a /app", "WORKDIR /app") == "/app/"
    assert target('COPY ["a b", "/c d/"]') == "/c d/"
    assert read_one("FROM a\nCOPY --link --chown=root /a ./b/\n").items[-1].sources == ("a",)


@pytest.mark.parametrize(
    "line,why",
    [
        ("FROM b", "several stages"),
        ("COPY --from=b /x /y", "COPY --from"),
        ("COPY --chown=me a b", "COPY --chown"),
        ("COPY --chmod=755 a b", "COPY --chmod"),
        ("COPY <<EOF /x\nhi\nEOF", "here-document"),
        ("RUN --mount=type=cache,target=/c true", "RUN --mount"),
        ("RUN python <<EOF\nprint(1)\nEOF", "here-document"),
        ("RUN <<EOF\n#!/usr/bin/env python\nEOF", "here-document"),
        ("ADD https://x.example/y /z", "ADD of"),
        ("ADD a.tar.gz /z", "ADD of"),
        ("ADD git@x.example:y.git /z", "ADD of"),
        ("USER nobody", "USER nobody"),
        ("ONBUILD RUN true", "ONBUILD"),
        ("ARG TARGETARCH", "ARG TARGETARCH"),
    ],
)
def test_what_only_an_engine_can_do_says_so_with_its_line(line, why):
    parsed = parse(f"FROM a\n{line}\nRUN true\n")
    assert parsed.needs_engine.startswith("line 2: ")
    assert why in parsed.needs_engine


def test_root_is_who_runs_it_anyway():
    assert read_one("FROM a\nUSER root\nUSER 0:0\n").items == ()


@pytest.mark.parametrize(
    "text,where",
    [
        ("FROM a\nRUM true", "line 2: there is no instruction 'RUM'"),
        ("FROM a\n\n<xml>", "line 3: "),
        ("FROM", "line 1: FROM says nothing"),
        ("FROM $X", "names nothing"),
        ("FROM a\nENV A=1 B", "NAME=value"),
        ("FROM a\nENV A='1", "quote is not closed"),
        ("FROM a\nCOPY a", "source and a target"),
        ("FROM a\nCOPY ../a b", "leads out"),
        ("FROM a\nRUN <<EOF\necho", "does not end"),
        ("FROM a\nSHELL bash", "SHELL takes a list"),
        ("# escape=x\nFROM a", "escape character"),
        ("FROM a\0", "not text"),
        ("FROM a\n" + "RUN true\n" * 2_000, "2,000 instructions"),
        ("#" * (1 << 20) + "\nFROM a", "too long"),
    ],
)
def test_what_is_no_dockerfile_is_refused_with_its_line(text, where):
    with pytest.raises(InvalidError, match=where):
        parse(text)


def test_another_escape_character():
    assert read_one("# escape=`\nFROM a\nRUN one `\n two\\\n").items == (run("one  two\\"),)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_never_anything_else(text):
    for candidate in (text, "FROM a\n" + text, "FROM a\nENV " + text, "FROM a\nCOPY " + text, "FROM a\nRUN " + text):
        try:
            parse(candidate)
        except InvalidError:
            continue


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0", exclude_categories=["C", "Z"]))))
def test_quoted_words_come_back(given_words):
    text = " ".join("'" + word.replace("'", "") + "'" for word in given_words)
    assert words(text, {}, 1) == [word.replace("'", "") for word in given_words]


def test_variables():
    known = {"A": "one", "EMPTY": ""}
    assert expand("$A ${A} ${B:-$A} ${A:+x$A} ${EMPTY:-e} ${B:+x} $B. \\$A", known) == "one one one xone e  . $A"


def test_lines_are_counted_over_continuations():
    assert [one.line for one in read("FROM a\nRUN b \\\n c\n\n# d\nRUN e")] == [1, 2, 6]


# ------------------------------------------------------------------------------------------------ writing


def test_a_plan_as_a_dockerfile():
    spec = ImageSpec(
        layers=(
            AptInstall(packages=("git", "g++=4:12*")),
            PipInstall(requirements=("numpy",), constraints=("numpy<3",), index_url="https://x.example", pre=True),
            Env(variables={"A": 'say "$HOME"\\', "B": "2"}),
            Workdir(path="/app"),
            CopyTree(source_id=SOURCE, target="/app/"),
            RunCommands(commands=("make all", "cat <<X\nhi\nX"), env={"E": "a b"}, secrets={"TOKEN": "s3cret"}),
            Shell(words=("/bin/bash", "-c")),
            Entrypoint(words=()),
            Cmd(words=("python", "-m", "app")),
        )
    )
    uv = "--mount=type=bind,from=ghcr.io/astral-sh/uv:latest,source=/uv,target=/usr/local/bin/uv"
    folder = next(iter(context_files(spec))).rpartition("/")[0]
    assert render(plan(spec, HOST)) == (
        "FROM docker.io/library/python:3.11-slim\n"
        "ENV UV_LINK_MODE=copy\n"
        "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
        "git 'g++=4:12*' && rm -rf /var/lib/apt/lists/*\n"
        f"RUN {uv} --mount=type=bind,source={folder},target=/run/jitney uv pip install --system "
        "--break-system-packages -r /run/jitney/requirements.txt -c /run/jitney/constraints.txt "
        "--default-index=https://x.example --prerelease=allow\n"
        'ENV A="say \\"\\$HOME\\"\\\\" B="2"\n'
        "WORKDIR /app\n"
        f'COPY ["{SOURCE}/", "/app/"]\n'
        "RUN --mount=type=secret,id=TOKEN,env=TOKEN export E='a b' && make all\n"
        "RUN --mount=type=secret,id=TOKEN,env=TOKEN <<'EOF'\nexport E='a b'\ncat <<X\nhi\nX\nEOF\n"
        'SHELL ["/bin/bash", "-c"]\n'
        "ENTRYPOINT []\n"
        'CMD ["python", "-m", "app"]\n'
    )
    assert context_files(spec)[f"{folder}/requirements.txt"] == b"numpy\n"


def test_functions_locks_and_conda():
    layers = (
        RunFunction(name="f", identity="f", pickled=b"pickle", source_id=SOURCE, secrets={"T": "s3cret"}),
        UvSync(source_id=SOURCE, groups=("dev",), extra_options="--no-dev"),
        MicromambaInstall(packages=("numpy=2",), spec_file="name: x\n"),
    )
    spec = ImageSpec(base=Micromamba(), python_version="3.12", layers=layers)
    text = render(spec, name_of=lambda source_id: f"trees/{source_id}")
    assert text.startswith("FROM docker.io/mambaorg/micromamba:latest\nUSER root\n")
    assert "conda-forge python=3.12 " in text
    mounts = f"source=trees/{SOURCE},target=/run/jitney-source --mount=type=secret,id=T,env=T"
    assert f"{mounts} python3 /run/jitney/call.py" in text
    assert "uv sync --no-install-project --inexact --frozen --group=dev --no-dev" in text
    assert "micromamba install -y -n base numpy=2 -f /run/jitney/environment.yaml" in text
    assert "s3cret" not in text
    files = context_files(spec)
    assert sorted(files.values()) == sorted([CALL.encode(), b"pickle", b"name: x\n"])
    assert all(name.rpartition("/")[0] in text for name in files)


@pytest.mark.parametrize(
    "base,first",
    [
        (Registry(reference="a:b", username="u", password="s3cret"), "FROM a:b\n"),
        (OciArchive(path="/i", reference="r"), "# base: the OCI layout /i, r\nFROM base\n"),
        (Dockerfile(text="FROM a\nFROM b\n"), "FROM a\nFROM b\n"),
        (Scratch(), "FROM scratch\n"),
        (Named(reference="trainer:v1"), "FROM trainer:v1\n"),
    ],
)
def test_bases(base, first):
    text = render(ImageSpec(base=base, layers=(RunCommands(commands=("true",)),)))
    assert text == f"{first}RUN true\n"


def test_a_python_that_is_added():
    spec = ImageSpec(base=Registry(reference="a", add_python="3.12"), layers=(PipInstall(requirements=("six",)),))
    text = render(spec)
    assert "uv venv --managed-python --python 3.12 /opt/jitney\nENV PATH=/opt/jitney/bin:$PATH\n" in text
    assert "uv pip install --python /opt/jitney -r" in text


def test_a_variable_with_a_line_break_cannot_be_written():
    with pytest.raises(UnsupportedError, match="'A'"):
        render(ImageSpec(layers=(Env(variables={"A": "1\n2"}),)))


PLAIN = st.text("abc $'\"\\{}:-+#<>=", min_size=1, max_size=12)
NAMES = st.from_regex(r"[A-Z]{1,4}", fullmatch=True)
PATHS = st.from_regex(r"/[a-z]{1,4}", fullmatch=True)
LAYERS = st.one_of(
    st.builds(Env, variables=st.dictionaries(NAMES, PLAIN, min_size=1, max_size=3)),
    st.builds(Workdir, path=PATHS),
    st.builds(Entrypoint, words=st.lists(PLAIN, max_size=3).map(tuple)),
    st.builds(Cmd, words=st.lists(PLAIN, max_size=3).map(tuple)),
    st.from_regex(r"[a-z]{1,3}( [a-z\"'$]{1,3}){0,3}(\n[a-z]{1,3})?", fullmatch=True).map(run),
)


@given(st.lists(LAYERS, max_size=6))
def test_what_is_written_reads_the_same(layers):
    parsed = parse(render(ImageSpec(base=Registry(reference="a"), layers=tuple(layers))))
    assert not parsed.needs_engine
    assert parsed.base == "a"
    found = [
        msgspec.structs.replace(one, commands=(one.commands[0].rstrip("\n"),)) if isinstance(one, RunCommands) else one
        for one in parsed.items
    ]
    assert found == layers
