"""berth on a host with cgroup v2 alone and AppArmor: a throw-away machine, booted once for all tests here.

v2_host.py runs inside of it and reports what other tools saw; here it is judged.
"""

import tempfile
from pathlib import Path
from typing import Any

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]  # the first test waits for the whole machine

_MEBI = 1 << 20
_REMAPPED_FROM = 200_000


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    """What v2_host.py printed."""
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-v2.") as directory:
        shared = Path(directory)
        guest.share(shared, "v2_host.py")
        return guest.findings(guest.run(shared, f"v2_host.py {guest.SHARE}", "--via", "uml", timeout_s=380))


def _of(findings: dict[str, Any], feature: str) -> dict[str, Any]:
    """One feature's findings; with the engine's log if it failed."""
    found: dict[str, Any] = findings[feature]
    assert "error" not in found, found["error"] + findings["log"][-3000:]
    return found


def test_info(findings: dict[str, Any]) -> None:
    found = _of(findings, "info")
    assert found["CgroupVersion"] == "2"
    assert "name=apparmor" in found["SecurityOptions"]
    assert "name=seccomp,profile=builtin" in found["SecurityOptions"]
    assert "name=cgroupns" in found["SecurityOptions"]
    assert found["MemoryLimit"]
    assert found["PidsLimit"]
    assert found["CpuCfsQuota"]
    if not found["CPUSet"]:
        assert "WARNING: No cpuset support" in found["Warnings"]


def test_hello(findings: dict[str, Any]) -> None:
    assert _of(findings, "hello") == {"code": 0}


def test_limits_are_in_the_cgroup_files(findings: dict[str, Any]) -> None:
    found = _of(findings, "limits")
    assert found["memory.max"] == str(64 * _MEBI)
    assert found["memory.swap.max"] == str(32 * _MEBI)  # v2 counts swap alone
    assert found["memory.swap.max by default"] == str(64 * _MEBI)
    assert found["memory.low"] == str(32 * _MEBI)
    assert found["cpu.weight"] == "20"
    assert found["cpu.max"] == "50000 100000"
    assert found["pids.max"] == "17"
    assert found["io.max"] == f"{found['disk']} rbps=max wbps={_MEBI} riops=500 wiops=max"
    assert found["cgroup.procs"] == str(found["pid"])
    assert not found["group_left"]


def test_fork_bomb_is_stopped(findings: dict[str, Any]) -> None:
    found = _of(findings, "fork_bomb")
    assert "can't fork" in found["text"]
    assert int(found["current"]) <= 10
    assert found["events"] != "max 0"


def test_device_filter(findings: dict[str, Any]) -> None:
    found = _of(findings, "devices")
    denied = found["denied"]["text"]
    assert "read failed" in denied
    assert "Operation not permitted" in denied
    assert "\n1\n" in denied  # null and zero work
    assert found["allowed"]["text"].startswith("1\n")
    assert "can't create /dev/disk: Operation not permitted" in found["allowed"]["text"]  # only r was given
    assert "read failed" not in found["rule"]["text"]
    assert found["privileged"]["text"] == "1\n"
    assert "Operation not permitted" in found["from_outside"]["disk"]
    assert found["from_outside"]["null"] == "fine"


def test_cgroup_namespace(findings: dict[str, Any]) -> None:
    found = _of(findings, "cgroup_namespace")
    assert found["inside"] == "0::/"
    assert found["outside"] == f"0::/berth/{found['id']}"
    (line,) = found["mountinfo"]
    assert " - cgroup2 " in line
    assert " ro," in line
    assert found["procs"] == "max"  # pids.max exists: the mount shows the group and not the hierarchy's root
    assert "Read-only file system" in found["write"]


def test_freezer(findings: dict[str, Any]) -> None:
    found = _of(findings, "freezer")
    assert found["state"] == "paused"
    assert "frozen 1" in found["events"]
    assert found["stands_still"]
    assert found["goes_on"]
    assert "frozen 0" in found["events_after"]


