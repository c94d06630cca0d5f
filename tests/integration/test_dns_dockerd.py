"""dockerd's own resolv.conf, hosts and answers beside berth's. It has a network namespace to itself, with bridges and rules.

What differs on purpose is left out here, and told in docs/network-dns.md.
"""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest
from dnslab import HAVE_TOOLS, Container, Dig
from dockerd import HAVE_DOCKERD, Dockerd

pytest.importorskip("dns", reason="needs dnspython")
if not (HAVE_TOOLS and HAVE_DOCKERD):
    pytest.skip("needs Debian's docker.io, dig, ip and nft", allow_module_level=True)

from berth.network import etcfiles
from berth.network.etcfiles import Wishes
from berth.network.resolving import Resolver

RESOLV_CONF = "nameserver 192.0.2.53\nnameserver 127.0.0.53\nsearch example.org\noptions edns0\n"
WISHES = ("--dns", "192.0.2.9", "--dns-search", "a.example", "--dns-search", "b.example", "--dns-option", "rotate")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    file = tmp_path_factory.mktemp("resolv") / "resolv.conf"
    file.write_text(RESOLV_CONF)
    script = 'mount --make-rprivate / && mount --bind "$0" /etc/resolv.conf && ip link set lo up && exec "$@"'
    daemon = Dockerd("--bridge=", "--iptables=true", wrapper=("unshare", "-n", "-m", "sh", "-c", script, str(file)))
    try:
        daemon("network", "create", "--subnet", "172.30.0.0/24", "front")
        daemon("network", "create", "--subnet", "172.31.0.0/24", "--internal", "back")
        yield daemon
    finally:
        daemon.finish()


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        (("--network", "host"), etcfiles.resolv_conf_host(RESOLV_CONF, Wishes())),
        (("--network", "host", *WISHES), etcfiles.resolv_conf_host(RESOLV_CONF, Wishes(["192.0.2.9"], ["a.example", "b.example"], ["rotate"]))),
        (("--network", "none"), etcfiles.resolv_conf_bridge(etcfiles.parse(RESOLV_CONF), Wishes())),
        ((), etcfiles.resolv_conf_bridge(etcfiles.parse(RESOLV_CONF), Wishes())),
        (WISHES, etcfiles.resolv_conf_bridge(etcfiles.parse(RESOLV_CONF), Wishes(["192.0.2.9"], ["a.example", "b.example"], ["rotate"]))),
        (("--network", "front"), etcfiles.resolv_conf_network(etcfiles.parse(RESOLV_CONF), Wishes())),
        (("--network", "front", *WISHES), etcfiles.resolv_conf_network(etcfiles.parse(RESOLV_CONF), Wishes(["192.0.2.9"], ["a.example", "b.example"], ["rotate"]))),
        (("--network", "front", "--dns-search", ".", "--dns-option", "ndots:3"),
         etcfiles.resolv_conf_network(etcfiles.parse(RESOLV_CONF), Wishes(search=["."], options=["ndots:3"]))),
    ],
)  # fmt: skip
def test_resolv_conf_says_the_same(real: Dockerd, options: tuple[str, ...], ours: str) -> None:
    theirs = real("run", "--rm", *options, "bb", "cat", "/etc/resolv.conf").stdout
    meant = [sorted(line for line in text.splitlines() if line and not line.startswith("#")) for text in (theirs, ours)]
    assert meant[0] == meant[1]


def test_hosts_is_the_same(real: Dockerd) -> None:
    other = real("run", "-d", "--name", "other", "bb", "sleep", "1000").stdout[:12]
    options = ("--add-host", "a:192.0.2.1", "--add-host", "six:2001:db8::1", "--add-host", "gate:host-gateway", "--link", "other:alias")
    theirs = real("run", "--rm", "-h", "me", "--domainname", "x.example", *options, "bb", "cat", "/etc/hosts").stdout
    ours = etcfiles.hosts(
        extra=etcfiles.extra_hosts(["a:192.0.2.1", "six:2001:db8::1", "gate:host-gateway"], ["172.17.0.1"]),
        links=[("172.17.0.2", f"alias {other} other")], own=[("172.17.0.3", etcfiles.own_names("me", "x.example"))],
    )  # fmt: skip
    assert theirs == ours


QUESTIONS = (
    ("web",), ("WEB",), ("www",), ("svc",), ("ID",), ("db",), ("database",), ("db.front",), ("database.front",), ("Web.front",), ("www.front",),
    ("web", "AAAA"), ("web", "MX"), ("-x", "172.30.0.2"), ("-x", "172.30.0.3"), ("+tcp", "web"), ("+noedns", "web"), ("+bufsize=4096", "svc"),
)  # fmt: skip


def test_answers_are_the_same(real: Dockerd) -> None:
    web = real("run", "-d", "--name", "Web", "--network", "front", "--network-alias", "www", "--network-alias", "svc", "bb", "sleep", "1000").stdout[:12]
    real("run", "-d", "--name", "db", "--network", "front", "--network-alias", "svc", "bb", "sleep", "1000")
    real("network", "connect", "back", "db", "--alias", "deep")
    me = real("run", "-d", "--name", "me", "--network", "front", "--link", "db:database", "bb", "sleep", "1000").stdout.strip()
    pids = {name: real("inspect", "-f", "{{.State.Pid}}", name).stdout.strip() for name in (me, "db")}

    def theirs(container: str, words: tuple[str, ...]) -> Dig:
        command = ["nsenter", "-t", pids[container], "-n", "dig", "@127.0.0.11", "+tries=1", "+time=8", *words]
        return Dig(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    async def run(mine: Container, of_db: Container, directory: str) -> None:
        resolver = await Resolver.start(directory)
        try:
            await resolver.set_network("f", "front")
            await resolver.set_network("b", "back")
            await resolver.add_endpoint("f", "1", ["Web", web, "www", "svc"], ["172.30.0.2"])
            await resolver.add_endpoint("f", "2", ["db", "svc"], ["172.30.0.3"])
            await resolver.add_endpoint("b", "3", ["db", "deep"], ["172.31.0.2"])
            await resolver.add_sandbox("me", *mine.take_sockets(), networks=["f"], links={"f": {"database": "db"}})
            await resolver.add_sandbox("db", *of_db.take_sockets(), networks=["f", "b"])
            cases = [(me, mine, words) for words in QUESTIONS]
            cases += [("db", of_db, words) for words in (("deep",), ("db.back",), ("web",), ("-x", "172.31.0.2"))]
            for container, box, words in cases:
                asked = tuple(web if word == "ID" else word for word in words)
                one, other = await asyncio.gather(asyncio.to_thread(theirs, container, asked), asyncio.to_thread(box.dig, *asked))
                assert (one.status, sorted(one.data)) == (other.status, sorted(other.data)), asked
                assert [answer[0] for answer in one.answers] == [answer[0] for answer in other.answers]
                assert one.flags == other.flags == ["qr", "rd", "ra"]
            for identity in ("me", "db"):
                await resolver.remove_sandbox(identity)
            await resolver.flushed()
        finally:
            resolver.close()

    with Container() as mine, Container() as of_db:
        asyncio.run(run(mine, of_db, real.top))
