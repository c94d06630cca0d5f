"""The command line of the OCI runtime, and what its verbs draw on, without root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from berth import errors
from berth.cli.flags import UsageError
from berth.cli.oci import start
from berth.linux import sockets
from berth.models import jsonlite
from berth.runtime import container, state
from berth.runtime.context import Launch
from berth.runtime.init import report_failure

SOURCE = Path(__file__).resolve().parents[2] / "src"


def test_what_a_child_reports_is_read_though_it_left_a_word_unread() -> None:
    """The kernel then says ECONNRESET before it hands out what the child had sent; that must not count as an execve."""
    ours, theirs = sockets.channel()
    ours.send(b"c")
    report_failure(theirs, errors.CommandNotExecutable("exec: no"), None)
    theirs.close()
    with pytest.raises(errors.CommandNotExecutable, match="exec: no"):
        container.await_exec(ours, Launch())
    ours.close()


def test_groups_below_by_controller() -> None:
    assert start._groups_below([]) == {}
    assert start._groups_below(["a/b"]) == {"": "a/b"}
    assert start._groups_below(["cpu,memory:x", "pids:y"]) == {"cpu": "x", "memory": "x", "pids": "y"}


@pytest.mark.parametrize("words", [["a", "b"], ["cpu:a", "b"], ["a:b:c"], ["cpu:a", "cpu:b"], [",:a"], [":a"]])
def test_groups_below_that_cannot_be(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--cgroup"):
        start._groups_below(words)


def test_systemds_sockets_are_ours_only_with_our_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert start._listening() == 0
    monkeypatch.setenv("LISTEN_PID", "1")
    assert start._listening() == 0
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert start._listening() == 2
    monkeypatch.setenv("LISTEN_FDS", "-1")
    assert start._listening() == 0


def test_half_a_json_document_has_a_place() -> None:
    for text in ("{", "[1,", '{"a": ', '"a'):
        with pytest.raises(ValueError, match=r"line 1 column|not JSON"):
            jsonlite.loads(text)


def test_a_lock_is_not_its_childrens(tmp_path: Path) -> None:
    """Init is forked while `create` holds the lock, and waits for `start`: `delete` must not wait for it."""
    container = state.Container.create(str(tmp_path), "x")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    container.unlock()
    script = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from berth.runtime import state; state.Container.load({str(tmp_path)!r}, 'x').lock()"
    try:
        subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def test_who_waited_for_the_lock_of_a_removed_container_removes_no_other(tmp_path: Path) -> None:
    container = state.Container.create(str(tmp_path), "x")
    late = state.Container.load(str(tmp_path), "x")
    container.remove()
    with pytest.raises(errors.NotFound):
        late.lock()
