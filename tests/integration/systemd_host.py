"""Runs inside a throw-away machine that systemd has booted and prints findings as one JSON object.

    python3 systemd_host.py DIRECTORY    with berth's source in DIRECTORY/src

The driver is used as the runtime uses it and looked at with systemctl, systemd-cgls and the cgroup files.
Nothing is judged here; test_systemd_host.py does that. A feature that fails has its traceback as `error`.
"""

import contextlib
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, f"{sys.argv[1]}/src")

from service_host import service

from berth.errors import BerthError
from berth.linux import cgroup, cgroup_systemd, dbus

MEBI = 1 << 20
USER = 1000
RUNTIME = f"/run/user/{USER}"
RESOURCES = {
    "memory": {"limit": 64 * MEBI, "swap": 96 * MEBI, "reservation": 32 * MEBI},
    "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0"},
    "pids": {"limit": 17},
    "devices": [
        {"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
    ],
    "unified": {"memory.high": str(48 * MEBI)},
}  # fmt: skip
FILES = ("memory.max", "memory.swap.max", "memory.low", "memory.high", "cpu.weight", "cpu.max", "pids.max", "cpuset.cpus")
SHOWN = (
    "LoadState", "ActiveState", "Description", "Slice", "ControlGroup", "Delegate", "MemoryMax", "MemoryLow", "MemoryHigh",
    "MemorySwapMax", "CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "TasksMax", "DevicePolicy", "DeviceAllow",
    "MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting", "DefaultDependencies", "AllowedCPUs",
    "TimeoutStopUSec", "CollectMode",
)  # fmt: skip


def read(path: str) -> str:
    with contextlib.suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""