def test_out_of_memory(findings: dict[str, Any]) -> None:
    first = _of(findings, "out_of_memory")
    assert (first["code"], first["oom_killed"]) == (137, True)
    assert (first["why"]["Reason"], first["why"]["Signal"], first["why"]["MemoryLimit"]) == ("oom", 9, 16 * _MEBI)
    assert 8 * _MEBI < first["why"]["MemoryPeak"] <= 16 * _MEBI
    child = _of(findings, "out_of_memory_in_child")
    assert child["oom_killed"]
    assert "the shell goes on" in child["text"]
    assert not first["group_left"]
    assert not child["group_left"]


def test_killed_is_not_out_of_memory(findings: dict[str, Any]) -> None:
    assert _of(findings, "killed") == {"code": 137, "oom_killed": False}


def _table(text: str) -> dict[str, int]:
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}


def _io(text: str, disk: str) -> dict[str, int]:
    (row,) = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{disk} "))
    return {key: int(value) for key, _, value in (item.partition("=") for item in row)}


def test_stats_are_the_files(findings: dict[str, Any]) -> None:
    """Of a frozen container: its counters stand still."""
    found = _of(findings, "usage")
    stats, files = found["stats"], found["files"]
    memory, seen, cpu = stats["memory_stats"], _table(files["memory.stat"]), _table(files["cpu.stat"])
    assert memory["usage"] > 8 * _MEBI  # the file that it wrote
    assert abs(memory["usage"] - int(files["memory.current"])) < _MEBI
    assert memory["limit"] == 64 * _MEBI
    assert "max_usage" not in memory
    assert set(memory["stats"]) == set(seen)
    for name in ("anon", "file", "inactive_file", "active_file"):
        assert abs(memory["stats"][name] - seen[name]) < _MEBI, name
    assert stats["cpu_stats"]["cpu_usage"] == {
        "total_usage": cpu["usage_usec"] * 1000, "usage_in_kernelmode": cpu["system_usec"] * 1000, "usage_in_usermode": cpu["user_usec"] * 1000,
    }  # fmt: skip
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert stats["pids_stats"] == {"current": int(files["pids.current"]), "limit": int(files["pids.max"])} == {"current": 2, "limit": 30}
    before, after = (_io(text, found["disk"]) for text in (files["io.stat"], found["io_after"]))
    rows = [row for row in stats["blkio_stats"]["io_service_bytes_recursive"] if f"{row['major']}:{row['minor']}" == found["disk"]]
    written = {row["op"]: row["value"] for row in rows}
    assert written["read"] == before["rbytes"]
    assert before["wbytes"] <= written["write"] <= after["wbytes"]  # the kernel may write dirty pages of a frozen container
    assert written["write"] >= 8 * _MEBI
    operations = {row["op"]: row["value"] for row in stats["blkio_stats"]["io_serviced_recursive"]}
    assert operations["write"] >= 1


def test_stats_as_people_see_them(findings: dict[str, Any]) -> None:
    """The memory in use is without the page cache that goes first, as Docker's command line shows it."""
    found = _of(findings, "usage")
    used, pids, block, share = found["shown"].split("|")
    after = int(found["memory_after"]) - _table(found["stat_after"])["inactive_file"]
    number, of, limit = used.partition(" / ")
    assert (of, limit) == (" / ", "64MiB")
    shown_bytes = float(number.removesuffix("MiB").removesuffix("KiB")) * (_MEBI if number.endswith("MiB") else 1024)
    assert abs(shown_bytes - after) < _MEBI
    assert shown_bytes < 6 * _MEBI  # the file of 8 MiB is not in it
    assert (pids, share) == ("2", "0.00%")
    assert block.partition(" / ")[2] != "0B"


