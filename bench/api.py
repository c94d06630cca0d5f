"""The API's numbers: lists, inspect, exec, and what an idle engine takes. berth and dockerd in turn, in one run.

    .venv/bin/python bench/api.py [--stopped 1000] [--running 100] [--rounds 7] [--seconds 60] [--only list,inspect,...]

Starts a berth engine and a dockerd (Debian's docker.io) of its own and gives both the same containers. Requests a
second are curl's, over kept-alive connections. Needs root, docker.io, curl and busybox-static. Logs: api_logs.py.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from api_logs import cpu_s, docker, resident
from run_latency import IMAGE, alternate, berth_engine, dockerd, root_archive

Environment = dict[str, str]
_AT_ONCE = 4
_PARTS = ("list", "inspect", "ps", "exec", "idle", "health")


def fetch(environment: Environment, path: str) -> bytes:
    """One GET by curl, which fails on an error status."""
    sock = environment["DOCKER_HOST"].removeprefix("unix://")
    command = ["curl", "-sSf", "--unix-socket", sock, f"http://d/v1.41{path}"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def requests_a_second(environment: Environment, path: str, count: int, clients: int) -> float:
    """`count` requests by each of some curl processes at once, each on one connection."""
    sock = environment["DOCKER_HOST"].removeprefix("unix://")
    separator = "&" if "?" in path else "?"
    command = ["curl", "-sSf", "--unix-socket", sock, "-o", "/dev/null", f"http://d/v1.41{path}{separator}n=[1-{count}]"]
    start = time.perf_counter()
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(clients)]
    if any([process.wait() for process in processes]):
        sys.exit(f"curl failed at {path}")
    return count * clients / (time.perf_counter() - start)


def compare(name: str, measure: Callable[[Environment], float], engines: dict[str, Environment], rounds: int) -> None:
    """Medians of something that is better when larger, and their ratio; the first round does not count."""
    samples: dict[str, list[float]] = {who: [] for who in engines}
    for number in range(rounds + 1):
        for who, environment in engines.items():
            value = measure(environment)
            if number:
                samples[who].append(value)
    print(f"{name}:")
    for who, values in samples.items():
        print(f"  {who:44} median {statistics.median(values):8.0f} requests/s   ({min(values):.0f} to {max(values):.0f})")
    if len(samples) == 2:
        berth, other = (statistics.median(values) for values in samples.values())
        print(f"  ratio {berth / other:.2f} (aim: at least 1)")


def rate(name: str, path: str, each: int, engines: dict[str, Environment], rounds: int) -> None:
    """Requests a second by one client and by several at once; `each`: requests of one client in a round."""
    for clients in (1, _AT_ONCE):
        compare(f"{name}, {clients} at once", lambda environment, clients=clients: requests_a_second(  # type: ignore[misc]
            environment, path, each // clients, clients), engines, rounds)  # fmt: skip


def fill(environment: Environment, count: int) -> None:
    """Containers that have run and stopped."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda n: docker(environment, "run", "-d", "--name", f"stopped-{n}", "--label", f"number={n}", "--network", "none",
                                       IMAGE, "true"), range(count)))  # fmt: skip
    deadline = time.monotonic() + 60
    while docker(environment, "ps", "-q") and time.monotonic() < deadline:
        time.sleep(0.1)
    found = len(docker(environment, "ps", "-aq").split())
    if found != count:
        sys.exit(f"{count} containers were made, {found} are there")


def exec_times(engines: dict[str, Environment], rounds: int) -> None:
    """`docker exec C true`; how long the CLI takes for nothing, to know what of it is the engine's."""
    names = {who: docker(environment, "run", "-d", "--network", "none", IMAGE, "sleep", "10000") for who, environment in engines.items()}
    print(f"docker exec C true, {rounds} rounds:")
    cases = {who: (["docker", "exec", names[who], "true"], environment) for who, environment in engines.items()}
    cases["the CLI alone (docker --version)"] = (["docker", "--version"], dict(os.environ))
    medians = list(alternate(cases, rounds).values())
    if len(engines) == 2:
        print(f"  ratio {medians[0] / medians[1]:.3f} (aim: at most 0.40)")
    for who, environment in engines.items():
        docker(environment, "rm", "-f", names[who])