def run(*command: str, user: bool = False) -> str:
    if user:
        prefix = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "env", f"XDG_RUNTIME_DIR={RUNTIME}"]
        command = (*prefix, *command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def show(unit: str, *flags: str) -> dict[str, str]:
    """What systemctl says of a unit."""
    lines = run("systemctl", *flags, "show", unit, "-p", ",".join(SHOWN)).splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def files(path: str) -> dict[str, str]:
    return {name: read(f"/sys/fs/cgroup{path}/{name}") for name in FILES}


def group_of(pid: int) -> str:
    return read(f"/proc/{pid}/cgroup").removeprefix("0::")


def units() -> str:
    return run("systemctl", "list-units", "--all", "--plain", "--no-legend", "berth*")


def hosts() -> cgroup.Hierarchies:
    return cgroup.hierarchies()


def refusal(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except BerthError as error:
        return [type(error).__name__, str(error)]
    return []


@contextlib.contextmanager
def child(script: str = "read line") -> Iterator[subprocess.Popen[str]]:
    """A program that waits for a line, and is ended at last."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def started(path: str, pid: int, resources: dict | None = None, **options: Any) -> cgroup.Cgroup:
    group = cgroup_systemd.open_cgroup(path, hosts(), **options)
    group.create()
    group.apply(resources or {})
    group.add(pid)
    return group


def ended(group: cgroup.Cgroup, process: subprocess.Popen[str]) -> bool:
    """Kills and removes; whether nothing is left."""
    group.kill()
    process.wait(60)
    end = time.monotonic() + 60
    while not group.remove() and time.monotonic() < end:
        time.sleep(0.01)
    return not group.exists()


def scope() -> dict:
    tries = "read line; for at in null zero full; do head -c 1 /dev/$at >/dev/null && echo $at; done; read line"
    with child(tries) as process, child() as joining, child() as reopening:
        began = time.monotonic()
        group = started("system.slice:berth:one", process.pid, RESOURCES)
        found: dict[str, Any] = {"milliseconds": round((time.monotonic() - began) * 1000, 1)}
        path = group.path
        found |= {"path": path, "group": group_of(process.pid), "show": show("berth-one.scope"), "files": files(path)}
        found["listed"] = run("systemd-cgls", "--no-pager", "-l", "--unit", "berth-one.scope")
        found["pid"], found["pids"] = process.pid, group.pids()
        run("systemctl", "daemon-reload")
        found["reloaded"] = files(path)
        cgroup_systemd.open_cgroup("system.slice:berth:one", hosts()).add(joining.pid)
        cgroup_systemd.open_cgroup(path, hosts()).add(reopening.pid)
        found["joined"] = [group_of(joining.pid), group_of(reopening.pid)]
        found["conflict"] = refusal(lambda: started("system.slice:berth:one", os.getpid()))
        other = cgroup_systemd.open_cgroup("system.slice:berth:one", hosts())
        other.create()
        found["conflict again"] = refusal(lambda: other.add(os.getpid()))
        other.kill()
        found["other removes"] = [other.remove(), process.poll() is None]
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        found["devices"] = [process.stdout.readline().strip() for _ in range(3)]  # type: ignore[union-attr]
        group.freeze(True)
        found["frozen"] = read(f"/sys/fs/cgroup{path}/cgroup.events").split("\n")[-1]
        group.freeze(False)
        update = {"memory": {"limit": 32 * MEBI}, "cpu": {"quota": 30_000}, "pids": {"limit": 9}}
        cgroup_systemd.open_cgroup(path, hosts()).apply(update)
        found["updated"] = {"show": show("berth-one.scope"), "files": files(path)}
        run("systemctl", "daemon-reload")
        found["updated"]["reloaded"] = files(path)
        found["removed early"] = group.remove()
        joining.kill(), reopening.kill()
        joining.wait(), reopening.wait()
        found["ended"] = ended(group, process)
        found["left"] = [show("berth-one.scope")["LoadState"], units(), os.path.exists(f"/sys/fs/cgroup{path}")]
    return found


def names() -> dict:
    found: dict[str, Any] = {}
    for path in ("p-q.slice:berth:deep", ":berth:default", "-.slice:berth:root"):
        with child() as process:
            group = started(path, process.pid)
            found[path] = [group.path, group_of(process.pid), ended(group, process)]
    with child() as process:
        group = started("tried.slice:ignored:tried-one.slice", process.pid, {"pids": {"limit": 5}})
        shown = show("tried-one.slice")
        found["slice"] = [group.path, group_of(process.pid), shown["TasksMax"], files(group.path)["pids.max"]]
        found["slice ended"] = ended(group, process)
    return found


def again_after_failure() -> dict:
    run("systemd-run", "--scope", "--unit=berth-two", "-p", "RuntimeMaxSec=100ms", "sleep", "100")
    end = time.monotonic() + 60
    while show("berth-two.scope")["ActiveState"] != "failed" and time.monotonic() < end:
        time.sleep(0.05)
    before = show("berth-two.scope")["ActiveState"]
    with child() as process:
        group = started(":berth:two", process.pid)
        return {
            "before": before,
            "during": show("berth-two.scope")["ActiveState"],
            "ended": ended(group, process),
            "left": show("berth-two.scope")["LoadState"],
        }


def refused() -> dict:
    with child() as process:
        process.kill()
        process.wait()
        group = cgroup_systemd.open_cgroup(":berth:dead", hosts())
        group.create()
        dead = refusal(lambda: group.add(process.pid))
    return {"dead": dead, "removed": group.remove(), "left": show("berth-dead.scope")["LoadState"]}


def annotated() -> dict:
    annotations = {"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.CollectMode": "'inactive-or-failed'"}
    with child() as process:
        group = started(":berth:noted", process.pid, annotations=annotations)
        return {"show": show("berth-noted.scope"), "ended": ended(group, process)}


@contextlib.contextmanager
def only(addresses: list[tuple[str, bool]]) -> Iterator[None]:
    """The driver knows these addresses alone."""
    before = cgroup_systemd.addresses
    cgroup_systemd.addresses = lambda *, rootless=False: addresses
    try:
        yield
    finally:
        cgroup_systemd.addresses = before


def over_the_bus() -> dict:
    with only([("/run/dbus/system_bus_socket", True)]), child() as process:
        began = time.monotonic()
        group = started(":berth:bus", process.pid, RESOURCES)
        took = round((time.monotonic() - began) * 1000, 1)
        found = {
            "milliseconds": took,
            "group": group_of(process.pid),
            "show": show("berth-bus.scope"),
            "files": files(group.path),
        }
        return {**found, "ended": ended(group, process), "left": show("berth-bus.scope")["LoadState"]}


def speed() -> dict:
    """Whole starts and ends, and our own processor time in them."""
    walls, own = [], []
    for _ in range(10):
        with child() as process:
            began, used = time.monotonic(), time.process_time()
            group = started(":berth:fast", process.pid, RESOURCES)
            own.append((time.process_time() - used) * 1000)
            walls.append((time.monotonic() - began) * 1000)
            ended(group, process)
    return {"wall_ms": sorted(round(x, 2) for x in walls), "own_ms": sorted(round(x, 2) for x in own)}


def as_user(action: Callable[[], dict]) -> dict:
    """Runs it in a process of the user's."""
    faulthandler.cancel_dump_traceback_later()  # its thread, which a fork should not meet
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(100, exit=True)
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            os.environ["XDG_RUNTIME_DIR"] = RUNTIME
            text = json.dumps(action())
        except BaseException:
            text = json.dumps({"error": traceback.format_exc()})
        with open(there, "w") as file:
            file.write(text)
        os._exit(0)
    os.close(there)
    with open(here) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text))


