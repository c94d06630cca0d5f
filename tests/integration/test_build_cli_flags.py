"""Flags of `berth build` one by one: what a step sees of them, what is written, what scripts read, exit codes."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from buildcli import BERTH, Berth, dockerfile, raw, run_berth, write
from harness import GROUPS, Engine

pytestmark = pytest.mark.root


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


def said(berth: Berth, script: str, *words: str) -> str:
    """What a step prints."""
    done = berth("build", "--no-cache", "--progress", "plain", *words, "-", input=f"FROM bb\nRUN {script}\n")
    return "".join(line.partition(" ")[2] + "\n" for line in re.findall(r"^#\d+ (\d+\.\d{3} .*)$", done.stderr, re.M))


# -- what steps see ---------------------------------------------------------------------------------------------------


def test_hosts_and_networks(engine: Engine, berth: Berth) -> None:
    hosts = said(berth, "cat /etc/hosts", "--add-host", "colon:192.0.2.1", "--add-host", "equals=192.0.2.2", "--add-host", "six:2001:db8::7", "--add-host", "b=[2001:db8::8]")
    for line in ("192.0.2.1 colon", "192.0.2.2 equals", "2001:db8::7 six", "2001:db8::8 b"):
        assert line in hosts.replace("\t", " "), hosts
    assert said(berth, "ls /sys/class/net", "--network", "none") == "lo\n"
    own = os.readlink(f"/proc/{engine.process.pid}/ns/net") if engine.process else ""
    assert said(berth, "readlink /proc/self/ns/net", "--network", "host") == f"{own}\n"
    assert "nowhere" in berth("build", "--network", "nowhere", "-", input="FROM bb\nRUN true\n", code=1).stderr
    assert "nonsense" in berth("build", "--add-host", "nonsense", "-", input="FROM bb\nRUN true\n", code=1).stderr
    berth("build", "-t", "flags:hosts", "--add-host", "other:192.0.2.77", "-", input="FROM bb\nRUN true\n")
    assert "192.0.2.77" not in engine.run("flags:hosts", "cat", "/etc/hosts").stdout


def test_limits(berth: Berth) -> None:
    group = f"cat {GROUPS}/memory/memory.limit_in_bytes {GROUPS}/cpu/cpu.shares 2>/dev/null || cat {GROUPS}/memory.max"
    text = said(berth, f"{group}; df -k /dev/shm | tail -1; ulimit -n; ulimit -Hn", "-m", "64m", "-c", "77", "--shm-size", "3m", "--ulimit", "nofile=70:80")
    assert str(64 << 20) in text.split()
    assert "3072" in text.split()
    assert text.split()[-2:] == ["70", "80"]
    assert str(32 << 20) in said(berth, group, "--resource", "memory=32m").split()
    assert "it is not a number" in berth("build", "--resource", "cpu-shares=x", ".", code=125).stderr


def test_no_cache_of_some_stages(berth: Berth, tmp_path: Path) -> None:
    nonce = "cat /proc/sys/kernel/random/uuid"
    dockerfile(tmp_path, f"FROM bb AS one\nRUN {nonce} >/1\nFROM bb AS two\nRUN {nonce} >/2\nFROM bb\nRUN {nonce} >/3\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n")

    def built(*words: str) -> list[str]:
        berth("build", "-o", "out", *words, ".")
        return [(tmp_path / "out" / name).read_text() for name in "123"]

    before = built()
    assert built() == before
    after = built("--no-cache-filter", "two")
    assert [new == old for new, old in zip(after, before, strict=True)] == [True, False, True]
    assert built() == after
    again = built("--no-cache-filter", "one,two")
    assert [new == old for new, old in zip(again, after, strict=True)] == [False, False, True]
    assert not set(built("--no-cache")) & {*before, *after, *again}


def test_the_network_of_the_host_for_one_step(engine: Engine, berth: Berth) -> None:
    text = "FROM bb\nRUN --network=host readlink /proc/self/ns/net\nRUN --network=none ls /sys/class/net\n"
    done = berth("build", "--no-cache", "--progress", "plain", "--allow", "network.host", "-", input=text)
    assert engine.process
    assert f" {os.readlink(f'/proc/{engine.process.pid}/ns/net')}\n" in done.stderr
    insecure = berth("build", "--allow", "security.insecure", "-", input="FROM bb\nRUN --security=insecure true\n", code=1)
    assert "entitlements" in insecure.stderr


# -- what is written --------------------------------------------------------------------------------------------------


def test_labels_and_annotations(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nLABEL a=file b=file\n")
    berth("build", "-t", "flags:labels", "--label", "a=flag", "--label", "c", "--label", "d=x=y", ".")
    labels = json.loads(engine.docker("image", "inspect", "flags:labels").stdout)[0]["Config"]["Labels"]
    assert labels == {"a": "flag", "b": "file", "c": "", "d": "x=y"}
    berth("build", "--annotation", "org.example.a=1", "--annotation", "manifest-descriptor:org.example.b=2", "-o", "type=oci,tar=false,dest=layout", ".")
    assert raw(f"oci:{tmp_path}/layout")["annotations"] == {"org.example.a": "1"}
    (entry,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert entry["annotations"]["org.example.b"] == "2"
    indexed = ("--annotation", "index,manifest:org.example.c=3", "--provenance", "true")
    berth("build", *indexed, "-o", "type=oci,tar=false,dest=indexed", ".")
    index = raw(f"oci:{tmp_path}/indexed")
    assert index["annotations"] == {"org.example.c": "3"}
    assert "need an index" in berth("build", "--annotation", "index:a=b", "-o", "type=oci,dest=x.tar", ".", code=1).stderr
    assert "the store keeps no attestations and annotations" in berth("build", "--annotation", "a=b", ".").stderr


def test_files_about_the_result(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nENV A=1\n")
    quiet = berth("build", "-q", "-t", "flags:files", "--iidfile", "id", "--metadata-file", "meta", ".")
    identity = engine.docker("image", "inspect", "--format", "{{.Id}}", "flags:files").stdout.strip()
    assert (quiet.stdout, quiet.stderr) == (f"{identity}\n", "")
    assert (tmp_path / "id").read_text() == identity
    meta = json.loads((tmp_path / "meta").read_text())
    assert (meta["containerimage.config.digest"], meta["image.name"]) == (identity, "docker.io/library/flags:files")
    # where the image is an archive, or no image
    archived = berth("build", "-q", "--iidfile", "id", "-o", "type=oci,tar=false,dest=layout", ".")
    assert archived.stdout.strip() == (tmp_path / "id").read_text() == raw(f"oci:{tmp_path}/layout")["config"]["digest"]
    files = berth("build", "-q", "--iidfile", "id", "-o", "files", ".")
    assert (files.stdout, (tmp_path / "id").read_text()) == ("", "")
    streamed = subprocess.run([*BERTH, "build", "-q", "-o", "type=oci", "."], env=engine.env, cwd=tmp_path, capture_output=True, check=True).stdout
    assert subprocess.run(["tar", "-tf", "-"], input=streamed, capture_output=True, check=True).stdout
    # a failure leaves neither behind, and what cannot be written is said
    for path in ("id", "meta"):
        (tmp_path / path).unlink()
    berth("build", "--iidfile", "id", "--metadata-file", "meta", "-f", "-", ".", input="FROM bb\nRUN false\n", code=1)
    assert not {"id", "meta"} & set(os.listdir(tmp_path))
    for flag in ("--iidfile", "--metadata-file"):
        assert "nowhere/x: No such file or directory" in berth("build", flag, "nowhere/x", ".", code=1).stderr


# -- what scripts read ------------------------------------------------------------------------------------------------


def test_progress_as_json(berth: Berth, tmp_path: Path) -> None:
    write(tmp_path, f="F\n")
    dockerfile(tmp_path, 'FROM bb\nCOPY f /f\nRUN printf "a\\033[31mb\\377\\n"; echo "\\"quoted\\"" >&2\nCMD echo hi\n')
    for words, code in (((), 0), (("--why",), 0), (("--build-arg", "NOBODY=1"), 0)):
        done = berth("build", "--no-cache", "--progress", "rawjson", *words, ".", code=code)
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert {key for line in lines for key in line} <= {"vertexes", "logs", "statuses", "warnings"}
        vertices = {vertex["digest"]: vertex for line in lines for vertex in line.get("vertexes", [])}
        assert all(vertex["completed"] >= vertex["started"] for vertex in vertices.values())
        assert all(log["vertex"] in vertices for line in lines for log in line.get("logs", []))
        logs = {stream: b"".join(base64.b64decode(log["data"]) for line in lines for log in line.get("logs", []) if log["stream"] == stream) for stream in (1, 2)}
        assert b'"quoted"\n' in logs[2]
        assert b"a\x1b[31mb" in logs[1]
        assert any("JSONArgsRecommended" in base64.b64decode(each["short"]).decode() for line in lines for each in line.get("warnings", []))
    dockerfile(tmp_path, "FROM bb\nRUN echo why; exit 3\n")
    *lines, last = berth("build", "--progress", "rawjson", ".", code=1).stderr.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert any("returned a non-zero code: 3" in vertex.get("error", "") for line in told for vertex in line.get("vertexes", []))
    assert last.startswith("ERROR: failed to build: ")


def test_progress_by_the_environment(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN true\n")
    assert berth("build", ".", env={"BUILDKIT_PROGRESS": "quiet"}).stderr == ""
    assert berth("build", ".", env={"BUILDKIT_PROGRESS": "rawjson"}).stderr.startswith("{")
    assert berth("build", "--progress", "plain", ".", env={"BUILDKIT_PROGRESS": "rawjson"}).stderr.startswith("#1 ")
    assert "no terminal" in berth("build", "--progress", "tty", ".", code=1).stderr


def test_exit_codes(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN true\nCMD echo x\n")
    for words, code in (
        ((".",), 0), (("--nonsense", "."), 125), ((), 1), ((".", "another"), 1), (("-f", "nowhere", "."), 1), (("--check", "."), 1),
        (("--call", "nonsense", "."), 125), (("--platform", "a/b/c/d/e", "."), 1), (("--target", "nowhere", "."), 1), (("-o", "type=nonsense", "."), 125),
    ):  # fmt: skip
        done = berth("build", *words, code=None)
        assert done.returncode == code, (words, done.stderr)
    away = subprocess.run([*BERTH, "build", "."], env={**engine.env, "DOCKER_HOST": f"unix://{tmp_path}/none"}, cwd=tmp_path, capture_output=True, text=True)
    assert away.returncode == 1
    assert "none" in away.stderr


@pytest.mark.parametrize("words", [("build",), ("image", "build"), ("builder", "build"), ("buildx", "build"), ("buildx", "b")])
def test_other_names(berth: Berth, words: tuple[str, ...]) -> None:
    assert berth(*words, "-q", "--builder", "default", "--rm", "--force-rm", "--compress", "-D", "-", input="FROM bb\n").stdout.startswith("sha256:")


def test_arguments(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "ARG BASE=nowhere.invalid/x\nFROM $BASE\nARG A=default\nARG B=default\nARG C=default\nRUN echo $A,$B,$C >/args\n")
    done = berth("build", "-o", "out", "--build-arg", "BASE=bb", "--build-arg", "A=x=y", "--build-arg", "B", "--build-arg", "C", "--build-arg", "D=1", ".", env={"B": "env"})
    assert (tmp_path / "out" / "args").read_text() == "x=y,env,default\n"
    assert "One or more build-args [D] were not consumed" in done.stderr


def test_what_cannot_be_read(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY . /all\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    write(tmp_path, **{"sub__name with space": "1", "sub__\udcff": "2", "näme": "3"})
    berth("build", "-o", "out", ".")
    assert sorted(os.listdir(tmp_path / "out" / "all")) == ["Dockerfile", "dangling", "näme", "sub"]
    assert sorted(os.listdir(tmp_path / "out" / "all" / "sub")) == ["name with space", "\udcff"]
