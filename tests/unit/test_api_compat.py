"""What clients of older versions ask of networks becomes what they mean."""

from typing import Any

import pytest

pytest.importorskip("httptools", reason="the HTTP parser of the engine")

from berth.api import compat
from berth.api.compat import adjust_create

MAC = "02:00:00:00:00:01"


def adjusted(version: str, mode: str, config: dict[str, Any], networks: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    adjust_create(version, config, {"NetworkMode": mode}, networks, has_v1=False)
    return config, networks


@pytest.mark.parametrize(
    ("mode", "networks", "found"),
    [
        ("default", {}, {"default": {"MacAddress": MAC}}), ("n", {}, {"n": {"MacAddress": MAC}}), ("n", {"n": {"Aliases": ["a"]}}, {"n": {"Aliases": ["a"], "MacAddress": MAC}}),
        ("default", {"n": {"MacAddress": "x"}}, {"n": {"MacAddress": MAC}}),
    ],
)  # fmt: skip
def test_the_address_of_a_container_was_that_of_its_one_network(mode: str, networks: dict[str, Any], found: dict[str, Any]) -> None:
    assert adjusted("1.43", mode, {"MacAddress": MAC}, networks) == ({}, found)


def test_the_address_stays_where_no_network_could_have_it() -> None:
    for mode in ("host", "none", "container:x"):
        assert adjusted("1.43", mode, {"MacAddress": MAC}, {}) == ({"MacAddress": MAC}, {})
    assert adjusted("1.44", "n", {"MacAddress": MAC}, {}) == ({"MacAddress": MAC}, {})


def test_what_a_version_did_not_know_is_ignored() -> None:
    assert adjusted("1.43", "n", {}, {"n": {"MacAddress": MAC, "GwPriority": 3}}) == ({}, {"n": {}})
    assert adjusted("1.47", "n", {}, {"n": {"MacAddress": MAC, "GwPriority": 3}}) == ({}, {"n": {"MacAddress": MAC}})
    assert adjusted("1.48", "n", {}, {"n": {"GwPriority": 3}}) == ({}, {"n": {"GwPriority": 3}})


def test_aliases_of_a_container() -> None:
    """Before 1.45, a container's own names were among them, in networks that people made."""
    def found(version: str) -> dict[str, object]:
        payload = {"Id": "0123456789abcdef", "Config": {"Hostname": "me"}, "NetworkSettings": {"Networks": {
            "mine": {"Aliases": ["a", "me"]}, "none-given": {"Aliases": None}, "bridge": {"Aliases": None}}}}  # fmt: skip
        return {name: entry["Aliases"] for name, entry in compat.container(version, payload)["NetworkSettings"]["Networks"].items()}

    assert found("1.44") == {"mine": ["a", "me", "0123456789ab"], "none-given": ["0123456789ab", "me"], "bridge": None}
    assert found("1.45") == {"mine": ["a", "me"], "none-given": None, "bridge": None}
