"""Answers a second of the resolver for names of containers, asked by dnsperf or by a client of ours in another process.

    python bench/dns.py [--seconds 5] [--containers 100] [--sandboxes 1] [--own]

The resolver is the real process behind the engine's handle; its sockets are on 127.0.0.1. Prints one line of JSON a case:
each container's name and id of one network (A and AAAA), one service name with several addresses, names that are asked
for once only, so that every answer is made anew, and names that the resolver has from a server and keeps.
"""

import argparse
import asyncio
import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from berth.network.resolving import Resolver

_AT_ONCE = 64
_LONG_NAME = "aservicewithalongname"  # as many questions as its letters have cases


def sockets() -> tuple[int, int, int]:
    """UDP and listening TCP descriptors and their port."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        port = udp.getsockname()[1]
        try:
            tcp.bind(("127.0.0.1", port))
        except OSError:  # TCP has that port in use
            udp.close()
            tcp.close()
            continue
        tcp.listen(64)
        return udp.detach(), tcp.detach(), port


def message(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!5H", 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def ask(port: int, names: list[tuple[str, int]], seconds: float) -> float:
    """Answers a second to a client that has _AT_ONCE questions out; every answer's id and code are checked."""
    messages = [message(name, kind) for name, kind in names]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    out, sent, answered, end = set(), 0, 0, time.monotonic() + seconds
    start = time.monotonic()
    while time.monotonic() < end:
        while len(out) < _AT_ONCE:
            identity = sent & 0xFFFF
            sock.send(struct.pack("!H", identity) + messages[sent % len(messages)])
            out.add(identity)
            sent += 1
        if not select.select([sock], [], [], 1)[0]:
            out.clear()  # lost
            continue
        for _ in range(_AT_ONCE):
            try:
                answer = sock.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            identity, flags = struct.unpack_from("!HH", answer)
            if identity in out and flags & 0x800F == 0x8000:
                out.discard(identity)
                answered += 1
    sock.close()
    return answered / (time.monotonic() - start)


def dnsperf(port: int, names: list[tuple[str, int]], seconds: float, directory: str) -> float:
    path = f"{directory}/names"
    Path(path).write_text("".join(f"{name} {'A' if kind == 1 else 'AAAA'}\n" for name, kind in names))
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", path, "-l", str(seconds), "-c", "8", "-q", str(_AT_ONCE), "-t", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    lost = re.search(r"Queries lost:\s+(\d+)", done.stdout)
    rate = re.search(r"Queries per second:\s+([\d.]+)", done.stdout)
    assert rate, done.stdout + done.stderr
    assert lost, done.stdout
    return float(rate[1])


def upstream() -> tuple[subprocess.Popen[bytes], int]:
    """A server that gives every name one address for an hour."""
    script = (
        "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('127.0.0.1',0));print(s.getsockname()[1],flush=True)\n"
        "while 1:\n d,p=s.recvfrom(4096);e=12+d[12:].index(0)+5\n"
        " s.sendto(d[:2]+b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0'+d[12:e]+b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\x0e\\x10\\0\\4\\x0a\\x09\\x08\\x07',p)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout
    return process, int(process.stdout.readline())


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    return round(int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024, 1)  # type: ignore[index]


async def measure(options: argparse.Namespace, directory: str) -> None:
    resolver = await Resolver.start(directory)
    server, server_port = upstream()
    ports = []
    await resolver.set_network("net", "net")
    for number in range(options.sandboxes):
        udp, tcp, port = sockets()
        await resolver.add_sandbox(f"sandbox{number}", udp, tcp, networks=["net"], upstreams=[f"127.0.0.1#{server_port}"])
        ports.append(port)
    start = time.perf_counter()
    for number in range(options.containers):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        await resolver.add_endpoint("net", f"endpoint{number}", [f"web{number}", f"{number:012x}", *(["service"] if number < 8 else [_LONG_NAME] if number == 8 else [])], [address])
    told_us = (time.perf_counter() - start) / options.containers * 1e6
    await resolver.flushed()
    acted_us = (time.perf_counter() - start) / options.containers * 1e6
    print(json.dumps({"endpoint_told_us": round(told_us, 1), "endpoint_acted_on_us": round(acted_us, 1), "memory_mib": rss_mib(resolver.pid)}))
    cases = {
        "names": [(name, kind) for number in range(options.containers) for name in (f"web{number}", f"{number:012x}") for kind in (1, 28)],
        "service": [("service", 1)],
        "made anew": [("".join(c.upper() if number >> at & 1 else c for at, c in enumerate(_LONG_NAME)), 1) for number in range(100_000)],
        "from the cache": [(f"host{number}.example.org", 1) for number in range(1000)],
    }
    loop = asyncio.get_running_loop()
    for name, asked in cases.items():
        before, clock = cpu_s(resolver.pid), time.monotonic()
        if options.own or not shutil.which("dnsperf"):
            rate = await loop.run_in_executor(None, in_child, ports[0], asked, options.seconds)
        else:
            rate = await loop.run_in_executor(None, dnsperf, ports[0], asked, options.seconds, directory)
        busy = (cpu_s(resolver.pid) - before) / (time.monotonic() - clock)
        print(json.dumps({"case": name, "answers_per_s": round(rate), "resolver_cpu": round(busy, 2), "memory_mib": rss_mib(resolver.pid)}))
    server.kill()
    server.wait()
    for number in range(options.sandboxes):
        await resolver.remove_sandbox(f"sandbox{number}")
    await resolver.flushed()
    resolver.close()


def in_child(port: int, names: list[tuple[str, int]], seconds: float) -> float:
    """`ask` in a process of its own."""
    command = [sys.executable, __file__, "--ask", str(port), "--seconds", str(seconds)]
    done = subprocess.run(command, input=json.dumps(names), capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--sandboxes", type=int, default=1)
    parser.add_argument("--own", action="store_true", help="ask with our own client even where dnsperf is installed")
    parser.add_argument("--ask", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(ask(options.ask, json.load(sys.stdin), options.seconds))
        return
    with tempfile.TemporaryDirectory(prefix="berth-dns-", dir="/var/tmp") as directory:
        asyncio.run(measure(options, directory))


if __name__ == "__main__":
    main()
