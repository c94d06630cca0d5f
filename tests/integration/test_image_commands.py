"""The command line of images beside Docker's: the same words on the same engine and registry, the same answers.

Both engines are asked, dockerd and berth's own; each command line has a config.json of its own.
"""

import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import socketserver
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
DOCKER = ["docker"]
# What comes of a layer's progress in a pipe depends on the moment.
_PASSING = re.compile(r"Importing\n\n|[0-9a-f]{12}: (Pulling fs layer|Waiting|Verifying Checksum|Download complete|Pull complete|Already exists|Preparing|Pushed"
                      r"|Layer already exists|Mounted from .*)\n")  # fmt: skip
_HALFWAY = re.compile(r"\x1b\[1A\x1b\[2K\r[0-9a-f]{12}: Loading layer +([0-9.]+[kM]?B)/(?!\1)[0-9.]+MB\r\x1b\[1B")


class Side:
    """One command line on one engine, with a configuration directory of its own."""

    def __init__(self, program: "list[str]", host: str, config: Path) -> None:
        self.program = program
        self.config = config
        self.env = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}
        for name in ("DOCKER_CONTEXT", "BERTH_HOST", "DOCKER_AUTH_CONFIG"):
            self.env.pop(name, None)

    def __call__(self, *words: str, input: "str | None" = None) -> "tuple[int, str, str]":
        """Exit code, standard output, standard error, without what is a matter of the moment or of the program's name."""
        done = subprocess.run(
            [*self.program, *words], env=self.env, capture_output=True, text=True, timeout=60,
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )  # fmt: skip
        return done.returncode, *(self._plain(text) for text in (done.stdout, done.stderr))

    def _plain(self, text: str) -> str:
        text = _PASSING.sub("", text.replace(str(self.config), "CONFIG").replace("docker", "berth"))
        if " ago" in text:  # which makes its column wider or narrower
            text = re.sub(" {2,}", "  ", re.sub(r"(\d+|About an?) \w+ ago|Less than a second ago", "…", text))
        return re.sub(r"(?m)^(sha256:)?[0-9a-f]{64}$", "…", text)

    def on_terminal(self, *words: str, answers: "tuple[tuple[str, str], ...]" = (), columns: int = 0) -> "tuple[int, str]":
        """On a pseudo-terminal; answers: (what a prompt ends with, what is typed then)."""
        pid, fd = pty.fork()
        if pid == 0:
            os.read(0, 1)  # until the size is set
            os.execvpe(self.program[0], [*self.program, *words], self.env)
        out, waiting = b"", list(answers)
        try:
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.write(fd, b"\n")
            with contextlib.suppress(OSError):
                while piece := os.read(fd, 65536):
                    out += piece
                    if waiting and out.decode(errors="replace").rstrip(" ").endswith(waiting[0][0]):
                        os.write(fd, waiting.pop(0)[1].encode())
        finally:
            os.close(fd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, out.decode().removeprefix("\r\n").replace(str(self.config), "CONFIG")


@pytest.fixture(scope="module")
def plain() -> Iterator[Host]:
    with docker_registry() as host:
        yield host


@pytest.fixture(scope="module")
def locked() -> Iterator[Host]:
    with docker_registry(auth=("ada", "secret")) as host:
        yield host


@pytest.fixture(params=["dockerd", "berth"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["tuple[Side, Side]"]:
    """Docker's command line and berth's, on one engine; its images of the tests' registries are removed."""
    running: Dockerd | Engine = request.getfixturevalue("real" if request.param == "dockerd" else "engine")
    host = running.env["DOCKER_HOST"]
    yield Side(DOCKER, host, tmp_path / "docker"), Side(BERTH, host, tmp_path / "berth")
    for form in ("{{.Repository}}:{{.Tag}}", "{{.Repository}}@{{.Digest}}"):  # a digest may be the last name that is left
        names = subprocess.run(["docker", "images", "--digests", "--format", form], env=running.env, capture_output=True, text=True, check=True)
        if mine := [name for name in names.stdout.split() if name.startswith(("127.0.0.1:", "cmds-")) and "<none>" not in name]:
            subprocess.run(["docker", "rmi", "-f", *sorted(set(mine))], env=running.env, capture_output=True, check=True)


def same(sides: "tuple[Side, Side]", *words: str, input: "str | None" = None, code: "int | None" = None) -> "tuple[int, str, str]":
    """Both say the same; Docker is asked first."""
    theirs, ours = (side(*words, input=input) for side in sides)
    if "images" in words[:1] or words[:2] == ("image", "ls"):  # Docker's has no order among the names of one image
        theirs, ours = ((code, "".join(sorted(out.splitlines(keepends=True))), errors) for code, out, errors in (theirs, ours))
    assert ours == theirs, words
    assert code is None or ours[0] == code, ours
    return ours


def test_push_pull_and_remove(sides: "tuple[Side, Side]", plain: Host) -> None:
    docker, berth = sides
    repository = f"{plain}/cmds/one"
    for side, name in ((docker, f"{plain}/cmds/first"), (berth, f"{plain}/cmds/second")):  # for a layer that is not there yet
        side("tag", "bb", name)
    docker("tag", "bb", repository)
    docker("tag", "bb", f"{repository}:2")
    assert [docker("push", f"{plain}/cmds/first")[0], berth("push", f"{plain}/cmds/second")[0]] == [0, 0]
    for words in ((repository,), ("-q", repository), ("-a", repository), ("-a", "-q", repository)):
        same(sides, "push", *words, code=0)
    for words in (("-a", f"{repository}:2"), (f"{plain}/cmds/nosuch",), ("UPPER",), (f"{repository}@sha256:{64 * '0'}",)):
        assert [berth("push", *words)[0], docker("push", *words)[0]] == [1, 1]
    same(sides, "push", f"{plain}/cmds/nosuch", code=1)

    same(sides, "images", "--digests")
    same(sides, "image", "ls", "--no-trunc", "--digests", "--format", "json")
    same(sides, "images", "-q", repository)
    same(sides, "images", "--format", "{{.Digest}} {{.Tag}} {{.Repository}}", repository)
    first, second = (side("rmi", repository, f"{repository}:2") for side in (docker, berth))
    assert (first[0], second[0], second[2]) == (0, 1, f"Error response from daemon: No such image: {repository}:latest\n"
                                                      f"Error response from daemon: No such image: {repository}:2\n")  # fmt: skip
    pulled = docker("pull", repository)
    removed = docker("rmi", repository)
    assert (berth("pull", repository), berth("rmi", repository)) == (pulled, removed)
    assert "Status: Downloaded newer image" in pulled[1]
    for words in ((repository,), (repository,), ("-q", repository), ("-a", repository), ("-aq", repository)):
        docker("pull", *words)
        same(sides, "pull", *words, code=0)
    same(sides, "pull", "-a", f"{repository}:2", code=1)
    same(sides, "pull", f"{repository}:none", code=1)
    digest = re.search(r"sha256:[0-9a-f]{64}", docker("images", "--digests", repository)[1])
    assert digest
    docker("rmi", repository, f"{repository}:2")
    docker("pull", f"{repository}@{digest[0]}")
    same(sides, "pull", f"{repository}@{digest[0]}", code=0)
    for words in ((), ("--digests",), ("--format", "json"), ("--digests", "--format", "json"), ("--format", "{{.Digest}}|{{.Tag}}")):
        same(sides, "images", *words, repository)
    same(sides, "rmi", "nosuch", code=1)
    same(sides, "rmi", "-f", "nosuch", code=0)


def test_run_pulls_what_is_missing(sides: "tuple[Side, Side]", plain: Host) -> None:
    docker, _ = sides
    name = f"{plain}/cmds/run"
    docker("tag", "bb", name)
    docker("push", name)
    docker("rmi", name)
    for options, code in (((), 0), (("-q",), 0), (("--pull", "never"), 125), (("--pull", "always"), 0), (("--pull", "x"), 125)):
        said = []
        for side in sides:
            said.append(side("run", *options, "--rm", "--network", "none", name, "echo", "hi"))
            side("rmi", name)
        assert said[1] == said[0], options
        assert said[0][0] == code, said
    for verb, code, options in (("run", 125, ()), ("run", 125, ("-q", "--pull", "always")), ("create", 1, ()), ("create", 1, ("--pull", "never"))):
        same(sides, verb, *options, f"{plain}/cmds/nosuch", "true", code=code)
    for side in sides:
        code, out, _ = side("create", "--network", "none", "--name", "cmds-made", name, "true")
        assert code == 0, out
        assert out == "…\n"  # the id alone; all else is on standard error
        side("rm", "cmds-made")
        side("rmi", name)


def test_login_and_logout(sides: "tuple[Side, Side]", locked: Host) -> None:
    docker, berth = sides
    for words, code in (
        (("login", locked), 1), (("login", "-u", "ada", locked), 1), (("login", "-u", "ada", "-p", "x", "--password-stdin", locked), 1),
        (("login", "--password-stdin", locked), 1), (("login", "-u", "ada", "-p", "secret", locked), 0), (("login", "-u", "ada", "-p", "secret", locked), 0),
    ):  # fmt: skip
        same(sides, *words, code=code)
    wrong = [side("login", "-u", "ada", "-p", "wrong", locked) for side in sides]
    assert wrong[1] == wrong[0]
    assert wrong[0][0] == 1
    assert (berth.config / "config.json").read_bytes() == (docker.config / "config.json").read_bytes()
    assert os.stat(berth.config / "config.json").st_mode & 0o777 == 0o600
    same(sides, "login", f"http://{locked}/v2/", code=0)[2].index("Authenticating with existing credentials... [Username: ada]")
    name = f"{locked}/cmds/private"
    docker("tag", "bb", name)
    docker("push", name)
    same(sides, "push", name, code=0)
    same(sides, "pull", name, code=0)
    same(sides, "logout", locked, code=0)
    same(sides, "logout", "nosuch", code=0)
    same(sides, "logout", code=0)
    assert (berth.config / "config.json").read_bytes() == (docker.config / "config.json").read_bytes() == b'{\n\t"auths": {}\n}'
    for words in (("push", name), ("pull", name)):
        assert same(sides, *words, code=1)[2]
    assert berth("login", "-u", "ada", "--password-stdin", locked, input="secret\n")[:2] == (0, "Login Succeeded\n")
    (docker.config / "config.json").write_bytes((berth.config / "config.json").read_bytes())
    assert docker("login", locked)[0] == 0  # what berth wrote, Docker takes


def test_a_password_is_typed_unseen(sides: "tuple[Side, Side]", locked: Host) -> None:
    docker, berth = sides
    for answers in ((("Username:", "ada\n"), ("Password:", "secret\n")), (("Username:", "\n"),), (("Username:", "ada\n"), ("Password:", "\n"))):
        assert berth.on_terminal("login", locked, answers=answers) == docker.on_terminal("login", locked, answers=answers)
        for side in sides:
            side("logout", locked)
    code, text = berth.on_terminal("login", "-u", "ada", locked, answers=(("Password:", "secret\n"),))
    assert code == 0
    assert "secret" not in text


def test_search_and_history(sides: "tuple[Side, Side]", index: str) -> None:
    for words in (
        (), ("--no-trunc",), ("--format", "json"), ("--format", "{{.Name}} {{.IsOfficial}} {{.StarCount}} {{.Description}}"), ("--limit", "2"),
        ("--format", "table {{.Name}}\t{{.StarCount}}"), ("--filter", "is-official=true"), ("--filter", "stars=10"),
    ):  # fmt: skip
        assert same(sides, "search", *words, f"{index}/x", code=0)[1]
    for words in (("--limit", "300"), ("--filter", "foo=1"), ("--filter", "foo")):
        assert sides[1]("search", *words, f"{index}/x")[0] == sides[0]("search", *words, f"{index}/x")[0] != 0
    for side in sides:
        assert side("search", f"{index}/secret")[:2] == (1, "")  # and no question
    sides[0]("tag", "bb", "cmds-history")
    for words in ((), ("-q",), ("--no-trunc",), ("-H=false",), ("--format", "json"), ("--format", "{{.ID}} {{.CreatedAt}} {{.Comment}}"), ("-q", "--no-trunc")):
        same(sides, "history", *words, "cmds-history", code=0)
    same(sides, "history", "nosuch", code=1)


def test_save_load_and_import(sides: "tuple[Side, Side]", files: str, tmp_path: Path) -> None:
    docker, berth = sides
    docker("tag", "bb", "cmds-bb")
    archive = str(tmp_path / "bb.tar")
    same(sides, "save", "-o", archive, "cmds-bb", code=0)
    same(sides, "save", "-o", str(tmp_path), "cmds-bb", code=1)
    same(sides, "save", "-o", str(tmp_path / "x"), "cmds-nosuch", code=1)
    assert not (tmp_path / "x").exists()
    for words in (("load", "-i", archive), ("load", "-qi", archive)):
        same(sides, *words, code=0)
        theirs, ours = ((code, _HALFWAY.sub("", out)) for code, out in (side.on_terminal(*words, columns=100) for side in (docker, berth)))
        assert ours == theirs
    assert berth.on_terminal("load")[0] == berth.on_terminal("save", "cmds-bb")[0] == 1
    for words in (("-m", "from afar", "-c", "CMD a"), ()):
        _, out, errors = same(sides, "import", *words, f"{files}/small.tar", "cmds-import", code=0)
        assert "Downloading from" in out, errors
        same(sides, "history", "--format", "{{.Comment}}|{{.Size}}", "cmds-import", code=0)
    assert same(sides, "import", f"{files}/nosuch.tar", "cmds-import", code=1)[2].startswith("Error response from daemon: failed to")
    same(sides, "import", str(tmp_path / "nosuch"), code=1)


def test_settings_of_config_json(sides: "tuple[Side, Side]") -> None:
    config = {"psFormat": "{{.Names}}|{{.Image}}", "imagesFormat": "table {{.Tag}}\t{{.Repository}}",
              "proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "a,b"}}}  # fmt: skip
    made = []
    for number, side in enumerate(sides):
        side.config.mkdir(exist_ok=True)
        (side.config / "config.json").write_text(json.dumps(config))
        code, out, errors = side("create", "--network", "none", "--name", f"cmds-set{number}", "-e", "http_proxy=mine", "bb", "true")
        assert code == 0, out + errors
    try:
        same(sides, "ps", "-a", "--filter", "name=cmds-set")
        same(sides, "images", "bb")
        same(sides, "images", "--digests", "bb")
        made = [sides[0]("inspect", "-f", "{{json .Config.Env}}", f"cmds-set{number}")[1] for number in range(2)]
    finally:
        for number in range(2):
            sides[0]("rm", f"cmds-set{number}")
    theirs, ours = (sorted(json.loads(text)) for text in made)
    assert ours == theirs
    assert "HTTP_PROXY=http://p:1" in ours


def test_manifest_lists(tmp_path: Path, plain: Host, real: Dockerd) -> None:
    """Docker's command line and berth's on the same lists, their files and what the registry has of them."""
    sides = Side(DOCKER, real.host, tmp_path / "docker"), Side(BERTH, "unix:///nonexistent", tmp_path / "berth")
    docker = sides[0]
    one, two, other, target = (f"{plain}/cmds/{name}" for name in ("m", "m:2", "n:other", "list"))
    for name in (one, two, other):
        docker("tag", "bb", name)
        docker("push", "-q", name)
        docker("rmi", name)

    def manifest(verb: str, *words: str, code: int) -> str:
        out = same(sides, "manifest", verb, *(() if verb in ("annotate", "rm") else ("--insecure",)), *words, code=code)[1]
        found = []
        for side in sides:
            top = side.config / "manifests"
            found.append({str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()})
        assert found[1] == found[0], (verb, words)
        return out

    manifest("inspect", one, code=0)
    manifest("inspect", "-v", one, code=0)
    manifest("create", target, one, two, other, code=0)
    manifest("create", target, one, code=1)
    manifest("create", "-a", target, one, code=0)
    manifest("annotate", "--arch", "arm64", "--variant", "v8", target, one, code=0)
    manifest("annotate", "--os-version", "3", "--os-features", "a,b", target, two, code=0)
    manifest("annotate", "--arch", "arm64", target, f"{plain}/cmds/none", code=1)
    for words in ((target,), ("-v", target), (target, one), (target, f"{plain}/cmds/none")):
        manifest("inspect", *words, code=1 if words[-1].endswith("none") else 0)
    manifest("push", target, code=0)
    raw = subprocess.run(["curl", "-sS", "-H", "Accept: application/vnd.docker.distribution.manifest.list.v2+json",
                          f"http://{plain}/v2/cmds/list/manifests/latest"], capture_output=True, check=True)  # fmt: skip
    assert [entry["platform"]["architecture"] for entry in json.loads(raw.stdout)["manifests"]] == ["amd64", "arm64", "amd64"]
    manifest("push", "--purge", target, code=0)
    manifest("rm", target, code=1)
    manifest("inspect", target, code=0)
    manifest("inspect", f"{plain}/cmds/none", code=1)


# -- drawing ------------------------------------------------------------------------------------------------------

_STREAM = [
    {"status": "Pulling from t/one", "id": "latest"}, {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbbbbbbbbbbb"}, {"status": "Waiting", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    *({"status": "Downloading", "progressDetail": {"current": current, "total": 45_678_901}, "id": "aaaaaaaaaaaa"} for current in (1, 999, 1_000_000, 45_678_901)),
    {"status": "Download complete", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 12, "units": "s"}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 3, "total": 4, "units": "files"}, "id": "aaaaaaaaaaaa"},
    {"status": "Extracting", "progressDetail": {"current": 5, "total": 4, "units": "files"}, "id": "aaaaaaaaaaaa"},
    {"status": "Downloading", "progressDetail": {"current": 5000, "total": 4000}, "id": "bbbbbbbbbbbb"},
    {"status": "Downloading", "progressDetail": {"current": 123456}, "id": "cccccccccccc"},
    {"status": "Downloading", "progressDetail": {"current": 50, "total": 100, "hidecounts": True}, "id": "cccccccccccc"},
    {"status": "Digest: sha256:0"}, {"stream": "a line\n"}, {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "no id", "progressDetail": {"current": 1, "total": 2}}, {"status": "Status: done"}, {"aux": {"Tag": "x"}},
]  # fmt: skip


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator["tuple[str, list[dict]]"]:
    """Something that answers a pull with the messages of a list, as an engine would."""
    messages: list[dict] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"" if "/images/create" not in self.path else b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
            self.send_response(200)
            self.send_header("Api-Version", "1.50")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    path = str(tmp_path / "s")
    with Server(path, Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"unix://{path}", messages
        finally:
            server.shutdown()
            thread.join()


def test_progress_is_drawn_as_docker_draws_it(scripted: "tuple[str, list[dict]]", tmp_path: Path) -> None:
    host, messages = scripted
    messages += _STREAM
    docker, berth = Side(DOCKER, host, tmp_path / "d"), Side(BERTH, host, tmp_path / "b")
    for columns in (40, 80, 110, 111, 200):
        theirs, ours = (side.on_terminal("pull", "x/y:1", columns=columns) for side in (docker, berth))
        assert ours == theirs, columns
    assert "\x1b[2A" in ours[1]
    piped = [subprocess.run([*side.program, "pull", "x/y:1"], env=side.env, capture_output=True, text=True) for side in (docker, berth)]
    assert (piped[1].stdout, piped[1].returncode) == (piped[0].stdout, piped[0].returncode)
    messages.append({"errorDetail": {"message": "no space left"}, "error": "no space left"})
    for side in (docker, berth):
        assert side("pull", "-q", "x/y:1") == (1, "", "no space left\n")
        assert side("run", "--pull", "always", "x/y:1")[0] == 125


# -- servers ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(handler: "type[http.server.BaseHTTPRequestHandler]") -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    """A registry's index: the search of Docker's v1."""
    found = [
        {"name": "a/one", "description": "short", "star_count": 3, "is_official": False, "is_automated": False},
        {"name": "two", "description": "a description\nthat is much longer than forty-five characters", "star_count": 300, "is_official": True},
        {"name": "three", "description": "", "star_count": 30, "is_official": False, "is_automated": True},
    ]

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"num_results": 3, "query": "x", "results": found}).encode() if self.path.startswith("/v1/search") else b"{}"
            self.send_response(401 if "q=secret" in self.path else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Index) as host:
        yield host


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server with `small.tar`, a root file system."""
    top = tmp_path_factory.mktemp("files")
    (top / "etc").mkdir()
    (top / "etc/hello").write_text("hello\n" * 1000)
    subprocess.run(["tar", "-C", str(top), "-cf", str(top / "small.tar"), "etc"], check=True)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(top))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with serving(Files) as host:
        yield f"http://{host}"
