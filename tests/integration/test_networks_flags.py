"""Docker's command line on berth: every flag of networks does in the container what it says. Seen with ip, ss, curl and nft.

Options of network drivers are in test_networks_drivers.py.
"""

import json
import re
from collections.abc import Callable

import netlab
import pytest
from harness import Engine, wait_until
from netlab import HTTP, Lab

pytestmark = pytest.mark.root

Up = Callable[..., str]


# -- the flags of `run` -------------------------------------------------------------------------------


def test_addresses_of_ones_own_choice(net: Engine, network: Up, start: Up) -> None:
    network("chosen", "--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "2001:db8:61::/64", "--gateway", "10.61.0.9")
    one = start("--network", "chosen", "--ip", "10.61.0.61", "--ip6", "2001:db8:61::61", "--mac-address", "02:42:0a:3d:00:3d", "--link-local-ip", "169.254.61.61")
    eth = netlab.interfaces(net, one)["eth0"]
    assert {"10.61.0.61/24", "2001:db8:61::61/64", "169.254.61.61/16"} <= set(eth["addresses"])
    assert eth["address"] == "02:42:0a:3d:00:3d"
    assert netlab.routes(net, one)["default"] == "10.61.0.9"
    assert netlab.routes(net, one, "-6")["default"] == "2001:db8:61::1"
    shown = netlab.settings(net, one)["Networks"]["chosen"]
    assert (shown["IPAddress"], shown["GlobalIPv6Address"], shown["MacAddress"]) == ("10.61.0.61", "2001:db8:61::61", "02:42:0a:3d:00:3d")


def test_several_networks_and_the_way_out(net: Engine, network: Up, start: Up) -> None:
    for number, name in ((62, "aa"), (63, "bb"), (64, "cc")):
        network(name, "--subnet", f"10.{number}.0.0/24")
    one = start("--network", "aa", "--network", "name=bb,gw-priority=5,alias=x,driver-opt=com.docker.network.endpoint.ifname=lan7,ip=10.63.0.7", "--network", "cc")
    found = netlab.interfaces(net, one)
    assert found["lan7"]["addresses"][0] == "10.63.0.7/24"
    assert {link["addresses"][0].rpartition(".")[0] for link in found.values()} == {"10.62.0", "10.63.0", "10.64.0"}
    assert netlab.routes(net, one)["default"] == "10.63.0.1"
    net.docker("network", "disconnect", "bb", one)
    assert netlab.routes(net, one)["default"] == "10.62.0.1"
    net.docker("network", "connect", "--gw-priority", "9", "--driver-opt", "com.docker.network.endpoint.ifname=lan8", "bb", one)
    assert netlab.routes(net, one)["default"] == "10.63.0.1"
    assert "lan8" in netlab.interfaces(net, one)


def test_sysctls(net: Engine, network: Up, start: Up) -> None:
    network("ctl")
    one = start("--network", 'name=ctl,"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0"')
    assert net.docker("exec", one, "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians").stdout == "1\n"
    two = start("--network", "ctl", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7")
    assert net.docker("exec", two, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == "7\n"


def test_links_on_the_default_bridge(net: Engine, start: Up) -> None:
    serve = ("sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 5432 -h /w")
    start("--name", "link-db", "--expose", "5432", "-e", "A=b c", command=serve)
    web = start("--name", "link-web", "--link", "link-db:my-db", "--link", "link-db")
    address = netlab.settings(net, "link-db")["IPAddress"]
    hosts = net.docker("exec", web, "cat", "/etc/hosts").stdout
    assert re.search(rf"^{re.escape(address)}\tmy-db [0-9a-f]{{12}} link-db$", hosts, re.MULTILINE)
    variables = dict(line.partition("=")[::2] for line in net.docker("exec", web, "env").stdout.splitlines())
    assert {name: value for name, value in variables.items() if name.startswith("MY_DB")} == {
        "MY_DB_NAME": "/link-web/my-db", "MY_DB_ENV_A": "b c", "MY_DB_PORT": f"tcp://{address}:5432", "MY_DB_PORT_5432_TCP": f"tcp://{address}:5432",
        "MY_DB_PORT_5432_TCP_ADDR": address, "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp",
    }  # fmt: skip
    wait_until(lambda: netlab.gets(net, web, "http://my-db:5432/"), "the server")
    net.docker("stop", "-t", "0", "link-db")
    start()  # which may get its address
    net.docker("start", "link-db")
    assert netlab.settings(net, "link-db")["IPAddress"] != address
    wait_until(lambda: netlab.gets(net, web, "http://link-db:5432/"), "the server at its new address")


def test_links_in_a_network(net: Engine, network: Up, start: Up) -> None:
    network("linked")
    start("--network", "linked", "--name", "target", command=HTTP)
    one = start("--network", "linked", "--link", "target:other-name")
    wait_until(lambda: netlab.gets(net, one, "http://other-name/"), "the server")
    assert "TARGET" not in net.docker("exec", one, "env").stdout
    third = start("--network", "linked", "--network-alias", "third")
    assert not netlab.gets(net, third, "http://other-name/")  # a link is its owner's
    assert netlab.settings(net, third)["Networks"]["linked"]["Aliases"] == ["third"]


def test_names_and_servers(net: Engine, lab: Lab, start: Up) -> None:
    with lab.running("host", "python3", "-u", "-m", "http.server", "18999"):
        one = start("--hostname", "me", "--domainname", "example.org", "--dns", "192.0.2.53", "--dns-search", "a.example", "--dns-opt", "timeout:3",
                    "--add-host", "there:192.0.2.9", "--add-host", "gate:host-gateway")  # fmt: skip
        conf = net.docker("exec", one, "cat", "/etc/resolv.conf").stdout
        assert re.findall(r"^(?:nameserver|search|options) .*", conf, re.MULTILINE) == ["nameserver 192.0.2.53", "search a.example", "options timeout:3"]
        hosts = net.docker("exec", one, "cat", "/etc/hosts").stdout
        assert "192.0.2.9\tthere\n" in hosts
        assert f"{netlab.settings(net, one)['IPAddress']}\tme.example.org me\n" in hosts
        assert net.docker("exec", one, "hostname", "-f").stdout == "me.example.org\n"
        wait_until(lambda: "Directory listing" in net.docker("exec", one, "timeout", "5", "wget", "-qO-", "http://gate:18999/", code=None).stdout, "the host")


# -- published ports ----------------------------------------------------------------------------------


_MAY_LISTEN = """
import socket, sys
address, port, kind = sys.argv[1], int(sys.argv[2]), socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
if ":" in address:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
sock.bind((address, port))
kind == socket.SOCK_DGRAM or sock.listen()
"""


def is_held(lab: Lab, address: str, port: int, protocol: str = "tcp") -> bool:
    """Whether a server of the host's would be refused there."""
    tried = lab.at("host", "python3", "-c", _MAY_LISTEN, address, str(port), protocol, check=False)
    assert tried.returncode == 0 or "Address already in use" in tried.stderr
    return tried.returncode != 0


BOTH = [f"{netlab.HOST}:18001", f"[{netlab.HOST6}]:18001"]


@pytest.mark.parametrize(("given", "shown", "inner", "outer"), [
    ("18001:80", ["0.0.0.0:18001", "[::]:18001"], ["127.0.0.1:18001", "[::1]:18001", f"{netlab.HOST}:18001"], BOTH),
    ("0.0.0.0:18001:80", ["0.0.0.0:18001"], ["127.0.0.1:18001"], BOTH[:1]),
    ("127.0.0.1:18001:80", ["127.0.0.1:18001"], ["127.0.0.1:18001"], []),
    ("[::1]:18001:80", ["[::1]:18001"], ["[::1]:18001"], []),
    ("[::]:18001:80", ["[::]:18001"], ["[::1]:18001"], BOTH[1:]),
    (f"{netlab.HOST}:18001:80", [f"{netlab.HOST}:18001"], [f"{netlab.HOST}:18001"], BOTH[:1]),
    ("published=18001,target=80,protocol=tcp", ["0.0.0.0:18001", "[::]:18001"], ["127.0.0.1:18001"], BOTH),
])  # fmt: skip
def test_spellings_of_ports(net: Engine, lab: Lab, start: Up, given: str, shown: list[str], inner: list[str], outer: list[str]) -> None:
    assert net.docker("port", start("-p", given, command=HTTP), "80").stdout.split() == shown
    anywhere = ("0.0.0.0", "::", "127.0.0.1", "::1", netlab.HOST)
    own = [at.rpartition(":")[0].strip("[]") for at in shown]
    assert {at for at in anywhere if is_held(lab, at, 18001)} == {
        at for at in anywhere for each in own if at == each or ((":" in at) == (":" in each) and {at, each} & {"0.0.0.0", "::"})
    }  # fmt: skip
    for at in inner:
        wait_until(lambda at=at: lab.fetch("host", f"http://{at}/", "-g") == "hello\n", f"the server at {at}")  # type: ignore[misc]
    assert [at for at in BOTH if lab.fetch("client", f"http://{at}/", "-g", timeout_s=1) == "hello\n"] == outer


def test_what_is_on_loopback_is_not_reached_by_a_route(net: Engine, lab: Lab, start: Up) -> None:
    """A neighbour that sends packets for the container's own address gets no answer, published port or not."""
    one = start("-p", "127.0.0.1:18002:80", "-p", "18003:81", command=HTTP)
    wait_until(lambda: lab.fetch("host", "http://127.0.0.1:18002/") == "hello\n", "the server")
    own = netlab.settings(net, one)["IPAddress"]
    assert lab.fetch("client", f"http://{own}/", timeout_s=1) == ""  # the client's default route is the host
    assert lab.at("client", "ip", "route", "get", own).stdout.split()[2] == netlab.HOST


def test_ranges_and_any_port(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-p", "18010-18012:80-82", "-p", "18020-18029:90", "-p", "91", "-p", "127.0.0.1::92/udp", "-P", "--expose", "93", "--expose", "94-95/udp")
    ports = {key: sorted({int(place["HostPort"]) for place in places}) for key, places in netlab.settings(net, one)["Ports"].items()}
    assert [ports[f"{port}/tcp"] for port in (80, 81, 82, 90)] == [[18010], [18011], [18012], [18020]]
    assert set(ports) == {"80/tcp", "81/tcp", "82/tcp", "90/tcp", "91/tcp", "92/udp", "93/tcp", "94/udp", "95/udp"}
    low, high = map(int, lab.at("host", "cat", "/proc/sys/net/ipv4/ip_local_port_range").stdout.split())
    assert all(low <= ports[key][0] <= high for key in ("91/tcp", "92/udp", "93/tcp", "94/udp"))
    assert is_held(lab, "127.0.0.1", ports["92/udp"][0], "udp")
    assert is_held(lab, "0.0.0.0", ports["93/tcp"][0])
    other = start("-p", "18020-18029:90")
    assert net.docker("port", other, "90").stdout.split()[0] == "0.0.0.0:18021"


def test_sctp_where_the_kernel_has_no_sockets_for_it(net: Engine, lab: Lab, start: Up) -> None:
    one = start("-p", "18030:80/sctp")
    assert net.docker("port", one).stdout.startswith("80/sctp -> 0.0.0.0:18030")
    address = netlab.settings(net, one)["IPAddress"]
    assert re.search(rf"(132|sctp) \. 18030 : {re.escape(address)} \. 80", lab.rules())
    for taken in ("18030:80/sctp", f"{netlab.HOST}:18030:81/sctp"):
        refused = net.docker("run", "--rm", "-p", taken, "bb", "true", code=125).stderr
        assert f"port is already allocated: 18030/sctp is in use by container {one[:12]}" in refused


def test_a_port_in_use_names_its_process(net: Engine, lab: Lab) -> None:
    with lab.running("host", "python3", "-u", "-m", "http.server", "18040"):
        wait_until(lambda: "18040" in lab.at("host", "ss", "-Hltn").stdout, "the server")
        refused = net.docker("run", "--rm", "-p", "18040:80", "bb", "true", code=125)
    assert "18040" in refused.stderr
    assert "port is already allocated" in refused.stderr
    assert "python" in refused.stderr


# -- networks that are nobody's or another's ----------------------------------------------------------


def test_host_neachand_another_container(net: Engine, start: Up) -> None:
    assert set(re.findall(r"^\d+: ([\w-]+)", net.docker("run", "--rm", "--network", "none", "bb", "ip", "-o", "link").stdout, re.MULTILINE)) == {"lo"}
    of_host = net.docker("run", "--rm", "--network", "host", "bb", "ip", "-o", "link").stdout
    assert {"to-client", "to-far"} <= {re.split("[@:]", name)[0] for name in re.findall(r"^\d+: (\S+)", of_host, re.MULTILINE)}
    one = start("--hostname", "shared", "-p", "18070:80", command=HTTP)
    other = start("--network", f"container:{one}")
    assert net.docker("exec", other, "hostname").stdout == "shared\n"
    wait_until(lambda: netlab.gets(net, other, "http://127.0.0.1/"), "the server")
    assert "conflicting options" in net.docker("run", "--rm", "--network", f"container:{one}", "-p", "80:80", "bb", "true", code=125).stderr
    assert json.loads(net.docker("inspect", other).stdout)[0]["NetworkSettings"]["Networks"] == {}
