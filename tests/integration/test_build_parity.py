"""The same Dockerfile built by berth and by dockerd: by its BuildKit, or by its classic builder where that is asked.

What is compared: the configuration of the image, its files (all but times), its history, and what a build that fails says.
"""

import gzip
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine
from parity import Unix
from served import Served

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKERD, reason="needs dockerd")]
CONFIG = (
    "Env", "Cmd", "Entrypoint", "Labels", "Volumes", "ExposedPorts", "WorkingDir", "User", "OnBuild", "Healthcheck", "Shell", "StopSignal",
    "ArgsEscaped",
)  # fmt: skip
MADE_FOR_CONTAINERS = ("dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", ".dockerenv")
# What a program is given that the two sides are free to differ in.
OTHERS = 'grep -vE "^(HOSTNAME|SHLVL|PWD|HOME|OLDPWD|_)="'

NO_LAYER = ("run-nothing",)  # a step that changes nothing makes an empty layer in Docker, and none here
STUBS = {"run-mounts": {"ctx", "t", "var/c"}}  # what the BuildKit of 20.10 leaves where something was mounted, and later ones don't


@dataclass(frozen=True)
class Case:
    """theirs: what dockerd gets where it is too old for the words; options: of POST /build; fails: both refuse it, ours with these words."""

    dockerfile: str
    theirs: str = ""
    classic: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    fails: str = ""


def arguments(**values: str) -> dict[str, str]:
    return {"buildargs": json.dumps(values)}


