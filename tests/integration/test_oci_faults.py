"""A fault at each system call in turn: a failed create, start or exec of berth-oci leaves nothing, and says what failed.

`faults.py` makes the n-th changing call of a process fail with EIO, or kills the process there. By default
the first, the middle and the last call of each name in each process; with BERTH_FAULTS=all every one.
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import REPOSITORY
from oci import Box, Oci, merged

pytestmark = [
    pytest.mark.root, pytest.mark.timeout(1800),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="faults.py knows the registers of x86-64"),
]  # fmt: skip

ALL = os.environ.get("BERTH_FAULTS") == "all"
_FAULTS = str(Path(__file__).with_name("faults.py"))
# With all that a container may have besides what every one has.
_RICH = {
    "hostname": "box",
    "process": {"user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "oomScoreAdj": 500, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]},
    "root": {"path": "rootfs", "readonly": True},
    "linux": {
        "sysctl": {"net.ipv4.ip_default_ttl": "77"}, "resources": {"pids": {"limit": 50}},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]},
    },
}  # fmt: skip
# Calls that may fail without harm: what they are for is not there then, and nobody asked for it by name.
_MAY_FAIL = frozenset((
    "openat", "write", "rename", "unlink", "unlinkat", "mkdir", "fchownat", "fchown", "dup2", "mmap", "umask", "setsid", "fork", "vfork", "clone",
    "pidfd_open", "close_range", "sched_setaffinity", "fcntl", "pwrite64", "accept4", "sendto", "getpeername", "rmdir",
    "clone3",  # into a group of v2; without it the child is moved there
))  # fmt: skip


def traced(oci: Oci, *words: str, after: str = "", at: "list[int] | None" = None, do: str = "error") -> "tuple[subprocess.CompletedProcess[str], list]":
    """One call of the runtime under the tracer, and what it called; its output goes to files, as a container may keep them."""
    log, out, err = (f"{oci.top}/{name}" for name in ("calls", "stdout", "stderr"))
    orders = json.dumps({"log": log, "after": after, "at": at, "do": do})
    with open(out, "w") as output, open(err, "w") as problems:
        done = subprocess.run(
            [sys.executable, _FAULTS, orders, *oci.command(*words)], stdin=subprocess.DEVNULL, stdout=output, stderr=problems, timeout=60,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"},
        )  # fmt: skip
    calls = [json.loads(line) for line in Path(log).read_text().splitlines()]
    return subprocess.CompletedProcess(done.args, done.returncode, Path(out).read_text(), Path(err).read_text()), calls


def struck(oci: Oci, words: "tuple[str, ...]", call: list, *, after: str, do: str = "error") -> "subprocess.CompletedProcess[str]":
    """One more call of the runtime, in which `call` fails or is the last one. What a busy kernel makes it do twice moves
    the calls that follow: a run in which another call was struck says nothing of this one, and is made again."""
    for _ in range(5):
        done, calls = traced(oci, *words, after=after, at=call[:2], do=do)
        if [name for process, number, name, _ in calls if [process, number] == call[:2]] == [call[2]] or done.returncode:
            return done
    raise AssertionError(f"{shown(call)} was not met again in five runs")


def chosen(calls: list, *, each: bool = ALL) -> list:
    """Every call, or the first, middle and last of each name in each process."""
    if each:
        return calls
    groups: dict[tuple[int, str], list] = {}
    for call in calls:
        groups.setdefault((call[0], call[2]), []).append(call)
    return [call for found in groups.values() for call in {entry[1]: entry for entry in (found[0], found[len(found) // 2], found[-1])}.values()]


def nothing_left(oci: Oci) -> str:
    """'' once nothing of any container is there; what a killed runtime leaves to die is given a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            oci.assert_nothing_left()
            strays = [name for name in os.listdir(f"{oci.root}/@seccomp")] if os.path.isdir(f"{oci.root}/@seccomp") else []
            return "" if not [name for name in strays if not name.endswith(".bpf")] else f"files of the cache are left: {strays}"
        except (AssertionError, FileNotFoundError) as error:  # or a cgroup of another test went while we looked
            if time.monotonic() > deadline:
                for identity in oci.identities():  # so that it is told once
                    oci.call("delete", "--force", identity, code=None)
                return str(error)
            select.poll().poll(10)


