"""Runs in a throw-away machine whose kernel has ipvlan and SCTP: what networks of berth do with them, as other tools see it.

Prints one JSON object; test_networks_kernel.py judges it.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from v2_host import LOG, SLEEP, Engine, busybox_archive, read, shell

_FAR, _NEAR = "192.0.2.2", "192.0.2.1"  # another host's address, and this one's
_SCTP_SERVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
server.bind(("0.0.0.0", 80))
server.listen()
print("ready", flush=True)
while True:
    connection, address = server.accept()
    connection.sendall(address[0].encode())
    connection.close()
"""
_SCTP_CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
client = socket.socket(family, socket.SOCK_STREAM, 132)
client.settimeout(10)
client.connect((sys.argv[1], int(sys.argv[2])))
print(client.recv(100).decode())
"""


def another_host() -> None:
    """`far`: a network namespace at the other end of `up0`."""
    for words in (
        "netns add far", "link add up0 type veth peer name down0 netns far", f"address add {_NEAR}/24 dev up0", "link set up0 up",
        f"-n far address add {_FAR}/24 dev down0", "-n far link set down0 up", "-n far link set lo up",
    ):  # fmt: skip
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def at_far(*command: str) -> str:
    return shell("ip", "netns", "exec", "far", *command)


def inside(pid: int, *command: str) -> str:
    """In the network of a container."""
    return shell("nsenter", f"--net=/proc/{pid}/ns/net", *command)


@contextlib.contextmanager
def network(engine: Engine, name: str, driver: str, subnet: str, gateway: str = "", **options: str) -> Iterator[None]:
    config = {"Subnet": subnet, **({"Gateway": gateway} if gateway else {})}
    engine.call("POST", "/networks/create", {"Name": name, "Driver": driver, "Options": options, "IPAM": {"Config": [config]}})
    try:
        yield
    finally:
        engine.call("DELETE", f"/networks/{name}")


def address_of(engine: Engine, identity: str, name: str) -> str:
    return str(engine.inspect(identity)["NetworkSettings"]["Networks"][name]["IPAddress"])


def pings(pid: int, address: str) -> bool:
    return subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ping", "-c", "1", "-W", "5", address], capture_output=True, check=False).returncode == 0


def _ipvlan(engine: Engine, mode: str, subnet: str, gateway: str) -> dict[str, Any]:
    with network(engine, "ipv", "ipvlan", subnet, gateway, parent="up0", ipvlan_mode=mode):
        with engine.running(SLEEP, NetworkMode="ipv") as (one, one_pid), engine.running(SLEEP, NetworkMode="ipv") as (other, other_pid):
            (link,) = json.loads(inside(one_pid, "ip", "-d", "-j", "link", "show", "eth0"))
            info = link["linkinfo"]
            found = {
                "kind": info["info_kind"], "mode": info["info_data"]["mode"], "routes": inside(one_pid, "ip", "route"),
                "far": pings(one_pid, _FAR), "other": pings(one_pid, address_of(engine, other, "ipv")), "back": pings(other_pid, address_of(engine, one, "ipv")),
            }  # fmt: skip
            found["from far"] = subprocess.run(["ip", "netns", "exec", "far", "ping", "-c", "1", "-W", "5", address_of(engine, one, "ipv")], capture_output=True, check=False).returncode == 0
            found["parent's address"] = json.loads(shell("ip", "-j", "link", "show", "up0"))[0]["address"] == link["address"]
            asked = {"EndpointsConfig": {"ipv": {"MacAddress": "02:42:0a:4c:00:09"}}}
            body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "ipv"}, "NetworkingConfig": asked}
            identity = engine.call("POST", "/containers/create", body)["Id"]
            found["mac"] = engine.raw("POST", f"/containers/{identity}/start")[1].decode()
            engine.call("DELETE", f"/containers/{identity}?force=1")
        found["left"] = shell("ip", "-o", "link", "show", "type", "ipvlan")
    return found


def ipvlan_l2(engine: Engine) -> dict[str, Any]:
    """In the subnet of the host's own link, whose gateway is the other host."""
    return _ipvlan(engine, "l2", "192.0.2.0/24", _FAR)


