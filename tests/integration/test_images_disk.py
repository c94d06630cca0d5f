"""What images take on the disk, counted by find; and that an image's digests are the same wherever it has been."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from handmade import layer, member
from harness import Engine, wait_until
from test_distribution import busybox, diffs, leftovers, skopeo
from test_prune import df, file_bytes

pytestmark = pytest.mark.root


@pytest.fixture
def disk() -> Iterator[Engine]:
    """An engine without any image, which has none in the end either."""
    running = Engine()
    yield running
    for _ in range(5):  # one that others were made of goes after them
        for identity in set(running.docker("images", "-aq", "--no-trunc").stdout.split()):
            running.docker("rmi", "-f", identity, code=None)
    left = leftovers(running)
    running.finish()
    assert left == []


def used_blocks(engine: Engine) -> int:
    """Of everything in the store, in bytes, once what is to go is gone: a file that several layers have counts once."""
    wait_until(lambda: os.listdir(f"{engine.data}/tmp") == [], "layers that nobody uses")
    tops = [f"{engine.data}/{name}" for name in ("layers", "recipes", "pool", "contents")]
    return int(subprocess.run(["du", "-scB1", *tops], capture_output=True, text=True, check=True).stdout.split()[-2])


def test_what_equal_files_take_and_what_a_removal_frees(disk: Engine, tmp_path: Path) -> None:
    """Three images: a and b have a file in common that lies in layers of their own, c has a's base."""
    equal = (member("equal"), os.urandom(2_000_000))
    for name, members in (("a", [equal, ("only-a", os.urandom(500_000))]), ("b", [("only-b", os.urandom(300_000)), equal])):
        (tmp_path / f"{name}.tar").write_bytes(layer(*members))  # type: ignore[arg-type]
        disk.docker("import", str(tmp_path / f"{name}.tar"), f"disk:{name}")
        if name == "a":
            alone = used_blocks(disk)
    both = used_blocks(disk)
    assert 300_000 <= both - alone < 400_000
    disk.docker("create", "--name", "disk-c", "--network", "none", "disk:a", "x")
    disk.docker("cp", str(tmp_path / "b.tar"), "disk-c:/copied")
    disk.docker("commit", "disk-c", "disk:c")
    disk.docker("rm", "disk-c")
    seen = df(disk)
    assert seen["LayersSize"] == file_bytes(f"{disk.data}/layers") == 2_000_000 + 500_000 + 300_000 + os.stat(tmp_path / "b.tar").st_size
    sizes = {image["RepoTags"][0]: (image["Size"], image["SharedSize"]) for image in seen["Images"]}
    assert (sizes["disk:a"], sizes["disk:b"]) == ((2_500_000, 2_500_000), (2_300_000, 0))
    lines = disk.docker("system", "df", "-v").stdout
    assert any(line.split()[:2] == ["disk", "b"] and line.split()[-3:] == ["0B", "2.3MB", "0"] for line in lines.splitlines()), lines
    # a's layer stays with c, what b alone has goes, and the common file stays for the others
    disk.docker("rmi", "disk:a")
    assert df(disk)["LayersSize"] == seen["LayersSize"]
    before = used_blocks(disk)
    disk.docker("rmi", "disk:b")
    assert 300_000 <= before - used_blocks(disk) < 400_000
    disk.docker("rmi", "disk:c")


def test_the_same_tree_has_the_same_digest(disk: Engine, rootfs_tar: str) -> None:
    disk.docker("import", rootfs_tar, "same:1")
    disk.docker("import", rootfs_tar, "same:2")
    assert diffs(disk, "same:1") == diffs(disk, "same:2")
    made = []
    for names in ("a b c", "c a b"):
        script = f"mkdir /d; for n in {names}; do echo $n >/d/$n; ln /d/$n /d/$n-too; touch -d @1000000000 /d/$n; done; touch -d @1000000000 /d; rm /etc/plain; touch -d @1000000000 /etc /"
        disk.docker("run", "--name", "same", "--network", "none", "same:1", "sh", "-c", script)
        disk.docker("commit", "same", "same:committed")
        disk.docker("commit", "same", "same:committed")  # once more: nothing of the time of the commit is in the layer
        made.append(diffs(disk, "same:committed")[-1])
        disk.docker("rm", "same")
    assert made[0] == made[1]


def test_save_and_load_there_and_back_keep_digests(disk: Engine, real: Dockerd, tmp_path: Path) -> None:
    """berth, dockerd, skopeo as docker-archive and as OCI layout, berth."""
    (tmp_path / "base.tar").write_bytes(busybox())
    disk.docker("import", "-c", "ENV A=b", str(tmp_path / "base.tar"), "round:1")
    disk.docker("create", "--name", "round", "--network", "none", "round:1", "true")
    disk.docker("cp", __file__, "round:/file")
    disk.docker("commit", "round", "round:2")
    disk.docker("rm", "round")
    identity = json.loads(disk.docker("inspect", "round:2").stdout)[0]["Id"]
    layers = diffs(disk, "round:2")
    disk.docker("save", "-o", f"{tmp_path}/ours.tar", "round:2", "round:1")
    disk.docker("rmi", "round:1", "round:2")
    try:
        real("load", "-i", f"{tmp_path}/ours.tar")
        assert json.loads(real("inspect", "round:2").stdout)[0]["Id"] == identity
        real("save", "-o", f"{tmp_path}/dockers.tar", "round:2")
    finally:
        real("rmi", "round:1", "round:2", code=None)
    disk.docker("load", "-i", f"{tmp_path}/dockers.tar")
    assert (json.loads(disk.docker("inspect", "round:2").stdout)[0]["Id"], diffs(disk, "round:2")) == (identity, layers)
    disk.docker("save", "-o", f"{tmp_path}/again.tar", "round:2")
    disk.docker("rmi", "round:2")
    skopeo("copy", "-q", f"docker-archive:{tmp_path}/again.tar", f"oci:{tmp_path}/layout:round:3")
    skopeo("copy", "-q", f"docker-archive:{tmp_path}/again.tar", f"docker-archive:{tmp_path}/skopeo.tar:round:4")
    subprocess.run(["tar", "-C", f"{tmp_path}/layout", "-cf", f"{tmp_path}/layout.tar", "."], check=True)
    disk.docker("load", "-i", f"{tmp_path}/layout.tar")
    assert diffs(disk, "round:3") == layers
    disk.docker("load", "-i", f"{tmp_path}/skopeo.tar")
    assert diffs(disk, "round:4") == layers
    assert disk.docker("run", "--rm", "--network", "none", "round:4", "cat", "/file").stdout == Path(__file__).read_text()