def complaint(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """What is wrong with how a failure was reported; '' for nothing."""
    if done.returncode != code:
        return f"exit code {done.returncode}, not {code}: {done.stderr!r}"
    if "Traceback" in done.stderr or "mistake in berth" in done.stderr:
        return f"not an error for a person: {done.stderr!r}"
    return "" if len(done.stderr) > 20 else f"says nothing: {done.stderr!r}"


def shown(call: list) -> str:
    return f"process {call[0]} call {call[1]} {call[2]} {call[3]!r}"


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_create(oci: Oci, kind: str) -> None:
    """Every call of `create` fails in turn. Either it says so and nothing is left, or it could do without."""
    bundle = oci.bundle(_RICH if kind == "rich" else {})
    traced(oci, "create", "--bundle", bundle, identity := oci.identity(), after="mkdir")  # fills the cache: later runs make the same calls
    oci.call("delete", identity)
    done, calls = traced(oci, "create", "--bundle", bundle, identity := oci.identity(), after="mkdir")
    assert done.returncode == 0, done.stderr
    oci.call("delete", identity)
    problems = []
    for call in chosen(calls):
        if call[2] == "accept4":  # that is where it waits
            continue
        done, _ = traced(oci, "create", "--bundle", bundle, identity := oci.identity(), after="mkdir", at=call[:2])
        wrong = ""
        if done.returncode == 0:
            wrong = "" if call[2] in _MAY_FAIL else "succeeded all the same"
            oci.call("start", identity, code=None)
            oci.call("delete", "--force", identity)
        else:
            wrong = complaint(done, 1)
        problems += [f"{shown(call)}: {text}" for text in (wrong, nothing_left(oci)) if text]
        assert len(problems) < 30, "\n".join(problems)
    assert not problems, "\n".join(problems)


def test_create_killed(oci: Oci) -> None:
    """The runtime, or the container's first program, is killed at a call of `create`. What the runtime leaves then,
    `delete --force` takes away; when init is killed, `create` does that itself."""
    bundle = oci.bundle(_RICH)
    done, calls = traced(oci, "create", "--bundle", bundle, identity := oci.identity(), after="mkdir")
    assert done.returncode == 0, done.stderr
    oci.call("delete", identity)
    problems = []
    for call in chosen(calls):
        if call[2] == "accept4":
            continue
        done, _ = traced(oci, "create", "--bundle", bundle, identity := oci.identity(), after="mkdir", at=call[:2], do="kill")
        wrong = "" if call[0] == 0 or done.returncode == 0 else complaint(done, 1)
        if call[0] == 0:
            deleted = oci.call("delete", "--force", identity, code=None, timeout=60)
            wrong = "" if deleted.returncode == 0 else f"delete: {deleted.stderr}"
        elif done.returncode == 0:
            oci.call("delete", "--force", identity)
        problems += [f"{shown(call)}: {text}" for text in (wrong, nothing_left(oci)) if text]
        assert len(problems) < 30, "\n".join(problems)
    assert not problems, "\n".join(problems)


def test_start(oci: Oci) -> None:
    """Every call of `start` fails in turn: an error, or a container that runs; `delete --force` leaves nothing."""
    bundle = oci.bundle(_RICH)
    box = oci.create(bundle)
    done, calls = traced(oci, "start", box.id)
    assert done.returncode == 0, done.stderr
    box.delete()
    problems = []
    for call in chosen([call for call in calls if call[0] == 0 and not call[3].endswith(".pyc")]):
        if call[2] in ("memfd_create", "sendfile", "fcntl"):
            continue
        box = oci.create(bundle)
        done, _ = traced(oci, "start", box.id, at=call[:2])
        wrong = complaint(done, 1) if done.returncode else ""
        box.delete()
        problems += [f"{shown(call)}: {text}" for text in (wrong, nothing_left(oci)) if text]
    assert not problems, "\n".join(problems)


def _inside(box: Box) -> "list[int]":
    """Processes of the container's pid namespace, zombies too."""
    theirs = os.stat(f"/proc/{box.pid}/ns/pid").st_ino
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if os.stat(f"/proc/{pid}/ns/pid").st_ino == theirs:
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("do", ["error", "kill"])
def test_exec(oci: Oci, do: str) -> None:
    """Every call of `exec` fails in turn, or is where its process is killed. The container has no process more
    afterwards, and the container itself goes on."""
    box = oci.up(merged(_RICH, {"process": {"user": {"uid": 0}}}))
    done, calls = traced(oci, "exec", box.id, "true", after="socketpair")
    assert done.returncode == 0, done.stderr
    problems = []
    for call in chosen(calls):
        done = struck(oci, ("exec", box.id, "true"), call, after="socketpair", do=do)
        wrong = ""
        if do == "error":
            wrong = complaint(done, 255) if done.returncode else "" if call[2] in _MAY_FAIL else "succeeded all the same"
        elif call[0] and done.returncode and "Traceback" in done.stderr:
            wrong = done.stderr
        deadline = time.monotonic() + 30
        while (found := _inside(box)) != [box.pid] and time.monotonic() < deadline:
            select.poll().poll(10)
        if found != [box.pid]:
            wrong += f" processes are left in the container: {found}"
        problems += [f"{shown(call)}: {wrong}"] if wrong else []
        assert len(problems) < 30, "\n".join(problems)
    assert not problems, "\n".join(problems)
    assert box.exec("echo", "alive").stdout == "alive\n"
