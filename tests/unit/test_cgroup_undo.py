"""Limits that are written back: what a file had, by what was written to it."""

import pytest

from berth.errors import BerthError, SystemFailure
from berth.linux.cgroup_base import Cgroup, Setting
from berth.linux.cgroup_undo import before, change, put_back


@pytest.mark.parametrize(
    ("name", "value", "had", "back"),
    [
        ("memory.limit_in_bytes", "1048576", "9223372036854771712\n", "9223372036854771712"),
        ("pids.max", "50", "max\n", "max"),
        ("cpu.max", "50000 100000", "max 100000\n", "max 100000"),
        ("cpuset.cpus", "0", "\n", "\n"),
        ("blkio.throttle.read_bps_device", "8:0 1024", "", "8:0 0"),
        ("blkio.throttle.read_bps_device", "8:0 1024", "8:16 5\n8:0 77\n", "8:0 77"),
        ("io.max", "8:0 rbps=1 wiops=2", "8:16 rbps=5\n", "8:0 rbps=max wiops=max"),
        ("io.max", "8:0 rbps=1", "8:0 rbps=9 wbps=max riops=max wiops=max\n", "8:0 rbps=9 wbps=max riops=max wiops=max"),
        ("io.weight", "default 200", "default 100\n8:0 50\n", "default 100"),
        ("io.weight", "8:0 200", "default 100\n", "8:0 default"),
        ("io.bfq.weight", "200", "default 100\n8:0 50\n", "default 100"),
    ],
)  # fmt: skip
def test_before(name: str, value: str, had: str, back: str) -> None:
    assert before(name, value, had) == back


class Files(Cgroup):
    """A group whose files are in a directory; `refuses` are values that none takes."""

    def __init__(self, top: str, refuses: set[str]) -> None:
        super().__init__("/x", [top])
        self.refuses = refuses

    def settings(self, resources: dict) -> list[Setting]:
        return [(f"{self.directories[0]}/{name}", value, name) for name, value in resources.items()]

    def write(self, settings: list[Setting]) -> None:
        for path, value, what in settings:
            if value in self.refuses:
                raise SystemFailure(f"cannot set {what}")
            with open(path, "w") as file:
                file.write(value)


def test_all_or_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("group")
    for name in ("a", "b", "c"):
        (top / name).write_text("1")

    def texts() -> list[str]:
        return [(top / name).read_text() for name in ("a", "b", "c")]

    group = Files(str(top), {"9"})
    with pytest.raises(SystemFailure, match="cannot set c"):
        change(group, {"a": "2", "b": "2", "c": "9"})
    assert texts() == ["1", "1", "1"]
    had = change(group, {"a": "2", "b": "2"})
    assert texts() == ["2", "2", "1"]
    group.refuses.add("1")
    with pytest.raises(BerthError, match="cannot set b; cannot set a"):
        put_back(group, had)
