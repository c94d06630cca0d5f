"""What Docker's clients send along about who asks: X-Registry-Auth and X-Registry-Config."""

import base64
import json

import pytest

from berth.engine import registryauth
from berth.errors import InvalidParameter


def header(value: object) -> str:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).decode()


CONFIG = {
    "https://index.docker.io/v1/": {"username": "hub", "password": "a"}, "reg.example:5000": {"auth": base64.b64encode(b"bob:b:c").decode()},
    "https://old.example/v2/": {"identitytoken": "t"}, "bad.example": {"auth": "a"}, "worse.example": 7,
}  # fmt: skip


def test_a_configuration_of_many_registries() -> None:
    found = registryauth.credentials_by_registry(header(CONFIG))
    assert {name: (who.username, who.password, who.identity_token) for name, who in found.items()} == {
        "docker.io": ("hub", "a", ""), "reg.example:5000": ("bob", "b:c", ""), "old.example": ("", "", "t"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "?", header(b"{"), header([]), header(b"[" * 40_000), header({"http://[": {}}), "x" * 100_000, header(b"\xff")])
def test_one_that_cannot_be_read_says_nothing(text: str) -> None:
    assert registryauth.credentials_by_registry(text) == {}


def test_which_of_both_counts() -> None:
    both = {"x-registry-config": header(CONFIG), "x-registry-auth": header({"username": "ada"})}
    assert registryauth.credentials_for("reg.example:5000", both).username == "ada"
    del both["x-registry-auth"]
    assert registryauth.credentials_for("reg.example:5000", both).username == "bob"
    assert not registryauth.credentials_for("reg.example", both)
    with pytest.raises(InvalidParameter, match="invalid X-Registry-Auth header"):
        registryauth.credentials_for("x", {"x-registry-auth": header(b"{")})
