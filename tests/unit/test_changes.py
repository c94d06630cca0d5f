"""Comparing trees; what an image's config keeps of a container's."""

import os
from pathlib import Path

import pytest

from berth.engine import changes
from berth.engine.commit import image_config


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path, Path]:
    """upper, merged and image as directories; whiteouts are what upper has and merged lacks."""
    found = tmp_path / "upper", tmp_path / "merged", tmp_path / "image"
    for path in found:
        path.mkdir()
    return found


def compare(roots: tuple[Path, Path, Path]) -> list[tuple[str, int]]:
    fds = [os.open(path, os.O_PATH) for path in roots]
    try:
        return changes.changes(*fds)
    finally:
        for fd in fds:
            os.close(fd)


def put(*paths: Path, text: str = "", time_s: int = 1) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time_s, time_s))


def test_added_changed_deleted(roots: tuple[Path, Path, Path]) -> None:
    upper, merged, image = roots
    put(image / "d/same", image / "d/gone", image / "d/other", merged / "d/same", upper / "d/same", upper / "d/gone")
    put(merged / "d/other", upper / "d/other", text="x")
    put(merged / "d/new", upper / "d/new", merged / "n/e/w", upper / "n/e/w")
    assert compare(roots) == [
        ("/d", 0), ("/d/gone", 2), ("/d/new", 1), ("/d/other", 0), ("/n", 1), ("/n/e", 1), ("/n/e/w", 1),
    ]  # fmt: skip


def test_kinds_change(roots: tuple[Path, Path, Path]) -> None:
    upper, merged, image = roots
    put(image / "f", merged / "f/inner", upper / "f/inner", image / "g/inner", merged / "g", upper / "g")
    assert compare(roots) == [("/f", 0), ("/f/inner", 1), ("/g", 0)]


def test_mount_points_are_hidden_only_while_empty(roots: tuple[Path, Path, Path]) -> None:
    upper, merged, _ = roots
    for path in (upper, merged):
        put(path / "etc/hosts", path / "etc/resolv.conf")
        for name in ("dev/pts", "proc", "sys"):
            (path / name).mkdir(parents=True)
    assert compare(roots) == []
    put(upper / "etc/mine", merged / "etc/mine")
    put(upper / "etc/hosts", merged / "etc/hosts", text="127.0.0.1 me")
    assert compare(roots) == [("/etc", 1), ("/etc/hosts", 1), ("/etc/mine", 1)]


def test_links_are_not_followed(roots: tuple[Path, Path, Path]) -> None:
    upper, merged, image = roots
    for path in (upper, merged):
        os.symlink("/", path / "l")
    put(image / "real/x")
    assert compare(roots) == [("/l", 1)]


def test_image_config() -> None:
    container = {
        "Hostname": "h", "Cmd": ["sleep"], "Env": ["A=1", "B=2"], "Labels": {"k": "v"}, "WorkingDir": "/w", "Entrypoint": None,
        "ExposedPorts": {"1/tcp": {}}, "AttachStdout": True, "User": "alice",
    }  # fmt: skip
    assert image_config({}, container) == {
        "User": "alice", "ExposedPorts": {"1/tcp": {}}, "Env": ["A=1", "B=2"], "Cmd": ["sleep"], "WorkingDir": "/w", "Labels": {"k": "v"},
    }  # fmt: skip
    changed = image_config({"Env": ["B=3"], "Cmd": ["x"], "ExposedPorts": {"2/tcp": {}}, "Labels": {"n": "m"}}, container)
    assert (changed["Env"], changed["Cmd"], changed["Labels"]) == (["A=1", "B=3"], ["x"], {"k": "v", "n": "m"})
    assert changed["ExposedPorts"] == {"1/tcp": {}, "2/tcp": {}}
    assert image_config({"Entrypoint": ["e"]}, container).get("Cmd") is None
