"""save, load, import: round trips read by skopeo and umoci; archives that lie, and what they may not leave."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness import Engine, wait_until

pytestmark = pytest.mark.root


def tree(engine: Engine) -> set[str]:
    """Everything the store has on disk, but for the database, once what is to go is gone."""
    wait_until(lambda: os.listdir(f"{engine.data}/tmp") == [], "layers that nobody uses")
    found = set()
    for top, names, files in os.walk(engine.data):
        names[:] = [name for name in names if name not in ("containers", "cache", "unwritten")]
        found |= {f"{top}/{name}" for name in names + files if not name.startswith("berth.db")}
    return found


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o755
    return info, data


def make_tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def image_archive(layer: bytes, diff_id: str = "") -> bytes:
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id or "sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()  # fmt: skip
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["crafted:latest"], "Layers": ["layer.tar"]}]).encode()
    return make_tar(entry("config.json", data=config), entry("layer.tar", data=layer), entry("manifest.json", data=manifest))


def test_save_is_read_by_skopeo_and_umoci(engine: Engine, tmp_path: Path) -> None:
    archive, layout, bundle = tmp_path / "bb.tar", tmp_path / "layout", tmp_path / "bundle"
    engine.docker("save", "-o", str(archive), "bb")
    seen = json.loads(subprocess.run(["skopeo", "inspect", f"docker-archive:{archive}"], capture_output=True, check=True).stdout)
    assert (seen["Os"], seen["Architecture"], len(seen["Layers"])) == ("linux", "amd64", 1)
    policy = ["--insecure-policy"]
    subprocess.run(["skopeo", *policy, "copy", "-q", f"docker-archive:{archive}", f"oci:{layout}:bb"], check=True, capture_output=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:bb", str(bundle)], check=True, capture_output=True)
    assert (bundle / "rootfs/bin/busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert os.readlink(bundle / "rootfs/evil") == "/"
    assert (bundle / "rootfs/tmp").stat().st_mode & 0o7777 == 0o1777
    # and back, from a layout of skopeo's making
    subprocess.run(["skopeo", *policy, "copy", "-q", f"oci:{layout}:bb", f"docker-archive:{tmp_path}/back.tar:back:1"], check=True, capture_output=True)
    engine.docker("load", "-i", f"{tmp_path}/back.tar")
    assert engine.run("back:1", "echo", "hello").stdout == "hello\n"
    engine.docker("rmi", "back:1")


def test_save_and_load_keep_the_identity(engine: Engine, tmp_path: Path) -> None:
    engine.docker("tag", "bb", "kept:2")
    identity = engine.docker("inspect", "--type", "image", "-f", "{{.Id}}", "kept:2").stdout
    engine.docker("save", "-o", f"{tmp_path}/k.tar", "kept:2")
    engine.docker("rmi", "kept:2")
    assert "kept:2" in engine.docker("load", "-i", f"{tmp_path}/k.tar").stdout
    assert engine.docker("inspect", "--type", "image", "-f", "{{.Id}}", "kept:2").stdout == identity
    engine.docker("rmi", "kept:2")


def test_import_with_changes(engine: Engine, rootfs_tar: str) -> None:
    engine.docker("import", "-c", 'CMD ["echo", "changed"]', "-c", "ENV A=1", "-c", "USER alice", rootfs_tar, "changed")
    assert engine.run("changed").stdout == "changed\n"
    assert engine.run("changed", "sh", "-c", "id -u; echo $A").stdout == "1000\n1\n"
    engine.docker("rmi", "changed")


HOSTILE = {
    "dotdot": [entry("../../../../../../../../var/tmp/berth-evil", data=b"x")],
    "absolute": [entry("/var/tmp/berth-evil", data=b"x")],
    "through a link": [entry("l", tarfile.SYMTYPE, "/var/tmp"), entry("l/berth-evil", data=b"x")],
    "through a relative link": [entry("l", tarfile.SYMTYPE, "../../../../../../../../../var/tmp"), entry("l/berth-evil", data=b"x")],
    "hard link out": [entry("h", tarfile.LNKTYPE, "/etc/hostname"), entry("h", data=b"x")],
    "hard link up": [entry("h", tarfile.LNKTYPE, "../../../../../../../../etc/hostname")],
    "whiteout up": [entry(".wh..."), entry("a/.wh..")],
    "file as a directory": [entry("f", data=b"x"), entry("f/g", data=b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("way", ["import", "load"])
def test_hostile_layer(engine: Engine, tmp_path: Path, name: str, way: str) -> None:
    """Either an error, and nothing of it is left, or it is unpacked beneath its root; never anything on the host."""
    before, host = tree(engine), (Path("/etc/hostname").read_bytes(), os.stat("/etc/hostname").st_nlink)
    path = tmp_path / "hostile.tar"
    layer = make_tar(*HOSTILE[name])
    path.write_bytes(layer if way == "import" else image_archive(layer))
    done = engine.docker(*(("import", str(path), "crafted") if way == "import" else ("load", "-i", str(path))), code=None)
    assert not os.path.lexists("/var/tmp/berth-evil")
    assert (Path("/etc/hostname").read_bytes(), os.stat("/etc/hostname").st_nlink) == host
    if done.returncode == 0 and "crafted" in engine.docker("images").stdout:
        engine.docker("rmi", "-f", "crafted")
    else:
        assert done.stderr.strip() or "rror" in done.stdout
    assert tree(engine) == before


def test_device_in_a_layer_cannot_be_opened(engine: Engine, tmp_path: Path, rootfs_tar: str) -> None:
    number = os.stat("/").st_dev
    path = tmp_path / "device.tar"
    path.write_bytes(Path(rootfs_tar).read_bytes())
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("disk")
        info.type, info.devmajor, info.devminor, info.mode = tarfile.BLKTYPE, os.major(number), os.minor(number), 0o666
        tar.addfile(info)
    engine.docker("import", str(path), "withdisk")
    assert "not permitted" in engine.run("withdisk", "head", "-c", "1", "/disk", code=1).stderr
    engine.docker("rmi", "withdisk")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("truncated layer", make_tar(entry("a", data=b"x" * 9000))[:5000]),
        ("not a tar", b"this is not an archive\n" * 100),
        ("truncated archive", image_archive(make_tar(entry("a", data=b"x" * 9000)))[:7000]),
        ("wrong digest", image_archive(make_tar(entry("a", data=b"x")), "sha256:" + "0" * 64)),
        ("no manifest", make_tar(entry("a", data=b"x"))),
        ("manifest that names nothing", make_tar(entry("manifest.json", data=b'[{"Config": "c", "Layers": ["../../etc/passwd"]}]'))),
        ("manifest that is no JSON", make_tar(entry("manifest.json", data=b"{"))),
        ("gzip that ends early", b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc"),
    ],
)
@pytest.mark.parametrize("way", ["import", "load"])
def test_broken_archive(engine: Engine, tmp_path: Path, name: str, data: bytes, way: str) -> None:
    before, images = tree(engine), engine.docker("images", "-aq").stdout
    path = tmp_path / "broken.tar"
    path.write_bytes(data)
    if way == "load":
        done = engine.docker("load", "-i", str(path), code=1)
    elif name in ("wrong digest", "no manifest", "manifest that names nothing", "manifest that is no JSON"):
        return  # whole archives, if not of images: as a root file system there is nothing wrong with them
    else:
        done = engine.docker("import", str(path), "broken", code=1)
    assert done.stderr.strip()
    assert tree(engine) == before
    assert engine.docker("images", "-aq").stdout == images


def test_image_in_use(engine: Engine, rootfs_tar: str) -> None:
    engine.docker("import", rootfs_tar, "in-use")
    identity = engine.up(image="in-use")
    assert identity[:12] in engine.docker("rmi", "in-use", code=1).stderr
    engine.rm(identity)
    engine.docker("rmi", "in-use")
