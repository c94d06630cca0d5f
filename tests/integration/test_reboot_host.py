"""A machine that loses its power with containers running: a real restart of a host, with the kernel's own boot id."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

_DISK_BYTES = 256 << 20


def _boot(shared: Path, phase: str) -> dict[str, Any]:
    """What reboot_host.py found in that phase; the machine ends with it, in one way or the other."""
    done = guest.run(shared, f"reboot_host.py {guest.SHARE} {phase}", "--via", "uml", timeout_s=180, mode="rw")
    found = shared / f"{phase}.json"
    assert found.exists(), f"the machine ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-4000:]}"
    findings: dict[str, Any] = json.loads(found.read_text())
    assert "error" not in findings, findings["error"] + findings["log"][-3000:]
    return findings


def test_a_loss_of_power() -> None:
    guest.need()
    with tempfile.TemporaryDirectory(prefix="berth-reboot.", dir="/var/tmp") as directory:
        shared = Path(directory)
        guest.share(shared, "v2_host.py", "reboot_host.py")
        with open(shared / "disk", "wb") as disk:
            disk.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", shared / "disk"], check=True)
        before, after = _boot(shared, "before"), _boot(shared, "after")
    assert before["boot"] != after["boot"]
    states = {name: (c["State"]["Status"], c["State"]["ExitCode"]) for name, c in after["seen"].items()}
    running = ("running", 0)
    assert states == {
        "always": running, "unless-stopped": running, "on-failure": running, "stopped-always": running,
        "no": ("exited", 255), "stopped": ("exited", 137), "ended": ("exited", 9),
    }, after["log"]  # fmt: skip
    for name, container in after["seen"].items():
        assert container["Id"] == before["seen"][name]["Id"]
        assert container["HostConfig"] == before["seen"][name]["HostConfig"]
        assert container["RestartCount"] == 0
    assert after["seen"]["no"]["State"]["FinishedAt"] >= before["seen"]["no"]["State"]["StartedAt"]
    assert set(after["directories"]) <= {container["Id"] for container in after["seen"].values()}
    assert after["programs"] == "4"
    assert after["run"]["text"] == "whole\nBusyBox", "the image has lost bytes"
    assert after["log"].count("ended with the host, which was restarted") == 5
    assert "Traceback" not in after["log"]
