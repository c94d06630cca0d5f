"""What a container gets when nobody says otherwise: the same as Docker's, as data. Pure."""

# Docker's documented default set (docs.docker.com, "Linux kernel capabilities").
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
        " AUDIT_WRITE"
    ).split()
)

MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE_BYTES = 64 * 1024 * 1024
STOP_SIGNAL = "SIGTERM"
STOP_TIMEOUT_S = 10
MIN_MEMORY_BYTES = 6 * 1024 * 1024

PLAIN = ["nosuid", "noexec", "nodev"]


def mounts(shm_size_bytes: int, *, cgroup_writable: bool) -> list[dict]:
    """The pseudo file systems of every container, in the order they are mounted."""
    cgroup_options = [*PLAIN, "rw" if cgroup_writable else "ro"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": list(PLAIN)},
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*PLAIN, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": cgroup_options},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": list(PLAIN)},
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": [*PLAIN, "mode=1777", f"size={shm_size_bytes}"],
        },
    ]  # fmt: skip


# Everything else is denied; nodes of these devices are what `mounts` and the runtime make.
DEVICE_RULES: list[dict] = [{"allow": False, "access": "rwm"}]
