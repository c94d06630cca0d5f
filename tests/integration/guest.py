"""Throw-away machines: running something in one, and what one needs of us to run an engine in it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
VMLAB = Path(os.environ.get("BERTH_VMLAB") or REPOSITORY.parent / "shared/vmlab/vmlab")
SHARE = "/mnt/berth"  # where a machine sees the directory that it is given
_GUEST_PYTHON = "3.13"
_PACKAGES = ("httptools", "dnspython")


def need() -> None:
    """Skips where no machine can be had."""
    if not VMLAB.exists():
        pytest.skip(f"no virtual machine runner at ../shared/vmlab/vmlab ({VMLAB})")
    if os.geteuid() != 0:
        pytest.skip("vmlab needs root")


def run(shared: "Path | str", script: str, *options: str, timeout_s: int, mode: str = "ro") -> "subprocess.CompletedProcess[str]":
    """Runs a script of `shared` in a machine that sees it as SHARE and gets that as its argument; options: of `vmlab run`.

    At a low priority: a machine takes minutes and other tests beside it have deadlines.
    """
    command = ["nice", "-n", "10", str(VMLAB), "run", *options, "--timeout", str(timeout_s), "--share", f"{shared}:{SHARE}:{mode}", "--"]
    return subprocess.run([*command, f"python3 {SHARE}/{script}"], capture_output=True, text=True, check=False)


def findings(done: "subprocess.CompletedProcess[str]") -> "dict[str, Any]":
    """The JSON object that such a script has printed; fails if it did not come to that."""
    if done.returncode != 0:
        pytest.fail(f"the machine ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout))


def share(into: Path, *scripts: str) -> None:
    """berth's source, these scripts from beside us, and the wheels, as a machine sees them in its shared directory."""
    shutil.copytree(REPOSITORY / "src", into / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for script in scripts:
        shutil.copy(Path(__file__).with_name(script), into)
    (into / "wheels").mkdir()
    _wheels(into / "wheels")


def _wheels(into: Path) -> None:
    """What the engine needs of PyPI, for the guest's Python, as the guest has no network."""
    cache = Path(tempfile.gettempdir()) / f"berth-test-wheels-{os.getuid()}-py{_GUEST_PYTHON}"
    if not all(list(cache.glob(f"{name}-*.whl")) for name in _PACKAGES):
        with tempfile.TemporaryDirectory() as new:
            command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--no-deps", "--dest", new]
            command += ["--python-version", _GUEST_PYTHON, "--platform", "manylinux2014_x86_64", *_PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no wheels of {' and '.join(_PACKAGES)} for Python {_GUEST_PYTHON}: {done.stderr.strip()[-300:]}")
            cache.mkdir(mode=0o700, exist_ok=True)
            for wheel in Path(new).glob("*.whl"):
                shutil.copy(wheel, cache / wheel.name)
    if cache.stat().st_uid != os.getuid():
        pytest.skip(f"{cache} belongs to somebody else")
    for wheel in cache.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