def idle(environment: Environment, count: int, seconds: int, options: tuple[str, ...], title: str) -> None:
    """CPU and memory of engine and launcher while `count` containers sleep."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = list(pool.map(lambda _: docker(environment, "run", "-d", "--network", "none", *options, IMAGE, "sleep", "10000"), range(count)))
    if options:  # every container has been probed once
        deadline = time.monotonic() + 120
        while len(docker(environment, "ps", "-q", "--filter", "health=healthy").split()) < count and time.monotonic() < deadline:
            time.sleep(0.5)
    engine = int(environment["ENGINE_PID"])
    launcher = next(pid for pid in children(engine))
    time.sleep(3)
    before = [cpu_s(engine) or 0.0, cpu_s(launcher) or 0.0]
    start = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - start
    used = [((cpu_s(pid) or 0.0) - was) / took * 100 for pid, was in zip((engine, launcher), before, strict=True)]
    print(f"{title}, {count} containers, {seconds} s: engine {used[0]:.2f} % of a core, launcher {used[1]:.2f} %, "
          f"together {sum(used):.2f} % (aim: below 0.5); resident MiB: engine {resident(engine):.0f} (aim: below 60), "
          f"launcher {resident(launcher):.0f}")  # fmt: skip
    docker(environment, "rm", "-f", *running)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


@contextlib.contextmanager
def both_engines() -> Iterator[dict[str, Environment]]:
    """berth first, then dockerd, where that is installed; each with the image."""
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/var/tmp")))
        for name in ("berth", "docker"):
            (base / name).mkdir()
        root_archive(base / "root.tar")
        # Both have their run directories on the tmpfs where they are outside of a benchmark.
        run = stack.enter_context(tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/run"))
        engines = {"berth": stack.enter_context(berth_engine(base / "berth", f"{run}/berth"))}
        if other := stack.enter_context(dockerd(base / "docker", f"{run}/docker")):
            engines["dockerd"] = other
        for environment in engines.values():
            docker(environment, "import", str(base / "root.tar"), IMAGE)
        try:
            yield engines
        finally:
            for environment in engines.values():
                if left := docker(environment, "ps", "-aq").split():
                    docker(environment, "rm", "-f", *left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stopped", type=int, default=1000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=60, help="of idleness")
    parser.add_argument("--only", default=",".join(_PARTS), help=f"some of {','.join(_PARTS)}")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := set(parts) - set(_PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: choose from {', '.join(_PARTS)}")
    print(f"load {' '.join(f'{load:.2f}' for load in os.getloadavg())}, {os.cpu_count()} processors")
    with both_engines() as engines:
        if "exec" in parts:
            exec_times(engines, given.rounds * 10)
        if "idle" in parts:
            idle(engines["berth"], given.running, given.seconds, (), "idle")
        if "health" in parts:
            idle(engines["berth"], given.running, given.seconds, ("--health-cmd", "true", "--health-interval", "30s"), "health checks every 30 s")
        if {"list", "inspect", "ps"} & set(parts):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda environment: fill(environment, given.stopped), engines.values()))
        if "list" in parts:
            rate(f"GET /containers/json?all=1 of {given.stopped}", "/containers/json?all=1", 40, engines, given.rounds)
        if "inspect" in parts:
            for environment in engines.values():  # the same thing is asked of both
                assert json.loads(fetch(environment, "/containers/stopped-5/json"))["State"]["Status"] == "exited"
            rate("GET /containers/{id}/json", "/containers/stopped-5/json", 8000, engines, given.rounds)
        if "ps" in parts:
            print(f"docker ps -a of {given.stopped}:")
            medians = list(alternate({who: (["docker", "ps", "-a"], environment) for who, environment in engines.items()}, given.rounds).values())
            if len(medians) == 2:
                print(f"  ratio {medians[0] / medians[1]:.2f} (aim: at most 1)")
    print(f"load {' '.join(f'{load:.2f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
