"""Builds: what is cached, small steps, stages side by side, a large context. berth and dockerd's own builder in turn.

    .venv/bin/python bench/build.py [--rounds 5] [--only cached,run,stages,context]

Starts a berth engine and a dockerd (overlay2, classic builder) of its own. Docker's CLI drives both; where a column says so, `berth build`
drives berth. Steps have no network, as neither engine here has a bridge. Needs root, docker.io and busybox-static.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/integration"))

from harness import make_rootfs_tar
from run_latency import berth_engine, dockerd

Environment = dict[str, str]
_PARTS = ("cached", "run", "stages", "context")
_AIMS = {"cached": 0.3, "run": 0.35, "context": 0.3}
_FILES, _STEPS = 20_000, 20
_REPOSITORY = Path(__file__).resolve().parent.parent


def docker_build(environment: Environment, directory: str, *options: str) -> None:
    command = ["docker", "build", "--network", "none", "-t", "bench", *options, directory]
    _run(command, {**environment, "DOCKER_BUILDKIT": "0"})


def berth_build(environment: Environment, directory: str, *options: str) -> None:
    command = [str(_REPOSITORY / "berth"), "build", "--network", "none", "-t", "bench", "--progress", "plain", *options, directory]
    _run(command, {**environment, "BERTH_HOST": environment["DOCKER_HOST"]})


def _run(command: list[str], environment: Environment) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def steps_of(top: str) -> str:
    path = f"{top}/steps"
    os.makedirs(path)
    lines = [f"RUN echo {number} >/f{number}" for number in range(_STEPS - 1)]
    Path(path, "Dockerfile").write_text("\n".join(["FROM bb", *lines]) + "\n")
    return path


def stages_of(top: str) -> str:
    path = f"{top}/stages"
    os.makedirs(path)
    lines = [f"FROM bb AS s{number}\nRUN sleep 5 && echo {number} >/done" for number in range(4)]
    copies = [f"COPY --from=s{number} /done /done{number}" for number in range(4)]
    Path(path, "Dockerfile").write_text("\n".join([*lines, "FROM bb", *copies]) + "\n")
    return path


def context_of(top: str) -> str:
    path = f"{top}/context"
    for number in range(_FILES):
        directory = f"{path}/d{number // 200}"
        if number % 200 == 0:
            os.makedirs(directory)
        Path(directory, f"f{number}").write_text(f"file {number}\n" * 40)
    Path(path, "Dockerfile").write_text("FROM bb\nRUN echo once >/once\nCOPY . /all\n")
    return path


def compare(title: str, rounds: int, ways: dict[str, Callable[[], None]], aim: float | None) -> None:
    """Each in turn; prints medians and the median of the pairs' ratios to the last."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways) if number % 2 else list(ways)[::-1]
        for name in order:
            started = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - started)
    print(f"{title}:")
    base = times[list(ways)[-1]]
    for name, found in times.items():
        ratio = statistics.median(own / other for own, other in zip(found, base, strict=True))
        said = f"  ratio {ratio:.2f}" if found is not base else ""
        print(f"  {name:28} {statistics.median(found):7.3f} s ({min(found):.3f} to {max(found):.3f}){said}")
    if aim:
        print(f"  (aim: at most {aim})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(_PARTS))
    given = parser.parse_args()
    top = tempfile.mkdtemp(prefix="berth-bench-build-", dir="/var/tmp")
    has_own = "build" in subprocess.run([str(_REPOSITORY / "berth"), "--help"], capture_output=True, text=True, check=False).stdout
    try:
        for name in ("berth", "dockerd"):
            os.mkdir(f"{top}/{name}")
        with berth_engine(Path(top, "berth")) as berth, dockerd(Path(top, "dockerd")) as real:
            if real is None:
                sys.exit("needs dockerd: Debian's docker.io")
            make_rootfs_tar(f"{top}/rootfs.tar")
            for environment in (berth, real):
                _run(["docker", "import", f"{top}/rootfs.tar", "bb"], environment)
            print(f"load {' '.join(f'{each:.2f}' for each in os.getloadavg())}, {os.cpu_count()} processors")
            for part in given.only.split(","):
                _part(part, top, given.rounds, berth, real, has_own=has_own)
            print(f"load {' '.join(f'{each:.2f}' for each in os.getloadavg())}")
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _part(part: str, top: str, rounds: int, berth: Environment, real: Environment, *, has_own: bool) -> None:
    directory = {"cached": steps_of, "run": steps_of, "stages": stages_of, "context": context_of}[part](top)
    options = () if part in ("cached", "context") else ("--no-cache",)

    def changed(build: Callable[[Environment, str], None], environment: Environment) -> None:
        Path(directory, "d7/f1400").write_text(f"{time.time_ns()}\n")
        build(environment, directory)

    ways: dict[str, Callable[[], None]] = {}
    clients = {"Docker's CLI on berth": (docker_build, berth), "Docker's CLI on dockerd": (docker_build, real)}
    if has_own:
        clients = {"berth build": (berth_build, berth), **clients}
    for name, (build, environment) in clients.items():
        build(environment, directory)  # whatever can be cached is
        ways[name] = (lambda b=build, e=environment: changed(b, e)) if part == "context" else (lambda b=build, e=environment: b(e, directory, *options))
    compare(part, rounds, ways, _AIMS.get(part))
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
