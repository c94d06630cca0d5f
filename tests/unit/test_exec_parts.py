"""What an exec is made from: the base that all of a run share, the compiled filter, frames without a task."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from berth.engine.execbase import ExecBase
from berth.engine.monitors import DirectConnection
from berth.linux import cgroup, libc
from berth.runtime import container, frames

PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}]}


def base(directory: Path, **linux: object) -> ExecBase:
    specification = {"process": {"args": ["x"], "cwd": "/"}, "linux": {"cgroupsPath": "/berth/x", **linux}}
    (directory / "config.json").write_text(json.dumps(specification))
    return ExecBase(str(directory), str(directory), 7)


def test_the_base_knows_what_is_joined_and_names_the_filter_that_the_start_has_compiled(tmp_path: Path) -> None:
    made = base(tmp_path, seccomp=PROFILE, namespaces=[{"type": "pid"}, {"type": "mount"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}])
    assert made.namespaces == libc.CLONE_NEWPID | libc.CLONE_NEWNS | libc.CLONE_NEWIPC
    assert (made.started_ns, made.process["args"], made.cgroup_path) == (7, ["x"], "/berth/x")
    assert not os.path.exists(made.seccomp_path)
    assert container.read_program(made.seccomp_path) == b""
    program = container.seccomp_program(PROFILE, str(tmp_path))
    assert program
    assert container.read_program(made.seccomp_path) == program


def test_a_base_without_a_filter(tmp_path: Path) -> None:
    made = base(tmp_path)
    assert (made.seccomp_path, made.namespaces, made.annotations, made.uid_mappings) == ("", 0, {}, [])


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_frames_come_whole_however_they_are_cut_and_then_the_end(piece: int) -> None:
    sent = frames.encode(frames.STARTED, b'{"pid": 5}') + frames.encode(frames.STDOUT, b"x" * 300) + frames.encode(frames.EXITED, b"{}")
    got: list[tuple[bytes, bytes]] = []

    async def follow() -> None:
        ours, theirs = socket.socketpair()
        over = asyncio.Event()

        def on_frame(kind: bytes, payload: bytes) -> None:
            got.append((kind, payload))
            if not kind:
                over.set()

        connection = DirectConnection(ours, on_frame)
        await connection.send_signal(9)
        assert theirs.recv(100) == frames.encode(frames.SIGNAL, b"\x09")
        for start in range(0, len(sent), piece):
            theirs.sendall(sent[start : start + piece])
            await asyncio.sleep(0)
        theirs.close()
        await asyncio.wait_for(over.wait(), 30)
        assert ours.fileno() < 0
        connection.close()  # once more does nothing
        await connection.send_signal(9)

    asyncio.run(follow())
    assert got == [(frames.STARTED, b'{"pid": 5}'), (frames.STDOUT, b"x" * 300), (frames.EXITED, b"{}"), (b"", b"")]


def test_a_connection_that_sends_no_frames_is_at_its_end() -> None:
    got: list[bytes] = []

    async def follow() -> None:
        ours, theirs = socket.socketpair()
        over = asyncio.Event()
        DirectConnection(ours, lambda kind, _: (got.append(kind), over.set())[0])
        theirs.sendall(b"O\xff\xff\xff\xff")
        await asyncio.wait_for(over.wait(), 30)
        theirs.close()

    asyncio.run(follow())
    assert got == [b""]


def test_nobody_is_put_into_a_group_that_is_not_there() -> None:
    assert cgroup.NoCgroup("/x", "none").enter()
    hosts = cgroup.Hierarchies({"pids": "/nowhere/pids"}, "")
    assert not cgroup.CgroupV1("/x", hosts).enter()
    assert cgroup.CgroupV1("/x", hosts).open_to_clone_into() == -1
