"""Runs inside a throw-away machine (pure cgroup v2, AppArmor) and prints what berth-oci's containers look like there.

    python3 v2_oci.py DIRECTORY    with berth's source in DIRECTORY/src

Looked at with cgroup files, /proc and apparmor_parser. Nothing is judged here; test_oci_v2.py does that.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

SHARED = sys.argv[1]
GROUPS = Path("/sys/fs/cgroup")
PROFILE = "profile berth-test flags=(attach_disconnected) { file, signal, capability, deny /etc/secret r, }\n"


def oci(*words: str) -> dict[str, Any]:
    """One verb. Into files and not pipes: what a created container inherits would be held open by it."""
    command = ["python3", "-IS", f"{SHARED}/src/berth/cli/oci/__main__.py", "--root", "/run/oci-test", *words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode
        out.seek(0)
        err.seek(0)
        return {"code": code, "out": out.read(), "err": err.read()}


def read(path: object) -> str:
    try:
        return Path(str(path)).read_text().strip()
    except OSError as error:
        return f"({error.strerror})"


def bundle(top: str, name: str, args: list[str], **more: Any) -> str:
    """A bundle of the static busybox; `more`: fields of process, or linux as a whole."""
    directory = Path(top) / name
    for part in ("bin", "proc", "sys", "dev", "etc"):
        (directory / "rootfs" / part).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "rootfs/bin/busybox")
    for applet in ("sh", "cat", "sleep", "true", "ls", "mount"):
        (directory / "rootfs/bin" / applet).symlink_to("busybox")
    (directory / "rootfs/etc/secret").write_text("secret\n")
    linux = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "cgroupsPath": f"/oci/{name}", "resources": {"devices": [{"allow": False}], **more.pop("resources", {})},
    }  # fmt: skip
    spec = {
        "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "linux": linux,
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], **more},
        "mounts": [
            {"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"}, {"destination": "/sys", "type": "sysfs"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ],
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(spec))
    return str(directory)


def to_the_end(top: str) -> dict:
    script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; exit 7"
    return {"run": oci("run", "-b", bundle(top, "end", ["/bin/sh", "-c", script]), "end"), "left": (GROUPS / "oci/end").exists()}


def a_life(top: str) -> dict:
    limits = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}}
    found: dict[str, Any] = {"create": oci("create", "-b", bundle(top, "life", ["/bin/sleep", "1000"], resources=limits), "--pid-file", f"{top}/pid", "life")}
    group = GROUPS / "oci/life"
    pid = int(read(f"{top}/pid"))
    found["created"] = json.loads(oci("state", "life")["out"])["status"]
    found["procs"] = read(group / "cgroup.procs") == str(pid)
    found["executes"] = os.readlink(f"/proc/{pid}/exe")
    found["start"] = oci("start", "life")
    found["files"] = {name: read(group / name) for name in ("memory.max", "pids.max", "cpu.weight", "cpu.max")}
    found["program"] = read(f"/proc/{pid}/comm")
    found["exec"] = oci("exec", "life", "/bin/cat", "/proc/self/cgroup")
    found["exec_outside"] = exec_group()
    found["pause"] = oci("pause", "life")
    found["frozen"] = read(group / "cgroup.events")
    found["exec_paused"] = oci("exec", "life", "/bin/true")
    found["paused"] = json.loads(oci("state", "life")["out"])["status"]
    found["resume"] = oci("resume", "life")
    found["update"] = oci("update", "--memory", "128m", "--pids-limit", "7", "--cpu-share", "1024", "life")
    found["updated"] = {name: read(group / name) for name in ("memory.max", "pids.max", "cpu.weight", "cpu.max")}
    found["events"] = oci("events", "--stats", "life")
    found["ps"] = oci("ps", "--format", "json", "life")
    found["delete_running"] = oci("delete", "life")
    found["kill"] = oci("kill", "life", "KILL")
    gone(pid)
    found["stopped"] = json.loads(oci("state", "life")["out"])["status"]
    found["delete"] = oci("delete", "life")
    found["left"] = group.exists()
    return {**found, "pid": pid}


def exec_group() -> str:
    """Which group a program that was exec'd is in, as the host sees it."""
    oci("exec", "--detach", "--pid-file", "/tmp/exec.pid", "life", "/bin/sleep", "999")
    return read(f"/proc/{read('/tmp/exec.pid')}/cgroup")


def gone(pid: int) -> None:
    pidfd = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else -1
    deadline = time.monotonic() + 60
    while pidfd >= 0 and read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"]) and time.monotonic() < deadline:
        time.sleep(0.02)


def apparmor(top: str) -> dict:
    Path("/tmp/profile").write_text(PROFILE)
    subprocess.run(["apparmor_parser", "-r", "/tmp/profile"], check=True)
    script = "cat /proc/self/attr/current; cat /etc/secret"
    found = {"run": oci("run", "-b", bundle(top, "aa", ["/bin/sh", "-c", script], apparmorProfile="berth-test"), "aa")}
    found["unknown"] = oci("run", "-b", bundle(top, "aa2", ["/bin/true"], apparmorProfile="no-such-profile"), "aa2")
    found["list"] = oci("list", "-q")
    return found


def refused(top: str) -> dict:
    """What v2 does not have; nothing may be left."""
    resources = {"network": {"classID": 7}}
    found = {"network": oci("run", "-b", bundle(top, "net", ["/bin/true"], resources=resources), "net")}
    found["unified"] = oci("run", "-b", bundle(top, "uni", ["/bin/true"], resources={"unified": {"nope.max": "1"}}), "uni")
    found["groups"] = sorted(path.name for path in (GROUPS / "oci").iterdir() if path.is_dir())
    return found


def main() -> None:
    findings: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        for feature in (to_the_end, a_life, apparmor, refused):
            try:
                findings[feature.__name__] = feature(top)
            except Exception:
                findings[feature.__name__] = {"error": traceback.format_exc()}
    print(json.dumps(findings))


if __name__ == "__main__":
    main()
