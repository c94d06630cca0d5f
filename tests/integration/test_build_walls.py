"""The walls of a build's step are a container's: what a RUN sees of itself beside what `docker run` of the same image sees."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildparts import docker_build
from harness import REPOSITORY, Engine

pytestmark = pytest.mark.root

# What the kernel says of a process that is first in its container; names of a kind, then its lines, sorted where their order means nothing.
LOOK = r"""
echo "@status"; grep -E '^(Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups|SigIgn|SigBlk)' /proc/self/status
echo "@label"; cat /proc/self/attr/current 2>/dev/null || echo none
echo "@ids"; cat /proc/self/uid_map /proc/self/gid_map
echo "@mounts"; awk '{ dash = 0; for (i = 7; i <= NF; i++) if ($i == "-") dash = i; print $5, $6, $(dash + 1) }' /proc/self/mountinfo | sort
echo "@masked"; for f in /proc/kcore /proc/keys /proc/timer_list /proc/acpi /proc/scsi /sys/firmware; do echo "$f $(head -c 1 $f 2>/dev/null | wc -c) $(ls $f 2>/dev/null | wc -l)"; done
echo "@read-only"; for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq /proc/bus /sys/kernel; do ( : >$f/x ) 2>&1 | sed 's/.*: //'; ( : >$f ) 2>&1 | sed 's/.*: //'; done
echo "@devices"; ls -lR /dev | awk '{ print $1, $5, $6, $NF }' | grep -v '^total' | sort
echo "@refused"; mount -t tmpfs none /tmp 2>&1; mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk 2>&1; rm -f /tmp/disk; unshare -m true 2>&1; date -s 2000-01-01 2>&1 | grep -v 2000; chroot / true && echo chroot
echo "@namespaces"; for n in user cgroup uts ipc net pid mnt; do readlink /proc/self/ns/$n; done
echo "@network"; ip -o link | awk '{ print $2 }'
echo "@limits"; cat /proc/self/limits
echo "@oom"; cat /proc/self/oom_score_adj
echo "@pid"; echo $$; cat /proc/1/comm
echo "@end"
"""


def look(text: str) -> dict[str, list[str]]:
    """What a LOOK printed, by kind."""
    parts = re.split(r"^@([a-z-]+)\n", text[text.index("@status") :], flags=re.M)[1:]
    return {name: lines.splitlines() for name, lines in zip(parts[::2], parts[1::2], strict=True)}


def both(engine: Engine, where: Path, *run_options: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(of a step, of a container)."""
    said = docker_build(engine, where, "FROM bb\nCOPY look /look\nRUN sh /look 2>&1\n", "--no-cache", "-t", "looked", files={"look": LOOK}).stdout
    return look(said), look(engine.docker("run", "--rm", *run_options, "looked", "sh", "-c", "sh /look 2>&1").stdout)


def assert_same_walls(engine: Engine, step: dict[str, list[str]], container: dict[str, list[str]]) -> None:
    for kind in set(container) - {"namespaces", "mounts", "limits", "end"}:
        assert step[kind] == container[kind], kind
    assert len(step["namespaces"]) == 7
    own = {name: os.readlink(f"/proc/{engine.process.pid}/ns/{name}") for name in ("uts", "ipc", "pid", "mnt", "net")}  # type: ignore[union-attr]
    assert not set(step["namespaces"]) & set(own.values())
    # a step's own files are those of the image; a container has them of its own besides
    assert [line for line in step["mounts"] if line not in container["mounts"]] == []
    assert [line.split()[0] for line in container["mounts"] if line not in step["mounts"]] == []
    assert step["limits"] == container["limits"]


def test_on_this_host(engine: Engine, tmp_path: Path) -> None:
    step, container = both(engine, tmp_path, "--network", "none")
    assert_same_walls(engine, step, container)
    table = dict(line.split(":\t", 1) for line in step["status"])
    assert table["CapEff"] == table["CapBnd"] == "00000000a80425fb"
    assert table["Seccomp"] == "2"
    assert not [line for line in step["refused"] if "ermi" not in line and line != "chroot"], step["refused"]


@pytest.fixture
def runc_engine(rootfs_tar: str) -> Iterator[Engine]:
    if not shutil.which("runc"):
        pytest.skip("needs Debian's runc")
    running = Engine(("--default-runtime", "runc"))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


