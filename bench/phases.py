"""Where the time of a warm start goes: draws the phases of the median of many starts as a picture.

    .venv/bin/python bench/phases.py [--rounds 60] [--svg bench/phases.svg]

Runs a launcher whose functions note when they begin and end (some 3 µs each), sends it starts of
bench/runtime.py's bundle, and prints the phases of the run whose total is the median, one lane for each
process: monitor, starter, init. Needs what bench/runtime.py needs, without runc and crun.
"""

import argparse
import mmap
import os
import statistics
import tempfile
import time
from pathlib import Path

import runtime as bench

LOG_VARIABLE = "BERTH_BENCH_PHASES"
REGIONS, REGION_BYTES = 61, 16384  # of the file of notes, one for each process
# What is shown; nested ones (a mount within `operations`) are left out of the bars but counted in the table.
NOTED = {
    "berth.runtime.monitor:Monitor": ["_make_pipes", "_drain", "_clean_up"],
    "berth.runtime.starter": ["load", "own_mount_namespace", "_make_work_directory", "Plan"],
    "berth.runtime.container": ["seccomp_program", "clone_init", "await_exec"],
    "berth.linux.cgroup:CgroupV1": ["create", "apply", "add", "kill"],
    "berth.linux.cgroup:CgroupV2": ["create", "apply", "kill"],
    "berth.runtime.enter": ["own_streams", "close_others", "prepare", "restrict"],
}
WORDS = {
    "load": "read and check config.json", "Plan": "plan", "create": "make the cgroup", "apply": "write its limits",
    "add": "move init into it", "seccomp_program": "take the filter from the cache", "clone_init": "clone with namespaces",
    "await_exec": "wait for execve", "own_mount_namespace": "mount namespace of its own", "restrict": "seccomp, capabilities",
    "prepare": "limits, ids, look the program up", "_make_pipes": "pipes", "kill": "end the group", "_clean_up": "remove the cgroup",
    "_make_work_directory": "work directory", "enter_cgroup": "wait to be in the cgroup", "mount_filesystem": "mount proc, dev, sys ...",
    "mount_cgroup": "mount the cgroup tree", "make_device": "devices", "make_link": "links in /dev", "mask": "mask paths",
    "make_readonly": "read-only paths", "pivot": "pivot_root", "prepare_root": "bind the root", "raise_loopback": "lo up",
    "set_hostname": "host name", "own_streams": "session", "close_others": "close what the program must not have", "_drain": "drain the pipes",
    "_open_log": "open the log",
}  # fmt: skip
COLOURS = {"monitor": "#5b8def", "starter": "#3aa76d", "init": "#e08e45"}


def noting_launcher(socket_fd: str) -> int:
    """The launcher, with notes; started by `main` as a process of its own."""
    import importlib

    with open(os.environ[LOG_VARIABLE], "r+b") as log:
        notes = mmap.mmap(log.fileno(), 0)
    used = [0, 0]  # whose bytes so far, how many

    def note(name: str, start_ns: int) -> None:
        # Not into a descriptor: all but a few are closed before a container can see the process.
        pid = os.getpid()
        used[:] = [pid, used[1] if used[0] == pid else 0]
        line = f"{pid} {start_ns} {time.perf_counter_ns()} {name}\n".encode()
        region = pid if pid < 8 else 8 + pid % (REGIONS - 8)  # in its own pid namespace init is 1
        at = region * REGION_BYTES + used[1]
        notes[at : at + len(line)] = line
        used[1] += len(line)

    def wrapped(name, function):
        def call(*arguments, **keywords):
            start_ns = time.perf_counter_ns()
            try:
                return function(*arguments, **keywords)
            finally:
                note(name, start_ns)

        return call

    for place, names in NOTED.items():
        module, _, cls = place.partition(":")
        holder = importlib.import_module(module)
        holder = getattr(holder, cls) if cls else holder
        for name in names:
            setattr(holder, name, wrapped(name, getattr(holder, name)))
    from berth.runtime import enter, launcher, monitor, operations, sealed

    for name, function in list(operations.OPERATIONS.items()):
        operations.OPERATIONS[name] = wrapped(name, function)
    execute, serve = enter.execute, monitor.Monitor.run

    def noted_execute(path, process):
        note("execve", time.perf_counter_ns())
        execute(path, process)

    def noted_run(self):
        note("monitor begins", time.perf_counter_ns())
        serve(self)

    enter.execute, monitor.Monitor.run = noted_execute, noted_run
    sealed.ensure = lambda **_: None
    return launcher.main(["launcher", socket_fd])