CASES: dict[str, Case] = {
    "from": Case("FROM bb\n"),
    "scratch-copy": Case("FROM scratch\nCOPY a /a\n"),
    "scratch-env": Case("FROM scratch\nENV A=1\nCOPY a /a\n"),
    "env": Case("FROM bb\nENV A=1 B=\"two words\" C='x $A' D=$A\nENV E with  spaces\nENV F=${A:-no}${G:-yes}${A:+set} PATH=/opt:$PATH\nRUN env | sort | " + OTHERS + " >/out\n"),
    "cmd-shell": Case("FROM bb\nCMD echo $HOME && true\n"),
    "cmd-exec": Case('FROM bb\nCMD ["sh", "-c", "echo \\"x\\""]\n'),
    "cmd-no-json": Case("FROM bb\nCMD ['sh', '-c']\n"),
    "cmd-empty": Case("FROM bb\nCMD []\n"),
    "entrypoint-resets-cmd": Case('FROM bb AS one\nCMD ["a"]\nFROM one\nENTRYPOINT ["b"]\n'),
    "entrypoint-after-cmd": Case('FROM bb\nCMD ["a"]\nENTRYPOINT ["b"]\n'),
    "entrypoint-empty": Case('FROM bb AS one\nENTRYPOINT ["a"]\nCMD ["b"]\nFROM one\nENTRYPOINT []\n'),
    "entrypoint-shell": Case("FROM bb\nENTRYPOINT exec top -b\nCMD x\n"),
    "labels": Case('FROM bb\nLABEL a=1 b="2 3"\nLABEL a=4 "c d"=e\n', options={"labels": json.dumps({"x": "y", "a": "9"})}),
    "label-old": Case("FROM bb\nLABEL key some words\n"),
    "maintainer": Case("FROM bb\nMAINTAINER Me <me@example.org>\n"),
    "expose": Case("FROM bb\nARG P=90\nEXPOSE 80 53/udp 7000-7002 $P/tcp\nEXPOSE 80/TCP\n"),
    "volume": Case('FROM bb\nRUN mkdir /v && echo before >/v/f\nVOLUME /v /w\nVOLUME ["/x y", "/z"]\nRUN echo after >/v/g; mkdir -p /w; echo w >/w/f\nCOPY a /v/a\n'),
    "user-by-name": Case("FROM bb\nUSER alice\nRUN id -u >/tmp/u; id -g >>/tmp/u; id -G >>/tmp/u; touch /tmp/mine\nCOPY a /tmp/a\nWORKDIR /srv/new\n"),
    "user-with-group": Case("FROM bb\nUSER 5:staff\nRUN id -u >/tmp/u; id -g >>/tmp/u\n"),
    "user-with-variable": Case("FROM bb\nARG WHO=alice\nUSER ${WHO}:${WHO}\n"),
    "workdir": Case("FROM bb\nENV TOP=/srv\nWORKDIR $TOP/app\nWORKDIR sub/./dir\nWORKDIR ../other\nRUN pwd >out\nCOPY a ./\nCOPY d dd\n"),
    "workdir-link": Case("FROM bb\nRUN mkdir /real && ln -s /real /link\nWORKDIR /link/sub\nRUN pwd >/out; ls -d /real/sub >>/out\n"),
    "shell": Case('FROM bb\nSHELL ["/bin/sh", "-e", "-c"]\nRUN echo $- >/out\nCMD echo hi\nHEALTHCHECK CMD true\nENTRYPOINT x\n'),
    "stopsignal": Case("FROM bb\nARG S=INT\nSTOPSIGNAL SIG$S\n"),
    "stopsignal-number": Case("FROM bb\nSTOPSIGNAL 9\n"),
    "healthcheck": Case('FROM bb\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1s500ms --retries=3 CMD ["true", "x"]\n'),
    "healthcheck-none": Case("FROM bb\nHEALTHCHECK CMD false\nHEALTHCHECK NONE\n"),
    "onbuild": Case("FROM bb AS one\nONBUILD ENV A=1\nONBUILD RUN echo $A >/child\nONBUILD COPY a /a\n"),
    "onbuild-runs": Case("FROM bb AS one\nONBUILD ENV A=1\nONBUILD RUN echo $A >/child\nONBUILD COPY a /a\nFROM one\nRUN cat /child >/again\n"),
    "arg-scopes": Case(
        "ARG A=global\nARG B=unused\nFROM bb AS one\nRUN echo 1 [$A] [$B] >/one\nARG A\nARG C=c\nRUN echo 2 [$A] [$B] [$C] >/two\n"
        f"FROM one\nRUN echo 3 [$A] [$C] >/three\nARG A=other\nENV A=env\nRUN echo 4 [$A] >/four; env | sort | {OTHERS} >/env\n",
        options=arguments(C="given"),
    ),
    "arg-over-env": Case("FROM bb\nENV A=env\nARG A=arg\nRUN echo $A >/a\nARG B=arg\nENV B=env-$B\nRUN echo $B >/b\n", options=arguments(A="given", B="given")),
    "arg-empty": Case(f"FROM bb\nARG A\nARG B=\nARG C=x\nRUN env | sort | {OTHERS} >/env; echo [${{A-unset}}] [${{B-unset}}] [${{C-unset}}] >/out\n", options=arguments(C="")),
    "arg-in-from": Case("ARG BASE=bb\nARG STAGE=one\nFROM ${BASE} AS one\nRUN echo 1 >/f\nFROM $STAGE\nARG BASE\nRUN echo $BASE >/base\n"),
    "arg-predefined": Case(
        "FROM bb\nARG TARGETPLATFORM\nARG TARGETARCH\nARG TARGETOS\nARG TARGETVARIANT\nARG BUILDPLATFORM\nARG BUILDARCH\n"
        "RUN echo $TARGETPLATFORM $TARGETARCH $TARGETOS [$TARGETVARIANT] $BUILDPLATFORM $BUILDARCH [$TARGETSTAGE] [$BUILDOS] >/out\n"
    ),
    "arg-proxies": Case(f"FROM bb\nRUN env | sort | {OTHERS} >/env\nCOPY a /a\n", options=arguments(HTTP_PROXY="http://p", no_proxy="x", OTHER="y")),
    "stages": Case(
        "FROM bb AS one\nRUN mkdir -p /x/y && echo 1 >/x/y/f && ln -s f /x/y/l && chmod 4711 /x/y/f && chown 3:4 /x/y/f\nWORKDIR /w\nRUN echo w >f\n"
        "FROM bb\nRUN echo never >/never\nFROM bb\nCOPY --from=0 /x /x\nCOPY --from=one /w/f /w/\nCOPY --from=one --chown=alice:staff /x/y/f /chowned\nCOPY --from=ONE w/f x\n"
    ),
    "target": Case("FROM bb AS one\nENV A=1\nFROM one AS two\nENV B=2\nFROM two\nENV C=3\n", options={"target": "two"}),
    "copy-from-image": Case("FROM scratch\nCOPY --from=bb /etc/passwd /etc/group /etc/\nCOPY --from=bb /bin/busybox /bin/sh\n"),
    "copies": Case("FROM bb\nCOPY a b /new/\nCOPY d /new\nCOPY --chown=7:8 d/ /owned/\nADD archive.tar.gz /unpacked/\nADD a /added\nCOPY archive.tar.gz /\nCOPY link /\nCOPY [\"a\", \"/with space\"]\n"),
    "copy-wildcards": Case("FROM bb\nCOPY ? /one/\nCOPY d/* /two/\nCOPY [ab] /three/\n"),
    "copy-over": Case("FROM bb\nRUN mkdir -m 700 /there && touch /there/a && chmod 600 /there/a\nCOPY a d /there/\nCOPY a /etc/plain\n"),
    "dockerignored": Case("FROM bb\nCOPY . /ctx/\n", classic=True),
    "removed": Case("FROM bb\nRUN echo x >/f && mkdir /dir && echo y >/dir/f\nRUN rm -r /f /dir /etc/plain && mkdir /dir && echo z >/dir/g\n"),
    "run-exec-form": Case('FROM bb\nRUN ["/bin/sh", "-c", "echo $0 >/out", "word"]\n'),
    "run-continued": Case("FROM bb\nRUN echo one \\\n# a comment\n  two \\\n\n  three >/out && \\\n  echo 'a\\\nb' >>/out\n"),
    "run-nothing": Case("FROM bb\nRUN true\nRUN :\nENV A=1\n"),
    "run-umask-and-modes": Case("FROM bb\nRUN umask >/umask; touch /f; mkdir /d; chmod 1777 /d; mkfifo /p; ln /f /hard\nRUN chmod 600 /f\n"),
    "run-environment": Case(f"FROM bb\nRUN env | sort | {OTHERS} >/env; pwd >>/env; id -u >>/env; id -g >>/env; ulimit -c >>/env\n"),
    "escape-directive": Case("# escape=`\nFROM bb\nRUN echo one `\n two >/out\nENV A=C:\\x\n"),
    "cases": Case("from bb as One\nrun echo x >/x\ncopy --from=bb /etc/passwd /p\nEnv a=b\n"),
    "heredoc": Case(
        "FROM bb\nRUN <<EOF\necho one >/one\necho $HOME >/my-home\nEOF\nENV A=b\nCOPY <<x <<'y' /files/\nA is $A\nx\nA is $A\ny\nCOPY --chmod=755 <<-z /z\n\tindented\n\tz\n",
        "FROM bb\nRUN echo one >/one && echo $HOME >/my-home\nENV A=b\nCOPY here/x here/y /files/\nCOPY --chmod=755 here/z /z\n",
    ),
    "run-mounts": Case(
        "# syntax=docker/dockerfile:1\nFROM bb AS one\nRUN echo s >/s\nFROM bb\n"
        "RUN --mount=type=bind,target=/ctx --mount=type=bind,from=one,source=/s,target=/s --mount=type=tmpfs,target=/t --mount=type=cache,target=/var/c cat /ctx/a /s >/out; touch /t/x /var/c/x\n",
        "FROM bb AS one\nRUN echo s >/s\nFROM bb\n"
        "RUN --mount=type=bind,target=/ctx --mount=type=bind,from=one,source=/s,target=/s --mount=type=tmpfs,target=/t --mount=type=cache,target=/var/c cat /ctx/a /s >/out; touch /t/x /var/c/x\n",
    ),
    "classic": Case("FROM bb\nENV A=1\nRUN echo $A >/a\nLABEL b=c\nWORKDIR /w\nCOPY a .\nCMD [\"x\"]\n", classic=True),
    "classic-args": Case("ARG A=1\nFROM bb\nARG A\nARG B=2\nRUN echo $A $B >/f\n", classic=True, options=arguments(B="3")),
    "fails-run": Case("FROM bb\nRUN exit 3\n", fails="returned a non-zero code: 3"),
    "fails-copy": Case("FROM bb\nCOPY nowhere /\n", fails="not found"),
    "fails-user": Case("FROM bb\nUSER nobody-here\nRUN true\n", fails="nobody-here"),
    "fails-program": Case('FROM bb\nRUN ["/no/such"]\n', fails="no/such"),
    "fails-chown": Case("FROM bb\nCOPY --chown=nobody-here a /\n", fails="nobody-here", classic=True),
    "fails-target": Case("FROM bb\n", options={"target": "none"}, fails="none"),
    "fails-from": Case("FROM bb\nFROM $NOTHING\n", fails="should not be blank"),
    "fails-expose": Case("FROM bb\nEXPOSE eighty\n", fails="eighty"),
    "fails-onbuild": Case("FROM bb\nONBUILD ONBUILD RUN x\n", fails="ONBUILD"),
    "fails-no-from": Case("RUN x\n", fails="build stage"),
    "fails-empty": Case("# nothing\n", fails="no instructions"),
    "fails-workdir": Case("FROM bb\nWORKDIR\n", fails="WORKDIR"),
}  # fmt: skip


