"""Which cgroup hierarchies the host has, and where in them a group is. Reads /proc, changes nothing."""

import os

from berth.errors import InvalidParameter


class Hierarchies:
    """v1: controller -> mount point (named hierarchies as `name=systemd`); v2: mount point or ''.

    roots: mount point -> the group that is seen there, '/' if not named; only a container's mounts show another.
    """

    __slots__ = ("roots", "v1", "v2")

    def __init__(self, v1: dict[str, str], v2: str, roots: dict[str, str] | None = None) -> None:
        self.v1 = v1
        self.v2 = v2
        self.roots = roots or {}

    @property
    def version(self) -> int:
        """2 only where every controller is in the unified hierarchy."""
        return 1 if any(not name.startswith("name=") for name in self.v1) else 2

    def controllers(self) -> list[str]:
        """Names of the resource controllers that a container can be limited by."""
        if self.version == 1:
            return sorted(name for name in self.v1 if not name.startswith("name="))
        with open(f"{self.v2}/cgroup.controllers") as file:
            return sorted(file.read().split())

    def mount_points(self) -> dict[str, str]:
        """Name -> mount point, the unified hierarchy as ''."""
        return {**self.v1, "": self.v2} if self.v2 else self.v1


def parse_mountinfo(text: str) -> Hierarchies:
    """The hierarchies in a /proc/PID/mountinfo text; where one is mounted twice the first counts."""
    v1: dict[str, str] = {}
    v2 = ""
    roots: dict[str, str] = {}
    generic = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup"):
            continue
        root, mount_point = left.split()[3:5]
        fields = right.split()
        if root != "/":
            roots.setdefault(mount_point, root)
        if fields[0] == "cgroup2":
            v2 = v2 or mount_point
            continue
        for option in fields[2].split(","):
            if option not in generic and not option.startswith("release_agent="):
                v1.setdefault(option, mount_point)
    return Hierarchies(v1, v2, roots)


def hierarchies() -> Hierarchies:
    """The host's hierarchies as this process sees them."""
    with open("/proc/self/mountinfo") as file:
        return parse_mountinfo(file.read())


def parse_own(text: str) -> dict[str, str]:
    """A /proc/PID/cgroup text as controller -> path; v2's line has the controller ''."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def clean_path(path: str) -> str:
    """Without '//', '/./' and a '/' at the end; a group must be named, and nothing may climb."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise InvalidParameter(f"cgroup path {path!r} must name a group and have no '..' in it")
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def place(path: str, own: str, mount_point: str, hosts: Hierarchies, *, beside: bool, rootless: bool) -> str:
    """Where `path` is below the mount point, for a process whose own group is `own`; '' if not to be had."""
    own = _below_root(own, hosts.roots.get(mount_point, "/"))
    if not rootless:
        return f"{os.path.dirname(own).rstrip('/') if beside else own}/{path}"
    base = _topmost_writable(mount_point, own)
    if base is None:
        return ""
    return path if path.startswith(f"{base}/") else f"{base}/{path.lstrip('/')}"


def _below_root(own: str, root: str) -> str:
    """A path of /proc/PID/cgroup as it is below a mount that shows `root`; '' for the mount itself."""
    root, own = root.rstrip("/"), own.rstrip("/")
    if not own.startswith(f"{root}/") or own.startswith(f"{root}/.."):
        return ""
    return own[len(root) :]


def _topmost_writable(mount_point: str, own: str) -> str | None:
    """The highest group, from `own` up without a gap, in which this user may make groups and move processes."""
    found = None
    while True:
        directory = mount_point + own
        if not os.access(directory, os.W_OK | os.X_OK) or not os.access(f"{directory}/cgroup.procs", os.W_OK):
            return found
        found = own
        if not own:
            return found
        own = os.path.dirname(own).rstrip("/")
