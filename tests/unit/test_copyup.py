"""Copies of trees, and what becomes of one into a volume that is cut off anywhere."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from berth import errors
from berth.engine import copyup
from berth.linux import copying, libc


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of many kinds."""
    top = tmp_path / "source"
    (top / "sub/deep").mkdir(parents=True)
    (top / "file").write_text("one\n")
    os.link(top / "file", top / "sub/hard")
    os.symlink("/etc/passwd", top / "out")
    os.symlink("file", top / "soft")
    os.mkfifo(top / "pipe")
    (top / "sub/deep/x").write_bytes(b"x" * 5000)
    os.chmod(top / "sub", 0o2775)
    os.chmod(top / "file", 0o4711)
    os.chmod(top, 0o751)
    with open(top / "hole", "wb") as file:
        file.write(b"begin")
        file.seek(4 << 20)
        file.write(b"end")
        file.truncate(8 << 20)
    os.utime(top / "file", ns=(1_000_000_001, 2_000_000_002))
    return top


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume/_data"
    path.mkdir(parents=True)
    return path


def shown(top: Path) -> list[str]:
    """As find and stat see it."""
    script = "find . | LC_ALL=C sort | while read f; do stat -c '%n %F %a %u %g %s %y' \"$f\"; readlink \"$f\"; [ -f \"$f\" ] && md5sum < \"$f\"; done; true"
    return subprocess.run(["sh", "-c", script], cwd=top, capture_output=True, text=True, check=True).stdout.splitlines()


def glance(top: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of each; quicker."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(top))] = (status.st_mode, status.st_size if path.is_file() else 0, status.st_mtime_ns)
    return found


def populate(source: Path, volume: Path) -> None:
    fd = os.open(source, os.O_PATH | os.O_DIRECTORY)
    try:
        copyup.populate(str(volume), fd)
    finally:
        os.close(fd)


def test_a_copy_is_the_same(tree: Path, volume: Path) -> None:
    wanted = shown(tree)
    populate(tree, volume)
    assert shown(volume) == wanted
    assert os.stat(volume / "file").st_ino == os.stat(volume / "sub/hard").st_ino
    assert os.stat(volume / "file").st_ino != os.stat(tree / "file").st_ino
    assert os.stat(volume / "hole").st_blocks * 512 < 1 << 20
    assert os.listdir(volume.parent) == ["_data"]


def test_what_has_something_in_it_is_left(tree: Path, volume: Path) -> None:
    (volume / "mine").write_text("")
    populate(tree, volume)
    assert os.listdir(volume) == ["mine"]


def test_too_deep_to_be_copied(tmp_path: Path, volume: Path) -> None:
    """No crash, no descriptors used up, and nothing of it in the volume."""
    source = tmp_path / "source"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(errors.SystemFailure, match="nested more than 128 deep"):
        populate(source, volume)
    assert os.listdir(volume) == []
    assert os.listdir(volume.parent) == ["_data"]


class Cut(Exception):
    """The engine is killed here."""


_CHANGES = ("mkdir", "symlink", "mknod", "link", "chown", "chmod", "setxattr", "utime", "rename", "rmdir", "unlink", "sendfile", "ftruncate")


def cut_off(tree: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> bool:
    """A copy that ends before the change `at` to the disk, and whatever would clean up with it; False if it was done before."""
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal count
            count += 1
            if count >= at:
                raise Cut
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for module, names in ((os, _CHANGES), (libc, ("renameat2", "syncfs"))):
            for name in names:
                patch.setattr(module, name, counted(getattr(module, name)))
        try:
            populate(tree, volume)
        except Cut:
            return True
    return False


def test_cut_off_anywhere(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the volume is empty, or what is left is brought to its end; never a half."""
    wanted = glance(tree)
    monkeypatch.setattr(libc, "syncfs", lambda fd: None)  # the disk is not what is cut off here
    for at in range(1, 1000):
        volume = tmp_path / f"{at}/_data"
        volume.mkdir(parents=True)
        if not cut_off(tree, volume, monkeypatch, at):
            break
        ready = (volume.parent / copyup.READY).exists()
        assert ready or not os.listdir(volume), "something is in the volume, and nothing says that there is more to come"
        copyup.mend(str(volume))
        assert glance(volume) == (wanted if ready else {})
        assert os.listdir(volume.parent) == ["_data"]
        populate(tree, volume)
        assert glance(volume) == wanted
    assert at > 30


def test_what_a_container_made_meanwhile_stays(tree: Path, volume: Path) -> None:
    ready = volume.parent / copyup.READY
    ready.mkdir()
    (ready / "file").write_text("of the image")
    (ready / "other").write_text("of the image")
    (volume / "file").write_text("newer")
    assert copyup.mend(str(volume))
    assert {path.name: path.read_text() for path in volume.iterdir()} == {"file": "newer", "other": "of the image"}
    assert os.listdir(volume.parent) == ["_data"]
    assert not copyup.mend(str(volume))


def test_whether_an_image_has_something_there(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "a/b").mkdir(parents=True)
    (upper / "c").mkdir(parents=True)
    os.symlink("a", upper / "link")
    layers = [str(upper), str(lower)]
    for path, expected in (("/a/b", True), ("/a", True), ("/c", True), ("/link", True), ("/link/b", True), ("/a/x", False), ("/x/y", False)):
        assert copyup.may_have(layers, path) is expected, path


def test_the_content_is_found_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "file").write_text("")
    os.symlink("/data", root / "absolute")
    os.symlink("../../../../..", root / "up")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        found = copyup.open_content(fd, "/absolute")
        assert os.path.samestat(os.fstat(found), os.stat(root / "data"))
        os.close(found)
        up = copyup.open_content(fd, "/up")
        assert os.path.samestat(os.fstat(up), os.stat(root))
        os.close(up)
        assert copyup.open_content(fd, "/nothing") == -1
        assert copyup.open_content(fd, "/file/x") == -1
        with pytest.raises(errors.InvalidParameter, match="cannot mount volume over existing file"):
            copyup.open_content(fd, "/file")
    finally:
        os.close(fd)


def test_renaming_does_not_replace(tmp_path: Path) -> None:
    """What the copy builds on: renameat2(2) with RENAME_NOREPLACE."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            libc.renameat2(fd, "a", fd, "b", libc.RENAME_NOREPLACE)
        libc.renameat2(fd, "a", fd, "c", libc.RENAME_NOREPLACE)
    finally:
        os.close(fd)
    assert (tmp_path / "c").read_text() == "a"


def test_files_are_not_entered_from_another_file_system(tmp_path: Path) -> None:
    """/dev/shm as a child cannot be had without rights; a copy of /dev shows it."""
    target = tmp_path / "target"
    target.mkdir()
    source, into = os.open("/dev", os.O_PATH | os.O_DIRECTORY), os.open(target, os.O_RDONLY)
    try:
        copy = copying.Copy(into)
        reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=source)
        try:
            copy._entry(reader, into, "shm", "shm")
        finally:
            os.close(reader)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        pytest.skip("no /dev/shm")
    finally:
        os.close(source)
        os.close(into)
    assert os.listdir(target / "shm") == []