def context(dockerfile: str, ignored: bool = False) -> bytes:
    out = io.BytesIO()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        add(archive, "in/side", b"inside", mode=0o640, owner=12)
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "Dockerfile", dockerfile.encode())
        if ignored:  # which BuildKit looks at only where it fetches files from a client
            add(tar, ".dockerignore", b"ignored\n*/deep\n!d/deep/kept\nDockerfile\n.docker*\n")
        for name, mode in (("a", 0o644), ("b", 0o755), ("d/one", 0o600), ("d/sub/two", 0o644), ("ignored", 0o644), ("d/deep/gone", 0o644), ("d/deep/kept", 0o644)):
            add(tar, name, f"{name}\n".encode(), mode=mode)
        for name, text in (("x", "A is b\n"), ("y", "A is $A\n"), ("z", "indented\n")):
            add(tar, f"here/{name}", text.encode())
        add(tar, "archive.tar.gz", gzip.compress(inner.getvalue(), mtime=0))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a"
        tar.addfile(link)
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644, owner: int = 0) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid, info.mtime = len(data), mode, owner, 1_000_000_000
    tar.addfile(info, io.BytesIO(data))


class Side:
    """One engine: builds, and says what came of it."""

    def __init__(self, socket: str, env: dict[str, str], served: Served | None = None) -> None:
        self.socket, self.env, self.served = socket, env, served
        self.count = 0

    def post(self, data: bytes, options: dict[str, Any], *, buildkit: bool = False) -> list[dict]:
        """The stream's messages; an answer that is an error is one of them."""
        self.count += 1
        query: dict[str, Any] = {"networkmode": "none", "rm": "1", "forcerm": "1", **options}
        if buildkit:
            assert self.served
            self.served.data = data
            query |= {"version": "2", "remote": self.served.address(self.count), "buildid": f"b{self.count}"}
        connection = Unix(self.socket, timeout_s=100)
        connection.request("POST", f"/v1.41/build?{urlencode(query, doseq=True)}", b"" if buildkit else data, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            return [{"error": json.loads(text)["message"], "status": answer.status}]
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def build(self, data: bytes, options: dict[str, Any], *, buildkit: bool = False) -> tuple[str, str]:
        """(the image's id, the error)"""
        lines = self.post(data, options, buildkit=buildkit)
        image = next((line["aux"]["ID"] for line in lines if isinstance(line.get("aux"), dict) and "ID" in line["aux"]), "")
        error = next((line["error"] for line in lines if "error" in line), "")
        return ("" if error else image), error

    def docker(self, *words: str) -> bytes:
        return subprocess.run(["docker", *words], env=self.env, capture_output=True, check=True, timeout=60, stdin=subprocess.DEVNULL).stdout

    def seen(self, image: str) -> dict[str, Any]:
        config = json.loads(self.docker("image", "inspect", image))[0]
        with tarfile.open(fileobj=io.BytesIO(self.docker("save", image))) as tar:
            manifest = tar.extractfile("manifest.json")
            assert manifest
            document = tar.extractfile(json.loads(manifest.read())[0]["Config"])
            assert document
            history = json.loads(document.read())["history"]
        return {
            "config": {key: config["Config"].get(key) or None for key in CONFIG}, "author": config["Author"], "files": self.files(image),
            "history": [bool(entry.get("empty_layer")) for entry in history],
            "words": [re.sub(r"^(COPY|ADD|HEALTHCHECK) .*", r"\1", entry.get("created_by", "").removesuffix(" # buildkit"), flags=re.S) for entry in history],
        }  # fmt: skip

    def files(self, image: str) -> dict[str, tuple]:
        container = self.docker("create", "--network", "none", image, "none").decode().strip()
        try:
            exported = self.docker("export", container)
        finally:
            self.docker("rm", "-fv", container)
        found: dict[str, tuple] = {}
        with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
            for member in tar:
                name = member.name.strip("/").removeprefix("./").rstrip("/")
                if name == "etc" or any(name == made or name.startswith(f"{made}/") for made in MADE_FOR_CONTAINERS):
                    continue
                content = tar.extractfile(member) if member.isreg() or member.islnk() else None
                kind = tarfile.REGTYPE if member.islnk() else member.type
                link = member.linkname if member.issym() else ""
                found[name] = (kind, oct(member.mode & 0o7777), member.uid, member.gid, link, content.read()[:2000] if content else b"")
        return found


@pytest.fixture(scope="module")
def theirs(rootfs_tar: str) -> Iterator[Side]:
    daemon = Dockerd("--storage-driver", "overlay2", image=False)
    served = Served()
    try:
        daemon("import", rootfs_tar, "bb")
        yield Side(daemon.host.removeprefix("unix://"), daemon.env, served)
    finally:
        served.close()
        daemon.finish()


@pytest.fixture(scope="module")
def ours(engine: Engine) -> Side:
    return Side(f"{engine.exec}/berth.sock", engine.env)


@pytest.mark.parametrize("name", CASES)
def test_the_same_image(ours: Side, theirs: Side, name: str) -> None:
    case = CASES[name]
    wanted, wanted_error = theirs.build(context(case.theirs or case.dockerfile, name == "dockerignored"), case.options, buildkit=not case.classic)
    got, got_error = ours.build(context(case.dockerfile, name == "dockerignored"), case.options)
    if case.fails:
        assert wanted_error, "dockerd builds it"
        assert case.fails in got_error, (wanted_error, got_error)
        return
    assert not wanted_error
    assert not got_error
    here, there = ours.seen(got), theirs.seen(wanted)
    compared = [key for key in CONFIG if key != "ArgsEscaped" or not case.classic]  # BuildKit's alone
    differing = [(key, there["config"][key], here["config"][key]) for key in compared if there["config"][key] != here["config"][key]]
    files = (there["files"].keys() | here["files"].keys()) - STUBS.get(name, set())
    differing += [(path, there["files"].get(path), here["files"].get(path)) for path in sorted(files) if there["files"].get(path) != here["files"].get(path)]
    compared = ["author", *(["history"] if name not in NO_LAYER else []), *([] if case.classic or case.theirs else ["words"])]
    differing += [(key, there[key], here[key]) for key in compared if there[key] != here[key]]
    assert differing == [], "\n".join(map(str, differing))