def one_of_the_user() -> dict:
    limits = {"memory": {"limit": 64 * MEBI}, "pids": {"limit": 17}, "devices": RESOURCES["devices"]}
    with child() as process, child() as joining:
        group = started(":berth:mine", process.pid, limits, rootless=True)
        found: dict[str, Any] = {"path": group.path, "group": group_of(process.pid), "files": files(group.path)}
        found["show"] = show("berth-mine.scope", "--user")
        other = cgroup_systemd.open_cgroup(":berth:mine", hosts(), rootless=True)
        other.add(joining.pid)
        found["joined"] = [other.path, group_of(joining.pid)]
        other.apply({"pids": {"limit": 9}})
        found["updated"] = files(group.path)["pids.max"]
        joining.kill()
        joining.wait()
        found["ended"] = ended(group, process)
        found["left"] = [
            os.path.exists(f"/sys/fs/cgroup{group.path}"),
            run("systemctl", "--user", "list-units", "--all", "--no-legend", "berth*"),
        ]
        return found


def user() -> dict:
    # The image has no pam_systemd, which would tell the user's systemd where its directory is.
    os.makedirs("/etc/systemd/system/user@.service.d", exist_ok=True)
    with open("/etc/systemd/system/user@.service.d/runtime.conf", "w") as file:
        file.write("[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n")
    run("systemctl", "daemon-reload")
    nobody = as_user(lambda: {"refused": refusal(lambda: started(":berth:none", os.getpid(), rootless=True))})
    run("systemctl", "start", f"user@{USER}.service")
    return {"without": nobody, **as_user(one_of_the_user)}


def user_over_the_bus() -> dict:
    # What the package dbus-user-session would bring; systemd goes to no bus but that of these units.
    with open("/etc/systemd/user/dbus.socket", "w") as file:
        file.write("[Socket]\nListenStream=%t/bus\n")
    with open("/etc/systemd/user/dbus.service", "w") as file:
        daemon = "/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile --systemd-activation"
        file.write(f"[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nExecStart={daemon}\n")
    run("systemctl", "--user", "daemon-reload", user=True)
    run("systemctl", "--user", "start", "dbus.socket", "dbus.service", user=True)

    def action() -> dict:
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={RUNTIME}/bus"
        bus, end = "org.freedesktop.DBus", time.monotonic() + 60
        with dbus.connect([(f"{RUNTIME}/bus", True)]) as peer:
            while time.monotonic() < end:
                asked = peer.send(
                    "/org/freedesktop/DBus", bus, "NameHasOwner", "s", ("org.freedesktop.systemd1",), destination=bus
                )
                if peer.reply(asked)[0]:
                    break
        with only([pair for pair in cgroup_systemd.addresses(rootless=True) if pair[1]]):
            return one_of_the_user()

    return as_user(action)


