"""Runs inside a throw-away machine: builds for arm64 without and with an emulator; prints what came of them as one JSON object.

    python3 v2_build_qemu.py DIRECTORY     with src, wheels, buildhost.py, qemu-aarch64-static, amd64.tar and arm64.tar in it
"""

import json
import os
import subprocess
import sys
import tarfile

MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
HANDLERS = "/proc/sys/fs/binfmt_misc"
DOCKERFILE = (
    "FROM bb\nARG TARGETARCH\nRUN uname -m >/machine && echo \"$QEMU_CPU\" >/cpu && head -c 3000000 /dev/zero | sha256sum >/sum\n"
    "ENV FOR=$TARGETARCH\n"
)  # fmt: skip


def register(flags: str) -> None:
    if not os.path.exists(f"{HANDLERS}/register"):
        subprocess.run(["mount", "-t", "binfmt_misc", "none", HANDLERS], check=True)
    if os.path.exists(f"{HANDLERS}/qemu-aarch64"):
        with open(f"{HANDLERS}/qemu-aarch64", "w") as file:
            file.write("-1")
    with open(f"{HANDLERS}/register", "w") as file:
        file.write(f":qemu-aarch64:M::{MAGIC}:{MASK}:/usr/local/bin/qemu-aarch64-static:{flags}")


def main(shared: str) -> dict:
    sys.path[:0] = [shared, f"{shared}/src", f"{shared}/wheels"]
    os.environ["PYTHONPATH"] = f"{shared}/src:{shared}/wheels"
    import buildhost

    subprocess.run(["install", "-m", "755", f"{shared}/qemu-aarch64-static", "/usr/local/bin/"], check=True)
    top = "/root/builds"
    os.mkdir(top)
    buildhost.REPOSITORY = shared
    host = buildhost.BuildHost(top, {"bb": f"{shared}/arm64.tar|linux/arm64"})
    build = {"dockerfile": DOCKERFILE, "platforms": ["linux/arm64"]}
    found: dict = {"without": host.run(build)[0]["error"]}
    register("")
    found["unfixed"] = host.run(build)[0]["error"]
    register("F")
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
    print(json.dumps(main(os.path.dirname(os.path.abspath(__file__)))))
