"""Runs inside a throw-away machine (pure cgroup v2, AppArmor) and prints findings as one JSON object.

    python3 v2_host.py DIRECTORY    with berth's source in DIRECTORY/src and its wheels in DIRECTORY/wheels

The engine is driven through its API and looked at with other tools: cgroup files, /proc, nsenter.
Nothing is judged here; test_host_v2.py does that. A feature that fails has its traceback as `error`.
"""

import contextlib
import http.client
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

MEBI = 1 << 20
LOG = "/root/engine.log"
SLEEP = ["sleep", "1000"]
REMAPPED_FROM = 200_000
_EVERYTHING_BUT_APPARMOR = ["seccomp=unconfined", "systempaths=unconfined"]


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Engine:
    """One engine process with roots of its own."""

    def __init__(self, shared: str, root: str, *flags: str) -> None:
        self.shared, self.root, self.flags = shared, root, flags
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        ready, ready_write = os.pipe()
        command = [sys.executable, "-m", "berth.cli.engine_main", "--data-root", f"{self.root}/data"]
        command += ["--exec-root", f"{self.root}/exec", "--ready-fd", str(ready_write), "--bridge", "none", *self.flags]
        environment = {**os.environ, "PYTHONPATH": f"{self.shared}/src:{self.shared}/wheels", "PYTHONDONTWRITEBYTECODE": "1"}
        with open(LOG, "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, pass_fds=[ready_write])
        os.close(ready_write)
        select.select([ready], [], [], 60)
        assert os.read(ready, 64) == b"ready\n", "the engine does not become ready"
        os.close(ready)

    def raw(self, method: str, path: str, body: bytes | dict | None = None) -> tuple[int, bytes]:
        connection = Connection(f"{self.root}/exec/berth.sock")
        headers = {"Content-Type": "application/json" if isinstance(body, dict) else "application/x-tar"}
        connection.request(method, path, json.dumps(body).encode() if isinstance(body, dict) else body, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def call(self, method: str, path: str, body: bytes | dict | None = None) -> Any:
        status, data = self.raw(method, path, body)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {data!r}")
        return json.loads(data) if data.strip() and not path.startswith("/images/create") else None

    def create(self, command: list[str], **host: object) -> str:
        body = {"Image": "busybox", "Cmd": command, "HostConfig": host}
        return str(self.call("POST", "/containers/create", body)["Id"])

    def inspect(self, identity: str) -> dict:
        return dict(self.call("GET", f"/containers/{identity}/json"))

    def run(self, script: str, **host: object) -> dict:
        """Runs a shell script to its end: {"code", "text", "oom_killed", "why"}."""
        identity = self.create(["sh", "-c", script], **host)
        self.call("POST", f"/containers/{identity}/start")
        code = self.call("POST", f"/containers/{identity}/wait")["StatusCode"]
        text = plain(self.raw("GET", f"/containers/{identity}/logs?stdout=1&stderr=1")[1])
        killed = self.inspect(identity)["State"]["OOMKilled"]
        why = self.call("GET", f"/containers/{identity}/why")
        self.call("DELETE", f"/containers/{identity}?force=1")
        return {"code": code, "text": text, "oom_killed": killed, "why": why, "group_left": eventually(group(identity), there=False)}

    @contextlib.contextmanager
    def running(self, command: list[str] = SLEEP, **host: object) -> Iterator[tuple[str, int]]:
        """A started container and the host's pid of its first program; removed afterwards."""
        identity = self.create(command, **host)
        try:
            self.call("POST", f"/containers/{identity}/start")
            yield identity, self.inspect(identity)["State"]["Pid"]
        finally:
            self.call("DELETE", f"/containers/{identity}?force=1")

    def execute(self, identity: str, script: str, **config: object) -> str:
        body = {"Cmd": ["sh", "-c", script], "AttachStdout": True, "AttachStderr": True, **config}
        exec_id = self.call("POST", f"/containers/{identity}/exec", body)["Id"]
        return plain(self.raw("POST", f"/exec/{exec_id}/start", {"Detach": False})[1])


# -- second tools -------------------------------------------------------------------------------------


def plain(data: bytes) -> str:
    """The text of a multiplexed stream: 8-byte headers with type and length before each piece."""
    found = b""
    while len(data) >= 8:
        (length,) = struct.unpack(">I", data[4:8])
        found += data[8 : 8 + length]
        data = data[8 + length :]
    return found.decode(errors="replace")


def read(path: str) -> str:
    """A file's text, or why it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError as error:
        return f"<{error.strerror}>"


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout + done.stderr).strip()


def group(identity: str) -> str:
    return f"/sys/fs/cgroup/berth/{identity}"


def groups() -> set[str]:
    """Of containers."""
    names = os.listdir("/sys/fs/cgroup/berth") if os.path.isdir("/sys/fs/cgroup/berth") else []
    return {name for name in names if len(name) == 64}


def eventually(path: str, *, there: bool, timeout_s: float = 60) -> bool:
    """Waits until `path` exists (or does not); whether it then exists."""
    end = time.monotonic() + timeout_s
    while os.path.exists(path) != there and time.monotonic() < end:
        time.sleep(0.02)
    return os.path.exists(path)


def status_line(pid: int, name: str) -> str:
    return next((line.split(":", 1)[1].strip() for line in read(f"/proc/{pid}/status").splitlines() if line.startswith(name)), "")


def namespaces(pid: int | str) -> dict[str, str]:
    """Kind -> identity; without `time` where the kernel has no such namespaces."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in sorted(os.listdir("/proc/self/ns")) if "_" not in kind}


def disk() -> tuple[str, int, int]:
    """The root disk: its node, major and minor number."""
    name = next(name for name in ("ubda", "nvme0n1", "vda", "sda") if os.path.exists(f"/dev/{name}"))
    number = os.stat(f"/dev/{name}").st_rdev
    return f"/dev/{name}", os.major(number), os.minor(number)


def busybox_archive() -> bytes:
    """The machine's own static busybox as the tar of a root file system."""
    buffer = io.BytesIO()
    names = shell("/usr/bin/busybox", "--list").split()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        passwd = tarfile.TarInfo("etc/passwd")
        text = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"
        passwd.size = len(text)
        tar.addfile(passwd, io.BytesIO(text))
        with open("/usr/bin/busybox", "rb") as program:
            info = tarfile.TarInfo("bin/busybox")
            info.size, info.mode = os.fstat(program.fileno()).st_size, 0o755
            tar.addfile(info, program)
        for name in names:
            if name != "busybox":
                info = tarfile.TarInfo(f"bin/{name}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(info)
    return buffer.getvalue()


# -- the features -------------------------------------------------------------------------------------


def info(engine: Engine) -> dict:
    return dict(engine.call("GET", "/info"))


def hello(engine: Engine) -> dict:
    identity = engine.call("POST", "/containers/create", {"Image": "hello"})["Id"]
    engine.call("POST", f"/containers/{identity}/start")
    code = engine.call("POST", f"/containers/{identity}/wait")["StatusCode"]
    engine.call("DELETE", f"/containers/{identity}")
    return {"code": code}


def limits(engine: Engine) -> dict:
    path, major, minor = disk()
    rates: dict[str, Any] = {"BlkioDeviceWriteBps": [{"Path": path, "Rate": MEBI}], "BlkioDeviceReadIOps": [{"Path": path, "Rate": 500}]}
    with engine.running(
        Memory=64 * MEBI, MemorySwap=96 * MEBI, MemoryReservation=32 * MEBI, CpuShares=512, NanoCpus=500_000_000,
        PidsLimit=17, **rates,
    ) as (identity, pid):  # fmt: skip
        names = ("memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "pids.max", "io.max", "cgroup.procs")
        found = {name: read(f"{group(identity)}/{name}") for name in names}
    with engine.running(Memory=64 * MEBI) as (identity, _):
        found["memory.swap.max by default"] = read(f"{group(identity)}/memory.swap.max")
    return {**found, "pid": pid, "disk": f"{major}:{minor}", "group_left": eventually(group(identity), there=False)}


def fork_bomb(engine: Engine) -> dict:
    with engine.running(PidsLimit=10) as (identity, _):
        text = engine.execute(identity, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 5 & done; echo end")
        return {"text": text, "current": read(f"{group(identity)}/pids.current"), "events": read(f"{group(identity)}/pids.events")}


def devices(engine: Engine) -> dict:
    path, major, minor = disk()
    script = (
        f"mknod /tmp/disk b {major} {minor}; head -c 1 /tmp/disk >/tmp/out || echo read failed; "
        "echo x >/dev/null && head -c 1 /dev/zero | wc -c"
    )
    device = {"PathOnHost": path, "PathInContainer": "/dev/disk", "CgroupPermissions": "r"}
    allowed = "head -c 1 /dev/disk | wc -c; : >>/dev/disk"
    found = {"denied": engine.run(script), "allowed": engine.run(allowed, Devices=[device])}
    found["rule"] = engine.run(script, DeviceCgroupRules=[f"b {major}:* r"])
    found["privileged"] = engine.run(f"head -c 1 {path} | wc -c", Privileged=True)
    with engine.running() as (identity, _):
        # A process of the host in the container's group: nothing but the eBPF program stands in its way.
        into = f"echo $$ >{group(identity)}/cgroup.procs; "
        found["from_outside"] = {
            "disk": shell("sh", "-c", f"{into} head -c 1 {path} | wc -c"),
            "null": shell("sh", "-c", f"{into} echo x >/dev/null && echo fine"),
        }
    return found


def cgroup_namespace(engine: Engine) -> dict:
    with engine.running() as (identity, pid):
        mountinfo = [line for line in read(f"/proc/{pid}/mountinfo").splitlines() if " /sys/fs/cgroup " in line]
        return {
            "inside": engine.execute(identity, "cat /proc/self/cgroup").strip(),
            "outside": read(f"/proc/{pid}/cgroup"), "id": identity, "mountinfo": mountinfo,
            "procs": shell("nsenter", "-t", str(pid), "-m", "/bin/busybox", "cat", "/sys/fs/cgroup/pids.max"),
            "write": engine.execute(identity, "echo max >/sys/fs/cgroup/pids.max"),
        }  # fmt: skip


def freezer(engine: Engine) -> dict:
    with engine.running(["sh", "-c", "while :; do :; done"]) as (identity, _):
        usage = f"{group(identity)}/cpu.stat"
        engine.call("POST", f"/containers/{identity}/pause")
        state, events, before = engine.inspect(identity)["State"]["Status"], read(f"{group(identity)}/cgroup.events"), read(usage)
        time.sleep(0.3)
        frozen = before.splitlines()[0] == read(usage).splitlines()[0]
        engine.call("POST", f"/containers/{identity}/unpause")
        time.sleep(0.3)
        return {
            "state": state, "events": events, "stands_still": frozen,
            "goes_on": before.splitlines()[0] != read(usage).splitlines()[0],
            "events_after": read(f"{group(identity)}/cgroup.events"),
        }  # fmt: skip


def out_of_memory(engine: Engine) -> dict:
    return engine.run("exec tail /dev/zero", Memory=16 * MEBI, MemorySwap=16 * MEBI)


def out_of_memory_in_child(engine: Engine) -> dict:
    return engine.run("tail /dev/zero; echo the shell goes on", Memory=16 * MEBI, MemorySwap=16 * MEBI)


def killed(engine: Engine) -> dict:
    """The same exit code as of one that ran out of memory."""
    with engine.running(Memory=16 * MEBI, MemorySwap=16 * MEBI) as (identity, _):
        engine.call("POST", f"/containers/{identity}/kill")
        engine.call("POST", f"/containers/{identity}/wait")
        state = engine.inspect(identity)["State"]
        return {"code": state["ExitCode"], "oom_killed": state["OOMKilled"]}


def usage(engine: Engine) -> dict:
    """What stats says of a container that stands still, and what the files of its group do."""
    script = "dd if=/dev/zero of=/root/file bs=1M count=8 conv=fsync; sleep 999 & i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; sleep 1000"
    with engine.running(["sh", "-c", script], Memory=64 * MEBI, PidsLimit=30) as (identity, _):
        end = time.monotonic() + 60
        while b"ready" not in engine.raw("GET", f"/containers/{identity}/logs?stdout=1")[1] and time.monotonic() < end:
            time.sleep(0.05)
        engine.call("POST", f"/containers/{identity}/pause")
        names = ("memory.current", "memory.stat", "cpu.stat", "pids.current", "pids.max", "io.stat", "cgroup.procs")
        files = {name: read(f"{group(identity)}/{name}") for name in names}
        found: dict[str, Any] = {"files": files, "stats": engine.call("GET", f"/containers/{identity}/stats?stream=0&one-shot=1")}
        command = [sys.executable, "-IS", f"{engine.shared}/src/berth/cli/__main__.py", "-H", f"unix://{engine.root}/exec/berth.sock"]
        line = "{{.MemUsage}}|{{.PIDs}}|{{.BlockIO}}|{{.CPUPerc}}"
        found["shown"] = shell(*command, "stats", "--no-stream", "--format", line, identity)
        found["memory_after"] = read(f"{group(identity)}/memory.current")
        found["stat_after"] = read(f"{group(identity)}/memory.stat")
        found["io_after"] = read(f"{group(identity)}/io.stat")
        found["top"] = engine.call("GET", f"/containers/{identity}/top?ps_args=-o%20pid,args")
        engine.call("POST", f"/containers/{identity}/unpause")
        found["disk"] = "{1}:{2}".format(*disk())
        return found


def update(engine: Engine) -> dict:
    """Limits of a running container, changed."""
    with engine.running(Memory=64 * MEBI, PidsLimit=30, CpuShares=512) as (identity, pid):
        changes = {"Memory": 96 * MEBI, "MemorySwap": 128 * MEBI, "MemoryReservation": 16 * MEBI, "CpuQuota": 30_000,
                   "CpuPeriod": 60_000, "CpuShares": 2048, "PidsLimit": 40}  # fmt: skip
        answer = engine.call("POST", f"/containers/{identity}/update", changes)
        names = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max")
        found: dict[str, Any] = {name: read(f"{group(identity)}/{name}") for name in names}
        host = engine.inspect(identity)["HostConfig"]
        kept = {name: host[name] for name in changes}
        return {**found, "answer": answer, "kept": kept == changes, "same": engine.inspect(identity)["State"]["Pid"] == pid}


def apparmor(engine: Engine) -> dict:
    with engine.running() as (identity, pid):
        found: dict[str, Any] = {
            "current": read(f"/proc/{pid}/attr/current"), "inspect": engine.inspect(identity)["AppArmorProfile"],
            "exec": engine.execute(identity, "cat /proc/self/attr/current").strip(),
            "exec_privileged": engine.execute(identity, "cat /proc/self/attr/current", Privileged=True).strip(),
            "loaded": "berth-default (enforce)" in read("/sys/kernel/security/apparmor/profiles"),
            "kill_self": engine.execute(identity, "sleep 50 & kill $! && echo sent").strip(),
        }  # fmt: skip
    pattern = read("/proc/sys/kernel/core_pattern")
    trial = (
        "echo core >/proc/sys/kernel/core_pattern && echo written; mount -t tmpfs none /tmp && echo mounted; "
        "echo 1 >/proc/sys/vm/overcommit_memory && echo vm written; "
        "( : </proc/kcore ) 2>/dev/null && echo kcore is read || echo kcore is denied"
    )
    wide = {"CapAdd": ["SYS_ADMIN", "SYS_RAWIO"]}
    found["confined"] = engine.run(trial, SecurityOpt=_EVERYTHING_BUT_APPARMOR, **wide)
    found["pattern_kept"] = read("/proc/sys/kernel/core_pattern") == pattern
    found["unconfined"] = engine.run(trial, SecurityOpt=[*_EVERYTHING_BUT_APPARMOR, "apparmor=unconfined"], **wide)
    shm = "echo 12345 >/proc/sys/kernel/shmmax && cat /proc/sys/kernel/shmmax"
    found["shmmax"] = engine.run(shm, SecurityOpt=_EVERYTHING_BUT_APPARMOR, **wide)
    label = "cat /proc/self/attr/current"
    found["label_unconfined"] = engine.run(label, SecurityOpt=["apparmor=unconfined"])
    found["label_privileged"] = engine.run(label, Privileged=True)
    found["label_no_new_privileges"] = engine.run(label, SecurityOpt=["no-new-privileges"])
    found["unknown"] = refused(engine, SecurityOpt=["apparmor=no-such-profile"])
    found["selinux"] = refused(engine, SecurityOpt=["label=type:container_t"])
    return found


LOOK = r"""
echo @status; grep -E '^(Cap|Seccomp|NoNewPrivs|Uid|Groups)' /proc/self/status
echo @label; cat /proc/self/attr/current
echo @mounts; awk '{ dash = 0; for (i = 7; i <= NF; i++) if ($i == "-") dash = i; print $5, $6, $(dash + 1) }' /proc/self/mountinfo | sort
echo @refused; mount -t tmpfs none /tmp 2>&1; echo x 2>&1 >/proc/sys/kernel/core_pattern; head -c 1 /proc/kcore 2>&1; mknod /tmp/d b DISK && head -c 1 /tmp/d 2>&1; rm -f /tmp/d; unshare -m true 2>&1
echo @cgroup; cat /proc/self/cgroup /sys/fs/cgroup/memory.max; echo max 2>&1 >/sys/fs/cgroup/pids.max
echo @links; ip -o link | cut -d: -f2
echo @end
"""


def build_step(engine: Engine) -> dict:
    """What a step sees of itself, and a container of the same image; and what is left of it."""
    _, major, minor = disk()
    look = LOOK.replace("DISK", f"{major} {minor}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in (("Dockerfile", "FROM busybox\nCOPY look /look\nRUN sh /look 2>&1\n"), ("look", look)):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    groups_before = groups()
    status, data = engine.raw("POST", f"/build?t=looked&memory={64 * MEBI}&networkmode=none", buffer.getvalue())
    said = "".join(json.loads(line).get("stream", "") for line in data.splitlines())
    identity = engine.call("POST", "/containers/create", {"Image": "looked", "Cmd": ["sh", "/look"], "HostConfig": {"Memory": 64 * MEBI, "NetworkMode": "none"}})["Id"]
    engine.call("POST", f"/containers/{identity}/start")
    engine.call("POST", f"/containers/{identity}/wait")
    text = plain(engine.raw("GET", f"/containers/{identity}/logs?stdout=1&stderr=1")[1])
    engine.call("DELETE", f"/containers/{identity}?force=1")
    eventually(group(identity), there=False)
    parts = [each[each.find("@status") : each.find("@end")] for each in (said, text)]
    return {"status": status, "step": parts[0], "container": parts[1], "groups_left": sorted(groups() - groups_before), "said": said[-2000:]}


def refused(engine: Engine, **host: object) -> dict:
    """The answer to a create or start that must fail."""
    body = {"Image": "busybox", "Cmd": SLEEP, "HostConfig": host}
    status, data = engine.raw("POST", "/containers/create", body)
    if status == 201:
        identity = json.loads(data)["Id"]
        status, data = engine.raw("POST", f"/containers/{identity}/start")
        engine.call("DELETE", f"/containers/{identity}?force=1")
    return {"status": status, "text": data.decode()}


def isolation(engine: Engine) -> dict:
    annotations = {"io.berth.time-offset.boottime": "86400"}
    without_time = {"refused": refused(engine, Annotations=annotations)} if not os.path.exists("/proc/self/ns/time") else {}
    with engine.running(Annotations={} if without_time else annotations) as (identity, pid):
        return {
            "host": namespaces("self"), "container": namespaces(pid),
            "same_in_exec": engine.execute(identity, "readlink /proc/1/ns/mnt; readlink /proc/self/ns/mnt").split(),
            "pid": status_line(pid, "NSpid").split()[-1], "seccomp": status_line(pid, "Seccomp"),
            "bounding": status_line(pid, "CapBnd"), "effective": status_line(pid, "CapEff"),
            "hostname": shell("nsenter", "-t", str(pid), "-u", "hostname"), "id": identity,
            "links": shell("nsenter", "-t", str(pid), "-n", "ip", "-br", "link"),
            "root": [line.split(" - ")[1].split()[0] for line in read(f"/proc/{pid}/mountinfo").splitlines() if line.split()[4] == "/"],
            "uptime_days": float(engine.execute(identity, "cat /proc/uptime").split()[0]) / 86400,
            **without_time,
        }  # fmt: skip


def executed(engine: Engine) -> dict:
    with engine.running(Memory=64 * MEBI) as (identity, pid):
        exec_id = engine.call("POST", f"/containers/{identity}/exec", {"Cmd": ["sleep", "77"]})["Id"]
        engine.call("POST", f"/exec/{exec_id}/start", {"Detach": True})
        other = engine.call("GET", f"/exec/{exec_id}/json")["Pid"]
        return {
            "first": namespaces(pid), "other": namespaces(other), "cgroup": read(f"/proc/{other}/cgroup"),
            "procs": read(f"{group(identity)}/cgroup.procs").split(), "pid": other, "id": identity,
            "command": read(f"/proc/{other}/cmdline"), "seccomp": status_line(other, "Seccomp"),
            "user": engine.execute(identity, "id -u", User="user").strip(),
        }  # fmt: skip


def engine_killed(engine: Engine) -> dict:
    with engine.running(["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"]) as (identity, pid):
        ends = engine.create(["sh", "-c", "sleep 1; exit 7"])
        engine.call("POST", f"/containers/{ends}/start")
        paused = engine.create(SLEEP)
        engine.call("POST", f"/containers/{paused}/start")
        engine.call("POST", f"/containers/{paused}/pause")
        engine.process.send_signal(signal.SIGKILL)
        engine.process.wait()
        time.sleep(1.5)
        engine.start()
        state = engine.inspect(identity)["State"]
        found = {
            "status": state["Status"], "same_pid": state["Pid"] == pid, "exec": engine.execute(identity, "echo well").strip(),
            "missed": engine.inspect(ends)["State"], "paused": engine.inspect(paused)["State"]["Status"],
        }  # fmt: skip
        engine.call("POST", f"/containers/{paused}/unpause")
        engine.call("POST", f"/containers/{identity}/stop?t=0")
        lines = plain(engine.raw("GET", f"/containers/{identity}/logs?stdout=1")[1]).split()
        for other in (ends, paused):
            engine.call("DELETE", f"/containers/{other}?force=1")
        found["launchers"] = shell("pgrep", "-c", "-x", "berth-launcher")  # not its spare monitor
        return {**found, "lines": len(lines), "no_gap": lines == [str(i) for i in range(len(lines))]}


def monitor_killed(engine: Engine) -> dict:
    with engine.running(["sh", "-c", "sleep 999 & sleep 888"]) as (identity, pid):
        time.sleep(0.2)
        pids = read(f"{group(identity)}/cgroup.procs").split()
        monitor = int(status_line(pid, "PPid"))
        name = read(f"/proc/{monitor}/comm")
        os.kill(monitor, signal.SIGKILL)
        end = time.monotonic() + 60
        while engine.inspect(identity)["State"]["Running"] and time.monotonic() < end:
            time.sleep(0.05)
        return {
            "monitor": name, "processes": len(pids), "state": engine.inspect(identity)["State"],
            "left": [p for p in pids if os.path.exists(f"/proc/{p}")], "group_left": eventually(group(identity), there=False),
        }  # fmt: skip


def user_namespace(engine: Engine) -> dict:
    with open("/etc/subuid", "a") as uids, open("/etc/subgid", "a") as gids:
        for file in (uids, gids):
            file.write(f"remapped:{REMAPPED_FROM}:65536\n")
    root = "/root/remapped"
    remapped = Engine(engine.shared, root, "--userns-remap", "remapped", "--bridge", "none")
    try:
        remapped.call("POST", "/images/create?fromSrc=-&repo=busybox", busybox_archive())
        found: dict[str, Any] = {"security_options": remapped.call("GET", "/info")["SecurityOptions"]}
        script = "stat -c %u:%g /bin/busybox /etc/passwd /tmp /etc/hosts /etc/hostname; id -u; touch /tmp/made; chown 1000 /tmp/made && sleep 99"
        with remapped.running(["sh", "-c", script], Memory=64 * MEBI) as (identity, pid):
            data = f"{root}/data"
            if eventually(f"{data}/containers/{identity}/upper/tmp/made", there=True):
                time.sleep(0.2)  # for the chown that follows
            layers = shell("find", f"{data}/layers", "-printf", "%U\\n").split()
            made = os.stat(f"{data}/containers/{identity}/upper/tmp/made")
            found |= {
                "text": plain(remapped.raw("GET", f"/containers/{identity}/logs?stdout=1&stderr=1")[1]),
                "uid_map": read(f"/proc/{pid}/uid_map").split(), "gid_map": read(f"/proc/{pid}/gid_map").split(),
                "uid_outside": status_line(pid, "Uid").split(), "layer_owners": sorted(set(layers)),
                "made_on_disk": [made.st_uid, made.st_gid], "namespaces": namespaces(pid), "host": namespaces("self"),
                "label": read(f"/proc/{pid}/attr/current"), "memory": read(f"{group(identity)}/memory.max"),
                "exec": remapped.execute(identity, "id -u; touch /tmp/again && stat -c %u /tmp/again; cat /proc/self/attr/current").split("\n"),
                "escape": remapped.execute(identity, "cat /proc/1/uid_map >/dev/null && mount -t tmpfs x /tmp"),
                "exec_again": remapped.execute(identity, "id -u; echo opened again >/dev/stderr", User="1000").split("\n"),
                "terminal": tty_run(remapped),
            }  # fmt: skip
        again = "pwd; stat -c %u:%g . ..; id -u; echo opened again >/dev/stdout"
        for user in ("0", "1000:1000"):
            found[f"work_directory of {user}"] = run_as(remapped, user, again)
        found["oom_score"] = remapped.run("cat /proc/self/oom_score_adj", OomScoreAdj=-500)["text"].strip()
        found["refused"] = [refused(remapped, **{key: "host"}) for key in ("NetworkMode", "PidMode", "IpcMode")]
        found["host_mode"] = remapped.run("cat /proc/self/uid_map", UsernsMode="host")
        found["group_left"] = eventually(group(identity), there=False)
        return found
    finally:
        remapped.process.terminate()
        remapped.process.wait(60)


def volume_limits(engine: Engine) -> dict:
    """A data root on an ext4 that keeps project quotas."""
    top, image = "/root/limited", "/root/limited.img"
    shell("modprobe", "loop")
    shell("truncate", "-s", "96M", image)
    shell("mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota", image)
    os.mkdir(top)
    shell("mount", "-o", "loop,prjquota", image, top)
    limited = Engine(engine.shared, top, *engine.flags)
    try:
        limited.call("POST", "/images/create?fromSrc=-&repo=busybox", busybox_archive())
        for name, options in (("small", {"size": "1m"}), ("large", {"size": "8m"}), ("filled", {"size": "4m"}), ("free", {})):
            limited.call("POST", "/volumes/create", {"Name": name, "DriverOpts": options})
        write = "dd if=/dev/zero of=/v/f bs=64k count=48 2>&1; df -k /v | tail -1 | awk '{print $2}'"
        found: dict[str, Any] = {name: limited.run(write, Binds=[f"{name}:/v"])["text"].splitlines() for name in ("small", "large", "free")}
        found["filled"] = limited.run("cat /etc/passwd >/dev/null && df -k /etc | tail -1 | awk '{print $2}'", Binds=["filled:/etc"])["text"].split()
        data = f"{top}/data/volumes"
        found["projects"] = {name: shell("lsattr", "-pd", f"{data}/{name}/_data").split()[0] for name in ("small", "large", "filled", "free")}
        found["sizes"] = {name: os.path.getsize(f"{data}/{name}/_data/f") for name in ("small", "large", "free")}
        found["has_content"] = sorted(os.listdir(f"{data}/filled/_data"))
        limited.call("DELETE", "/volumes/small")
        limited.call("POST", "/volumes/create", {"Name": "again", "DriverOpts": {"size": "2m"}})
        found["again"] = limited.run(write, Binds=["again:/v"])["text"].splitlines()
        return found
    finally:
        limited.process.terminate()
        limited.process.wait(60)
        shell("umount", top)


def run_as(engine: Engine, user: str, script: str) -> list[str]:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "User": user, "WorkingDir": "/made/here"}
    identity = engine.call("POST", "/containers/create", body)["Id"]
    engine.call("POST", f"/containers/{identity}/start")
    engine.call("POST", f"/containers/{identity}/wait")
    text = plain(engine.raw("GET", f"/containers/{identity}/logs?stdout=1&stderr=1")[1])
    engine.call("DELETE", f"/containers/{identity}?force=1")
    return text.splitlines()


def tty_run(engine: Engine) -> str:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "tty; stat -c %u $(tty)"], "Tty": True}
    identity = engine.call("POST", "/containers/create", body)["Id"]
    engine.call("POST", f"/containers/{identity}/start")
    engine.call("POST", f"/containers/{identity}/wait")
    text = engine.raw("GET", f"/containers/{identity}/logs?stdout=1")[1].decode(errors="replace")
    engine.call("DELETE", f"/containers/{identity}?force=1")
    return text


FEATURES: tuple[Callable[[Engine], dict], ...] = (
    info, hello, limits, fork_bomb, devices, cgroup_namespace, freezer, out_of_memory, out_of_memory_in_child, killed, usage,
    update, apparmor, build_step, isolation, executed, engine_killed, monitor_killed, user_namespace,
    volume_limits,
)  # fmt: skip


def main(shared: str, chosen: list[str]) -> None:
    findings: dict[str, Any] = {"seconds": {}}
    engine = Engine(shared, "/root/berth", "--debug", "--bridge", "none")
    engine.call("POST", "/images/create?fromSrc=-&repo=busybox", busybox_archive())
    for feature in FEATURES:
        if chosen and feature.__name__ not in chosen:
            continue
        began = time.monotonic()
        try:
            findings[feature.__name__] = feature(engine)
        except Exception:
            findings[feature.__name__] = {"error": traceback.format_exc()}
        findings["seconds"][feature.__name__] = round(time.monotonic() - began, 1)
    engine.process.terminate()
    findings["engine_exit"] = engine.process.wait(60)
    findings["groups_left"] = sorted(groups())
    findings["parent_group_left"] = os.path.isdir("/sys/fs/cgroup/berth")
    findings["log"] = read(LOG)
    print(json.dumps(findings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
