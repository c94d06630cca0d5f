"""The resolver process behind the engine's handle: asked with dig from network namespaces, with real servers behind it."""

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from dnslab import HAVE_TOOLS, Container, Dnsmasq, Server, answer
from harness import REPOSITORY, has_ended, status, wait_until

pytest.importorskip("dns", reason="needs dnspython")
if not HAVE_TOOLS:
    pytest.skip("needs dig, ip, nft and dnsmasq", allow_module_level=True)
import dns.flags
import dns.message
import dns.rcode

from berth import errors
from berth.network.dns import control
from berth.network.resolving import Resolver

ENGINE = """
import asyncio, sys
from berth.network.resolving import Resolver
async def main():
    resolver = await Resolver.start(sys.argv[1])
    await resolver.set_network("n", "net")
    for number in range(0, len(sys.argv) - 3, 2):
        await resolver.add_sandbox(f"c{number // 2}", int(sys.argv[number + 3]), int(sys.argv[number + 4]), networks=["n"])
    await resolver.add_endpoint("n", "1", ["web"], ["10.0.0.2"])
    await resolver.add_endpoint("n", "2", ["old"], ["10.0.0.3"])
    if sys.argv[2]:
        import os
        await resolver.watch_sandbox("c0", os.pidfd_open(int(sys.argv[2])))
    await resolver.flushed()
    print(resolver.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def box() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def directory(tmp_path: object) -> str:
    return str(tmp_path)


@pytest.fixture(scope="module")
def dnsmasq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    server = Dnsmasq(str(tmp_path_factory.mktemp("dnsmasq")))
    yield server
    server.close()


@contextlib.asynccontextmanager
async def engine(directory: str) -> AsyncIterator[Resolver]:
    """A handle whose process must have ended by itself soon after it is closed; all sandboxes are removed before."""
    resolver = await Resolver.start(directory)
    try:
        yield resolver
    finally:
        for identity in resolver.known:
            await resolver.remove_sandbox(identity)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(resolver.flushed(), 20)
        pid = resolver.pid
        resolver.close()
        await asyncio.to_thread(wait_until, lambda: has_ended(pid), "the resolver", 20)
        assert os.listdir(directory) == []


async def web(resolver: Resolver, box: Container, identity: str = "c1", **options: object) -> None:
    """A sandbox in a network with `web` and `db`, 10.0.0.2 and 10.0.0.3."""
    await resolver.set_network("n", "net")
    await resolver.add_sandbox(identity, *box.take_sockets(), networks=["n"], **options)  # type: ignore[arg-type]
    await resolver.add_endpoint("n", "1", ["web", "0123456789ab", "service"], ["10.0.0.2", "fd00::2"])
    await resolver.add_endpoint("n", "2", ["db", "service"], ["10.0.0.3"])


async def off(function: Callable, *arguments: object) -> object:
    """Runs it beside the loop."""
    return await asyncio.to_thread(function, *arguments)


def test_dig_finds_containers_over_udp_and_tcp(box: Container, directory: str) -> None:
    def look() -> None:
        assert [box.dig(name).data for name in ("web", "db", "0123456789ab", "web.net", "nix.net2")] == [["10.0.0.2"], ["10.0.0.3"], ["10.0.0.2"], ["10.0.0.2"], []]
        assert box.dig("web", "AAAA").data == ["fd00::2"]
        nothing = box.dig("db", "AAAA")
        assert (nothing.status, nothing.data) == ("NOERROR", [])
        assert box.dig("-x", "10.0.0.2").data == ["web.net."]
        assert box.dig("WeB").answers[0][0] == "WeB."
        assert sorted(box.dig("service", "+tcp").data) == ["10.0.0.2", "10.0.0.3"]
        assert {box.dig("service").data[0] for _ in range(4)} == {"10.0.0.2", "10.0.0.3"}
        several = box.dig("+tcp", "+keepopen", "web", "db", "service", "web.net")
        assert several.text.count("status: NOERROR") == 4
        assert box.dig("web", "CH", "TXT").status == "REFUSED"
        assert box.dig("web", "AXFR").text.count("Transfer failed") == 1
        assert box.dig("web", "+opcode=status").status == "NOTIMP"
        assert box.dig("web", "+edns=1", "+noednsneg").status == "BADVERS"
        assert "10.0.0.2" in box.inside("busybox", "nslookup", "web", "127.0.0.11").stdout

    async def run() -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=["127.0.0.1#9"])
            await off(look)
            await resolver.remove_endpoint("n", "1")
            await resolver.set_sandbox("c1", networks=["n"], links={"n": {"database": "db"}}, forward=False)
            await resolver.flushed()
            assert [(await asyncio.to_thread(box.dig, name)).data for name in ("web", "service", "database")] == [[], ["10.0.0.3"], ["10.0.0.3"]]

    asyncio.run(run())


def test_the_rest_is_forwarded_and_kept_for_its_time(box: Container, directory: str, dnsmasq: Dnsmasq) -> None:
    def look() -> None:
        first = box.dig("www.example.org")
        assert (first.data, first.status, first.flags[:3]) == (["192.0.2.1"], "NOERROR", first.flags[:3])
        assert "ra" in first.flags
        wait_until(lambda: int(box.dig("www.example.org").answers[0][1]) < 50, "an answer that ages", 20)
        assert box.dig("WWW.Example.org").answers[0][0] == "WWW.Example.org."
        assert dnsmasq.times_asked("www.example.org") == 1
        assert box.dig("www.example.org", "AAAA").data == ["2001:db8::1"]
        assert box.dig("alias.example.org").data == ["www.example.org.", "192.0.2.1"]
        assert box.dig("example.org", "MX").data == ["10 mail.example.org."]
        assert box.dig("nothing.example.org").status == "NXDOMAIN"
        assert box.dig("text.example.org", "TXT", "+nocookie", "+noedns").data == ['"hello"']
        long = box.dig("long.example.org", "TXT", "+bufsize=4096")  # cut by dnsmasq, asked again over TCP, cut for dig, which does the same
        assert len(long.data) == 40
        assert "Truncated, retrying in TCP mode" in long.text
        ignored = box.dig("long.example.org", "TXT", "+ignore")
        assert "tc" in ignored.flags

    async def run() -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[dnsmasq.text])
            await off(look)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"forward": False}, "www.example.org", "SERVFAIL"), ({"forward": False}, "web", "NOERROR"), ({"single_labels": False}, "www", "NOERROR"),
        ({"single_labels": False}, "www.example.org", "NXDOMAIN"), ({}, "www", "NXDOMAIN"), ({"upstreams": ["127.0.0.1#9"]}, "www", "SERVFAIL"),
        ({"upstreams": ["nonsense", "127.0.0.1#9", "SERVER"]}, "www", "NXDOMAIN"),
    ],
)  # fmt: skip
def test_what_is_forwarded(box: Container, directory: str, options: dict, name: str, expected: str) -> None:
    async def run(server: Server) -> None:
        async with engine(directory) as resolver:
            upstreams = [server.text if text == "SERVER" else text for text in options.get("upstreams", ["SERVER"])]
            await web(resolver, box, **{**options, "upstreams": upstreams})
            found = await asyncio.to_thread(box.dig, name)
            assert (found.status, len(found.data)) == (expected, 1 if name == "web" else 0)
            assert len(server.asked) == (expected == "NXDOMAIN")

    with Server(lambda query, tcp: answer(query, rcode=dns.rcode.NXDOMAIN)) as server:
        asyncio.run(run(server))


def test_a_server_that_is_silent_or_fails_is_passed_over(box: Container, directory: str) -> None:
    async def run(silent: Server, failing: Server, good: Server) -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[silent.text, failing.text, good.text])
            first = await asyncio.to_thread(box.dig, "a.example")
            assert first.data == ["192.0.2.7"]
            await asyncio.to_thread(box.dig, "b.example")  # the silent one is asked last for a while
            assert [name for name, *_ in silent.asked] == ["a.example."]
            assert len(failing.asked) == len(good.asked) == 2
            await resolver.set_sandbox("c1", networks=["n"], upstreams=[silent.text])
            nobody = await asyncio.to_thread(box.dig, "c.example")
            assert nobody.status == "SERVFAIL"

    with (
        Server(lambda query, tcp: None) as silent, Server(lambda query, tcp: answer(query, rcode=dns.rcode.SERVFAIL)) as failing,
        Server(lambda query, tcp: answer(query, "60 A 192.0.2.7")) as good,
    ):  # fmt: skip
        asyncio.run(run(silent, failing, good))


def test_forged_answers_are_passed_over(box: Container, directory: str) -> None:
    def forge(query: dns.message.Message, tcp: bool) -> list[bytes]:
        good, bad = answer(query, "60 A 192.0.2.1"), answer(query, "60 A 203.0.113.66")
        other = dns.message.make_query("other.example", "A")
        other.id = query.id
        return [struct.pack("!H", query.id ^ 1) + bad[2:], answer(other, "60 A 203.0.113.66"), bad[:20], b"", bad[:2] + b"\x01" + bad[3:], good]

    async def run(server: Server) -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[server.text])
            for number in range(20):
                assert (await asyncio.to_thread(box.dig, f"h{number}.example")).data == ["192.0.2.1"]
            assert len({port for *_, port, _ in server.asked}) > 15
            assert len({identity for *_, identity in server.asked}) > 15

    with Server(forge) as server:
        asyncio.run(run(server))


def test_the_same_question_is_asked_once_at_a_time(box: Container, directory: str) -> None:
    async def run(server: Server) -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[server.text])
            found = await asyncio.gather(*(asyncio.to_thread(box.dig, name) for name in ["slow.example", "SLOW.example"] * 2))
            assert [dig.data for dig in found] == [["192.0.2.1"]] * 4
            assert len(server.asked) == 1

    with Server(lambda query, tcp: answer(query, "0 A 192.0.2.1"), delay_s=1) as server:
        asyncio.run(run(server))


def test_a_slow_server_may_still_answer_while_the_next_is_asked(box: Container, directory: str) -> None:
    async def run(slow: Server, silent: Server) -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[slow.text, silent.text])
            assert (await asyncio.to_thread(box.dig, "slow.example")).data == ["192.0.2.1"]
            assert len(silent.asked) == 1

    with Server(lambda query, tcp: answer(query, "0 A 192.0.2.1"), delay_s=2) as slow, Server(lambda query, tcp: None) as silent:
        asyncio.run(run(slow, silent))


def test_a_server_that_asks_back_makes_no_loop(box: Container, directory: str) -> None:
    async def run(server: Server) -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=["127.0.0.11", server.text])
            found = await asyncio.to_thread(box.dig, "loop.example")
            assert found.status == "SERVFAIL"
            await asyncio.to_thread(wait_until, lambda: len(answers) == 3, "three tries of one question")
            assert answers == ["SERVFAIL"] * 3
            assert (await resolver.stats())["forwarded"] == 1

    answers: list[str] = []

    def ask_back(query: dns.message.Message, tcp: bool) -> None:
        answers.append(box.dig(query.question[0].name.to_text()).status)

    with Server(ask_back) as server:
        asyncio.run(run(server))


# -- who is killed ----------------------------------------------------------------------------------


@contextlib.contextmanager
def engine_process(directory: str, boxes: list[Container], watch: str = "") -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process with a handle, to be killed; the resolver's pid."""
    fds = [fd for box in boxes for fd in box.take_sockets()]
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, directory, watch, *map(str, fds)], pass_fds=fds, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"},
    )  # fmt: skip
    control.close_all(fds)
    try:
        assert process.stdout
        pid = int(process.stdout.readline())
        yield process, pid
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_names_are_answered_while_the_engine_is_dead_and_the_next_one_goes_on(directory: str) -> None:
    async def next_engine(pid: int) -> None:
        async with engine(directory) as resolver:
            assert resolver.known == {"c0", "c1"}
            assert resolver.pid == pid
            await resolver.set_network("n", "net")
            await resolver.set_sandbox("c0", networks=["n"])
            await resolver.add_endpoint("n", "1", ["web"], ["10.0.0.22"])
            await resolver.flushed()
            assert (await asyncio.to_thread(one.dig, "old")).data == ["10.0.0.3"]  # until it is sure that there is no such container
            await resolver.synced()
            await resolver.flushed()
            assert resolver.known == {"c0"}
            assert (await resolver.stats())["sandboxes"] == 1
            assert (await asyncio.to_thread(one.dig, "web")).data == ["10.0.0.22"]
            assert (await asyncio.to_thread(one.dig, "old")).data == []

    with Container() as one, Container() as two:
        with engine_process(directory, [one, two]) as (process, pid):
            process.kill()
            process.wait()
            assert one.dig("web").data == two.dig("web").data == ["10.0.0.2"]
            assert one.dig("web", "+tcp").data == ["10.0.0.2"]
            asyncio.run(next_engine(pid))


