"""The RCU grace period that the first move of a process into a cgroup waits for, paid for early.

A move takes cgroup_threadgroup_rwsem for writing, and after a quiet spell the kernel waits for a grace
period before it gives it (8 to 20 ms measured); further moves within the next one take microseconds.
So somebody who has nothing else to do moves itself to where it already is, which counts, while the
start goes on elsewhere. Only for v1: into a v2 group a process can be cloned, which takes no such lock.

Imports next to nothing: a cold start begins with this.
"""

import os


def wait(mounts: "dict[str, str] | None" = None) -> None:
    """Waits for it in this process. mounts: v1 controller -> mount point, or None for where they usually are."""
    for line in _own_groups().splitlines():
        _, controllers, path = line.split(":", 2)
        name = controllers.split(",")[0]
        if not name or name.startswith("name="):
            continue
        mount_point = f"/sys/fs/cgroup/{name}" if mounts is None else mounts.get(name, "")
        try:
            fd = os.open(f"{mount_point}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(os.getpid()).encode())
            finally:
                os.close(fd)
            return
        except OSError:
            continue


def _own_groups() -> str:
    """Without `open`: its layers are pages that a monitor, which waits here, would keep for its container's life."""
    try:
        fd = os.open("/proc/self/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.fsdecode(os.read(fd, 1 << 16))
    finally:
        os.close(fd)


def begin() -> None:
    """Lets a child wait for it, and goes on at once. The child is left to whoever reaps."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return  # v2 alone
    if os.fork() == 0:
        os.closerange(0, 1 << 16)  # whoever reads what we print must not wait for this one
        wait()
        os._exit(0)
