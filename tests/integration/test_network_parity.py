"""The same life of networks on Debian's dockerd, with its real default bridge, and on berth: what clients are told after each step.

Each has a network namespace to itself in which it is the only one, so addresses, ports and MAC addresses are the same, too. What differs on
purpose is in DIFFERENCES, with the reason; anything else fails, and so does an entry that nothing needs.
"""

import contextlib
import difflib
import itertools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine
from parity import Answer, Peer

if not HAVE_DOCKERD:
    pytest.skip("needs Debian's docker.io", allow_module_level=True)

pytestmark = pytest.mark.root
V = "/v1.41"
_PARENT = "link0"  # of macvlans; the other end of the cable has nobody
_ALONE = ("unshare", "-n", "sh", "-c", f'ip link set lo up && ip link add {_PARENT} up type veth peer name link1 && exec "$@"', "sh")

Step = tuple[Any, ...]  # method, target, body


def create(name: str, host: dict[str, Any] | None = None, endpoints: dict[str, Any] | None = None, **config: Any) -> list[Step]:
    """A container, made and started."""
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], **config, "HostConfig": host or {}, "NetworkingConfig": {"EndpointsConfig": endpoints or {}}}
    return [("POST", f"/containers/create?name={name}", body), ("POST", f"/containers/{name}/start")]


_SUBNETS = {name: f"10.81.{number}.0/24" for number, name in enumerate(("one", "two", "three", "over", "six", "nodev"))}


def network(name: str, **body: Any) -> Step:
    """Where subnets are free, dockerd 20.10 and berth have their own orders."""
    given = {"IPAM": ipam(Subnet=_SUBNETS[name], Gateway=_SUBNETS[name].replace(".0/24", ".1"))} if name in _SUBNETS else {}
    return ("POST", "/networks/create", {"Name": name, "CheckDuplicate": True, **given, **body})


def ipam(**subnet: Any) -> dict[str, Any]:
    return {"Driver": "default", "Config": [subnet]}


def join(name: str, container: str, **endpoint: Any) -> Step:
    return ("POST", f"/networks/{name}/connect", {"Container": container, **({"EndpointConfig": endpoint} if endpoint else {})})


def leave(name: str, container: str, *, force: bool = False) -> Step:
    return ("POST", f"/networks/{name}/disconnect", {"Container": container, "Force": force})


def remove(*containers: str) -> list[Step]:
    return [("DELETE", f"/containers/{name}?force=1") for name in containers]


def stop(*containers: str) -> list[Step]:
    return [("POST", f"/containers/{name}/stop?t=0") for name in containers]


def drop(*networks: str) -> list[Step]:
    return [("DELETE", f"/networks/{name}") for name in networks]


def filtered(method: str, target: str, *filters: Any) -> list[Step]:
    return [(method, f"{target}filters={quote(each if isinstance(each, str) else json.dumps(each))}") for each in filters]


FIXED = ipam(Subnet="10.91.0.0/24", IPRange="10.91.0.128/25", Gateway="10.91.0.1", AuxiliaryAddresses={"printer": "10.91.0.128"})
AT_77 = {"fixed": {"IPAMConfig": {"IPv4Address": "10.91.0.77"}}}

