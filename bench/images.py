"""Images: pull, push, load, save, what ten related ones take on the disk, and memory. berth and dockerd in turn, and skopeo.

    .venv/bin/python bench/images.py [--rounds 5] [--cache DIRECTORY] [--only pull,again,push,load,save,memory,disk]

Starts a berth engine, a dockerd (overlay2) and Debian's docker-registry of its own. The images are made once (debian.py; some
minutes) and kept in the cache. Needs root, docker.io, docker-registry, debootstrap and skopeo. Docker's CLI drives both
engines. Everything is on an ext4 of its own, in a file that is mounted: what the host's file system is like, and what others
do on it, is left out. What one run has left to be written to the disk is written before the next begins.
"""

import argparse
import contextlib
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/integration"))

from debian import RELATED, archives
from registries import docker_registry
from run_latency import berth_engine, dockerd

Environment = dict[str, str]
_PARTS = ("pull", "again", "push", "load", "save", "memory", "disk")
_LARGE_BYTES = 1 << 30
_DISK_BYTES = 16 << 30


def docker(environment: Environment, *words: str) -> str:
    done = subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docker {' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


def remove_all(environment: Environment) -> None:
    if images := docker(environment, "images", "-aq", "--no-trunc").split():
        docker(environment, "rmi", "-f", *dict.fromkeys(images))
    removing = Path(environment["DATA_ROOT"]) / "tmp"
    while (removing.parent / "layers").exists() and any(removing.iterdir()):  # berth removes files after it has answered
        time.sleep(0.05)


class _UnixConnection(http.client.HTTPConnection):
    """To an engine's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _ask_for(environment: Environment, name: str, *, times: int) -> float:
    """Seconds that so many pulls take from the request to the end of the answer, one after the other, each on a connection of its own."""
    start = time.perf_counter()
    for _ in range(times):
        connection = _UnixConnection(environment["DOCKER_HOST"].removeprefix("unix://"))
        connection.request("POST", f"/v1.41/images/create?fromImage={name}&tag=latest")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200 or b"error" in body.lower():
            sys.exit(f"pull of {name}: {body.decode()}")
    return time.perf_counter() - start


class Bench:
    """The engines under their names; `skopeo` beside them where it can do the like."""

    def __init__(self, engines: dict[str, Environment], base: Path, cache: Path, rounds: int) -> None:
        self.engines = engines
        self._base = base
        self._five, self._related = archives(cache, base / "making")
        self._rounds = rounds
        self._used_s = 0.0  # processor time of the engine in the last `_timed`

    def _compare(self, what: str, cases: dict[str, Callable[[], float]], aim: float) -> None:
        """Each case returns seconds. The first round does not count. Beside them the processor time of the engine, which others
        who are busy on the machine change less."""
        samples: dict[str, list[float]] = {name: [] for name in cases}
        used: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(self._rounds + 1):
            for name, case in cases.items():
                took = case()
                if number:
                    samples[name].append(took)
                    used[name].append(self._used_s)
        print(f"{what}:")
        for name, values in samples.items():
            processor = f"; processor {statistics.median(used[name]):6.2f} s" if name in self.engines else ""
            print(f"  {name:10} median {statistics.median(values):7.3f} s   ({min(values):.3f} to {max(values):.3f}){processor}")
        berth, other = (statistics.median(samples[name]) for name in ("berth", "dockerd"))
        spent, others = (statistics.median(used[name]) for name in ("berth", "dockerd"))
        print(f"  ratio {berth / other:.2f} (aim: at most {aim}), of processor time {spent / (others or 1):.2f}", flush=True)

    def _timed(self, *words: str, environment: Environment | None = None) -> float:
        os.sync()
        before = _processor_s(environment)
        start = time.perf_counter()
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        took = time.perf_counter() - start
        self._used_s = _processor_s(environment) - before
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stderr}")
        return took

    def _skopeo(self, source: str, target: str, *options: str) -> float:
        """`target` is below a directory of its own, or a registry's."""
        directory = self._base / "skopeo"
        took = self._timed("skopeo", "copy", "-q", *options, source, target.format(directory))
        shutil.rmtree(directory, ignore_errors=True)
        return took

    @contextlib.contextmanager
    def _registry(self) -> Iterator[str]:
        """An empty one."""
        with tempfile.TemporaryDirectory(dir=self._base) as root, docker_registry(root=root) as host:
            yield host

    @contextlib.contextmanager
    def _registry_with_five(self) -> Iterator[str]:
        """What `docker push` by dockerd makes of it: gzip at Go's level."""
        with self._registry() as host:
            environment = self.engines["dockerd"]
            docker(environment, "load", "-i", str(self._five))
            docker(environment, "tag", "five", f"{host}/five")
            docker(environment, "push", f"{host}/five")
            remove_all(environment)
            yield f"{host}/five"

    def pull(self) -> None:
        """Nothing of the image is there."""

        def case(environment: Environment) -> float:
            remove_all(environment)
            return self._timed("docker", "pull", name, environment=environment)

        with self._registry_with_five() as name:
            cases: dict[str, Callable[[], float]] = {who: lambda env=env: case(env) for who, env in self.engines.items()}  # type: ignore[misc]
            cases["skopeo"] = lambda: self._skopeo(f"docker://{name}", "oci:{0}:five", "--src-tls-verify=false")
            self._compare("pull of five layers, unpacked (skopeo: into a directory, not unpacked)", cases, 0.6)

    def again(self) -> None:
        """Everything is there."""
        with self._registry_with_five() as name:
            for environment in self.engines.values():
                docker(environment, "pull", name)
            self._compare("a second pull, the image is there", {
                who: lambda env=env: self._timed("docker", "pull", name, environment=env)  # type: ignore[misc]
                for who, env in self.engines.items()}, 0.3)  # fmt: skip
            self._compare("the same, asked without Docker's CLI: ten of them", {
                who: lambda env=env: _ask_for(env, name, times=10)  # type: ignore[misc]
                for who, env in self.engines.items()}, 0.3)  # fmt: skip
            for environment in self.engines.values():
                remove_all(environment)

    def push(self) -> None:
        """Into a registry that has never seen it, of an image that came by `load`."""

        def case(environment: Environment) -> float:
            with self._registry() as host:
                docker(environment, "tag", "five", f"{host}/five")
                took = self._timed("docker", "push", f"{host}/five", environment=environment)
                docker(environment, "rmi", f"{host}/five")
            return took

        def skopeo() -> float:
            with self._registry() as host:
                return self._skopeo(f"docker-archive:{self._five}", f"docker://{host}/five", "--dest-tls-verify=false")

        for environment in self.engines.values():
            remove_all(environment)
            docker(environment, "load", "-i", str(self._five))
        self._compare("push of five layers (skopeo: from the archive)", {
            **{who: lambda env=env: case(env) for who, env in self.engines.items()}, "skopeo": skopeo}, 0.6)  # type: ignore[misc]  # fmt: skip

    def load(self) -> None:
        def case(environment: Environment) -> float:
            remove_all(environment)
            return self._timed("docker", "load", "-i", str(self._five), environment=environment)

        self._compare("load", {who: lambda env=env: case(env) for who, env in self.engines.items()}, 0.7)  # type: ignore[misc]

    def save(self) -> None:
        def case(environment: Environment) -> float:
            took = self._timed("docker", "save", "-o", str(target), "five", environment=environment)
            target.unlink()
            return took

        target = self._base / "saved.tar"
        for environment in self.engines.values():
            remove_all(environment)
            docker(environment, "load", "-i", str(self._five))
        self._compare("save", {who: lambda env=env: case(env) for who, env in self.engines.items()}, 0.7)  # type: ignore[misc]

    def memory(self) -> None:
        """The most that berth's engine has resident while it pulls; one that has just started."""
        with self._registry() as host:
            _push_large(self._base, f"{host}/large")
            docker(self.engines["dockerd"], "load", "-i", str(self._five))
            docker(self.engines["dockerd"], "tag", "five", f"{host}/five")
            docker(self.engines["dockerd"], "push", f"{host}/five")
            for name in ("five", "large"):
                with tempfile.TemporaryDirectory(dir=self._base) as directory, berth_engine(Path(directory)) as environment:
                    docker(environment, "pull", f"{host}/{name}")
                    print(f"peak memory of berth's engine that pulled `{name}`: {_peak_mib(int(environment['ENGINE_PID'])):.0f} MiB (aim: below 150)")

    def disk(self) -> None:
        """Bytes on the disk by du, of data roots that hold nothing else."""
        used = {}
        for who, environment in self.engines.items():
            remove_all(environment)
            root = Path(environment["DATA_ROOT"])
            os.sync()
            before = _du_bytes(root)
            docker(environment, "load", "-i", str(self._related))
            os.sync()
            used[who] = _du_bytes(root) - before
            remove_all(environment)
        print(f"{len(RELATED)} related images on the disk:")
        for who, count in used.items():
            print(f"  {who:10} {count / 1e6:7.0f} MB")
        print(f"  ratio {used['berth'] / used['dockerd']:.2f} (aim: at most 0.6)", flush=True)


def _processor_s(environment: Environment | None) -> float:
    """Of an engine and of the children that it has waited for."""
    if environment is None:
        return 0.0
    words = Path(f"/proc/{environment['ENGINE_PID']}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def _du_bytes(root: Path) -> int:
    return int(subprocess.run(["du", "-sx", "--block-size=1", str(root)], capture_output=True, text=True, check=True).stdout.split()[0])


def _push_large(base: Path, name: str) -> None:
    """An image of one layer that does not compress."""
    work = base / "large"
    work.mkdir()
    with (work / "data").open("wb") as file:
        for _ in range(_LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    with tarfile.open(work / "layer.tar", "w") as tar:
        tar.add(work / "data", "data")
    for command in (["umoci", "init", "--layout", "oci"], ["umoci", "new", "--image", "oci:large"],
                    ["umoci", "raw", "add-layer", "--image", "oci:large", "layer.tar"],
                    ["skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:oci:large", f"docker://{name}"]):  # fmt: skip
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(work)


@contextlib.contextmanager
def file_system() -> Iterator[Path]:
    """A fresh ext4, sparse, where it is mounted."""
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/var/tmp") as directory:
        image, mounted = Path(directory) / "disk", Path(directory) / "mounted"
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", "-l", str(mounted)], check=True)


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("/var/tmp/berth-bench-images"), help="where the images are kept")
    parser.add_argument("--only", default=",".join(_PARTS), help=f"some of {','.join(_PARTS)}")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := set(parts) - set(_PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: choose from {', '.join(_PARTS)}")
    print(f"load {_load()}, {os.cpu_count()} processors")
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(file_system())
        for name in ("berth", "docker"):
            (base / name).mkdir()
        engines = {"berth": stack.enter_context(berth_engine(base / "berth"))}
        if not (other := stack.enter_context(dockerd(base / "docker"))):
            sys.exit("dockerd is not installed: there is nothing to compare with")
        engines["dockerd"] = {**other, "ENGINE_PID": (base / "docker/pid").read_text()}
        for name, environment in zip(("berth", "docker"), engines.values(), strict=True):
            environment["DATA_ROOT"] = f"{base}/{name}/data"
        bench = Bench(engines, base, given.cache, given.rounds)
        for part in parts:
            getattr(bench, part)()
    print(f"load {_load()}")


if __name__ == "__main__":
    main()
