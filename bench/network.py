"""Networks: what a start on a bridge costs, throughput and requests by published ports and between containers, and many containers.

    .venv/bin/python bench/network.py [--rounds 20] [--containers 200] [--only run,host,between,many]

berth and dockerd in turn, each in a network namespace that the bench makes for it: in one, every packet of either would also pass the
other's rules. Docker's CLI drives both. Needs root, docker.io, iptables, nginx, iperf3, wrk and busybox-static; the image is made of the host's own programs.
Prints medians and ratios, and writes nothing else.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run_latency import BERTH, alternate, berth_engine

Environment = dict[str, str]
IMAGE = "bench"
_PARTS = ("run", "host", "between", "many")
_NGINX = """
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000; server { listen 80; location / { return 200 "hello"; } } }
"""
_SECONDS = 4
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def new_host() -> int:
    """This process goes into a network namespace like a host's, with a way out -> its descriptor."""
    if _libc.unshare(_CLONE_NEWNET):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    for words in (("link", "set", "lo", "up"), ("link", "add", "out", "type", "bridge"), ("address", "add", "10.66.0.1/24", "dev", "out"),
                  ("link", "set", "out", "up"), ("route", "add", "default", "via", "10.66.0.254")):  # fmt: skip
        subprocess.run(["ip", *words], check=True)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(host: int) -> None:
    if _libc.setns(host, _CLONE_NEWNET):
        sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")


def docker(environment: Environment, *words: str) -> str:
    done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docker {' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


def libraries(program: str) -> list[str]:
    """What the dynamic linker loads for it."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
    return [word for word in lines if word.startswith("/")]


def image(path: Path) -> None:
    """busybox, nginx and iperf3 of this machine."""
    with tarfile.open(path, "w", dereference=True) as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("true", "sleep", "sh", "cat", "wget"):
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        programs = [str(shutil.which(name)) for name in ("nginx", "iperf3")]
        for file in sorted({*programs, *(library for program in programs for library in libraries(program))}):
            tar.add(file, file.lstrip("/"))
        for name, text in (("etc/nginx.conf", _NGINX), ("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"), ("etc/group", "nogroup:x:65534:\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, __import__("io").BytesIO(text.encode()))
        for name in ("tmp", "var/lib/nginx", "var/log/nginx"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(info)


@contextlib.contextmanager
def dockerd(base: Path) -> Iterator[Environment]:
    """One with its default bridge and iptables, as people have it."""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{base}/docker.sock"}
    command = ["dockerd", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--host", environment["DOCKER_HOST"], "--pidfile", f"{base}/pid"]
    with (base / "log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or daemon.poll() is not None:
                sys.exit(f"dockerd did not start:\n{(base / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait()


def compare(what: str, unit: str, cases: dict[str, Callable[[], float]], hosts: dict[str, int], rounds: int, aim: str) -> None:
    """By turns, each on its engine's host, who was second is first the next time."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in sorted(cases, reverse=number % 2 == 1):
            enter(hosts[name])
            samples[name].append(cases[name]())
    print(f"{what}:")
    for name, values in samples.items():
        print(f"  {name:10} median {statistics.median(values):10.1f} {unit}   ({min(values):.1f} to {max(values):.1f})")
    print(f"  ratio {statistics.median(samples['berth']) / statistics.median(samples['dockerd']):.2f} (aim: {aim})", flush=True)


def iperf(*words: str) -> float:
    """Mbit/s received."""
    done = subprocess.run([*words, "-t", str(_SECONDS), "-J"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    if "error" in found:
        sys.exit(f"{' '.join(words)}: {found['error']}")
    return float(found["end"]["sum_received"]["bits_per_second"]) / 1e6


def requests(url: str) -> float:
    """A second, over connections that stay."""
    done = subprocess.run(["wrk", "-t", "1", "-c", "8", "-d", str(_SECONDS), url], capture_output=True, text=True, check=True)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("Requests/sec")).split()[1])


def connections(url: str) -> float:
    """Requests a second, each over a connection of its own."""
    done = subprocess.run(["ab", "-q", "-n", "4000", "-c", "8", url], capture_output=True, text=True, check=True)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("Requests per second")).split()[3])


def until_served(url: str) -> None:
    deadline = time.monotonic() + 20
    while subprocess.run(["curl", "-sf", "-m", "1", "-o", "/dev/null", url], check=False).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"{url} does not answer")
        time.sleep(0.05)


def run(engines: dict[str, Environment], rounds: int) -> None:
    print("docker run --rm IMAGE true, on the default bridge:")
    cases: dict[str, tuple[list[str], Environment]] = {
        f"{name}, {kind}": (["docker", "run", "--rm", *options, IMAGE, "true"], environment)
        for kind, options in (("bridge", []), ("no network", ["--network", "none"])) for name, environment in engines.items()
    }  # fmt: skip
    cases["berth's own CLI, bridge"] = ([*BERTH, "run", "--rm", IMAGE, "true"], engines["berth"])
    medians = alternate(cases, rounds)
    print(f"  ratio {medians['berth, bridge'] / medians['dockerd, bridge']:.3f}, with berth's own CLI "
          f"{medians[cli] / medians['dockerd, bridge']:.3f} (aim: at most 0.15)" if (cli := "berth's own CLI, bridge") else "", flush=True)  # fmt: skip


