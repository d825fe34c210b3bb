"""References of images: what people write, and what is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from conche.errors import Refused
from conche.supply.reference import LONGEST, Reference, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", Reference("docker.io", "library/nginx", "latest")),
        ("nginx:1.27", Reference("docker.io", "library/nginx", "1.27")),
        ("grafana/grafana:11", Reference("docker.io", "grafana/grafana", "11")),
        ("index.docker.io/library/nginx:1", Reference("docker.io", "library/nginx", "1")),
        ("localhost/a", Reference("localhost", "a", "latest")),
        ("localhost:5000/a:b", Reference("localhost:5000", "a", "b")),
        ("Registry.Example.org:5000/a/b:C", Reference("Registry.Example.org:5000", "a/b", "C")),
        ("[::1]:5000/a:b", Reference("[::1]:5000", "a", "b")),
        (f"localhost:5000/a@{DIGEST}", Reference("localhost:5000", "a", "", DIGEST)),
        (f"localhost:5000/a:b@{DIGEST}", Reference("localhost:5000", "a", "b", DIGEST)),
        (f"nginx@{DIGEST}", Reference("docker.io", "library/nginx", "", DIGEST)),
        ("a__b/c---d:_x", Reference("docker.io", "a__b/c---d", "_x")),
    ],
)
def test_a_reference_is_taken_apart(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a repository"),
        ("localhost:5000/", "not a repository"),
        ("localhost:5000/Factory:develop", "lower case"),
        ("MyOrg/app", "lower case"),
        ("localhost:5000/a:", "not a tag"),
        ("localhost:5000/a:.b", "not a tag"),
        ("localhost:5000/a:" + "t" * 129, "not a tag"),
        ("localhost:port/a", "not a registry host"),
        ("localhost:5000000/a", "not a registry host"),
        ("a@sha256:abc", "64 lower-case hexadecimal"),
        ("a@sha256:" + "A" * 64, "64 lower-case hexadecimal"),
        ("a@", "not a repository|digest"),
        ("a;rm -rf /", "not a repository"),
        ("$(id)", "not a repository"),
        ("`id`:x", "not a repository"),
        ("a b", "not a repository"),
        ("a\n", "not a repository"),
        ("a:x\n", "not a tag"),
        ("a:x&y", "not a tag"),
        ("../../etc/passwd", "not a registry host|not a repository"),
        ("localhost:5000/a//b", "not a repository"),
        ("localhost:5000/" + "a" * LONGEST, "more than 255"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        parse(text)

    assert refused.value.code == "reference-invalid"
    assert "registry/repository:tag" in refused.value.next_command


HOSTS = some.from_regex(r"\A[a-z][a-z0-9]{0,8}(\.[a-z]{2,5}){1,2}(:[0-9]{1,5})?\Z")
REPOSITORIES = some.from_regex(r"\A[a-z0-9]{1,6}([._/-][a-z0-9]{1,6}){0,3}\Z")
TAGS = some.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")
DIGESTS = some.one_of(some.just(""), some.from_regex(r"\Asha256:[a-f0-9]{64}\Z"))


@given(HOSTS, REPOSITORIES, TAGS, DIGESTS)
def test_what_is_written_is_read_back(host: str, repository: str, tag: str, digest: str) -> None:
    reference = Reference(host, repository, tag, digest)

    assert parse(str(reference)) == reference
    assert parse(reference.name + ":" + tag).at(tag) == Reference(host, repository, tag)


@given(some.text(max_size=60))
def test_any_text_is_a_reference_that_reads_back_or_is_refused(text: str) -> None:
    reference = None
    with contextlib.suppress(Refused):
        reference = parse(text)

    if reference is not None:
        assert parse(str(reference)) == reference
        assert not set(str(reference)) & set(" \t\n$;&|`'\"<>(){}\\*?")


@pytest.mark.parametrize("wanted", ["../x", "a b", "-x", "", "x" * 129, "sha256:abc", "a;b", "a/b"])
def test_what_is_neither_tag_nor_digest_is_refused(wanted: str) -> None:
    with pytest.raises(Refused):
        parse("localhost:5000/a").at(wanted)


def test_a_digest_takes_the_tags_place() -> None:
    reference = parse("localhost:5000/a:b")

    assert str(reference.at(DIGEST)) == f"localhost:5000/a@{DIGEST}"
    assert str(reference.pinned(DIGEST).tagged("c")) == "localhost:5000/a:c"
    assert reference.at(DIGEST).wanted == DIGEST
