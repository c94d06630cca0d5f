"""`update --publish-add` and `--publish-rm`: ports of containers changed while they run, all of a request or nothing. Seen with curl, nft and ss."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import REPOSITORY, Engine, group_file, wait_until
from netlab import CLIENT, HOST, HOST6, HTTP, Lab, inside
from parity import Peer

pytestmark = pytest.mark.root
BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
Up = Callable[..., str]


def update(net: Engine, identity: str, *words: str, code: int = 0) -> str:
    """Its output and errors."""
    done = subprocess.run([*BERTH, "update", *words, identity], env=net.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def add(*ports: str) -> tuple[str, ...]:
    return tuple(word for port in ports for word in ("--publish-add", port))


def rm(*ports: str) -> tuple[str, ...]:
    return tuple(word for port in ports for word in ("--publish-rm", port))


def inspect(net: Engine, identity: str) -> dict[str, Any]:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0])


def shown(net: Engine, identity: str) -> list[str]:
    """`80/tcp 0.0.0.0:8080`, by what runs."""
    ports = inspect(net, identity)["NetworkSettings"]["Ports"]
    return sorted(f"{key} {place['HostIp']}:{place['HostPort']}" for key, places in ports.items() for place in places or [])


def kept(net: Engine, identity: str) -> dict[str, list[tuple[str, str]]]:
    """HostConfig.PortBindings."""
    bindings = inspect(net, identity)["HostConfig"]["PortBindings"]
    return {key: [(place["HostIp"], place["HostPort"]) for place in places] for key, places in bindings.items()}


def led(lab: Lab, family: str = "ip") -> set[str]:
    """`tcp 8080`, by the rules that lead from all addresses; `127.0.0.1 tcp 8080` from one."""
    listed = json.loads(lab.at("host", "nft", "-j", "list", "ruleset").stdout)["nftables"]
    maps = [entry["map"] for entry in listed if "map" in entry and entry["map"]["family"] == family]
    return {" ".join(map(str, key["concat"])) for found in maps if found["name"] in ("ports", "any-ports") for key, _ in found.get("elem", [])}


def is_free(lab: Lab, port: int, address: str = "") -> bool:
    """Whether somebody else gets it."""
    return not lab.at("host", "python3", "-c", f"import socket; socket.create_server(({address!r}, {port}))", check=False).returncode


def serves(lab: Lab, port: int, host: str = "client", at: str = HOST) -> bool:
    return lab.fetch(host, f"http://{at}:{port}/", "-g", timeout_s=2) == "hello\n"


def now(net: Engine) -> str:
    return str(json.loads(net.docker("info", "-f", "json").stdout)["SystemTime"])


def answers(lab: Lab, port: int) -> None:
    wait_until(lambda: serves(lab, port), f"port {port}", 10)


# -- what comes and goes --------------------------------------------------------------------------------


def test_comes_and_goes_while_it_runs(net: Engine, lab: Lab, start: Up) -> None:
    web = start("-p", "18000:80", command=HTTP)
    answers(lab, 18000)
    pid = net.pid(web)
    assert update(net, web, *add("18001:80")) == f"{web}\n"
    assert serves(lab, 18001)
    assert serves(lab, 18000), "what was there stays"
    assert serves(lab, 18001, "host", "127.0.0.1")
    assert serves(lab, 18001, at=f"[{HOST6}]"), "of a container without IPv6: relayed"
    assert shown(net, web) == ["80/tcp 0.0.0.0:18000", "80/tcp 0.0.0.0:18001", "80/tcp :::18000", "80/tcp :::18001"]
    assert "0.0.0.0:18001->80/tcp" in net.docker("ps", "--filter", f"id={web}").stdout
    assert {"tcp 18000", "tcp 18001"} <= led(lab)
    assert update(net, web, *rm("18000:80")) == f"{web}\n"
    assert not serves(lab, 18000)
    assert lab.at("client", "curl", "-s", f"http://{HOST}:18000/", check=False).returncode == 7, "refused, as where nobody listens"
    assert led(lab) & {"tcp 18000", "tcp 18001"} == {"tcp 18001"}
    assert is_free(lab, 18000)
    assert not is_free(lab, 18001)
    assert kept(net, web) == {"80/tcp": [("", "18001")]}
    assert net.pid(web) == pid


def test_kept_over_restarts_of_container_and_engine(net: Engine, lab: Lab, start: Up) -> None:
    web = start("-p", "18010:80", command=HTTP)
    update(net, web, *add("18011:80"), *rm("18010:80"))
    net.docker("restart", "-t", "0", web)
    answers(lab, 18011)
    assert not serves(lab, 18010)
    update(net, web, *add("18012:80"))
    net.kill()
    assert serves(lab, 18012), "rules need no engine"
    net.start()
    assert [serves(lab, port) for port in (18010, 18011, 18012)] == [False, True, True]
    assert kept(net, web) == {"80/tcp": [("", "18011"), ("", "18012")]}
    update(net, web, *rm("80"))
    assert shown(net, web) == []
    assert kept(net, web) == {}
    net.stop()
    net.start()
    net.docker("restart", "-t", "0", web)
    assert shown(net, web) == []
    assert is_free(lab, 18011)


def test_one_port_moves_to_another_of_the_container(net: Engine, lab: Lab, start: Up) -> None:
    """In one step: the host's port is never let go, and nobody connects to what was meant for another."""
    web = start("-p", "18020:81", command=HTTP)
    assert not serves(lab, 18020)
    update(net, web, *rm("18020:81"), *add("18020:80"))
    answers(lab, 18020)
    update(net, web, *rm("18020:80"), *add("127.0.0.1:18020:80"))
    assert serves(lab, 18020, "host", "127.0.0.1")
    assert not serves(lab, 18020), "narrower than it was"
    assert shown(net, web) == ["80/tcp 127.0.0.1:18020"]
    assert is_free(lab, 18020, HOST)
    update(net, web, *rm("127.0.0.1:18020:80"), *add("18020:80"))
    assert serves(lab, 18020)