def test_top(findings: dict[str, Any]) -> None:
    found = _of(findings, "usage")
    assert found["top"]["Titles"] == ["PID", "COMMAND"]
    assert sorted(row[0] for row in found["top"]["Processes"]) == sorted(found["files"]["cgroup.procs"].split())
    assert sorted(row[1] for row in found["top"]["Processes"])[-1] == "sleep 999"


def test_update_of_a_running_container(findings: dict[str, Any]) -> None:
    found = _of(findings, "update")
    assert found["memory.max"] == str(96 * _MEBI)
    assert found["memory.swap.max"] == str(32 * _MEBI)
    assert found["memory.low"] == str(16 * _MEBI)
    assert found["cpu.max"] == "30000 60000"
    assert found["cpu.weight"] == "79"  # of 2048 shares
    assert found["pids.max"] == "40"
    assert found["kept"]
    assert found["same"]
    assert not found["answer"].get("Warnings")


def test_apparmor_profile_is_entered(findings: dict[str, Any]) -> None:
    found = _of(findings, "apparmor")
    assert found["loaded"]
    assert found["current"] == found["exec"] == "berth-default (enforce)"
    assert found["inspect"] == "berth-default"
    assert found["label_no_new_privileges"]["text"] == "berth-default (enforce)\n"
    for key in ("label_unconfined", "label_privileged"):
        assert found[key]["text"] == "unconfined\n"
    assert found["exec_privileged"] == "unconfined"


def test_apparmor_denies(findings: dict[str, Any]) -> None:
    found = _of(findings, "apparmor")
    text = found["confined"]["text"]
    for word in ("core_pattern: Permission denied", "mounting none on /tmp failed", "overcommit_memory: Permission denied"):
        assert word in text
    assert "kcore is denied" in text
    assert found["pattern_kept"]
    assert found["unconfined"]["text"] == "written\nmounted\nvm written\nkcore is read\n"  # so it was AppArmor
    assert found["shmmax"]["text"] == "12345\n"
    assert found["kill_self"] == "sent"


def test_a_step_of_a_build_has_a_container_s_walls(findings: dict[str, Any]) -> None:
    found = _of(findings, "build_step")
    step, container = found["step"], found["container"]
    assert step.startswith("@status\n"), found["said"]
    assert step == container
    assert "@label\nberth-default (enforce)\n" in step
    assert "CapEff:\t00000000a80425fb\n" in step
    assert "Seccomp:\t2\n" in step
    assert "@cgroup\n0::/\n67108864\n" in step
    assert step.count("ermission denied") + step.count("not permitted") >= 4
    assert found["groups_left"] == []


def test_security_modules_that_are_not_there(findings: dict[str, Any]) -> None:
    found = _of(findings, "apparmor")
    assert found["unknown"]["status"] == 400
    assert "apparmor profile 'no-such-profile' is not loaded" in found["unknown"]["text"]
    assert found["selinux"]["status"] == 501
    assert "SELinux" in found["selinux"]["text"]


def test_namespaces_differ(findings: dict[str, Any]) -> None:
    found = _of(findings, "isolation")
    host, container = found["host"], found["container"]
    assert {"cgroup", "ipc", "mnt", "net", "pid", "uts"} <= {kind for kind in host if host[kind] != container[kind]}
    if "time" in host:
        assert host["time"] != container["time"]
        assert 0.9 < found["uptime_days"] < 2
    else:
        assert found["refused"]["status"] == 501
        assert "time namespaces" in found["refused"]["text"]
    assert len(set(found["same_in_exec"])) == 1
    assert found["pid"] == "1"
    assert found["hostname"] == found["id"][:12]
    assert [line.split()[0] for line in found["links"].splitlines()] == ["lo"]
    assert found["root"] == ["overlay"]


def test_capabilities_and_seccomp(findings: dict[str, Any]) -> None:
    found = _of(findings, "isolation")
    assert found["bounding"] == found["effective"] == "00000000a80425fb"  # Docker's default set
    assert found["seccomp"] == "2"