class Run:
    """One start: (lane, name, start and end in ms since the message was sent), and the total."""

    def __init__(self, lines: list[str], began_ns: int, ended_ns: int) -> None:
        self.total_ms = (ended_ns - began_ns) / 1e6
        rows = [line.split(None, 3) for line in lines]
        monitor = next(row[0] for row in rows if row[3] == "monitor begins")
        init = next(row[0] for row in rows if row[3] == "execve")
        self.phases = []
        for pid, start, end, name in rows:
            lane = "monitor" if pid == monitor else "init" if pid == init else "starter"
            self.phases.append((lane, name, (int(start) - began_ns) / 1e6, (int(end) - began_ns) / 1e6))
        self.phases.sort(key=lambda phase: phase[2])
        self.execve_ms = next(start for _, name, start, _ in self.phases if name == "execve")


def measure(rounds: int) -> list[Run]:
    """`rounds` starts, after five that do not count."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir="/var/tmp") as name:
        directory = Path(name)
        log = directory / "log"
        log.write_bytes(bytes(REGIONS * REGION_BYTES))
        os.environ[LOG_VARIABLE] = str(log)
        bench.launcher.command = lambda python, fd: [python, "-I", "-c", (
            f"import sys; sys.path[:0] = [{str(bench.ROOT / 'bench')!r}]; import phases; sys.exit(phases.noting_launcher('{fd}'))")]
        warm = bench.Warm(directory)
        bundle = bench.make_bundle(directory, "phases", ["/bin/true"])
        for number in range(rounds + 5):
            time.sleep(0.03)  # a quiet spell, as between a person's commands: not a wait for anything
            with log.open("r+b") as file:
                file.write(bytes(REGIONS * REGION_BYTES))
            began = time.perf_counter_ns()
            bench.finish(warm.run(bundle, "phases"))
            ended = time.perf_counter_ns()
            if number >= 5:
                runs.append(Run(noted(log.read_bytes(), began), began, ended))
        warm.close()
        bench.left_behind(directory)
    return runs


def noted(data: bytes, began_ns: int) -> list[str]:
    """Lines of all processes that are about this run; a spare monitor's own beginning is not."""
    lines = [line for part in data.split(b"\0") for line in part.decode().splitlines()]
    return [line for line in lines if int(line.split()[1]) >= began_ns]


def merged(run: Run) -> list[tuple[str, str, float, float]]:
    """Neighbours of one name in one lane as one bar."""
    bars: list[tuple[str, str, float, float]] = []
    for lane, name, start, end in run.phases:
        word = WORDS.get(name, name)
        if bars and bars[-1][:2] == (lane, word) and start - bars[-1][3] < 0.1:
            bars[-1] = (lane, word, bars[-1][2], end)
        else:
            bars.append((lane, word, start, end))
    return bars


def draw(run: Run) -> str:
    """An SVG: one row a phase, in time from left to right."""
    bars = [bar for bar in merged(run) if bar[3] - bar[2] >= 0.02 or bar[1] == "execve"]
    scale, left, row = 760 / run.total_ms, 260, 17
    height = row * len(bars) + 60
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="1080" height="{height}" font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>',
             f'<text x="10" y="20" font-size="14">A warm start, message to report: {run.total_ms:.2f} ms; execve after {run.execve_ms:.2f} ms</text>']  # fmt: skip
    for millisecond in range(int(run.total_ms) + 1):
        x = left + millisecond * scale
        parts.append(f'<line x1="{x:.1f}" y1="30" x2="{x:.1f}" y2="{height - 20}" stroke="#ddd"/><text x="{x:.1f}" y="{height - 6}">{millisecond}</text>')
    for number, (lane, word, start, end) in enumerate(bars):
        y, x, width = 34 + number * row, left + start * scale, max(1.0, (end - start) * scale)
        parts.append(f'<text x="10" y="{y + 12}" fill="{COLOURS[lane]}">{lane}</text><text x="70" y="{y + 12}">{word}</text>')
        parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{row - 4}" fill="{COLOURS[lane]}"/>')
        parts.append(f'<text x="{x + width + 4:.1f}" y="{y + 12}" fill="#666">{end - start:.2f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    bench.without_v2_hierarchy()
    runs = sorted(measure(options.rounds), key=lambda run: run.total_ms)
    middle = runs[len(runs) // 2]
    print(f"total: median {statistics.median(run.total_ms for run in runs):.2f} ms, best {runs[0].total_ms:.2f}; the median run:")
    for lane, word, start, end in merged(middle):
        print(f"  {lane:8} {start:7.2f}  {'#' * max(1, round((end - start) * 8)):<40.40} {end - start:6.2f} ms  {word}")
    if options.svg:
        options.svg.write_text(draw(middle))


if __name__ == "__main__":
    main()
