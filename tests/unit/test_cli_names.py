"""The command line's quick look at names never passes what the grammar refuses."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.cli.names import is_plain
from berth.oci import reference

_CHARACTERS = string.ascii_letters + string.digits + "-._/:@é "


@pytest.mark.parametrize("text", ["a", "bench", "team/app", "my-app:1.2", "a--b/c:v1-rc.2", "x:LATEST"])
def test_common_names_are_plain(text: str) -> None:
    assert is_plain(text)


@pytest.mark.parametrize("text", ["", "A", "a:", "a:-x", "a:.x", "-a", "a-", "a//b", "/a", "a/", "é", "a:é", "a b", "a:b/c", "a@sha256:0", "a" * 300])
def test_what_is_not_a_name_is_not_plain(text: str) -> None:
    assert not is_plain(text)


@given(st.text(_CHARACTERS, max_size=150) | st.from_regex(r"[a-zA-Z0-9-]{1,9}(/[a-z0-9-]{1,9}){0,2}(:[\w.-]{0,9})?", fullmatch=True))
def test_plain_names_are_names(text: str) -> None:
    if is_plain(text):
        reference.parse(text)
