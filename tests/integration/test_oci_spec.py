"""`berth oci spec` beside `runc spec`: the same document in meaning, and each takes the other's."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oci import BERTH, Oci, make_rootfs

pytestmark = pytest.mark.root
runc = pytest.mark.skipif(not shutil.which("runc"), reason="needs runc")
UID = 54_321


@pytest.fixture
def oci() -> Iterator[Oci]:
    made = Oci()
    yield made
    made.finish()


def written(runtime: str, directory: Path, *words: str) -> dict:
    directory.mkdir()
    subprocess.run([runtime, "spec", *words], cwd=directory, check=True)
    found: dict = json.loads((directory / "config.json").read_text())
    return found


def _compared(document: dict) -> dict:
    """Without what differs on purpose: version, name, ambient capabilities that could never be, newer masks, cgroup namespace."""
    found: dict = json.loads(json.dumps(document))
    for key in ("ociVersion", "hostname"):
        del found[key]
    for kind in ("ambient", "inheritable"):
        found["process"]["capabilities"].pop(kind, None)
    linux = found["linux"]
    linux["namespaces"] = sorted(entry["type"] for entry in linux["namespaces"] if entry["type"] != "cgroup")
    linux["maskedPaths"] = sorted(path for path in linux["maskedPaths"] if path != "/sys/devices/virtual/tpm")
    return found


@runc
@pytest.mark.parametrize("words", [(), ("--rootless",)])
def test_the_same_as_runc_s(tmp_path: Path, words: "tuple[str, ...]") -> None:
    ours, theirs = written(BERTH, tmp_path / "ours", *words), written("runc", tmp_path / "theirs", *words)
    assert _compared(ours) == _compared(theirs)
    assert {"type": "cgroup"} in ours["linux"]["namespaces"]
    assert "seccomp" not in ours["linux"]


@runc
def test_each_takes_the_other_s(tmp_path: Path, oci: Oci) -> None:
    for maker, user in ((BERTH, "runc"), ("runc", BERTH)):
        directory = tmp_path / os.path.basename(maker)
        document = written(maker, directory)
        document["process"].update(terminal=False, args=["hostname"])
        (directory / "config.json").write_text(json.dumps(document))
        make_rootfs(str(directory / "rootfs"))
        command = [user, "--root", str(tmp_path / "state"), "run", "--bundle", str(directory), oci.identity()]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, document["hostname"]), done.stderr


def test_a_file_that_is_there_is_kept(tmp_path: Path, oci: Oci) -> None:
    (tmp_path / "config.json").write_text("mine")
    done = oci.call("spec", "--bundle", str(tmp_path), code=1)
    assert f"file {tmp_path}/config.json exists; remove it first" in done.stderr
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path: Path, oci: Oci) -> None:
    (tmp_path / "config.json").symlink_to("elsewhere")
    oci.call("spec", "--bundle", str(tmp_path), code=1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there(tmp_path: Path, oci: Oci) -> None:
    assert "cannot write" in oci.call("spec", "--bundle", str(tmp_path / "none"), code=1).stderr
