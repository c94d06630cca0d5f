"""How long the runtime takes: berth cold and warm against runc and crun, alternating, on the same bundle.

    .venv/bin/python bench/runtime.py [--rounds 40] [--many 100] [--quiet 0.05]

The bundle has all of runc's default namespaces and mounts, a cgroup namespace, limits, masked paths and
Docker's capabilities with berth's default seccomp profile. Cold is a process of `berth-oci`, `runc` or
`crun`; warm is a message to a launcher, which is what berth's engine sends. Needs root, Debian's runc,
crun and busybox-static. Prints medians and ratios and writes nothing else. On a hybrid cgroup host
everything runs in a mount namespace without the v2 hierarchy, because crun refuses to run otherwise.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from berth.engine import defaults  # noqa: E402 - the path comes first
from berth.engine.seccomp_default import default_profile  # noqa: E402
from berth.linux import capabilities, cgroup, libc  # noqa: E402
from berth.runtime import container, frames, launcher  # noqa: E402

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
                "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
                "CAP_AUDIT_WRITE"]  # fmt: skip
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
BERTH, GROUP = str(ROOT / "berth-oci"), "/berth-bench"


def specification(name: str, args: list[str]) -> dict:
    """config.json for a container whose cgroup is `name`."""
    sets = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    return {
        "ociVersion": "1.0.2", "hostname": "bench", "root": {"path": "rootfs"},
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "capabilities": sets},
        "mounts": [mount for mount in defaults.mounts(64 << 20, cgroup_writable=False)],
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES], "cgroupsPath": f"{GROUP}/{name}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 256 << 20},
                          "cpu": {"shares": 512}, "pids": {"limit": 100}},
            "seccomp": default_profile(libc.MACHINE, frozenset(CAPABILITIES)),
            "maskedPaths": list(defaults.MASKED_PATHS), "readonlyPaths": list(defaults.READONLY_PATHS),
        },
    }  # fmt: skip


def make_bundle(directory: Path, name: str, args: list[str]) -> Path:
    """A bundle with a static busybox."""
    bundle = directory / name
    for part in ("bin", "proc", "sys", "dev", "etc"):
        (bundle / "rootfs" / part).mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs/bin/busybox")
    for applet in ("true", "sleep", "sh"):
        (bundle / "rootfs/bin" / applet).symlink_to("busybox")
    (bundle / "config.json").write_text(json.dumps(specification(name, args)))
    return bundle


class Warm:
    """A launcher, and messages to it as berth's engine sends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(launcher.command(sys.executable, theirs.fileno()), pass_fds=[theirs.fileno()])
        theirs.close()
        self.cache = str(directory / "cache")

    def send(self, message: dict, extra: tuple[int, ...] = ()) -> socket.socket:
        """Starts one; returns the connection on which its monitor reports."""
        ours, theirs = socket.socketpair()
        data = json.dumps({
            "runtime": None, "terminal": False, "stdin": False, "log": None, "exit_path": "", "socket": "",
            "attach": [0], "seccomp_cache": self.cache, "state_dir": str(self.directory), **message,
        }).encode()  # fmt: skip
        socket.send_fds(self.socket, [data], [*extra, theirs.fileno()])
        theirs.close()
        return ours

    def run(self, bundle: Path, name: str) -> socket.socket:
        lock = os.open(bundle / "config.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self.send({"kind": "start", "id": name, "bundle": str(bundle), "rootfs": None}, (lock,))
        finally:
            os.close(lock)

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


def read_frames(connection: socket.socket) -> Iterator[tuple[bytes, dict]]:
    """Until the monitor closes; a start that failed ends the benchmark."""
    decoder = frames.Decoder()
    while data := connection.recv(65536):
        for kind, payload in decoder.feed(data):
            if kind == frames.FAILED:
                sys.exit(f"start failed: {payload.decode()}")
            yield kind, json.loads(payload)


def finish(connection: socket.socket) -> None:
    """Waits for the program's end: frame X says exit code 0."""
    with connection:
        for kind, report in read_frames(connection):
            if kind == frames.EXITED:
                assert report["exit_code"] == 0, report
                return
    sys.exit("a monitor ended without a report")


def command(words: list[str]) -> Callable[[], None]:
    """A case that is one process."""

    def run() -> None:
        pid = os.posix_spawn(words[0], words, dict(os.environ), file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"{' '.join(words)} failed")

    return run


def alternate(cases: dict[str, Callable[[], None]], rounds: int, quiet_s: float) -> dict[str, float]:
    """Median milliseconds of each case, one of each in turn; the first two rounds do not count.

    Before each there is a quiet spell, as between a person's commands: the kernel makes who moves a process
    into a cgroup first wait for a grace period, and whoever comes within it profits from who came before.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 2):
        for name, case in cases.items():
            time.sleep(quiet_s)
            start = time.perf_counter()
            case()
            if number > 1:
                samples[name].append((time.perf_counter() - start) * 1000)
    for name, values in samples.items():
        values.sort()
        print(f"  {name:34} median {statistics.median(values):7.2f} ms   (best {values[0]:.2f}, 90 % {values[int(len(values) * 0.9)]:.2f})")
    return {name: statistics.median(values) for name, values in samples.items()}


def ratio(medians: dict[str, float], ours: str, theirs: str) -> None:
    print(f"  ratio {ours} / {theirs}: {medians[ours] / medians[theirs]:.2f} (aim: at most 1)")


def bench_run(directory: Path, warm: Warm, rounds: int, quiet_s: float) -> None:
    bundle = make_bundle(directory, "run", ["/bin/true"])
    state = f"{directory}/state"
    cases = {
        "berth-oci run (cold)": command([BERTH, "--root", f"{state}-berth", "run", "-b", str(bundle), "x"]),
        "runc run": command([shutil.which("runc") or "runc", "--root", f"{state}-runc", "run", "-b", str(bundle), "x"]),
        "launcher (warm)": lambda: finish(warm.run(bundle, "x")),
        "crun run": command([shutil.which("crun") or "crun", "--root", f"{state}-crun", "run", "-b", str(bundle), "x"]),
    }
    print(f"run /bin/true, {rounds} rounds:")
    medians = alternate(cases, rounds, quiet_s)
    ratio(medians, "berth-oci run (cold)", "runc run")
    ratio(medians, "launcher (warm)", "crun run")


def bench_exec(directory: Path, warm: Warm, rounds: int, quiet_s: float) -> None:
    bundle = make_bundle(directory, "exec", ["/bin/sleep", "1000"])
    crun, state = shutil.which("crun") or "crun", f"{directory}/exec-crun"
    connection = warm.run(bundle, "exec")
    kind, report = next(read_frames(connection))
    assert kind == frames.STARTED
    spec = json.loads((bundle / "config.json").read_text())
    other = make_bundle(directory, "exec-crun-bundle", ["/bin/sleep", "1000"])
    subprocess.run([crun, "--root", state, "run", "-d", "-b", str(other), "y"], check=True, stdout=subprocess.DEVNULL)
    message = {
        "kind": "exec", "id": "exec", "bundle": str(bundle), "pid": report["pid"], "annotations": {}, "uid_mappings": [], "keep": "",
        "process": {**spec["process"], "args": ["/bin/true"]}, "cgroup_path": spec["linux"]["cgroupsPath"], "namespaces": None,
        "seccomp_path": container.seccomp_path(spec["linux"]["seccomp"], warm.cache),
    }  # fmt: skip

    def execute() -> None:
        pidfd = os.pidfd_open(report["pid"])
        finish(warm.send(message, (pidfd,)))
        os.close(pidfd)

    try:
        print(f"exec /bin/true in a running container, {rounds} rounds:")
        theirs = command([crun, "--root", state, "exec", "y", "/bin/true"])
        medians = alternate({"launcher (warm)": execute, "crun exec": theirs}, rounds, quiet_s)
        ratio(medians, "launcher (warm)", "crun exec")
    finally:
        os.kill(report["pid"], 9)
        for _ in read_frames(connection):
            pass
        connection.close()
        subprocess.run([crun, "--root", state, "delete", "-f", "y"], check=False)


def bench_many(directory: Path, warm: Warm, count: int, rounds: int, quiet_s: float) -> None:
    bundles = [make_bundle(directory, f"many{number}", ["/bin/true"]) for number in range(count)]
    crun, state = shutil.which("crun") or "crun", f"{directory}/many-crun"

    def berth_all() -> None:
        for connection in [warm.run(bundle, bundle.name) for bundle in bundles]:
            finish(connection)

    def crun_all() -> None:
        pids = [
            os.posix_spawn(crun, [crun, "--root", state, "run", "-b", str(bundle), bundle.name], dict(os.environ)) for bundle in bundles
        ]
        for pid in pids:
            if os.waitpid(pid, 0)[1]:
                sys.exit("crun failed")

    print(f"{count} at once, {rounds} rounds (milliseconds for all of them):")
    medians = alternate({"launcher (warm)": berth_all, "crun run": crun_all}, rounds, quiet_s)
    for name, value in medians.items():
        print(f"  {name}: {value / count:.2f} ms each")
    ratio(medians, "launcher (warm)", "crun run")


def left_behind(directory: Path) -> None:
    """What there is afterwards that was not there before, seen from outside."""
    parents = [path for path in Path("/sys/fs/cgroup").glob(f"**{GROUP}") if (path / "cgroup.procs").exists()]
    groups: list[Path] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        groups = [path for parent in parents for path in parent.iterdir() if path.is_dir()]
        if not groups:
            break
        time.sleep(0.05)
    mounts = Path("/proc/self/mountinfo").read_text().count(str(directory))
    print(f"left behind: {len(groups)} cgroups, {mounts} mounts")
    for path in Path("/sys/fs/cgroup").glob(f"**{GROUP}"):
        # crun makes plain directories where the v2 hierarchy was mounted.
        path.rmdir() if path in parents else shutil.rmtree(path)


def without_v2_hierarchy() -> None:
    """Starts this program again in a mount namespace in which crun runs too."""
    hosts = cgroup.hierarchies()
    if hosts.version == 1 and hosts.v2:
        script = f'umount -l "{hosts.v2}" && exec "$@"'
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--quiet", type=float, default=0.05, metavar="SECONDS", help="before each run; 0 for none")
    parser.add_argument("--only", choices=("run", "exec", "many"))
    options = parser.parse_args()
    without_v2_hierarchy()
    assert capabilities.mask(CAPABILITIES) & ~capabilities.bounding_set() == 0, "this host cannot give Docker's capabilities"
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/var/tmp") as name:
        directory = Path(name)
        warm = Warm(directory)
        try:
            if options.only in (None, "run"):
                bench_run(directory, warm, options.rounds, options.quiet)
            if options.only in (None, "exec"):
                bench_exec(directory, warm, options.rounds, options.quiet)
            if options.only in (None, "many"):
                bench_many(directory, warm, options.many, max(3, options.rounds // 10), options.quiet)
        finally:
            warm.close()
        left_behind(directory)


if __name__ == "__main__":
    main()