@pytest.mark.parametrize("between", [False, True], ids=["one engine", "another engine, another resolver"])
def test_a_container_that_ends_without_an_engine_is_noticed(directory: str, between: bool) -> None:
    async def next_engine() -> int:
        resolver = await Resolver.start(directory)
        await resolver.set_sandbox("c0", networks=["n"])
        await resolver.add_endpoint("n", "1", ["web"], ["10.0.0.2"])
        await resolver.synced()
        os.kill(resolver.pid, signal.SIGKILL)
        while True:
            with contextlib.suppress(errors.Unavailable):
                await resolver.flushed()
                break
            await asyncio.sleep(0.05)
        pid = resolver.pid
        resolver.close()
        return pid

    with Container() as box, subprocess.Popen(["sleep", "600"]) as sleeping:
        with engine_process(directory, [box], str(sleeping.pid)) as (process, pid):
            process.kill()
            process.wait()
            try:
                if between:
                    earlier, pid = pid, asyncio.run(next_engine())
                    assert pid != earlier
                assert box.dig("web").data == ["10.0.0.2"]
            finally:
                sleeping.kill()
            wait_until(lambda: has_ended(pid), "a resolver that nobody needs")
            assert os.listdir(directory) == []


def test_a_killed_resolver_is_started_again_and_loses_no_question(box: Container, directory: str) -> None:
    async def run() -> None:
        async with engine(directory) as resolver:
            await web(resolver, box)
            await resolver.flushed()
            killed = resolver.pid
            os.kill(killed, signal.SIGSTOP)
            asked = asyncio.create_task(asyncio.to_thread(box.dig, "web"))  # waits in the socket
            await asyncio.to_thread(wait_until, lambda: "00000000:00000000" not in waiting_bytes(box), "the question")
            os.kill(killed, signal.SIGKILL)
            assert (await asked).data == ["10.0.0.2"]
            assert resolver.pid != killed
            await resolver.add_endpoint("n", "3", ["new"], ["10.0.0.4"])
            assert (await asyncio.to_thread(box.dig, "new")).data == ["10.0.0.4"]

    asyncio.run(run())


