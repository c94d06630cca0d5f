"""Restart policies, shared networks, networks that are no more, and bridges that somebody deletes, in the lives of containers.

Each refusal has Docker's status and words, and leaves everything as it was. Seen with ip, nft and curl.
"""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import netlab
import pytest
from harness import Engine, namespace, wait_until
from netlab import HOST, HTTP, Lab, gets, inside
from parity import Peer

pytestmark = pytest.mark.root
Up = Callable[..., str]


@pytest.fixture
def peer(net: Engine) -> Peer:
    return Peer(f"{net.exec}/berth.sock")


def inspect(net: Engine, identity: str) -> dict[str, Any]:
    return dict(json.loads(net.docker("inspect", identity).stdout)[0])


def address(net: Engine, identity: str, name: str) -> str:
    return str(inspect(net, identity)["NetworkSettings"]["Networks"][name]["IPAddress"])


def pairs(lab: Lab) -> set[str]:
    return {name for name in lab.links() if name.startswith("veth")}


def die(net: Engine, identity: str, restarts: int) -> None:
    """Its program is killed, by nobody that the engine knows, and its policy starts it again."""
    pid = net.pid(identity)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: inspect(net, identity)["RestartCount"] >= restarts and net.state(identity)["Status"] == "running", "a restart")
    assert net.pid(identity) != pid


# -- restart policies -----------------------------------------------------------------------------------


