"""How a container's first program gets into its cgroups: by itself, for which the kernel waits for nothing."""

import ctypes
import os
import select
import struct
import subprocess
from pathlib import Path

import pytest
from harness import GROUPS
from oci import SPEC, Oci, merged

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/memory"), reason="needs cgroup v1")]

_IN_MODIFY, _EVENT = 2, struct.Struct("iIII")  # inotify(7)


class Written:
    """Which of some files are written to, as inotify sees it."""

    def __init__(self, paths: list[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._paths = {libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY): path for path in paths}
        assert -1 not in self._paths

    def files(self) -> set[Path]:
        found: set[Path] = set()
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 65536)
            found |= {self._paths[watch] for watch, *_ in _EVENT.iter_unpack(data)}
        os.close(self._fd)
        return found


def paths_of(pid: int) -> dict[str, str]:
    """Controllers -> the group that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def written_by(oci: Oci) -> tuple[set[str], set[Path]]:
    """Names of the files for moving processes that a start writes to, in groups that are there already, and in which of them it did not."""
    path = f"/{oci.identity()}"
    directories = [Path(f"{mount}{path}") for mount in Path(GROUPS).iterdir() if (mount / "tasks").exists()]  # v1's
    for directory in directories:
        directory.mkdir()
    bundle = oci.bundle({"linux": {"cgroupsPath": path}}, args=["true"])
    written = Written([directory / name for directory in directories for name in ("tasks", "cgroup.procs")])
    oci.run(bundle)
    files = written.files()
    for directory in directories:
        if directory.exists():
            directory.rmdir()
    return {file.name for file in files}, set(directories) - {file.parent for file in files}


def test_nobody_moves_a_container_from_outside(oci: Oci, runc: Oci) -> None:
    """Which would wait for an RCU grace period, 8 to 20 ms."""
    assert written_by(oci) == ({"tasks"}, set())
    assert "cgroup.procs" in written_by(runc)[0]


def test_its_group_from_a_mount_namespace_with_false_groups(oci: Oci) -> None:
    """What a namespace given by path has at the group's path is not written to."""
    directory = Path(oci.top) / "ready"
    script = f"mount -t tmpfs x {GROUPS} && touch {directory} && exec sleep 1000"
    holder = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script])
    try:
        while not directory.exists():
            assert holder.poll() is None
            select.select([], [], [], 0.01)
        namespaces = merged(SPEC, {})["linux"]["namespaces"]
        namespaces = [{**entry, "path": f"/proc/{holder.pid}/ns/mnt"} if entry["type"] == "mount" else entry for entry in namespaces]
        box = oci.up({"linux": {"namespaces": namespaces}})
        assert {path.rpartition("/")[2] for path in paths_of(box.pid).values()} == {box.id}
        assert os.listdir(f"/proc/{holder.pid}/root{GROUPS}") == []
        box.delete()
    finally:
        holder.kill()
        holder.wait()
