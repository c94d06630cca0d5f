"""Filters of prune, bytes of trees, the lines of system df."""

import os
from pathlib import Path

import pytest

from berth.cli import df
from berth.engine import prune
from berth.errors import InvalidParameter
from berth.models.units import human_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1h30m", 1_000_000 - 5400), ("10s", 999_990), ("1.5h", 1_000_000 - 5400), ("123", 123), ("2001-09-09T01:46:40Z", 1e9),
     ("2001-09-09T03:46:40+02:00", 1e9)],
)  # fmt: skip
def test_moment(text: str, expected: float) -> None:
    assert prune.moment_s(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["", "soon", "1x", "2001-99-99", "nan", "inf", "1e9", "١"])
def test_no_moment(text: str) -> None:
    with pytest.raises(InvalidParameter, match="until="):
        prune.moment_s(text, 0)


def test_labels() -> None:
    labels = {"a": "1", "b": ""}
    for filters, expected in (
        ({}, True), ({"label": ["a"]}, True), ({"label": ["a=1", "b"]}, True), ({"label": ["a=2"]}, False), ({"label!": ["c"]}, True),
        ({"label!": ["a=1"]}, False), ({"label": ["a"], "label!": ["b"]}, False),
    ):  # fmt: skip
        assert prune.labels_match(labels, filters) is expected


def test_dangling_and_until() -> None:
    assert prune.dangling_only({})
    assert not prune.dangling_only({"dangling": ["false"]})
    for values in (["x"], ["true", "false"]):
        with pytest.raises(InvalidParameter, match="invalid filter 'dangling="):
            prune.dangling_only({"dangling": values})
    with pytest.raises(InvalidParameter, match="more than one until"):
        prune.until({"until": ["1h", "2h"]})
    assert prune.until({}) == float("inf")


def test_tree_bytes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"12345")
    os.link(tmp_path / "d/f", tmp_path / "g")
    os.symlink("/etc", tmp_path / "s")
    assert prune.tree_bytes(str(tmp_path)) == 5 + 4
    assert prune.tree_bytes(f"{tmp_path}/gone") == 0


def test_df_lines() -> None:
    images = [
        {"Size": 1000, "SharedSize": 600, "Containers": 1}, {"Size": 700, "SharedSize": 600, "Containers": 0},
    ]  # fmt: skip
    containers = [{"SizeRw": 10, "State": "running"}, {"SizeRw": 30, "State": "exited"}]
    volumes = [{"UsageData": {"RefCount": 2, "Size": 100}}, {"UsageData": {"RefCount": 0, "Size": 300}}]
    built = [{"Size": 5, "Shared": False, "InUse": True}, {"Size": 40, "Shared": False, "InUse": False}, {"Size": 7, "Shared": True, "InUse": False}]
    lines = df.summary(1100, images, containers, volumes, built)
    assert [(line["Type"], line["TotalCount"], line["Active"], line["Size"], line["Reclaimable"]) for line in lines] == [
        ("Images", "2", "1", "1.1kB", "700B (63%)"), ("Containers", "2", "1", "40B", "30B (75%)"),
        ("Local Volumes", "2", "1", "400B", "300B (75%)"), ("Build Cache", "3", "1", "45B", "40B"),
    ]  # fmt: skip


def test_human_size() -> None:
    assert [human_size(n) for n in (0, 999, 1984447, 5e9)] == ["0B", "999B", "1.984MB", "5GB"]
