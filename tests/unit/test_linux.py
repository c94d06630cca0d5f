"""Mount options and capability masks; mounting against a recording kernel."""

import os
import threading
from pathlib import Path

import pytest

from berth.errors import InvalidParameter
from berth.linux import capabilities, libc, mount

RO, NOSUID, NODEV, NOEXEC = mount.MS_RDONLY, mount.MS_NOSUID, mount.MS_NODEV, mount.MS_NOEXEC


@pytest.mark.parametrize(
    ("options", "flags", "cleared"),
    [
        ([], 0, 0), (["ro"], RO, 0), (["rw"], 0, RO), (["ro", "rw"], 0, RO), (["rw", "ro"], RO, 0),
        (["nosuid", "nodev", "noexec"], NOSUID | NODEV | NOEXEC, 0), (["nosuid", "suid"], 0, NOSUID),
        (["bind"], mount.MS_BIND, 0), (["rbind", "ro"], mount.MS_BIND | mount.MS_REC | RO, 0), (["defaults"], 0, 0),
        (["relatime", "norelatime"], 0, mount.MS_RELATIME), (["noatime"], mount.MS_NOATIME, 0), (["atime"], 0, mount.MS_NOATIME),
        (["nosymfollow"], mount.MS_NOSYMFOLLOW, 0), (["sync", "dirsync"], mount.MS_SYNCHRONOUS | mount.MS_DIRSYNC, 0),
        (["async"], 0, mount.MS_SYNCHRONOUS), (["remount", "lazytime"], mount.MS_REMOUNT | mount.MS_LAZYTIME, 0),
    ],
)  # fmt: skip
def test_options_become_flags(options: list[str], flags: int, cleared: int) -> None:
    parsed = mount.parse_options(options)
    assert (parsed.flags, parsed.cleared, parsed.data, parsed.propagation) == (flags, cleared, [], 0)


def test_the_last_propagation_counts() -> None:
    assert mount.parse_options(["rprivate", "rshared"]).propagation == mount.MS_SHARED | mount.MS_REC
    assert mount.parse_options(["unbindable"]).propagation == mount.MS_UNBINDABLE


def test_what_is_left_is_for_the_file_system() -> None:
    parsed = mount.parse_options(["mode=755", "nosuid", "size=65536k", "gid=5", "newinstance"])
    assert parsed.data == ["mode=755", "size=65536k", "gid=5", "newinstance"]
    assert parsed.flags == NOSUID


def test_recursive_attributes() -> None:
    parsed = mount.parse_options(["rro", "rnoexec", "rsuid", "rdev"])
    assert parsed.recursive_set == libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOEXEC
    assert parsed.recursive_clear == libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
    assert parsed.flags == 0


@pytest.mark.parametrize(
    ("option", "set_"),
    [("rnoatime", libc.MOUNT_ATTR_NOATIME), ("rstrictatime", libc.MOUNT_ATTR_STRICTATIME), ("rrelatime", 0), ("ratime", 0)],
)
def test_recursive_access_times_are_one_field(option: str, set_: int) -> None:
    parsed = mount.parse_options([option])
    assert (parsed.recursive_set, parsed.recursive_clear) == (set_, libc.MOUNT_ATTR__ATIME)


def test_options_of_oci_alone() -> None:
    parsed = mount.parse_options(["ridmap", "tmpcopyup"])
    assert (parsed.idmap, parsed.copy_up, parsed.data) == ("ridmap", True, [])
    assert mount.parse_options(["idmap"]).idmap == "idmap"


def test_attributes_of_flags() -> None:
    flags = RO | NOSUID | mount.MS_BIND | mount.MS_REC | mount.MS_NOATIME
    assert mount.attributes(flags) == libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NOATIME
    assert mount.attributes(0) == 0


@pytest.mark.parametrize(
    ("set_", "clear", "expected"),
    [
        (0, 0, None),
        (libc.MOUNT_ATTR_RDONLY, 0, (libc.MOUNT_ATTR_RDONLY, 0)),
        (libc.MOUNT_ATTR_NOATIME, 0, (libc.MOUNT_ATTR_NOATIME, libc.MOUNT_ATTR__ATIME)),
        # Clearing a part of the field is EINVAL: mount_setattr(2).
        (0, libc.MOUNT_ATTR_NOATIME, (0, libc.MOUNT_ATTR__ATIME)),
        (0, libc.MOUNT_ATTR_NOEXEC, (0, libc.MOUNT_ATTR_NOEXEC)),
    ],
)
def test_access_times_are_replaced_whole(
    monkeypatch: pytest.MonkeyPatch, set_: int, clear: int, expected: tuple[int, int] | None
) -> None:
    calls: list[tuple[int, int]] = []

    def mount_setattr(fd: int, path: str, flags: int, *, attr_set: int, attr_clr: int, userns_fd: int) -> None:
        assert (fd, path, flags, userns_fd) == (9, "", libc.AT_EMPTY_PATH, 0)
        calls.append((attr_set, attr_clr))

    monkeypatch.setattr(libc, "mount_setattr", mount_setattr)
    mount.set_attributes(9, set_=set_, clear=clear)
    assert calls == ([] if expected is None else [expected])


def test_masks_and_names_are_inverse() -> None:
    assert capabilities.mask(["CAP_CHOWN"]) == 1
    assert capabilities.mask(["CAP_CHECKPOINT_RESTORE", "CAP_CHOWN"]) == 1 << 40 | 1
    assert capabilities.mask(None) == capabilities.mask([]) == 0
    assert capabilities.names_of((1 << 41) - 1) == list(capabilities.NAMES)
    assert len(capabilities.NAMES) == 41
    for name, number in capabilities.NUMBERS.items():
        assert capabilities.names_of(1 << number) == [name]
    assert capabilities.names_of(1 << 63) == []


@pytest.mark.parametrize(("name", "number"), [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_MKNOD", 27), ("CAP_BPF", 39)])
def test_numbers_are_the_kernels(name: str, number: int) -> None:
    assert capabilities.NUMBERS[name] == number


@pytest.mark.parametrize("name", ["CHOWN", "cap_chown", "CAP_NO", ""])
def test_unknown_capabilities_are_named(name: str) -> None:
    with pytest.raises(InvalidParameter, match=f"unknown capability {name!r}"):
        capabilities.mask([name])


def test_bounding_set_is_what_the_kernel_says() -> None:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd:"))
    assert capabilities.bounding_set() == int(line.split()[1], 16)


def test_a_rename_elsewhere_does_not_stop_a_resolution(tmp_path: Path) -> None:
    """The kernel gives up on `..` beneath a root with EAGAIN when anything on the host is renamed meanwhile."""
    (tmp_path / "in").mkdir()
    done = threading.Event()

    def rename() -> None:
        (tmp_path / "a").touch()
        while not done.is_set():
            os.rename(tmp_path / "a", tmp_path / "b")
            os.rename(tmp_path / "b", tmp_path / "a")

    renaming = threading.Thread(target=rename)
    renaming.start()
    root = os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)
    try:
        for _ in range(3000):
            os.close(libc.openat2(root, "in/../in/../in", os.O_PATH, libc.RESOLVE_IN_ROOT))
    finally:
        done.set()
        renaming.join()
        os.close(root)
