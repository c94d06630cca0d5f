"""Builds whose client goes away, whose engine is killed, that meet each other, or whose steps misbehave."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import GROUPS, Engine, all_pids, read, wait_until

pytestmark = pytest.mark.root

MARK = "berth-build-marks-this"


def marked(mark: str) -> list[int]:
    """Processes of steps that have it in their arguments; not the client's, which has it nowhere."""
    return [pid for pid in all_pids() if mark in read(f"/proc/{pid}/cmdline")]


@contextlib.contextmanager
def building(engine: Engine, where: Path, dockerfile: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    where.mkdir(exist_ok=True)
    (where / "Dockerfile").write_text(dockerfile)
    client = subprocess.Popen(
        ["docker", "build", *options, str(where)], env={**engine.env, "DOCKER_BUILDKIT": "0"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def begun(client: "subprocess.Popen[str]", words: str) -> None:
    """Reads until the build has come to a step, which it is at by then."""
    assert client.stdout
    for line in client.stdout:
        if line.startswith(words):
            return
    pytest.fail(f"the build ended before {words!r}")


def steps_left(engine: Engine) -> list[str]:
    groups = [name for name in os.listdir(f"{engine.exec}/containers")]
    work = f"{engine.data}/build/work"
    return [*groups, *os.listdir(f"{engine.data}/containers"), *(os.listdir(work) if os.path.isdir(work) else [])]


def test_a_client_that_goes_takes_its_build_along(own_engine: Engine, tmp_path: Path) -> None:
    text = f"FROM bb\nRUN echo first >/first\nRUN sleep 1000; echo {MARK}-1\n"
    with building(own_engine, tmp_path, text) as client:
        wait_until(lambda: bool(marked(f"{MARK}-1")), "no step")
        client.send_signal(signal.SIGINT)
        client.wait(30)
        wait_until(lambda: not marked(f"{MARK}-1"), "the step's process")
        wait_until(lambda: not steps_left(own_engine), "directories of the step")
    with building(own_engine, tmp_path, text.partition("RUN sleep")[0]) as again:
        said, _ = again.communicate(timeout=30)
    assert "Using cache" in said  # what was made before is kept


def test_an_engine_that_is_killed_leaves_no_step_behind(own_engine: Engine, tmp_path: Path) -> None:
    text = f"FROM bb\nRUN echo first >/first\nRUN sleep 1000; echo {MARK}-2\n"
    with building(own_engine, tmp_path, text):
        wait_until(lambda: bool(marked(f"{MARK}-2")), "no step")
        own_engine.kill()
        own_engine.start()
        assert not marked(f"{MARK}-2")
        wait_until(lambda: not steps_left(own_engine), "directories of the step")
    assert own_engine.docker("ps", "-aq").stdout == ""
    with building(own_engine, tmp_path, text.partition("RUN sleep")[0]) as again:
        said, _ = again.communicate(timeout=30)
    assert "Using cache" in said


def test_what_a_killed_engine_had_in_memory_goes_with_the_next_that_builds_nothing(own_engine: Engine, tmp_path: Path) -> None:
    with building(own_engine, tmp_path, "FROM bb\nRUN true\n") as client:
        assert "Successfully built" in client.communicate(timeout=60)[0]
    scratch = os.path.realpath(f"{own_engine.exec}/build")
    assert os.path.isdir(scratch)
    own_engine.kill()
    own_engine.start()
    own_engine.stop()
    assert not os.path.lexists(scratch)
    assert not os.path.lexists(f"{own_engine.exec}/build")
    own_engine.start()


def test_an_engine_that_stops_ends_its_builds(own_engine: Engine, tmp_path: Path) -> None:
    with building(own_engine, tmp_path, f"FROM bb\nRUN sleep 1000; echo {MARK}-3\n") as client:
        wait_until(lambda: bool(marked(f"{MARK}-3")), "no step")
        own_engine.stop()
        assert not marked(f"{MARK}-3")
        assert client.wait(30) != 0
        own_engine.start()
    assert not steps_left(own_engine)


def test_two_builds_of_the_same_do_the_work_once(engine: Engine, tmp_path: Path) -> None:
    text = "FROM bb\nRUN --mount=type=cache,target=/c echo ran >>/c/log && while [ ! -e /c/go ]; do :; done && cp /c/log /log\n"
    mounts = Path(engine.data, "build/mounts")

    def logs() -> list[Path]:
        return [path for path in mounts.glob("*/log") if "ran" in path.read_text()] if mounts.exists() else []

    with building(engine, tmp_path / "a", text, "-t", "once-a") as first, building(engine, tmp_path / "b", text, "-t", "once-b") as second:
        for client in (first, second):
            begun(client, "Step 2/2")
        wait_until(lambda: bool(logs()), "the step has not begun")
        (logs()[0].parent / "go").write_text("")
        assert ["Successfully tagged" in client.communicate(timeout=60)[0] for client in (first, second)] == [True, True]
    assert engine.docker("run", "--rm", "once-a", "cat", "/log").stdout == "ran\n"
    assert engine.docker("image", "inspect", "-f", "{{.Id}}", "once-a").stdout == engine.docker("image", "inspect", "-f", "{{.Id}}", "once-b").stdout


def test_a_client_that_goes_leaves_the_other_its_step(engine: Engine, tmp_path: Path) -> None:
    text = "FROM bb\nRUN --mount=type=cache,target=/c2,id=goes echo ran >>/c2/log && while [ ! -e /c2/go ]; do :; done\n"
    mounts = Path(engine.data, "build/mounts")

    def log() -> list[Path]:
        return [path.with_suffix("") for path in mounts.glob("*.about") if path.read_text() == "goes\n" and (path.with_suffix("") / "log").exists()]

    with building(engine, tmp_path / "first", text) as first:
        wait_until(lambda: bool(log()), "the step has not begun")
        with building(engine, tmp_path / "second", text, "-t", "stays") as second:
            begun(second, "Step 2/2")
            first.kill()
            first.wait()
            (log()[0] / "go").write_text("")
            said, _ = second.communicate(timeout=60)
    assert "Successfully tagged stays:latest" in said
    assert (log()[0] / "log").read_text() == "ran\n"


@pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/pids"), reason="needs the pids controller of cgroup v1")
def test_a_step_has_a_bound_on_processes_and_a_container_has_what_it_is_given(engine: Engine, tmp_path: Path) -> None:
    def limit(pid: int) -> str:
        (path,) = [line.split(":")[2] for line in read(f"/proc/{pid}/cgroup").splitlines() if line.split(":")[1] == "pids"]
        return read(f"{GROUPS}/pids{path}/pids.max").strip()

    with building(engine, tmp_path, f"FROM bb\nRUN exec sh -c 'sleep 1000; : {MARK}-8'\n"):
        wait_until(lambda: bool(marked(f"{MARK}-8")), "the step")
        assert {limit(pid) for pid in marked(f"{MARK}-8")} == {"8192"}
    wait_until(lambda: not marked(f"{MARK}-8"), "the end of the step")
    container = engine.up()
    assert limit(engine.pid(container)) == "max"  # as with Docker: --pids-limit says otherwise
    engine.rm(container)


@pytest.mark.skipif(not os.path.isdir(f"{GROUPS}/pids"), reason="needs the pids controller of cgroup v1")
def test_a_fork_bomb_ends_with_its_step(engine: Engine, tmp_path: Path) -> None:
    """It may make as many processes as a step may have, none of which outlives the step."""
    text = f"FROM bb\nRUN i=0; while [ $i -lt 9000 ]; do (sleep 1000; echo {MARK}-4) & i=$((i+1)); done 2>/dev/null; echo forked\n"
    with building(engine, tmp_path, text) as client:
        said, _ = client.communicate(timeout=120)
    assert client.returncode is not None
    wait_until(lambda: not marked(f"{MARK}-4"), "processes of the bomb")
    assert "Traceback" not in said


def test_a_step_that_runs_out_of_memory_says_so(engine: Engine, tmp_path: Path) -> None:
    text = "FROM bb\nRUN head -c 100000000 /dev/zero | tail >/dev/null; exec tail -c 90000000 /dev/zero\n"
    with building(engine, tmp_path, text, "--memory", "20m") as client:
        said, _ = client.communicate(timeout=120)
    assert client.returncode == 137, said
    assert "memory" in said


def test_a_copy_goes_on_for_the_other_when_its_own_client_goes(engine: Engine, tmp_path: Path) -> None:
    """The files that are read are those of the build that is over: they must stay until they have been."""
    size = 64 << 20
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "big").write_bytes(b"\7" * size)
    text = "FROM bb\nCOPY big /big\n"
    with building(engine, tmp_path / "one", text) as first, building(engine, tmp_path / "two", text, "-t", "copied") as second:
        begun(second, "Step 2/2")
        first.kill()
        first.wait()
        said, _ = second.communicate(timeout=120)
    assert "Successfully tagged copied:latest" in said
    digest = subprocess.run(["sha256sum"], input=b"\7" * size, capture_output=True, check=True).stdout.split()[0].decode()
    assert engine.docker("run", "--rm", "copied", "sha256sum", "/big").stdout.split()[0] == digest


def test_output_without_end_is_clipped(engine: Engine, tmp_path: Path) -> None:
    with building(engine, tmp_path, "FROM bb\nRUN head -c 100000000 /dev/zero | tr '\\0' x | fold -w 100; echo the-end\n") as client:
        said, _ = client.communicate(timeout=120)
    assert "output clipped" in said
    assert 60_000_000 < len(said) < 80_000_000
    assert client.returncode == 0
