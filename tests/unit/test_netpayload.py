"""Payloads of networks: what dockerd says of each mistake, and what comes out of what is right."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.engine.nets import container as netcontainer
from berth.engine.nets import endpoint as netendpoint
from berth.engine.nets import payload as netpayload
from berth.engine.nets import ports as netports
from berth.errors import BerthError, Forbidden, InvalidParameter, NotFound
from berth.network.model import Subnet

BRIDGE = "com.docker.network.bridge."


def create(**fields):
    return netpayload.network_create({"Name": "n", **fields})


def ipam(*configs, **fields):
    return create(IPAM={"Config": list(configs)}, **fields)


def test_a_plain_network():
    found = create()
    assert (found.name, found.driver, found.subnets, found.ipv4, found.ipv6, found.ipam_driver) == ("n", "bridge", (), True, False, "default")


def test_everything_a_network_can_have():
    found = ipam(
        {"Subnet": "10.9.0.0/16", "IPRange": "10.9.5.0/24", "Gateway": "10.9.0.254", "AuxiliaryAddresses": {"a": "10.9.0.7"}},
        {"Subnet": "fd00:1::/64"}, EnableIPv6=True, Internal=True, Attachable=True, Labels={"a": "b"}, Options={"x": "y"},
    )  # fmt: skip
    assert found.subnets == (
        Subnet(ip_network("10.9.0.0/16"), ip_address("10.9.0.254"), ip_network("10.9.5.0/24"), {"a": ip_address("10.9.0.7")}),
        Subnet(ip_network("fd00:1::/64"), None),
    )
    assert found.ipv6
    assert found.internal
    assert found.attachable
    assert (found.labels, found.options, found.warnings) == ({"a": "b"}, {"x": "y"}, ())


def test_a_subnet_of_a_family_that_is_off_is_not_used_and_said():
    found = ipam({"Subnet": "10.9.0.0/16"}, {"Subnet": "fd00:1::/64"})
    assert [str(subnet.network) for subnet in found.subnets] == ["10.9.0.0/16"]
    assert "fd00:1::/64 is not used" in found.warnings[0]


def test_families_by_options_as_daemon_json_has_them():
    found = create(Options={netpayload.ENABLE_IPV6: "1", netpayload.ENABLE_IPV4: "false"})
    assert (found.ipv4, found.ipv6, found.options) == (False, True, {})
    found = create(EnableIPv4=True, EnableIPv6=False, Options={netpayload.ENABLE_IPV6: "1", netpayload.ENABLE_IPV4: "nonsense"})
    assert (found.ipv4, found.ipv6, found.options) == (True, False, {})


NETWORKS_WRONG = [
    ({"Name": ""}, InvalidParameter, "name is empty"), ({"Name": " "}, InvalidParameter, "name is empty"),
    ({"Name": "a/b"}, InvalidParameter, "no slashes"), ({"Name": ".."}, InvalidParameter, "no slashes"),
    ({"Name": "a\nb"}, InvalidParameter, "invalid name"), ({"Name": "container:x"}, InvalidParameter, "another container"),
    *(({"Name": name}, Forbidden, f"operation is not permitted on predefined {name} network ") for name in ("bridge", "host", "none", "default")),
    ({"Driver": "overlay"}, Forbidden, "not a swarm manager"), ({"Driver": "nope"}, NotFound, 'plugin "nope" not found'),
    ({"Driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
    ({"Driver": "null"}, Forbidden, 'only one instance of "null" network is allowed'),
    ({"IPAM": {"Driver": "nope"}}, NotFound, 'plugin "nope" not found'), ({"IPAM": {"Driver": "null"}}, InvalidParameter, "ipv4 pool is empty"),
    ({"EnableIPv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
    ({"Options": {netpayload.ENABLE_IPV6: "x"}}, InvalidParameter, 'driver-opt "com.docker.network.enable_ipv6" is not a valid bool'),
    ({"ConfigOnly": True, "Internal": True}, Forbidden, "configuration network can only contain"),
    ({"ConfigOnly": True, "ConfigFrom": {"Network": "x"}}, Forbidden, "cannot depend on another configuration network"),
    ({"ConfigFrom": {"Network": "x"}, "Labels": {"a": ""}}, Forbidden, "user specified configurations are not supported"),
    ({"ConfigFrom": {"Network": "x"}, "Options": {"a": ""}}, Forbidden, "network driver options are not supported"),
    ({"Ingress": True}, Forbidden, "Ingress network can only be global scope network"),
    ({"Scope": "swarm"}, Forbidden, "swarm is not active"), ({"Scope": "x"}, InvalidParameter, "invalid scope"),
    ({"Options": {BRIDGE + "enable_icc": "maybe"}}, InvalidParameter,
     'failed to parse com.docker.network.bridge.enable_icc value: maybe (strconv.ParseBool: parsing "maybe": invalid syntax)'),
    ({"Options": {"com.docker.network.driver.mtu": "x"}}, InvalidParameter, 'strconv.Atoi: parsing "x": invalid syntax'),
    ({"Options": {"com.docker.network.driver.mtu": "-1"}}, InvalidParameter, "invalid MTU number: -1"),
    ({"Options": {BRIDGE + "name": "x" * 16}}, InvalidParameter, "no name of an interface"),
    ({"Options": {BRIDGE + "name": "a/b"}}, InvalidParameter, "no name of an interface"),
    ({"Options": {BRIDGE + "host_binding_ipv4": "x"}}, InvalidParameter, "(nil ip)"),
    ({"Options": {BRIDGE + "gateway_mode_ipv4": "x"}}, InvalidParameter, "unknown gateway mode x"),
    ({"Options": {BRIDGE + "gateway_mode_ipv4": "isolated"}}, InvalidParameter, "only be used for an internal network"),
    ({"Driver": "macvlan", "Options": {"macvlan_mode": "x"}}, InvalidParameter,
     "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default"),
    ({"Driver": "macvlan", "Options": {"parent": "lo"}}, InvalidParameter, "loopback interface is not a valid macvlan parent link"),
    ({"Driver": "ipvlan", "Options": {"ipvlan_mode": "x"}}, InvalidParameter, "'l2' mode is the ipvlan driver default"),
    ({"Driver": "ipvlan", "Options": {"ipvlan_flag": "x"}}, InvalidParameter, "'bridge' flag is the ipvlan driver default"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "words"), NETWORKS_WRONG)
def test_networks_that_cannot_be(body, kind, words):
    with pytest.raises(kind) as caught:
        create(**body)
    assert words in str(caught.value)


IPAM_WRONG = [
    ({"Subnet": "10.9.0.1/24"}, "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
    ({"Subnet": "x"}, "invalid subnet x: invalid CIDR block notation"), ({"Subnet": ""}, "invalid subnet : invalid CIDR block notation"),
    ({"Subnet": "10.9.0.0"}, "invalid subnet 10.9.0.0: invalid CIDR block notation"),
    ({"Subnet": "10.9.0.0/255.255.0.0"}, "invalid CIDR block notation"), ({"Subnet": "10.9.0.0/016"}, "invalid CIDR block notation"),
    ({"Gateway": "10.9.0.1"}, "invalid subnet : invalid CIDR block notation"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "x"}, "invalid gateway x: invalid address"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "10.8.0.1"}, "invalid gateway 10.8.0.1: parent subnet 10.9.0.0/24 doesn't contain this address"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "fd00::1"}, "invalid gateway fd00::1: parent subnet is an IPv4 block"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.0"}, "network's own address"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.255"}, "broadcast address"),
    ({"Subnet": "10.9.0.0/24", "IPRange": "x"}, "invalid ip-range x: invalid CIDR block notation"),
    ({"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.0/16"}, "invalid ip-range 10.9.0.0/16: CIDR block is bigger than its parent subnet 10.9.0.0/24"),
    ({"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.5/25"}, "invalid ip-range 10.9.0.5/25: it should be 10.9.0.0/25"),
    ({"Subnet": "10.9.0.0/24", "IPRange": "10.8.0.0/25"}, "invalid ip-range 10.8.0.0/25: parent subnet 10.9.0.0/24 doesn't contain ip-range"),
    ({"Subnet": "10.9.0.0/24", "IPRange": "fd00::/64"}, "invalid ip-range fd00::/64: parent subnet is an IPv4 block"),
    ({"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"a": "x"}}, "invalid auxiliary address a: invalid address"),
    ({"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"a": "10.8.0.1"}}, "invalid auxiliary address a: parent subnet 10.9.0.0/24 doesn't contain"),
    ({"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1", "AuxiliaryAddresses": {"a": "10.9.0.1"}}, "invalid auxiliary address a: 10.9.0.1 is the gateway"),
    ({"Subnet": "10.9.0.0/31"}, "no addresses are left"), ({"Subnet": "127.0.0.0/24"}, "no host can have"),
    ({"Subnet": "224.0.0.0/24"}, "no host can have"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), IPAM_WRONG)
def test_subnets_that_cannot_be(config, words):
    with pytest.raises(InvalidParameter) as caught:
        ipam(config)
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InvalidParameter) as caught:
        ipam({"Subnet": "10.9.0.1/24", "Gateway": "x"}, {"Subnet": "y"})
    assert str(caught.value) == (
        "invalid network config:\n* invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24\n* invalid gateway x: invalid address\n"
        "* invalid subnet y: invalid CIDR block notation"
    )


def test_subnets_beside_each_other():
    two = ({"Subnet": "10.9.0.0/24"}, {"Subnet": "10.9.1.0/24"})
    with pytest.raises(Forbidden, match="bridge driver doesn't support multiple subnets"):
        ipam(*two)
    assert len(ipam(*two, Driver="macvlan").subnets) == 2
    for driver in ("bridge", "ipvlan"):
        with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
            ipam({"Subnet": "10.9.0.0/16"}, {"Subnet": "10.9.1.0/24"}, Driver=driver)


# -- endpoints ----------------------------------------------------------------------------------------

ENDPOINTS_WRONG = [
    ("bridge", {"IPAMConfig": {"IPv4Address": "10.9.0.2"}}, "user specified IP address is supported on user defined networks only"),
    ("bridge", {"Aliases": ["a"]}, "network-scoped alias is supported only for containers in user defined networks"),
    ("n", {"IPAMConfig": {"IPv4Address": "x"}}, "invalid IPv4 address: x"), ("n", {"IPAMConfig": {"IPv4Address": "::1"}}, "invalid IPv4 address: ::1"),
    ("n", {"IPAMConfig": {"IPv4Address": "0.0.0.0"}}, "invalid IPv4 address: 0.0.0.0"),
    ("n", {"IPAMConfig": {"IPv6Address": "10.9.0.2"}}, "invalid IPv6 address: 10.9.0.2"),
    ("n", {"IPAMConfig": {"IPv6Address": "::ffff:10.9.0.2"}}, "invalid IPv6 address"),
    ("n", {"IPAMConfig": {"LinkLocalIPs": ["x"]}}, "invalid link-local IP address: x"),
    ("n", {"IPAMConfig": {"LinkLocalIPs": ["1.2.3.4"]}}, "invalid link local IP address: 1.2.3.4"),
    ("n", {"MacAddress": "x"}, "invalid MAC address x"), ("n", {"MacAddress": "01:00:5e:00:00:01"}, "its first octet is odd"),
    ("n", {"MacAddress": "00:00:00:00:00:00"}, "it is no address"), ("n", {"MacAddress": "02:42:ac:11:00:02:03:04"}, "invalid MAC address"),
    ("n", {"Aliases": ["a b"]}, "invalid alias"), ("n", {"Aliases": [""]}, "invalid alias"), ("n", {"Links": ["a:b:c"]}, "bad format for links: a:b:c"),
    ("n", {"DriverOpts": {netendpoint.SYSCTLS: "net.ipv4.conf.eth0.log_martians=1"}}, "unrecognised network interface sysctl"),
    ("n", {"DriverOpts": {netendpoint.INTERFACE_NAME: "a/b"}}, "invalid interface name"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "settings", "words"), ENDPOINTS_WRONG)
def test_endpoints_that_cannot_be(network, settings, words):
    with pytest.raises(InvalidParameter) as caught:
        netendpoint.endpoint(settings, network)
    assert words in str(caught.value)
    assert str(caught.value).startswith("invalid endpoint settings:\n")


def test_an_endpoint_with_everything():
    found = netpayload.connect({"Container": "c", "EndpointConfig": {
        "IPAMConfig": {"IPv4Address": "10.9.0.2", "IPv6Address": "fd00::2", "LinkLocalIPs": ["169.254.1.1", "fe80::9"]},
        "MacAddress": "02-42-AC-11-00-02", "Aliases": ["a", "b", "a"], "Links": ["x", "y:z"], "GwPriority": -3,
        "DriverOpts": {netendpoint.SYSCTLS: "net.ipv4.conf.ifname.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0"},
    }}, "n")  # fmt: skip
    assert found.container == "c"
    assert found.endpoint == netendpoint.EndpointRequest(
        ipv4=ip_address("10.9.0.2"), ipv6=ip_address("fd00::2"), link_local=(ip_address("169.254.1.1"), ip_address("fe80::9")),  # type: ignore[arg-type]
        mac="02:42:ac:11:00:02", aliases=("a", "b"), links=(("x", "x"), ("y", "z")), gw_priority=-3, driver_opts=found.endpoint.driver_opts,
    )  # fmt: skip
    assert found.endpoint.sysctls == {"net.ipv4.conf.IFNAME.log_martians": "1", "net.ipv6.conf.IFNAME.accept_ra": "0"}


def test_a_static_address_and_the_subnets():
    wanted = netendpoint.EndpointRequest(ipv4=ip_address("10.9.0.2"))  # type: ignore[arg-type]
    netendpoint.check_addresses(wanted, [Subnet(ip_network("10.9.0.0/24"), None)])
    with pytest.raises(InvalidParameter, match=r"no configured subnet or ip-range contain the IP address 10\.9\.0\.2"):
        netendpoint.check_addresses(wanted, [Subnet(ip_network("10.8.0.0/24"), None)])
    for subnets in ([], [Subnet(ip_network("fd00::/64"), None)]):
        with pytest.raises(InvalidParameter, match="only when connecting to networks with user configured subnets"):
            netendpoint.check_addresses(wanted, subnets)


def test_connect_and_disconnect_name_a_container():
    assert netpayload.disconnect({"Container": "c", "Force": True}) == netpayload.DisconnectRequest(container="c", force=True)
    for function in (netpayload.disconnect, lambda body: netpayload.connect(body, "n")):
        with pytest.raises(InvalidParameter, match="no container given"):
            function({})


# -- containers ---------------------------------------------------------------------------------------


def made(host=None, endpoints=None, image=None, **config):
    return netcontainer.container(config, host or {}, endpoints or {}, image)


def test_a_plain_container_joins_the_default_bridge():
    for mode in ("", "default", "bridge"):
        found = made({"NetworkMode": mode})
        assert (found.mode, list(found.endpoints)) == ("bridge", ["bridge"])
    assert list(made({"NetworkMode": "n"}).endpoints) == ["n"]
    assert list(made({"NetworkMode": "default"}, {"default": {"MacAddress": "02:00:00:00:00:01"}}).endpoints) == ["bridge"]
    assert list(made({"NetworkMode": "n"}, {"m": {}, "n": {}}).endpoints) == ["m", "n"]
    assert made({"NetworkMode": "container:x"}, {"n": {}}) == netcontainer.ContainerNetworking(mode="container:x")
    assert made({"NetworkMode": "container:x"}).joins == "x"


CONFLICTS = [
    ({"Links": ["a"]}, {}, "conflicting options: container type network can't be used with links. This would result in undefined behavior"),
    ({}, {"Hostname": "h"}, "conflicting options: hostname and the network mode"), ({"Dns": ["1.1.1.1"]}, {}, "conflicting options: dns and the network mode"),
    ({"ExtraHosts": ["a:1.1.1.1"]}, {}, "conflicting options: custom host-to-IP mapping and the network mode"),
    ({}, {"MacAddress": "02:00:00:00:00:01"}, "conflicting options: mac-address and the network mode"),
    ({"PortBindings": {"80/tcp": [{}]}}, {}, "conflicting options: port publishing and the container type network mode"),
    ({"PublishAllPorts": True}, {}, "conflicting options: port publishing and the container type network mode"),
    ({}, {"ExposedPorts": {"80/tcp": {}}}, "conflicting options: port exposing and the container type network mode"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "config", "words"), CONFLICTS)
def test_who_shares_a_network_has_none_of_his_own(host, config, words):
    with pytest.raises(InvalidParameter) as caught:
        made({"NetworkMode": "container:x", **host}, **config)
    assert str(caught.value) == words


CONTAINERS_WRONG = [
    ({"NetworkMode": "container:"}, {}, {}, "invalid network mode: invalid container format container:<name|id>"),
    ({"NetworkMode": "container"}, {}, {}, "invalid network mode: invalid container format container:<name|id>"),
    ({"NetworkMode": "host", "Links": ["a"]}, {}, {}, "conflicting options: host type networking can't be used with links."),
    ({"NetworkMode": "host"}, {}, {"MacAddress": "02:00:00:00:00:01"}, "conflicting options: mac-address and the network mode"),
    ({"NetworkMode": "none"}, {}, {"MacAddress": "02:00:00:00:00:01"}, "conflicting options: mac-address and the network mode"),
    ({"NetworkMode": "m"}, {"n": {}}, {"MacAddress": "02:00:00:00:00:01"}, "HostConfig.NetworkMode must match the identity of a network"),
    ({"UTSMode": "host"}, {}, {"Hostname": "h"}, "conflicting options: hostname and the UTS mode"),
    ({"NetworkMode": "host"}, {"n": {}}, {}, netcontainer.NOT_WITH_HOST), ({"NetworkMode": "n"}, {"n": {}, "host": {}}, {}, netcontainer.NOT_WITH_HOST),
    ({"NetworkMode": "none"}, {"n": {}}, {}, netcontainer.NOT_WITH_NONE), ({"NetworkMode": "n"}, {"n": {}, "none": {}}, {}, netcontainer.NOT_WITH_NONE),
    ({"NetworkMode": "host"}, {"host": {"MacAddress": "02:00:00:00:00:01"}}, {}, "conflicting options: mac-address and the network mode"),
    ({"NetworkMode": "container:x"}, {"container:x": {"MacAddress": "02:00:00:00:00:01"}}, {}, "conflicting options: mac-address and the network mode"),
    ({"NetworkMode": "container:x"}, {"container:x": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}}}, {}, "supported on user defined networks only"),
    ({}, {"n": None}, {}, "no EndpointSettings for n"), ({}, {"n": 3}, {}, "EndpointsConfig.n"),
    ({}, {"bridge": {"Aliases": ["a"]}}, {}, "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped alias"),
    ({}, {"bridge": {"MacAddress": "02:00:00:00:00:02"}}, {"MacAddress": "02:00:00:00:00:01"}, "must match the endpoint-specific MAC address"),
    ({"ExtraHosts": ["a"]}, {}, {}, 'bad format for add-host: "a"'), ({"ExtraHosts": [":1.1.1.1"]}, {}, {}, 'bad format for add-host: ":1.1.1.1"'),
    ({"ExtraHosts": ["a:"]}, {}, {}, 'invalid IP address in add-host: ""'), ({"ExtraHosts": ["a:x"]}, {}, {}, 'invalid IP address in add-host: "x"'),
    ({"ExtraHosts": ["a\nb:1.1.1.1"]}, {}, {}, "bad format for add-host"), ({"Dns": ["x"]}, {}, {}, "is not an ip address"),
    ({"Dns": ["1.1.1.1\nsearch x"]}, {}, {}, "is not an ip address"), ({"DnsSearch": ["a b"]}, {}, {}, "invalid DNS search domain"),
    ({"DnsOptions": ["a\nb"]}, {}, {}, "invalid DNS option"), ({"Links": [""]}, {}, {}, "empty string specified for links"),
    ({"Links": ["a:b:c"]}, {}, {}, "bad format for links: a:b:c"), ({}, {}, {"Hostname": "a\nb"}, "invalid hostname format"),
    ({}, {}, {"Domainname": "a b"}, "invalid domainname format"),
    *(({"PortBindings": {key: [{}]}}, {}, {}, f'invalid port specification: "{key.partition("/")[0]}"') for key in ("80-82/tcp", "x/tcp", "70000/tcp", "0/tcp", "")),
    ({"PortBindings": {"80/foo": [{}]}}, {}, {}, "invalid proto: foo"),
    *(({"PortBindings": {"80/tcp": [{"HostPort": port}]}}, {}, {}, f'invalid port specification: "{port}"') for port in ("x", "8010-8000", "70000", "-1", "1-", "٣")),
    ({"PortBindings": {"80/tcp": [{"HostIp": "localhost"}]}}, {}, {}, "invalid host IP address for port 80/tcp"),
    ({"PortBindings": {"80/tcp": [3]}}, {}, {}, "a list of objects"), ({}, {}, {"ExposedPorts": {"x": {}}}, 'invalid port specification: "x"'),
]  # fmt: skip


@pytest.mark.parametrize(("host", "endpoints", "config", "words"), CONTAINERS_WRONG)
def test_containers_that_cannot_be(host, endpoints, config, words):
    with pytest.raises(InvalidParameter) as caught:
        made(host, endpoints, **config)
    assert words in str(caught.value)


def test_ports():
    found = made({"PublishAllPorts": True, "PortBindings": {
        "80/tcp": [{"HostPort": "8080"}, {"HostIp": "::1", "HostPort": "8000-8010"}, {"HostPort": "8080"}], "53/UDP": [{"HostIp": "127.0.0.1"}],
        "9": None, "10/tcp": [],
    }}, image={"7000-7002/sctp": {}, "x": {}, "80/http": {}, "0/tcp": {}}, ExposedPorts={"80/tcp": {}, "81": {}})  # fmt: skip
    assert found.bindings == (
        netports.PortBinding(port=80, host_ports=(8080, 8080), given=("", "8080")),
        netports.PortBinding(port=80, host_address=ip_address("::1"), host_ports=(8000, 8010), given=("::1", "8000-8010")),
        netports.PortBinding(port=53, protocol="udp", host_address=ip_address("127.0.0.1"), given=("127.0.0.1", "")),
    )
    assert found.exposed == ((80, "tcp"), (81, "tcp"), (7000, "sctp"), (7001, "sctp"), (7002, "sctp"), (53, "udp"))
    assert found.publish_all


def test_ports_of_a_container_on_the_host_are_discarded_and_said():
    found = made({"NetworkMode": "host", "PublishAllPorts": True, "PortBindings": {"80/tcp": [{"HostPort": "80"}]}})
    assert (found.bindings, found.publish_all, found.endpoints) == ((), False, {})
    assert found.warnings == ("Published ports are discarded when using host network mode",)


def test_names_and_servers():
    found = made({"Dns": ["1.1.1.1", "fe80::1%eth0", ""], "DnsSearch": ["."], "DnsOptions": ["ndots:2"], "Links": ["a", "b:c", "/d:/me/e"],
                  "ExtraHosts": ["a: 1.1.1.1", "b:host-gateway", "c:::1", "d:[::2]"]})  # fmt: skip
    assert found.hosts == (("a", "1.1.1.1"), ("b", "host-gateway"), ("c", "::1"), ("d", "::2"))
    assert (found.dns, found.dns_search, found.dns_options) == (("1.1.1.1", "fe80::1%eth0"), (".",), ("ndots:2",))
    assert found.links == (("a", "a"), ("b", "c"), ("d", "e"))


def test_the_address_of_old_clients_is_the_first_networks():
    found = made({"NetworkMode": "n"}, MacAddress="02:00:00:00:00:01")
    assert found.endpoints["n"].mac == "02:00:00:00:00:01"
    assert "deprecated" in found.warnings[0]


def test_changes_of_ports():
    found = netports.port_changes({"PublishAdd": [{"HostPort": "8080", "ContainerPort": "80", "Protocol": "tcp"}, {"ContainerPort": 53, "Protocol": "udp", "HostIp": "::"}]}).add
    assert [(b.port, b.protocol, str(b.host_address), b.host_ports) for b in found] == [(80, "tcp", "None", (8080, 8080)), (53, "udp", "::", (0, 0))]
    for item in ({}, {"ContainerPort": "x"}, {"ContainerPort": "80", "Protocol": "x"}, 3, {"ContainerPort": True}):
        with pytest.raises(InvalidParameter):
            netports.port_changes({"PublishAdd": [item]})


# -- whatever comes -----------------------------------------------------------------------------------

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(
    ["10.9.0.0/24", "10.9.0.1", "fd00::/64", "80/tcp", "8000-8010", "container:x", "host", "bridge", "host-gateway", "a:1.1.1.1", "02:00:00:00:00:01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)  # fmt: skip
NETWORK_KEYS = "Name Driver Options EnableIPv4 EnableIPv6 IPAM Internal Attachable Ingress ConfigOnly ConfigFrom Labels Scope".split()
IPAM_KEYS = "Driver Config Options".split()
CONFIG_KEYS = "Subnet IPRange Gateway AuxiliaryAddresses".split()
ENDPOINT_KEYS = "IPAMConfig Links MacAddress Aliases DriverOpts GwPriority".split()
HOST_KEYS = "NetworkMode PortBindings PublishAllPorts Links Dns DnsSearch DnsOptions ExtraHosts UTSMode".split()
IPAM = st.dictionaries(st.sampled_from(IPAM_KEYS), JSON | st.lists(st.dictionaries(st.sampled_from(CONFIG_KEYS), JSON), max_size=3))


@given(st.dictionaries(st.sampled_from(NETWORK_KEYS), JSON | IPAM))
def test_no_network_makes_another_error(body):
    try:
        netpayload.network_create(body)
    except BerthError:
        pass


@given(st.dictionaries(st.sampled_from(HOST_KEYS), JSON), st.dictionaries(st.sampled_from(["n", "bridge", "none"]), JSON | st.dictionaries(st.sampled_from(ENDPOINT_KEYS), JSON)),
       st.dictionaries(st.sampled_from(["Hostname", "Domainname", "MacAddress", "ExposedPorts"]), JSON))  # fmt: skip
def test_no_container_makes_another_error(host, endpoints, config):
    try:
        netcontainer.container(config, host, endpoints)
    except InvalidParameter:
        pass


@given(st.ip_addresses(v=4), st.integers(8, 29), st.ip_addresses(v=4))
def test_subnets_are_taken_or_told_what_they_should_be(address, length, gateway):
    network = ip_network(f"{address}/{length}", strict=False)
    right = address == network.network_address and gateway in network and gateway not in (network[0], network[-1])
    try:
        found = ipam({"Subnet": f"{address}/{length}", "Gateway": str(gateway)}).subnets
    except InvalidParameter:
        found = ()
    assert found == ((Subnet(network, gateway),) if right and not network.is_multicast and not network.is_loopback else ())
