"""Runs inside a throw-away machine (cgroup v2) with another machine's criu, and prints what came of checkpoints and restores.

    python3 v2_checkpoint.py DIRECTORY    with berth's source in DIRECTORY/src, criu and its libraries in DIRECTORY/lib

Looked at through /proc and the cgroup files; test_oci_checkpoint.py judges it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARED = sys.argv[1]
TOP = "/tmp/criu"
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
# Ends with 7 once somebody has made /tmp/end, which only the host can.
UNTIL_TOLD = "while ! [ -e /etc/told/end ]; do sleep 0.1; done; exit 7"


def oci(*words: str, output: str = "", wait: bool = True) -> Any:
    """One verb. output: a file that standard output is appended to through a pipe; standard error goes to a pipe as well then."""
    command = ["python3", "-IS", f"{SHARED}/src/berth/cli/oci/__main__.py", "--root", f"{TOP}/state", "--criu", f"{TOP}/criu", *words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if output:
            # criu takes pipes for pipes; of an open file it demands that it has the same size again.
            pumps = [subprocess.Popen(["sh", "-c", f"exec cat >>{path}"], stdin=subprocess.PIPE) for path in (output, f"{output}.err")]
            process = subprocess.Popen(command, stdout=pumps[0].stdin, stderr=pumps[1].stdin, stdin=subprocess.DEVNULL)
            for pump in pumps:
                assert pump.stdin
                pump.stdin.close()
        else:
            process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        if not wait:
            return process
        code = process.wait(100)
        out.seek(0)
        err.seek(0)
        said = Path(f"{output}.err").read_text() if code and output else ""
        return {"code": code, "out": out.read(), "err": err.read() + said}


def make_criu() -> str:
    """A copy that may be executed; returns what `check` says against it, '' for nothing."""
    os.makedirs(TOP)
    os.chmod(TOP, 0o755)
    shutil.copytree(f"{SHARED}/lib", f"{TOP}/lib")
    shutil.copy(f"{SHARED}/criu", f"{TOP}/criu.real")
    Path(f"{TOP}/criu").write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={TOP}/lib exec {TOP}/criu.real "$@"\n')
    for name in ("criu", "criu.real"):
        os.chmod(f"{TOP}/{name}", 0o755)
    done = subprocess.run([f"{TOP}/criu", "check"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def bundle(name: str, script: str, user: bool) -> str:
    directory = Path(TOP) / name
    (directory / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "rootfs/bin/busybox")
    for applet in ("sh", "cat", "sleep"):
        (directory / "rootfs/bin" / applet).symlink_to("busybox")
    (directory / "told").mkdir()
    (directory / "told/text").write_text("from the host\n")
    kinds = ["pid", "ipc", "uts", "mount", "network", "cgroup", *(["user"] if user else [])]
    maps = [{"containerID": 0, "hostID": 200_000, "size": 65_536}]
    spec = {
        "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "hostname": name,
        "process": {
            "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": True,
            "capabilities": {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/sys", "type": "sysfs", "options": ["ro"]}, {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
            {"destination": "/etc/told", "type": "bind", "source": "told", "options": ["bind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds], "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"], "resources": {"pids": {"limit": 50}},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}]},
            **({"uidMappings": maps, "gidMappings": maps} if user else {}),
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(spec))
    if user:
        subprocess.run(["chown", "-R", "200000:200000", str(directory / "rootfs")], check=True)
    return str(directory)


def numbers(path: str) -> list[int]:
    return [int(line) for line in Path(path).read_text().split()]


def grow(path: str, more: int) -> list[int]:
    """What has been counted, once that is `more` further."""
    start, end = len(numbers(path)) if os.path.exists(path) else 0, time.monotonic() + 60
    while (len(numbers(path)) if os.path.exists(path) else 0) < start + more and time.monotonic() < end:
        time.sleep(0.05)
    return numbers(path)


def confined(pid: int) -> dict[str, str]:
    names = ("Uid", "Groups", "NoNewPrivs", "Seccomp", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: lines[name].strip() for name in names}


def mounted(pid: int) -> list[str]:
    """Place, type, and whether read-only."""
    lines = [line.split(" ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return sorted(f"{fields[4]} {fields[fields.index('-') + 1]} {fields[5].split(',')[0]}" for fields in lines)


def left() -> dict[str, list[str]]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if TOP in line]
    groups = [name for name in ("plain", "user", "pre") if os.path.exists(f"/sys/fs/cgroup/{name}")]
    return {"list": oci("list", "--quiet")["out"].split(), "groups": groups, "mounts": mounts}


def pid_of(name: str) -> int:
    return int(json.loads(oci("state", name)["out"])["pid"])


def whole_way(name: str, user: bool) -> dict[str, Any]:
    directory, output = bundle(name, COUNT, user), f"{TOP}/{name}.out"
    found: dict[str, Any] = {"run": oci("run", "--detach", "--bundle", directory, name, output=output)}
    if found["run"]["code"]:
        raise SystemExit(json.dumps(found))
    grow(output, 5)
    pid = pid_of(name)
    found["confined before"], found["mounts before"] = confined(pid), mounted(pid)
    images = ("--image-path", f"{TOP}/{name}.images", "--work-path", f"{TOP}/{name}.work")
    found["checkpoint"] = oci("checkpoint", *images, name)
    found["counted before"] = numbers(output)
    now = left()
    found["after"] = {"list": now["list"], "groups": now["groups"], "pid": os.path.exists(f"/proc/{pid}")}
    found["restore"] = oci("restore", "--detach", "--bundle", directory, *images, "--pid-file", f"{TOP}/pid", name, output=output)
    if found["restore"]["code"]:
        return found
    found["counted after"] = grow(output, 5)
    pid = int(Path(f"{TOP}/pid").read_text())
    found["confined after"], found["mounts after"] = confined(pid), mounted(pid)
    kinds = ["pid", "ipc", "uts", "mnt", "net", "cgroup", *(["user"] if user else [])]
    found["namespaces"] = [kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")]
    found["cgroup"] = Path(f"/proc/{pid}/cgroup").read_text().strip()
    found["pids.max"] = Path(f"/sys/fs/cgroup/{name}/pids.max").read_text().strip()
    found["exec"] = oci("exec", name, "cat", "/etc/told/text")
    oci("delete", "--force", name)
    found["end"] = left()
    return found


def pre_dump() -> dict[str, Any]:
    directory = bundle("pre", UNTIL_TOLD, False)
    oci("run", "--detach", "--bundle", directory, "pre", output=f"{TOP}/pre.out")
    found = {"pre-dump": oci("checkpoint", "--pre-dump", "--image-path", f"{TOP}/images/pre", "pre")}
    more = ("--parent-path", "../pre", "--image-path", f"{TOP}/images/main", "--leave-running")
    found["leave"] = oci("checkpoint", *more, "pre")
    found["parent"] = os.readlink(f"{TOP}/images/main/parent")
    found["status"] = json.loads(oci("state", "pre")["out"])["status"]
    found["checkpoint"] = oci("checkpoint", "--image-path", f"{TOP}/images/last", "pre")
    restoring = oci("restore", "--bundle", directory, "--image-path", f"{TOP}/images/last", "pre", output=f"{TOP}/pre.out", wait=False)
    Path(f"{directory}/told/end").write_text("")
    found["foreground"] = restoring.wait(100)
    found["end"] = left()
    return found


def main() -> None:
    check = make_criu()
    found: dict[str, Any] = {"check": check}
    if not check:
        found |= {"plain": whole_way("plain", False), "user": whole_way("user", True), "pre-dump": pre_dump()}
    print(json.dumps(found))


main()
