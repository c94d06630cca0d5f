"""How fast output goes through a log, and whether all of it arrives.

    .venv/bin/python bench/api_logs.py [--megabytes 1000] [--line 100] [--driver json-file] [--rounds 3]

A container copies a file of numbered lines to its standard output. What arrives in the log files and what
`curl` and `docker logs -f` give is counted and checksummed. Needs root, curl and busybox-static.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run_latency import IMAGE, berth_engine, root_archive

_MB = 1_000_000


def numbered_lines(path: Path, size_bytes: int, line_bytes: int) -> str:
    """Writes the lines; returns their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes // line_bytes, 10_000):
            text = "".join(f"{number:010d} ".ljust(line_bytes - 1, "x") + "\n" for number in range(start, start + 10_000)).encode()
            digest.update(text)
            file.write(text)
    return digest.hexdigest()


class Memory(threading.Thread):
    """The largest private memory that processes had, in MiB."""

    def __init__(self, pids: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.pids, self.peak, self.stop = pids, dict.fromkeys(pids, 0.0), threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            for name, pid in self.pids.items():
                self.peak[name] = max(self.peak[name], resident(pid))


def resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0.0


def cpu_s(pid: int) -> float | None:
    """Seconds of the processor that a process has used; None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def docker(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=True).stdout.strip()


def digest_of(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """SHA-256 and size of what a command prints."""
    digest, size = hashlib.sha256(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while data := process.stdout.read(1 << 20):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


def measure(environment: dict[str, str], base: Path, size: int, expected: str, driver: str, follow: str) -> None:
    """One container; follow: '' or who follows its log meanwhile."""
    options = ["--log-driver", driver, "--log-opt", "max-size=-1"] + (["--log-opt", "compress=false"] if driver == "local" else [])
    identity = docker(environment, "create", "-i", "--network", "none", "-v", f"{base}:/in:ro", *options, IMAGE, "sh", "-c",
                      "read go; exec cat /in/lines")  # fmt: skip
    docker(environment, "start", identity)
    first = int(docker(environment, "inspect", "-f", "{{.State.Pid}}", identity))
    monitor = int(next(line.split()[1] for line in Path(f"/proc/{first}/status").read_text().splitlines() if line.startswith("PPid:")))
    pids = {"monitor": monitor, "engine": int(environment["ENGINE_PID"])}
    memory = Memory(pids)
    memory.start()
    result: list[tuple[str, int]] = []
    sock = environment["DOCKER_HOST"].removeprefix("unix://")
    commands = {
        "docker logs -f": ["docker", "logs", "-f", identity],
        "curl": ["curl", "-sN", "--unix-socket", sock, f"http://d/v1.43/containers/{identity}/logs?stdout=1&follow=1"],
    }
    follower = threading.Thread(target=lambda: result.append(digest_of(commands[follow], environment))) if follow else None
    if follower:
        follower.start()
    before = {name: cpu_s(pid) or 0.0 for name, pid in pids.items()}
    start = time.perf_counter()
    connection = go(sock, identity)
    used = {"monitor": 0.0}
    while (now := cpu_s(monitor)) is not None:  # until its end, with the program's
        used["monitor"] = now - before["monitor"]
        time.sleep(0.005)
    connection.close()
    took = time.perf_counter() - start
    used["engine"] = (cpu_s(pids["engine"]) or 0.0) - before["engine"]
    if follower:
        follower.join()
    until_read = time.perf_counter() - start
    memory.stop.set()
    memory.join()
    read = digest_of(["docker", "logs", identity], environment)
    good = "all there" if read == (expected, size) else f"LOST: {size - read[1]} bytes"
    print(f"{driver:9} {follow or 'nobody follows':15} {size / took / _MB:6.0f} MB/s written, {good}; "
          f"peak MiB: monitor {memory.peak['monitor']:.0f}, engine {memory.peak['engine']:.0f}; "
          f"CPU s: monitor {used['monitor']:.1f}, engine {used['engine']:.1f}")  # fmt: skip
    if follow == "docker logs -f":
        good = "all there" if result[0] == (expected, size) else f"LOST: {size - result[0][1]} bytes"
        print(f"{'':25} {size / until_read / _MB:6.0f} MB/s read by {follow}, {good}")
    elif follow:
        print(f"{'':25} {size / until_read / _MB:6.0f} MB/s read by {follow}, {result[0][1]} bytes with headers")
    docker(environment, "rm", identity)


def go(sock: str, identity: str) -> socket.socket:
    """Tells the program to begin, by a hijacked connection that wants no output."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sock)
    connection.sendall(f"POST /v1.43/containers/{identity}/attach?stdin=1&stream=1 HTTP/1.1\r\nHost: d\r\n"
                       "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())  # fmt: skip
    connection.recv(1000)
    connection.sendall(b"go\n")
    return connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--line", type=int, default=100, help="bytes of a line")
    parser.add_argument("--driver", default="json-file", choices=["json-file", "local"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--follow", default=",curl,docker logs -f", help="who follows, each in turn; empty for nobody")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        base = Path(top)
        (base / "in").mkdir()
        count = given.megabytes * _MB // given.line // 10_000 * 10_000
        expected = numbered_lines(base / "in/lines", count * given.line, given.line)
        root_archive(base / "root.tar")
        with berth_engine(base) as environment:
            docker(environment, "import", str(base / "root.tar"), IMAGE)
            for _ in range(given.rounds):
                for follow in given.follow.split(","):
                    measure(environment, base / "in", count * given.line, expected, given.driver, follow)


if __name__ == "__main__":
    main()
