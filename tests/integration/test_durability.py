"""Nothing is lost: a damaged database under a loaded engine, and a host that is restarted. See docs/durability.md."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import GROUPS, REPOSITORY, Engine, comm, has_ended, parent, read, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def facts(engine: Engine) -> dict[str, object]:
    """All that a client sees of containers and images, but for how long ago it was."""
    identities = engine.docker("ps", "-aq", "--no-trunc").stdout.split()
    containers = json.loads(engine.docker("inspect", *identities).stdout) if identities else []
    images = engine.docker("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").stdout.splitlines()
    return {"images": sorted(images)} | {container["Id"]: container for container in containers}


def cut(path: str, size: int) -> None:
    if os.path.exists(path):
        os.truncate(path, min(size, os.path.getsize(path)))


def overwrite(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)


# An engine that is killed leaves all of a short life in the log; one that is stopped, all in the database.
DAMAGES: dict[str, Callable[[str], None]] = {
    "log cut off in the second frame": lambda db: cut(f"{db}-wal", 32 + 4120 + 999),
    "the head cut off": lambda db: cut(db, 50),
    "cut off after two pages and a byte": lambda db: cut(db, 2 * 4096 + 1),
    "a page of garbage": overwrite,
    "gone": lambda db: [os.unlink(db + suffix) for suffix in ("", "-wal", "-shm") if os.path.exists(db + suffix)] and None,
}


def test_a_damaged_database_loses_nothing(own_engine: Engine) -> None:
    engine = own_engine
    running = engine.up("--name", "runs", "--label", "a=b")
    engine.docker("run", "--name", "ended", "bb", "sh", "-c", "echo said; exit 7", code=7)
    engine.docker("create", "--name", "made", "--memory", "64m", "bb", "true")
    engine.docker("rename", "made", "renamed")
    engine.docker("run", "--name", "changed", "bb", "touch", "/new")
    engine.docker("commit", "changed", "mine:1")
    engine.docker("tag", "mine:1", "mine:2")
    engine.docker("rm", "changed")
    paused = engine.up("--name", "waits")
    engine.docker("pause", paused)
    before = facts(engine)
    pid = engine.pid(running)
    for name, damage in DAMAGES.items():
        engine.kill() if name.startswith("log") else engine.stop()
        logged = len(engine.log())
        damage(f"{engine.data}/berth.db")
        engine.start()
        assert facts(engine) == before, name
        assert "made anew from the second copy" in engine.log()[logged:], name
        connection = sqlite3.connect(f"file:{engine.data}/berth.db?mode=ro", uri=True)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], name
        connection.close()
        assert comm(pid) == "sleep"
    assert engine.docker("logs", "ended").stdout == "said\n"
    assert engine.run("mine:2", "ls", "/new").stdout == "/new\n"
    kept = [name for name in os.listdir(engine.data) if name.startswith("berth.db.damaged-")]
    assert len([name for name in kept if not name.endswith(("-wal", "-shm"))]) == len(DAMAGES) - 1  # one was gone
    engine.docker("unpause", paused)
    engine.docker("rm", "-f", running, paused)
    assert has_ended(pid)


def test_files_without_any_record_are_kept_aside(own_engine: Engine) -> None:
    """Database and second copy are gone: nothing says what the directories are, so nobody may remove them."""
    engine = own_engine
    running = engine.up(command=("sh", "-c", "echo precious > /file; exec sleep 1000"))
    pid = engine.pid(running)
    wait_until(lambda: comm(pid) == "sleep", "the shell")
    layers = os.listdir(f"{engine.data}/layers")
    engine.kill()
    shutil.rmtree(f"{engine.data}/records")
    for suffix in ("", "-wal", "-shm"):
        os.unlink(f"{engine.data}/berth.db{suffix}")
    engine.start()
    assert engine.docker("ps", "-aq").stdout == engine.docker("images", "-q").stdout == ""
    assert read(f"{engine.data}/aside/containers/{running}/upper/file") == "precious\n"
    assert os.listdir(f"{engine.data}/aside/layers") == layers
    assert f"container {running[:12]} is in no record: its files are kept in {engine.data}/aside/containers/" in engine.log()
    wait_until(lambda: has_ended(pid), "a container that nobody can reach")


@pytest.fixture
def booted(rootfs_tar: str, tmp_path: Path) -> tuple[Engine, Path]:
    """An engine that sees a boot id of the test's, in a mount namespace of its own."""
    file = tmp_path / "boot_id"
    file.write_text(f"{uuid.uuid4()}\n")
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    engine = Engine((), ("unshare", "-m", "--propagation", "slave", "sh", "-c", script, str(file)))
    engine.docker("import", rootfs_tar, "bb")
    return engine, file


