"""Builds for arm64 by qemu-user-static through binfmt_misc, with Debian's qemu-user-static and its busybox-static for arm64.

binfmt_misc is the whole machine's. Where nobody has an emulator for arm64 registered and a mount namespace may mount it, this machine is used for
a moment; else a throw-away one.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import guest
import pytest
from debianparts import debian_file
from v2_build_qemu import HANDLERS, NAME

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
_MOUNTED = f"test -e {HANDLERS}/register || mount -t binfmt_misc none {HANDLERS}"


def _in_own_mounts(*words: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command where mounts are nobody else's, with binfmt_misc."""
    script = f'{_MOUNTED} && exec "$@"'
    return subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *words], capture_output=True, text=True, check=False)


def _handlers() -> list[str] | None:
    """Those that this machine has; None where it cannot have any."""
    done = _in_own_mounts("ls", HANDLERS)
    return None if done.returncode else sorted(set(done.stdout.split()) - {"register", "status"})


def _here(directory: Path) -> dict[str, Any]:
    done = _in_own_mounts(sys.executable, str(Path(__file__).with_name("v2_build_qemu.py")), str(directory))
    assert done.returncode == 0, done.stdout + done.stderr
    assert NAME not in (_handlers() or [])
    return dict(json.loads(done.stdout))


def _elsewhere(directory: Path) -> dict[str, Any]:
    guest.need()
    guest.share(directory, "v2_build_qemu.py", "buildhost.py")
    return guest.findings(guest.run(directory, "v2_build_qemu.py", timeout_s=600))


def _image(rootfs_tar: str, busybox: Path, path: Path) -> None:
    """The same files with another busybox."""
    with tarfile.open(rootfs_tar) as source, tarfile.open(path, "w") as out:
        for member in source:
            if member.name.endswith("bin/busybox"):
                member.size = busybox.stat().st_size
                with busybox.open("rb") as file:
                    out.addfile(member, file)
            else:
                out.addfile(member, source.extractfile(member) if member.isfile() else None)


def test_foreign_steps(rootfs_tar: str, tmp_path: Path) -> None:
    handlers = _handlers()
    is_free = handlers is not None and not [name for name in handlers if "aarch64" in name or "arm64" in name]
    if not is_free:
        guest.need()
    shutil.copy(debian_file("qemu-user-static", "usr/bin/qemu-aarch64-static"), tmp_path / "qemu-aarch64-static")
    _image(rootfs_tar, debian_file("busybox-static", "bin/busybox", "arm64"), tmp_path / "arm64.tar")
    found = _here(tmp_path) if is_free else _elsewhere(tmp_path)
    assert "install Debian's packages qemu-user-static and binfmt-support" in found["without"]
    assert "register it with the flag F" in found["unfixed"]
    assert found["files"]["machine"] == "aarch64\n"
    assert found["files"]["cpu"] == "max,pauth-impdef=on\n"
    assert found["files"]["sum"].split()[0] == hashlib.sha256(bytes(3_000_000)).hexdigest()
    assert found["config"]["architecture"] == "arm64"
    assert [each.partition("=")[0] for each in found["config"]["config"]["Env"]] == ["PATH", "FOR"]  # the emulator's settings are none of the image's
    assert len(found["cached"]) == 1
    assert found["failed"] == found["left"] == []
