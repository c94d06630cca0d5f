"""The systemd cgroup driver on a machine that systemd has booted (pure cgroup v2), one boot for all tests here.

systemd_host.py runs inside of it and reports what systemctl and the cgroup files said; here it is judged.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]  # the first test waits for the whole machine

_REPOSITORY = Path(__file__).resolve().parents[2]
_VMLAB = Path(os.environ.get("BERTH_VMLAB") or _REPOSITORY.parent / "shared/vmlab/vmlab")
_GUEST = "/mnt/berth"
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
    if not _VMLAB.exists():
        pytest.skip(f"no virtual machine runner at ../shared/vmlab/vmlab ({_VMLAB})")
    if os.geteuid() != 0:
        pytest.skip("vmlab needs root")
    with tempfile.TemporaryDirectory(prefix="berth-systemd.") as directory:
        shared = Path(directory)
        shutil.copytree(_REPOSITORY / "src", shared / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(Path(__file__).with_name("systemd_host.py"), shared)
        # The full machine: user-mode-linux under systemd stops altogether now and then, timers and all.
        command = [str(_VMLAB), "run", "--systemd", "--timeout", "170", "--share", f"{shared}:{_GUEST}:ro"]
        command += ["--", f"python3 {_GUEST}/systemd_host.py {_GUEST}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"the machine ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout))


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