def test_exec_joins_everything(findings: dict[str, Any]) -> None:
    found = _of(findings, "executed")
    assert found["first"] == found["other"]
    assert found["cgroup"] == f"0::/berth/{found['id']}"
    assert str(found["pid"]) in found["procs"]
    assert found["command"].startswith("sleep")
    assert found["seccomp"] == "2"
    assert found["user"] == "1000"


def test_engine_killed(findings: dict[str, Any]) -> None:
    found = _of(findings, "engine_killed")
    assert found["status"] == "running"
    assert found["same_pid"]
    assert found["exec"] == "well"
    assert (found["missed"]["Status"], found["missed"]["ExitCode"]) == ("exited", 7)
    assert found["paused"] == "paused"
    assert found["no_gap"]
    assert found["lines"] > 10
    assert found["launchers"] == "1"  # the killed engine's own has gone


def test_monitor_killed(findings: dict[str, Any]) -> None:
    found = _of(findings, "monitor_killed")
    assert found["monitor"] == "berth-monitor"
    assert found["processes"] >= 2
    assert not found["left"]
    assert (found["state"]["Status"], found["state"]["ExitCode"]) == ("exited", 137)
    assert not found["group_left"]


def test_user_namespace(findings: dict[str, Any]) -> None:
    found = _of(findings, "user_namespace")
    assert "name=userns" in found["security_options"]
    assert found["uid_map"] == found["gid_map"] == ["0", str(_REMAPPED_FROM), "65536"]
    assert set(found["uid_outside"]) == {str(_REMAPPED_FROM)}
    assert all(found["host"][kind] != found["namespaces"][kind] for kind in found["host"] if kind != "time")
    assert found["label"] == "berth-default (enforce)"
    assert found["memory"] == str(64 * _MEBI)
    assert found["exec"][:3] == ["0", "0", "berth-default (enforce)"]
    assert "permission denied" in found["escape"]
    assert found["terminal"].split() == ["/dev/pts/0", "0"]
    assert found["oom_score"] == "-500"
    assert found["host_mode"]["text"].split() == ["0", "0", "4294967295"]
    for answer in found["refused"]:
        assert answer["status"] == 400
        assert "when user namespaces are enabled" in answer["text"]
    assert not found["group_left"]


def test_files_in_a_user_namespace(findings: dict[str, Any]) -> None:
    found = _of(findings, "user_namespace")
    assert found["text"].split() == ["0:0"] * 5 + ["0"]  # seen as root's
    assert found["layer_owners"] == ["0"]  # and not one of them chowned on disk
    assert found["made_on_disk"] == [_REMAPPED_FROM + 1000, _REMAPPED_FROM]
    for user in ("0", "1000:1000"):
        uid = user.partition(":")[0]
        assert found[f"work_directory of {user}"] == ["/made/here", "0:0", "0:0", uid, "opened again"]
    assert found["exec_again"][:2] == ["1000", "opened again"]


def test_a_volume_has_no_more_than_its_size(findings: dict[str, Any]) -> None:
    found = _of(findings, "volume_limits")
    for name, size_kib in (("small", 1024), ("again", 2048)):
        assert any("Disk quota exceeded" in line or "No space left" in line for line in found[name]), found[name]
        assert int(found[name][-1]) == size_kib, "as df sees it"
    assert found["sizes"]["small"] <= _MEBI
    assert found["sizes"]["large"] == found["sizes"]["free"] == 3 * _MEBI
    assert int(found["large"][-1]) == 8192
    assert found["filled"] == ["4096"]
    assert "passwd" in found["has_content"]
    numbers = [found["projects"][name] for name in ("small", "large", "filled")]
    assert len(set(numbers)) == 3
    assert found["projects"]["free"] == "0"
    assert "0" not in numbers


def test_nothing_is_left(findings: dict[str, Any]) -> None:
    assert findings["engine_exit"] == 0
    assert findings["groups_left"] == []
    assert not findings["parent_group_left"]
    assert "Traceback" not in findings["log"]
