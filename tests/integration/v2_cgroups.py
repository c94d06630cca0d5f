"""Runs inside a throw-away machine with cgroup v2 alone and prints findings as one JSON object.

    python3 v2_cgroups.py SOURCE    with berth's source in SOURCE

Nothing is judged here; test_cgroups_direct.py does that. A feature that fails has its traceback as `error`.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

from berth import errors
from berth.linux import cgroup, cgroup_base, cgroup_stats, cgroup_v2, libc

MEBI = 1 << 20
TOP = "/sys/fs/cgroup"
HOSTS = cgroup.hierarchies()
DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
ZERO = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}


def text(group: cgroup.Cgroup, file: str) -> str:
    return Path(f"{TOP}{group.path}/{file}").read_text().strip()


def make(name: str, resources: dict | None = None) -> cgroup.Cgroup:
    group = cgroup.open_cgroup(f"/direct/{name}", HOSTS)
    group.create()
    group.apply(resources or {})
    return group


def again(group: cgroup.Cgroup) -> cgroup.Cgroup:
    return cgroup.reopen(json.loads(json.dumps(group.saved())), HOSTS)


def start(group: cgroup.Cgroup | None, *command: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command or ["sleep", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if group:
        group.add(process.pid)
    return process


def end(group: cgroup.Cgroup) -> bool:
    group.kill()
    deadline = time.monotonic() + 60
    while not group.remove():
        if time.monotonic() > deadline:
            return False
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
    return True


def failure(group: cgroup.Cgroup, resources: dict) -> str:
    try:
        group.apply(resources)
    except errors.BerthError as error:
        return str(error)
    return "no error"


def disk() -> str:
    for line in Path("/proc/diskstats").read_text().splitlines():
        major, minor, name = line.split()[:3]
        if not name.startswith(("loop", "ram", "zram")):
            return f"{major}:{minor}"
    return ""


def resources() -> dict:
    number = disk()
    major, minor = (int(part) for part in number.split(":"))
    device = {"major": major, "minor": minor}
    group = make("resources", {
        "memory": {"limit": 64 * MEBI, "swap": 96 * MEBI, "reservation": MEBI},
        "cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 10000},
        "pids": {"limit": 17}, "unified": {"memory.high": str(48 * MEBI), "cgroup.max.depth": "5"},
        "blockIO": {"throttleReadBpsDevice": [{**device, "rate": 11}], "throttleWriteBpsDevice": [{**device, "rate": 12}],
                    "throttleReadIOPSDevice": [{**device, "rate": 13}], "throttleWriteIOPSDevice": [{**device, "rate": 14}]},
    })  # fmt: skip
    names = ("memory.max", "memory.swap.max", "memory.low", "memory.high", "cpu.weight", "cpu.max", "cpu.max.burst", "pids.max",
             "cgroup.max.depth", "io.max")  # fmt: skip
    found = {"disk": number, "files": {name: text(group, name) for name in names}}
    end(group)
    return found


def updates() -> dict:
    made = make("updates", {"cpu": {"quota": 50000, "period": 200000}, "memory": {"limit": 64 * MEBI, "swap": 96 * MEBI}})
    process = start(made, "python3", "-c", "import sys; x = b'x' * (24 << 20); print('full', flush=True); sys.stdin.read()")
    assert process.stdout
    process.stdout.readline()
    group, found = again(made), {}
    group.apply({"cpu": {"period": 100000}})
    found["period alone"] = text(group, "cpu.max")
    group.apply({"cpu": {"quota": 20000}})
    found["quota alone"] = text(group, "cpu.max")
    group.apply({"cpu": {"burst": 20000}})
    group.apply({"cpu": {"quota": 10000, "burst": 5000}})
    found["less quota and burst"] = [text(group, "cpu.max"), text(group, "cpu.max.burst")]
    group.apply({"cpu": {"quota": -1}})
    found["unlimited"] = text(group, "cpu.max")
    group.apply({"memory": {"limit": 128 * MEBI, "swap": 192 * MEBI}})
    found["memory up"] = [text(group, "memory.max"), text(group, "memory.swap.max")]
    group.apply({"memory": {"swap": 130 * MEBI}})
    found["swap alone"] = [text(group, "memory.max"), text(group, "memory.swap.max")]
    found["checked"] = failure(group, {"memory": {"limit": 8 * MEBI, "checkBeforeUpdate": True}})
    group.apply({"memory": {"limit": -1}})
    found["memory unlimited"] = [text(group, "memory.max"), text(group, "memory.swap.max")]
    if os.path.exists(f"{TOP}{group.path}/cpu.idle"):
        group.apply({"cpu": {"idle": 1}})
        idle = text(group, "cpu.idle")
        group.apply({"cpu": {"idle": 0, "shares": 512}})
        found["idle"] = [idle, text(group, "cpu.idle"), text(group, "cpu.weight")]
    end(group)
    return found


def lacking() -> dict:
    group = make("lacking")
    wanted: dict[str, dict] = {
        "network": {"network": {"classID": 5}}, "unified": {"unified": {"nosuch.file": "1"}},
        "file": {"unified": {"memory.nosuch": "1"}}, "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
        "rdma": {"rdma": {"mlx5_1": {"hcaHandles": 3}}},
    }  # fmt: skip
    found = {name: failure(group, limits) for name, limits in wanted.items()}
    end(group)
    return found


def programs(group: cgroup.Cgroup) -> int:
    fd = os.open(f"{TOP}{group.path}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return len(libc.bpf_query(fd)[1])
    finally:
        os.close(fd)


def tried(group: cgroup.Cgroup) -> dict:
    script = (
        "input(); import os\n"
        "for name in ('null', 'zero'):\n"
        "    try: os.close(os.open('/dev/' + name, os.O_RDONLY)); print('fine')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    process = start(group, "python3", "-c", script)
    null, zero = process.communicate(b"go\n")[0].decode().splitlines()
    return {"null": null, "zero": zero}


def devices() -> dict:
    made = make("devices", {"devices": [DENY_ALL, NULL]})
    group, counts = again(made), [programs(made)]
    found: dict[str, Any] = {"first": tried(group)}
    for rules in ([DENY_ALL, NULL], [DENY_ALL, ZERO], [DENY_ALL, ZERO]):
        group.apply({"devices": rules})
        counts.append(programs(group))
    found |= {"programs": counts, "second": tried(group)}
    cgroup_v2.attach_device_filter(group.directories[0], [DENY_ALL])  # another manager's beside ours
    found["two attached"] = programs(group)
    group.apply({"devices": [{"allow": True}]})
    found |= {"both replaced": programs(group), "everything": tried(group)}
    end(group)
    return found


def freezing() -> dict:
    group = make("freezing")
    process = start(group, "sh", "-c", "while :; do /bin/true; done")
    group.freeze(True)
    found: dict[str, Any] = {"frozen": [group.frozen(), text(group, "cgroup.freeze"), "frozen 1" in text(group, "cgroup.events")]}
    try:
        again(group).create()
    except errors.Conflict as error:
        found["create"] = str(error)
    group.freeze(False)
    found["thawed"] = [group.frozen(), text(group, "cgroup.freeze")]
    below = make("freezing/below")
    start(below)
    group.freeze(True)
    patience, cgroup_base.FREEZE_S = cgroup_base.FREEZE_S, 0.05
    try:
        below.freeze(False)
    except errors.SystemFailure as error:
        found["parent"] = str(error)
    cgroup_base.FREEZE_S = patience
    group.kill()
    found["killed"] = process.wait(60)
    end(group)
    return found


class WithoutKill(cgroup.CgroupV2):
    """As before Linux 5.14."""

    kill = cgroup.Cgroup.kill


def hostile() -> dict:
    found: dict[str, Any] = {}
    for way, kind in (("with cgroup.kill", cgroup.CgroupV2), ("without cgroup.kill", WithoutKill)):
        group = kind(f"/direct/hostile-{len(way)}", HOSTS)
        group.create()
        processes = [start(group) for _ in range(4)]
        directory = group.directory
        for process, below in zip(processes[1:], ("a b", "a b/..%2f", "a b/..%2f/é"), strict=True):
            os.mkdir(f"{directory}/{below}")
            Path(f"{directory}/{below}/cgroup.procs").write_text(str(process.pid))
        Path(f"{directory}/a b/..%2f/cgroup.freeze").write_text("1")
        found["started"], found["seen"] = sorted(process.pid for process in processes), sorted(group.pids())
        group.kill()
        found[way] = [process.wait(60) for process in processes]
        end(group)
        found.setdefault("left", []).extend([directory] if os.path.exists(directory) else [])
    return found


THREADS = """
import os, sys, threading
def work():
    print(threading.get_native_id(), flush=True)
    threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