def ipvlan_l3(engine: Engine) -> dict[str, Any]:
    """A subnet that others reach by this host's address."""
    at_far("ip", "route", "add", "10.77.0.0/24", "via", _NEAR)
    return _ipvlan(engine, "l3", "10.77.0.0/24", "")


def ipvlan_l3s(engine: Engine) -> dict[str, Any]:
    at_far("ip", "route", "replace", "10.77.0.0/24", "via", _NEAR)
    return _ipvlan(engine, "l3s", "10.77.0.0/24", "")


def vlan(engine: Engine) -> dict[str, Any]:
    """A macvlan on a VLAN that the engine makes on the host's link, and takes away with the network."""
    for words in ("link add link down0 name down0.50 type vlan id 50", "address add 198.51.100.2/24 dev down0.50", "link set down0.50 up"):
        at_far("ip", *words.split())
    with network(engine, "vl", "macvlan", "198.51.100.0/24", "198.51.100.2", parent="up0.50"), engine.running(SLEEP, NetworkMode="vl") as (_, pid):
        found = {"far": pings(pid, "198.51.100.2"), "link": json.loads(shell("ip", "-d", "-j", "link", "show", "up0.50"))[0]["linkinfo"]}
    return {**found, "left": os.path.exists("/sys/class/net/up0.50")}


def sctp(engine: Engine) -> dict[str, Any]:
    """A server in a container, published; clients here, on another host, and in another container."""
    with network(engine, "web", "bridge", "10.78.0.0/24"):
        published = {"NetworkMode": "web", "PortBindings": {"80/sctp": [{"HostPort": "18030"}]}}
        with engine.running(SLEEP, **published) as (one, pid), engine.running(SLEEP, NetworkMode="web") as (_, other_pid):
            server = subprocess.Popen(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", _SCTP_SERVER], stdout=subprocess.PIPE, text=True)
            try:
                assert server.stdout
                assert server.stdout.readline() == "ready\n"
                client = (sys.executable, "-c", _SCTP_CLIENT)
                return {
                    "address": address_of(engine, one, "web"), "loopback": shell(*client, "127.0.0.1", "18030"), "own": shell(*client, _NEAR, "18030"),
                    "far": at_far(*client, _NEAR, "18030"), "loopback6": shell(*client, "::1", "18030"), "container": inside(other_pid, *client, address_of(engine, one, "web"), "80"),
                    "hairpin": inside(other_pid, *client, _NEAR, "18030"), "rules": shell("nft", "list", "ruleset"),
                    "closed": _closed(client),
                }  # fmt: skip
            finally:
                server.kill()
                server.wait()


def _closed(client: tuple[str, ...]) -> str:
    """What another host gets while the host's firewall drops the port."""
    shell("nft", "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in sctp dport 18030 reject")
    try:
        return at_far(*client, _NEAR, "18030")
    finally:
        shell("nft", "delete", "table", "inet", "wall")


FEATURES: tuple[Callable[[Engine], dict[str, Any]], ...] = (ipvlan_l2, ipvlan_l3, ipvlan_l3s, vlan, sctp)


def main(shared: str) -> None:
    findings: dict[str, Any] = {"seconds": {}}
    shutil.copytree(f"{shared}/wheels", sysconfig.get_path("purelib"), dirs_exist_ok=True)  # the resolver takes nothing from the environment
    another_host()
    for module in ("sctp", "ipvlan"):
        shell("modprobe", module)
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    engine = Engine(shared, "/root/berth", "--bridge", "none")
    engine.call("POST", "/images/create?fromSrc=-&repo=busybox", busybox_archive())
    before = shell("nft", "list", "ruleset"), sorted(os.listdir("/sys/class/net"))
    for feature in FEATURES:
        began = time.monotonic()
        try:
            findings[feature.__name__] = feature(engine)
        except Exception:
            findings[feature.__name__] = {"error": traceback.format_exc()}
        findings["seconds"][feature.__name__] = round(time.monotonic() - began, 1)
    findings["as it was"] = (shell("nft", "list", "ruleset"), sorted(os.listdir("/sys/class/net"))) == before
    engine.process.terminate()
    findings["engine_exit"] = engine.process.wait(60)
    findings["log"] = read(LOG)
    print(json.dumps(findings))


if __name__ == "__main__":
    main(sys.argv[1])
