"""What berth's command line asks of an engine for its flags of networks, beside what Docker's asks: the same JSON.

Both talk to an engine that only writes down (recorder.py), so this needs neither containers nor rights.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from harness import REPOSITORY
from recorder import Recorder, Seen

if not shutil.which("docker") or not re.search(
    r"version (2[89]|[3-9]\d)\.", subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
):
    pytest.skip("needs Docker's CLI of version 28 or newer", allow_module_level=True)

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
# Objects whose keys say something even where nothing is in them.
MAPS = ("EndpointsConfig", "ExposedPorts", "PortBindings")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as made:
        yield made


def plain(value: Any, name: str = "") -> Any:
    """Without what says the same as if it were not there."""
    if isinstance(value, dict):
        found = {key: plain(item, key) for key, item in value.items()}
        if name in MAPS:
            return found
        return {key: item for key, item in found.items() if item not in (None, "", 0, False, [], {}) and (key, item) not in DEFAULTS}
    if isinstance(value, list):
        found_ = [plain(item) for item in value]
        return sorted(found_, key=str) if name == "Config" else found_  # Docker's order of subnets is that of a map: any
    return value


DEFAULTS = [("MemorySwappiness", -1), ("ConsoleSize", [0, 0])]  # of HostConfig


def asked(seen: Seen) -> list[tuple[str, Any]]:
    """Requests that change something."""
    return [(target, plain(body)) for target, body in seen.requests if not target.startswith("GET ") and "/wait" not in target]


# The JSON is the same, and so is the exit code.
SAME = r"""
create bb true
create --network n1 bb true
create --network n1 --ip 1.2.3.4 --network-alias a --link x:y --mac-address 02:00:00:00:00:01 --link-local-ip 169.254.1.1 bb true
create --network name=n1,alias=a,alias=b,ip=1.2.3.4,ip6=::1,mac-address=02:00:00:00:00:01,link-local-ip=169.254.1.1,driver-opt=k=v,gw-priority=3 --network n2 bb
create --network name=n1,link-local-ip=169.254.1.1,link-local-ip=169.254.1.2,driver-opt=a=b,driver-opt=c=d=e bb
create --network n1 --network n2 --ip 1.2.3.4 bb
create --network n1 --network n2 --network-alias a --link b bb
create --network name=n1,gw-priority=-5 bb
create --network name=n1,name=n2 bb
create --network name=n1,ip=1.2.3.4,ip=1.2.3.5 bb
create --network 'name=n1,"alias=a,b"' bb
create --network "name=n1, alias= a" bb
create --network NAME=n1,ALIAS=a bb
create --network name=a=b bb
create --network a,b bb
create --network "a b" bb
create --network default bb
create --network bridge bb
create --network bridge --link a bb
create --network name=bridge,gw-priority=1 bb
create --network default --ip 1.2.3.4 bb
create --network none bb
create --network none --ip 1.2.3.4 bb
create --network NONE bb
create --network host bb
create --network host --hostname h bb
create --network host --link a bb
create --network host --mac-address 02:00:00:00:00:01 bb
create --network name=host,ip=1.2.3.4 bb
create --network container:x bb
create --network name=container:x bb
create --network container:x --ip 1.2.3.4 bb
create --net n1 bb
create --net n1 --network n2 bb
create --network n1 --net n2 --network n3 bb
create --network-alias a --net-alias b --network-alias c --net n bb
create --network n1 --network-alias '' bb
create --ip 1.2.3.4 bb
create --link-local-ip 169.254.1.1 bb
create --mac-address 02:00:00:00:00:01 bb
create --mac-address 02-00-00-00-00-01 bb
create --mac-address 0200.0000.0001 bb
create --link a --link b:c bb
create --link : bb
create --link /a:/b/c bb
create --dns 1.1.1.1 --dns ::1 bb
create --dns 0:0:0:0:0:0:0:1 --dns ' 1.1.1.1 ' --dns ::ffff:1.2.3.4 bb
create --dns-search a.b --dns-search . --dns-search a. --dns-search ' a ' bb
create --dns-opt x --dns-option y --dns-opt z bb
create --add-host a:1.2.3.4 --add-host b=1.2.3.4 --add-host c:::1 --add-host d=[::1] --add-host e:[::1] bb
create --add-host f:host-gateway --add-host g=host-gateway --add-host a=0:0::1 --add-host a:[1.2.3.4] bb
create --hostname h --domainname d bb
create --uts host --hostname h bb
create -p 80 bb
create -p 8080:80 bb
create -p 8080:80/udp bb
create -p 8080:80/TCP bb
create -p 8080:80/sctp bb
create -p 8080:80/ bb
create -p 1.2.3.4:8080:80 bb
create -p 1.2.3.4::80 bb
create -p :8080:80 bb
create -p ::80 bb
create -p :80 bb
create -p [::1]:8080:80 bb
create -p [::]:8080:80 bb
create -p [::1]::80 bb
create -p [1.2.3.4]:80:80 bb
create -p ::1:8080:80 bb
create -p ::1::80 bb
create -p 0:0::1:80:80 bb
create -p 2001:db8::1:8080:80 bb
create -p ::ffff:1.2.3.4:80:80 bb
create -p 8000-8010:80 bb
create -p 8000-8002:80-82 bb
create -p 80-82 bb
create -p 1.2.3.4:8000-8002:80-82/udp bb
create -p 0:80 bb
create -p 65535 bb
create -p 080:080 bb
create -p 80/ bb
create -p 80/tcp/udp bb
create -p 8080:80 -p 8080:80 bb
create -p 8080:80 -p 8081:80 -p 8080:80/udp bb
create -p 80 -p 8080:80 bb
create -p 1.2.3.4:8080:80/tcp -p [::1]:8080:80/tcp bb
create -p published=8080,target=80 bb
create -p published=8080,target=80,protocol=udp,mode=host bb
create -p target=80 bb
create -p published=8000-8002,target=80-82 bb
create -P bb
create -P --expose 80 --expose 81/udp --expose 90-92 --expose 90-91/sctp --expose 80/ bb
create -p 8080:80 --expose 80 bb
run -d --network n1 -p 8080:80 bb true
network create n1
network create -d macvlan -o parent=eth0 -o a -o '' n1
network create --subnet 10.0.0.0/16 --ip-range 10.0.5.0/24 --gateway 10.0.0.1 --aux-address a=10.0.0.5 --subnet fd00::/64 --gateway fd00::1 --ipv6 n1
network create --internal --attachable --label a=b --label c --label c=d -o k=v --ipam-opt x=y --ipam-driver d --scope s --ingress --config-from z n1
network create --config-only n1
network create --subnet 10.0.0.0/16,10.1.0.0/16 n1
network create --ipv4=false --ipv6 n1
network create --ipv6=false --ipv4 n1
network create --subnet x n1
network create --subnet 10.0.0.5/16 --gateway 10.0.0.1 n1
network create --subnet 10.0.0.0/16 --ip-range 10.0.0.0/8 n1
network create --subnet 10.0.0.0/16 --aux-address a=10.0.0.1 --aux-address b=10.0.0.2 --aux-address a=10.0.0.3 n1
network create --subnet 10.0.0.0/16 --subnet 10.1.0.0/16 --ip-range 10.1.2.0/24 --gateway 10.0.0.1,10.1.0.1 n1
network create --subnet 10.0.0.0/16 --ip-range 10.0.1.0/24 --subnet 10.1.0.0/16 --ip-range 10.1.1.0/24 n1
network create --subnet '' --gateway '' n1
network create --driver '' n1
network create --ipam-driver null n1
network create ''
network connect n c
network connect --ip 1.2.3.4 --ip6 ::1 --alias a --alias b,c --link x:y --link-local-ip 169.254.1.1,169.254.1.2 --driver-opt a=b --gw-priority -3 n c
network connect --driver-opt a=b,c=d --driver-opt A=B=C --driver-opt e= n c
network connect --alias '"a,b"' --alias '' n c
network connect a/b c
network disconnect n c
network disconnect -f n c
network rm a b
network rm -f a
network remove a/b
network prune -f --filter label=a --filter until=24h
"""


@pytest.mark.parametrize("line", SAME.strip().splitlines())
def test_the_same_request(recorder: Recorder, line: str) -> None:
    recorder.answers = {"POST /networks/prune": (200, {"NetworksDeleted": ["a"]})}
    words = shlex.split(line)
    docker, berth = recorder.run(["docker"], *words), recorder.run(BERTH, *words)
    assert docker.code == 0, docker
    assert docker.requests
    assert (berth.code, asked(berth)) == (0, asked(docker)), berth.errors
    assert berth.output == docker.output


# Wrong in the line itself: the same exit code, nothing is asked, and both say so in the same words up to the second column.
MISTAKES = r"""
create --network n1 --network n1 bb | network "n1" is specified multiple times
create --network n1 --network host bb | conflicting options: cannot attach both user-defined and non-user-defined network-modes
create --network bridge --network n1 bb | conflicting options: cannot attach both user-defined and non-user-defined network-modes
create --network container:x --network n1 bb | conflicting options: cannot attach both user-defined and non-user-defined network-modes
create --network container:x --network-alias a bb | network-scoped aliases are only supported for user-defined networks
create --network-alias a bb | network-scoped aliases are only supported for user-defined networks
create --network name=host,alias=x bb | network-scoped aliases are only supported for user-defined networks
create --mac-address x bb | x is not a valid mac address
create --network name=n1,mac-address=x bb | x is not a valid mac address
create --network name=n1,ip=1.2.3.4 --ip 1.2.3.4 bb | conflicting options: cannot specify both --ip and per-network IPv4 address
create --network name=n1,ip6=::1 --ip6 ::1 bb | conflicting options: cannot specify both --ip6 and per-network IPv6 address
create --network name=n1,mac-address=02:00:00:00:00:01 --mac-address 02:00:00:00:00:02 bb | conflicting options: cannot specify both --mac-address and
create --network name=n1,alias=q --network-alias a bb | conflicting options: cannot specify both --network-alias and per-network alias
create --network name=n1,link-local-ip=169.254.1.1 --link-local-ip 169.254.1.2 bb | conflicting options: cannot specify both --link-local-ip and
create --network ip=1.2.3.4 bb | invalid argument "ip=1.2.3.4" for "--network" flag: network name/id is not specified
create --network name=n1,foo=bar bb | invalid argument "name=n1,foo=bar" for "--network" flag: invalid field key foo
create --network a=b bb | invalid argument "a=b" for "--network" flag: invalid field key a
create --network name=n1,alias bb | invalid argument "name=n1,alias" for "--network" flag: invalid field alias
create --network name=n1,=x bb | invalid argument "name=n1,=x" for "--network" flag: invalid field =x
create --network name=n1, bb | invalid argument "name=n1," for "--network" flag: invalid field
create --network 'name=n1,"' bb | invalid argument
create --network name=n1,driver-opt=k bb | invalid argument "name=n1,driver-opt=k" for "--network" flag: invalid key value pair format in driver options
create --network name=n1,gw-priority=x bb | invalid argument "name=n1,gw-priority=x" for "--network" flag: invalid gw-priority (x): invalid syntax
create --network name=n1,gw-priority=99999999999999999999 bb | invalid argument "name=n1,gw-priority=99999999999999999999" for "--network" flag
create --network '' bb | no name set for network
create --link a:b:c bb | invalid argument "a:b:c" for "--link" flag: bad format for links: a:b:c
create --link '' bb | invalid argument "" for "--link" flag: empty string specified for links
create --dns x bb | invalid argument "x" for "--dns" flag: IP address is not correctly formatted: x
create --dns 01.1.1.1 bb | invalid argument "01.1.1.1" for "--dns" flag: IP address is not correctly formatted: 01.1.1.1
create --dns fe80::1%eth0 bb | invalid argument "fe80::1%eth0" for "--dns" flag
create --dns-search 'a b' bb | invalid argument "a b" for "--dns-search" flag: a b is not a valid domain
create --dns-search '' bb | invalid argument "" for "--dns-search" flag:  is not a valid domain
create --dns-search a_b bb | invalid argument "a_b" for "--dns-search" flag: a_b is not a valid domain
create --dns-search a-.b bb | invalid argument "a-.b" for "--dns-search" flag: a-.b is not a valid domain
create --dns-search 1.2 bb | invalid argument "1.2" for "--dns-search" flag: 1.2 is not a valid domain
create --add-host a bb | invalid argument "a" for "--add-host" flag: bad format for add-host: "a"
create --add-host a:x bb | invalid argument "a:x" for "--add-host" flag: invalid IP address in add-host: "x"
create --add-host a= bb | invalid argument "a=" for "--add-host" flag: invalid IP address in add-host: ""
create --add-host =1.2.3.4 bb | invalid argument "=1.2.3.4" for "--add-host" flag: bad format for add-host: "=1.2.3.4"
create --add-host a:b=1.2.3.4 bb | invalid argument "a:b=1.2.3.4" for "--add-host" flag: bad format for add-host: "a:b=1.2.3.4"
create --add-host a:[] bb | invalid argument "a:[]" for "--add-host" flag: invalid IP address in add-host: "[]"
create -p 8080:80/foo bb | invalid proto: foo
create -p 8080: bb | no port specified: 8080:<empty>
create -p '' bb | no port specified: <empty>
create -p /tcp bb | no port specified: /tcp<empty>
create -p x bb | invalid containerPort: x
create -p ' 80' bb | invalid containerPort:  80
create -p +80 bb | invalid containerPort: +80
create -p 80:70000 bb | invalid containerPort: 70000
create -p 82-80 bb | invalid containerPort: 82-80
create -p 70000:80 bb | invalid hostPort: 70000
create -p 8005-8000:80 bb | invalid hostPort: 8005-8000
create -p 1-:80 bb | invalid hostPort: 1-
create -p -1:80 bb | invalid hostPort: -1
create -p localhost:80 bb | invalid hostPort: localhost
create -p 1.2.3.4:80 bb | invalid hostPort: 1.2.3.4
create -p localhost:8080:80 bb | invalid IP address: localhost
create -p 1.2.3.4.5:80:80 bb | invalid IP address: 1.2.3.4.5
create -p [x]:8080:80 bb | invalid IP address: x
create -p [fe80::1%eth0]:80:80 bb | invalid IP address: fe80::1%eth0
create -p [::1:80:80 bb | invalid IP address
create -p 80:80:80:80 bb | invalid IP address: 80:80
create -p 8000-8005:80-82 bb | invalid ranges specified for container and host Ports: 80-82 and 8000-8005
create -p 8000:80-82 bb | invalid ranges specified for container and host Ports: 80-82 and 8000
create -p published=80 bb | no port specified: 80:/tcp<empty>
create -p target=80,published bb | invalid publish opts format (should be name=value but got 'published')
create --expose x bb | invalid range format for --expose: x
create --expose 82-80 bb | invalid range format for --expose: 82-80
create --expose 70000 bb | invalid range format for --expose: 70000
create --expose '' bb | invalid range format for --expose:
create --expose 80:81 bb | invalid port format for --expose: 80:81
network create --gateway 10.0.0.1 n | every ip-range or gateway must have a corresponding subnet
network create --ip-range 10.0.0.0/16 n | every ip-range or gateway must have a corresponding subnet
network create --subnet 10.0.0.0/16 --gateway 10.0.0.1 --gateway 10.0.0.2 n | every ip-range or gateway must have a corresponding subnet
network create --aux-address a=10.0.0.5 n | no matching subnet for aux-address 10.0.0.5
network create --subnet 10.0.0.0/16 --gateway 10.1.0.1 n | no matching subnet for gateway 10.1.0.1
network create --subnet 10.0.0.0/16 --gateway x n | no matching subnet for gateway x
network create --subnet 10.0.0.0/16 --gateway fd00::1 n | no matching subnet for gateway fd00::1
network create --subnet 10.0.0.0/16 --ip-range 10.1.0.0/24 n | no matching subnet for range 10.1.0.0/24
network create --subnet 10.0.0.0/16 --ip-range x n | invalid CIDR address: x
network create --subnet 10.0.0.0/16 --aux-address a=x n | no matching subnet for aux-address x
network create --subnet x --gateway 10.0.0.1 n | invalid subnet: invalid CIDR address: x
network create --subnet 10.0.0.0/16 --subnet 10.0.1.0/24 n | multiple overlapping subnet configuration is not supported
network create --subnet 10.0.0.0/16 --subnet 10.1.0.0/16 --gateway 10.0.0.1 --gateway 10.0.0.2 n | cannot configure multiple gateways (10.0.0.2, 10.0.0.1)
network create --subnet 10.0.0.0/16 --subnet 10.1.0.0/16 --ip-range 10.0.1.0/24 --ip-range 10.0.2.0/24 n | cannot configure multiple ranges (10.0.2.0/24,
network create --label =x n | invalid argument "=x" for "--label" flag: invalid label '=x': empty name
network create --foo n | unknown flag: --foo
network create | docker: 'docker network create' requires 1 argument
network connect n | docker: 'docker network connect' requires 2 arguments
network connect '' c | invalid network name or ID: value is empty
network connect n '' | invalid container name or ID: value is empty
network connect --link a:b:c n c | invalid argument "a:b:c" for "--link" flag: bad format for links: a:b:c
network connect --gw-priority x n c | invalid argument "x" for "--gw-priority" flag
network connect --driver-opt a n c | invalid key/value pair format in driver options
network disconnect '' c | invalid network name or ID: value is empty
network disconnect n '' | invalid container name or ID: value is empty
network rm | docker: 'docker network rm' requires at least 1 argument
network rm '' | invalid network name or ID: value is empty
network inspect '' | invalid network name or ID: value is empty
network ls x | docker: 'docker network ls' accepts no arguments
network ls -f x | invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)
network prune --filter x | invalid argument "x" for "--filter" flag: bad format of filter (expected name=value)
network foo | docker: unknown command: docker network foo
port | docker: 'docker port' requires at least 1 and at most 2 arguments
"""


@pytest.mark.parametrize("line", MISTAKES.strip().splitlines())
def test_the_same_mistake(recorder: Recorder, line: str) -> None:
    recorder.answers = {}
    command, _, words = line.partition(" | ")
    docker, berth = recorder.run(["docker"], *shlex.split(command)), recorder.run(BERTH, *shlex.split(command))
    assert docker.code in (1, 125), docker
    assert (berth.code, berth.requests) == (docker.code, docker.requests), berth
    for seen, name in ((docker, "docker"), (berth, "berth")):
        assert seen.errors.removeprefix(f"{name}: ").startswith(words.removeprefix("docker: ").replace("docker", name)), seen
        assert ("Usage:" in seen.errors) == ("Usage:" in docker.errors)


# What Docker's command line lets pass and its engine then refuses, or takes and forgets: berth says it at once.
EARLIER = r"""
create --ip x bb | invalid argument "x" for "--ip" flag: 'x' is no IPv4 address
create --ip ::1 bb | invalid argument "::1" for "--ip" flag: '::1' is no IPv4 address
create --ip6 1.2.3.4 bb | invalid argument "1.2.3.4" for "--ip6" flag: '1.2.3.4' is no IPv6 address
create --link-local-ip x bb | invalid argument "x" for "--link-local-ip" flag: 'x' is no IP address
create --network name=n1,ip=x bb | invalid argument "name=n1,ip=x" for "--network" flag: 'x' is no IPv4 address
create --network name= bb | invalid argument "name=" for "--network" flag: network name/id is not specified
create --mac-address 02:00:00:00:00:01:02:03 bb | 02:00:00:00:00:01:02:03 is not a valid mac address
create --expose 80/foo bb | invalid proto: foo
create -p 1-2-3:80 bb | invalid hostPort: 1-2-3
network connect --ip x n c | invalid argument "x" for "--ip" flag: 'x' is no IPv4 address
network connect --link-local-ip x n c | invalid argument "x" for "--link-local-ip" flag: 'x' is no IP address
"""


@pytest.mark.parametrize("line", EARLIER.strip().splitlines())
def test_a_mistake_that_berth_tells_earlier(recorder: Recorder, line: str) -> None:
    recorder.answers = {}
    command, _, words = line.partition(" | ")
    docker, berth = recorder.run(["docker"], *shlex.split(command)), recorder.run(BERTH, *shlex.split(command))
    assert docker.code == 0, "Docker tells it too: move the line"
    assert (berth.code, berth.requests) == (125, [])
    assert berth.errors.removeprefix("berth: ").startswith(words)


def test_names_keep_their_case_which_docker_takes_from_them(recorder: Recorder) -> None:
    recorder.answers = {}
    words = ("create", "--network", "name=MyNet,alias=Web,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.forwarding=1", "bb")
    found = [recorder.run(command, *words).requests[-1].body["HostConfig"]["NetworkMode"] for command in (["docker"], BERTH)]
    assert found == ["mynet", "MyNet"]


# -- tables -------------------------------------------------------------------------------------------


def port(private: int, public: int = 0, address: str = "", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": address} if public else {})}


BOTH = ("0.0.0.0", "::")
PORTS = [
    [port(80)], [port(80, 8080, address) for address in BOTH], [port(80 + i, 8080 + i, address) for i in range(3) for address in BOTH],
    [port(80 + i, 80 + i, address) for i in range(3) for address in BOTH], [port(80), port(81), port(83), port(53, kind="udp"), port(54, kind="udp")],
    [port(80, 80, "1.2.3.4"), port(81, 81, "1.2.3.4"), port(83, 83, "1.2.3.4"), port(82, 82, "1.2.3.5")],
    [port(80, 80, "0.0.0.0"), port(80, 8081, "0.0.0.0")], [port(80, 80, "0.0.0.0"), port(81, 8080, "0.0.0.0"), port(82, 82, "0.0.0.0"), port(443)],
    [port(80), port(80, 80, "0.0.0.0")], [],
]  # fmt: skip
CONTAINERS = [
    {"Id": f"{number:064x}", "Names": [f"/c{number}"], "Image": "bb", "ImageID": "x", "Command": "true", "Created": 0, "Ports": ports, "Labels": {},
     "State": "running", "Status": "Up", "HostConfig": {"NetworkMode": "x"}, "NetworkSettings": {"Networks": {"x": {}}}, "Mounts": []}
    for number, ports in enumerate(PORTS)
]  # fmt: skip
CONTAINER = {"Id": "a", "Name": "/c", "State": {}, "HostConfig": {"NetworkMode": "my-net"}, "Config": {"Labels": {}}, "NetworkSettings": {
    "Networks": {"x": {"IPAddress": "1.2.3.4", "Aliases": ["a"]}, "my-net": {"IPAddress": "5.6.7.8"}},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "443/tcp": [{"HostIp": "1.2.3.4", "HostPort": "9"}],
              "9/udp": [{"HostIp": "::1", "HostPort": "5"}], "8080/tcp": None},
}}  # fmt: skip
NETWORK = {"Name": "a", "Id": "a" * 64, "Driver": "bridge", "Labels": {}, "IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]},
           "Containers": {"b" * 64: {"Name": "web", "IPv4Address": "10.0.0.2/8"}}}  # fmt: skip
NETWORKS = [
    {"Id": letter * 64, "Name": name, "Driver": "bridge", "Scope": "local", "Created": created, "EnableIPv4": letter != "e", "EnableIPv6": letter == "b",
     "Internal": letter == "c", "Labels": {"b": "2"} if letter == "a" else None, "Options": {}, "IPAM": {}}
    for letter, name, created in (
        ("a", "n10", "2026-11-28T03:15:38.9Z"), ("b", "n2", "2026-11-28T03:15:38+02:00"), ("c", "N1", "0001-01-01T00:00:00Z"),
        ("d", "n-1", "2026-11-28T03:15:38.123456789-07:30"), ("e", "n", "2026-11-28T03:15:38Z"))
]  # fmt: skip
MISSING = (404, {"message": "network nope not found"})
TABLES = {
    "GET /containers/json": (200, CONTAINERS), "GET /containers/a/json": (200, CONTAINER), "GET /networks": (200, NETWORKS),
    "GET /networks/a": (200, NETWORK), "GET /networks/nope": MISSING, "DELETE /networks/nope": MISSING, "DELETE /networks/a": (204, None),
    "POST /networks/prune": (200, {"NetworksDeleted": ["a", "b"]}), "GET /networks/none": (200, NETWORK), "DELETE /networks/none": (
        403, {"message": "none is a pre-defined network and cannot be removed"}), "GET /containers/nope/json": (404, {"message": "No such container: nope"}),
}  # fmt: skip
LOOKING = r"""
ps
ps --format '{{.Names}} {{.Ports}} {{.Networks}}'
ps --no-trunc --format json
port a
port a 80
port a 80/tcp
port a 9/udp
port a 8080
port a 77
port a x
port a 80/x
port a 99999
port nope
network ls
network list -q
network ls --no-trunc
network ls --no-trunc -q
network ls --format json
network ls --format '{{json .}}'
network ls --format '{{.CreatedAt}} {{.Label "b"}} {{.ID}} {{.Driver}} {{.Scope}}'
network ls --format 'table {{.Name}}\t{{.IPv4}}\t{{.IPv6}}\t{{.Internal}}\t{{.Labels}}\t{{.Label "b"}}'
network ls --format '{{.Nope}}'
network ls -f driver=bridge -f name=a -f driver=null
network inspect a
network inspect a nope
network inspect nope
network inspect -v a
network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}} {{range $k,$v := .Containers}}{{$k}}={{$v.Name}}{{end}}' a
network inspect nope -f '{{.Name}}'
network inspect -f '{{' a
network prune -f
network prune
network rm a nope
network rm -f nope a
network rm none
system prune
inspect -f '{{.NetworkSettings.Networks.x.IPAddress}}' a
inspect -f '{{.NetworkSettings.Networks.nope.IPAddress}}' a
inspect -f '{{(index .NetworkSettings.Networks "my-net").IPAddress}}' a
inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' a
inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}} {{end}}' a
inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}' a
inspect -f '{{json .NetworkSettings.Ports}}' a
inspect --type network a -f '{{.Name}}'
inspect --type network nope
"""


@pytest.mark.parametrize("line", LOOKING.strip().splitlines())
def test_the_same_table(recorder: Recorder, line: str) -> None:
    recorder.answers = TABLES
    words = shlex.split(line)
    docker, berth = recorder.run(["docker"], *words), recorder.run(BERTH, *words)
    assert (berth.code, berth.output) == (docker.code, docker.output), (docker.errors, berth.errors)
    assert bool(berth.errors) == bool(docker.errors)
    if words[0] == "network" and docker.code == 0 and words[1] not in ("rm",):
        assert [request.target for request in berth.requests] == [request.target for request in docker.requests]


def test_system_prune_takes_networks_too(recorder: Recorder) -> None:
    empty = {"ContainersDeleted": [], "ImagesDeleted": [], "CachesDeleted": [], "SpaceReclaimed": 0}
    recorder.answers = {**TABLES, **{f"POST /{what}/prune": (200, empty) for what in ("containers", "images", "build")}}
    docker, berth = recorder.run(["docker"], "system", "prune", "-f"), recorder.run(BERTH, "system", "prune", "-f")
    assert (berth.code, berth.output) == (0, docker.output)
    assert "Deleted Networks:\na\nb\n" in berth.output


# -- what Docker has not ------------------------------------------------------------------------------


def test_ports_and_mounts_of_a_running_container(recorder: Recorder) -> None:
    recorder.answers = {"POST /containers/web/update": (200, {"Warnings": []})}
    seen = recorder.run(
        BERTH, "update", "--publish-add", "127.0.0.1:8080-8081:80-81", "--publish-add", "53/udp", "--publish-rm", "[::1]:9:9", "--mount-add",
        "type=bind,source=/a,target=/b,readonly", "--mount-rm", "/c", "--mount-rm", "/d", "web",
    )  # fmt: skip
    assert (seen.code, seen.output) == (0, "web\n"), seen.errors
    body = seen.requests[-1].body
    assert body["PublishAdd"] == [
        {"HostIp": "127.0.0.1", "HostPort": "8080", "ContainerPort": "80", "Protocol": "tcp"},
        {"HostIp": "127.0.0.1", "HostPort": "8081", "ContainerPort": "81", "Protocol": "tcp"},
        {"HostIp": "", "HostPort": "", "ContainerPort": "53", "Protocol": "udp"},
    ]
    assert body["PublishRemove"] == [{"HostIp": "::1", "HostPort": "9", "ContainerPort": "9", "Protocol": "tcp"}]
    assert [(mount["Type"], mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in body["MountAdd"]] == [("bind", "/a", "/b", True)]
    assert body["MountRemove"] == ["/c", "/d"]
    assert set(body) == {"PublishAdd", "PublishRemove", "MountAdd", "MountRemove"}
    for words in (("--publish-add", "x"), ("--publish-rm", "1.2.3:4:5"), ("--mount-add", "type=bind"), ("--mount-rm", "relative")):
        seen = recorder.run(BERTH, "update", *words, "web")
        assert (seen.code, seen.requests) == (125, []), seen
        assert "Traceback" not in seen.errors
