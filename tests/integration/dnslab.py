"""What tests of the resolver need: a network namespace with sockets as a container has them, and servers that behave as told.

    with Container() as box:
        await resolver.add_sandbox("c1", *box.take_sockets(), networks=["net"])
        box.dig("web", "AAAA")                     # asks 127.0.0.11 in the namespace
    with Server(lambda query, tcp: ...) as server:
        await resolver.add_sandbox(…, upstreams=[server.text])
"""

import contextlib
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import dns.message
import dns.rrset

HAVE_TOOLS = all(shutil.which(tool) for tool in ("dig", "ip", "nft", "dnsmasq"))

_OPEN_SOCKETS = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as channel:
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    udp.bind(("127.0.0.11", 0))
    tcp.bind(("127.0.0.11", udp.getsockname()[1]))
    tcp.listen(64)
    socket.send_fds(channel, [b"%d" % udp.getsockname()[1]], [udp.fileno(), tcp.fileno()])
"""
_RULES = """
table ip berth {
    chain output { type nat hook output priority -100; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:PORT
                   ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:PORT; }
}
"""


class Container:
    """A network namespace with two sockets on 127.0.0.11 and rules that lead port 53 there."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.name = f"berth-dns-{os.getpid()}-{next(self.numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        try:
            self.inside("ip", "link", "set", "lo", "up")
            ours, theirs = socket.socketpair()
            with ours, theirs:
                command = ["ip", "netns", "exec", self.name, sys.executable, "-c", _OPEN_SOCKETS, str(theirs.fileno())]
                subprocess.run(command, pass_fds=[theirs.fileno()], check=True)
                port, self.fds, _, _ = socket.recv_fds(ours, 100, 2)
            self.inside("nft", "-f", "-", input=_RULES.replace("PORT", port.decode()))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in getattr(self, "fds", []):
            os.close(fd)
        self.fds = []
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def take_sockets(self) -> tuple[int, int]:
        """The descriptors, the caller's from now on; duplicates stay here for more than one caller."""
        udp, tcp = (os.dup(fd) for fd in self.fds)
        return udp, tcp

    def inside(self, *words: str, **options: object) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(["ip", "netns", "exec", self.name, *words], text=True, capture_output=True, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done  # type: ignore[no-any-return]

    def dig(self, *words: str) -> "Dig":
        """Asks once, and waits for longer than the resolver may take."""
        return Dig(self.inside("dig", "@127.0.0.11", "+tries=1", "+time=8", *words).stdout)


class Dig:
    """What dig says: status, flags, answers as [name, ttl, class, type, data]."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = re.search(r"status: (\w+)", text)
        self.status = found[1] if found else ""
        found = re.search(r"flags: ([\w ]*)", text)
        self.flags = found[1].split() if found else []
        part = text.partition(";; ANSWER SECTION:\n")[2].partition("\n\n")[0]
        self.answers = [line.split(None, 4) for line in part.splitlines()]
        found = re.search(r"Query time: (\d+) msec", text)
        self.time_s = int(found[1]) / 1000 if found else -1.0

    @property
    def data(self) -> list[str]:
        return [answer[4] for answer in self.answers]


class Server:
    """A DNS server on 127.0.0.1 whose `behave(query, is_tcp)` gives what is sent: bytes or several; None for nothing."""

    def __init__(self, behave: "Callable[[dns.message.Message, bool], bytes | list[bytes] | None]", delay_s: float = 0) -> None:
        self._behave, self._delay_s = behave, delay_s
        self.asked: list[tuple[str, str, bool, int, int]] = []  # name, type, whether over TCP, the client's port, id
        self._udp, self._tcp, self.port = _both_sockets()
        self._threads = [threading.Thread(target=target) for target in (self._serve_udp, self._serve_tcp)]
        self._timers: list[threading.Timer] = []
        for thread in self._threads:
            thread.start()

    @property
    def text(self) -> str:
        return f"127.0.0.1#{self.port}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _replies(self, data: bytes, is_tcp: bool, port: int) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.asked.append((query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype), is_tcp, port, query.id))
        replies = self._behave(query, is_tcp)
        return replies if isinstance(replies, list) else [replies] if replies else []

    def _serve_udp(self) -> None:
        while data_and_peer := self._udp.recvfrom(65535):
            data, peer = data_and_peer
            if not data:
                return
            replies = self._replies(data, False, peer[1])
            if self._delay_s:
                self._timers.append(threading.Timer(self._delay_s, self._send, (replies, peer)))
                self._timers[-1].start()
            else:
                self._send(replies, peer)

    def _send(self, replies: list[bytes], peer: tuple) -> None:
        for reply in replies:
            self._udp.sendto(reply, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, peer = self._tcp.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, struct.error):
                connection.settimeout(5)
                (length,) = struct.unpack("!H", connection.recv(2))
                for reply in self._replies(connection.recv(length), True, peer[1]):
                    connection.sendall(struct.pack("!H", len(reply)) + reply)


def _both_sockets() -> tuple[socket.socket, socket.socket, int]:
    """UDP and TCP on one port: what one of them is given may be taken for the other."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(("127.0.0.1", port))
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(16)
        return udp, tcp, port


def answer(query: dns.message.Message, *records: str, rcode: int = 0, flags: int = 0) -> bytes:
    """A response with records as "ttl type data" for the question's name."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.flags |= flags
    for record in records:
        ttl, kind, data = record.split(None, 2)
        response.answer.append(dns.rrset.from_text(query.question[0].name, int(ttl), "IN", kind, data))
    return response.to_wire(max_size=65535)


class Dnsmasq:
    """The real one, with some records of example.org; its log says what it was asked."""

    def __init__(self, directory: str) -> None:
        self.log_path = f"{directory}/dnsmasq.log"
        deadline_s = time.monotonic() + 30
        self._start(directory)
        while "started" not in self.log():
            assert time.monotonic() < deadline_s, self.log()
            if self.process.poll() is not None:  # somebody else has taken the port
                self._start(directory)
            time.sleep(0.01)

    def _start(self, directory: str) -> None:
        udp, tcp, self.port = _both_sockets()
        udp.close()
        tcp.close()
        self.process = subprocess.Popen(
            ["dnsmasq", "--keep-in-foreground", f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts",
             "--conf-file=/dev/null", f"--pid-file={directory}/dnsmasq.pid", "--user=root", "--log-queries", f"--log-facility={self.log_path}",
             "--local=/example.org/", "--host-record=www.example.org,192.0.2.1,2001:db8::1,50", "--cname=alias.example.org,www.example.org",
             "--txt-record=text.example.org,hello", *(f"--txt-record=long.example.org,{number}-{'x' * 240}" for number in range(40)),
             "--mx-host=example.org,mail.example.org,10", "--local-ttl=50", "--neg-ttl=60"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def text(self) -> str:
        return f"127.0.0.1#{self.port}"

    def log(self) -> str:
        try:
            with open(self.log_path) as file:
                return file.read()
        except OSError:
            return ""

    def times_asked(self, name: str) -> int:
        return len(re.findall(rf"query\[\w+\] {re.escape(name)} ", self.log(), re.I))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
