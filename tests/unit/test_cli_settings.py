"""What config.json sets for commands, as Docker's command line takes it. Beside Docker: tests/integration/test_image_commands.py."""

from pathlib import Path

import pytest

from berth.cli.configfile import setting, text_setting
from berth.cli.prune import with_settings
from berth.cli.runconfig import proxy_variables


def test_a_setting(tmp_path: Path) -> None:
    assert setting(str(tmp_path), "psFormat") is None
    (tmp_path / "config.json").write_text('{"psFormat": "{{.ID}}", "pruneFilters": ["label=a"], "statsFormat": 3, "x": {"nested": "y"}}')
    assert text_setting(str(tmp_path), "psFormat") == "{{.ID}}"
    assert setting(str(tmp_path), "pruneFilters") == ["label=a"]
    assert (text_setting(str(tmp_path), "statsFormat"), text_setting(str(tmp_path), "nested"), text_setting(str(tmp_path), "imagesFormat")) == ("", "", "")
    (tmp_path / "config.json").write_text('{"psFormat":')
    assert setting(str(tmp_path), "psFormat") is None


def test_proxies() -> None:
    proxies = {"default": {"httpProxy": "http://p:1", "noProxy": "a,b", "ftpProxy": ""}, "tcp://far:1": {"allProxy": "socks://x"}}
    assert proxy_variables(proxies, "unix:///x", []) == ["HTTP_PROXY=http://p:1", "http_proxy=http://p:1", "NO_PROXY=a,b", "no_proxy=a,b"]
    assert proxy_variables(proxies, "unix:///x", ["http_proxy=mine", "NO_PROXY="]) == ["HTTP_PROXY=http://p:1", "no_proxy=a,b"]
    assert proxy_variables(proxies, "tcp://far:1", []) == ["ALL_PROXY=socks://x", "all_proxy=socks://x"]


@pytest.mark.parametrize("wrong", [None, [], "x", {"default": "x"}, {"default": {"httpProxy": 3}}])
def test_proxies_that_are_none(wrong: object) -> None:
    assert proxy_variables(wrong, "unix:///x", []) == []


def test_filters_that_stand() -> None:
    assert with_settings(["until=1h"], ["label!=keep", "label=old"]) == ["until=1h", "label!=keep", "label=old"]
    assert with_settings(["label=keep"], ["label!=keep", "label=old"]) == ["label=keep", "label=old"]
    assert with_settings([], None) == []
