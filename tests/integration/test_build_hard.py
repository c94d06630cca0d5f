"""Builds that are cancelled at many moments, that meet each other and prunes, on a full disk, after what was damaged, with bad input."""

import contextlib
import http.client
import io
import json
import os
import random
import socket
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from harness import Engine, all_pids, mounts, read, wait_until

pytestmark = pytest.mark.root

MARK = "hard-build-marks-this"
PARALLEL = (
    f"FROM bb AS one\nRUN echo {MARK}; for i in 1 2 3; do echo $i >/one-$i; done\nWORKDIR /w\nCOPY a /a\n"
    f"FROM bb AS two\nCOPY . /ctx\nRUN --mount=type=cache,target=/c echo {MARK} >>/c/f; cp -r /ctx /copy\n"
    f"FROM bb\nCOPY --from=one /one-1 /\nCOPY --from=two /copy /copy\nRUN echo {MARK} $RANDOM >/last\n"
)


def context(dockerfile: str, files: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {"Dockerfile": dockerfile.encode(), "a": b"a\n", **(files or {})}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_000_000_000
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def connect(engine: Engine) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("berth", timeout=110)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(110)
    connection.sock.connect(f"{engine.exec}/berth.sock")
    return connection


def build(engine: Engine, data: bytes, tag: str = "", more: str = "") -> tuple[str, str]:
    """(what was said, the error)"""
    with contextlib.closing(connect(engine)) as connection:
        connection.request("POST", f"/build?networkmode=none&t={quote(tag)}{more}", data, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 200:
        return "", str(json.loads(text)["message"])
    lines = [json.loads(line) for line in text.splitlines()]
    return "".join(line.get("stream", "") for line in lines), "".join(line.get("error", "") for line in lines)


def post(engine: Engine, path: str) -> dict:
    with contextlib.closing(connect(engine)) as connection:
        connection.request("POST", path)
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status == 200, text
    return dict(json.loads(text))


def left(engine: Engine) -> list[str]:
    places = (f"{engine.data}/build/work", f"{engine.exec}/build", f"{engine.data}/tmp", f"{engine.data}/containers", f"{engine.exec}/containers")
    found = [f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place)]
    found += [line for line in mounts() - engine.mounts_before if engine.top in line]
    return found + [text for pid in all_pids() if MARK in (text := read(f"/proc/{pid}/cmdline"))]


def test_cancelled_at_many_moments(own_engine: Engine) -> None:
    data = context(PARALLEL, {f"d/{number}": os.urandom(1000) for number in range(200)})
    fate = random.Random(7)
    build(own_engine, data)  # what an engine makes once
    for turn in range(25):
        post(own_engine, "/build/prune?all=1")
        with contextlib.closing(connect(own_engine)) as connection:
            connection.request("POST", "/build?networkmode=none", data, {"Content-Type": "application/x-tar"})
            assert connection.sock
            connection.sock.settimeout(fate.uniform(0.0, 0.8))
            with contextlib.suppress(TimeoutError):
                while connection.sock.recv(1 << 16):
                    pass
        wait_until(lambda: left(own_engine) == [], f"after turn {turn}: {left(own_engine)}")
    said, error = build(own_engine, data, "whole")
    assert not error
    assert "Successfully built" in said
    assert own_engine.run("whole", "sh", "-c", "ls /copy/d | wc -l; cat /one-1").stdout == "200\n1\n"


def test_a_context_that_ends_too_early(own_engine: Engine) -> None:
    data = context("FROM bb\nCOPY . /\n", {"big": os.urandom(3_000_000)})
    for share in (0, 100, 512, 1_000_000):
        with contextlib.closing(connect(own_engine)) as connection:
            connection.putrequest("POST", "/build")
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data[:share])
        wait_until(lambda: left(own_engine) == [], f"after {share} bytes: {left(own_engine)}")
    _, error = build(own_engine, data[: len(data) // 2])
    assert "archive" in error or "end" in error, error


def test_eight_at_once_each_with_a_context_of_its_own(engine: Engine) -> None:
    wrong: list[str] = []

    def one(number: int) -> None:
        said, error = build(engine, context("FROM bb\nCOPY mine /mine\nRUN cat /mine >/seen\n", {"mine": f"{number}\n".encode()}), f"eight-{number}")
        if error or f"Successfully tagged eight-{number}:latest" not in said:
            wrong.append(f"{said} {error}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for number in range(8):
        assert engine.run(f"eight-{number}", "cat", "/seen").stdout == f"{number}\n"


def test_builds_while_everything_is_pruned(own_engine: Engine) -> None:
    """What a build stands on is not taken from under it."""
    stop = threading.Event()
    wrong: list[str] = []

    def prune() -> None:
        while not stop.is_set():
            for path in ("/build/prune?all=1", f"/images/prune?filters={quote(json.dumps({'dangling': ['false'], 'label': ['prunable']}))}"):
                try:
                    post(own_engine, path)
                except AssertionError as error:
                    wrong.append(f"{path}: {error}")

    def one(number: int) -> None:
        for turn in range(6):
            text = f"FROM bb AS x\nLABEL prunable=1\nRUN echo {number} >/x\nCOPY a /a\nFROM x\nWORKDIR /w/{turn}\nCOPY --from=x /x /y\nRUN cat /y >/z\n"
            said, error = build(own_engine, context(text), f"pruned-{number}")
            if error or "Successfully built" not in said:
                wrong.append(f"{said} {error}")

    pruner = threading.Thread(target=prune)
    builders = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in (pruner, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    stop.set()
    pruner.join()
    assert wrong == []
    _, error = build(own_engine, context("FROM bb\nRUN echo 1 >/x\n"), "after")
    assert not error
    wait_until(lambda: left(own_engine) == [], "files of builds")
    assert own_engine.run("after", "cat", "/x").stdout == "1\n"


@pytest.fixture
def small(rootfs_tar: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose data root is a file system of 192 MB, of which images leave 64 free."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(root)], check=True)
    running = None
    try:
        running = Engine(("--data-root", f"{root}/data"))
        running.data = f"{root}/data"
        running.docker("import", rootfs_tar, "bb")
        yield running
        running.finish()
    finally:
        if running and running.process and running.process.poll() is None:
            running.kill()
        subprocess.run(["umount", str(root)], check=True)


@pytest.mark.parametrize(
    ("dockerfile", "sent_bytes"),
    [("FROM bb\nRUN head -c 300000000 /dev/zero >/big\n", 0), ("FROM bb\nCOPY big /\nCOPY big /2\nCOPY big /3\n", 40_000_000), ("FROM bb\nCOPY big /\n", 250_000_000)],
)  # fmt: skip
def test_a_full_disk(small: Engine, dockerfile: str, sent_bytes: int) -> None:
    files = {"big": os.urandom(sent_bytes)} if sent_bytes else {}
    try:
        said, error = build(small, context(dockerfile, files))
    except Exception:
        print(small.log()[-6000:])
        raise
    assert "Successfully" not in said
    assert "space" in (said + error).lower(), (said, error)
    wait_until(lambda: left(small) == [], f"left: {left(small)}")
    post(small, "/build/prune?all=1")
    wait_until(lambda: left(small) == [], f"left: {left(small)}")
    said, error = build(small, context("FROM bb\nCOPY a /a\nRUN echo 1 >/b\n"), "fits")
    assert not error
    assert small.run("fits", "cat", "/a", "/b").stdout == "a\n1\n"


def test_a_cache_that_is_damaged_removed_or_of_another_time(own_engine: Engine) -> None:
    data = context("FROM bb\nRUN echo 1 >/x\nCOPY a /a\n")
    path = f"{own_engine.data}/build/cache.db"

    def emptied() -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)

    def garbage() -> None:
        emptied()
        Path(path).write_bytes(os.urandom(20_000))

    def cut() -> None:
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)
        os.truncate(path, 5000)

    def other_tables() -> None:
        emptied()
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE records (key TEXT PRIMARY KEY, chain TEXT)")
            database.execute("INSERT INTO records VALUES ('k', 'c')")
            database.commit()

    def layers_gone() -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE records SET chain = 'sha256:' || hex(randomblob(32))")
            database.execute("UPDATE slots SET inputs = 'no json'")
            database.commit()

    for damage in (emptied, garbage, cut, other_tables, layers_gone):
        assert not build(own_engine, data, "kept")[1]
        own_engine.stop()
        damage()
        own_engine.start()
        said, error = build(own_engine, data, "kept")
        assert "Successfully built" in said, (damage.__name__, error)
        assert build(own_engine, data)[0].count("Using cache") == 2
        own_engine.docker("system", "df", "-v")
        wait_until(lambda: left(own_engine) == [], "files of builds")


def test_copies_that_lead_outside(engine: Engine, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        text = b"FROM bb\nCOPY up/shadow /1\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
        for name, target in (("up", "../../../../../../../etc"), ("abs", "/etc"), ("abs-file", "/etc/hostname")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    data = out.getvalue()
    _, error = build(engine, data)
    assert "not found" in error
    for source in ("abs/hostname", "abs-file", "../../../etc/hostname", "/etc/hostname"):
        _, error = build(engine, data.replace(b"COPY up/shadow /1\n", f"COPY {source} /1\n".encode().ljust(18)[:18]) if len(source) < 10 else data)
        assert error
    # a link in the image leads to the image's own files
    said, error = build(engine, context("FROM bb\nRUN mkdir /there\nCOPY a /evil/there/a\nCOPY a /evil-up/there/b\nRUN ls /there >/seen\n"), "evil")
    assert not error, said
    assert engine.run("evil", "cat", "/seen").stdout == "a\nb\n"
    assert not os.path.exists("/there")


def test_a_source_that_changes_while_it_is_read(engine: Engine) -> None:
    """A step goes on swapping a directory for a link while another copies from the same cache."""
    text = (
        "FROM bb AS filled\nRUN mkdir -p /d/e && echo inside >/d/e/hostname && ln -s /etc /l\n"
        "FROM bb AS swaps\nRUN --mount=type=bind,from=filled,target=/m,rw i=0; while [ $i -lt 300 ]; do mv /m/d /m/x; mv /m/l /m/d; mv /m/d /m/l; mv /m/x /m/d; i=$((i+1)); done; echo done >/done\n"
        "FROM bb\n" + "".join(f"COPY --from=filled /d/e /{number}\n" for number in range(20)) + "COPY --from=swaps /done /done\nRUN cat /[0-9]*/hostname | sort -u >/seen\n"
    )
    said, error = build(engine, context(text), "swapped")
    assert not error, said
    assert engine.run("swapped", "cat", "/seen").stdout == "inside\n"  # each build sees its own


def test_secrets_in_arguments_are_in_the_history_as_in_docker(engine: Engine) -> None:
    assert not build(engine, context("FROM bb\nARG TOKEN\nRUN true >/x\n"), "told", "&buildargs=" + quote('{"TOKEN": "hunter2"}'))[1]
    assert "TOKEN=hunter2" in engine.docker("history", "--no-trunc", "told").stdout
    assert not build(engine, context("FROM bb\nRUN true >/x\n"), "untold", "&buildargs=" + quote('{"TOKEN": "hunter2", "HTTP_PROXY": "http://u:hunter2@p"}'))[1]
    assert "hunter2" not in engine.docker("history", "--no-trunc", "untold").stdout
    assert "hunter2" not in engine.docker("image", "inspect", "untold").stdout


def test_thousands_of_steps_are_refused_in_words_or_built(own_engine: Engine) -> None:
    """More layers than overlayfs can put together."""
    data = context("FROM bb\n" + "".join(f"RUN echo {number} >/f\n" for number in range(5000)))
    with contextlib.closing(connect(own_engine)) as connection:
        connection.request("POST", "/build?networkmode=none", data, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        assert b"Step 1/5001" in answer.read(2000)
    wait_until(lambda: left(own_engine) == [], f"left: {left(own_engine)}")
    said, error = build(own_engine, context("FROM bb\n" + "".join(f"WORKDIR /w{number}\n" for number in range(600))))
    assert "there are 498 layers below this step already" in error
    assert said.splitlines()[-1] == "Step 499/601 : WORKDIR /w497"
    said, error = build(own_engine, context("FROM bb\n" + "".join(f"ENV A{number}={number}\n" for number in range(5000)) + "RUN env >/env\n"), "env")
    assert not error, error
    assert own_engine.run("env", "grep", "-c", "^A[0-9]*=", "/env").stdout == "5000\n"


def test_as_many_layers_as_there_may_be(own_engine: Engine) -> None:
    """dockerd has 127. What they make can be run, looked at, copied from and written on; one more is refused, as a layer and as a step."""
    made = context("FROM bb\n" + "".join(f"WORKDIR /w{number}\n" for number in range(496)) + "RUN seq 100000 >/numbers\n")
    _, error = build(own_engine, made, "deep")
    assert not error, error
    layers = json.loads(own_engine.docker("image", "inspect", "deep").stdout)[0]["RootFS"]["Layers"]
    assert len(layers) == 498
    assert own_engine.run("deep", "sh", "-c", "echo x >>/numbers; ls -d /w* | wc -l; tail -1 /numbers").stdout == "496\nx\n"
    _, error = build(own_engine, context("FROM deep AS deep\nFROM bb\nCOPY --from=deep /numbers /w495 /there/\nRUN --mount=from=deep,target=/d cmp /d/numbers /there/numbers\n"))
    assert not error, error
    for line in ("RUN touch /x", "COPY a /x", "WORKDIR /x"):
        _, error = build(own_engine, context(f"FROM deep\n{line}\n"))
        assert "there are 498 layers below this step already" in error, (line, error)
    wait_until(lambda: left(own_engine) == [], f"left: {left(own_engine)}")