sys.stdin.read()
"""


def threaded() -> dict:
    """The container makes its group threaded, so that it does not tell processes any more."""
    top = f"{TOP}/threads"
    os.mkdir(top)  # below the root, which hands down domain controllers; this one does not
    group = WithoutKill("/threads/c", HOSTS)
    os.mkdir(group.directory)
    process = start(None, "python3", "-c", THREADS)
    assert process.stdout
    thread = process.stdout.readline().decode().strip()
    Path(f"{group.directory}/cgroup.type").write_text("threaded")
    Path(f"{top}/cgroup.procs").write_text(str(process.pid))
    for number in (thread, str(process.pid)):
        Path(f"{group.directory}/cgroup.threads").write_text(number)
    found = {"type": text(group, "cgroup.type"), "seen": group.pids() == [process.pid]}
    group.kill()
    found["killed"] = process.wait(60)
    found["removed"] = end(group)
    os.rmdir(top)
    return found


def inner() -> dict:
    """An init system in the container moves itself down and hands controllers to what is below."""
    group = make("inner")
    process = start(group)
    os.mkdir(f"{TOP}{group.path}/init")
    Path(f"{TOP}{group.path}/init/cgroup.procs").write_text(str(process.pid))
    Path(f"{TOP}{group.path}/cgroup.subtree_control").write_text("+pids")
    other, found = start(None), {}
    try:
        group.add(other.pid)
    except errors.SystemFailure as error:
        found["refused"] = str(error)
    group.add(other.pid, beside=process.pid)
    found["beside"] = Path(f"/proc/{other.pid}/cgroup").read_text().strip()
    end(group)
    return found


AS_NOBODY = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from berth import errors
from berth.linux import cgroup
input()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
group = cgroup.open_cgroup("/mine", cgroup.hierarchies(), rootless=True)
group.create()
found = {"directories": group.directories}
try:
    group.apply({"devices": [{"allow": False}, {"allow": True, "type": "c"}], "pids": {"limit": 23}})
    group.add(os.getpid())
    found["own"] = open("/proc/self/cgroup").read().strip()
    found["pids.max"] = open(group.directories[0] + "/pids.max").read().strip()
except errors.BerthError as error:
    found["error"] = str(error)
print(json.dumps(found), flush=True)
"""


