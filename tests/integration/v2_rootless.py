"""Runs inside a throw-away machine (pure cgroup v2) as root: delegates a cgroup to the machine's user, who runs containers.

    python3 v2_rootless.py DIRECTORY    with berth's source in DIRECTORY/src

Prints what the kernel's files say as one JSON object; test_oci_rootless.py judges it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = sys.argv[1]
DELEGATED = Path("/sys/fs/cgroup/delegated")
UID = 1000
TOP = "/home/user/oci"


def oci(*words: str, delegated: bool = True) -> dict[str, Any]:
    """One verb, as the user, below or outside of the delegated group."""
    join = f"echo $$ >{DELEGATED}/shell/cgroup.procs; " if delegated else ""
    command = ["sh", "-c", f'{join}exec "$@"', "sh", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    command += ["env", f"XDG_RUNTIME_DIR={TOP}/run", "python3", "-IS", f"{SHARED}/src/berth/cli/oci/__main__.py", *words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode
        out.seek(0)
        err.seek(0)
        return {"code": code, "out": out.read(), "err": err.read()}


def delegate() -> None:
    """As systemd does it for user@.service: the group and the files that move processes and hand controllers down."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    (DELEGATED / "shell").mkdir(parents=True)
    for directory in (DELEGATED, DELEGATED / "shell"):
        for path in (directory, *(directory / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
            os.chown(path, UID, UID)


def bundle(name: str, args: list[str], ranges: bool, resources: dict[str, Any]) -> str:
    directory = Path(TOP) / name
    for part in ("bin", "proc", "sys", "dev"):
        (directory / "rootfs" / part).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "rootfs/bin/busybox")
    for applet in ("sh", "cat", "sleep", "id"):
        (directory / "rootfs/bin" / applet).symlink_to("busybox")
    maps = [{"containerID": 0, "hostID": UID, "size": 1}, *([{"containerID": 1, "hostID": 100_000, "size": 65_536}] if ranges else [])]
    spec = {
        "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"]},
        "mounts": [
            {"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")],
            "uidMappings": maps, "gidMappings": maps, **({"resources": resources} if resources else {}),
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(spec))
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(directory)], check=True)
    return str(directory)


def read(path: Path) -> str:
    return path.read_text().strip()


def main() -> None:
    delegate()
    for path in (TOP, f"{TOP}/run"):
        os.makedirs(path)
        os.chown(path, UID, UID)
    os.chmod(f"{TOP}/run", 0o700)
    limits = {"pids": {"limit": 33}, "memory": {"limit": 64 << 20}}
    found: dict[str, Any] = {"run": oci("run", "--bundle", bundle("one", ["id", "-u"], False, {}), "one")}
    found["create"] = oci("create", "--bundle", bundle("life", ["sleep", "1000"], True, limits), "life")
    found["start"] = oci("start", "life")
    pid = json.loads(oci("state", "life")["out"] or '{"pid": 0}')["pid"]
    if not pid:
        raise SystemExit(json.dumps(found))
    found["cgroup"] = read(Path(f"/proc/{pid}/cgroup"))
    group = Path("/sys/fs/cgroup") / found["cgroup"].removeprefix("0::/")
    found["limits"] = {name: read(group / name) for name in ("pids.max", "memory.max")}
    found["uid_map"] = [" ".join(line.split()) for line in read(Path(f"/proc/{pid}/uid_map")).splitlines()]
    mounts = [line.split(" ") for line in read(Path(f"/proc/{pid}/mountinfo")).splitlines()]
    found["mounted"] = [fields[fields.index("-") + 1] for fields in mounts if fields[4] == "/sys/fs/cgroup"][-1]
    found["exec"] = oci("exec", "life", "cat", "/proc/self/cgroup")
    found["pause"] = oci("pause", "life")
    found["frozen"] = read(group / "cgroup.freeze")
    found["paused"] = json.loads(oci("state", "life")["out"])["status"]
    found["resume"] = oci("resume", "life")
    found["update"] = oci("update", "--pids-limit", "44", "life")
    found["updated"] = read(group / "pids.max")
    found["delete"] = oci("delete", "--force", "life")
    found["not delegated"] = oci("run", "--bundle", bundle("outside", ["id"], False, limits), "outside", delegated=False)
    found["left"] = sorted(entry.name for entry in DELEGATED.iterdir() if entry.is_dir() and entry.name != "shell")
    print(json.dumps(found))


main()
