"""`berth system service` and the log driver journald, inside the machine of systemd_host.py, which calls `service`.

The engine runs as the unit that berth wrote, with a virtual environment of its own as an installation would have it.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from typing import Any

from v2_host import busybox_archive

PLACE = "/opt/berth"
SOCKET = "/run/berth/berth.sock"
CONFIG = "/etc/berth/daemon.json"
UNITS = ("berth.socket", "berth.service")


def run(*command: str, data: bytes | None = None) -> dict[str, Any]:
    """A program's exit code and its text. Its output goes to files: what a container inherits would hold a pipe open."""
    out = f"/run/service-host.{os.getpid()}"
    with open(out, "w+b") as file:
        given: dict[str, Any] = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        code = subprocess.run(command, stdout=file, stderr=file, check=False, timeout=240, **given).returncode
    return {"code": code, "text": pathlib.Path(out).read_text(errors="replace").strip()}


def berth(*words: str, data: bytes | None = None) -> dict[str, Any]:
    return run(f"{PLACE}/bin/python", "-IS", f"{PLACE}/src/berth/cli/__main__.py", *words, data=data)


def show(unit: str, *names: str) -> dict[str, str]:
    lines = run("systemctl", "show", unit, "-p", ",".join(names))["text"].splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def main_pid() -> int:
    return int(show("berth.service", "MainPID")["MainPID"])


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The condition's value once it is one, or the last."""
    end = time.monotonic() + timeout_s
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def states() -> list[str]:
    return list(run("systemctl", "is-active", *UNITS)["text"].split())


def asked(path: str) -> Any:
    """The engine's answer to a GET."""
    return json.loads(run("curl", "-sS", "-m", "200", "--unix-socket", SOCKET, f"http://x{path}")["text"])


def pid_of(name: str) -> int:
    return int(asked(f"/containers/{name}/json")["State"]["Pid"])


def journal(*words: str) -> str:
    """What the journal has by now, when it has taken everything in."""
    run("journalctl", "--sync")
    return str(run("journalctl", "--no-pager", "-q", *words)["text"])


def service() -> dict[str, Any]:
    venv.create(PLACE, with_pip=False)
    shutil.copytree(f"{sys.argv[1]}/src", f"{PLACE}/src")  # where byte code can be kept
    packages = next(pathlib.Path(PLACE, "lib").glob("python3*/site-packages"))
    (packages / "berth-test.pth").write_text(f"{sys.argv[1]}/wheels\n")
    found: dict[str, Any] = {"before": berth("system", "service", "status")}
    found["install"] = berth("system", "service", "install", "--group", "user")
    found["enabled"] = run("systemctl", "is-enabled", *UNITS)["text"].split()
    status = os.stat(SOCKET)
    found["socket"] = [status.st_uid, status.st_gid, oct(status.st_mode & 0o777)]
    found["states before"] = states()
    found["first request"] = run("curl", "-sS", "-m", "200", "--unix-socket", SOCKET, "http://x/_ping")["text"]
    found["states after"] = states()
    found["group"] = run("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "curl", "-sS", "--unix-socket", SOCKET, "http://x/_ping")["text"]
    found["others"] = run("setpriv", "--reuid=999", "--regid=999", "--clear-groups", "curl", "-sS", "--unix-socket", SOCKET, "http://x/_ping")["code"]
    found["running status"] = berth("system", "service", "status")
    found["unit"] = show("berth.service", "Type", "NotifyAccess", "SubState")
    found["import"] = berth("import", "-", "bb", data=busybox_archive())
    script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done"
    found["run"] = berth("run", "-d", "--name", "goes-on", "--memory", "64m", "bb", "sh", "-c", script)
    pid = pid_of("goes-on")
    found["container group"] = pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip()
    found["oom score"] = pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
    # Two starts of the engine and no more: each takes seconds in an emulated machine.
    found["restart"] = _restart()
    found["reload"] = _reload()
    found["same container"] = os.path.exists(f"/proc/{pid}") and pid_of("goes-on") == pid
    found["exec"] = berth("exec", "goes-on", "echo", "well")
    found["limit"] = pathlib.Path(f"/sys/fs/cgroup/berth/{found['run']['text']}/memory.max").read_text().strip()
    lines = berth("logs", "goes-on")["text"].splitlines()
    found["lines"] = [len(lines), lines == [f"line {number}" for number in range(len(lines))]]
    found["journal"] = journal("-u", "berth.service", "-o", "cat")
    found["journald"] = _journald()
    found["syslog"] = _syslog()
    found["stop"] = _stop()
    found["lives"] = [os.path.exists(f"/proc/{pid}")]
    found["uninstall"] = berth("system", "service", "uninstall")
    found["lives"].append(os.path.exists(f"/proc/{pid}"))
    found["left"] = [os.path.lexists(path) for path in (SOCKET, *(f"/etc/systemd/system/{unit}" for unit in UNITS))]
    found["left units"] = run("systemctl", "list-unit-files", "--no-legend", "berth*")["text"]
    found["wanted by"] = [str(path) for path in pathlib.Path("/etc/systemd/system").rglob("berth*")]
    found["after"] = berth("system", "service", "status")
    return found


def _restart() -> dict[str, Any]:
    before = main_pid()
    return {"done": run("systemctl", "restart", "berth.service"), "new engine": main_pid() not in (0, before), "states": states()}


def _reload() -> dict[str, Any]:
    before = main_pid()
    os.makedirs(os.path.dirname(CONFIG), exist_ok=True)
    pathlib.Path(CONFIG).write_text('{"labels": ["rack=7"], "log-level": "debug"}')
    found = {"done": run("systemctl", "reload", "berth.service")}
    found["labels"] = until(lambda: asked("/info")["Labels"])
    return {**found, "same engine": main_pid() == before}


def _stop() -> dict[str, Any]:
    found: dict[str, Any] = {"done": run("systemctl", "stop", "berth.socket", "berth.service"), "states": states()}
    found["socket file"] = os.path.lexists(SOCKET)
    return {**found, "status": berth("system", "service", "status")}


def _journald() -> dict[str, Any]:
    script = "echo to standard output; echo to standard error >&2; printf 'no line end'"
    options = ("--log-driver", "journald", "--label", "rack=7", "--log-opt", "labels=rack", "--log-opt", "tag={{.Name}}/x")
    found: dict[str, Any] = {"run": berth("run", "--name", "to-journal", *options, "bb", "sh", "-c", script)}

    found["entries"] = _entries("CONTAINER_NAME=to-journal", number=3)
    found["id"] = asked("/containers/to-journal/json")["Id"]
    found["logs"] = berth("logs", "to-journal")
    return found


def _entries(*words: str, number: int) -> list[dict]:
    """The journal's entries, once there are so many."""

    def now() -> list[dict]:
        return [json.loads(line) for line in journal(*words, "-o", "json").splitlines()]

    return until(lambda: len(some := now()) == number and some) or now()


def _syslog() -> dict[str, Any]:
    """To this host's own syslog, which is journald behind /dev/log."""
    options = ("--log-driver", "syslog", "--log-opt", "tag={{.Name}}", "--log-opt", "syslog-facility=local3")
    found: dict[str, Any] = {"run": berth("run", "--name", "to-syslog", *options, "bb", "sh", "-c", "echo out; echo wrong >&2")}
    return found | {"entries": _entries("-t", "to-syslog", number=2), "logs": berth("logs", "to-syslog")}
