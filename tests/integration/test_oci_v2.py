"""berth-oci on a host with cgroup v2 alone and AppArmor: one boot of a throw-away machine; v2_oci.py runs inside."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    """What v2_oci.py printed."""
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-v2.") as directory:
        shutil.copytree(_REPOSITORY / "src", f"{directory}/src", ignore=shutil.ignore_patterns("sealer"))
        shutil.copy(Path(__file__).with_name("v2_oci.py"), directory)
        return guest.findings(guest.run(directory, f"v2_oci.py {guest.SHARE}", "--via", "uml", timeout_s=170))


def _of(findings: dict[str, Any], feature: str) -> dict[str, Any]:
    found: dict[str, Any] = findings[feature]
    assert "error" not in found, found["error"]
    return found


def test_run_to_the_end(findings: dict[str, Any]) -> None:
    found = _of(findings, "to_the_end")
    assert found["run"]["code"] == 7, found["run"]
    lines = found["run"]["out"].split()
    assert lines[0] == "0::/"  # the cgroup namespace's root
    assert "cgroup.procs" in lines
    assert not found["left"]


def test_limits_are_in_the_files_of_the_group(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    assert found["create"]["code"] == found["start"]["code"] == 0, (found["create"], found["start"])
    assert found["created"] == "created"
    assert found["procs"]
    assert found["executes"].startswith("/memfd:berth-sealed")
    assert found["program"] == "sleep"
    assert found["files"] == {"memory.max": str(64 << 20), "pids.max": "20", "cpu.weight": "20", "cpu.max": "50000 100000"}


def test_an_exec_is_in_the_same_group(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    assert found["exec"] == {"code": 0, "out": "0::/\n", "err": ""}
    assert found["exec_outside"] == "0::/oci/life"


def test_pause_and_resume(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    assert (found["pause"]["code"], found["resume"]["code"]) == (0, 0)
    assert "frozen 1" in found["frozen"]
    assert found["paused"] == "paused"
    assert found["exec_paused"]["code"] == 255
    assert "paused" in found["exec_paused"]["err"]


def test_update_of_a_live_container(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    assert found["update"] == {"code": 0, "out": "", "err": ""}
    assert found["updated"] == {"memory.max": str(128 << 20), "pids.max": "7", "cpu.weight": "39", "cpu.max": "50000 100000"}


def test_statistics_and_processes(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    event = json.loads(found["events"]["out"])
    assert (event["type"], event["id"]) == ("stats", "life")
    assert event["data"]["memory"]["usage"]["limit"] == 128 << 20
    assert event["data"]["pids"]["limit"] == 7
    assert found["pid"] in json.loads(found["ps"]["out"])


def test_end(findings: dict[str, Any]) -> None:
    found = _of(findings, "a_life")
    assert found["delete_running"]["code"] == 1
    assert "not stopped" in found["delete_running"]["err"]
    assert (found["kill"]["code"], found["stopped"], found["delete"]["code"]) == (0, "stopped", 0)
    assert not found["left"]


def test_apparmor_profile_is_entered_and_denies(findings: dict[str, Any]) -> None:
    found = _of(findings, "apparmor")
    assert found["run"]["out"] == "berth-test (enforce)\n"
    assert "Permission denied" in found["run"]["err"]
    assert found["unknown"]["code"] == 1
    assert "'no-such-profile' is not loaded" in found["unknown"]["err"]
    assert found["list"]["out"] == ""


def test_what_v2_lacks_is_refused_and_leaves_nothing(findings: dict[str, Any]) -> None:
    found = _of(findings, "refused")
    assert found["network"]["code"] == found["unified"]["code"] == 1
    assert "network" in found["network"]["err"]
    assert "nope.max" in found["unified"]["err"]
    assert found["groups"] == []