def delegation() -> dict:
    found = {}
    for name in ("delegated", "alone"):
        user = cgroup.open_cgroup("/user", HOSTS)
        user.create()
        session = cgroup.open_cgroup("/user/session", HOSTS)
        session.create()
        process = start(session, "python3", "-c", AS_NOBODY, sys.argv[1])
        if name == "delegated":
            for directory in ("/user", "/user/session"):
                for file in ("", "/cgroup.procs", "/cgroup.subtree_control"):
                    os.chown(f"{TOP}{directory}{file}", 65534, 65534)
        found[name] = json.loads(process.communicate(b"go\n")[0])
        end(user)
    return found


def statistics() -> dict:
    group = make("statistics", {"memory": {"limit": 64 * MEBI, "swap": 96 * MEBI}, "pids": {"limit": 17}})
    script = "import sys; input(); x = b'x' * (8 << 20); sum(range(3_000_000)); print('full', flush=True); sys.stdin.read()"
    process = start(group, "python3", "-c", script)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"go\n")
    process.stdin.flush()
    process.stdout.readline()
    found = {"data": cgroup_stats.stats(group)}
    end(group)
    return found


def out_of_memory() -> dict:
    group = make("oom", {"memory": {"limit": 16 * MEBI, "swap": 16 * MEBI}})
    process = start(group, "sh", "-c", "read x; python3 -c 'b\"x\" * (100 << 20)'; read y")
    with cgroup_stats.oom_notifier(group) as notifier:
        poll = select.poll()
        poll.register(notifier, select.POLLIN)
        found: dict[str, Any] = {"before": notifier.read()}
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        events = 0
        while events == 0 and poll.poll(20_000):
            events = notifier.read() or 0
        found |= {"events": events, "kills": group.oom_kills()}
        process.send_signal(signal.SIGKILL)
        process.wait()
        last: int | None = -1
        while poll.poll(20_000):
            last = notifier.read()
            if last is None:
                break
        found["ended"] = last
    end(group)
    return found


def main() -> None:
    findings: dict[str, Any] = {"controllers": HOSTS.controllers()}
    features = (resources, updates, lacking, devices, freezing, hostile, threaded, inner, delegation, statistics, out_of_memory)
    for feature in features:
        try:
            findings[feature.__name__] = feature()
        except Exception:
            findings[feature.__name__] = {"error": traceback.format_exc()}
    cgroup.open_cgroup("/direct", HOSTS).remove()
    findings["left"] = [name for name in ("direct", "user", "threads") if os.path.exists(f"{TOP}/{name}")]
    print(json.dumps(findings))


if __name__ == "__main__":
    main()
