"""The words of engine/nets/payload.py and container.py for what is wrong, beside what Debian's dockerd says to the same bodies.

Only bodies that dockerd 20.10 refuses before it makes anything, and whose words are still those of Docker 28; what later versions say
otherwise or first is held by tests/unit/test_netpayload.py. So is a driver that does not exist: dockerd looks for it for 15 seconds.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from parity import Peer

from berth.engine.nets import container as netcontainer
from berth.engine.nets import payload as netpayload
from berth.errors import BerthError, Forbidden, InvalidParameter, NotFound

if not HAVE_DOCKERD:
    pytest.skip("needs Debian's docker.io", allow_module_level=True)

STATUS: dict[type[BerthError], int] = {InvalidParameter: 400, Forbidden: 403, NotFound: 404}


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Peer]:
    daemon = Dockerd()
    try:
        yield Peer(daemon.host.removeprefix("unix://"))
    finally:
        daemon.finish()


ICC, MASQUERADE = "com.docker.network.bridge.enable_icc", "com.docker.network.bridge.enable_ip_masquerade"
NETWORKS: list[dict[str, Any]] = [
    *({"Name": name} for name in ("bridge", "host", "none", "default")), {"Driver": "host"}, {"Driver": "null"}, {"Driver": "overlay"},
    {"ConfigOnly": True, "Internal": True}, {"ConfigOnly": True, "Attachable": True},
    {"ConfigOnly": True, "Scope": "local"}, {"ConfigOnly": True, "ConfigFrom": {"Network": "x"}}, {"Ingress": True}, {"Scope": "swarm"},
    {"IPAM": {"Config": [{"Subnet": "10.211.0.0/24"}, {"Subnet": "10.211.1.0/24"}]}},
    {"Options": {ICC: "maybe"}}, {"Options": {MASQUERADE: "x"}}, {"Options": {"com.docker.network.driver.mtu": "x"}},
    {"Options": {"com.docker.network.bridge.host_binding_ipv4": "x"}}, {"Driver": "macvlan", "Options": {"macvlan_mode": "x"}},
    {"Driver": "macvlan", "Options": {"parent": "lo"}}, {"Driver": "ipvlan", "Options": {"ipvlan_mode": "x"}},
]  # fmt: skip
PORTS: list[dict[str, Any]] = [
    {"HostConfig": {"PortBindings": ports}} for ports in (
        *({key: [{}]} for key in ("80-82/tcp", "x/tcp", "70000/tcp")),
        *({"80/tcp": [{"HostPort": port}]} for port in ("x", "8010-8000", "70000", "-1")),
    )
]  # fmt: skip
CONTAINERS: list[dict[str, Any]] = [
    *PORTS, {"HostConfig": {"NetworkMode": "container:"}}, {"HostConfig": {"NetworkMode": "container"}},
    *({"HostConfig": {"NetworkMode": mode, **host}, **config} for mode in ("container:nope", "host") for host, config in (
        ({}, {"Hostname": "h"}), ({"Links": ["a"]}, {}), ({"Dns": ["1.1.1.1"]}, {}), ({"ExtraHosts": ["a:1.1.1.1"]}, {}),
        ({}, {"MacAddress": "02:42:ac:11:00:02"}), ({"PortBindings": {"80/tcp": [{}]}}, {}), ({"PublishAllPorts": True}, {}),
        ({}, {"ExposedPorts": {"80/tcp": {}}}), ({"DnsSearch": ["a"]}, {}), ({"Links": ["a"], "Dns": ["1.1.1.1"]}, {"Hostname": "h"}))),
    {"HostConfig": {"UTSMode": "host"}, "Hostname": "h"}, *({"HostConfig": {"ExtraHosts": [text]}} for text in ("a", "a:", "a:x", ":1.1.1.1", "a=1.1.1.1")),
    {"HostConfig": {"Links": ["a:b:c"]}}, {"HostConfig": {"Links": [""]}},
    *({"NetworkingConfig": {"EndpointsConfig": {"n": {"IPAMConfig": ipam}}}} for ipam in (
        {"IPv4Address": "x"}, {"IPv4Address": "::1"}, {"IPv6Address": "10.1.0.1"}, {"IPv6Address": "x"})),
    {"NetworkingConfig": {"EndpointsConfig": {"n": None}}},
]  # fmt: skip


def said(function: Any, *arguments: Any) -> tuple[int, str]:
    """Status and words of berth's check; (0, '') where it takes it."""
    try:
        function(*arguments)
    except BerthError as error:
        return STATUS[type(error)], str(error)
    return 0, ""


def check(ours: tuple[int, str], status: int, words: str) -> None:
    """dockerd 20.10 answers 500 where nobody had thought of the mistake; endpoints had no prefix then."""
    assert ours[0], f"dockerd says {status} {words}"
    assert ours[0] == status or status == 500, (ours, words)
    plain = ours[1].removeprefix("invalid config for network n: invalid endpoint settings:\n").lower()
    assert plain == words.lower() or plain.startswith(f"{words.lower()}; known: ") or plain.startswith(f"{words.lower()} ("), ours


@pytest.mark.parametrize("body", NETWORKS, ids=str)
def test_networks_are_refused_in_dockerds_words(dockerd: Peer, body: dict[str, Any]) -> None:
    body = {"Name": "n", "CheckDuplicate": True, **body}
    answer = dockerd.ask("POST", "/v1.41/networks/create", body)
    assert answer.status >= 400, answer
    check(said(netpayload.network_create, body), answer.status, answer.message)


@pytest.mark.parametrize("body", CONTAINERS, ids=str)
def test_containers_are_refused_in_dockerds_words(dockerd: Peer, body: dict[str, Any]) -> None:
    answer = dockerd.ask("POST", "/v1.41/containers/create", {"Image": "bb", "Cmd": ["true"], **body})
    config = {key: value for key, value in body.items() if key not in ("HostConfig", "NetworkingConfig")}
    ours = said(netcontainer.container, config, body.get("HostConfig", {}), (body.get("NetworkingConfig") or {}).get("EndpointsConfig", {}))
    if answer.status >= 400:
        check(ours, answer.status, answer.message)
        return
    assert ours == (0, ""), answer
    dockerd.ask("DELETE", f"/v1.41/containers/{answer.body['Id']}")
    assert list(answer.body["Warnings"] or []) == list(_warnings(body, config))


def _warnings(body: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    return netcontainer.container(config, body["HostConfig"], {}).warnings
