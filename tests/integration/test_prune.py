"""system df against du, and the prunes: what goes, what stays, what is asked before."""

import json
import os
import subprocess
import sys

import pytest
from harness import REPOSITORY, Engine, wait_until

pytestmark = pytest.mark.root


def berth(engine: Engine, *words: str, code: int = 0, input: str = "") -> str:
    env = {**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}
    done = subprocess.run([sys.executable, "-m", "berth.cli", *words], env=env, capture_output=True, text=True, timeout=60, input=input)
    assert done.returncode == code, f"{words}: {done.returncode} {done.stderr}"
    return done.stdout + done.stderr


def df(engine: Engine) -> dict:
    command = ["curl", "-s", "--unix-socket", f"{engine.exec}/berth.sock", "http://x/system/df"]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout))


def file_bytes(path: str) -> int:
    """Of the plain files and links below, counted by another tool."""
    out = subprocess.run(["find", path, "-type", "f,l", "-printf", "%i %s\\n"], capture_output=True, text=True, check=True).stdout
    return sum(int(line.split()[1]) for line in set(out.splitlines()))


def test_usage_tells_the_truth(own_engine: Engine) -> None:
    engine = own_engine
    c = engine.up(command=("sh", "-c", "head -c 300000 /dev/zero >/big; ln /big /same; exec sleep 1000"))
    wait_until(lambda: engine.docker("exec", c, "stat", "-c", "%s %h", "/big").stdout == "300000 2\n", "the file")
    engine.docker("commit", c, "more:1")
    seen = df(engine)
    assert seen["LayersSize"] == file_bytes(f"{engine.data}/layers")
    images = {(image["RepoTags"] or [""])[0]: image for image in seen["Images"]}
    base = images["bb:latest"]
    assert base["SharedSize"] == base["Size"] == images["more:1"]["SharedSize"]
    assert images["more:1"]["Size"] == base["Size"] + 300000
    assert (base["Containers"], images["more:1"]["Containers"]) == (1, 0)
    assert seen["Containers"][0]["SizeRw"] == 300000 == file_bytes(f"{engine.data}/containers/{c}/upper")
    for tool in (lambda *words: engine.docker(*words).stdout, lambda *words: berth(engine, *words)):
        lines = tool("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}").splitlines()
        whole = f"{seen['LayersSize'] / 1e6:.4g}MB"
        assert lines == [f"Images|2|1|{whole}|{whole} (100%)", "Containers|1|1|300kB|0B (0%)", "Local Volumes|0|0|0B|0B", "Build Cache|0|0|0B|0B"]
    ours, dockers = berth(engine, "system", "df"), engine.docker("system", "df").stdout
    assert ours == dockers
    ours, dockers = berth(engine, "system", "df", "-v"), engine.docker("system", "df", "-v").stdout
    # How wide the column of ages is depends on the moment.
    assert [line.split() for line in ours.splitlines() if "ago" not in line and "second" not in line] == \
        [line.split() for line in dockers.splitlines() if "ago" not in line and "second" not in line]
    assert [line.split()[-3:] for line in ours.splitlines() if "more " in line] == [[f"{base['Size'] / 1e6:.4g}MB", "300kB", "0"]]
    assert json.loads(berth(engine, "system", "df", "-v", "--format", "json"))["Containers"][0]["Size"] == "300kB"


def test_container_prune(own_engine: Engine) -> None:
    engine = own_engine
    running = engine.up()
    paused = engine.up()
    engine.docker("pause", paused)
    gone = [engine.docker("create", "--network", "none", "-l", label, "bb", "sh", "-c", "echo 12345 >/x").stdout.strip() for label in ("a=1", "a=2", "b")]
    for identity in gone:
        engine.docker("start", "-a", identity)
    assert "Total reclaimed space: 0B" in engine.docker("container", "prune", "-f", "--filter", "until=1h").stdout
    assert engine.docker("container", "prune", "-f", "--filter", "label=a=1").stdout == f"Deleted Containers:\n{gone[0]}\n\nTotal reclaimed space: 6B\n"
    question = "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] "
    assert berth(engine, "container", "prune", input="n\n") == question
    assert berth(engine, "container", "prune", input="") == question
    assert berth(engine, "container", "prune", "--filter", "label!=b", input="y\n") == question + f"Deleted Containers:\n{gone[1]}\n\nTotal reclaimed space: 6B\n"
    assert gone[2] in berth(engine, "container", "prune", "-f")
    assert set(engine.docker("ps", "-aq", "--no-trunc").stdout.split()) == {running, paused}
    wait_until(lambda: set(os.listdir(f"{engine.data}/containers")) == {running, paused}, "directories")
    for words, text in ((("--filter", "x=y"), "invalid filter 'x'"), (("--filter", "until=soon"), "until=soon")):
        assert text in engine.docker("container", "prune", "-f", *words, code=1).stderr
        assert text in berth(engine, "container", "prune", "-f", *words, code=1)
    engine.docker("unpause", paused)


def test_image_prune(own_engine: Engine) -> None:
    engine = own_engine
    c = engine.up(command=("sh", "-c", "echo 1234567 >/x; exec sleep 1000"))
    wait_until(lambda: engine.docker("exec", c, "cat", "/x", code=None).stdout == "1234567\n", "the file")
    nameless = engine.docker("commit", "-c", "LABEL k=v", c).stdout.strip()
    engine.docker("commit", "-c", "LABEL k=w", c, "named:1")
    engine.docker("tag", "named:1", "named:2")
    assert berth(engine, "image", "prune", "-f", "--filter", "label=k=w") == "Total reclaimed space: 0B\n"
    assert berth(engine, "image", "prune", input="n\n").startswith("WARNING! This will remove all dangling images.\n")
    out = berth(engine, "image", "prune", "-f")
    assert out.splitlines()[:2] == ["Deleted Images:", f"deleted: {nameless}"]
    layers = len(os.listdir(f"{engine.data}/layers"))
    out = engine.docker("image", "prune", "-a", "-f").stdout
    assert "untagged: named:1\nuntagged: named:2\n" in out
    assert out.endswith("Total reclaimed space: 8B\n")
    assert len(os.listdir(f"{engine.data}/layers")) == layers - 1
    assert engine.docker("images", "--format", "{{.Repository}}").stdout == "bb\n"
    assert "dangling" in engine.docker("image", "prune", "-f", "--filter", "dangling=perhaps", code=1).stderr


def test_system_prune(own_engine: Engine) -> None:
    engine = own_engine
    c = engine.docker("create", "--network", "none", "bb", "true").stdout.strip()
    for words in ((), ("-a",), ("--volumes",), ("-a", "--filter", "label=x")):
        ours, dockers = (
            subprocess.run(command, env={**engine.env, "PYTHONPATH": f"{REPOSITORY}/src"}, input="n\n", capture_output=True, text=True, timeout=60)
            for command in ([sys.executable, "-m", "berth.cli", "system", "prune", *words], ["docker", "system", "prune", *words])
        )
        assert (ours.stdout, ours.returncode) == (dockers.stdout, dockers.returncode)
    assert c in engine.docker("system", "prune", "-f").stdout
    assert engine.docker("images", "-q").stdout
    assert "untagged: bb:latest" in berth(engine, "system", "prune", "-a", "-f")
    assert os.listdir(f"{engine.data}/layers") == []
