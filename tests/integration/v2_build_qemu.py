"""Builds for arm64 without and with an emulator; prints what came of them as one JSON object.

    python3 v2_build_qemu.py [DIRECTORY]     (default its own) with qemu-aarch64-static and arm64.tar in it; in a throw-away machine also src, wheels, buildhost.py

The emulator is registered for the whole machine while this runs. Elsewhere than in a throw-away machine it is to be run in a mount namespace
of its own, whose binfmt_misc goes with it.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from typing import Any

MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
HANDLERS, NAME = "/proc/sys/fs/binfmt_misc", "berth-test-aarch64"
DOCKERFILE = (
    "FROM bb\nARG TARGETARCH\nRUN uname -m >/machine && echo \"$QEMU_CPU\" >/cpu && head -c 3000000 /dev/zero | sha256sum >/sum\n"
    "ENV FOR=$TARGETARCH\n"
)  # fmt: skip


def unregister() -> None:
    if os.path.exists(f"{HANDLERS}/{NAME}"):
        with open(f"{HANDLERS}/{NAME}", "w") as file:
            file.write("-1")


def register(emulator: str, flags: str) -> None:
    unregister()
    with open(f"{HANDLERS}/register", "w") as file:
        file.write(f":{NAME}:M::{MAGIC}:{MASK}:{emulator}:{flags}")


def main(shared: str) -> dict:
    if os.path.isdir(f"{shared}/src"):
        sys.path[:0] = [shared, f"{shared}/src", f"{shared}/wheels"]
        os.environ["PYTHONPATH"] = f"{shared}/src:{shared}/wheels"
    import buildhost

    if os.path.isdir(f"{shared}/src"):
        buildhost.REPOSITORY = shared
    if not os.path.exists(f"{HANDLERS}/register"):
        subprocess.run(["mount", "-t", "binfmt_misc", "none", HANDLERS], check=True)
    with tempfile.TemporaryDirectory(prefix="berth-test-", dir="/var/tmp") as top:  # short: its sockets have to be
        try:
            return builds(shared, top, buildhost)
        finally:
            unregister()


def builds(shared: str, top: str, buildhost: Any) -> dict:
    emulator = shutil.copy(f"{shared}/qemu-aarch64-static", f"{top}/emulator")
    os.chmod(emulator, 0o755)
    host = buildhost.BuildHost(top, {"bb": f"{shared}/arm64.tar|linux/arm64"})
    build = {"dockerfile": DOCKERFILE, "platforms": ["linux/arm64"]}
    found: dict = {"without": host.run(build)[0]["error"]}
    register(emulator, "")
    found["unfixed"] = host.run(build)[0]["error"]
    register(emulator, "F")
    made = host.build(DOCKERFILE, platforms=["linux/arm64"], outputs=[{"type": "tar", "dest": f"{top}/out"}, {"type": "image"}])
    with tarfile.open(f"{top}/out") as tar:
        found["files"] = {name: tar.extractfile(name).read().decode() for name in ("machine", "cpu", "sum")}  # type: ignore[union-attr]
    again = host.build(DOCKERFILE, platforms=["linux/arm64"], outputs=[{"type": "oci", "dest": f"{top}/oci"}])
    found["cached"] = [event["label"] for event in buildhost.kinds(again, "cached")]
    with tarfile.open(f"{top}/oci") as tar:
        blobs = [tar.extractfile(member).read() for member in tar if member.isfile()]  # type: ignore[union-attr]
    found["config"] = next(json.loads(blob) for blob in blobs if blob.startswith(b'{"architecture"'))
    found["failed"] = buildhost.kinds(made, "failed")
    found["left"] = host.left()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))))
