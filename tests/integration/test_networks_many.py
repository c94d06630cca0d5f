"""Fifty containers on one network: each finds and reaches each other by its name; and nothing of them stays. Asked by their own wget, and by dig."""

from concurrent.futures import ThreadPoolExecutor

import netlab
import pytest
from harness import Engine, wait_until
from netlab import Lab
from parity import Peer

pytestmark = pytest.mark.root
COUNT = 50
NAMES = [f"many{number}" for number in range(COUNT)]
_SERVE = "mkdir /w && hostname > /w/index.html && exec httpd -f -p 80 -h /w"
_ASK_ALL = f"i=0; while [ $i -lt {COUNT} ]; do wget -qO- http://many$i/; i=$((i+1)); done"


def test_each_reaches_each_other(net: Engine, lab: Lab) -> None:
    peer = Peer(f"{net.exec}/berth.sock")
    net.docker("network", "create", "many")

    def begin(name: str) -> str:
        body = {"Image": "bb", "Hostname": name, "Cmd": ["sh", "-c", _SERVE], "HostConfig": {"NetworkMode": "many"}}
        identity = str(peer.ask("POST", f"/containers/create?name={name}", body).body["Id"])
        assert peer.ask("POST", f"/containers/{identity}/start").status == 204
        return identity

    with ThreadPoolExecutor(4) as pool:
        identities = list(pool.map(begin, NAMES))
        net.seen_ids.update(identities)
        found = peer.ask("GET", "/networks/many").body["Containers"]
        addresses = {entry["Name"]: entry["IPv4Address"].partition("/")[0] for entry in found.values()}
        assert sorted(addresses) == sorted(NAMES)
        assert len(set(addresses.values())) == COUNT
        wait_until(lambda: net.docker("exec", NAMES[0], "wget", "-qO-", f"http://{NAMES[-1]}/", code=None).returncode == 0, "the last one's server")
        answers = list(pool.map(lambda name: net.docker("exec", name, "sh", "-c", _ASK_ALL).stdout.split(), NAMES))
        assert [name for name, seen in zip(NAMES, answers, strict=True) if seen != NAMES] == []
        # The same by a second tool: all names of all, and back.
        asked = netlab.inside(net, NAMES[0], "dig", "+short", "@127.0.0.11", *NAMES).split()
        assert asked == [addresses[name] for name in NAMES]
        back = netlab.inside(net, NAMES[-1], "dig", "+short", "@127.0.0.11", *(word for name in NAMES for word in ("-x", addresses[name]))).split()
        assert back == [f"{name}.many." for name in NAMES]
        ends = [peer.ask("DELETE", f"/containers/{identity}?force=1").status for identity in identities[1:]]
    assert set(ends) == {204}
    assert netlab.inside(net, NAMES[0], "dig", "+short", "@127.0.0.11", *NAMES[1:]).split() == [], "names that are nobody's any more"
    wait_until(lambda: sum(name.startswith("veth") for name in lab.links()) == 1, "their interfaces")
    net.rm(NAMES[0])
    net.docker("network", "rm", "many")
