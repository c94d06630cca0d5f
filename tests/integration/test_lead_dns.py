"""Port 53 of 127.0.0.11 in a network namespace leads to sockets on other ports there, as a client sees it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from nethosts import Host

from berth.linux import nftables

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Host]:
    with contextlib.closing(Host("dns")) as made:
        yield made


def serve(host: Host) -> tuple[socket.socket, socket.socket]:
    with host.inside():
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    for sock in (udp, tcp):
        sock.bind(("127.0.0.11", 0))
        sock.settimeout(5)
    tcp.listen()
    return udp, tcp


def client(host: Host, kind: int) -> socket.socket:
    with host.inside():
        sock = socket.socket(type=kind)
    sock.settimeout(5)
    sock.connect(("127.0.0.11", 53))  # so that no answer from elsewhere is taken
    return sock


def test_both_ways_over_udp_and_tcp(host: Host) -> None:
    udp, tcp = serve(host)
    with udp, tcp:
        with host.inside():
            nftables.lead_dns(udp.getsockname()[1], tcp.getsockname()[1])
        with client(host, socket.SOCK_DGRAM) as asking:
            asking.send(b"question")
            data, peer = udp.recvfrom(100)
            udp.sendto(data.upper(), peer)
            assert asking.recv(100) == b"QUESTION"
        with client(host, socket.SOCK_STREAM) as asking:
            answering, _ = tcp.accept()
            with answering:
                asking.send(b"question")
                assert answering.recv(100) == b"question"


def test_a_second_call_leads_elsewhere(host: Host) -> None:
    first, second = serve(host), serve(host)
    with contextlib.ExitStack() as held:
        for sock in (*first, *second):
            held.enter_context(sock)
        for udp, tcp in (first, second):
            with host.inside():
                nftables.lead_dns(udp.getsockname()[1], tcp.getsockname()[1])
        with client(host, socket.SOCK_DGRAM) as asking:
            asking.send(b"question")
            assert second[0].recv(100) == b"question"
        rules = host.run("nft", "list", "table", "ip", "berth-dns")
        assert rules.count("dnat to 127.0.0.11:") == 2
        assert f"dnat to 127.0.0.11:{second[1].getsockname()[1]}" in rules


def test_nothing_else_is_led(host: Host) -> None:
    """A program may have port 53 of other addresses; and other ports of this one."""
    with host.inside():
        nftables.lead_dns(40000, 40001)
        own = socket.socket(type=socket.SOCK_DGRAM)
    with own:
        own.bind(("127.0.0.1", 53))
        own.settimeout(5)
        with host.inside():
            asking = socket.socket(type=socket.SOCK_DGRAM)
        with asking:
            asking.sendto(b"mine", ("127.0.0.1", 53))
            assert own.recv(10) == b"mine"