def without_systemd() -> dict:
    os.rename("/run/systemd/system", "/run/systemd/hidden")
    try:
        return {"refused": refusal(lambda: started(":berth:none", os.getpid()))}
    finally:
        os.rename("/run/systemd/hidden", "/run/systemd/system")


def oci(*words: str) -> dict[str, Any]:
    """One verb of berth-oci with the systemd manager. Into files: what a container inherits would hold a pipe open."""
    command = ["python3", "-IS", f"{sys.argv[1]}/src/berth/cli/oci/__main__.py", "--systemd-cgroup", *words]
    with tempfile.TemporaryFile("w+") as out:
        code = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False).returncode
        out.seek(0)
        return {"code": code, "text": out.read().strip()}


def whole_container() -> dict:
    """A container of berth-oci from create to delete, as Podman and containerd would have it with this manager."""
    with tempfile.TemporaryDirectory() as bundle:
        os.makedirs(f"{bundle}/rootfs/bin")
        for part in ("proc", "dev"):
            os.mkdir(f"{bundle}/rootfs/{part}")
        shutil.copy("/bin/busybox", f"{bundle}/rootfs/bin/busybox")
        namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
        spec = {
            "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc"}],
            "process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/", "env": []},
            "linux": {"namespaces": namespaces, "cgroupsPath": "system.slice:berth:whole",
                      "resources": {"memory": {"limit": 64 * MEBI}, "pids": {"limit": 20}}},
        }  # fmt: skip
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(spec, file)
        found: dict[str, Any] = {"create": oci("create", "-b", bundle, "--pid-file", f"{bundle}/pid", "whole")}
        pid = int(read(f"{bundle}/pid") or 0)
        found |= {"group": group_of(pid), "shown": show("berth-whole.scope"), "start": oci("start", "whole")}
        found["program"] = read(f"/proc/{pid}/comm")
        oci("exec", "-d", "--pid-file", f"{bundle}/exec", "whole", "/bin/busybox", "sleep", "999")
        found["exec_group"] = group_of(int(read(f"{bundle}/exec") or 0))
        found["update"] = oci("update", "--memory", "128m", "whole")
        found["updated"] = show("berth-whole.scope")["MemoryMax"]
        found["delete"] = oci("delete", "--force", "whole")
        return found | {"left": units(), "gone": not os.path.exists(f"/proc/{pid}")}


FEATURES: tuple[Callable[[], dict], ...] = (
    scope, names, again_after_failure, refused, annotated, over_the_bus, speed, whole_container, user, user_over_the_bus,
    without_systemd, service,
)  # fmt: skip


def main(chosen: list[str]) -> None:
    findings: dict[str, Any] = {"seconds": {}, "version": run("systemctl", "--version").split()[1]}
    for feature in FEATURES:
        if chosen and feature.__name__ not in chosen:
            continue
        began = time.monotonic()
        print(feature.__name__, file=sys.stderr, flush=True)  # seen if the machine has to be ended
        faulthandler.dump_traceback_later(300, exit=True)
        try:
            findings[feature.__name__] = feature()
        except Exception:
            findings[feature.__name__] = {"error": traceback.format_exc()}
        findings["seconds"][feature.__name__] = round(time.monotonic() - began, 1)
    print(json.dumps(findings))


if __name__ == "__main__":
    main(sys.argv[2:])