LIVES: dict[str, list[Step]] = {
    "the default bridge": [
        *create("ka"), *create("kb", {"PortBindings": {"80/tcp": [{"HostPort": "18080"}]}}, ExposedPorts={"80/tcp": {}, "81/tcp": {}}, Hostname="bee"),
        *create("kc", {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18081"}], "53/udp": [{"HostPort": "18053"}]}}, ExposedPorts={"80/tcp": {}, "53/udp": {}}),
        *stop("kb"), ("POST", "/containers/kb/start"), ("POST", "/containers/ka/rename?name=kaa"), *create("taken", {"PortBindings": {"80/tcp": [{"HostPort": "18080"}]}}, ExposedPorts={"80/tcp": {}}),
        *remove("taken", "kaa", "kb", "kc"),
    ],
    "host, none and another's": [
        *create("kh", {"NetworkMode": "host"}), *create("kn", {"NetworkMode": "none"}), *create("ka"), *create("ks", {"NetworkMode": "container:ka"}),
        *create("hp", {"NetworkMode": "host", "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}}), network("one"),
        *(join(name, container) for name in ("one", "bridge", "host", "none") for container in ("kh", "kn", "ks")), join("host", "ka"), join("none", "ka"),
        *(leave(name, container) for name in ("host", "none", "bridge") for container in ("kh", "kn", "ks")),
        *remove("kh", "kn", "ks", "ka", "hp"), *drop("one"),
    ],
    "networks of one's own": [
        network("one", Labels={"l": "1"}), network("one"), network("two", Internal=True, Attachable=True, Options={"com.docker.network.bridge.enable_icc": "false"}),
        network("fixed", IPAM=FIXED), network("over", IPAM=ipam(Subnet="10.91.0.0/25")), network("six", EnableIPv6=True, IPAM={"Config": [{"Subnet": "10.81.9.0/24"}, {"Subnet": "2001:db8:91::/64"}]}),
        ("GET", "/networks/one"), ("GET", "/networks/one?verbose=1"), ("GET", "/networks/one?scope=local"), ("GET", "/networks/one?scope=swarm"), ("GET", "/networks/nope"),
        *create("ka", {"NetworkMode": "one"}, {"one": {"Aliases": ["x", "y"]}}), *create("kb", {"NetworkMode": "fixed"}, AT_77), *create("kd", {"NetworkMode": "six"}),
        *create("ki", {"NetworkMode": "two"}), *create("dup", {"NetworkMode": "fixed"}, AT_77),
        *create("out", {"NetworkMode": "fixed"}, {"fixed": {"IPAMConfig": {"IPv4Address": "10.92.0.77"}}}),
        *create("nosub", {"NetworkMode": "one"}, {"one": {"IPAMConfig": {"IPv4Address": "172.18.0.77"}}}), *create("absent", {"NetworkMode": "absent"}),
        *remove("dup", "out", "nosub", "absent"), join("two", "ka", Aliases=["z"]), join("fixed", "ka", IPAMConfig={"IPv4Address": "10.91.0.78"}, MacAddress="02:42:0a:5b:00:99"),
        join("one", "ka"), join("bridge", "ka"), join("one", "nobody"), join("nope", "ka"), ("POST", "/networks/one/connect", {}), leave("two", "ka"), leave("two", "ka"),
        leave("nope", "ka"), leave("one", "nobody"), leave("one", "nobody", force=True), leave("bridge", "ka"), *drop("one", "bridge", "host", "nope"),
        *stop("ka"), join("two", "ka"), leave("fixed", "ka"), ("POST", "/containers/ka/start"), *remove("ka"), *stop("ki"), *drop("two"), ("POST", "/containers/ki/start"),
        leave("two", "ki", force=True), ("POST", "/containers/ki/start"), *remove("kb", "kd", "ki"), *drop("one", "fixed", "six"),
    ],
    "links": [
        *create("db", ExposedPorts={"5432/tcp": {}}, Env=["A=b"]), *create("web", {"Links": ["db:data", "db"]}), *create("bad", {"Links": ["nobody:x"]}),
        *stop("db"), *create("late", {"Links": ["db"]}), *remove("late"), network("one"), *create("ku", {"NetworkMode": "one"}),
        *create("kv", {"NetworkMode": "one"}, {"one": {"Links": ["ku:you"]}}), *create("far", {"Links": ["ku"]}), *remove("far", "web", "db", "kv", "ku"), *drop("one"),
    ],
    "lists and prunes": [
        network("one", Labels={"l": "1", "m": ""}), network("two", Driver="macvlan", Options={"parent": _PARENT}, IPAM=ipam(Subnet="10.94.0.0/24")), network("three", Labels={"l": "2"}),
        *create("ka", {"NetworkMode": "one"}), create("idle", {"NetworkMode": "three"})[0],
        *filtered(
            "GET", "/networks?", {}, {"dangling": ["1"]}, {"dangling": ["true"]}, {"dangling": ["0"]}, {"dangling": ["false"]}, {"dangling": ["x"]}, {"driver": ["bridge"]},
            {"driver": ["macvlan", "host"]}, {"driver": ["brid"]}, {"driver": ["null"]}, {"name": ["one"]}, {"name": ["o"]}, {"name": ["^o"]}, {"name": ["one", "two"]}, {"name": ["nope"]},
            {"name": ["("]}, {"id": ["nope"]}, {"id": [""]}, {"label": ["l"]}, {"label": ["l=1"]}, {"label": ["l=1", "m"]}, {"label": ["l=2", "m"]}, {"label": ["m="]}, {"label!": ["l"]},
            {"type": ["custom"]}, {"type": ["builtin"]}, {"type": ["custom", "builtin"]}, {"type": ["x"]}, {"scope": ["local"]}, {"scope": ["swarm"]}, {"scope": ["x"]},
            {"type": ["custom"], "name": ["one"]}, {"nosuch": ["x"]}, {"until": ["1h"]}, {"dangling": ["1", "0"]}, {"driver": []}, {"name": [""]}, "nope"),
        *filtered("GET", "/containers/json?all=1&", {"network": ["one"]}, {"network": ["three"]}, {"network": ["bridge"]}),
        *filtered("POST", "/networks/prune?", {"label": ["l=9"]}, {"label!": ["l"], "label": ["l"]}, {"until": ["1h"]}, {"until": ["x"]}, {"dangling": ["1"]}, {"nosuch": ["1"]}, "nope"),
        ("POST", "/networks/prune"), *remove("ka", "idle"), ("POST", "/networks/prune"), ("POST", "/networks/prune"),
    ],
    "configurations": [
        network("conf", ConfigOnly=True, Options={"com.docker.network.driver.mtu": "1400"}, IPAM=ipam(Subnet="10.93.0.0/24"), Labels={"c": "1"}),
        network("from", ConfigFrom={"Network": "conf"}), network("from2", ConfigFrom={"Network": "nope"}), network("from3", ConfigFrom={"Network": "from"}),
        network("from4", ConfigFrom={"Network": "conf"}, Labels={"x": "y"}), *drop("conf"), *create("ka", {"NetworkMode": "from"}), *create("kb", {"NetworkMode": "conf"}),
        join("conf", "ka"), *remove("ka", "kb"), *drop("from", "conf"),
    ],
    "what is no more": [
        *create("ka"), *create("ks", {"NetworkMode": "container:ka"}), *stop("ka"), ("POST", "/containers/ks/restart?t=0"), ("POST", "/containers/ks/start"),
        ("POST", "/containers/ka/start"), ("POST", "/containers/ks/start"), ("POST", "/containers/ka/rename?name=kaa"), ("POST", "/containers/ks/restart?t=0"),
        ("POST", "/containers/kaa/pause"), ("POST", "/containers/ks/restart?t=0"), *remove("kaa"), ("POST", "/containers/ks/restart?t=0"), *remove("ks"),
        *create("nobody", {"NetworkMode": "container:none-such"}), *remove("nobody"),
        network("one"), network("two"), *create("kb", {"NetworkMode": "one"}), *stop("kb"), *drop("one"), ("POST", "/containers/kb/start"), join("two", "kb"), leave("one", "kb"),
        ("POST", "/containers/kb/start"), leave("one", "kb", force=True), ("POST", "/containers/kb/start"), leave("two", "kb", force=True), leave("two", "kb", force=True),
        *stop("kb"), *drop("two"), *remove("kb"), *create("kc", {"NetworkMode": "gone"}), join("bridge", "kc"), leave("gone", "kc", force=True), ("POST", "/containers/kc/start"), *remove("kc"),
    ],
    "macvlan": [
        network("mac", Driver="macvlan", IPAM=ipam(Subnet="10.94.0.0/24", Gateway="10.94.0.254"), Options={"parent": _PARENT}),
        network("nodev", Driver="macvlan", Options={"parent": "nodev0"}), *create("ka", {"NetworkMode": "mac"}), *remove("ka"), *drop("mac"),
    ],
}  # fmt: skip

# (life, request, what differs, why): regular expressions over `path: ours for theirs`.
_SHOWN = "dockerd 28 shows it to clients of every version"
_LEFT = "dockerd 20.10 leaves in the record what it had made for a start that failed"
_WORDS = "newer words, or berth says why"
DIFFERENCES: list[tuple[str, str, str, str]] = [
    # What newer versions say.
    ("", "", r"\.(GwPriority|DNSNames)[\[:].* is one more$", _SHOWN),
    ("", "", r"NetworkMode: 'bridge' for 'default'$", "dockerd 28 says bridge"),
    ("", "", r"^container \S+\.Aliases\[\d\]: '<short container \w+>' is one more$", "dockerd 28 tells such clients the short id before a start, too"),
    ("", "", r"Sandbox(ID|Key): False for True$", "there is no network namespace any more"),
    ("of one's own", "", r"\.two\.Gateway: '' for '10\.81\.1\.1'$", "an internal network has no way out, so no gateway"),
    ("of one's own", "", r"^(said|container \S+Error:) 'invalid endpoint settings:.* for \"Invalid address", _WORDS),
    ("", r"filters=", r"^said 'invalid filter|^said \"invalid filter", _WORDS),
    ("configurations", "", r"'cannot create endpoint on configuration-only network: .*' for 'cannot create", _WORDS),
    ("of one's own|no more", "", "'network (one|two) not found' for 'network <network (one|two)> not found'", "the network is called by its name"),
    ("of one's own", "DELETE /networks/one", "^said .*has active endpoints \\(name", _WORDS),
    ("of one's own", 'one/connect {}', "^said 'no container given", _WORDS),
    ("of one's own", "nobody", "^said 'No such container: nobody' for 'endpoint nobody not found'", "dockerd could have an endpoint of a container that it has lost"),
    ("", "(taken|late|far)/start", r"'Bind for |'Cannot link to ", _WORDS),
    ("no more", "", r"^container /ks\.Error: '(cannot join network of a non running container: .+): start ka first' for '\1'", _WORDS),
    ("no more", "nobody", "", "whoever joins nobody is refused when it is made"),
    ("no more", "events", r"^- container (create|destroy) <container nobody>", "whoever joins nobody is refused when it is made"),
    ("no more", "events", r"^\+ container unpause <container ka>", "what is paused is let go before it dies"),
    ("no more", "events", r"^- network disconnect <network two> \{'container': '<container kb>'", "said once"),
    ("macvlan", "nodev", "^said 'network nodev: the parent interface nodev0 does not exist", _WORDS),
    # What berth does otherwise.
    ("", "", r"Config\[\d\]\.Gateway: .* is one more$", "the gateway that was picked is said"),
    ("", "", r"Options\.com\.docker\.network\.bridge\.name: 'berth-\w+' for 'docker0'$", "engines beside each other have bridges of their own"),
    ("", "", r"^listed \S+\.(Aliases|Links)\[\d\]: .* is one more$", "lists say of endpoints what inspect says"),
    ("", "(taken|late|far)/start|DELETE", r"^(container|listed) /(taken|late|far)\.\S+: (''|0|False) for", _LEFT),
    ("of one's own", "", r"fixed\S*.*MacAddress: '02:42:0a:5b:00:99' for", "the address that was asked for; dockerd 20.10 drops it"),
    ("of one's own|no more", "", r"\.(two|bridge)\.NetworkID: '<network (two|bridge)>' for ''$", "known before it starts"),
    ("lists", "dangling", r"^answer", "dockerd 20.10 does not look who is in a network, and calls all dangling"),
    ("lists", "prune", r"^(answer|network three|summary three)", "a network that a container names, running or not, is in use: `docker network prune --help`"),
    ("lists", "DELETE", r"^(network three|summary three)", "a network that a container names, running or not, is in use: `docker network prune --help`"),
    ("the default bridge", "events", r"^- network disconnect .*<container taken>", "a start that fails for its ports connects nothing"),
    ("", "events", r"^- network disconnect .*<container k[an]>", "said once"),
    ("links", "events", r"^\+ network (connect|disconnect) .*<container far>", "what was connected is said, and that it is taken back"),
    ("configurations", "events", r"^\+ network destroy <network conf>", "of a configuration as of other networks"),
    ("links", "events", r"^- container destroy <id> {'name': 'bad'}", "what was never made is not destroyed"),
    ("lists", "events", r"^[+-] network destroy <network three>", "a network that a container names, running or not, is in use: `docker network prune --help`"),
    ("configurations", "conf/connect", r"^container /ka\.NetworkSettings\.Networks\.conf\..* is missing$", "one that cannot be joined is not joined"),
]
_seen: set[int] = set()
_lived: set[str] = set()
Told = tuple[str, Answer, dict[str, Any]]  # the request, the answer, and what there is then


def lived(peer: Peer, steps: list[Step]) -> tuple[list[Told], list[str]]:
    """What was told after each step, and the events of all."""
    since_s = time.time()
    told = [_taken(peer, *step) for step in steps]
    return told, _events(peer, since_s)


def _events(peer: Peer, since_s: float) -> list[str]:
    """In their order; a line each."""
    text = peer.ask("GET", f"{V}/events?since={since_s:.9f}&until={time.time():.9f}").body
    events = [json.loads(line) for line in text.splitlines()] if isinstance(text, str) else text if isinstance(text, list) else [text]
    found = []
    for event in events:
        # What is executed, and the signals of a stop, race with what follows: see test_events_dockerd.py.
        if event["Type"] in ("network", "container") and event["Action"] not in ("kill", "die", "stop"):
            attributes = {key: value for key, value in sorted(event["Actor"]["Attributes"].items()) if key not in ("image", "reclaimed", "execDuration")}
            found.append(_text(peer, f"{event['Type']} {event['Action']} {event['Actor']['ID']} {attributes}"))
    # A container in several networks joins and leaves them in the order of a Go map, with dockerd.
    return [line for _, run in itertools.groupby(found, lambda line: re.sub("<network .*?>|'name': .*", "", line)) for line in sorted(run)]


def _taken(peer: Peer, method: str, target: str, body: Any = None) -> Told:
    answer = peer.ask(method, V + target, body)
    if answer.status == 201:
        name = f"network {body['Name']}" if "/networks/" in target else f"container {target.rpartition('name=')[2]}"
        peer.ids[name] = answer.body["Id"]
    about = f"{method} {target}" + (f" {json.dumps(body)}" if body is not None else "")
    return about, answer, _state(peer) if method != "GET" else {}


def _state(peer: Peer) -> dict[str, Any]:
    """All networks, and of each container what has to do with them."""
    found: dict[str, Any] = {}
    for summary in peer.ask("GET", f"{V}/networks").body:
        peer.ids.setdefault(f"network {summary['Name']}", summary["Id"])
        found[f"network {summary['Name']}"] = peer.ask("GET", f"{V}/networks/{summary['Id']}").body
        found[f"summary {summary['Name']}"] = summary
    for listed in peer.ask("GET", f"{V}/containers/json?all=1").body:
        name = min(listed["Names"], key=len)  # its others are those by which it is linked to
        whole = peer.ask("GET", f"{V}/containers/{listed['Id']}/json").body
        found[f"container {name}"] = {
            "NetworkSettings": whole["NetworkSettings"], "Error": whole["State"]["Error"], "Status": whole["State"]["Status"],
            **{key: whole["HostConfig"][key] for key in ("NetworkMode", "PortBindings", "Links")},
            **{key: whole["Config"].get(key) for key in ("Hostname", "Domainname", "MacAddress", "ExposedPorts")},
        }  # fmt: skip
        found[f"listed {name}"] = {key: listed[key] for key in ("Ports", "HostConfig", "NetworkSettings")}
    return found


# -- comparing ----------------------------------------------------------------------------------------


def plain(peer: Peer, value: Any, key: str = "") -> Any:
    """Without what no two engines have in common: ids, times, paths. Lists of networks in the order of their names."""
    if isinstance(value, dict):
        return {_text(peer, name): plain(peer, item, name) for name, item in value.items()}
    if isinstance(value, list):
        found = [plain(peer, item) for item in value]
        if key in ("Ports", "Links", "NetworksDeleted") or (found and isinstance(found[0], dict) and "Driver" in found[0]):
            return sorted(found, key=lambda item: str(item.get("Name", item) if isinstance(item, dict) else item))  # in any order, with dockerd
        return found
    if key in ("Created", "SandboxKey", "EndpointID", "SandboxID"):
        return bool(value)
    return _text(peer, value) if isinstance(value, str) else value


# An address that was given back is not somebody else's at once, and a container that starts again gets another one; dockerd 20.10 takes the
# lowest. Those that were asked for (.77, .78, 99), and gateways, are compared.
_PICKED = re.compile(r"\b(172\.17\.0|10\.81\.\d+|10\.93\.0|10\.94\.0)\.(?!1\b|0\b|254\b)\d+|\b(02:42:(?:ac:11:00|0a:51:\w\w|0a:5d:00|0a:5e:00)):\w\w")


def _text(peer: Peer, text: str) -> str:
    text = _PICKED.sub(lambda found: f"{found[1] or found[2]} N", text)
    for name, identity in peer.ids.items():
        text = text.replace(identity, f"<{name}>").replace(identity[:12], f"<short {name}>")
    return re.sub(r"[0-9a-f]{64}", "<id>", text)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; what is empty says the same as null."""
    if isinstance(value, dict) and value:
        return {found: item for key, inner in value.items() for found, item in flat(inner, f"{path}.{key}" if path else key).items()}
    if isinstance(value, list) and value:
        return {found: item for at, inner in enumerate(value) for found, item in flat(inner, f"{path}[{at}]").items()}
    return {path: None if value in ({}, []) else value}


def differences(theirs: Any, ours: Any) -> list[str]:
    one, other = flat(theirs), flat(ours)
    found = []
    for path in sorted({*one, *other}):
        if path not in one and other[path] is not None:
            found.append(f"{path}: {other[path]!r} is one more")
        elif path not in other and one[path] is not None:
            found.append(f"{path}: {one[path]!r} is missing")
        elif path in one and path in other and one[path] != other[path]:
            found.append(f"{path}: {other[path]!r} for {one[path]!r}")
    return found


def answered(theirs: Answer, ours: Answer, docker: Peer, berth: Peer) -> list[str]:
    """20.10 says 500 where nobody had thought of a mistake; newer versions no longer do."""
    if theirs.status == 500 and ours.status in (400, 403, 404, 409):
        theirs.status = ours.status
    found = [f"status {ours.status} for {theirs.status}"] if theirs.status != ours.status else []
    said_theirs, said_ours = _text(docker, theirs.message), _text(berth, ours.message)
    if not said_ours.lower().startswith(said_theirs.lower()) or bool(said_ours) != bool(said_theirs):
        found.append(f"said {said_ours!r} for {said_theirs!r}")
    if theirs.status == ours.status < 400:
        found += differences({"answer": plain(docker, theirs.body)}, {"answer": plain(berth, ours.body)})
    return found


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[Peer, Peer]]:
    with contextlib.ExitStack() as stack:
        daemon = Dockerd("--bridge=", "--iptables=true", "--storage-driver", "overlay2", wrapper=_ALONE)
        stack.callback(daemon.finish)
        engine = Engine(wrapper=_ALONE, bridge=True)
        stack.callback(engine.finish)
        engine.docker("import", f"{daemon.top}/rootfs.tar", "bb")
        yield Peer(daemon.host.removeprefix("unix://")), Peer(f"{engine.exec}/berth.sock")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("life", LIVES)
def test_a_life_of_networks(peers: tuple[Peer, Peer], life: str) -> None:
    docker, berth = peers
    with ThreadPoolExecutor(2) as pool:
        (theirs, their_events), (ours, our_events) = pool.map(lambda peer: lived(peer, LIVES[life]), peers)
    found = []
    for (about, their_answer, their_state), (_, our_answer, our_state) in zip(theirs, ours, strict=True):
        texts = answered(their_answer, our_answer, docker, berth) + differences(plain(docker, their_state), plain(berth, our_state))
        if left := [text for text in texts if not _on_purpose(life, about, text)]:
            found.append("\n    ".join([about[:200], *left]))
    lines = [line for line in difflib.ndiff(their_events, our_events) if line.startswith(("- ", "+ "))]  # - dockerd's, + berth's
    found += [line for line in lines if not _on_purpose(life, "events", line)]
    _lived.add(life)
    assert not found, "\n".join(found)


def test_variables_and_hosts_of_links(peers: tuple[Peer, Peer]) -> None:
    """What a linked container's environment and hosts say; ports in a row, of two protocols, alone, and none."""
    ports = {"80/tcp": {}, "81/tcp": {}, "82/tcp": {}, "83/tcp": {}, "53/udp": {}, "53/tcp": {}, "9000/tcp": {}}
    said = []
    for peer in peers:
        steps = [
            *create("many-ports", ExposedPorts=ports, Env=["A=b=c", "EMPTY=", "PATH=/bin", "HOME=/x"], Hostname="many"), *create("no-ports"), *create("two-ports", ExposedPorts={"1/tcp": {}, "2/tcp": {}}),
            *create("asks", {"Links": ["many-ports:my-db", "no-ports", "two-ports:two"]}, Cmd=["sh", "-c", "env; grep -v localhost /etc/hosts | grep -v ip6"], Tty=True, Env=["MY_DB_NAME=mine"]),
            ("POST", "/containers/asks/wait"), ("GET", "/containers/asks/logs?stdout=1"), *remove("asks", "many-ports", "no-ports", "two-ports"),
        ]  # fmt: skip
        told = lived(peer, steps)[0]
        text = next(answer.body for about, answer, _ in told if "logs" in about)
        said.append({line for line in _text(peer, text).splitlines() if not line.startswith(("HOSTNAME=", "SHLVL=", "PWD="))})
    assert said[0] == said[1]
    assert any("MY_DB_PORT_80_TCP_END" in line for line in said[0])


def _on_purpose(life: str, about: str, text: str) -> bool:
    for index, (where, request, what, _) in enumerate(DIFFERENCES):
        if re.search(where, life) and re.search(request, about) and re.search(what, text):
            _seen.add(index)
            return True
    return False


def test_the_table_of_differences_is_true() -> None:
    """An entry that nothing needs any more would hide the next difference."""
    if _lived != set(LIVES):
        pytest.skip("not all lives were lived")
    unused = [entry for index, entry in enumerate(DIFFERENCES) if index not in _seen]
    assert not unused, unused