def test_a_policy_brings_everything_of_networks_back(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    network("r-one", "--subnet", "10.60.1.0/24")
    network("r-two", "--ipv6", "--subnet", "10.60.2.0/24", "--subnet", "2001:db8:62::/64")
    web = net.docker(
        "create", "--restart", "always", "--name", "r-web", "--network", "name=r-one,ip=10.60.1.77,alias=site", "--network", "name=r-two,ip6=2001:db8:62::77",
        "-p", "18300:80", "-p", "18300:80/udp", "bb", *HTTP,
    ).stdout.strip()  # fmt: skip
    try:
        net.docker("start", web)
        asks, had = start("--network", "r-one"), len(pairs(lab))
        mac = inspect(net, web)["NetworkSettings"]["Networks"]["r-one"]["MacAddress"]
        for turn in (1, 2):
            die(net, web, turn)
            assert address(net, web, "r-one") == "10.60.1.77"
            assert "10.60.1.77/24" in inside(net, web, "ip", "address")
            assert "2001:db8:62::77/64" in inside(net, web, "ip", "address")
            assert inspect(net, web)["NetworkSettings"]["Networks"]["r-one"]["MacAddress"] == mac
            wait_until(lambda: gets(net, asks, "http://site/"), "its alias", 10)
            assert "10.60.1.77" in net.docker("exec", asks, "nslookup", "r-web").stdout
            wait_until(lambda: lab.fetch("client", f"http://{HOST}:18300/") == "hello\n", "its port", 10)
            wait_until(lambda: len(pairs(lab)) == had, "one pair of interfaces for each place")
        net.kill()
        os.kill(_pid_in(web), signal.SIGKILL)
        net.start()
        wait_until(lambda: net.state(web)["Status"] == "running", "a restart by the next engine")
        wait_until(lambda: lab.fetch("client", f"http://{HOST}:18300/") == "hello\n", "its port", 10)
        assert address(net, web, "r-one") == "10.60.1.77"
        assert len(pairs(lab)) == had
    finally:
        net.rm(web)


def _pid_in(identity: str) -> int:
    """The first process of a container, by its cgroup: no engine is there to be asked."""
    with open(f"/sys/fs/cgroup/pids/berth/{identity}/cgroup.procs") as file:
        return int(file.readline())


def test_one_whose_port_is_taken_meanwhile(net: Engine, lab: Lab, start: Up, peer: Peer) -> None:
    """It ends as one that cannot be started; `start` by hand works once the port is free."""
    before = pairs(lab)
    web = start("--restart", "on-failure", "-p", "18301:80", command=("sh", "-c", "exit 3"))
    wait_until(lambda: net.state(web)["Status"] == "restarting" and inspect(net, web)["RestartCount"] >= 6, "a long wait")
    take = "import socket, time; s = socket.create_server(('', 18301)); print('taken'); time.sleep(100)"
    with lab.running("host", "python3", "-u", "-c", take) as thief:
        assert thief.stdout
        assert thief.stdout.readline() == "taken\n"
        wait_until(lambda: net.state(web)["Status"] == "exited", "an end")
        found = net.state(web)
        assert (found["ExitCode"], found["Running"], found["Restarting"]) == (128, False, False)
        assert f"18301/tcp is in use by python3 (pid {thief.pid})" in found["Error"]
        answer = peer.ask("POST", f"/containers/{web}/start")
        assert (answer.status, "port is already allocated" in answer.message) == (409, True)
        wait_until(lambda: pairs(lab) == before, "nothing left of it")
        assert "18301" not in lab.rules()
    net.docker("start", web)
    wait_until(lambda: inspect(net, web)["RestartCount"] >= 1, "it to begin again")
    net.docker("stop", "-t", "0", web)


def test_one_whose_network_is_removed_meanwhile(net: Engine, network: Up, start: Up, peer: Peer) -> None:
    network("r-gone")
    box = start("--restart", "always", "--network", "r-gone", command=("sh", "-c", "exit 3"))
    wait_until(lambda: net.state(box)["Status"] == "restarting" and inspect(net, box)["RestartCount"] >= 6, "a long wait")
    assert peer.ask("DELETE", "/networks/r-gone").status == 204
    wait_until(lambda: net.state(box)["Status"] == "exited", "an end")
    found = net.state(box)
    assert (found["Error"], found["ExitCode"]) == ("network r-gone not found", 128)
    assert inspect(net, box)["NetworkSettings"]["Networks"]["r-gone"]["IPAddress"] == ""
    network("r-gone")
    net.docker("start", box)  # the network is called by its name
    wait_until(lambda: inspect(net, box)["RestartCount"] >= 1, "restarts again")
    net.docker("stop", "-t", "0", box)
    net.docker("rm", box)


def test_policies_of_those_who_share_a_network(net: Engine, lab: Lab, start: Up) -> None:
    """Whoever dies comes back: the one who shares, into the same namespace; the other, into a new one, which a restart joins."""
    web = start("--restart", "always", "-p", "18302:80", command=HTTP)
    side = start("--restart", "always", "--network", f"container:{web}")
    assert namespace(net.pid(side), "net") == namespace(net.pid(web), "net")
    die(net, side, 1)
    assert namespace(net.pid(side), "net") == namespace(net.pid(web), "net")
    die(net, web, 1)
    assert namespace(net.pid(side), "net") != namespace(net.pid(web), "net"), "as with Docker"
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18302/") == "hello\n", "its port")
    net.docker("restart", "-t", "0", side)
    assert namespace(net.pid(side), "net") == namespace(net.pid(web), "net")


# -- container:ID ---------------------------------------------------------------------------------------


def test_whoever_shares_goes_on_when_the_other_ends(net: Engine, lab: Lab, start: Up) -> None:
    """Its namespace stays with its own process, but what led there does not."""
    web = start("-p", "18310:80", command=HTTP)
    side = start("--network", f"container:{web}", command=("sleep", "1000"))
    had = address(net, web, "bridge")
    net.docker("stop", "-t", "0", web)
    assert net.state(side)["Status"] == "running"
    wait_until(lambda: "18310" not in lab.rules(), "the rule to go")
    assert had not in inside(net, side, "ip", "address")
    assert inspect(net, side)["NetworkSettings"]["Networks"] == {}
    assert lab.fetch("client", f"http://{HOST}:18310/") == ""


def test_whom_it_would_share_with(net: Engine, lab: Lab, start: Up, peer: Peer) -> None:
    web, rules = start(), lab.rules()
    side = net.docker("create", "--network", f"container:{web}", "bb", "sleep", "1000").stdout.strip()
    net.seen_ids.add(side)
    try:
        net.docker("stop", "-t", "0", web)
        for _ in range(2):
            answer = peer.ask("POST", f"/containers/{side}/start")
            assert answer.status == 409
            assert answer.message.startswith(f"cannot join network of a non running container: {web}")
            assert (net.state(side)["Status"], net.state(side)["ExitCode"]) == ("created", 128)
        again = start("--restart", "always", command=("sh", "-c", "exit 3"))
        other = peer.ask("POST", "/containers/create", {"Image": "bb", "Cmd": ["sleep", "9"], "HostConfig": {"NetworkMode": f"container:{again}"}}).body["Id"]
        net.seen_ids.add(other)
        wait_until(lambda: net.state(again)["Status"] == "restarting" and inspect(net, again)["RestartCount"] >= 6, "a long wait")
        answer = peer.ask("POST", f"/containers/{other}/start")
        assert (answer.status, answer.message) == (409, f"Container {again} is restarting, wait until the container is running")
        net.rm(other, again)
        net.docker("rm", web)
        answer = peer.ask("POST", f"/containers/{side}/start")
        assert (answer.status, answer.message) == (404, f"No such container: {web}")
        assert net.state(side)["Status"] == "created"
        answer = peer.ask("POST", f"/containers/{side}/restart?t=0")
        assert (answer.status, answer.message) == (404, f"Cannot restart container {side}: No such container: {web}")
        for mode, status in ((f"container:{side}", 201), ("container:nobody", 400), ("container:", 400)):
            answer = peer.ask("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"NetworkMode": mode}})
            assert answer.status == status, answer
            if status == 201:
                net.docker("rm", answer.body["Id"])
        for verb, body in (("connect", {"Container": side}), ("disconnect", {"Container": side})):
            assert peer.ask("POST", f"/networks/bridge/{verb}", body).status in (400, 403)
    finally:
        net.rm(side)
    wait_until(lambda: lab.rules() == rules, "the rules")


# -- networks that are no more, and disconnect -f -------------------------------------------------------


def test_a_start_without_one_of_its_networks(net: Engine, lab: Lab, network: Up, peer: Peer) -> None:
    network("m-one")
    network("m-two")
    links, rules = lab.links(), lab.rules()
    box = net.docker("create", "--network", "m-two", "--network", "m-one", "-p", "18320:80", "bb", *HTTP).stdout.strip()
    net.seen_ids.add(box)
    try:
        net.docker("network", "rm", "m-one")
        for _ in range(2):
            answer = peer.ask("POST", f"/containers/{box}/start")
            assert (answer.status, answer.message) == (404, "network m-one not found")
            assert (net.state(box)["Status"], net.state(box)["Error"]) == ("created", "network m-one not found")
        assert sorted(inspect(net, box)["NetworkSettings"]["Networks"]) == ["m-one", "m-two"]
        assert lab.links() == {link for link in links if link in lab.links()}
        assert "18320" not in lab.rules()
        assert peer.ask("POST", "/networks/m-one/disconnect", {"Container": box}).status == 200, "of one that does not run"
        answer = peer.ask("POST", "/networks/m-one/disconnect", {"Container": box, "Force": True})
        assert (answer.status, answer.message) == (403, f"container {box} is not connected to the network m-one: network m-one not found")
        net.docker("start", box)
        wait_until(lambda: lab.fetch("client", f"http://{HOST}:18320/") == "hello\n", "its port")
        assert list(inspect(net, box)["NetworkSettings"]["Networks"]) == ["m-two"]
    finally:
        net.rm(box)
    wait_until(lambda: "18320" not in lab.rules() and rules.count("br-") >= lab.rules().count("br-"), "the rules")


def test_disconnect_by_force(net: Engine, lab: Lab, network: Up, start: Up, peer: Peer) -> None:
    """Of a running container too; and never of what it is not in."""
    identity = network("f-one")
    network("f-two")
    box = start("--network", "f-one", "--network", "f-two", "-p", "18321:80", command=HTTP)
    asks = start("--network", "f-two")
    for target, body, status, said in (
        ("f-none", {"Container": box, "Force": True}, 403, f"container {box} is not connected to the network f-none: network f-none not found"),
        ("f-none", {"Container": box}, 404, "network f-none not found"), ("f-one", {"Container": "nobody", "Force": True}, 404, "No such container: nobody"),
        ("bridge", {"Container": box, "Force": True}, 403, f"container {box} is not connected to network bridge"),
    ):  # fmt: skip
        state = inspect(net, box), lab.rules(), lab.links()
        answer = peer.ask("POST", f"/networks/{target}/disconnect", body)
        assert (answer.status, answer.message) == (status, said)
        assert (inspect(net, box), lab.rules(), lab.links()) == state
    net.docker("network", "disconnect", "-f", "f-one", box)
    assert list(inspect(net, box)["NetworkSettings"]["Networks"]) == ["f-two"]
    assert not [link for link in json.loads(lab.at("host", "ip", "-j", "link").stdout) if link.get("master") == f"br-{identity[:12]}"]
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18321/") == "hello\n", "its port, by the other network")
    assert gets(net, asks, f"http://{address(net, box, 'f-two')}/")
    assert net.docker("network", "rm", "f-one").returncode == 0
    net.docker("network", "disconnect", "-f", "f-two", box)
    assert inspect(net, box)["NetworkSettings"]["Networks"] == {}
    assert lab.fetch("client", f"http://{HOST}:18321/") == ""
    assert netlab.interfaces(net, box) == {}
    net.docker("network", "connect", "f-two", box)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18321/") == "hello\n", "its port again")


def test_a_network_that_is_being_removed(net: Engine, network: Up, peer: Peer) -> None:
    """Either it goes and nobody is in it, or somebody is and it stays."""
    requests = ("DELETE", "/networks/d-one"), ("POST", "/containers/d-box/start")
    for turn in range(10):
        network("d-one")
        box = net.docker("create", "--name", "d-box", "--network", "d-one", "bb", "sleep", "1000").stdout.strip()
        net.seen_ids.add(box)
        with ThreadPoolExecutor(2) as pool:
            gone, begun = pool.map(lambda words: peer.ask(*words).status, requests)
        assert (gone, begun) in ((204, 404), (403, 204)), turn
        net.rm(box)
        net.docker("network", "rm", "d-one", code=None)


# -- a bridge that somebody deletes ---------------------------------------------------------------------


def test_a_bridge_deleted_while_containers_come_and_go(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    """Whatever is asked for next finds it there again: start, connect, stop, disconnect, rm."""
    identity = network("b-one")
    bridge = f"br-{identity[:12]}"

    def delete() -> None:
        lab.at("host", "ip", "link", "delete", bridge)

    web = start("--network", "b-one", "-p", "18330:80", command=HTTP)
    delete()
    asks = start("--network", "b-one")
    wait_until(lambda: gets(net, asks, f"http://{address(net, web, 'b-one')}/"), "the other one", 20)
    late = start()
    delete()
    net.docker("network", "connect", "b-one", late)
    wait_until(lambda: gets(net, late, f"http://{address(net, web, 'b-one')}/"), "the other one, by one that joined", 20)
    delete()
    net.docker("network", "disconnect", "b-one", late)
    delete_if_there = ("ip", "link", "delete", bridge)
    wait_until(lambda: bridge in lab.links(), "the bridge")
    lab.at("host", *delete_if_there)
    net.docker("stop", "-t", "0", web)
    net.docker("start", web)
    wait_until(lambda: gets(net, asks, f"http://{address(net, web, 'b-one')}/"), "it after a restart", 20)
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18330/") == "hello\n", "its port", 20)
    net.docker("rm", "-f", web, asks, late)
    lab.at("host", *delete_if_there, check=False)
    net.docker("network", "rm", "b-one")
    wait_until(lambda: bridge not in lab.links() and bridge not in lab.rules(), "nothing left")


def test_a_bridge_deleted_while_there_is_no_engine_and_its_container_ends(net: Engine, lab: Lab, network: Up, start: Up) -> None:
    identity = network("b-two")
    web = start("--restart", "always", "--network", "b-two", "-p", "18331:80", command=HTTP)
    net.kill()
    lab.at("host", "ip", "link", "delete", f"br-{identity[:12]}")
    os.kill(_pid_in(web), signal.SIGKILL)
    net.start()
    wait_until(lambda: lab.fetch("client", f"http://{HOST}:18331/") == "hello\n", "its port", 20)
    assert f"br-{identity[:12]}" in lab.links()
