"""`builder` of daemon.json."""

import pytest

from berth.engine.builds.settings import BuildSettings, settings
from berth.engine.config_values import Mistake


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({}, BuildSettings()), ({"gc": {"enabled": False}}, BuildSettings(cache_bytes=None)),
        ({"gc": {"enabled": True, "defaultKeepStorage": "20GB"}}, BuildSettings(cache_bytes=20 << 30)),
        ({"gc": {"defaultReservedSpace": "1m", "defaultMaxUsedSpace": "2m"}}, BuildSettings(cache_bytes=2 << 20)),
        ({"entitlements": {"network-host": False, "security-insecure": True}}, BuildSettings(host_network=False, insecure=True)),
        ({"entitlements": {"device": True}}, BuildSettings(device=True)),
    ],
)  # fmt: skip
def test_what_it_says(value: dict, found: BuildSettings) -> None:
    assert settings(value) == found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"gcc": {}}, "gcc"), ({"gc": {"keep": 1}}, "keep"), ({"gc": {"defaultKeepStorage": "lots"}}, "size"), ([], "object"),
        ({"entitlements": {"security-insecure": "yes"}}, "true"),
    ],
)  # fmt: skip
def test_what_is_wrong(value: object, words: str) -> None:
    with pytest.raises(Mistake, match=words):
        settings(value)
