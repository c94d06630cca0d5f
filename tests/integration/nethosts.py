"""Hosts and containers as network namespaces of the tests' own, for tests of berth's network code without an engine."""

import contextlib
import json
import os
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from berth.linux import libc
from berth.linux.rtnetlink import Route


class Host:
    """A network namespace with loopback up. `close` removes it and whatever runs in it."""

    def __init__(self, what: str = "host") -> None:
        self.name = f"bt-{what}-{secrets.token_hex(3)}"
        self.processes: list[subprocess.Popen[str]] = []
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link set lo up")
        with self.inside():
            self.route = Route()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.route.close()
        os.close(self.fd)
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile, also for what it reads and writes in /proc/sys/net."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.setns(self.fd, libc.CLONE_NEWNET)
            yield
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
            os.close(home)

    def run(self, *command: str, check: bool = True, stdin: str = "", timeout_s: float = 60) -> str:
        """A program in the namespace; its output, errors too. Fails where the program does, unless told otherwise."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}"
        return done.stdout

    def ip(self, arguments: str) -> str:
        return self.run("ip", *arguments.split())

    def ping(self, target: str, *, wait_s: int = 5, check: bool = True) -> str:
        return self.run("busybox", "ping", "-c1", f"-W{wait_s}", target, check=check)

    def ip_json(self, arguments: str) -> list[dict]:
        return json.loads(self.run("ip", "-json", *arguments.split()) or "[]")

    def nft(self, script: str) -> str:
        return self.run("nft", "-f", "-", stdin=script)

    def ruleset(self, *options: str) -> str:
        return self.run("nft", *options, "list", "ruleset")

    def sysctl(self, name: str, value: str | None = None) -> str:
        with self.inside(), open("/proc/sys/" + name, "r+" if value is not None else "r") as file:
            if value is not None:
                file.write(value)
                return value
            return file.read().strip()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A program that goes on; it ends with the namespace."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process


def connect(one: Host, other: Host, subnet: str = "192.0.2", names: tuple[str, str] = ("eth0", "eth0"), subnet6: str = "") -> None:
    """A cable between two hosts, which are .1 and .2 on it."""
    one.ip(f"link add {names[0]} type veth peer name {names[1]} netns {other.name}")
    for number, (host, name) in enumerate(((one, names[0]), (other, names[1])), 1):
        host.ip(f"address add {subnet}.{number}/24 dev {name}")
        if subnet6:
            host.ip(f"address add {subnet6}::{number}/64 dev {name} nodad")
        host.ip(f"link set {name} up")


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Echo:
    """Answers on a port, TCP (as HTTP) and UDP, IPv4 and IPv6, with the address that it is asked from. Close it."""

    def __init__(self, host: Host, port: int) -> None:
        self.sockets: list[socket.socket] = []
        self.end, self.other_end = socket.socketpair()
        with host.inside():
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = socket.socket(socket.AF_INET6, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind(("::", port))
                self.sockets.append(sock)
        self.sockets[0].listen(128)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.end.close()
        self.thread.join()
        for sock in (*self.sockets, self.other_end):
            sock.close()

    def _serve(self) -> None:
        tcp, udp = self.sockets
        while True:
            for ready in select.select([tcp, udp, self.other_end], [], [])[0]:
                if ready is self.other_end:
                    return
                if ready is udp:
                    data, peer = udp.recvfrom(65536)
                    udp.sendto(f"{_plain(peer)} {len(data)}".encode(), peer)
                else:
                    connection, peer = tcp.accept()
                    with connection:
                        connection.settimeout(5)
                        with contextlib.suppress(OSError):
                            connection.recv(65536)
                            connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{_plain(peer)}".encode())


def _plain(peer: tuple) -> str:
    return peer[0].removeprefix("::ffff:")


def ask(host: Host, address: str, port: int, *, wait_s: float = 5) -> str:
    """What an Echo answers over TCP; "" if there is no answer, "refused" if that is the answer."""
    text = f"[{address}]" if ":" in address else address
    answer = host.run("curl", "-sS", "-g", "-m", str(wait_s), f"http://{text}:{port}/", check=False)
    if answer.startswith("curl: (7)"):
        return "refused"
    return "" if answer.startswith("curl: (28)") else answer  # 28: nothing came in time


def ask_udp(host: Host, address: str, port: int, *, size: int = 1, wait_s: float = 5, source_port: int = 0) -> str:
    """What an Echo answers over UDP: the address it saw and how many bytes came; "" if there is no answer."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(wait_s)
        if source_port:
            sock.bind(("", source_port))
        try:
            sock.sendto(b"x" * size, (address, port))
            return sock.recv(1000).decode()
        except TimeoutError:
            return ""
        except ConnectionRefusedError:
            return "refused"