def test_with_runc(runc_engine: Engine, tmp_path: Path) -> None:
    step, container = both(runc_engine, tmp_path, "--network", "none")
    assert_same_walls(runc_engine, step, container)
    done = docker_build(runc_engine, tmp_path, "FROM bb\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo out; echo err >&2; touch /c/f /t/f; exit 5\n", code=5)
    assert "out\nerr\n" in done.stdout
    docker_build(runc_engine, tmp_path, "FROM bb\nUSER alice\nWORKDIR /tmp\nRUN --mount=type=cache,target=/c test -e /c/f && id -un >who\n", "-t", "by-runc")
    assert runc_engine.run("by-runc", "sh", "-c", "cat who; stat -c %U who").stdout == "alice\nalice\n"


def test_in_a_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    step, container = both(userns_engine, tmp_path, "--network", "none")
    assert_same_walls(userns_engine, step, container)
    assert [line.split() for line in step["ids"]] == [["0", "200000", "65536"]] * 2


OWNERS = """FROM bb
COPY --chown=1000:50 f /copied
RUN touch /by-root && touch /by-alice && chown alice:staff /by-alice && chmod 4755 /by-alice && mkdir -m 1777 /shared && id -u && readlink /proc/self/ns/user
USER alice
RUN echo $(id -u):$(id -g) >/shared/mine && ! touch /etc/passwd
RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=tmpfs,target=/t touch /cache/f /t/f && stat -c %u:%g /cache/f /t/f /cache
FROM bb
COPY --from=0 /by-alice /shared/mine /copied /
"""


def test_owners_of_files_in_a_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    said = docker_build(userns_engine, tmp_path, OWNERS, "-t", "owned", "--target", "0", files={"f": "f\n"}).stdout
    assert "1000:1000\n1000:1000\n1000:0\n" in said
    seen = userns_engine.run("owned", "stat", "-c", "%n %u:%g %a", "/copied", "/by-root", "/by-alice", "/shared", "/shared/mine").stdout
    expected = "/copied 1000:50 644\n/by-root 0:0 644\n/by-alice 1000:50 4755\n/shared 0:0 1777\n/shared/mine 1000:1000 644\n"
    assert seen == expected
    archive = tmp_path / "owned.tar"
    userns_engine.docker("save", "-o", str(archive), "owned")
    assert layer_owners(archive) == {"copied": (1000, 50), "by-root": (0, 0), "by-alice": (1000, 50), "shared": (0, 0), "shared/mine": (1000, 1000)}
    docker_build(userns_engine, tmp_path, OWNERS, "-t", "copied")
    assert userns_engine.run("copied", "stat", "-c", "%n %u:%g %a", "/copied", "/by-alice", "/mine").stdout == "/copied 1000:50 644\n/by-alice 1000:50 4755\n/mine 1000:1000 644\n"
    on_disk = [os.stat(os.path.join(at, name)).st_uid for at, _, names in os.walk(f"{userns_engine.data}/build/mounts") for name in names if name == "f"]
    assert on_disk == [1000]  # an engine without user namespaces can go on with the same cache


def test_secrets_in_a_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("told to root\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\nRUN --mount=type=secret,id=s cat /run/secrets/s && stat -c '%u:%g %a' /run/secrets/s\nUSER alice\n"
        "RUN --mount=type=secret,id=s ! cat /run/secrets/s\nRUN --mount=type=secret,id=s,uid=1000,target=/tmp/mine cat /tmp/mine\n"
    )
    words = [f"{REPOSITORY}/berth", "build", "--progress", "plain", "--secret", f"id=s,src={tmp_path}/secret", str(tmp_path)]
    done = subprocess.run(words, env={**userns_engine.env, "BERTH_HOST": userns_engine.env["DOCKER_HOST"]}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count("told to root") == 2
    assert "0:0 400" in said
    assert "Permission denied" in said


def layer_owners(archive: Path) -> dict[str, tuple[int, int]]:
    """Of the files that layers above the first hold, by `tar` alone."""
    def tar(*words: str, data: bytes | None = None) -> bytes:
        return subprocess.run(["tar", *words], input=data, capture_output=True, check=True).stdout

    (image,) = json.loads(tar("xOf", str(archive), "manifest.json"))
    found = {}
    for layer in image["Layers"][1:]:
        for line in tar("tvz" if tar("xOf", str(archive), layer)[:2] == b"\x1f\x8b" else "tv", "--numeric-owner", data=tar("xOf", str(archive), layer)).decode().splitlines():
            _, owner, *_, name = line.split()
            uid, gid = owner.split("/")
            found[name.strip("/")] = int(uid), int(gid)
    return {name: owner for name, owner in found.items() if name not in ("", ".", "t", "cache", "etc", "dev", "proc", "sys")}
