"""Builds for arm64 by qemu-user-static through binfmt_misc, which is the whole machine's: in a throw-away one.

Needs Debian's qemu-user-static, or BERTH_QEMU_AARCH64 with the path of its qemu-aarch64-static, and BERTH_BUSYBOX_ARM64: busybox of
Debian's busybox-static for arm64.
"""

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import guest
import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


def test_foreign_steps(rootfs_tar: str, tmp_path: Path) -> None:
    guest.need()
    qemu = os.environ.get("BERTH_QEMU_AARCH64") or shutil.which("qemu-aarch64-static")
    busybox = os.environ.get("BERTH_BUSYBOX_ARM64", "")
    if not qemu or not os.path.exists(busybox):
        pytest.skip("needs qemu-aarch64-static and a busybox for arm64 (BERTH_QEMU_AARCH64, BERTH_BUSYBOX_ARM64)")
    guest.share(tmp_path, "v2_build_qemu.py", "buildhost.py")
    shutil.copy(qemu, tmp_path / "qemu-aarch64-static")
    with tarfile.open(rootfs_tar) as source, tarfile.open(tmp_path / "arm64.tar", "w") as out:
        for member in source:
            if member.name.endswith("bin/busybox"):
                member.size = os.path.getsize(busybox)
                with open(busybox, "rb") as file:
                    out.addfile(member, file)
            else:
                out.addfile(member, source.extractfile(member) if member.isfile() else None)
    found = guest.findings(guest.run(tmp_path, "v2_build_qemu.py", timeout_s=600))
    assert "install Debian's packages qemu-user-static and binfmt-support" in found["without"]
    assert "register it with the flag F" in found["unfixed"]
    assert found["files"]["machine"] == "aarch64\n"
    assert found["files"]["cpu"] == "max,pauth-impdef=on\n"
    assert found["files"]["sum"].split()[0] == hashlib.sha256(bytes(3_000_000)).hexdigest()
    assert found["config"]["architecture"] == "arm64"
    assert found["config"]["config"]["Env"] == ["FOR=arm64"]  # the emulator's settings are none of the image's
    assert len(found["cached"]) == 1
    assert found["failed"] == found["left"] == []
