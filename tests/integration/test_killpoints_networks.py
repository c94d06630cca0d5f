"""The engine killed right before a netlink message, file operation, SQL statement or message of what changes networks.

The next engine finds everything: what runs has its addresses, names and ports, and nobody has what no container has. That is read with
ip, nft, nslookup and curl. BERTH_KILLPOINTS=all tries every point (minutes); without it each verb is tried at three.
"""

import collections
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from typing import Any

import netlab
import pytest
from harness import group_file, wait_until
from killpoints import KINDS
from netlab import Lab, sh
from test_killpoints import Json, Killed

from berth.engine.nets.store import instance_of
from berth.network.model import Names

ALL = os.environ.get("BERTH_KILLPOINTS") == "all"
pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if ALL else 120)]

HTTP = ["sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w"]
Entry = dict[str, Any]


class Hosts:
    """An engine that kills itself, on a host of its own, with a container that nobody touches."""

    def __init__(self, lab: Lab, killed: Killed) -> None:
        self.lab = lab
        self.killed = killed
        self.names = Names.of(instance_of(killed.engine.exec))
        self.base = self.network("base")
        self.other = self.up("other", "base", ports={"80/tcp": "18100"}, command=HTTP)
        self.asks = self.up("asks", "base")
        wait_until(lambda: self.fetch(18100) == "hello\n", "the server")
        self.before = self.found(self.other), self.found(self.asks)

    def network(self, name: str) -> str:
        answer = self.killed.do("POST", "/networks/create", {"Name": name})
        assert isinstance(answer, dict)
        return str(answer["Id"])

    def create(self, name: str, network: str = "bridge", ports: dict[str, str] | None = None, command: list[str] | None = None, **config: Any) -> str:
        bindings = {key: [{"HostPort": port}] for key, port in (ports or {}).items()}
        body: Json = {"Image": "bb", "Cmd": command or ["sleep", "1000"], "HostConfig": {"NetworkMode": network, "PortBindings": bindings}, **config}
        answer = self.killed.do("POST", f"/containers/create?name={name}", body)
        assert isinstance(answer, dict)
        return str(answer["Id"])

    def up(self, name: str, network: str = "bridge", **options: Any) -> str:
        identity = self.create(name, network, **options)
        self.killed.do("POST", f"/containers/{identity}/start")
        return identity

    def found(self, identity: str) -> Entry:
        answer = self.killed.do("GET", f"/containers/{identity}/json")
        assert isinstance(answer, dict)
        return {"networks": answer["NetworkSettings"]["Networks"], "ports": answer["NetworkSettings"]["Ports"], "pid": answer["State"]["Pid"]}

    def fetch(self, port: int) -> str:
        return self.lab.fetch("client", f"http://{netlab.HOST}:{port}/")

    def inside(self, pid: int, script: str) -> str:
        return sh("nsenter", "-n", "-t", str(pid), "sh", "-c", script).stdout

    def resolves(self, pid: int, name: str) -> str:
        return sh("nsenter", "-n", "-t", str(pid), "nslookup", "-timeout=2", "-retry=1", name, "127.0.0.11", check=False).stdout

    # -- what must hold whatever the moment was -------------------------------------------------

    def problems(self) -> list[str]:
        """Where the kernel does not have what the engine says it has, or has more."""
        listed = self.killed.do("GET", "/containers/json")
        assert isinstance(listed, list)
        found = {entry["Id"]: self.found(entry["Id"]) for entry in listed}
        wrong = [text for identity, entry in found.items() for text in self._wrong_inside(identity, entry)]
        wrong += self._doubled(found)
        ports = {
            (key.partition("/")[2], place["HostIp"], int(place["HostPort"]))
            for entry in found.values() for key, places in entry["ports"].items() for place in places or []
        }  # fmt: skip
        links = json.loads(self.lab.at("host", "ip", "-j", "-d", "link").stdout)
        pairs = sum(1 for link in links if link["ifname"].startswith("veth"))
        places = sum(len(entry["networks"]) for entry in found.values())
        if pairs != places:
            wrong.append(f"{pairs} pairs of interfaces for {places} places in networks")
        if unbridged := [link["ifname"] for link in links if link["ifname"].startswith("veth") and "master" not in link]:
            wrong.append(f"in no bridge: {unbridged}")
        wrong += self._wrong_bridges(links) + self._wrong_rules(ports) + self._wrong_holds(ports)
        return wrong

    def _wrong_inside(self, identity: str, entry: Entry) -> list[str]:
        wanted = {address for place in entry["networks"].values() for address in [f"{place['IPAddress']}/{place['IPPrefixLen']}"]}
        text = self.inside(entry["pid"], "ip -j address; ip -j route")
        links, routes = (json.loads(line) for line in text.splitlines())
        have = {
            f"{address['local']}/{address['prefixlen']}" for link in links if link["ifname"] != "lo"
            for address in link["addr_info"] if address["family"] == "inet"
        }  # fmt: skip
        routers = {route["gateway"] for route in routes if route["dst"] == "default"}
        said = {place["Gateway"] for place in entry["networks"].values()} - {""}
        wrong = [f"{identity[:12]} has {have} and should have {wanted}"] if have != wanted else []
        if not routers <= said or len(routers) != min(1, len(wanted)):
            wrong.append(f"{identity[:12]} leaves by {routers}, its networks have {said}")
        with open(f"{self.killed.engine.data}/containers/{identity}/hosts") as file:
            lines = {line.split()[0] for line in file if line.split()}
        if missing := {address.partition("/")[0] for address in wanted} - lines:
            wrong.append(f"{identity[:12]} has no {missing} in its hosts")
        more = {line for line in lines if line.count(".") == 3 and line != "127.0.0.1"} - {address.partition("/")[0] for address in wanted}
        if more:
            wrong.append(f"{identity[:12]} has {more} in its hosts")
        return wrong

    def _doubled(self, found: dict[str, Entry]) -> list[str]:
        counts = collections.Counter(place["IPAddress"] for entry in found.values() for place in entry["networks"].values())
        return [f"{address} is had {count} times" for address, count in counts.items() if count > 1]

    def _wrong_bridges(self, links: list[Entry]) -> list[str]:
        networks = self.killed.do("GET", "/networks")
        assert isinstance(networks, list)
        wanted = {f"br-{network['Id'][:12]}" for network in networks if network["Name"] not in ("bridge", "host", "none")}
        have = {link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") == "bridge"} - {self.names.bridge}
        if have != wanted:
            return [f"bridges {have} for the networks {wanted}"]
        wrong = []
        for network in networks:
            for config in network["IPAM"]["Config"] or []:
                name = network["Options"].get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
                address = f"{config['Gateway']}/{ip_interface(config['Subnet']).network.prefixlen}"
                if name in have and address not in self.lab.at("host", "ip", "address", "show", name).stdout:
                    wrong.append(f"{name} lacks {address}")
        return wrong

    def _wrong_rules(self, ports: set[tuple[str, str, int]]) -> list[str]:
        listed = json.loads(self.lab.at("host", "nft", "-j", "list", "table", "ip", self.names.table).stdout)["nftables"]
        maps = {entry["map"]["name"]: entry["map"].get("elem", []) for entry in listed if "map" in entry}
        led = {(key["concat"][0], key["concat"][1]) for key, _ in maps["any-ports"]}
        wanted = {(protocol, port) for protocol, address, port in ports if address == "0.0.0.0"}
        return [f"rules lead {led}, published are {wanted}"] if led != wanted else []

    def _wrong_holds(self, ports: set[tuple[str, str, int]]) -> list[str]:
        """Ports that tests use are taken if, and only if, they are published."""
        wanted = {port for protocol, _, port in ports if protocol == "tcp"}
        free = {int(word) for word in self.lab.at("host", "python3", "-c", _FREE, *map(str, PORTS)).stdout.split()}
        return [f"free are {free}, published are {wanted}"] if free != set(PORTS) - wanted else []

    def check(self) -> None:
        wait_until(lambda: not self.problems(), "problems", 8)
        assert (self.found(self.other), self.found(self.asks)) == self.before
        assert self.fetch(18100) == "hello\n", "the port of a container that nobody touched"
        wait_until(lambda: self.before[0]["networks"]["base"]["IPAddress"] in self.resolves(self.before[1]["pid"], "other"), "a name", 5)
        log = self.killed.engine.log()
        assert "Traceback" not in log, log[-3000:]

    def clean(self) -> None:
        for record in self.killed.records().values():
            if record["name"] not in ("other", "asks"):
                status, answer = self.killed.ask("DELETE", f"/containers/{record['id']}?force=1")
                assert status in (204, 404, 409), answer
        wait_until(lambda: set(self.killed.records()) == {"other", "asks"}, "containers")
        networks = self.killed.do("GET", "/networks")
        assert isinstance(networks, list)
        for network in networks:
            if network["Name"] not in ("bridge", "host", "none", "base"):
                self.killed.do("DELETE", f"/networks/{network['Id']}")


PORTS = (18100, 18101, 18102, 18103)
_FREE = """
import socket, sys
for port in map(int, sys.argv[1:]):
    try:
        socket.create_server(("", port)).close()
        print(port)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def hosts(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    lab = Lab()
    try:
        before = lab.links(), lab.rules()
        killed = Killed(str(tmp_path_factory.mktemp("killpoints") / "control"), lab.enter("host"))
        killed.engine.docker("import", rootfs_tar, "bb")
        yield Hosts(lab, killed)
        killed.leave_alone()
        killed.engine.finish()
        assert (lab.links(), lab.rules()) == before
    finally:
        lab.close()


class Verb:
    """prepare: what is there before; act: the request; outcomes: what may be seen of it then, by `see`."""

    def __init__(self, prepare: Callable[[Hosts], object], act: Callable[[Hosts], object], see: Callable[[Hosts], object], *outcomes: object) -> None:
        self.prepare = prepare
        self.act = act
        self.see = see
        self.outcomes = outcomes


def ask(method: str, path: str, body: Json = None) -> Callable[[Hosts], object]:
    return lambda hosts: hosts.killed.ask(method, path, body)


def status(hosts: Hosts) -> str:
    return str((hosts.killed.records().get("kp") or {}).get("status", "gone"))


def networks_of(hosts: Hosts) -> list[str]:
    return sorted(hosts.found("kp")["networks"])


def networks(hosts: Hosts) -> bool:
    listed = hosts.killed.do("GET", "/networks")
    assert isinstance(listed, list)
    return any(network["Name"] == "kpnet" for network in listed)


def bindings(hosts: Hosts) -> tuple[list[str], list[str]]:
    """Published ports, by the record and by what runs: they must not differ."""
    answer = hosts.killed.do("GET", "/containers/kp/json")
    assert isinstance(answer, dict)
    kept = sorted(binding["HostPort"] for places in answer["HostConfig"]["PortBindings"].values() for binding in places)
    live = sorted({place["HostPort"] for places in answer["NetworkSettings"]["Ports"].values() for place in places or []})
    return kept, live


def parts(hosts: Hosts) -> tuple[bool, bool, bool]:
    """Which of the limit, mount and port of an update are there; in the record, where there may be less, as in the kernel."""
    answer = hosts.killed.do("GET", "/containers/kp/json")
    assert isinstance(answer, dict)
    with open(f"/proc/{answer['State']['Pid']}/mountinfo") as file:
        mounted = any(line.split()[4] == "/mem" for line in file)
    kept, live = bindings(hosts)
    limit = answer["HostConfig"]["PidsLimit"] == 50
    assert kept == live
    assert any(point["Destination"] == "/mem" for point in answer["Mounts"]) == mounted
    assert not limit or group_file(answer["Id"], "pids", "pids.max") == "50"
    return limit, mounted, live == ["18102"]


def both(ports: str) -> tuple[list[str], list[str]]:
    return ports.split(), ports.split()


def name_and_answer(hosts: Hosts) -> tuple[str, bool, bool]:
    """Its name, and which of the two others find it by."""
    names = {record["id"]: name for name, record in hosts.killed.records().items()}
    identity = next(identity for identity in names if names[identity].startswith("kp"))
    address = hosts.found(identity)["networks"]["base"]["IPAddress"]
    pid = hosts.before[1]["pid"]
    return names[identity], address in hosts.resolves(pid, "kp"), address in hosts.resolves(pid, "kp2")


def first(hosts: Hosts) -> None:
    """There is no default bridge yet."""
    hosts.create("kp")
    hosts.killed.engine.kill()
    hosts.lab.at("host", "ip", "link", "delete", hosts.names.bridge, check=False)
    hosts.killed.engine.start()


def with_network(hosts: Hosts, *, joined: bool) -> None:
    hosts.network("kpnet")
    hosts.up("kp", "base", ports={"80/tcp": "18101"})
    if joined:
        hosts.killed.do("POST", "/networks/kpnet/connect", {"Container": "kp"})


_UPDATE: Entry = {"PublishAdd": [{"HostPort": "18102", "ContainerPort": "80"}], "PublishRemove": [{"HostPort": "18101", "ContainerPort": "80"}]}
_MORE: Entry = {"PidsLimit": 50, "MountAdd": [{"Type": "tmpfs", "Target": "/mem"}]}
_TWO = {"80/tcp": "18101", "53/udp": "18102"}
VERBS = {
    "first": Verb(first, ask("POST", "/containers/kp/start"), status, "created", "running"),
    "start": Verb(lambda h: h.create("kp", "base", ports=_TWO), ask("POST", "/containers/kp/start"), status, "created", "running"),
    "stop": Verb(lambda h: h.up("kp", "base", ports=_TWO), ask("POST", "/containers/kp/stop?t=0"), status, "running", "exited"),
    "restart": Verb(lambda h: h.up("kp", "base", ports=_TWO), ask("POST", "/containers/kp/restart?t=0"), status, "running", "exited"),
    "rm-force": Verb(lambda h: h.up("kp", "base", ports=_TWO), ask("DELETE", "/containers/kp?force=1"), status, "running", "exited", "gone"),
    "network-create": Verb(lambda h: None, ask("POST", "/networks/create", {"Name": "kpnet"}), networks, False, True),
    "network-rm": Verb(lambda h: h.network("kpnet"), ask("DELETE", "/networks/kpnet"), networks, False, True),
    "connect": Verb(
        lambda h: with_network(h, joined=False), ask("POST", "/networks/kpnet/connect", {"Container": "kp", "EndpointConfig": {"GwPriority": 7}}),
        lambda h: (networks_of(h), bindings(h)), (["base"], both("18101")), (["base", "kpnet"], both("18101")),
    ),
    "disconnect": Verb(
        lambda h: with_network(h, joined=True), ask("POST", "/networks/base/disconnect", {"Container": "kp"}),
        lambda h: (networks_of(h), bindings(h)), (["base", "kpnet"], both("18101")), (["kpnet"], both("18101")),
    ),
    "publish": Verb(
        lambda h: h.up("kp", "base", ports={"80/tcp": "18101"}), ask("POST", "/containers/kp/update", _UPDATE), bindings, both("18101"), both("18102"),
    ),
    "update": Verb(
        lambda h: h.up("kp", "base", ports={"80/tcp": "18101"}), ask("POST", "/containers/kp/update", {**_UPDATE, **_MORE}), parts,
        (False, False, False), (True, False, False), (True, True, False), (True, True, True),
    ),
    "rename": Verb(
        lambda h: h.up("kp", "base"), ask("POST", "/containers/kp/rename?name=kp2"), name_and_answer, ("kp", True, False), ("kp2", False, True),
    ),
}  # fmt: skip


def chosen_points(turn: int, points: list[str]) -> list[tuple[str, int]]:
    """(kind, occurrence): two of the kernel's, and one of another kind, each in turn."""
    counts = {kind: sum(point.startswith(f"{kind} ") for point in points) for kind in KINDS[1:]}
    if ALL:
        return [(kind, at) for kind, count in counts.items() for at in range(1, count + 1)]
    kernel = counts.pop("kernel")
    counts["message"] = 0 if any(counts[kind] for kind in counts if kind != "message") else counts["message"]  # they go in batches, now more, now fewer
    others = [kind for kind, count in counts.items() if count]
    kind = others[turn % len(others)]
    picks = [("kernel", 1 + turn % max(1, kernel)), ("kernel", kernel), (kind, (counts[kind] + 1) // 2 + turn % 2)]
    return [(kind, at) for kind, at in dict.fromkeys(picks) if at]


def recorded(hosts: Hosts, chosen: Verb) -> list[str]:
    """The points of a verb that is not killed."""
    killed = hosts.killed
    chosen.prepare(hosts)
    killed.count()
    chosen.act(hosts)
    wait_until(lambda: not hosts.problems(), "problems of one that is not killed")  # what comes after the answer is counted too
    killed.leave_alone()
    points = killed.points()
    killed.forget_points()
    hosts.check()
    assert chosen.see(hosts) in chosen.outcomes
    hosts.clean()
    return points


def common(one: list[str], other: list[str]) -> list[str]:
    """Of each kind as many as both have: what goes on in the background may come within one of them."""
    def of(points: list[str], kind: str) -> list[str]:
        return [point for point in points if point.startswith(f"{kind} ")]

    return [point for kind in KINDS[1:] for point, _ in zip(of(one, kind), of(other, kind), strict=False)]


@pytest.mark.parametrize("verb", VERBS)
def test_killed_within(hosts: Hosts, verb: str) -> None:
    chosen, killed = VERBS[verb], hosts.killed
    hosts.clean()  # of a verb that failed
    points = common(*(recorded(hosts, chosen) for _ in range(2)))
    assert points
    print(verb, len(points), *points, sep="\n  ")
    hit, todo = 0, chosen_points(list(VERBS).index(verb), points)
    for kind, at in todo:
        chosen.prepare(hosts)
        killed.count(kind, at)
        chosen.act(hosts)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: _is_hit(killed, kind, at), "the end", 0.5)  # noqa: B023
        killed.leave_alone()
        seen = killed.points()
        killed.forget_points()
        hit += sum(point.startswith(f"{kind} ") for point in seen) >= at
        killed.engine.kill()
        killed.engine.start()
        try:
            hosts.check()
            assert chosen.see(hosts) in chosen.outcomes, chosen.see(hosts)
            hosts.clean()
            hosts.check()
        except AssertionError as error:
            last = (seen or ["none"])[-1]
            raise AssertionError(f"{verb}, killed before {kind} {at} ({last}): {error}\n{hosts.problems()}\n{killed.engine.log()[-3000:]}") from error
    assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met: the engine does not do the same twice"


def _is_hit(killed: Killed, kind: str, at: int) -> bool:
    return sum(point.startswith(f"{kind} ") for point in killed.points()) >= at
