"""daemon.json: what berth honours, and every mistake named at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.engine import config, config_other, config_values
from berth.engine.options import Options, from_settings
from berth.errors import InvalidParameter


def settings(value: dict[str, Any], **flags: object) -> dict[str, Any]:
    return config.parse(json.dumps(value).encode(), {name.replace("_", "-"): flag for name, flag in flags.items()})


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
            "debug": "yes", "hosts": ["http://x"], "labels": ["a"], "bip": "10.0.0.1/x", "log-levle": "info", "runtimes": {"x": {}},
            "data-root": "relative", "log-level": "loud", "shutdown-timeout": True, "storage-driver": "zfs", "group": "g",
            "default-shm-size": "lots", "log-opts": {"max-size": "x"}, "registry-mirrors": ["ftp://a"], "insecure-registries": ["http://b"],
            "dns": ["q"], "seccomp-profile": "/nowhere", "authorization-plugins": ["opa"], "max-download-attempts": 0,
        }, group="h")  # fmt: skip
    said = str(caught.value).split("\n  ")[1:]
    assert said == [
        "the following directives don't match any configuration option: log-levle (did you mean log-level?)",
        'debug: "yes" is not true or false', 'hosts: ["http://x"] has "http://x": expected unix:///path, tcp://host:port or fd://',
        'labels: ["a"] has "a": expected key=value',
        'bip: "10.0.0.1/x" is not an address with the length of its network, such as 10.1.0.1/24', 'runtimes: {"x": {}} has no "path" for "x"', 'data-root: "relative" is not an absolute path',
        'log-level: "loud" is not one of debug, info, warn, warning, error, fatal', "shutdown-timeout: true is not a number of seconds",
        'storage-driver: "zfs" is not one of overlay2', 'default-shm-size: "lots" is not a size such as "64m"',
        'registry-mirrors: ["ftp://a"] has "ftp://a": unsupported scheme "ftp"; expected http:// or https://',
        'insecure-registries: ["http://b"] has "http://b": insecure registry should not contain \'://\'',
        'dns: ["q"] has q, which is not an ip address', 'seccomp-profile: "/nowhere" cannot be read: No such file or directory',
        'authorization-plugins: ["opa"] is not honoured: berth has no authorization plugins, and whom they keep out would come in',
        "max-download-attempts: 0 is not a number above 0",
        "the following directives are specified both as a flag and in the configuration file: group: (from flag: h, from file: g)",
        "log-driver and log-opts: failed to initialize logging driver: invalid size: 'x'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "flag", "given", "said"),
    [("hosts", ["fd://"], "host", ["unix:///x", "fd://"], "hosts: (from flag: [unix:///x fd://], from file: [fd://])"),
     ("labels", ["a=b"], "label", ["c=d"], "labels: (from flag: [c=d], from file: [a=b])"),
     ("runtimes", {"x": {"path": "/x"}}, "add_runtime", {"y": "/y"}, "runtimes: (from flag: map[y:/y], from file: map[x:map[path:/x]])"),
     ("debug", True, "debug", False, "debug: (from flag: false, from file: true)"),
     ("shutdown-timeout", 5, "shutdown_timeout", 7, "shutdown-timeout: (from flag: 7, from file: 5)")],
)  # fmt: skip
def test_a_key_that_is_a_flag_too(key: str, value: object, flag: str, given: object, said: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        settings({key: value}, **{flag: given})
    assert str(caught.value) == f"the following directives are specified both as a flag and in the configuration file: {said}"


def test_proxies() -> None:
    given = {"http-proxy": "http://me:secret@p.test:1", "https-proxy": "socks5://p.test", "no-proxy": "a, .b"}
    for value in ({"proxies": given}, given):
        options = from_settings(settings(value))
        assert (options.http_proxy, options.https_proxy, options.no_proxy) == tuple(given.values())
    assert options.proxies()["NO_PROXY"] == "a, .b"
    for value, words in (
        ({"proxies": {"http-proxy": "ftp://p"}}, "is no proxy"), ({"https-proxy": "http://"}, "is no proxy"), ({"proxies": {"ftp-proxy": ""}}, '"ftp-proxy": expected'),
        ({"proxies": {"no-proxy": 1}}, "proxies"), ({"proxies": given, "no-proxy": ""}, "no-proxy: is given beside proxies, too"),
    ):  # fmt: skip
        with pytest.raises(InvalidParameter, match=words):
            settings(value)
    with pytest.raises(InvalidParameter) as caught:
        settings({"proxies": given}, **{"http-proxy": "http://you:pass@q"})
    assert "http-proxy: (from flag: http://xxxxx:xxxxx@q, from file: http://xxxxx:xxxxx@p.test:1)" in str(caught.value)


# Of Docker's documentation, "daemon configuration file" (28), and dockerd --help (20.10 and 28).
DOCKERS = """
allow-direct-routing allow-nondistributable-artifacts api-cors-header authorization-plugins bip bip6 bridge builder cdi-spec-dirs cgroup-parent
containerd containerd-namespace containerd-plugins-namespace cpu-rt-period cpu-rt-runtime cri-containerd data-root debug default-address-pools
default-cgroupns-mode default-gateway default-gateway-v6 default-ipc-mode default-network-opts default-runtime default-shm-size
default-ulimits dns dns-opts dns-search exec-opts exec-root experimental features fixed-cidr fixed-cidr-v6 group host-gateway-ip
host-gateway-ips hosts http-proxy https-proxy icc init init-path insecure-registries ip ip-forward ip-forward-no-drop ip-masq ip6tables iptables
ipv6 labels live-restore log-driver log-format log-level log-opts max-concurrent-downloads max-concurrent-uploads max-download-attempts
metrics-addr min-api-version mtu network-control-plane-mtu no-new-privileges no-proxy node-generic-resources oom-score-adjust pidfile proxies
raw-logs registry-mirrors rootless runtimes seccomp-profile selinux-enabled shutdown-timeout storage-driver storage-opts
swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy userland-proxy-path userns-remap
""".split()


@pytest.mark.parametrize("key", DOCKERS)
def test_every_key_of_dockerds_is_known(key: str) -> None:
    """Taken, taken in vain with a word, or refused with the reason; none is taken for a slip of the pen."""
    assert sum(key in table for table in (config.KEYS, config_other.IDLE, config_other.REFUSED)) == 1
    with pytest.raises(InvalidParameter, match=f"^{key}: 3.5 is "):
        settings({key: 3.5})


def test_what_is_said_in_vain() -> None:
    read = settings({"iptables": False, "network-diagnostic-port": 1400, "raw-logs": True, "debug": True, "oom-score-adjust": 0, "selinux-enabled": False})
    assert config_other.notes(read) == [
        "iptables has no effect: berth's rules are a table of its own in nftables, which touches nobody else's; see published-ports",
        "network-diagnostic-port has no effect: berth is in no swarm",
        "raw-logs has no effect: berth's log has full times and no colours anyway",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), [
    ("https://mirror.example", "https://mirror.example/"), ("http://mirror.example:5000/", "http://mirror.example:5000/"),
])  # fmt: skip
def test_mirrors(text: str, shown: str) -> None:
    assert config_values.mirrors([text]) == [shown]


@pytest.mark.parametrize("text", ["mirror.example", "https://a/path", "https://a?q", "https://me@a", "https://a:x", "https://[::1", "https://"])
def test_mirrors_that_are_none(text: str) -> None:
    with pytest.raises(config_values.Mistake, match="has "):
        config_values.mirrors([text])


def test_insecure_registries() -> None:
    given = ["reg.example:5000", "10.0.0.0/8", "reg"]
    assert config_values.insecure_registries(given) == given
    for text in ("http://a", "-a", "a:x", "a/b", ""):
        with pytest.raises(config_values.Mistake):
            config_values.insecure_registries([text])
    shown = config_values.registry_info(["https://m/"], given)
    assert shown["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8", "10.0.0.0/8"]
    assert [shown["IndexConfigs"][name]["Secure"] for name in ("reg.example:5000", "reg", "docker.io")] == [False, False, True]


def test_seccomp_profiles(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    options = from_settings(settings({"seccomp-profile": str(path)}))
    assert options.seccomp_profile == str(path)
    assert options.container_defaults == {"Seccomp": path.read_text()}
    assert from_settings(settings({"seccomp-profile": "builtin"})).container_defaults == {}
    assert from_settings(settings({"seccomp-profile": "unconfined"})).container_defaults == {"Seccomp": "unconfined"}
    for text, said in (("{", "is not JSON"), ("{}", "has no defaultAction"), ("[]", "has no defaultAction")):
        path.write_text(text)
        with pytest.raises(InvalidParameter, match=said):
            settings({"seccomp-profile": str(path)})


@pytest.mark.parametrize(("data", "said"), [
    (b"{", "invalid JSON"), (b"[]", "expected an object"), (b'{"debug":true,"debug":false}', "debug: is there more than once"),
    (b"[" * 100_000, "invalid JSON"), (b"\xff", "invalid JSON"),
])  # fmt: skip
def test_files_that_are_none(data: bytes, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said):
        config.parse(data, {})


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    assert config.read(str(path), must_exist=False, flags={}) == {}
    with pytest.raises(InvalidParameter, match=r"daemon\.json: No such file"):
        config.read(str(path), must_exist=True, flags={})
    path.write_text(" ")
    assert config.read(str(path), must_exist=True, flags={}) == {}
    path.write_text('{"x": 1}')
    with pytest.raises(InvalidParameter, match=r"unable to configure the engine with file .*daemon\.json: the following directives don't match"):
        config.read(str(path), must_exist=True, flags={})
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(InvalidParameter, match="larger than"):
        config.read(str(path), must_exist=True, flags={})


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("64m", 64 << 20), ("64MiB", 64 << 20), ("1 g".replace(" ", ""), 1 << 30), ("512b", 512), ("7", 7)])
def test_sizes(value: object, expected: int) -> None:
    assert config_values.size_bytes(value) == expected


@pytest.mark.parametrize("value", [0, -1, True, "", "m", "-5m", "1.5.2g", "5x", None, "٣m", "9" * 30])
def test_sizes_that_are_none(value: object) -> None:
    with pytest.raises(config_values.Mistake):
        config_values.size_bytes(value)


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
        ({"SecurityOpt": ["label=disable"]}, {"Seccomp": "unconfined"}, {"SecurityOpt": ["label=disable", "seccomp=unconfined"]}),
        ({"SecurityOpt": ["seccomp=builtin"]}, {"Seccomp": "unconfined"}, {"SecurityOpt": ["seccomp=builtin"]}),
        ({"Privileged": True}, {"Seccomp": "{}"}, {"Privileged": True}),
        ({}, {"Seccomp": "unconfined", "NoNewPrivileges": True}, {"SecurityOpt": ["seccomp=unconfined", "no-new-privileges"]}),
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


@given(st.dictionaries(st.sampled_from(sorted({**config.KEYS, **config_other.CHECKS})) | st.text(max_size=5), ANYTHING))
def test_nothing_but_its_own_error(value: dict) -> None:
    try:
        from_settings(settings(value))
    except InvalidParameter:
        pass
