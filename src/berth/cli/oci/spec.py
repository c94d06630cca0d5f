"""spec: a config.json to begin with, the same in meaning as the one that `runc spec` writes."""

import os

from berth.cli.flags import Flag
from berth.cli.oci.main import Invocation, parse_verb
from berth.cli.oci.query import indented
from berth.errors import Conflict, InvalidParameter
from berth.runtime.features import SPEC_VERSION

_FLAGS: "tuple[Flag, ...]" = (
    ("bundle", "b", "string", "DIR", "Where to write it (the current directory)"),
    ("rootless", "", "bool", "", "For an ordinary user: a user namespace in which your own ids are root's"),
)
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MOUNTS = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/tpm",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def spec(call: Invocation) -> int:
    """berth oci spec"""
    parsed = parse_verb(call, _FLAGS, "spec [OPTIONS]", at_least=0, at_most=0)
    document = example()
    if parsed.flag("rootless"):
        make_rootless(document, os.geteuid(), os.getegid())
    path = os.path.join(parsed.text("bundle"), "config.json")
    try:
        with open(path, "x") as file:
            file.write(indented(document) + "\n")
    except FileExistsError:
        raise Conflict(f"file {path} exists; remove it first") from None
    except OSError as error:
        raise InvalidParameter(f"cannot write {path}: {error.strerror}") from None
    return 0


def example() -> dict:
    """For a shell on a terminal, with all namespaces but user and time, in a root file system `rootfs`.

    Ambient capabilities are left out: what is not inheritable cannot be ambient (capabilities(7)).
    """
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "berth",
        "mounts": [_mount(*entry) for entry in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _mount(destination: str, fstype: str, source: str, options: "tuple[str, ...]") -> dict:
    found: dict = {"destination": destination, "type": fstype, "source": source}
    if options:
        found["options"] = list(options)
    return found


def make_rootless(document: dict, uid: int, gid: int) -> None:
    """Takes out what an ordinary user cannot have, and adds a user namespace with these ids as its root.

    The host's network stays, as nobody could connect another one; with it goes sysfs, which only the
    owner of a network namespace can mount.
    """
    linux = document["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"] + [{"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    del linux["resources"]
    for entry in document["mounts"]:
        if entry["destination"] == "/sys":
            entry.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
        elif "options" in entry:  # of one id there is only root's
            entry["options"] = [option for option in entry["options"] if not option.startswith(("gid=", "uid="))]
