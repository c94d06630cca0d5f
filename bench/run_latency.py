"""How long `run` takes: berth against dockerd, alternating, on the same root file system.

    .venv/bin/python bench/run_latency.py [--rounds 30] [--containers 200]

Starts a berth engine and a dockerd of its own (roots in a temporary directory), so it needs root,
Debian's docker.io and busybox-static. Prints medians and ratios, and writes nothing else.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BERTH = [str(ROOT / "berth")]
IMAGE = "bench"


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Milliseconds of one run; the command must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000


def root_archive(path: Path) -> None:
    """A tar with a static busybox as `true` and `sleep`."""
    with tarfile.open(path, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("true", "sleep", "sh", "cat"):
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)


@contextlib.contextmanager
def berth_engine(base: Path, exec_root: str = "") -> Iterator[dict[str, str]]:
    """An engine of our own; yields the environment that names it. exec_root: '' for one below `base`."""
    exec_root = exec_root or f"{base}/exec"
    ready, there = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "berth.cli.engine_main", "--data-root", f"{base}/data", "--exec-root", exec_root]
    with (base / "engine.log").open("w") as log:
        engine = subprocess.Popen([*command, "--ready-fd", str(there)], pass_fds=[there], env=environment, stderr=log)
    os.close(there)
    try:
        if not os.read(ready, 16):
            sys.exit((base / "engine.log").read_text())
        yield {**os.environ, "DOCKER_HOST": f"unix://{exec_root}/berth.sock", "ENGINE_PID": str(engine.pid)}
    finally:
        os.close(ready)
        engine.terminate()
        engine.wait()


@contextlib.contextmanager
def dockerd(base: Path, exec_root: str = "") -> Iterator[dict[str, str] | None]:
    """A dockerd of our own; None where it is not installed. exec_root: '' for one below `base`."""
    if not shutil.which("dockerd"):
        yield None
        return
    environment = {**os.environ, "DOCKER_HOST": f"unix://{base}/docker.sock"}
    command = ["dockerd", "--data-root", f"{base}/data", "--exec-root", exec_root or f"{base}/exec", "--host", environment["DOCKER_HOST"],
               "--pidfile", f"{base}/pid", "--iptables=false", "--bridge=none"]  # fmt: skip
    with (base / "log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                sys.exit(f"dockerd did not start:\n{(base / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait()


def alternate(cases: dict[str, tuple[list[str], dict[str, str]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each case, one of each in turn; the first round does not count."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, (command, environment) in cases.items():
            took = timed(command, environment)
            if number:
                samples[name].append(took)
    for name, values in samples.items():
        low, high = min(values), max(values)
        print(f"  {name:44} median {statistics.median(values):7.1f} ms   ({low:.1f} to {high:.1f})")
    return {name: statistics.median(values) for name, values in samples.items()}


def monitor_memory(environment: dict[str, str]) -> None:
    """Private memory of the monitor of an idle container."""
    identity = subprocess.run(
        ["docker", "run", "-d", "--network", "none", IMAGE, "sleep", "1000"], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    template = "{{.State.Pid}}"
    pid = subprocess.run(["docker", "inspect", "-f", template, identity], env=environment, capture_output=True, text=True, check=True)
    status = Path(f"/proc/{pid.stdout.strip()}/status").read_text()
    monitor = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    rollup = Path(f"/proc/{monitor}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Private_Dirty:", "Private_Clean:")))
    print(f"monitor of an idle container: {private / 1024:.2f} MiB private (aim: at most 1.5)")
    subprocess.run(["docker", "rm", "-f", identity], env=environment, capture_output=True, check=True)


def many(environment: dict[str, str], count: int) -> None:
    """Starts `count` containers one at a time, then eight at a time; then looks for what is left."""
    command = [*BERTH, "run", "--rm", "--network", "none", IMAGE, "true"]
    timed(command, environment)
    before = present(environment)
    alone = statistics.mean(timed(command, environment) for _ in range(count // 4))
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: timed(command, environment), range(count)))
    together = (time.perf_counter() - start) * 1000 / count
    print(f"{count} containers: {alone:.1f} ms each one at a time, {together:.1f} ms each eight at a time "
          f"(ratio {together / alone:.2f}; aim: at most 1)")  # fmt: skip
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and present(environment) != before:
        time.sleep(0.1)
    after = present(environment)
    print("left behind:", {what: after[what] - before[what] for what in after})


def present(environment: dict[str, str]) -> dict[str, int]:
    """What there is of this engine's, and of what every container on this host has, counted from outside."""
    base = Path(environment["DOCKER_HOST"].removeprefix("unix://")).parent.parent
    engine = environment["ENGINE_PID"]
    launchers = subprocess.run(["pgrep", "-P", engine], capture_output=True, text=True, check=False).stdout.split()
    monitors = [p for launcher in launchers for p in subprocess.run(
        ["pgrep", "-P", launcher], capture_output=True, text=True, check=False).stdout.split()]  # fmt: skip
    return {
        "monitors": len(monitors), "mounts": Path("/proc/mounts").read_text().count(str(base)),
        "cgroups": len(list(Path("/sys/fs/cgroup").glob("**/berth/*/"))),
        "namespaces": len(subprocess.run(["lsns", "-nro", "NS"], capture_output=True, text=True, check=True).stdout.split()),
        "descriptors": len(os.listdir(f"/proc/{engine}/fd")) + sum(len(os.listdir(f"/proc/{p}/fd")) for p in launchers),
        "directories": len(list((base / "data/containers").iterdir())) + len(list((base / "exec/containers").iterdir())),
    }  # fmt: skip


def cold_start(environment: dict[str, str]) -> None:
    """`run` where no engine runs: what it adds to one where one does. Times an engine's start to ready."""
    samples = []
    for _ in range(5):
        with tempfile.TemporaryDirectory(prefix="berth-bench.") as directory:
            start = time.perf_counter()
            with berth_engine(Path(directory)):
                samples.append((time.perf_counter() - start) * 1000)
    print(f"an engine from nothing to serving: median {statistics.median(samples):.0f} ms (aim: at most 400)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--containers", type=int, default=200)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="berth-bench.")))
        for name in ("berth", "docker"):
            (base / name).mkdir()
        root_archive(base / "root.tar")
        berth = stack.enter_context(berth_engine(base / "berth"))
        docker = stack.enter_context(dockerd(base / "docker"))
        for environment in filter(None, (berth, docker)):
            subprocess.run(["docker", "import", str(base / "root.tar"), IMAGE], env=environment, stdout=subprocess.DEVNULL, check=True)
        run = ["run", "--rm", "--network", "none", IMAGE, "true"]
        cases = {"berth command, berth engine": (BERTH + run, berth), "docker command, berth engine": (["docker", *run], berth)}
        if docker:
            cases["docker command, dockerd"] = (["docker", *run], docker)
        print(f"run --rm --network none IMAGE true, {options.rounds} rounds:")
        medians = alternate(cases, options.rounds)
        if docker:
            reference = medians["docker command, dockerd"]
            for name in list(medians)[:2]:
                print(f"  ratio {name} / dockerd: {medians[name] / reference:.3f} (aim: at most 0.20)")
        print("ps on the berth engine:")
        listed = alternate({"berth ps": ([*BERTH, "ps"], berth), "docker ps": (["docker", "ps"], berth)}, options.rounds)
        print(f"  ratio {listed['berth ps'] / listed['docker ps']:.2f} (aim: at most 1)")
        monitor_memory(berth)
        cold_start(berth)
        many(berth, options.containers)


if __name__ == "__main__":
    main()
