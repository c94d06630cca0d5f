"""Image references: a table of what Docker takes and how it shows it."""

import time

import pytest

from berth.errors import InvalidParameter
from berth.oci import digest as digests
from berth.oci import reference

DIGEST = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "1" * 128


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "familiar"),
    [
        ("debian", "docker.io", "library/debian", "latest", "debian:latest"),
        ("debian:12", "docker.io", "library/debian", "12", "debian:12"),
        ("library/debian", "docker.io", "library/debian", "latest", "debian:latest"),
        ("docker.io/debian", "docker.io", "library/debian", "latest", "debian:latest"),
        ("docker.io/library/debian:a", "docker.io", "library/debian", "a", "debian:a"),
        ("index.docker.io/debian", "docker.io", "library/debian", "latest", "debian:latest"),
        ("bitnami/redis", "docker.io", "bitnami/redis", "latest", "bitnami/redis:latest"),
        ("localhost/x", "localhost", "x", "latest", "localhost/x:latest"),
        ("localhost:5000/x/y:1.0", "localhost:5000", "x/y", "1.0", "localhost:5000/x/y:1.0"),
        ("quay.io/a/b", "quay.io", "a/b", "latest", "quay.io/a/b:latest"),
        ("Registry/x", "Registry", "x", "latest", "Registry/x:latest"),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", "[::1]:5000/x:latest"),
        ("127.0.0.1:80/x", "127.0.0.1:80", "x", "latest", "127.0.0.1:80/x:latest"),
        ("a/b/c/d", "docker.io", "a/b/c/d", "latest", "a/b/c/d:latest"),
        ("a.b_c__d-e---f/x", "a.b_c__d-e---f", "x", "", None),
        ("a_b__c-d--e.f", "docker.io", "library/a_b__c-d--e.f", "latest", "a_b__c-d--e.f:latest"),
        ("x:V1._-" + "y" * 122, "docker.io", "library/x", "V1._-" + "y" * 122, "x:V1._-" + "y" * 122),
    ],
)  # fmt: skip
def test_references(text: str, registry: str, repository: str, tag: str, familiar: str | None) -> None:
    if familiar is None:
        with pytest.raises(InvalidParameter):
            reference.parse(text)
        return
    found = reference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest, found.familiar) == (registry, repository, tag, "", familiar)


def test_digests() -> None:
    found = reference.parse(f"quay.io/a@{DIGEST}")
    assert (found.tag, found.digest, found.familiar) == ("", DIGEST, f"quay.io/a@{DIGEST}")
    both = reference.parse(f"a:1@{DIGEST}")
    assert (both.tag, both.digest, both.familiar_name) == ("1", DIGEST, "a")
    assert reference.parse("a", default_tag="").familiar == "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not the name of a repository"), ("Debian", r"repository name \(library/Debian\) must be lowercase"),
        ("a/B", "must be lowercase"), ("a:", "is not a tag"), ("a:-x", "is not a tag"), ("a:" + "x" * 129, "is not a tag"),
        ("a:b/c", "is not the name of a reg|is not the name of a repository"), (":x", "is not the name of a repository"),
        ("a@", "is not a sha256 or sha512 digest"), ("a@sha256:12", "is not a sha256"), (f"a@{DIGEST.upper()}", "is not a sha256"),
        ("a@sha512:" + "0" * 64, "is not a sha256 or sha512"), ("a@md5:" + "0" * 32, "is not a sha256"), ("a@sha256:" + "0" * 128, "is not a sha256"),
        ("a//b", "is not the name of a repository"), ("/a", "is not the name of a repository"), ("a/", "is not the name of a repository"),
        ("a b", "is not the name of a repository"), ("-a", "is not the name"), ("a-", "is not the name"), ("a..b", "is not the name"),
        ("a___b", "is not the name"), ("../a", "is not the name"), ("a/../b", "is not the name"), ("-x.y/a", "name of a registry"),
        ("x..y/a", "name of a registry"), ("x.y:port/a", "name of a registry"), ("é", "is not the name"), ("a:é", "is not a tag"),
        ("x" * 256, "longer than 255"), ("a\n", "is not the name"), ("a:b\n", "is not a tag"),
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=rf"^invalid reference format: .*({reason})"):
        reference.parse(text)


@pytest.mark.parametrize("text", ["a" * 5000 + ".!/x", "a" * 5000 + ":x/y", "a." * 3000 + "!/x", "a-" * 3000 + "!", "[" + ":" * 5000 + "/x"])
def test_matching_takes_no_exponential_time(text: str) -> None:
    before = time.process_time()
    with pytest.raises(InvalidParameter):
        reference.parse(text)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    ("text", "image_id", "digest"),
    [(DIGEST, True, True), (DIGEST[7:], True, False), ("abc", True, False), ("sha256:ab", True, False), ("xyz", False, False),
     ("", False, False), (DIGEST + "0", False, False), (SHA512, False, False)],
)  # fmt: skip
def test_ids_and_digests(text: str, image_id: bool, digest: bool) -> None:
    assert (reference.is_image_id(text), digests.is_sha256(text)) == (image_id, digest)
    assert digests.is_known(text) == (digest or text == SHA512)


def test_digests_of_both_algorithms() -> None:
    assert reference.parse(f"a@{SHA512}").digest == SHA512
    assert digests.of(b"x", DIGEST) == digests.of(b"x") == "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert digests.of(b"x", SHA512).startswith("sha512:a4abd4448c49562d828115d13a1fccea927f52b4d5459297")
    assert digests.hexadecimal(SHA512) == "1" * 128
