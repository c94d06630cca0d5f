"""daemon.json: what berth honours, and every mistake named at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.engine import config
from berth.engine.options import Options, from_settings
from berth.errors import InvalidParameter


def settings(value: dict[str, Any], *flags: str) -> dict[str, Any]:
    return config.parse(json.dumps(value).encode(), set(flags))


def test_what_docker_administrators_write() -> None:
    options = from_settings(settings({
        "data-root": "/srv/berth", "hosts": ["unix:///run/b.sock", "tcp://127.0.0.1:2376"], "debug": True, "labels": ["rack=7"],
        "runtimes": {"other": {"path": "/usr/bin/other", "runtimeArgs": []}}, "default-runtime": "other", "tlsverify": True,
        "exec-opts": ["native.cgroupdriver=cgroupfs"], "storage-driver": "overlay2", "live-restore": False, "shutdown-timeout": 3,
        "log-driver": "json-file", "log-opts": {"max-size": "10m"}, "default-shm-size": "128M", "no-new-privileges": True,
    }))  # fmt: skip
    assert (options.data_root, options.log_level, options.labels, options.add_runtime) == ("/srv/berth", "debug", ["rack=7"], ["other=/usr/bin/other"])
    assert (options.default_runtime, options.live_restore, options.shutdown_timeout_s, options.tlsverify) == ("other", False, 3, True)
    assert options.container_defaults == {
        "ShmSize": 128 << 20, "NoNewPrivileges": True, "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
    }  # fmt: skip


def test_all_mistakes_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        settings({
            "debug": "yes", "hosts": ["http://x"], "labels": ["a"], "bip": "10.0.0.1/24", "log-levle": "info", "runtimes": {"x": {}},
            "data-root": "relative", "log-level": "loud", "shutdown-timeout": True, "storage-driver": "zfs", "group": "g",
            "default-shm-size": "lots",
        }, "group")  # fmt: skip
    said = str(caught.value).split("\n  ")[1:]
    assert said == [
        "bip: this version of berth does not honour it; remove it",
        "the following directives don't match any configuration option: log-levle (did you mean log-level?)",
        'debug: "yes" is not true or false', 'hosts: ["http://x"] has "http://x": expected unix:///path, tcp://host:port or fd://',
        'labels: ["a"] has "a": expected key=value', 'runtimes: {"x": {}} has no "path" for "x"', 'data-root: "relative" is not an absolute path',
        'log-level: "loud" is not one of debug, info, warn, warning, error, fatal', "shutdown-timeout: true is not a number of seconds",
        'storage-driver: "zfs" is not one of overlay2', 'default-shm-size: "lots" is not a size such as "64m"',
        'the following directives are specified both as a flag and in the configuration file: group (from file: "g")',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [("hosts", ["fd://"], "host"), ("labels", ["a=b"], "label"), ("runtimes", {"x": {"path": "/x"}}, "add-runtime"), ("debug", True, "debug")],
)
def test_a_key_that_is_a_flag_too(key: str, value: object, flag: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^the following directives are specified both as a flag and in the configuration file: {key} "):
        settings({key: value}, flag)


@pytest.mark.parametrize(("data", "said"), [
    (b"{", "invalid JSON"), (b"[]", "expected an object"), (b'{"debug":true,"debug":false}', "debug: is there more than once"),
    (b"[" * 100_000, "invalid JSON"), (b"\xff", "invalid JSON"),
])  # fmt: skip
def test_files_that_are_none(data: bytes, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        config.parse(data, set())


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    assert config.read(str(path), must_exist=False, flags=set()) == {}
    with pytest.raises(InvalidParameter, match=r"daemon\.json: No such file"):
        config.read(str(path), must_exist=True, flags=set())
    path.write_text(" ")
    assert config.read(str(path), must_exist=True, flags=set()) == {}
    path.write_text('{"x": 1}')
    with pytest.raises(InvalidParameter, match=r"unable to configure the engine with file .*daemon\.json: the following directives don't match"):
        config.read(str(path), must_exist=True, flags=set())
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(InvalidParameter, match="larger than"):
        config.read(str(path), must_exist=True, flags=set())


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("64m", 64 << 20), ("64MiB", 64 << 20), ("1 g".replace(" ", ""), 1 << 30), ("512b", 512), ("7", 7)])
def test_sizes(value: object, expected: int) -> None:
    assert config.size_bytes(value) == expected


@pytest.mark.parametrize("value", [0, -1, True, "", "m", "-5m", "1.5.2g", "5x", None, "٣m", "9" * 30])
def test_sizes_that_are_none(value: object) -> None:
    with pytest.raises(config.Mistake):
        config.size_bytes(value)


@pytest.mark.parametrize(
    ("host", "defaults", "expected"),
    [
        ({}, {}, {}), ({}, {"Init": True}, {"Init": True}), ({"Init": False}, {"Init": True}, {"Init": False}),
        ({"ShmSize": 0}, {"ShmSize": 5}, {"ShmSize": 5}), ({"ShmSize": 7}, {"ShmSize": 5}, {"ShmSize": 7}),
        ({}, {"NoNewPrivileges": True}, {"SecurityOpt": ["no-new-privileges"]}), ({}, {"NoNewPrivileges": False}, {}),
        ({"SecurityOpt": ["no-new-privileges:false"]}, {"NoNewPrivileges": True}, {"SecurityOpt": ["no-new-privileges:false"]}),
        ({"Ulimits": [{"Name": "core", "Soft": 1}]}, {"Ulimits": [{"Name": "core"}, {"Name": "nproc"}]},
         {"Ulimits": [{"Name": "core", "Soft": 1}, {"Name": "nproc"}]}),
        ({}, {"LogConfig": {"Type": "a", "Config": {"x": "1"}}}, {"LogConfig": {"Type": "a", "Config": {"x": "1"}}}),
        ({"LogConfig": {"Type": "b", "Config": {}}}, {"LogConfig": {"Type": "a", "Config": {"x": "1"}}}, {"LogConfig": {"Type": "b", "Config": {}}}),
        ({"LogConfig": {"Type": "", "Config": {"x": "2"}}}, {"LogConfig": {"Type": "a", "Config": {"x": "1", "y": "3"}}},
         {"LogConfig": {"Type": "a", "Config": {"x": "2", "y": "3"}}}),
        ({"Privileged": True}, {"CgroupnsMode": "private"}, {"Privileged": True}), ({}, {"CgroupnsMode": "private"}, {"CgroupnsMode": "private"}),
    ],
)  # fmt: skip
def test_defaults_of_containers(host: dict, defaults: dict, expected: dict) -> None:
    before = json.dumps(host)
    assert config.with_defaults(host, defaults) == expected
    assert json.dumps(host) == before


def test_what_a_running_engine_takes_over() -> None:
    old, new = Options(), Options(log_level="debug", labels=["a=b"], data_root="/elsewhere", hosts=["fd://"])
    live, later = old.adopt(new)
    assert (sorted(live), sorted(later)) == (["labels", "log_level"], ["data_root", "hosts"])
    assert (old.log_level, old.labels, old.data_root) == ("debug", ["a=b"], "/var/lib/berth")


ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2), max_leaves=5)


@given(st.dictionaries(st.sampled_from(sorted(config.KEYS)) | st.text(max_size=5), ANYTHING))
def test_nothing_but_its_own_error(value: dict) -> None:
    try:
        from_settings(settings(value))
    except InvalidParameter:
        pass