def test_ranges(net: Engine, lab: Lab, start: Up) -> None:
    web = start(command=HTTP)
    with lab.running("host", "python3", "-u", "-c", "import socket, time; s = socket.create_server(('', 18030)); print('ready'); time.sleep(100)") as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        update(net, web, *add("18030-18032:80"))
        assert shown(net, web) == ["80/tcp 0.0.0.0:18031", "80/tcp :::18031"], "the first of them that is free"
        answers(lab, 18031)
    update(net, web, *add("18033-18034:80-81"))
    assert {"80/tcp 0.0.0.0:18033", "81/tcp 0.0.0.0:18034"} <= set(shown(net, web))
    update(net, web, *rm("18033-18034:80-81"))
    assert shown(net, web) == ["80/tcp 0.0.0.0:18031", "80/tcp :::18031"]
    update(net, web, *rm("18031:80"))
    assert kept(net, web) == {}, "the range of which it was"


def test_the_engine_chooses(net: Engine, lab: Lab, start: Up) -> None:
    web = start("-P", "--expose", "80", "--expose", "81", command=HTTP)
    before = shown(net, web)
    assert len(before) == 4
    update(net, web, *add("80"))
    more = set(shown(net, web)) - set(before)
    assert len(more) == 2
    answers(lab, int(next(iter(more)).rpartition(":")[2]))
    update(net, web, *rm("81"))
    host = inspect(net, web)["HostConfig"]
    assert (host["PublishAllPorts"], set(host["PortBindings"])) == (False, {"80/tcp"})
    assert {line.split()[0] for line in shown(net, web)} == {"80/tcp"}
    assert {line for line in before if line.startswith("80/")} <= set(shown(net, web)), "others keep their ports"
    net.docker("restart", "-t", "0", web)
    assert {line.split()[0] for line in shown(net, web)} == {"80/tcp"}


_UDP = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready")
while True:
    _, peer = server.recvfrom(1000)
    server.sendto(peer[0].encode(), peer)
