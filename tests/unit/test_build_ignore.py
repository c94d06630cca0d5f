"""`.dockerignore` beside two others: a slow reference written from the rules, and the Docker CLI where it is installed."""

import http.server
import io
import os
import shutil
import socketserver
import subprocess
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from berth.build.files.context import Directory, receive_tar
from berth.build.files.ignore import Ignore, lines
from berth.build.files.selection import select
from berth.errors import InvalidParameter

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

DOCKER = shutil.which("docker")


def ignored(text: str, path: str) -> bool:
    return Ignore.parse(text.encode()).ignores(path)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("a", "a", True), ("a", "a/b/c", True), ("a", "b/a", False), ("/a", "a", True), ("a/", "a", True), ("./a", "a/b", True),
        ("*", "a/b", True), ("*.txt", "a.txt", True), ("*.txt", "d/a.txt", False), ("*/*.txt", "d/a.txt", True), ("**/*.txt", "a.txt", True),
        ("**/*.txt", "d/e/a.txt", True), ("a?c", "abc", True), ("a?c", "a/c", False), ("[a-c]x", "bx", True), ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True), ("**", "anything/at/all", True), ("a/**", "a/b", True), ("a/**", "a", False), ("**/a", "x/a", True),
        ("**/a", "a", True), ("**/a", "xa", False), ("**a", "xa", True), ("a/**/b", "a/b", True), ("a/**/b", "a/x/y/b", True), ("a/**/b", "ab", False),
        ("*\n!a", "a", False), ("*\n!a", "b", True), ("*\n!a/b", "a/b", False), ("*\n!a/b", "a/c", True), ("a\n!a/b\na/b/c", "a/b/c", True),
        ("a\n!a/b\na/b/c", "a/b/d", False), ("!a", "a", False), ("a\n!**/keep", "a/x/keep", False), (" a \n", "a", True), ("! a\n", "a", False),
        ("#a", "#a", False), (" #a", "#a", True), ("\\#a", "#a", True), ("\\*", "*", True), ("\\*", "a", False), ("\ufeffa", "a", True),
        ("a.b", "axb", False), ("a+b", "a+b", True), ("(a|b)", "a", False), ("{a}$^", "{a}$^", True), ("a\r\nb\r\n", "b", True),
        ("../a", "a", False), ("a/../b", "b", True), ("[*]", "*", True), ("[*]", "a", False), ("[]", "a", None), ("[a", "a", None), ("a\\", "a", None),
        ("!", "a", None), ("\n\n", "a", False), (".", "a", False), ("*/", "d/e", True), ("[b-a]", "a", False), ("[b-a]", "b", False),
    ],
)  # fmt: skip
def test_rules(text: str, path: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(InvalidParameter):
            ignored(text, path)
    else:
        assert ignored(text, path) is expected


def test_a_name_in_latin_1() -> None:
    assert Ignore.parse(b"caf\xe9*\n").ignores(os.fsdecode(b"caf\xe9.txt"))
    assert not Ignore.parse(b"caf\xe9*\n").ignores("cafe.txt")


def test_a_line_feed_in_a_name() -> None:
    assert ignored("*", "a\nb")
    assert ignored("**/b", "a\n/b")


@pytest.mark.parametrize(
    ("text", "directory", "expected"),
    [("*", "a", False), ("*\n!a/b", "a", True), ("*\n!b", "a", False), ("*\n!*/b", "a", True), ("*\n!**/b", "a/x", True), ("a\n!a", "a", False),
     ("*\n!a/b/c", "a/b", True), ("*\n!a/b/c", "a/x", False), ("*\n!a/**", "a/x/y", True)],
)  # fmt: skip
def test_what_may_be_below(text: str, directory: str, expected: bool) -> None:
    assert Ignore.parse(text.encode()).may_contain(directory) is expected


# -- a reference that is slow and plain -------------------------------------------------------------


def fits(pattern: str, path: str) -> bool:
    """One letter after the other, all ways tried."""
    if not pattern:
        return not path
    if pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        if not rest:
            return True
        return fits(rest, path) or any(path[i] == "/" and fits(rest, path[i + 1 :]) for i in range(len(path)))
    if pattern[0] == "*":
        return fits(pattern[1:], path) or (path != "" and path[0] != "/" and fits(pattern, path[1:]))
    if not path:
        return False
    if pattern[0] == "?":
        return path[0] != "/" and fits(pattern[1:], path[1:])
    if pattern[0] == "[":
        inside, _, rest = pattern[1:].partition("]")
        negated, inside = inside.startswith("^"), inside.removeprefix("^")
        return path[0] != "/" and (path[0] in inside) is not negated and fits(rest, path[1:])
    return pattern[0] == path[0] and fits(pattern[1:], path[1:])


def fits_as_moby(pattern: str, path: str) -> bool:
    """With its short cut for what only begins with two stars."""
    if pattern.startswith("**") and not set(pattern[2:]) & set("*?["):
        return path.endswith(pattern[2:]) or (pattern[2:3] == "/" and path == pattern[3:])
    return fits(pattern, path)


def reference(patterns: Sequence[str], path: str) -> bool:
    parents = [False] * len(patterns)
    answer = False
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        answer, here = False, [False] * len(patterns)
        for index, pattern in enumerate(patterns):
            again = pattern.startswith("!")
            if parents[index] or (again is answer and fits_as_moby(pattern.removeprefix("!"), "/".join(parts[:end]))):
                here[index] = True
                answer = not again
        parents = here
    return answer


PART = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
PATHS = st.lists(PART, min_size=1, max_size=4).map("/".join)
PATTERN_PART = st.one_of(PART, st.sampled_from(["*", "**", "?", "a*", "*b", "**a", "a**", "[ab]x", "[^a]", "a?b", "*.*"]))
PATTERNS = st.lists(
    st.tuples(st.sampled_from(["", "!"]), st.lists(PATTERN_PART, min_size=1, max_size=3)).map(lambda pair: pair[0] + "/".join(pair[1])), max_size=5
)


@hypothesis.given(PATTERNS, st.lists(PATHS, min_size=1, max_size=8))
@hypothesis.settings(max_examples=300)
def test_as_the_reference(patterns: list[str], paths: list[str]) -> None:
    ignore = Ignore.parse("\n".join(patterns).encode())
    for path in paths:
        assert ignore.ignores(path) is reference(patterns, path), (patterns, path)
        for directory in [path.rsplit("/", n)[0] for n in range(1, path.count("/") + 1)]:
            if ignore.ignores(directory) and not ignore.ignores(path):
                assert ignore.may_contain(directory)


# -- the Docker CLI ---------------------------------------------------------------------------------


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    context = b""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Engine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "docker"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Api-Version", "1.41")
        self.send_header("Builder-Version", "1")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._answer(b"OK")

    def do_GET(self) -> None:
        self._answer(b'{"OSType":"linux","ApiVersion":"1.41"}')

    def do_POST(self) -> None:
        body = io.BytesIO()
        while size := int(self.rfile.readline(), 16):
            body.write(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        self.server.context = body.getvalue()
        self._answer(b'{"stream":"done"}\n')


def sent_by_docker(directory: Path, tmp_path: Path) -> bytes:
    """The archive that the CLI makes of a context."""
    with _Engine(str(tmp_path / "s"), _Handler) as engine:
        thread = threading.Thread(target=lambda: engine.serve_forever(0.02))
        thread.start()
        try:
            environment = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(tmp_path / "config"), "DOCKER_API_VERSION": "1.41"}
            result = subprocess.run(
                [str(DOCKER), "-H", f"unix://{tmp_path}/s", "build", str(directory)], env=environment, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        finally:
            engine.shutdown()
            thread.join()
    assert engine.context, result.stderr
    return engine.context


FILES = ["a.txt", "b.log", "d/a.txt", "d/e/b.log", "d/e/keep", "d/f/g/h", "node/x/y", "node/keep/z", "src/m.py", "src/m.pyc", "src/p/q.pyc", "caf\udce9/x"]


@pytest.mark.skipif(not DOCKER, reason="no Docker CLI")
@pytest.mark.parametrize(
    "text",
    ["**/*.pyc\nnode\n!node/keep\n", "*\n!src\n!d/e/keep\n", "d/*\n!d/e\nd/e/b.log\n", "d/e\n!d\n", "d/e/b.log\n!d\n", "**/e\n*.txt\n", "**.log\n",
     "/d/\n# node\n \n", "d/**\n", "caf?\n", "*/*/*\n!d/f/g\n"],
)  # fmt: skip
def test_as_docker_sends_it(tmp_path: Path, text: str) -> None:
    top = tmp_path / "context"
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name.encode(errors="replace").decode())
    (top / "Dockerfile").write_text("FROM scratch\n")
    (top / ".dockerignore").write_text(text)
    context = sent_by_docker(top, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(context)) as archive:
        sent = {member.name for member in archive if not member.isdir()} - {"Dockerfile", ".dockerignore"}
    with Directory(str(top)) as directory:
        ours = {item.path for item in select(directory.fd, ["."], ignore=Ignore.parse(text.encode())) if item.kind == "file"}
    assert ours - {"Dockerfile", ".dockerignore"} == sent
    into = tmp_path / "into"
    into.mkdir()
    receive_tar(io.BytesIO(context), str(into))
    assert {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()} - {"Dockerfile", ".dockerignore"} == sent


# -- speed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("a*" * 40 + "b", "a" * 250), ("**/a/" * 30 + "b", "a/" * 2000 + "c"), ("**/*a/" * 30 + "b", "a/" * 2000 + "c"), ("*/*" * 50 + "x", "a/" * 2000 + "c"),
     ("**/" + "a*" * 30 + "b", ("a" * 200 + "/") * 20 + "c"), ("a**b**a", "ab" * 1000)],
)  # fmt: skip
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    """An expression that tries everything takes years, and stops the whole engine meanwhile."""
    ignore = Ignore.parse(pattern.encode())
    began = time.process_time()
    ignore._asked(path, 0)
    ignore.ignores(path[:2000])
    assert time.process_time() - began < 1


def test_too_many_loose_stars() -> None:
    with pytest.raises(InvalidParameter, match=r"more than 2 '\*\*'"):
        Ignore.parse(b"a**b**c**d\n")


def test_taken_in_again_below_what_is_ignored(tmp_path: Path) -> None:
    """As BuildKit has it. The CLI's own walk looks below no ignored directory that a pattern with wildcards takes in again."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with Directory(str(tmp_path)) as directory:
        found = [item.path for item in select(directory.fd, ["."], ignore=Ignore.parse(b"**\n!**/keep\n"))]
    assert found == ["", "d", "d/e", "d/e/keep", "node", "node/keep", "node/keep/z"]


def test_lines_are_cleaned() -> None:
    assert lines(b"\xef\xbb\xbf#c\n a/ \n!\t/b//c \n\n/\n") == ["a", "!b/c", "/"]
