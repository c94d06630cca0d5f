"""The small parts of the runtime's command line: signals, sockets, hooks, state, the sealed interpreter."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from berth import errors
from berth.linux import signals, sockets
from berth.runtime import hooks, sealer, state

SOURCE = Path(__file__).resolve().parents[2] / "src"


# -- signals and sockets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("RTMIN", signal.SIGRTMIN), ("RTMIN+3", signal.SIGRTMIN + 3),
     ("SIGRTMAX-1", signal.SIGRTMAX - 1), ("64", 64)],
)  # fmt: skip
def test_signals_by_name_and_number(text: str, number: int) -> None:
    assert signals.number_of(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "NOPE", "RTMIN+99", "RTMAX+1", "TERM ", "1.5", "١"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="is not a signal"):
        signals.number_of(text)


def test_signal_names_are_the_kernels() -> None:
    for name in ("HUP", "INT", "KILL", "USR1", "WINCH", "SYS"):
        assert signals.NUMBERS[name] == getattr(signal, f"SIG{name}")


def test_descriptors_cross_a_channel_close_on_exec() -> None:
    ours, theirs = sockets.channel()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    sockets.send(ours, b"word", [writer])
    data, (copy,) = sockets.receive(theirs, 100)
    assert data == b"word"
    assert not os.get_inheritable(copy)
    os.close(writer)
    os.write(copy, b"x")
    assert os.read(reader, 2) == b"x"
    ours.close()
    assert sockets.receive(theirs, 100) == (b"", [])
    theirs.close()
    for fd in (reader, copy):
        os.close(fd)


def test_sockets_below_a_path_longer_than_sun_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    directory = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    listener = sockets.listen(directory, "sock")
    os.close(directory)
    assert (deep / "sock").stat().st_mode & 0o777 == 0o600
    client = sockets.connect(str(deep / "sock"), sockets.SOCK_SEQPACKET)
    client.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        sockets.connect(str(deep / "sock"), sockets.SOCK_SEQPACKET)


# -- hooks ---------------------------------------------------------------------------------------------


def hook(script: str, **more: object) -> dict:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


STATE = {"ociVersion": "1.2.0", "id": "x", "status": "creating", "pid": 7, "bundle": "/b"}


def test_hooks_get_the_state_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hooks.run([hook(f"cat > {tmp_path}/state"), hook(f"echo 1 >> {out}"), hook(f"echo 2 >> {out}")], "prestart", STATE)
    assert json.loads((tmp_path / "state").read_text()) == STATE
    assert out.read_text() == "1\n2\n"


def test_hooks_have_the_environment_they_name_and_no_other(tmp_path: Path) -> None:
    hooks.run([hook(f"env > {tmp_path}/env", env=["A=1", "PATH=/bin:/usr/bin"])], "prestart", STATE)
    lines = (tmp_path / "env").read_text().splitlines()
    assert {"A=1", "PATH=/bin:/usr/bin"} <= set(lines)
    assert not [line for line in lines if line.startswith("HOME=")]
    hooks.run([hook(f"echo $HERE > {tmp_path}/here")], "startContainer", STATE, {"HERE": "inside", "PATH": "/bin"})
    assert (tmp_path / "here").read_text() == "inside\n"


def test_a_hook_that_fails_says_which_and_why_and_ends_the_row(tmp_path: Path) -> None:
    with pytest.raises(errors.StartFailed) as caught:
        hooks.run([hook("true"), hook("echo no disk >&2; exit 3"), hook(f"touch {tmp_path}/never")], "createRuntime", STATE)
    assert str(caught.value) == "hooks.createRuntime[1]: /bin/sh: exited with 3: no disk"
    assert not (tmp_path / "never").exists()
    with pytest.raises(errors.StartFailed, match=r"hooks.prestart\[0\]: /no/such: cannot be run: No such file or directory"):
        hooks.run([{"path": "/no/such"}], "prestart", STATE)
    with pytest.raises(errors.StartFailed, match="was ended by signal 9"):
        hooks.run([hook("kill -9 $$")], "prestart", STATE)


def test_a_hook_over_its_time_is_killed_with_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(errors.StartFailed, match="longer than its timeout of 1 s"):
        hooks.run([hook(f"sleep 1000 & echo $! > {tmp_path}/pid; wait", timeout=1)], "prestart", STATE)
    pid = int((tmp_path / "pid").read_text())
    deadline_s = time.monotonic() + 30
    while not _is_dead(pid):  # a signal takes its time to be acted upon on a busy host
        assert time.monotonic() < deadline_s, f"process {pid} still runs"
        time.sleep(0.01)


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def test_after_the_end_every_hook_runs_whatever_became_of_the_others(tmp_path: Path) -> None:
    problems = hooks.run_all([hook("exit 1"), hook(f"touch {tmp_path}/two"), hook("exit 2")], "poststop", STATE)
    assert (tmp_path / "two").exists()
    assert [problem.partition(":")[0] for problem in problems] == ["hooks.poststop[0]", "hooks.poststop[2]"]


def test_what_a_hook_leaves_running_holds_nobody_up() -> None:
    hooks.run([hook("sleep 1000 & echo $! >&2; kill $!")], "prestart", STATE)


# -- a container's directory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["", ".", "..", "a/b", "a b", "é", "x" * 1025, "a\0b", "@seccomp", "a\n"])
def test_ids_that_cannot_be(identity: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidParameter, match="invalid container id"):
        state.Container.create(str(tmp_path), identity)
    assert list(tmp_path.iterdir()) == []


def test_a_container_is_made_once_and_leaves_nothing(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    container = state.Container.create(root, "a_b+c.d-E")
    with pytest.raises(errors.Conflict, match="container with id exists"):
        state.Container.create(root, "a_b+c.d-E")
    container.save(pid=0, bundle="/b")
    container.write("config.json", {"ociVersion": "1.2.0"})
    assert state.Container.load(root, container.id).values == {"pid": 0, "bundle": "/b"}
    assert state.identities(root) == [container.id]
    container.remove()
    assert os.listdir(root) == []
    with pytest.raises(errors.NotFound):
        state.Container.load(root, "a_b+c.d-E")
    assert state.identities(str(tmp_path / "none")) == []


def test_status_comes_from_the_process(tmp_path: Path) -> None:
    container = state.Container.create(str(tmp_path), "x")
    asked = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from berth.runtime import state; print(state.Container.load({str(tmp_path)!r}, 'x').status())"
    seen = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == state.CREATING  # somebody, another process, holds the lock
    assert container.status() == state.CREATING
    process = subprocess.Popen(["sleep", "1000"])
    container.save(pid=process.pid, start_time=state.start_time(process.pid))
    container.unlock()
    assert container.status() == state.RUNNING
    (tmp_path / "x" / "start.sock").touch()
    assert container.status() == state.CREATED
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert container.status() == state.STOPPED  # a zombie has ended
    process.wait()
    assert container.status() == state.STOPPED
    container.save(pid=os.getpid(), start_time=1)
    assert container.status() == state.STOPPED  # another process has the pid by now
    container.remove()


def test_a_damaged_state_file_is_said_to_be(tmp_path: Path) -> None:
    container = state.Container.create(str(tmp_path), "x")
    container.unlock()
    (tmp_path / "x" / "state.json").write_text('{"pid": 1')
    with pytest.raises(errors.DataLoss, match="delete --force x"):
        state.Container.load(str(tmp_path), "x")
    container.remove()


# -- the sealed interpreter -------------------------------------------------------------------------------------

SEALED = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the sealer is for x86-64")


@pytest.fixture
def sealer_path(tmp_path: Path) -> Path:
    path = tmp_path / "sealer"
    path.write_bytes(sealer.program("berth-sealed"))
    path.chmod(0o755)
    return path


@SEALED
def test_the_sealer_starts_a_copy_that_cannot_be_written(sealer_path: Path) -> None:
    code = (
        "import fcntl, os, sys\n"
        "print(os.readlink('/proc/self/exe'), sys.argv[1:], os.environ['MARK'], sorted(os.listdir('/proc/self/fd')))\n"
        "fd = os.open('/proc/self/exe', os.O_RDONLY)\n"
        "print(fcntl.fcntl(fd, fcntl.F_GET_SEALS))\n"
        "try: os.open('/proc/self/exe', os.O_WRONLY)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sealer_path, sys.executable, "-ISc", code, "a", "b c"], env={"MARK": "here"}, capture_output=True, text=True, check=True
    )
    first, seals, denied = done.stdout.splitlines()
    assert first.startswith("/memfd:berth-sealed (deleted) ['a', 'b c'] here ['0', '1', '2', '3']")
    assert int(seals) == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert denied in ("Operation not permitted", "Text file busy")


@SEALED
def test_the_sealer_falls_back_and_fails_clearly(sealer_path: Path) -> None:
    assert subprocess.run([sealer_path, "/no/such/interpreter"], check=False).returncode == 125
    script = sealer_path.with_name("script")
    script.write_text("#!/bin/sh\necho plain $1\n")
    script.chmod(0o755)
    # A script cannot be executed from a descriptor that is close-on-exec: it runs as it is.
    assert subprocess.run([sealer_path, script, "x"], capture_output=True, text=True, check=True).stdout == "plain x\n"


@SEALED
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump to read the code back")
def test_the_code_is_what_its_comments_say(sealer_path: Path) -> None:
    """Disassembled by another program: the mnemonics in sealer._CODE, one by one."""
    length = sum(len(code) // 2 for code, _ in sealer._CODE)
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--start-address=120", f"--stop-address={120 + length}"]
    text = subprocess.run([*command, sealer_path], capture_output=True, text=True, check=True).stdout
    found = [line.split("\t")[2].split()[0] for line in text.splitlines() if line.count("\t") >= 2]
    said = [comment.partition(": ")[2] or comment for _, comment in sealer._CODE]
    assert found == [words.split()[0] for words in said]