def _power_off(engine: Engine, identities: list[str], *, orderly: str) -> None:
    """What a loss of power takes: every process, every cgroup, the run directory; one program gets SIGTERM and ends before."""
    pids = [engine.pid(identity) for identity in identities]
    monitors = [parent(pid) for pid in pids]
    last = engine.pid(orderly)
    its_monitor = parent(last)
    engine.kill()
    os.kill(last, signal.SIGTERM)
    wait_until(lambda: has_ended(its_monitor), "the monitor of the one that ends in order")
    for pid in (*monitors, *pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait_until(lambda: all(has_ended(pid) for pid in (*monitors, *pids)), "processes of containers")
    for controller in os.listdir(GROUPS):
        for identity in identities:
            path = f"{GROUPS}/{controller}/berth/{identity}"
            if os.path.isdir(path):
                os.rmdir(path)
    shutil.rmtree(engine.exec)


def test_the_host_is_restarted(booted: tuple[Engine, Path]) -> None:
    engine, boot_id = booted
    policies = ("always", "unless-stopped", "on-failure", "no")
    running = [engine.up("--name", f"b-{policy}", "--restart", policy) for policy in policies]
    removed = engine.up("--rm", "--name", "b-rm")
    never_started = engine.docker("create", "--rm", "--name", "b-created-rm", "bb", "true").stdout.strip()
    engine.docker("create", "--name", "b-created", "--restart", "always", "bb", "true")
    engine.docker("run", "--name", "b-ended", "bb", "sh", "-c", "exit 9", code=9)
    stopped = engine.up("--name", "b-stopped", "--restart", "unless-stopped")
    engine.docker("stop", "-t", "0", stopped)
    words = engine.up("--name", "b-shutdown", command=("sh", "-c", "trap 'exit 44' TERM; echo ready; while :; do sleep 0.05; done"))
    wait_until(lambda: engine.docker("logs", words).stdout == "ready\n", "the trap")
    started = engine.state("b-no")["StartedAt"]
    _power_off(engine, [*running, removed], orderly=words)
    boot_id.write_text(f"{uuid.uuid4()}\n")
    engine.start()
    for policy in policies[:3]:
        wait_until(lambda name=f"b-{policy}": engine.state(name)["Status"] == "running", f"{policy} to run", 30)
        seen = json.loads(engine.docker("inspect", f"b-{policy}").stdout)[0]
        assert seen["RestartCount"] == 0
    ended = engine.state("b-no")
    assert (ended["Status"], ended["ExitCode"], ended["OOMKilled"], ended["Pid"]) == ("exited", 255, False, 0)
    assert "host was restarted" in ended["Error"]
    assert ended["FinishedAt"] >= started
    assert engine.state("b-ended")["ExitCode"] == 9
    assert engine.state("b-shutdown")["ExitCode"] == 44  # what its monitor could write down still counts
    assert engine.state("b-created")["Status"] == "created"
    assert engine.state("b-stopped")["Status"] == "exited"
    left = engine.docker("ps", "-aq", "--no-trunc").stdout.split()
    assert not {removed, never_started} & set(left)
    wait_until(lambda: set(os.listdir(f"{engine.data}/containers")) <= set(left), "files of --rm")
    assert "ended with the host, which was restarted; exit code 255" in engine.log()
    engine.docker("start", "b-no")
    assert engine.state("b-no")["Error"] == ""
    engine.seen_ids |= {*running, removed}
    engine.finish()


def test_a_removed_run_directory_is_no_restart_of_the_host(own_engine: Engine) -> None:
    """The monitor lives and nobody can reach it: its program is ended, once, and how is known."""
    engine = own_engine
    identity = engine.up(command=("sh", "-c", "echo said; exec sleep 1000"))
    wait_until(lambda: engine.docker("logs", identity).stdout == "said\n", "output")
    pid = engine.pid(identity)
    monitor = parent(pid)
    engine.kill()
    shutil.rmtree(engine.exec)
    engine.start()
    state = engine.state(identity)
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert "socket is gone" not in state["Error"]  # its monitor has said how it ended
    wait_until(lambda: has_ended(pid) and has_ended(monitor), "monitor and program")
    finished = state["FinishedAt"]
    engine.kill()
    engine.start()
    assert engine.state(identity)["FinishedAt"] == finished
    assert "had been started" not in engine.log()
    assert engine.docker("logs", identity).stdout == "said\n"


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    """A database that cannot be opened for lack of room is left as it is, and opened when there is some."""
    script = """
mount -t tmpfs -o size=600k none "$0"
"$1" -c 'import os, sys; from berth.store.database import Database; d = Database(sys.argv[1] + "/berth.db")
d.write_now(("INSERT INTO containers VALUES (1, 1, 1)", ())); os._exit(0)' "$0"
dd if=/dev/zero of="$0/filler" bs=4k 2>/dev/null
rm "$0/berth.db-shm" && dd if=/dev/zero of="$0/filler2" bs=4k 2>/dev/null
"$1" -c 'import sys; from berth.store.database import Database; Database(sys.argv[1] + "/berth.db")' "$0" 2>&1 | tail -1
rm "$0/filler" "$0/filler2"
"$1" -c 'import sys; from berth.store.database import Database; d = Database(sys.argv[1] + "/berth.db")
print(d.read("SELECT * FROM containers"), d.mended); d.close()' "$0"
ls "$0"
"""
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/src"}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), sys.executable], env=env, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert "berth.db cannot be opened: " in lines[0], done
    assert lines[1:] == ["[('1', '1', '1')] []", "berth.db", "records"], done
