"""Platforms: one spelling each, and the choice that containerd's platforms package makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidParameter
from berth.oci import platforms
from berth.oci.platforms import Platform, choose, normalize, of_document, parse, rank

WORDS = st.sampled_from(["linux", "windows", "darwin", "macos", "amd64", "x86_64", "arm64", "aarch64", "arm", "armhf", "armel", "386", "riscv64", "v5", "v6", "v7", "v8", "7", "8", "v1", "v3", ""])


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("linux/aarch64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64"), ("linux/arm64/8", "linux/arm64"), ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"), ("linux/armhf", "linux/arm/v7"), ("linux/armel", "linux/arm/v6"), ("LINUX/AMD64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"), ("linux/amd64/v1", "linux/amd64"), ("linux/amd64/v3", "linux/amd64/v3"), ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"), ("arm64", "linux/arm64"), ("armhf", "linux/arm/v7"), ("riscv64", "linux/riscv64"),
    ],
)  # fmt: skip
def test_a_platform_has_one_spelling(given: str, one: str) -> None:
    assert str(parse(given)) == one
    assert parse(given) == parse(one)


@pytest.mark.parametrize("text", ["", "/", "linux/", "/amd64", "linux/amd64/v1/x", "linux amd64", "lınux/amd64", "linux/amd64\n", "nonsense", "linux/../x/y", "a b/c"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"platform|unknown operating system"):
        parse(text)


@given(st.text())
def test_any_text_is_a_platform_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidParameter:
        return
    assert parse(str(found)) == found


@given(WORDS, WORDS, WORDS)
def test_normalizing_twice_changes_nothing(os: str, architecture: str, variant: str) -> None:
    once = normalize(os, architecture, variant)
    assert normalize(once.os, once.architecture, once.variant) == once


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/386", ["linux/amd64"], None),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v9", "linux/arm/odd"], None),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64"], 1),
        ("linux/arm64", ["windows/arm64"], None),
        ("linux/s390x", ["linux/s390x", "linux/s390x"], 0),
        ("linux/amd64", ["unknown/unknown"], None),
        ("linux/amd64", [None, "linux/amd64"], 1),
        ("linux/amd64", [], None),
    ],
)  # fmt: skip
def test_the_best_of_what_is_offered(wanted: str, offered: "list[str | None]", chosen: "int | None") -> None:
    assert choose(parse(wanted), [parse(text) if text else None for text in offered]) == chosen


@given(st.builds(normalize, WORDS, WORDS, WORDS), st.lists(st.builds(normalize, WORDS, WORDS, WORDS), max_size=6))
def test_what_is_chosen_is_never_worse_than_another(wanted: Platform, offered: "list[Platform]") -> None:
    found = choose(wanted, list(offered))
    ranks = [rank(wanted, one) for one in offered]
    assert (found is None) == all(worth is None for worth in ranks)
    if found is not None:
        assert ranks[found] == min(worth for worth in ranks if worth is not None)
        assert (wanted in offered) == (offered[found] == wanted)


DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None), ([], None), ({}, None), ({"architecture": ""}, None), ({"architecture": 7}, None), ({"architecture": "arm64"}, "linux/arm64"),
        ({"os": "windows", "architecture": "amd64", "os.version": "10.0"}, "windows/amd64"),
        ({"os": DEEP, "architecture": "arm", "variant": DEEP}, "linux/arm/v7"), ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64"),
    ],
)  # fmt: skip
def test_the_platform_of_a_descriptor(value: object, found: "str | None") -> None:
    read = of_document(value)
    assert (str(read) if read else None) == found


def test_this_machine_is_a_platform() -> None:
    assert parse(str(platforms.host())) == platforms.host()
    assert parse("linux") == platforms.host()
