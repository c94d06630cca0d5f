"""`berth build` against an engine: what is sent, what is shown, what is left."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildcli import BERTH, Berth, dockerfile, run_berth, with_libraries, write
from harness import Engine, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


class Counting:
    """A socket in front of the engine's that counts what clients send."""

    def __init__(self, engine: Engine, path: str) -> None:
        self.path = path
        self._sent, self._open = 0, 0
        self._lock = threading.Condition()
        self._target = engine.env["DOCKER_HOST"].removeprefix("unix://")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._open += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            sent = self._pump(client, server)
            back.join()
        with self._lock:
            self._sent += sent
            self._open -= 1
            self._lock.notify_all()

    def taken(self) -> int:
        """What was sent since the last time, once all connections have ended."""
        with self._lock:
            assert self._lock.wait_for(lambda: not self._open, 30)
            sent, self._sent = self._sent, 0
            return sent

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> int:
        sent = 0
        while True:
            try:
                data = source.recv(1 << 16)
                if not data:
                    break
                sent += len(data)
                target.sendall(data)
            except OSError:
                break
        for end in (target, source):
            try:
                end.shutdown(socket.SHUT_WR if end is target else socket.SHUT_RD)
            except OSError:
                pass
        return sent


@pytest.fixture
def counting(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    relay = Counting(engine, str(tmp_path_factory.mktemp("relay") / "s"))
    yield relay
    relay.close()


# -- contexts -----------------------------------------------------------------------------------------------------


def test_an_image_comes_out(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nARG WHO=nobody\nLABEL from=file\nCOPY a.txt /a.txt\nRUN echo hello $WHO >/hello\nCMD [\"cat\", \"/hello\", \"/a.txt\"]\n")
    write(tmp_path, **{"a.txt": "A\n"})
    done = berth("build", "-t", "cli:one", "--build-arg", "WHO", "--label", "a=b", "--iidfile", "id", "--metadata-file", "meta", ".", env={"WHO": "you"})
    assert done.stdout == ""
    assert engine.docker("run", "--rm", "cli:one").stdout == "hello you\nA\n"
    image = json.loads(engine.docker("image", "inspect", "cli:one").stdout)[0]
    assert image["Config"]["Labels"] == {"from": "file", "a": "b"}
    assert (tmp_path / "id").read_text() == image["Id"]
    assert json.loads((tmp_path / "meta").read_text())["containerimage.config.digest"] == image["Id"]
    assert "naming to cli:one done" in done.stderr


def test_only_what_is_used_and_changed_is_sent(berth: Berth, counting: Counting, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY src /src\n")
    random = os.urandom(300_000).hex()
    write(tmp_path, src__a=random, src__b=random, unused=random)
    env = {"DOCKER_HOST": f"unix://{counting.path}"}
    berth("build", ".", env=env)
    assert 1_200_000 < counting.taken() < 1_210_000
    # Files that were changed just before the build are sent once more with the next one.
    changed_s = (tmp_path / "unused").stat().st_ctime
    wait_until(lambda: time.time() > changed_s + 0.1, "a clock that stands still")
    berth("build", ".", env=env)
    counting.taken()
    done = berth("build", ".", env=env)
    assert 500 < counting.taken() < 8_000
    assert "CACHED" in done.stderr
    (tmp_path / "src" / "b").write_text("changed\n")
    berth("build", "-t", "cli:changed", ".", env=env)
    assert 500 < counting.taken() < 8_000


def test_contexts_of_other_names(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM base\nCOPY --from=extra f /f\nRUN --mount=from=extra,target=/m cat /m/sub/g >/g\n")
    write(tmp_path, other__f="F\n", other__sub__g="G\n")
    berth("build", "-t", "cli:named", "--build-context", "extra=other", "--build-context", "base=docker-image://bb", ".")
    assert engine.docker("run", "--rm", "cli:named", "cat", "/f", "/g").stdout == "F\nG\n"


def test_what_is_ignored(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY . /all\n")
    write(tmp_path, **{"kept": "1", "secret.key": "2", "deep__x.key": "3", "deep__y": "4", ".dockerignore": "**/*.key\n"})
    berth("build", "-t", "cli:ignored", ".")
    assert engine.docker("run", "--rm", "cli:ignored", "find", "/all", "-type", "f").stdout.split() == unordered(
        "/all/kept", "/all/deep/y", "/all/Dockerfile", "/all/.dockerignore"
    )
    (tmp_path / "Dockerfile.dockerignore").write_text("*\n!deep\n")
    berth("build", "-t", "cli:ignored", ".")
    assert engine.docker("run", "--rm", "cli:ignored", "find", "/all", "-type", "f").stdout.split() == unordered("/all/deep/y", "/all/deep/x.key")
    dockerfile(tmp_path, "FROM bb\nCOPY kept /\n")
    done = berth("build", ".", code=1)
    assert "it is there, but .dockerignore excludes it" in done.stderr


class unordered:
    def __init__(self, *words: str) -> None:
        self.words = sorted(words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and sorted(other) == self.words

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.words)


def test_standard_input(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    berth("build", "-t", "cli:stdin", "-", input="FROM bb\nRUN echo 1 >/one\n")
    assert engine.docker("run", "--rm", "cli:stdin", "cat", "/one").stdout == "1\n"
    write(tmp_path, f="F\n", sub__D="FROM bb\nCOPY f sub /got/\n")
    for compress in ("", "z", "j"):
        archive = subprocess.run(["tar", f"-c{compress}", "f", "sub"], cwd=tmp_path, capture_output=True, check=True).stdout
        berth("build", "-t", "cli:tar", "-f", "sub/D", "-", input=archive)
        assert engine.docker("run", "--rm", "cli:tar", "cat", "/got/f").stdout == "F\n"
    write(tmp_path, g="G\n")
    berth("build", "-t", "cli:both", "-f", "-", ".", input="FROM bb\nCOPY g /g\n")
    assert engine.docker("run", "--rm", "cli:both", "cat", "/g").stdout == "G\n"
    assert "standard input is empty" in berth("build", "-", code=1).stderr
    assert "can't use stdin for both" in berth("build", "-f", "-", "-", code=1).stderr


def test_mistakes_of_a_command_line(berth: Berth, tmp_path: Path) -> None:
    assert "failed to read dockerfile: open ./Dockerfile: no such file" in berth("build", ".", code=1).stderr
    dockerfile(tmp_path, "FROM bb\n")
    assert 'unable to prepare context: path "nowhere" not found' in berth("build", "nowhere", code=1).stderr
    assert "context must be a directory: Dockerfile" in berth("build", "Dockerfile", code=1).stderr
    assert "no such file" in berth("build", "--secret", "id=x,src=nowhere", ".", code=1).stderr
    assert "dest is required for local output" in berth("build", "-o", "type=local", ".", code=125).stderr
    assert "invalid reference format" in berth("build", "-t", "UPPER", ".", code=1).stderr
    assert "expected auto, tty" in berth("build", "--progress", "x", ".", code=125).stderr


# -- what is said -------------------------------------------------------------------------------------------------


def test_plain_progress(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN echo out; echo err >&2; echo $((40+2))\n")
    first = berth("build", "--progress", "plain", "--no-cache", ".").stderr
    assert re.search(r"^#(\d+) \[stage-0 2/2\] RUN echo out; .*\n(?:#\1 \d+\.\d{3} (?:out|err|42)\n){3}#\1 DONE \d+\.\ds$", first, re.M), first
    assert re.search(r"^#\d+ CACHED$", berth("build", ".").stderr, re.M)
    lines = [json.loads(line) for line in berth("build", "--progress", "rawjson", "--no-cache", ".").stderr.splitlines()]
    names = {vertex["name"] for line in lines for vertex in line.get("vertexes", [])}
    assert any("RUN echo out" in name for name in names)
    assert any(log["data"] for line in lines for log in line.get("logs", []))


def test_a_step_that_fails(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\n# two\nRUN for i in $(seq 30); do echo line $i; done; \\\n  exit 7\nRUN echo never\n")
    done = berth("build", ".", code=1)
    assert "line 30\n" in done.stderr
    assert "   3 | >>> RUN for i in" in done.stderr
    assert "   4 | >>>   exit 7" in done.stderr
    assert "returned a non-zero code: 7" in done.stderr
    assert "------\n > [stage-0 2/3] RUN for i in" in done.stderr
    quiet = berth("build", "-q", ".", code=1)
    assert quiet.stdout == ""
    assert "line 30\n" in quiet.stderr
    dockerfile(tmp_path, "FROM bb\nRUNN echo\n")
    assert "unknown instruction: RUNN (did you mean RUN?)" in berth("build", ".", code=1).stderr


def test_why(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY f /f\nRUN echo one\n")
    write(tmp_path, f="1")
    berth("build", ".")
    write(tmp_path, f="22")
    said = berth("build", "--why", ".").stderr
    assert "WHY: files that it copies have changed" in said
    assert "WHY: the step before it was made anew" in said
    assert "WHY" not in berth("build", "--why", ".").stderr


def test_check_outline_targets(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "ARG V=1\nFROM bb AS one\nRUN --mount=type=secret,id=s,required=true true\nFROM one AS two\nCMD echo hi\n")
    done = berth("build", "--check", ".", code=1)
    assert "JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/" in done.stdout
    assert "   5 | >>> CMD echo hi" in done.stdout
    assert "two (default)   one" in berth("build", "--call", "targets", ".").stdout
    found = json.loads(berth("build", "--check", "--call", "format=json", ".", code=1).stdout)
    assert [(each["ruleName"], each["location"]["ranges"][0]["start"]["line"]) for each in found["warnings"]] == [("JSONArgsRecommended", 5)]
    berth("build", "--call", "check,ignorestatus=true", ".")
    targets = json.loads(berth("build", "--call", "targets,format=json", ".").stdout)["targets"]
    assert [each["name"] for each in targets] == ["one", "two"]
    assert json.loads(berth("build", "--call", "outline,format=json", ".").stdout)["secrets"][0]["required"] is True
    outline = berth("build", "--call", "outline", ".").stdout
    assert re.search(r"^s +true$", outline, re.M)
    dockerfile(tmp_path, "FROM bb\nRUN true\n")
    assert berth("build", "--check", ".").stdout == "Check complete, no warnings found.\n"


def test_builders(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN head -c 100000 /dev/urandom >/x\n")
    berth("build", ".")
    assert re.search(r"^default\* +docker", berth("buildx", "ls").stdout, re.M)
    assert "Driver:           docker" in berth("buildx", "inspect").stdout
    used = berth("buildx", "du", "--verbose").stdout
    assert "RUN head -c 100000" in used
    assert "Type:\tsource.local" in used
    assert "Total:" in berth("buildx", "prune", "--all", "--force").stdout
    assert "RUN head" not in berth("buildx", "du", "--verbose").stdout
    assert "Total reclaimed space: 0B" in berth("builder", "prune", "-af").stdout


# -- secrets and agents -------------------------------------------------------------------------------------------


def test_secrets_stay_nowhere(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    secret, other = os.urandom(16).hex(), os.urandom(16).hex()
    # The steps look at them by length and by checksum: what they say is kept.
    dockerfile(
        tmp_path,
        "FROM bb\nRUN --mount=type=secret,id=s md5sum </run/secrets/s >/sum\nRUN --mount=type=secret,id=v,env=V echo ${#V} >/length\n"
        "RUN --mount=type=secret,id=none sh -c 'test ! -e /run/secrets/none'\n",
    )  # fmt: skip
    write(tmp_path, key=secret)
    berth("build", "-t", "cli:secret", "--secret", "id=s,src=key", "--secret", "id=v,env=OTHER", ".", env={"OTHER": other})
    expected = subprocess.run(["md5sum"], input=secret, capture_output=True, text=True, check=True).stdout
    assert engine.docker("run", "--rm", "cli:secret", "cat", "/sum", "/length").stdout == f"{expected}32\n"
    for text in (secret, other):
        found = subprocess.run(["grep", "-rlF", text, engine.data, engine.exec, f"{engine.top}/engine.log"], capture_output=True, text=True, check=False)
        assert found.stdout == "", "a secret is kept"
    dockerfile(tmp_path, "FROM bb\nRUN --mount=type=secret,id=s,required=true true\n")
    assert "secret s: not found; give it with --secret id=s,src=FILE" in berth("build", ".", code=1).stderr


@pytest.mark.skipif(not shutil.which("ssh-agent"), reason="needs ssh-agent")
def test_an_ssh_agent(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    with_libraries(str(shutil.which("ssh-add")), tmp_path / "programs")
    (tmp_path / "programs" / "etc").mkdir()
    (tmp_path / "programs" / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nu:x:1000:1000::/:/bin/sh\n")
    for name in ("one", "two"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"key {name}", "-f", tmp_path / name], check=True)
    dockerfile(
        tmp_path,
        "FROM bb AS base\nCOPY programs /\nRUN mkdir -p /tmp && chmod 1777 /tmp\nRUN --mount=type=ssh ssh-add -l >/default\n"
        "RUN --mount=type=ssh,id=other,required=true for i in 1 2 3; do ssh-add -L >/other.$i & done; wait; cat /other.* >/other\n"
        "USER 1000\nRUN --mount=type=ssh,uid=1000 ssh-add -l >/tmp/mine\nRUN --mount=type=ssh ssh-add -l >/tmp/no; test $? = 2\n",
    )  # fmt: skip
    directory = Path(tempfile.mkdtemp(prefix="berth-test-agent-", dir="/var/tmp"))
    with subprocess.Popen(["ssh-agent", "-D", "-a", directory / "s"], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until((directory / "s").exists, "no agent")
            env = {"SSH_AUTH_SOCK": str(directory / "s")}
            subprocess.run(["ssh-add", "-q", tmp_path / "one"], env={**os.environ, **env}, check=True)
            berth("build", "-t", "cli:ssh", "--ssh", "default", "--ssh", "other=two", ".", env=env)
        finally:
            agent.terminate()
    shutil.rmtree(directory)
    said = engine.docker("run", "--rm", "cli:ssh", "cat", "/default", "/tmp/mine", "/other").stdout
    assert said.count("key one (ED25519)") == 2
    assert said.count((tmp_path / "two.pub").read_text()) == 3
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and "berth-ssh-" in command_line(pid)]
    dockerfile(tmp_path, "FROM bb\nRUN --mount=type=ssh,id=other,required=true true\n")
    assert "no ssh agent 'other': give one with --ssh other" in berth("build", ".", code=1).stderr


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_terminal(engine: Engine, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN printf '\\033[2Jclear \\007bell\\n'; sleep 0.5; echo last words\nRUN true\n")
    words = " ".join([*BERTH, "build", "--no-cache", "-t", "cli:terminal", "."])
    done = subprocess.run(
        ["script", "-qec", f"stty rows 20 cols 70; {words}", "/dev/null"], env={**engine.env, "TERM": "xterm", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "\x1b[2J" not in done.stdout
    assert "\x07" not in done.stdout
    assert "│ clear bell" in done.stdout
    last = done.stdout[done.stdout.rindex("[+] Building") :]
    assert re.match(r"\[\+\] Building \d+\.\ds \((\d+)/\1\) FINISHED", last)
    assert "cli:terminal sha256:" in last


# -- the end ------------------------------------------------------------------------------------------------------


def plain_build(engine: Engine, top: Path) -> "subprocess.Popen[str]":
    words = [*BERTH, "build", "--no-cache", "--progress", "plain", "."]
    return subprocess.Popen(words, env=engine.env, cwd=top, stderr=subprocess.PIPE, text=True)


def left_of_builds(engine: Engine) -> list[str]:
    found = []
    for top in (f"{engine.data}/build/work", f"{engine.exec}/build", f"{engine.data}/containers", f"{engine.exec}/containers"):
        found += [f"{top}/{name}" for name in os.listdir(top)] if os.path.isdir(top) else []
    return found


@pytest.mark.parametrize("moment", ["", "listing", "#", "tick 3"])
def test_ctrl_c_leaves_nothing(engine: Engine, tmp_path: Path, moment: str) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY . /x\nRUN for i in $(seq 1000); do echo tick $i; sleep 0.1; done\n")
    write(tmp_path, **{f"d__{number}": "x" * 1000 for number in range(200)})
    before = set(left_of_builds(engine))
    mounts = engine_mounts(engine)
    with plain_build(engine, tmp_path) as process:
        assert process.stderr
        wait_until(lambda: caught(process.pid), "the handler")
        if moment == "listing":
            time.sleep(0.1)  # somewhere in the middle, wherever that is
        elif moment:
            assert any(moment in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130, rest
    wait_until(lambda: set(left_of_builds(engine)) == before, f"files of the build: {set(left_of_builds(engine)) - before}")
    wait_until(lambda: not engine.leftover_processes(but_engine=True), "processes")
    wait_until(lambda: engine_mounts(engine) == mounts, "mounts")
    assert run_berth(engine, "build", "-q", "-", cwd=tmp_path, input="FROM bb\nRUN true\n").stdout.startswith("sha256:")


def caught(pid: int) -> bool:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) & 1 << (signal.SIGWINCH - 1))


def engine_mounts(engine: Engine) -> list[str]:
    assert engine.process
    return sorted(line.split()[4] for line in Path(f"/proc/{engine.process.pid}/mountinfo").read_text().splitlines() if engine.top in line)


def test_a_client_that_is_killed_ends_its_build(engine: Engine, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN echo begun; sleep 1000\n")
    with plain_build(engine, tmp_path) as process:
        assert process.stderr
        assert any("begun" in line for line in process.stderr)
        process.kill()
    wait_until(lambda: left_of_builds(engine) == [], "files of the build")
    wait_until(lambda: not engine.leftover_processes(but_engine=True), "processes")


# -- outputs ------------------------------------------------------------------------------------------------------


def test_files_as_a_result(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb AS made\nRUN mkdir -p /out/sub && echo 1 >/out/one && echo 2 >/out/sub/two && ln -s /etc/passwd /out/link\nFROM scratch\nCOPY --from=made /out /\n")
    berth("build", "-o", "result", ".")
    assert (tmp_path / "result" / "sub" / "two").read_text() == "2\n"
    assert os.readlink(tmp_path / "result" / "link") == "/etc/passwd"
    done = subprocess.run([*BERTH, "build", "-o", "-", "."], env=os.environ | {"DOCKER_HOST": berth_host(berth)}, cwd=tmp_path, capture_output=True, check=True)
    listing = subprocess.run(["tar", "-t"], input=done.stdout, capture_output=True, check=True).stdout.decode()
    assert "sub/two" in listing
    berth("build", "-o", "type=oci,dest=image.tar", ".")
    assert "index.json" in subprocess.run(["tar", "-tf", "image.tar"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def berth_host(berth: Berth) -> str:
    engine = berth.__closure__[0].cell_contents  # type: ignore[attr-defined]
    return str(engine.env["DOCKER_HOST"])
