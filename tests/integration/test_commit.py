"""diff, export, commit: whiteouts, opaque directories, mount points of the runtime's, what an image keeps of a container."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from harness import REPOSITORY, Engine, read, wait_until

pytestmark = pytest.mark.root
CHANGES = "rm -r /var; mkdir /var; touch /var/x; mv /home /home2; rm -r /usr/bin; chmod 700 /tmp; ln -s a /etc/plain2; rm /etc/plain; mkdir /etc/plain"
SEEN = ["C /etc", "C /etc/plain", "A /etc/plain2", "D /home", "A /home2", "C /tmp", "C /usr", "D /usr/bin", "C /var", "A /var/x"]


def berth(engine: Engine, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    env = {**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}
    done = subprocess.run([sys.executable, "-m", "berth.cli", *words], env=env, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"{words}: {done.returncode} {done.stderr!r}"
    return done


def ended(engine: Engine, script: str, *options: str) -> str:
    identity = engine.docker("create", "--network", "none", *options, "bb", "sh", "-c", script).stdout.strip()
    engine.docker("start", "-a", identity)
    return identity


def test_diff(engine: Engine) -> None:
    c = ended(engine, CHANGES)
    assert engine.docker("diff", c).stdout.splitlines() == SEEN  # dockerd 20.10 says the same, in another order
    assert berth(engine, "diff", c).stdout.decode().splitlines() == SEEN
    engine.rm(c)
    c = ended(engine, "true")
    assert engine.docker("diff", c).stdout == ""
    engine.rm(c)
    created = engine.docker("create", "--network", "none", "bb", "true").stdout.strip()
    assert engine.docker("diff", created).stdout == ""
    engine.rm(created)


def test_diff_of_a_running_container(engine: Engine) -> None:
    c = engine.up("--tmpfs", "/t", command=("sh", "-c", "echo 1 >/t/x; echo 2 >>/etc/group; mkdir -p /n/e/w; chown 5 /etc/passwd; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
    assert engine.docker("diff", c).stdout.splitlines() == ["C /etc", "C /etc/group", "C /etc/passwd", "A /n", "A /n/e", "A /n/e/w", "A /t"]
    engine.rm(c)


def test_export(engine: Engine, tmp_path: Path) -> None:
    c = engine.up("--tmpfs", "/t", "-v", f"{tmp_path}:/v", command=("sh", "-c", f"{CHANGES}; touch /t/no /v/no; chown 3:4 /var/x; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
    engine.docker("export", "-o", f"{tmp_path}/out.tar", c)
    berth(engine, "export", "-o", f"{tmp_path}/berth.tar", c)
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "berth.tar").read_bytes()
    with tarfile.open(tmp_path / "out.tar") as tar:
        infos = {info.name: info for info in tar.getmembers()}
        assert tar.extractfile("bin/busybox").read() == Path("/bin/busybox").read_bytes()  # type: ignore[union-attr]
    assert (infos["var/x"].uid, infos["var/x"].gid) == (3, 4)
    assert infos["etc/plain"].isdir()
    assert not {"home", "usr/bin", "t/no", "v/no", "proc/1", "."} & set(infos)
    engine.rm(c)
    engine.docker("import", f"{tmp_path}/out.tar", "again")
    assert engine.run("again", "cat", "/etc/plain2", code=1).stdout == ""
    engine.docker("rmi", "again")


def test_commit(engine: Engine) -> None:
    c = ended(engine, CHANGES, "-e", "A=1", "-e", "B=2", "-l", "kept=yes", "-w", "/root")
    words = ("-a", "me", "-m", "why", "-c", 'CMD ["sh", "-c", "cat /var/x; ls -d /home /home2 /usr/bin /etc/plain/; env"]', "-c", "ENV B=3 D=4",
             "-c", "LABEL x=y", "-c", "EXPOSE 80")  # fmt: skip
    identity = engine.docker("commit", *words, c, "made:1").stdout.strip()
    seen = json.loads(engine.docker("inspect", "made:1").stdout)[0]
    assert (seen["Id"], seen["Author"], seen["Comment"]) == (identity, "me", "why")
    config = seen["Config"]
    assert (config["Labels"], config["ExposedPorts"], config["WorkingDir"]) == ({"kept": "yes", "x": "y"}, {"80/tcp": {}}, "/root")
    assert {"A=1", "B=3", "D=4"} <= set(config["Env"])
    done = engine.run("made:1")
    assert set(done.stdout.splitlines()) >= {"/home2", "/etc/plain/", "A=1", "B=3", "D=4"}
    assert "/usr/bin: No such" in done.stderr
    assert "/home: No such" in done.stderr
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "made:1").stdout.splitlines()
    assert history[0] == f"sh -c {CHANGES}|why"
    assert len(history) == 2
    # of a container of what was committed: one more layer
    engine.docker("rm", c)
    second = engine.docker("create", "--network", "none", "made:1", "sh", "-c", "rm -r /var; touch /more").stdout.strip()
    engine.docker("start", "-a", second)
    berth(engine, "commit", second, "made:2")
    assert engine.run("made:2", "sh", "-c", "ls /more; ls -d /var", code=1).stdout == "/more\n"
    engine.docker("rm", second)
    engine.docker("rmi", "made:2", "made:1")


def test_committed_layer_is_read_by_umoci(engine: Engine, tmp_path: Path) -> None:
    c = ended(engine, CHANGES + "; ln /var/x /var/y; mkfifo /p; setfattr 2>/dev/null; echo data >/big; chmod 4755 /big")
    engine.docker("commit", c, "made:1")
    engine.docker("save", "-o", f"{tmp_path}/a.tar", "made:1")
    policy = ["--insecure-policy"]
    subprocess.run(["skopeo", *policy, "copy", "-q", f"docker-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/l:x"], check=True, capture_output=True)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/l:x", f"{tmp_path}/b"], check=True, capture_output=True)
    root = tmp_path / "b/rootfs"
    assert sorted(os.listdir(root / "var")) == ["x", "y"]
    assert (root / "var/x").stat().st_ino == (root / "var/y").stat().st_ino
    assert not (root / "home").exists()
    assert (root / "big").stat().st_mode & 0o7777 == 0o4755
    with tarfile.open(tmp_path / "a.tar") as tar:
        layers = json.load(tar.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
        data = tar.extractfile(layers[-1]).read()  # type: ignore[union-attr]
    assert hashlib.sha256(data).hexdigest() == os.path.basename(layers[-1])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {".wh.home", "usr/.wh.bin"} <= set(tar.getnames())
        assert "etc/hosts" not in tar.getnames()
    engine.docker("rm", c)
    engine.docker("rmi", "made:1")


def test_commit_pauses(engine: Engine) -> None:
    c = engine.up()
    log = subprocess.Popen(["docker", "events", "--since", "0", "--filter", f"container={c}", "--format", "{{.Action}}"], env=engine.env, stdout=subprocess.PIPE, text=True)
    assert log.stdout
    first = engine.docker("commit", c, "made:1").stdout
    assert engine.docker("commit", "--pause=false", c).stdout != ""
    assert engine.state(c)["Status"] == "running"
    seen = []
    while seen.count("commit") < 2:
        seen.append(log.stdout.readline().strip())
    log.terminate()
    log.wait()
    log.stdout.close()
    assert seen[seen.index("pause") :] == ["pause", "unpause", "commit", "commit"]
    # nothing changed: no layer of its own
    assert len(json.loads(engine.docker("inspect", first.strip()).stdout)[0]["RootFS"]["Layers"]) == 1
    engine.rm(c)
    for image in engine.docker("images", "-q", "--filter", "dangling=true").stdout.split():
        engine.docker("rmi", image)
    engine.docker("rmi", "made:1")


def test_errors(engine: Engine) -> None:
    c = ended(engine, "true")
    assert "No such container: nope" in engine.docker("commit", "nope", code=1).stderr
    assert "is not a valid change command" in engine.docker("commit", "-c", "FROB x", c, code=1).stderr
    assert berth(engine, "commit", c, "Bad/Name", code=1).stderr
    assert "No such container: nope" in engine.docker("diff", "nope", code=1).stderr
    assert "does not exist" in berth(engine, "export", "-o", "/nope/x", c, code=1).stderr.decode()
    engine.rm(c)


def test_commit_in_a_user_namespace(userns_engine: Engine) -> None:
    c = userns_engine.docker("create", "--network", "none", "bb", "sh", "-c", "echo hi >/mine; chown 7:8 /mine; rm /etc/plain").stdout.strip()
    userns_engine.docker("start", "-a", c)
    assert userns_engine.docker("diff", c).stdout.splitlines() == ["C /etc", "D /etc/plain", "A /mine"]
    userns_engine.docker("commit", c, "made:u")
    assert userns_engine.run("made:u", "stat", "-c", "%u:%g", "/mine", "/etc").stdout == "7:8\n0:0\n"
    userns_engine.docker("rmi", "made:u")
    userns_engine.rm(c)
    c = userns_engine.up(command=("sh", "-c", "echo hi >/mine; chown 7:8 /mine; exec sleep 1000"))
    wait_until(lambda: read(f"/proc/{userns_engine.pid(c)}/cmdline").startswith("sleep"), "the shell")
    assert userns_engine.docker("diff", c).stdout == "A /mine\n"
    userns_engine.docker("commit", c, "made:r")
    assert userns_engine.run("made:r", "stat", "-c", "%u:%g", "/mine").stdout == "7:8\n"
    userns_engine.rm(c)
    userns_engine.docker("rmi", "made:r")
