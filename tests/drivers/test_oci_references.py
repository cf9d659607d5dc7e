"""References as Docker knows them, platforms, and the headers of registries: parsed strictly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.drivers.pulls.oci import credentials, manifest
from jitney.drivers.pulls.oci.challenge import parse_challenge, pause_ms
from jitney.drivers.pulls.oci.manifest import Descriptor, Platform
from jitney.drivers.pulls.oci.registry import places
from jitney.drivers.pulls.oci.settings import PullSettings
from jitney.errors import InvalidError, NotFoundError, ResourceExhaustedError, UnsupportedError
from jitney.testing.images import digest_of, make_image, make_index
from jitney.values.references import Reference, parse

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text, full",
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/library/python", "docker.io/library/python:latest"),
        ("owner/name", "docker.io/owner/name:latest"),
        ("ghcr.io/a/b:tag", "ghcr.io/a/b:tag"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        (f"host:5000/x@{SHA}", f"host:5000/x@{SHA}"),
        (f"python:3.12@{SHA}", f"docker.io/library/python:3.12@{SHA}"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("a.b/c__d/e--f.g_h", "a.b/c__d/e--f.g_h:latest"),
    ],
)
def test_references(text, full):
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "a b",
            "Python",
            "a/B",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "a:",
            ":a",
            "a:b:c",
            "a:-x",
            "a:" + "t" * 129,
        ),
        *("a@", "a@sha256:", f"a@{SHA}0", f"a@{SHA.upper()}", "a@md5:" + "a" * 32, f"a@{SHA}@{SHA}"),
        *("http://a/b", "a\nb", "a\0", "ä", "host:0/x", "host:99999/x", "host:x/y", "-a.b/c", "a..b/c", "a___b", "_a"),
        *("x" * 600, "a.b/" + "c" * 256, "user@host/x", "a?b", "a#b", "a%2fb", "localhost", "a.b:80/"),
    ],
)
def test_what_is_no_reference(text):
    if text == "localhost":
        assert str(parse(text)) == "docker.io/library/localhost:latest"  # a name, as for Docker
        return
    with pytest.raises(InvalidError) as caught:
        parse(text)
    assert caught.value.hint


WORDS = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}(:[1-9][0-9]{0,3})?", fullmatch=True)
REFERENCES = st.builds(
    lambda host, words, tag, digest: Reference(
        host=host, repository="/".join(words), tag=tag if tag or digest else "latest", digest=digest
    ),
    HOSTS.filter(lambda host: host not in ("docker.io", "index.docker.io")),
    st.lists(WORDS, min_size=1, max_size=4),
    st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
    st.one_of(st.just(""), st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)),
)


@given(REFERENCES)
def test_a_reference_is_what_its_text_says(reference):
    assert parse(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_error(text):
    try:
        found = parse(text)
    except InvalidError:
        return
    assert parse(str(found)) == found


# ------------------------------------------------------------------------------------------------- platforms


def offered(*names):
    return [
        Descriptor(digest_of(name.encode()), 1, manifest.OCI_MANIFEST, manifest.parse_platform(name)) for name in names
    ]


@pytest.mark.parametrize(
    "wanted, there, chosen",
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], 2),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64/v3"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
    ],
)
def test_the_best_that_the_machine_can_run(wanted, there, chosen):
    manifests = offered(*there)
    found = manifest.choose(manifests, manifest.parse_platform(wanted), "x")
    assert found is manifests[chosen]


def test_a_platform_that_is_not_there():
    there = [*offered("linux/arm64", "windows/amd64"), Descriptor(SHA, 1, "", Platform("unknown", "unknown"))]
    with pytest.raises(
        NotFoundError, match=r"not there for linux/amd64, only for linux/arm64, windows/amd64"
    ) as caught:
        manifest.choose(there, Platform("amd64", "linux"), "x")
    assert caught.value.hint


@pytest.mark.parametrize("text", ["amd64", "linux/", "linux/amd64/v8/x", "Linux/AMD64", "linux/a b"])
def test_what_is_no_platform(text):
    with pytest.raises(InvalidError):
        manifest.parse_platform(text)


# ------------------------------------------------------------------------------------------------- manifests


def changed(**fields):
    return json.dumps({**json.loads(make_image([b"x"]).manifest), **fields}).encode()


def test_manifests_of_both_families():
    for docker in (False, True):
        image = make_image([b"x"], docker=docker)
        assert len(manifest.parse(image.manifest, image.media_type, "x").layers) == 1
        index = make_index({"linux/amd64": image}, docker=docker)
        assert len(manifest.parse(index.manifest, index.media_type, "x").manifests) == 1


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
LAYER = {"digest": SHA, "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar"}


@pytest.mark.parametrize(
    "data, kind",
    [
        (b"", InvalidError),
        (b"[]", InvalidError),
        (b"\xff", InvalidError),
        (b"[" * 100_000, InvalidError),
        (b'{"schemaVersion": 1, "fsLayers": []}', UnsupportedError),
        (changed(layers=None), InvalidError),
        (changed(manifests=[]), InvalidError),
        (changed(mediaType=manifest.OCI_INDEX), InvalidError),
        (changed(layers=[{**LAYER, "digest": "sha256:../../etc"}]), InvalidError),
        (changed(layers=[{**LAYER, "size": -1}]), InvalidError),
        (changed(layers=[{**LAYER, "size": "1"}]), InvalidError),
        (changed(layers=[{**LAYER, "mediaType": FOREIGN}]), UnsupportedError),
        (changed(layers=[{**LAYER, "mediaType": f"{LAYER['mediaType']}+gzip+encrypted"}]), UnsupportedError),
        (changed(layers=[LAYER] * 501), ResourceExhaustedError),
        (changed(config=None), UnsupportedError),
        (changed(config={**LAYER, "mediaType": "application/vnd.cncf.helm.config.v1+json"}), UnsupportedError),
        (changed(artifactType="application/spdx+json"), UnsupportedError),
    ],
)  # fmt: skip
def test_manifests_that_are_refused(data, kind):
    with pytest.raises(kind):
        manifest.parse(data, manifest.OCI_MANIFEST, "x")


def test_a_configuration_with_other_layers_is_refused():
    image = make_image([b"x", b"y"])
    found = manifest.parse(image.manifest, "", "x")
    config = json.loads(image.blobs[found.config.digest])
    for diff_ids in ([], config["rootfs"]["diff_ids"][:1], ["x", "y"], None):
        data = json.dumps({**config, "rootfs": {"diff_ids": diff_ids}}).encode()
        with pytest.raises(InvalidError):
            manifest.parse_config(data, found, "x")


# ------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    "header, scheme, realm, scope",
    [
        ('Bearer realm="https://a/token",service="s",scope="a,b:c"', "bearer", "https://a/token", "a,b:c"),
        ('bearer realm=https://a/token', "bearer", "https://a/token", ""),
        ('Bearer service="x", realm="https://a/t\\"x"', "bearer", 'https://a/t"x', ""),
        ('Basic realm="x"', "basic", "x", ""),
    ],
)  # fmt: skip
def test_challenges(header, scheme, realm, scope):
    found = parse_challenge(header)
    assert (found.scheme, found.realm, found.scope) == (scheme, realm, scope)


@given(st.text(max_size=200))
def test_any_challenge_is_read_or_not(text):
    parse_challenge(text)
    parse_challenge(f"Bearer {text}")


def pause(attempt=1, said="", dice=1.0):
    return pause_ms(attempt, retry_after=said, now_s=1_000_000_000, dice=dice, backoff_ms=500, backoff_max_ms=20_000)


def test_pauses_double_and_end():
    assert [pause(attempt) for attempt in (1, 2, 3, 6, 7, 100)] == [500, 1000, 2000, 16_000, 20_000, 20_000]
    assert pause(dice=0) == 250


@pytest.mark.parametrize(
    "said, ms", [("3", 3000), (" 0 ", 0), ("Sun, 09 Sep 2001 01:46:47 GMT", 7000), ("Sun, 09 Sep 1990 01:46:47 GMT", 0)]
)
def test_pauses_as_told(said, ms):
    assert pause(said=said) == ms


@given(st.text(max_size=60))
def test_whatever_is_told_is_a_pause(said):
    assert pause(said=said) >= 0


# ------------------------------------------------------------------------------------------------- places


def test_docker_hub_has_another_address():
    (place,) = places(parse("python"), PullSettings())
    assert place.url == "https://registry-1.docker.io/v2/library/python"


def test_plain_http_is_for_this_machine_and_for_what_is_set():
    assert [places(parse(name), PullSettings(insecure=("b.example", "c.example:80")))[0].scheme for name in
            ("localhost:5000/x", "127.0.0.1/x", "[::1]:5000/x", "b.example/x", "b.example:90/x", "c.example:80/x")
            ] == ["http"] * 6  # fmt: skip
    assert [places(parse(name), PullSettings(insecure=("c.example:80",)))[0].scheme for name in
            ("a.example/x", "c.example/x", "10.0.0.1/x", "localhost.example/x")] == ["https"] * 4  # fmt: skip


@pytest.mark.parametrize(
    "mirror, url",
    [
        ("m.example", "https://m.example/v2/library/python"),
        ("m.example/hub", "https://m.example/v2/hub/library/python"),
        ("http://m.example:8080/a/b/", "http://m.example:8080/v2/a/b/library/python"),
    ],
)
def test_mirrors_come_first(mirror, url):
    found = places(parse("python"), PullSettings(mirrors={"docker.io": mirror}))
    assert [place.url for place in found] == [url, "https://registry-1.docker.io/v2/library/python"]
    assert [place.is_mirror for place in found] == [True, False]


# ------------------------------------------------------------------------------------------------- credentials


@pytest.mark.parametrize(
    "key, host, repository, is_found",
    [
        ("ghcr.io", "ghcr.io", "a/b", True),
        ("https://ghcr.io", "ghcr.io", "a/b", True),
        ("https://index.docker.io/v1/", "docker.io", "library/python", True),
        ("docker.io", "docker.io", "library/python", True),
        ("ghcr.io/a", "ghcr.io", "a/b", True),
        ("ghcr.io/a", "ghcr.io", "ab/c", False),
        ("ghcr.io", "ghcr.io.example", "a", False),
        ("localhost:5000", "localhost:5001", "a", False),
    ],
)
def test_what_docker_keeps(tmp_path, key, host, repository, is_found):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {key: {"auth": "YW5uOnNlY3JldDp4"}}, "credsStore": "desktop"}))
    found = credentials.read(path, host, repository)
    assert found == (credentials.Credentials("ann", "secret:x") if is_found else credentials.Credentials())
    assert "secret" not in repr(found)


def test_the_narrowest_fits_best_and_tokens_are_known(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"a.b": {"username": "x", "password": "y"}, "a.b/c": {"identitytoken": "t"}}}))
    assert credentials.read(path, "a.b", "c/d").identity_token == "t"
    assert credentials.read(path, "a.b", "e").username == "x"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": 1}', '{"auths": {"a.b": {"auth": "%%%"}}}'])
def test_damaged_settings_are_none(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert not credentials.read(tmp_path / "config.json", "a.b")
