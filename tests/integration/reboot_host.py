"""Runs inside a throw-away machine, which loses its power and is booted again; test_reboot_host.py judges.

    python3 reboot_host.py DIRECTORY before|after    DIRECTORY: as for v2_host.py, and in it `disk`, an ext4 file system

`before` makes containers, writes what it saw to DIRECTORY/before.json and switches the machine off without a sync.
`after` starts an engine on the same data root and writes after.json.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from typing import Any

from v2_host import LOG, Engine, busybox_archive, read, shell

_ROOT = "/root/disk"
_POWER_OFF = 0x4321FEDC  # reboot(2): at once, nothing is written


def _seen(engine: Engine) -> dict[str, dict]:
    """Name -> inspect of every container."""
    found = [engine.inspect(entry["Id"]) for entry in engine.call("GET", "/containers/json?all=1")]
    return {container["Name"][1:]: container for container in found}


def _create(engine: Engine, name: str, command: list[str], **host: object) -> None:
    body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none", **host}}
    engine.call("POST", f"/containers/create?name={name}", body)


def before(engine: Engine) -> dict[str, Any]:
    engine.call("POST", "/images/create?fromSrc=-&repo=busybox", busybox_archive())
    for name in ("always", "unless-stopped", "on-failure", "no"):
        _create(engine, name, ["sleep", "1000"], RestartPolicy={"Name": name})
        engine.call("POST", f"/containers/{name}/start")
    for name, policy in (("stopped", "unless-stopped"), ("stopped-always", "always")):
        _create(engine, name, ["sleep", "1000"], RestartPolicy={"Name": policy})
        engine.call("POST", f"/containers/{name}/start")
        engine.call("POST", f"/containers/{name}/stop?t=0")
    for name in ("removed", "removed-unstarted"):
        _create(engine, name, ["sleep", "1000"], AutoRemove=True)
    engine.call("POST", "/containers/removed/start")
    _create(engine, "ended", ["sh", "-c", "exit 9"])
    engine.call("POST", "/containers/ended/start")
    engine.call("POST", "/containers/ended/wait")
    return {"seen": _seen(engine), "boot": read("/proc/sys/kernel/random/boot_id")}


def after(engine: Engine) -> dict[str, Any]:
    end = time.monotonic() + 60
    wanted = {"always", "unless-stopped", "on-failure", "stopped-always"}
    while time.monotonic() < end and not wanted <= {name for name, c in _seen(engine).items() if c["State"]["Running"]}:
        time.sleep(0.05)
    seen = _seen(engine)
    run = engine.run("echo whole; busybox | head -c 7")
    known = {container["Id"] for container in seen.values()}
    while time.monotonic() < end and not known >= set(os.listdir(f"{_ROOT}/data/containers")):
        time.sleep(0.05)  # files of what was removed go after the answer
    return {
        "seen": seen, "boot": read("/proc/sys/kernel/random/boot_id"), "run": run,
        "directories": sorted(os.listdir(f"{_ROOT}/data/containers")),
        "programs": shell("pgrep", "-c", "-x", "sleep"),
    }  # fmt: skip


def main(directory: str, phase: str) -> None:
    found: dict[str, Any] = {}
    try:
        os.makedirs(_ROOT, exist_ok=True)
        subprocess.run(["modprobe", "loop"], check=True)
        subprocess.run(["mount", "-o", "loop", f"{directory}/disk", _ROOT], check=True)
        engine = Engine(directory, _ROOT)
        if phase == "after":
            found = after(engine)
            engine.process.terminate()
            engine.process.wait()
            subprocess.run(["umount", "-l", _ROOT], check=True)
        else:
            found = before(engine)
    except Exception:
        found["error"] = traceback.format_exc()
    found["log"] = read(LOG)
    with open(f"{directory}/{phase}.json", "w") as file:
        json.dump(found, file)
    if phase == "before":
        fd = os.open(f"{directory}/{phase}.json", os.O_RDONLY)
        os.fsync(fd)  # of this one file, on the shared directory
        ctypes.CDLL(None).reboot(_POWER_OFF)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