def host(engines: dict[str, Environment], hosts: dict[str, int], rounds: int) -> None:
    """From the host to published ports."""
    ports = {"berth": (18080, 18201), "dockerd": (18081, 18202)}
    made = []
    for name, environment in engines.items():
        web, speed = ports[name]
        made.append((environment, docker(environment, "run", "-d", "-p", f"{web}:80", IMAGE, "nginx", "-c", "/etc/nginx.conf")))
        made.append((environment, docker(environment, "run", "-d", "-p", f"{speed}:5201", IMAGE, "iperf3", "-s")))
        enter(hosts[name])
        until_served(f"http://10.66.0.1:{web}/")
    address = "10.66.0.1"
    compare("TCP from the host to a published port", "Mbit/s",
            {name: lambda port=ports[name][1]: iperf("iperf3", "-c", address, "-p", str(port)) for name in engines}, hosts, rounds, "at least 1")  # type: ignore[misc]  # fmt: skip
    compare("requests to a published port, connections kept", "/s",
            {name: lambda port=ports[name][0]: requests(f"http://{address}:{port}/") for name in engines}, hosts, rounds, "at least 1")  # type: ignore[misc]  # fmt: skip
    compare("requests to a published port, one a connection", "/s",
            {name: lambda port=ports[name][0]: connections(f"http://{address}:{port}/") for name in engines}, hosts, rounds, "at least 1")  # type: ignore[misc]  # fmt: skip
    for environment, identity in made:
        docker(environment, "rm", "-f", identity)


def between(engines: dict[str, Environment], hosts: dict[str, int], rounds: int) -> None:
    """Two containers of one network."""
    for environment in engines.values():
        docker(environment, "network", "create", "bench")
        docker(environment, "run", "-d", "--name", "speed", "--network", "bench", IMAGE, "iperf3", "-s")
        docker(environment, "run", "-d", "--name", "asks", "--network", "bench", IMAGE, "sleep", "10000")

    def one(environment: Environment) -> float:
        done = docker(environment, "exec", "asks", "iperf3", "-c", "speed", "-t", str(_SECONDS), "-J")
        return float(json.loads(done)["end"]["sum_received"]["bits_per_second"]) / 1e6

    cases = {name: lambda env=env: one(env) for name, env in engines.items()}  # type: ignore[misc]
    compare("TCP between two containers", "Mbit/s", cases, hosts, rounds, "at least 1")
    for environment in engines.values():
        docker(environment, "rm", "-f", "speed", "asks")
        docker(environment, "network", "rm", "bench")


def counted() -> dict[str, int]:
    """What networks leave behind, if they do."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    rules = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    sockets = subprocess.run(["ss", "-Hltun"], capture_output=True, text=True, check=True).stdout
    namespaces = subprocess.run(["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True).stdout
    return {"links": len(links), "lines of rules": len(rules.splitlines()), "sockets": len(sockets.splitlines()), "namespaces": len(namespaces.splitlines())}


def many(environment: Environment, count: int) -> None:
    """All of them run at the end: does the last one take longer than the first?"""
    docker(environment, "run", "--rm", IMAGE, "true")
    before, took, made = counted(), [], []
    for number in range(count):
        start = time.perf_counter()
        made.append(docker(environment, "run", "-d", "-p", f"{20000 + number}:80", IMAGE, "sleep", "10000"))
        took.append((time.perf_counter() - start) * 1000)
    tenth = max(1, count // 10)
    first, last = statistics.median(took[:tenth]), statistics.median(took[-tenth:])
    print(f"{count} containers on one bridge, each with a port: the first tenth {first:.1f} ms each, the last {last:.1f} ms (ratio {last / first:.2f})")
    for start_ in range(0, count, 50):
        docker(environment, "rm", "-f", *made[start_ : start_ + 50])
    deadline = time.monotonic() + 30
    while (after := counted()) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    print("left behind:", {what: after[what] - before[what] for what in after}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--only", default=",".join(_PARTS))
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    print(f"load {' '.join(Path('/proc/loadavg').read_text().split()[:3])}, {os.cpu_count()} processors", flush=True)
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="berth-bench-", dir="/var/tmp")))
        for name in ("berth", "docker"):
            (top / name).mkdir()
        image(top / "image.tar")
        engines: dict[str, Environment] = {}
        hosts: dict[str, int] = {}
        for name, start in (("berth", berth_engine(top / "berth")), ("dockerd", dockerd(top / "docker"))):
            hosts[name] = new_host()
            engines[name] = stack.enter_context(start)
            docker(engines[name], "import", str(top / "image.tar"), IMAGE)
            docker(engines[name], "run", "--rm", IMAGE, "true")
        if "run" in wanted:
            run(engines, arguments.rounds)
        if "host" in wanted:
            host(engines, hosts, max(3, arguments.rounds // 5))
        if "between" in wanted:
            between(engines, hosts, max(3, arguments.rounds // 5))
        if "many" in wanted:
            enter(hosts["berth"])
            many(engines["berth"], arguments.containers)
        print(f"load {' '.join(Path('/proc/loadavg').read_text().split()[:3])}")


if __name__ == "__main__":
    main()