"""


def test_udp_beside_tcp(net: Engine, lab: Lab, start: Up) -> None:
    box = start()
    ask = f"import socket; s = socket.socket(2, 2); s.settimeout(3); s.sendto(b'x', ({HOST!r}, 18040)); print(s.recv(100).decode(), end='')"
    update(net, box, *add("18040:53/udp", "18040:53"))
    assert set(shown(net, box)) == {"53/tcp 0.0.0.0:18040", "53/tcp :::18040", "53/udp 0.0.0.0:18040", "53/udp :::18040"}
    with subprocess.Popen(("nsenter", "-n", "-t", str(net.pid(box)), "python3", "-u", "-c", _UDP), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "ready\n"
            assert lab.at("client", "python3", "-c", ask).stdout == f"{CLIENT}"
            update(net, box, *rm("18040:53/udp"))
            assert set(shown(net, box)) == {"53/tcp 0.0.0.0:18040", "53/tcp :::18040"}
            assert lab.at("client", "python3", "-c", ask, check=False).returncode, "no answer"
        finally:
            server.kill()
    assert ":18040 " not in lab.at("host", "ss", "-Huln").stdout


def test_ipv6(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("u6", "--ipv6", "--subnet", "2001:db8:60::/64")
    web = start("--network", "u6", command=HTTP)
    update(net, web, *add(f"[{HOST6}]:18050:80", f"[{HOST6}]:18051:80"))
    wait_until(lambda: serves(lab, 18050, at=f"[{HOST6}]"), "the port")
    assert not serves(lab, 18050), "of IPv6 alone"
    assert any(HOST6 in key and "18050" in key for key in led(lab, "ip6"))
    update(net, web, *rm(f"[{HOST6}]:18050:80"))
    assert not serves(lab, 18050, at=f"[{HOST6}]")
    assert shown(net, web) == [f"80/tcp {HOST6}:18051"]
    assert kept(net, web) == {"80/tcp": [(HOST6, "18051")]}


def test_one_that_does_not_run(net: Engine, lab: Lab) -> None:
    web = net.docker("create", "-p", "18060:80", "bb", *HTTP).stdout.strip()
    try:
        update(net, web, *add("18061:80"), *rm("18060:80"))
        assert kept(net, web) == {"80/tcp": [("", "18061")]}
        assert shown(net, web) == []
        assert is_free(lab, 18061)
        assert "is not published" in update(net, web, *rm("18060:80"), code=1)
        assert "is published already" in update(net, web, *add("18061:80"), code=1)
        net.docker("start", web)
        answers(lab, 18061)
        assert not serves(lab, 18060)
        net.docker("stop", "-t", "0", web)
        update(net, web, *rm("80"))
        net.docker("start", web)
        assert shown(net, web) == []
    finally:
        net.rm(web)


def test_one_that_is_paused(net: Engine, lab: Lab, start: Up) -> None:
    web = start(command=HTTP)
    net.docker("pause", web)
    update(net, web, *add("18065:80"))
    net.docker("unpause", web)
    answers(lab, 18065)


def test_events(net: Engine, start: Up) -> None:
    web = start()
    since = now(net)
    update(net, web, *add("18066:80"))
    update(net, web, *add("18066:80"), code=1)
    words = ("--since", since, "--until", now(net), "--format", "{{.Type}} {{.Action}} {{.ID}}")
    assert net.docker("events", *words).stdout == f"container update {web}\n"


# -- what cannot be -------------------------------------------------------------------------------------


def test_a_port_that_somebody_has(net: Engine, lab: Lab, start: Up) -> None:
    """By a process, by another container, by itself: it is said who, and nothing has changed."""
    web, other = start("-p", "18070:80", command=HTTP), start("-p", "18071:80", "-p", "127.0.0.1:18072:80", command=HTTP)
    answers(lab, 18070)
    with lab.running("host", "python3", "-u", "-c", "import socket, time; s = socket.create_server(('127.0.0.1', 18073)); print('ready'); time.sleep(100)") as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        state, rules, sockets = inspect(net, web), lab.rules(), lab.at("host", "ss", "-Htuan").stdout
        for words, said in (
            (add("18073:80"), f"18073/tcp is in use by python3 (pid {server.pid})"),
            (add("18074:80", "18073:80"), f"18073/tcp is in use by python3 (pid {server.pid})"),
            (add("18074:80", "18071:81"), f"18071/tcp is in use by container {other[:12]}"),
            (add("18072:80"), f"18072/tcp is in use by container {other[:12]}"),
            (add("18070:81"), f"18070/tcp is in use by container {web[:12]}"),
            (add("18070:80"), "port 18070:80/tcp is published already"),
            ((*rm("18070:80"), *add("18073:80")), f"18073/tcp is in use by python3 (pid {server.pid})"),
            ((*rm("18070:80"), *add("127.0.0.1:18070:80", "18073:80")), f"18073/tcp is in use by python3 (pid {server.pid})"),
            (add("192.0.2.99:18075:80"), "cannot assign requested address: 192.0.2.99:18075"),
            (rm("18099:80"), "port 18099:80/tcp is not published"), (rm("99"), "port 99/tcp is not published"), (rm("18070:80/udp"), "port 18070:80/udp is not published"),
            ((*rm("18070:80", "99"), *add("18074:80")), "port 99/tcp is not published"),
        ):  # fmt: skip
            answer = update(net, web, *words, code=1)
            assert said in answer
            assert f"Cannot update container {web}: " in answer
            assert lab.rules() == rules, words
            assert inspect(net, web) == state, words
            assert lab.at("host", "ss", "-Htuan").stdout == sockets, words
            assert is_free(lab, 18074), words
            assert not is_free(lab, 18070), words
        update(net, web, *add("18073-18074:80"))
        assert "80/tcp 0.0.0.0:18074" in shown(net, web), "the one that is free"
    assert serves(lab, 18070)
    assert serves(lab, 18071)
    update(net, web, *add("18073:80"))
    assert serves(lab, 18073)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"PublishAdd": "80"}, ""), ({"PublishAdd": [80]}, ""), ({"PublishAdd": [{}]}, "invalid port specification"), ({"PublishAdd": [{"ContainerPort": "0"}]}, "invalid port"),
        ({"PublishAdd": [{"ContainerPort": "80", "HostPort": "70000"}]}, "invalid port"), ({"PublishAdd": [{"ContainerPort": "80", "HostIp": "nowhere"}]}, "invalid host IP address"),
        ({"PublishAdd": [{"ContainerPort": "80", "Protocol": "icmp"}]}, "invalid proto: icmp"), ({"PublishRemove": [{"ContainerPort": "x"}]}, "invalid port"),
        ({"PublishRemove": [{"ContainerPort": 80, "HostPort": "9-1"}]}, "invalid port"), ({"PublishAdd": [{"ContainerPort": "80", "HostIp": "127.0.0.1\n"}]}, "invalid host IP"),
    ],
)  # fmt: skip
def test_requests_that_mean_nothing(net: Engine, start: Up, body: dict[str, Any], said: str) -> None:
    box = start("-p", "18080:80")
    before = inspect(net, box)
    answer = Peer(f"{net.exec}/berth.sock").ask("POST", f"/containers/{box}/update", body)
    assert answer.status == 400
    assert said in answer.body["message"]
    assert inspect(net, box) == before


def test_where_no_port_can_be_published(net: Engine, network: Up, start: Up) -> None:
    network("u-inside", "--internal")
    first = start("-p", "18081:80")
    for mode, said in (
        ("none", "its network is none"), ("host", "its network is host"), (f"container:{first}", f"its network is container:{first}"),
        ("u-inside", "in no bridge network that leads out"),
    ):  # fmt: skip
        box = start("--network", mode)
        assert said in update(net, box, *add("18082:80"), code=1)
        assert kept(net, box) == {}
    assert Peer(f"{net.exec}/berth.sock").ask("POST", f"/containers/{box}/update", {"PublishAdd": [{"ContainerPort": "80"}]}).status == 409


def test_limits_mounts_and_ports_are_one(net: Engine, lab: Lab, start: Up, tmp_path: Path) -> None:
    """Whichever of the three fails, the others are as they were: in the kernel, and in what is said."""
    web = start("-m", "64m", "-v", f"{tmp_path}:/there", command=HTTP)
    other = start("-p", "18090:80")
    state, rules = inspect(net, web), lab.rules()

    def limits() -> list[str]:
        files = (("memory", "memory.limit_in_bytes"), ("memory", "memory.memsw.limit_in_bytes"), ("cpu", "cpu.shares"), ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"))
        return [group_file(web, *file) for file in files]

    def mounted() -> list[str]:
        with open(f"/proc/{net.pid(web)}/mountinfo") as file:
            return sorted(line.split()[4] for line in file)

    was = limits(), mounted()
    more = ("-m", "32m", "--cpu-shares", "512", "--cpus", "0.5", "--pids-limit", "50", "--mount-add", "type=tmpfs,dst=/mem", "--mount-rm", "/there")
    said = update(net, web, *more, *add("18091:80", "18090:80"), code=1)
    assert f"18090/tcp is in use by container {other[:12]}" in said
    assert (inspect(net, web), lab.rules(), limits(), mounted()) == (state, rules, *was)
    said = update(net, web, *more, *add("18091:80"), "--mount-add", "type=bind,src=/etc/passwd,dst=/tmp", code=1)
    assert "cannot mount a file on /tmp" in said
    assert (inspect(net, web), lab.rules(), limits(), mounted()) == (state, rules, *was)
    assert is_free(lab, 18091)
    update(net, web, *more, *add("18091:80"))
    assert serves(lab, 18091)
    assert limits()[2:] == ["512", "50000", "50"]
    assert "/mem" in mounted()
    assert "/there" not in mounted()
    net.kill()
    net.start()
    assert (limits()[2:], "/mem" in mounted(), serves(lab, 18091)) == (["512", "50000", "50"], True, True)
    state = inspect(net, web)["HostConfig"]
    assert (state["CpuShares"], state["PidsLimit"], state["Memory"]) == (512, 50, 32 << 20)


def test_the_client_is_seen(net: Engine, lab: Lab, start: Up) -> None:
    """As of a port that was published from the start."""
    box = start(command=("sh", "-c", "sleep 1000 | nc -l -p 80"))
    wait_until(lambda: ":80 " in inside(net, box, "ss", "-Htln"), "the server")
    update(net, box, *add("18095:80"))
    with lab.running("client", "python3", "-c", f"import socket; socket.create_connection(('{HOST}', 18095)).recv(1)"):
        wait_until(lambda: CLIENT in inside(net, box, "ss", "-Htn"), "the client's address")


def test_by_an_engine_without_the_right_to_write(net: Engine, lab: Lab, start: Up) -> None:
    """network.json cannot be written: the disk is full, say. Nothing has changed then, and it can be done later."""
    web = start("-p", "18097:80", command=HTTP)
    answers(lab, 18097)
    rules, state = lab.rules(), inspect(net, web)
    blocker = f"{net.data}/containers/{web}/network.json.new"
    os.mkdir(blocker)
    try:
        assert "network.json cannot be written" in update(net, web, *add("18098:80"), *rm("18097:80"), code=1)
    finally:
        os.rmdir(blocker)
    assert (lab.rules(), inspect(net, web)) == (rules, state)
    assert serves(lab, 18097)
    assert is_free(lab, 18098)
    update(net, web, *add("18098:80"), *rm("18097:80"))
    assert serves(lab, 18098)


def test_one_that_ends_meanwhile(net: Engine, lab: Lab) -> None:
    """Whoever is first: nothing is led or held of one that has ended, and it starts again with what the record says."""
    peer, box = Peer(f"{net.exec}/berth.sock"), net.docker("create", "-p", "18110:80", "bb", "sleep", "1000").stdout.strip()
    net.seen_ids.add(box)
    have, other, seen = "18110", "18111", set()
    try:
        for turn in range(8):
            net.docker("start", box)
            body = {"PublishAdd": [{"ContainerPort": "80", "HostPort": other}], "PublishRemove": [{"ContainerPort": "80", "HostPort": have}]}
            requests = [("POST", f"/containers/{box}/update", {**body, "CpuShares": 100 + turn}), ("POST", f"/containers/{box}/kill", None)]
            with ThreadPoolExecutor(2) as pool:
                first, second = pool.map(lambda words: peer.ask(*words), requests if turn % 2 else requests[::-1])
            updated, killed = (first, second) if turn % 2 else (second, first)
            seen.add(updated.status)
            assert killed.status == 204
            assert updated.status in (200, 409), updated
            if updated.status == 200:
                have, other = other, have
            wait_until(lambda: net.state(box)["Status"] == "exited", "its end")
            assert kept(net, box) == {"80/tcp": [("", have)]}
            wait_until(lambda: not {"18110", "18111"} & {port for key in led(lab) for port in key.split()}, "the rules to go")
            wait_until(lambda: is_free(lab, 18110) and is_free(lab, 18111), "the ports to be free")
            assert inspect(net, box)["HostConfig"]["CpuShares"] in ((100 + turn,) if updated.status == 200 else (0, *range(100, 100 + turn)))
    finally:
        net.rm(box)
    assert 200 in seen