def waiting_bytes(box: Container) -> str:
    """Of the UDP socket in the namespace: its queues, as /proc/net/udp has them."""
    lines = [line.split() for line in box.inside("cat", "/proc/net/udp").stdout.splitlines()]
    return next(words[4] for words in lines if words[1].startswith("0B00007F"))


@pytest.mark.parametrize("kind", ["another version", "hung"])
def test_a_resolver_that_will_not_do_is_replaced(directory: str, box: Container, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(earlier: int) -> None:
        async with engine(directory) as resolver:
            assert resolver.pid != earlier
            assert resolver.known == ({"c0"} if kind == "another version" else set())
            await resolver.set_network("n", "net")
            await resolver.add_endpoint("n", "1", ["web"], ["10.0.0.2"])
            if resolver.known:
                await resolver.set_sandbox("c0", networks=["n"])
            else:
                await resolver.add_sandbox("c0", *box.take_sockets(), networks=["n"])
            await resolver.synced()
            assert (await asyncio.to_thread(box.dig, "web")).data == ["10.0.0.2"]
            await asyncio.to_thread(wait_until, lambda: has_ended(earlier), "the earlier resolver")
            assert (await resolver.stats())["sandboxes"] == 1

    with engine_process(directory, [box]) as (process, pid):
        process.kill()
        process.wait()
        if kind == "hung":
            monkeypatch.setattr("berth.network.resolving._ANSWER_TIMEOUT_S", 0.3)
            os.kill(pid, signal.SIGSTOP)
        else:
            monkeypatch.setattr(control, "VERSION", "99")
        asyncio.run(run(pid))


# -- what it may do, and what may be done to it ----------------------------------------------------


def test_it_has_no_capabilities_and_listens_to_its_own_user_alone(box: Container) -> None:
    connect = "import socket,sys; s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])"

    async def run(directory: str) -> None:
        os.chmod(directory, 0o755)
        async with engine(directory) as resolver:
            await web(resolver, box)
            await resolver.flushed()
            found = status(resolver.pid)
            assert found["Name"] == "berth-resolver"
            assert {found[key] for key in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
            assert found["NoNewPrivs"] == "1"
            path = f"{directory}/{control.SOCKET_NAME}"
            nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", connect]
            refused = await asyncio.to_thread(lambda: subprocess.run([*nobody, path], capture_output=True, text=True))
            assert "PermissionError" in refused.stderr
            os.chmod(path, 0o666)  # even then
            await asyncio.to_thread(lambda: subprocess.run([*nobody[:-1], f"{connect}; assert s.recv(9) == b''", path], check=True))
            await resolver.flushed()

    with tempfile.TemporaryDirectory(prefix="berth-dns-", dir="/var/tmp") as directory:
        asyncio.run(run(directory))


def test_one_connection_cannot_keep_others_from_asking(directory: str) -> None:
    script = """
import itertools, socket, struct, threading
def read(sock):
    while sock.recv(1 << 20): pass
sock = socket.create_connection(("127.0.0.11", 53))
threading.Thread(target=read, args=(sock,), daemon=True).start()
for n in itertools.count():  # no question twice, so that every answer is made anew
    name = bytes(c - 32 * (n >> at & 1) for at, c in enumerate(b"averylongservicename"))
    message = b"\\0\\0\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + bytes([len(name)]) + name + b"\\0\\0\\1\\0\\1"
    sock.sendall((struct.pack("!H", len(message)) + message) * 20)
"""

    async def run(one: Container, two: Container) -> None:
        async with engine(directory) as resolver:
            await web(resolver, one, "c1")
            await web(resolver, two, "c2")
            await resolver.add_endpoint("n", "9", ["averylongservicename"], ["10.0.0.9"])
            with subprocess.Popen(["ip", "netns", "exec", one.name, sys.executable, "-c", script]) as process:  # noqa: ASYNC220
                try:
                    deadline_s = time.monotonic() + 30
                    while (await resolver.stats())["questions"] < 20000:
                        assert time.monotonic() < deadline_s
                        await asyncio.sleep(0.05)
                    times_s = [(await asyncio.to_thread(two.dig, name)).time_s for name in ("web", "db", "web.net", "service") * 3]
                    assert sorted(times_s)[6] < 0.05
                finally:
                    process.kill()

    with Container() as one, Container() as two:
        asyncio.run(run(one, two))


def test_one_container_cannot_keep_others_from_asking(directory: str) -> None:
    def flood(box: Container, stop: threading.Event) -> None:
        script = (
            "import socket,itertools\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.connect(('127.0.0.11',53));s.setblocking(0)\n"
            "for n in itertools.count():\n"
            " try: s.send(b'%02d\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x08%08d\\7example\\0\\0\\1\\0\\1' % (n % 100, n % 10**8))\n"
            " except OSError: pass\n"
        )
        with subprocess.Popen(["ip", "netns", "exec", box.name, sys.executable, "-c", script]) as process:
            stop.wait()
            process.kill()

    async def run(one: Container, two: Container, server: Server) -> None:
        stop = threading.Event()
        async with engine(directory) as resolver:
            await web(resolver, one, "c1", upstreams=[server.text])
            await web(resolver, two, "c2", upstreams=[server.text])
            flooding = asyncio.create_task(asyncio.to_thread(flood, one, stop))
            try:
                deadline_s = time.monotonic() + 30
                while (await resolver.stats())["refused"] < 1000:
                    assert time.monotonic() < deadline_s
                    await asyncio.sleep(0.05)
                assert (await resolver.stats())["forwarded"] < 1000
                times_s = [(await asyncio.to_thread(two.dig, name)).time_s for name in ("web", "db", "web.net", "service") * 3]
                assert sorted(times_s)[6] < 0.2
                assert (await asyncio.to_thread(two.dig, "other.example.org")).status == "SERVFAIL"  # it was asked, nobody answered
                assert any(name == "other.example.org." for name, *_ in server.asked)
            finally:
                stop.set()
                await flooding

    with Container() as one, Container() as two, Server(lambda query, tcp: None) as server:
        asyncio.run(run(one, two, server))


def test_whatever_a_container_sends_it_answers_the_next_question(box: Container, directory: str, dnsmasq: Dnsmasq) -> None:
    script = """
import random, socket, struct, contextlib
chance = random.Random(7)
question = dict(v=b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3web\\0\\0\\1\\0\\1")["v"]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("127.0.0.11", 53))
udp.setblocking(False)
for number in range(8000):
    data = bytearray(question if number % 3 else chance.randbytes(chance.randrange(0, 300)))
    for _ in range(chance.randrange(0, 6)):
        if data: data[chance.randrange(len(data))] = chance.randrange(256)
    with contextlib.suppress(OSError): udp.send(data)
    with contextlib.suppress(OSError): udp.recv(65535)
def tcp():
    sock = socket.create_connection(("127.0.0.11", 53))
    sock.settimeout(5)
    return sock
with contextlib.suppress(OSError):
    with tcp() as sock:
        sock.sendall(b"\\xff\\xff" + chance.randbytes(65535)); sock.recv(100)
with contextlib.suppress(OSError):
    with tcp() as sock:
        sock.sendall(b"\\xff\\xff" + question + b"\\0" * (65535 - len(question))); sock.recv(100)
with contextlib.suppress(OSError):
    with tcp() as sock:
        sock.sendall(b"\\0\\0\\0\\1a"); sock.recv(100)
many = [tcp() for _ in range(60)]
for sock in many:
    with contextlib.suppress(OSError): sock.sendall(b"\\0\\x15" + question[:5])
with tcp() as sock:  # asks without reading
    sock.settimeout(1)
    with contextlib.suppress(OSError):
        while True: sock.sendall((struct.pack("!H", len(question)) + question) * 1000)
with tcp() as sock:  # what several ask behind each other is answered to the last, even if they ask no more
    sock.sendall((struct.pack("!H", len(question)) + question) * 500)
    sock.shutdown(socket.SHUT_WR)
    got = 0
    while data := sock.recv(65536): got += len(data)
    assert got == 500 * (2 + len(question) + 16), got
"""

    async def run() -> None:
        async with engine(directory) as resolver:
            await web(resolver, box, upstreams=[dnsmasq.text])
            await resolver.flushed()
            pid = resolver.pid
            sizes = []
            for _ in range(3):
                await asyncio.to_thread(box.inside, sys.executable, "-c", script)
                assert (await asyncio.to_thread(box.dig, "web")).data == ["10.0.0.2"]
                assert (await asyncio.to_thread(box.dig, "www.example.org")).data == ["192.0.2.1"]
                sizes.append(int(status(pid)["VmRSS"].split()[0]))
            assert resolver.pid == pid
            assert (await resolver.stats())["wrong"] > 3000
            assert sizes[2] - sizes[0] < 8 << 10, sizes
            await asyncio.to_thread(wait_until, lambda: len(os.listdir(f"/proc/{pid}/fd")) < 30, "connections that nobody uses", 40)

    asyncio.run(run())


def test_telling_it_waits_for_nobody(box: Container, directory: str) -> None:
    async def run() -> None:
        async with engine(directory) as resolver:
            await web(resolver, box)
            await resolver.flushed()
            os.kill(resolver.pid, signal.SIGSTOP)  # nobody waits for it
            for number in range(2000):
                await resolver.add_endpoint("n", f"{number:064x}", [f"web{number}", f"{number:012x}"], [f"10.1.{number >> 8}.{number & 255}"])
            for number in range(2000):
                await resolver.remove_endpoint("n", f"{number:064x}")
            os.kill(resolver.pid, signal.SIGCONT)
            assert (await resolver.stats())["endpoints"] == 2
            with pytest.raises(errors.InvalidParameter, match="more than the resolver takes"):
                await resolver.add_endpoint("n", "many", [f"a-name-of-many-{number}" for number in range(10000)], ["10.0.0.9"])
            with pytest.raises(errors.InvalidParameter, match="more than the resolver takes"):  # and its sockets are closed
                await resolver.add_sandbox("c2", *box.take_sockets(), networks=["n"], links={"n": {f"a-link-of-many-{n}": "web" for n in range(10000)}})
            assert (await asyncio.to_thread(box.dig, "web")).data == ["10.0.0.2"]

    asyncio.run(run())
