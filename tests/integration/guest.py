"""What a throw-away machine needs of us to run an engine in it."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
VMLAB = Path(os.environ.get("BERTH_VMLAB") or REPOSITORY.parent / "shared/vmlab/vmlab")
_GUEST_PYTHON = "3.13"


def share(into: Path, *scripts: str) -> None:
    """berth's source, these scripts from beside us, and the wheels, as a machine sees them in its shared directory."""
    shutil.copytree(REPOSITORY / "src", into / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for script in scripts:
        shutil.copy(Path(__file__).with_name(script), into)
    (into / "wheels").mkdir()
    _wheels(into / "wheels")


def _wheels(into: Path) -> None:
    """The engine's compiled dependency for the guest's Python, as the guest has no network."""
    cache = Path(tempfile.gettempdir()) / f"berth-test-wheels-{os.getuid()}-py{_GUEST_PYTHON}"
    if not list(cache.glob("httptools-*.whl")):
        with tempfile.TemporaryDirectory() as new:
            command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--no-deps", "--dest", new]
            command += ["--python-version", _GUEST_PYTHON, "--platform", "manylinux2014_x86_64", "httptools"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no httptools wheel for Python {_GUEST_PYTHON}: {done.stderr.strip()[-300:]}")
            cache.mkdir(mode=0o700, exist_ok=True)
            for wheel in Path(new).glob("*.whl"):
                shutil.copy(wheel, cache / wheel.name)
    if cache.stat().st_uid != os.getuid():
        pytest.skip(f"{cache} belongs to somebody else")
    for wheel in cache.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
