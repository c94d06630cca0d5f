"""`RUN --device`: a step has a device of the host where the engine's configuration and the client let it, and never otherwise."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildcli import dockerfile, run_berth
from harness import Engine

DEVICE = "/dev/loop-control"
pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.exists(DEVICE), reason=f"needs {DEVICE}")]


@pytest.fixture(scope="module")
def open_engine(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One that lets builds ask for devices."""
    config = tmp_path_factory.mktemp("config") / "daemon.json"
    config.write_text(json.dumps({"builder": {"entitlements": {"device": True}}}))
    running = Engine(("--config-file", str(config)))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


def test_a_device_of_the_host(open_engine: Engine, tmp_path: Path) -> None:
    # Opened, not only seen: a cgroup lets it.
    dockerfile(tmp_path, f"FROM bb\nRUN --device={DEVICE} stat -c '%t:%T' {DEVICE} >/number && true <{DEVICE}\nRUN ! test -e {DEVICE}\n")
    for right in ("device", f"device={DEVICE}"):
        run_berth(open_engine, "build", "--no-cache", "-t", "device:one", "--allow", right, ".", cwd=tmp_path)
    number = os.stat(DEVICE).st_rdev
    assert open_engine.docker("run", "--rm", "device:one", "cat", "/number").stdout == f"{os.major(number):x}:{os.minor(number):x}\n"
    assert open_engine.docker("run", "--rm", "device:one", "sh", "-c", f"test -e {DEVICE} || echo none").stdout == "none\n"
    # What looks like the device without having been asked for is refused by the kernel.
    kind = "c" if stat.S_ISCHR(os.stat(DEVICE).st_mode) else "b"
    dockerfile(tmp_path, f"FROM bb\nRUN mknod /x {kind} {os.major(number)} {os.minor(number)}; ! true </x; rm -f /x\n")
    run_berth(open_engine, "build", "--allow", "device", ".", cwd=tmp_path)


def test_who_may(open_engine: Engine, engine: Engine, tmp_path: Path) -> None:
    dockerfile(tmp_path, f"FROM bb\nRUN --device={DEVICE} touch /ran\n")
    for where, words in ((open_engine, ()), (open_engine, ("--allow", "device=/dev/kmsg")), (engine, ("--allow", "device"))):
        said = run_berth(where, "build", *words, ".", cwd=tmp_path, code=1).stderr
        assert f"RUN --device={DEVICE}: a step has the devices of a container, unless daemon.json says" in said
    said = run_berth(engine, "build", "--allow", "devise", ".", cwd=tmp_path, code=125).stderr
    assert "(did you mean device?)" in said


def test_devices_that_are_not_there(open_engine: Engine, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN --device=/dev/no-such --device=vendor.example/class=one echo ran >/ran\n")
    done = run_berth(open_engine, "build", "-t", "device:without", "--allow", "device", ".", cwd=tmp_path)
    assert "RUN --device=vendor.example/class=one: berth has no CDI devices; the step runs without it" in done.stderr
    assert open_engine.docker("run", "--rm", "device:without", "cat", "/ran").stdout == "ran\n"
    dockerfile(tmp_path, "FROM bb\nRUN --device=/dev/no-such,required true\n")
    assert "/dev/no-such" in run_berth(open_engine, "build", "--allow", "device", ".", cwd=tmp_path, code=1).stderr
    dockerfile(tmp_path, "FROM bb\nRUN --device=vendor.example/class=one,required=true true\n")
    said = run_berth(open_engine, "build", "--allow", "device", ".", cwd=tmp_path, code=1).stderr
    assert "Dockerfile:2: RUN --device=vendor.example/class=one: berth has no CDI devices: name the device's path on the host" in said
