"""The engine killed right before a file operation, SQL statement or message of a build, and what the next one finds.

Nothing of the build is left but what its cache has, the store is in order, and the same build succeeds and makes the same image.
BERTH_KILLPOINTS=all tries every point (minutes), 100:200 those of all.
"""

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from harness import all_pids, mounts, read, wait_until
from test_killpoints import Killed, chosen_points

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if os.environ.get("BERTH_KILLPOINTS") else 120)]

MARK = "killed-build-marks-this"
DOCKERFILES = {
    "run": f"FROM bb\nRUN echo {MARK} >/run && rm /etc/plain\n",
    "files": "FROM bb\nWORKDIR /srv/app\nCOPY a d ./\nADD archive.tar.gz /unpacked/\n",
    "cache-mount": f"FROM bb\nRUN --mount=type=cache,target=/c echo {MARK} >/c/f && cp /c/f /run\n",
    "stages": f"FROM bb AS one\nRUN echo {MARK} >/one\nFROM bb AS two\nCOPY a /two\nFROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
}


def context(dockerfile: str) -> bytes:
    out, inner = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        _add(archive, "in/side", b"inside")
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("Dockerfile", dockerfile.encode()), ("a", b"a\n"), ("d/b", b"b\n"), ("archive.tar.gz", gzip.compress(inner.getvalue(), mtime=0))):
            _add(tar, name, data)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_000_000_000
    tar.addfile(info, io.BytesIO(data))


def build(killed: Killed, data: bytes) -> bytes:
    """What the engine says, as far as it lives."""
    _, answer = killed.ask("POST", f"/build?t=built&networkmode=none&labels={quote('{}')}", data)
    return answer if isinstance(answer, bytes) else b""


def remove(killed: Killed) -> None:
    """The image and all that builds keep."""
    killed.clean()
    killed.do("POST", "/build/prune?all=1")
    killed.do("POST", "/images/prune")
    killed.wait_until_removed()


def left(killed: Killed) -> list[str]:
    engine = killed.engine
    places = (f"{engine.data}/build/work", f"{engine.exec}/build", f"{engine.data}/tmp", f"{engine.data}/containers", f"{engine.exec}/containers")
    found = [f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place)]
    found += [line for line in mounts() - engine.mounts_before if engine.top in line]
    return found + [read(f"/proc/{pid}/cmdline") for pid in all_pids() if MARK in read(f"/proc/{pid}/cmdline")]


@pytest.fixture(scope="module")
def killed(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    engine = Killed(str(tmp_path_factory.mktemp("killpoints") / "control"))
    engine.engine.docker("import", rootfs_tar, "bb")
    yield engine
    remove(engine)
    engine.engine.finish()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_killed_within_a_build(killed: Killed, name: str) -> None:
    data = context(DOCKERFILES[name])
    remove(killed)  # also brings up what the first build makes once
    killed.count()
    assert b"Successfully built" in build(killed, data)
    killed.leave_alone()
    points = killed.points()
    killed.forget_points()
    files = _files(killed, name)
    assert points
    hit = 0
    todo = chosen_points(list(DOCKERFILES).index(name), points)
    for number, (kind, at) in enumerate(todo):
        print(f"{name}: point {number} of {len(todo)}, {kind} {at}", flush=True)  # the last one is where a run that does not end is
        remove(killed)
        killed.count(kind, at)
        build(killed, data)
        killed.leave_alone()
        seen = killed.points()
        killed.forget_points()
        last = (seen or ["none"])[-1]
        hit += sum(point.startswith(f"{kind} ") for point in seen) >= at
        killed.engine.kill()  # one that has not met the point
        killed.engine.start()
        try:
            killed.do("GET", "/images/json")
            wait_until(lambda: left(killed) == [], f"left: {left(killed)}")
            killed.check()
            assert b"Successfully built" in (said := build(killed, data)), said
            assert _files(killed, name) == files
            assert b"Using cache" in build(killed, data)
            killed.check()
            assert not killed.set_aside()
        except AssertionError as error:
            raise AssertionError(f"{name}, killed before {kind} {at} ({last}): {error}\n{killed.engine.log()[-3000:]}") from error
    assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met: the engine does not do the same twice"


def _files(killed: Killed, name: str) -> list[tuple[str, bytes]]:
    """What the image has that its base has not, read from an export."""
    answer = killed.do("POST", "/containers/create?name=kp-seen", {"Image": "built", "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}})
    assert isinstance(answer, dict)
    exported = killed.do("GET", f"/containers/{answer['Id']}/export")
    assert isinstance(exported, bytes)
    killed.do("DELETE", f"/containers/{answer['Id']}")
    found = []
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isreg() and path.split("/")[0] not in ("bin", "dev", "proc", "sys", "etc"):
                file = tar.extractfile(member)
                assert file
                found.append((path, file.read()))
    return sorted(found)
