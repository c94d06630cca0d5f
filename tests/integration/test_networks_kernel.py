"""Networks on a kernel that has ipvlan and SCTP, as the one of a test's host need not: a throw-away machine, booted once.

networks_host.py runs inside of it and reports what other tools saw; here it is judged.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-networks.") as directory:
        shared = Path(directory)
        guest.share(shared, "networks_host.py", "v2_host.py")
        return guest.findings(guest.run(shared, f"networks_host.py {guest.SHARE}", timeout_s=380))


def _of(findings: dict[str, Any], feature: str) -> dict[str, Any]:
    found: dict[str, Any] = findings[feature]
    assert "error" not in found, found["error"] + findings["log"][-3000:]
    return found


@pytest.mark.parametrize(("mode", "route"), [("l2", "default via 192.0.2.2"), ("l3", "default dev eth0"), ("l3s", "default dev eth0")])
def test_ipvlan_modes(findings: dict[str, Any], mode: str, route: str) -> None:
    found = _of(findings, f"ipvlan_{mode}")
    assert (found["kind"], found["mode"]) == ("ipvlan", mode)
    assert route in found["routes"]
    assert found["parent's address"]
    assert [key for key in ("far", "other", "back", "from far") if not found[key]] == []
    assert "do not support custom mac address" in found["mac"]
    assert found["left"] == ""


def test_macvlan_on_a_vlan(findings: dict[str, Any]) -> None:
    found = _of(findings, "vlan")
    assert (found["link"]["info_kind"], found["link"]["info_data"]["id"]) == ("vlan", 50)
    assert found["far"]
    assert not found["left"]


def test_sctp_reaches_published_ports(findings: dict[str, Any]) -> None:
    found = _of(findings, "sctp")
    assert found["far"] == "192.0.2.2"  # the true source
    assert found["own"] == "192.0.2.1"
    assert found["loopback"].startswith("10.78.0.")
    assert found["loopback6"] == "10.78.0.1"  # through the relay
    assert found["container"].startswith("10.78.0.")
    assert found["hairpin"].startswith("10.78.0.")
    assert re.search(rf"sctp \. 18030 : {re.escape(found['address'])} \. 80", found["rules"])
    assert re.search(r"refused|timed out|unreachable", found["closed"])


def test_nothing_is_left(findings: dict[str, Any]) -> None:
    assert findings["as it was"], findings
    assert findings["engine_exit"] == 0
    assert "Traceback" not in findings["log"]
