"""The systemd cgroup driver on a machine that systemd has booted (pure cgroup v2), one boot for all tests here.

systemd_host.py runs inside of it and reports what systemctl and the cgroup files said; here it is judged.
"""

import tempfile
from pathlib import Path
from typing import Any

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(630)]  # the first test waits for the whole machine

_MEBI = 1 << 20
_LIMITS = {
    "memory.max": str(64 * _MEBI), "memory.swap.max": str(32 * _MEBI), "memory.low": str(32 * _MEBI),
    "memory.high": str(48 * _MEBI), "cpu.weight": "20", "cpu.max": "50000 200000", "pids.max": "17",
    "cpuset.cpus": "0",
}  # fmt: skip
_SHOWN = {
    "MemoryMax": str(64 * _MEBI), "MemorySwapMax": str(32 * _MEBI), "MemoryLow": str(32 * _MEBI),
    "MemoryHigh": str(48 * _MEBI), "CPUWeight": "20", "CPUQuotaPerSecUSec": "250ms", "CPUQuotaPeriodUSec": "200ms",
    "TasksMax": "17", "DevicePolicy": "strict", "AllowedCPUs": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    """What systemd_host.py printed."""
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-systemd.") as directory:
        shared = Path(directory)
        guest.share(shared, "systemd_host.py", "service_host.py", "v2_host.py")
        # The full machine: user-mode-linux under systemd stops altogether now and then, timers and all.
        return guest.findings(guest.run(shared, f"systemd_host.py {guest.SHARE}", "--systemd", timeout_s=600))


def _of(findings: dict[str, Any], feature: str) -> dict[str, Any]:
    found: dict[str, Any] = findings[feature]
    assert "error" not in found, found["error"]
    return found


def test_a_process_is_put_into_a_scope(findings: dict[str, Any]) -> None:
    found = _of(findings, "scope")
    assert found["path"] == found["group"] == found["show"]["ControlGroup"] == "/system.slice/berth-one.scope"
    assert found["show"]["ActiveState"] == "active"
    assert found["show"]["Slice"] == "system.slice"
    assert found["show"]["Description"] == "berth container one"
    assert found["show"]["Delegate"] == "yes"
    assert found["show"]["DefaultDependencies"] == "no"
    for controller in ("Memory", "CPU", "IO", "Tasks"):
        assert found["show"][f"{controller}Accounting"] == "yes"
    assert f"{found['pid']} sh -c" in found["listed"]
    assert found["pids"] == [found["pid"]]


def test_limits_are_systemds_and_the_kernels(findings: dict[str, Any]) -> None:
    found = _of(findings, "scope")
    assert {name: found["show"][name] for name in _SHOWN} == _SHOWN
    assert found["files"] == _LIMITS
    assert found["reloaded"] == _LIMITS  # systemd writes them again, the same ones


def test_devices_are_denied(findings: dict[str, Any]) -> None:
    null, zero, full = _of(findings, "scope")["devices"]
    assert (null, zero) == ("null", "zero")
    assert "/dev/full" in full
    assert "not permitted" in full


def test_update(findings: dict[str, Any]) -> None:
    found = _of(findings, "scope")["updated"]
    for files in (found["files"], found["reloaded"]):
        assert files["memory.max"] == str(32 * _MEBI)
        assert files["cpu.max"].startswith("30000 ")
        assert files["pids.max"] == "9"
        assert files["memory.high"] == str(48 * _MEBI)
    assert found["show"]["MemoryMax"] == str(32 * _MEBI)
    assert found["show"]["CPUQuotaPerSecUSec"] == "150ms"
    assert found["show"]["TasksMax"] == "9"


def test_others_join(findings: dict[str, Any]) -> None:
    assert _of(findings, "scope")["joined"] == ["/system.slice/berth-one.scope"] * 2


def test_a_running_scope_is_nobody_elses(findings: dict[str, Any]) -> None:
    found = _of(findings, "scope")
    assert found["conflict"] == found["conflict again"] == ["Conflict", "systemd has a unit berth-one.scope already"]
    assert found["other removes"] == [True, True]  # nothing to remove, and the first one's process lives


def test_freeze(findings: dict[str, Any]) -> None:
    assert _of(findings, "scope")["frozen"] == "frozen 1"


def test_stop_leaves_nothing(findings: dict[str, Any]) -> None:
    found = _of(findings, "scope")
    assert not found["removed early"]
    assert found["ended"]
    assert found["left"] == ["not-found", "", False]


def test_slices(findings: dict[str, Any]) -> None:
    found = _of(findings, "names")
    places = {
        "p-q.slice:berth:deep": "/p.slice/p-q.slice/berth-deep.scope",
        ":berth:default": "/system.slice/berth-default.scope",
        "-.slice:berth:root": "/berth-root.scope",
    }
    for path, place in places.items():
        assert found[path] == [place, place, True]
    assert found["slice"] == ["/tried.slice/tried-one.slice"] * 2 + ["5", "5"]
    assert found["slice ended"]


def test_a_failed_unit_makes_way(findings: dict[str, Any]) -> None:
    assert _of(findings, "again_after_failure") == {"before": "failed", "during": "active", "ended": True, "left": "not-found"}


def test_a_dead_process_is_refused(findings: dict[str, Any]) -> None:
    found = _of(findings, "refused")
    assert found["dead"][0] == "Refused"
    assert found["dead"][1].startswith("systemd does not start berth-dead.scope: ")
    assert found["removed"]
    assert found["left"] == "not-found"


def test_annotations(findings: dict[str, Any]) -> None:
    found = _of(findings, "annotated")
    assert found["show"]["TimeoutStopUSec"] == "7s"
    assert found["show"]["CollectMode"] == "inactive-or-failed"
    assert found["ended"]


def test_over_the_system_bus(findings: dict[str, Any]) -> None:
    found = _of(findings, "over_the_bus")
    assert found["group"] == "/system.slice/berth-bus.scope"
    assert {name: found["show"][name] for name in _SHOWN} == _SHOWN
    assert found["files"] == _LIMITS
    assert found["ended"]
    assert found["left"] == "not-found"


@pytest.mark.parametrize("way", ["user", "user_over_the_bus"])
def test_rootless(findings: dict[str, Any], way: str) -> None:
    found = _of(findings, way)
    place = "/user.slice/user-1000.slice/user@1000.service/user.slice/berth-mine.scope"
    assert found["path"] == found["group"] == found["show"]["ControlGroup"] == place
    assert found["joined"] == [place, place]
    assert found["show"]["Delegate"] == "yes"
    assert found["show"]["MemoryMax"] == found["files"]["memory.max"] == str(64 * _MEBI)
    assert found["files"]["pids.max"] == "17"
    assert found["updated"] == "9"
    assert found["ended"]
    assert found["left"] == [False, ""]


def test_a_user_without_a_systemd_is_told(findings: dict[str, Any]) -> None:
    kind, text = _of(findings, "user")["without"]["refused"]
    assert kind == "NotImplementedHere"
    assert "loginctl enable-linger" in text
    assert "--cgroup-manager cgroupfs" in text


def test_a_host_without_systemd_is_told(findings: dict[str, Any]) -> None:
    kind, text = _of(findings, "without_systemd")["refused"]
    assert kind == "NotImplementedHere"
    assert text == "systemd does not run this host (no /run/systemd/system); use --cgroup-manager cgroupfs"


def test_a_whole_container(findings: dict[str, Any]) -> None:
    found = _of(findings, "whole_container")
    for verb in ("create", "start", "update", "delete"):
        assert found[verb] == {"code": 0, "text": ""}, verb
    assert found["group"] == found["exec_group"] == "/system.slice/berth-whole.scope"
    assert found["program"] == "busybox"
    assert (found["shown"]["ActiveState"], found["shown"]["Delegate"], found["shown"]["TasksMax"]) == ("active", "yes", "20")
    assert (found["shown"]["MemoryMax"], found["updated"]) == (str(64 * _MEBI), str(128 * _MEBI))
    assert (found["left"], found["gone"]) == ("", True)


# -- berth system service ------------------------------------------------------------------------


def test_the_service_is_started_by_its_first_client(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")
    assert found["before"] == {"code": 3, "text": "berth.socket: not installed\nberth.service: not installed"}
    assert found["install"]["code"] == 0, found["install"]
    assert found["enabled"] == ["enabled", "enabled"]
    assert found["socket"] == [0, 1000, "0o660"]
    assert found["states before"] == ["active", "inactive"]
    assert found["first request"] == "OK"
    assert found["states after"] == ["active", "active"]
    assert found["running status"] == {"code": 0, "text": "berth.socket: installed, active\nberth.service: installed, active"}
    assert found["group"] == "OK"
    assert found["others"] != 0
    assert (found["unit"]["Type"], found["unit"]["SubState"]) == ("notify", "running")  # it said that it is ready


def test_containers_do_not_end_with_the_service(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")
    assert found["run"]["code"] == 0, found["run"]
    assert found["container group"] == f"0::/berth/{found['run']['text']}"
    assert found["oom score"] == "0"  # and not the -500 of the unit
    assert found["same container"]
    assert found["restart"]["done"]["code"] == found["stop"]["done"]["code"] == 0
    assert found["restart"]["new engine"]
    assert found["exec"] == {"code": 0, "text": "well"}
    assert found["limit"] == str(64 * _MEBI)  # systemd leaves the group of the container alone
    number, whole = found["lines"]
    assert number > 0
    assert whole
    assert found["lives"] == [True, True]  # after the stop, and when the service is uninstalled


def test_the_service_reloads_and_stops(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")
    assert found["reload"]["done"]["code"] == 0
    assert found["reload"]["labels"] == ["rack=7"]
    assert found["reload"]["same engine"]
    assert found["stop"]["states"] == ["inactive", "inactive"]
    assert not found["stop"]["socket file"]
    assert found["stop"]["status"] == {"code": 3, "text": "berth.socket: installed, inactive\nberth.service: installed, inactive"}
    assert "API listening on fd://" in found["journal"]
    assert "configuration reloaded: log_level, labels" in found["journal"]
    assert "Traceback" not in found["journal"]


def test_the_service_is_uninstalled(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")
    assert found["uninstall"]["code"] == 0, found["uninstall"]
    assert found["left"] == [False, False, False]
    assert (found["left units"], found["wanted by"]) == ("", [])
    assert found["after"] == found["before"]


def test_journald(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")["journald"]
    assert found["run"]["code"] == 0, found["run"]
    entries = {entry["MESSAGE"]: entry for entry in found["entries"]}
    assert set(entries) == {"to standard output", "to standard error", "no line end"}
    assert [entries[text]["PRIORITY"] for text in ("to standard output", "to standard error")] == ["6", "3"]
    assert "CONTAINER_PARTIAL_MESSAGE" in entries["no line end"]
    for entry in entries.values():
        assert (entry["CONTAINER_ID_FULL"], entry["CONTAINER_ID"]) == (found["id"], found["id"][:12])
        assert (entry["CONTAINER_TAG"], entry["SYSLOG_IDENTIFIER"], entry["RACK"]) == ("to-journal/x", "to-journal/x", "7")
        assert entry["IMAGE_NAME"] == "bb"
    assert found["logs"]["code"] == 0
    assert sorted(found["logs"]["text"].replace("end", "end\n").split("\n"))[-3:] == ["no line end", "to standard error", "to standard output"]


def test_syslog_of_the_host(findings: dict[str, Any]) -> None:
    found = _of(findings, "service")["syslog"]
    assert found["run"]["code"] == 0, found["run"]
    entries = {entry["MESSAGE"]: entry for entry in found["entries"]}
    assert {text: entry["PRIORITY"] for text, entry in entries.items()} == {"out": "6", "wrong": "3"}
    for entry in entries.values():
        assert (entry["_TRANSPORT"], entry["SYSLOG_FACILITY"], entry["SYSLOG_IDENTIFIER"]) == ("syslog", "19", "to-syslog")  # local3
        assert entry["SYSLOG_PID"] == entry["_PID"]  # the monitor's, as the kernel saw it
    assert sorted(found["logs"]["text"].split()) == ["out", "wrong"]
