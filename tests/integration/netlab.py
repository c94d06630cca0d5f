"""Hosts for tests of networks: an engine in a network namespace that stands for its host, and others around it.

    client 192.0.2.2 ─── 192.0.2.1 host (engine; berth's bridges and rules) ─── 198.51.100.1 ─── far 198.51.100.2

The machine's own namespace is not touched: no bridge, no rule, no sysctl.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator

from harness import Engine

CLIENT, HOST, HOST_FAR, FAR = "192.0.2.2", "192.0.2.1", "198.51.100.1", "198.51.100.2"
CLIENT6, HOST6 = "2001:db8:1::2", "2001:db8:1::1"


def sh(*words: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """A command on this machine."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


class Lab:
    """Three namespaces and their cables; close it."""

    def __init__(self) -> None:
        self._prefix = f"berth-lab-{os.getpid()}"
        self._made: list[str] = []
        for name in ("host", "client", "far"):
            sh("ip", "netns", "add", self.name(name))
            self._made.append(name)
            sh("ip", "-n", self.name(name), "link", "set", "lo", "up")
        self._cable("client", CLIENT, CLIENT6, "host", HOST, HOST6)
        self._cable("far", FAR, "", "host", HOST_FAR, "")
        self.at("client", "ip", "route", "add", "default", "via", HOST)
        self.at("client", "ip", "-6", "route", "add", "default", "via", HOST6)
        self.at("far", "ip", "route", "add", "default", "via", HOST_FAR)

    def name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def enter(self, host: str) -> tuple[str, ...]:
        """`ip netns exec` would unmount /sys, where cgroups are."""
        return ("nsenter", f"--net=/run/netns/{self.name(host)}")

    def at(self, host: str, *words: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """A command on one of the hosts."""
        return sh(*self.enter(host), *words, check=check, timeout=timeout)

    @contextlib.contextmanager
    def running(self, host: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A program on one of the hosts, ended afterwards."""
        process = subprocess.Popen((*self.enter(host), *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def rules(self, host: str = "host") -> str:
        """`nft list ruleset` without counters."""
        return self.at(host, "nft", "-s", "list", "ruleset").stdout

    def links(self, host: str = "host") -> set[str]:
        return {link["ifname"] for link in json.loads(self.at(host, "ip", "-j", "link").stdout)}

    def fetch(self, host: str, url: str, *options: str, timeout_s: int = 3) -> str:
        """What curl gets, '' for nothing."""
        return self.at(host, "curl", "-s", "-m", str(timeout_s), *options, url, check=False, timeout=timeout_s + 10).stdout

    def close(self) -> None:
        for name in self._made:
            sh("ip", "netns", "delete", self.name(name))

    def _cable(self, one: str, one_v4: str, one_v6: str, other: str, other_v4: str, other_v6: str) -> None:
        near, distant = f"to-{other}", f"to-{one}"
        sh("ip", "link", "add", near, "netns", self.name(one), "type", "veth", "peer", "name", distant, "netns", self.name(other))
        for host, link, v4, v6 in ((one, near, one_v4, one_v6), (other, distant, other_v4, other_v6)):
            self.at(host, "ip", "address", "add", f"{v4}/24", "dev", link)
            if v6:
                self.at(host, "ip", "-6", "address", "add", f"{v6}/64", "dev", link, "nodad")
            self.at(host, "ip", "link", "set", link, "up")


def engine_in(lab: Lab, rootfs_tar: str, *options: str) -> Engine:
    """An engine whose host is the lab's `host`, with the image `bb`."""
    engine = Engine(options, lab.enter("host"), bridge=True)
    engine.docker("import", rootfs_tar, "bb")
    return engine


# -- what tests of networks do with containers ----------------------------------------------------------

HTTP = ("sh", "-c", "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w")
# Tells whoever connects to port 7000 from which address.
SAY_PEER = """
import socket
server = socket.create_server(("", 7000))
print("ready")
while True:
    connection, peer = server.accept()
    connection.sendall((peer[0] + "\\n").encode())
    connection.close()
"""


@contextlib.contextmanager
def containers(net: Engine) -> Iterator[Callable[..., str]]:
    """Starts containers of `bb`, which are removed at the end."""
    started: list[str] = []

    def run(*options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
        started.append(net.docker("run", "-d", *options, "bb", *command).stdout.strip())
        net.seen_ids.add(started[-1])
        return started[-1]

    try:
        yield run
    finally:
        net.rm(*started)


@contextlib.contextmanager
def networks(net: Engine) -> Iterator[Callable[..., str]]:
    """Makes networks, which are removed at the end."""
    made: list[str] = []

    def create(name: str, *options: str) -> str:
        made.append(name)
        return net.docker("network", "create", *options, name).stdout.strip()

    try:
        yield create
    finally:
        for name in made:
            net.docker("network", "rm", name, code=None)


def inside(net: Engine, identity: str, *words: str) -> str:
    """A program of the machine's in a container's network namespace."""
    return sh("nsenter", "-n", "-t", str(net.pid(identity)), *words).stdout


def interfaces(net: Engine, identity: str) -> dict[str, dict]:
    """By name: what `ip` says of them, and `addresses` as texts."""
    found = json.loads(inside(net, identity, "ip", "-d", "-j", "address"))
    return {link["ifname"]: {**link, "addresses": [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]]} for link in found if link["ifname"] != "lo"}


def routes(net: Engine, identity: str, version: str = "-4") -> dict[str, str]:
    """Destination -> gateway, or the interface."""
    return {route["dst"]: route.get("gateway", route["dev"]) for route in json.loads(inside(net, identity, "ip", version, "-j", "route") or "[]")}


def settings(net: Engine, identity: str) -> dict:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0]["NetworkSettings"])


def gets(net: Engine, identity: str, url: str) -> bool:
    """Whether an HTTP above is reached from a container."""
    return net.docker("exec", identity, "timeout", "3", "wget", "-qO-", url, code=None).stdout == "hello\n"
