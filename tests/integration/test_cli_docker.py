"""berth on berth's engine beside Docker's CLI on dockerd: the same words give the same exit codes, tables and fields."""

import difflib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import REPOSITORY, Engine

if not (HAVE_DOCKERD and shutil.which("docker")):
    pytest.skip("needs Debian's docker.io", allow_module_level=True)

if not re.search(r"version (2[89]|[3-9]\d)\.", subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout):
    pytest.skip("needs Docker's CLI of version 28 or newer", allow_module_level=True)

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
SETUP = """\
run -d --network none --name up1 -l a=b -l c=d bb sleep 1000
run --network none --name done bb sh -c 'exit 3'
create --network none --name made bb echo 'a long command line that is cut' x
run -d --network none --name up2 -v /tmp:/h:ro bb sleep 1000
pause up2
"""
AGES = re.compile(r"(About an?|Less than a|\d+) (second|minute|hour)s?( ago)?")
TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d( UTC)?|Z)?")


class Both:
    """The same containers twice."""

    def __init__(self, daemon: Dockerd, engine: Engine) -> None:
        self.daemon, self.engine = daemon, engine

    def docker(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._run(["docker", *words], self.daemon.env)

    def berth(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._run([*BERTH, *words], self.engine.env)

    def docker_on_berth(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._run(["docker", *words], self.engine.env)

    @staticmethod
    def _run(command: list[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def both(rootfs_tar: str) -> Iterator[Both]:
    daemon, engine = Dockerd(), Engine()
    made = Both(daemon, engine)
    try:
        engine.docker("import", rootfs_tar, "bb")
        for line in SETUP.splitlines():
            words = shlex.split(line)
            first, second = made.docker(*words), made.berth(*words)
            assert first.returncode == second.returncode == (3 if "exit 3" in words else 0), (words, first, second)
        yield made
    finally:
        for run in (made.docker, made.berth):
            run("unpause", "up2")
        try:
            daemon.finish()
        finally:
            engine.finish()


def plain(text: str) -> str:
    """Without what differs from one run to the next: ids, times, processes, and spaces of columns that hold a time."""
    text = re.sub(r"(sha256:)?\b([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", text)
    text = re.sub(r"/var/tmp/berth-[^ \"]*/(socket|berth\.sock)", "SOCKET", text)
    text = TIMES.sub("TIME", AGES.sub("AGE", text))
    return re.sub(r"  +", "  ", text) if "AGE" in text else text


def difference(docker: str, berth: str) -> str:
    return "\n".join(difflib.unified_diff(plain(docker).splitlines(), plain(berth).splitlines(), "docker", "berth", lineterm="", n=0))


# Exit code and standard output are the same.
SAME_OUTPUT = r"""
ps
ps -a
ps -aq
ps -a -q --no-trunc
ps -a --no-trunc
ps -as
ps -a --filter status=exited
ps -a --filter status=paused --format '{{.Names}}'
ps -aq --filter name=up --filter label=a=b
ps -a --filter exited=3 --format 'table {{.Names}}\t{{.Status}}'
ps -a --filter nope=3
ps -l --format '{{.Names}}'
ps -n 2 --format '{{.Names}}'
ps -a --format json
ps -a --format '{{json .}}'
ps -a --format table
ps -a --format '{{.Names}} {{.Image}} {{.Command}} {{.Ports}} {{.State}} {{.Mounts}} {{.Networks}} {{.LocalVolumes}}'
ps -a --format 'table {{.ID}}\t{{.Label "a"}}\t{{.Labels}}\t{{.CreatedAt}}'
ps -a --format '{{.Nope}}'
ps -a --format '{{'
container ls -q
container list -a --format '{{.Names}}'
top up1 -o comm,args
top done
port up1
port up1 80
port nope
stats --no-stream nope
stats --no-stream up1 --format 'table {{.Name}}\t{{.NetIO}}\t{{.PIDs}}'
inspect -f '{{.State.Status}} {{.Name}} {{.Config.Image}}' up1 done
inspect -f '{{json .State.Status}} {{.HostConfig.NetworkMode}} {{.Path}} {{.Args}}' done
inspect -f '{{range .Mounts}}{{.Source}} {{.Destination}} {{.RW}}{{end}}' up2
inspect -f '{{index .Config.Labels "a"}} {{len .Config.Labels}}' up1
inspect -f '{{' up1
inspect nope
inspect nope -f '{{.Name}}'
inspect up1 nope -f '{{.Name}}'
inspect --type container bb
inspect --type image up1
container inspect nope
image inspect -f '{{.Os}} {{.Architecture}} {{.RepoTags}}' bb
context ls --format 'table {{.Name}}\t{{.Description}}'
context ls -q
context ls --format json
context show
context use none1
context rm none1
context inspect none1
context create default
context create x/y
images --format 'table {{.Repository}}\t{{.Tag}}\t{{.Containers}}'
images -q --filter dangling=true
images bb --format '{{.Repository}}:{{.Tag}}'
system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
version --format '{{.Server.Os}} {{.Client.Arch}}'
info --format '{{.OSType}} {{.CgroupVersion}} {{.CgroupDriver}} {{.NCPU}} {{.MemTotal}} {{.Swarm.LocalNodeState}} {{.ContainersPaused}}'
run --rm --network none bb true
run --rm --network none bb sh -c 'echo out; exit 42'
run --rm --network none bb nonexistent
run --rm --network none bb /etc/passwd
run --rm --network none bb sh -c 'kill -9 $$'
run --rm --network none -v /a:b bb true
run --rm --network none --name up1 bb true
run --rm --network none --name bad/name bb true
run --rm --network none --memory 1k bb true
run --rm --network none --user nobody-here bb true
run --rm --network none --cap-add NOPE bb true
run --rm --restart always bb true
run --network none --restart foo bb true
run --rm --network none --mount type=bind,src=/nope,dst=/x bb true
run --pull never --rm nope
run --rm --network none -v up-data:/d bb sh -c 'echo kept > /d/f'
run --rm --network none -v up-data:/e:ro bb sh -c 'cat /e/f; touch /e/x'
run --rm --network none -v /anon bb sh -c 'touch /anon/x; ls /anon'
run --rm --network none -v a b:/d bb true
run --rm --network none -v up-data:/d:nope bb true
run --rm --network none --mount type=volume,src=/x,dst=/d bb true
run --rm --network none --mount type=volume,src=up-data,dst=/etc,volume-nocopy bb ls /etc
run --rm --network none --volumes-from up2:ro bb sh -c 'touch /h/x'
run --rm --network none --volumes-from nope bb true
volume ls
volume ls -q
volume ls --filter name=up
volume ls --filter dangling=true --format '{{.Name}}'
volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' up-data
volume inspect nope
volume inspect -f '{{.Name}}' up-data nope
volume rm nope
volume rm -f nope
volume create up-data
volume create --driver nope up-new
volume create a
volume create --opt nope=1 up-new
volume create --label x=y up-label
volume ls --filter label=x=y --format '{{.Name}} {{.Labels}}'
volume rm up-label
volume prune --filter label=none -f
inspect --type volume -f '{{.Name}}' up-data
inspect -f '{{.Driver}}' up-data
create --pull never nope
create --name up1 bb true
create --pull x bb
create --env-file /nonexistent bb
start nope
start up1
stop done
stop nope
kill nope
kill done
kill -s NOPE up1
rm nope
rm -f nope
rm up1
wait done
wait nope
pause done
pause up2
unpause up1
rename up1 up2
rename nope x
update up1
update nope --memory 1g
update up1 --memory 1k
logs nope
logs done
exec nope true
exec done true
exec up2 true
exec up1 sh -c 'echo in; exit 7'
exec -d up1 true
cp a b
cp up1:/x up2:/y
cp up1:/nope /tmp/berth-never
cp nope:/x /tmp/berth-never
cp /nope up1:/x
diff made
commit nope
export nope
attach nope
attach done
rmi nope
rmi -f nope
rmi bb
tag nope x
save nope
load -i /nonexistent
events --since 0 --until 1
"""


@pytest.mark.parametrize("line", SAME_OUTPUT.strip().splitlines())
def test_the_same_answer(both: Both, line: str) -> None:
    words = shlex.split(line)
    docker, berth = both.docker(*words), both.berth(*words)
    assert (berth.returncode, difference(docker.stdout, berth.stdout)) == (docker.returncode, ""), (docker.stderr, berth.stderr)
    assert bool(berth.stderr) == bool(docker.stderr), (docker.stderr, berth.stderr)


# Mistakes in the line itself; without an engine, for none is asked.
MISTAKES = r"""
ps --foo
ps -Z
ps x
ps --last x
ps --last
ps --all=maybe
ps -f x
run
run --rm
run --memory lots bb
run -e =x bb
run -a foo bb
run --mount x bb
run --pull x bb
run -d -a stdin bb
run -it bb
run --no-healthcheck --health-cmd x bb
create
start
start -a a b
stop --time x a
rename a
rename a b c
logs
logs a b
exec a
inspect
inspect --type foo x
top
port
cp a
wait
update a
update
kill
rm
pause
diff
commit
export
attach
images a b
rmi
tag a
save
import
load x
events x
events --filter x
info x
version x
system df x
system dial-stdio x
container prune x
context use
context create
context inspect none1
rnu
container rnu
system nope
help rnu
--foo
-Z ps
-c none1 ps
-c none1 run bb
-H unix:///a -c b ps
"""


@pytest.mark.parametrize("line", MISTAKES.strip().splitlines())
def test_the_same_exit_code_for_a_mistake(line: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_CONFIG": "/nonexistent/config", "HOME": "/nonexistent"}
    if "-c" not in line:
        environ["DOCKER_HOST"] = "unix:///nonexistent/socket"
    words = shlex.split(line)
    done = [
        subprocess.run([*command, *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        for command in (["docker"], BERTH)
    ]
    docker, berth = done
    assert (berth.returncode, berth.stdout) == (docker.returncode, docker.stdout), done
    assert bool(berth.stderr) == bool(docker.stderr), done
    # Docker's line comes first; berth may go on in it.
    first = docker.stderr.splitlines()[0].replace("docker", "berth")
    if first.startswith(("unknown flag", "unknown short", "berth: 'berth ", "flag needs", "conflicting", "cannot", "you ")):
        assert berth.stderr.startswith(first) or "at least 1 argument" in first, done


@pytest.mark.parametrize("words", [("info",), ("version",), ("system", "df"), ("stats", "--no-stream"), ("images",), ("context", "ls"), ("system", "df", "-v")])
def test_headings_and_names_of_fields(both: Both, words: tuple[str, ...]) -> None:
    """Each line's name, or the whole heading, stands where it stands in Docker's output of the same engine."""

    def names(text: str) -> list[str]:
        found = [re.sub(r"(?<=:) .*", "", line).rstrip() if ":" in line else line.rstrip() for line in text.splitlines()]
        return [plain(line) for line in found if line.strip()]

    docker, berth = both.docker_on_berth(*words), both.berth(*words)
    assert docker.returncode == berth.returncode == 0
    if words[0] in ("info", "version"):
        without = {" Git commit:", " Built:", "  Git commit:", "  Built:", " containerd version:", " runc version:", " init version:"}
        more = {"  Kernel:", "   Abi:"}
        assert [name for name in names(docker.stdout) if name not in without] == [name for name in names(berth.stdout) if name not in more]
    else:
        heads = [[line for line in done.stdout.splitlines() if line.isupper() or "usage:" in line] for done in (docker, berth)]
        assert heads[0]
        assert [" ".join(line.split()) for line in heads[0]] == [" ".join(line.split()) for line in heads[1]]


def test_json_of_lists_has_the_same_keys(both: Both) -> None:
    for words in (("images",), ("system", "df"), ("stats", "--no-stream", "up1"), ("context", "ls")):
        docker, berth = both.docker_on_berth(*words, "--format", "json"), both.berth(*words, "--format", "json")
        rows = [[list(json.loads(line)) for line in done.stdout.splitlines()] for done in (docker, berth)]
        assert rows[0]
        assert rows[0] == rows[1]
    whole = [done.stdout for done in (both.docker_on_berth("inspect", "up1"), both.berth("inspect", "up1"))]
    assert list(json.loads(whole[0])[0]) == list(json.loads(whole[1])[0])
    assert json.loads(both.berth("inspect", "-f", "json", "up1").stdout)[0]["Name"] == "/up1"


# Each changes what the next one sees.
STORY = r"""
unpause up2
rename made kept
restart -t 0 up2
kill up2
wait up2
start up2
exec up2 touch /new
diff up2
stop -t 0 up2
start -a done
tag bb other:1
images --format '{{.Repository}}:{{.Tag}}'
rmi other:1
commit -m text up2 taken:1
rmi taken:1
container prune -f --filter label=none
container prune -f --filter label=a
rm kept
container prune -f
image prune -f
system prune -f
images -q nope
rm -f up1
system prune -af
images
ps -a
rmi bb
"""


def test_one_after_the_other(both: Both) -> None:
    """The last test with these containers: it takes them away."""
    for line in STORY.strip().splitlines():
        words = shlex.split(line)
        docker, berth = both.docker(*words), both.berth(*words)
        said = [sorted(re.sub(r"space: .*", "space: SIZE", plain(done.stdout)).splitlines()) for done in (docker, berth)]
        assert (berth.returncode, said[1]) == (docker.returncode, said[0]), (line, docker.stderr, berth.stderr)


def test_contexts_are_exchanged_with_docker(both: Both, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each exports what the other imports, certificates included, and both then read the same."""
    top = tmp_path_factory.mktemp("contexts")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=ca",
         "-keyout", f"{top}/key.pem", "-out", f"{top}/ca.pem", "-days", "2"], check=True, capture_output=True,
    )  # fmt: skip
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_CONFIG": f"{top}/config", "HOME": str(top)}

    def run(command: list[str], *words: str, code: int = 0) -> str:
        done = subprocess.run([*command, "context", *words], env=environ, cwd=top, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, (words, done)
        return done.stdout

    host = f"host=tcp://127.0.0.1:1,ca={top}/ca.pem"
    for maker, reader in ((["docker"], BERTH), (BERTH, ["docker"])):
        run(maker, "create", "first", "--docker", host, "--description", "one")
        run(maker, "export", "first")
        run(maker, "export", "first", code=1)  # the file is there
        run(reader, "import", "second", "first.dockercontext")
        run(reader, "import", "second", "first.dockercontext", code=1)
        run(reader, "update", "second", "--description", "two")
        assert run(maker, "ls", "--format", "{{.Name}} {{.Description}}").splitlines()[-2:] == ["first one", "second two"]
        wanted = "{{.Endpoints.docker.Host}} {{.TLSMaterial.docker}}"
        assert [run(who, "inspect", "second", "--format", wanted) for who in (maker, reader)] == ["tcp://127.0.0.1:1 [ca.pem]\n"] * 2
        run(maker, "use", "second")
        assert run(reader, "show") == "second\n"
        run(reader, "rm", "second", code=1)
        run(reader, "rm", "-f", "second", "first")
        (top / "first.dockercontext").unlink()


def test_an_archive_that_is_no_context_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("bad")
    (top / "junk").write_bytes(b"junk" * 1000)
    subprocess.run(["tar", "-C", "/etc", "-cf", f"{top}/other", "hostname"], check=True)
    environ = {"PATH": "/usr/bin:/bin", "DOCKER_CONFIG": f"{top}/config", "HOME": str(top)}
    for name in ("junk", "other"):
        done = subprocess.run([*BERTH, "context", "import", "name", f"{top}/{name}"], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert name in done.stderr
        assert "Traceback" not in done.stderr
    assert not (top / "config").exists()
