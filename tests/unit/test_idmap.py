"""Id maps of an ordinary user: when newuidmap is needed, what it is given, and what is said."""

import errno
import os
from pathlib import Path

import pytest

from berth.errors import Forbidden, InvalidSpec, SystemFailure
from berth.linux import libc
from berth.runtime import idmap
from berth.runtime.plan import Plan

MINIMAL: dict = {"ociVersion": "1.1.0", "root": {"path": "rootfs"}, "process": {"args": ["sh"], "cwd": "/"}}
RANGES = [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 65_536}]


def test_arguments_are_newuidmap_s():
    assert idmap.arguments(RANGES) == ["0", "1000", "1", "1", "100000", "65536"]


def test_without_newuidmap(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", f"{tmp_path}:relative")
    with pytest.raises(Forbidden, match=r"linux\.uidMappings: 0 1000 1 .*newuidmap \(Debian: uidmap\).*/etc/subuid"):
        idmap.write(os.getpid(), "uid", RANGES)


@pytest.mark.parametrize(("kind", "tool"), [("uid", "newuidmap"), ("gid", "newgidmap")])
def test_newuidmap_s_words_and_its_complaint(monkeypatch, tmp_path: Path, kind: str, tool: str):
    program = tmp_path / tool
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\necho no range for you >&2\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(Forbidden, match=rf"linux\.{kind}Mappings: {tool} .* exited with 3: no range for you; .*/etc/sub{kind}"):
        idmap.write(77, kind, RANGES)
    assert (tmp_path / "words").read_text().split() == ["77", *idmap.arguments(RANGES)]


@pytest.mark.parametrize(
    ("flags", "number", "kind", "said"),
    [
        (libc.CLONE_NEWNS, errno.EPERM, Forbidden, "only with a 'user' namespace"),
        (libc.CLONE_NEWNS | libc.CLONE_NEWUSER, errno.EPERM, Forbidden, "kernel.unprivileged_userns_clone"),
        (libc.CLONE_NEWUSER, errno.ENOSPC, SystemFailure, "/proc/sys/user"),
    ],
)
def test_why_there_are_no_namespaces(flags, number, kind, said):
    error = idmap.why_no_namespaces(flags, OSError(number, ""))
    assert isinstance(error, kind)
    assert said in str(error)


@pytest.mark.parametrize(("option", "fits"), [("gid=0", True), ("gid=65536", True), ("gid=65537", False), ("uid=70000", False), ("gid=x", True)])
def test_ids_of_mounts_must_be_mapped(option, fits):
    document = {
        **MINIMAL, "mounts": [{"destination": "/x", "type": "tmpfs", "options": [option]}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": RANGES, "gidMappings": RANGES},
    }  # fmt: skip
    if fits:
        Plan(document, "/bundle")
    else:
        with pytest.raises(InvalidSpec, match=rf"mounts\[0\]\.options: '{option}' has no mapping in linux\.{option[:3]}Mappings"):
            Plan(document, "/bundle")
