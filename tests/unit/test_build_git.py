"""URLs of repositories as BuildKit reads them; checkouts of real ones, by git:// and http, with hostile ones among them."""

import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from berth.build.files.cloning import Access, Git
from berth.build.files.context import from_git
from berth.build.files.git import is_repository, parse
from berth.errors import BerthError, Cancelled, InvalidParameter, NotImplementedHere, Unavailable

GIT = shutil.which("git")
needs_git = pytest.mark.skipif(not GIT, reason="no git")


# -- URLs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "remote", "ref", "subdirectory"),
    [
        ("https://example.com/foo.git", "https://example.com/foo.git", "", ""), ("https://example.com/foo.git#deadbeef", "https://example.com/foo.git", "deadbeef", ""),
        ("https://example.com/foo.git#release/1.2", "https://example.com/foo.git", "release/1.2", ""), ("git://example.com/foo", "git://example.com/foo", "", ""),
        ("https://github.com/foo/bar.git#baz/qux:quux/quuz", "https://github.com/foo/bar.git", "baz/qux", "quux/quuz"), ("https://h/d.git#:myfolder", "https://h/d.git", "", "myfolder"),
        ("git@github.com:moby/buildkit", "git@github.com:moby/buildkit", "", ""), ("git@github.com:moby/buildkit.git#v1:docs", "git@github.com:moby/buildkit.git", "v1", "docs"),
        ("ssh://git@h:2222/a/b.git#x", "ssh://git@h:2222/a/b.git", "x", ""), ("https://user:pass@h/r.git", "https://user:pass@h/r.git", "", ""),
        ("github.com/moby/buildkit", "https://github.com/moby/buildkit", "", ""), ("https://h/r.git##ref=release/1.2,subdir=/sub", "https://h/r.git", "release/1.2", "/sub"),
        ("https://h/r.git?ref=v1&subdir=d", "https://h/r.git", "v1", "d"), ("https://h/r.git?tag=v1", "https://h/r.git", "refs/tags/v1", ""),
        ("https://h/r.git?branch=refs/heads/x", "https://h/r.git", "refs/heads/x", ""), ("https://h/r.git?ref=v1#v1:d", "https://h/r.git", "v1", "d"),
        ("https://h/r.git?commit=0123456", "https://h/r.git", "0123456", ""), ("HTTPS://h/r.git", "https://h/r.git", "", ""), ("git@h:r.git?branch=b", "git@h:r.git", "refs/heads/b", ""),
    ],
)  # fmt: skip
def test_urls(text: str, remote: str, ref: str, subdirectory: str) -> None:
    found = parse(text)
    assert (found.remote, found.ref, found.subdirectory) == (remote, ref, subdirectory)


def test_what_else_urls_say() -> None:
    found = parse("https://h/a/r.git?keep-git-dir&submodules=false&checksum=0123456789")
    assert (found.keep_git, found.submodules, found.checksum, found.name) == (True, False, "0123456789", "r")
    assert (parse("https://h/r.git").keep_git, parse("https://h/r.git").submodules) == (None, None)
    assert parse("git@h:r.git").name == "r"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://h/r.git?tag=a&branch=b", "branch conflicts with tag"), ("https://h/r.git?ref=a#b", "ref conflicts"), ("https://h/r.git?ref=a&ref=b", "multiple values"), ("https://h/r.git?ref=", "has no value"),
        ("https://h/r.git?what=x", "unexpected"), ("https://h/r.git##what=x", "unexpected"), ("https://h/r.git?keep-git-dir=maybe", "invalid keep-git-dir"), ("https://h/r.git#--upload-pack=x", "no name of a branch"),
        ("https://h/r.git#a..b", "no name of a branch"), ("https://h/r.git#a b", "space"), ("ext::sh -c x", "space"), ("ext::sh", "no URL"), ("file:///etc", "not by file"), ("-oProxyCommand=x@h:r", "no URL"), ("x@-oProxy:r", "no URL"),
        ("ssh://-oProxyCommand=x/r.git", "no host"), ("https:///r.git", "no host"), ("https://h/r.git?checksum=zzz", "invalid checksum"), ("/local/path", "no URL"), ("https://h/r.git#v1^{tree}", "no name"), ("https://h/r.git\n", "control"),
    ],
)  # fmt: skip
def test_urls_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("text", "source", "context"),
    [
        ("https://h/r.git", True, True), ("https://h/r.git#x:y", True, True), ("https://h/r.git/", False, False), ("https://h/file.tar", False, False), ("https://h/r.git.bar", False, False), ("git://h/r", True, True), ("git@h:r", True, True),
        ("github.com/a/b", False, True), ("h/r.git", False, False), (".git", False, False), ("ssh://h/r", True, True), ("ftp://h/r.git", False, False), ("http://h/r.git?ref=x", True, True), ("a:b", False, False),
    ],
)  # fmt: skip
def test_what_is_a_repository(text: str, source: bool, context: bool) -> None:
    assert is_repository(text) is source
    assert is_repository(text, context=True) is context


# -- checkouts --------------------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> str:
    """The second opinion: git as a person runs it."""
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]}
    command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=directory, env=who, capture_output=True, text=True, check=True).stdout.strip()


class Served:
    """Repositories below `top`, by `git daemon`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.work = top / "work"
        self.work.mkdir()
        git(self.work, "init", "-q", ".")
        for name, text in (("top", "1"), ("sub/f", "sub"), ("run.sh", "#!/bin/sh")):
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text)
        os.chmod(self.work / "run.sh", 0o755)
        os.symlink("/etc", self.work / "sub/evil")
        self.first = self.commit()
        git(self.work, "tag", "-a", "v1", "-m", "v1")
        git(self.work, "branch", "both")
        (self.work / "top").write_text("2")
        self.second = self.commit()
        git(self.work, "tag", "both")
        self.publish()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.daemon = subprocess.Popen(
            ["git", "daemon", "--reuseaddr", f"--base-path={top}/public", "--export-all", "--listen=127.0.0.1", f"--port={self.port}", "--log-destination=none"],
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        ends_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                break
            except OSError:
                assert time.monotonic() < ends_s
                assert self.daemon.poll() is None

    def commit(self) -> str:
        git(self.work, "add", "-A")
        git(self.work, "commit", "-qm", "x")
        return git(self.work, "rev-parse", "HEAD")

    def publish(self) -> None:
        shutil.rmtree(self.top / "public", ignore_errors=True)
        (self.top / "public").mkdir()
        git(self.top, "clone", "-q", "--bare", str(self.work), str(self.top / "public/r.git"))
        git(self.top / "public/r.git", "update-server-info")

    @property
    def url(self) -> str:
        return f"git://127.0.0.1:{self.port}/r.git"

    def close(self) -> None:
        os.killpg(self.daemon.pid, 15)
        self.daemon.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("served"))
    yield found
    found.close()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "into"
    path.mkdir()
    return path


@needs_git
@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("", "second"), ("#main", "second"), ("#v1", "first"), ("#refs/tags/v1", "first"), ("#both", "first"), ("?tag=both", "second"), ("?branch=both", "first"), ("#FIRST", "first"), ("#SHORT", "first"), ("?ref=v1&checksum=SHORT", "first")],
)  # fmt: skip
def test_refs(served: Served, into: Path, suffix: str, expected: str) -> None:
    suffix = suffix.replace("FIRST", served.first).replace("SHORT", served.first[:9])
    wanted = {"first": served.first, "second": served.second}[expected]
    assert from_git(served.url + suffix, str(into)) == wanted
    assert (into / "top").read_text() == ("1" if expected == "first" else "2")
    assert sorted(os.listdir(into)) == ["run.sh", "sub", "top"]
    assert os.stat(into / "run.sh").st_mode & 0o777 == 0o755
    assert os.stat(into / "top").st_mode & 0o777 == 0o644
    if served.first[:9] not in suffix.replace(served.first, ""):
        assert Git(parse(served.url + suffix)).commit() == wanted


@needs_git
def test_a_subdirectory(served: Served, into: Path) -> None:
    from_git(f"{served.url}#main:sub", str(into))
    assert sorted(os.listdir(into)) == ["evil", "f"]
    assert os.readlink(into / "evil") == "/etc"


@needs_git
@pytest.mark.parametrize(
    ("suffix", "words"),
    [("#nothing", "does not contain ref 'nothing'"), ("#main:nothing", "has no directory 'nothing'"), ("#main:sub/evil", "has no directory"), ("#main:top", "has no directory"), ("?ref=main&checksum=0000000", "expected checksum to match 0000000"), ("#" + "0" * 40, "failed")],
)  # fmt: skip
def test_what_is_not_there(served: Served, into: Path, suffix: str, words: str) -> None:
    with pytest.raises((InvalidParameter, Unavailable), match=words):
        from_git(served.url + suffix, str(into))
    assert os.listdir(into) == []


@needs_git
def test_the_directory_of_git_is_kept_if_asked(served: Served, into: Path) -> None:
    commit = Git(parse(served.url)).checkout(str(into), keep_git=True)
    assert git(into, "-c", f"safe.directory={into}", "rev-parse", "HEAD") == commit
    assert git(into, "-c", f"safe.directory={into}", "status", "--porcelain") == ""
    assert git(into, "-c", f"safe.directory={into}", "rev-list", "--count", "HEAD") == "1"


@needs_git
def test_by_http_from_a_server_of_files(served: Served, into: Path) -> None:
    """Which gives no single commits."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(served.top / "public"))) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(0.02))
        thread.start()
        try:
            url = f"http://me:secret@127.0.0.1:{server.server_port}"
            assert from_git(f"{url}/r.git#v1", str(into)) == served.first
            with pytest.raises(BerthError) as caught:
                from_git(f"{url}/nothing.git", str(into))
            assert "secret" not in str(caught.value)
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@needs_git
def test_settings_and_hooks_of_the_host_count_for_nothing(served: Served, into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    proof = tmp_path / "ran"
    (home / "hooks/post-checkout").write_text(f"#!/bin/sh\ntouch {proof}\n")
    os.chmod(home / "hooks/post-checkout", 0o755)
    (home / ".gitconfig").write_text(f'[core]\n\thooksPath = {home}/hooks\n[url "git://127.0.0.1:1/"]\n\tinsteadOf = git://127.0.0.1:{served.port}/\n[init]\n\ttemplateDir = {home}\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(home))
    assert from_git(served.url, str(into)) == served.second
    assert not proof.exists()
    plain = subprocess.run(["git", "clone", "-q", str(served.work), str(tmp_path / "plain")], env={"HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True)
    assert plain.returncode == 0
    assert proof.exists()  # what git does of itself with these settings


@needs_git
def test_submodules(served: Served, into: Path, tmp_path: Path) -> None:
    """By the protocols that a context may come by, and no other: a path of this host is none."""
    top = tmp_path / "with"
    top.mkdir()
    git(top, "init", "-q", ".")
    for name, url in (("good", served.url), ("relative", "../r.git")):
        git(top, "-c", f"url.{served.work}.insteadOf={url}", "submodule", "--quiet", "add", "--name", name, served.url, name)
        git(top, "config", "-f", ".gitmodules", f"submodule.{name}.url", url)
    git(top, "add", "-A")
    git(top, "commit", "-qm", "x")
    git(tmp_path, "clone", "-q", "--bare", str(top), str(served.top / "public/with.git"))
    base = served.url.removesuffix("/r.git")
    from_git(f"{base}/with.git", str(into))
    assert (into / "good/top").read_text() == (into / "relative/top").read_text() == "2"
    assert [path for path in into.rglob(".git")] == []
    other = tmp_path / "other"
    other.mkdir()
    from_git(f"{base}/with.git?submodules=false", str(other))
    assert os.listdir(other / "good") == []
    git(top, "config", "-f", ".gitmodules", "submodule.good.url", str(served.work))
    git(top, "commit", "-qam", "y")
    git(top, "push", "-q", str(served.top / "public/with.git"), "HEAD:main")
    third = tmp_path / "third"
    third.mkdir()
    with pytest.raises(BerthError, match="transport 'file' not allowed"):
        from_git(f"{base}/with.git", str(third))
    assert os.listdir(third) == []


@needs_git
def test_nobody_answers(into: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="Connection refused"):
        from_git(f"git://127.0.0.1:{port}/r.git", str(into))


@needs_git
def test_cancelled_and_too_slow(into: Path) -> None:
    """A server that takes the connection and says nothing; git is gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/r.git"
        with pytest.raises(Unavailable, match="took too long"):
            Git(parse(url), timeout_s=0.3).commit()
        stop = threading.Event()

        def stop_once_connected() -> None:
            for _ in range(2):
                silent.accept()[0].close() if _ == 0 else connections.append(silent.accept()[0])
            stop.set()

        connections: list[socket.socket] = []
        thread = threading.Thread(target=stop_once_connected)
        thread.start()
        with pytest.raises(Cancelled):
            from_git(url, str(into), stop=stop)
        thread.join()
        assert connections[0].recv(1000)
        while connections[0].recv(1000):
            pass  # the end of file says that whoever asked has ended
        connections[0].close()
    assert os.listdir(into) == []


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotImplementedHere, match="needs the program git"):
        Git(parse("https://h/r.git"))


@needs_git
def test_a_token_is_in_no_argument() -> None:
    found = Git(parse("https://h.example/r.git"), access=Access(token="s3cret"))
    values = {found._environment[f"GIT_CONFIG_KEY_{n}"]: found._environment[f"GIT_CONFIG_VALUE_{n}"] for n in range(int(found._environment["GIT_CONFIG_COUNT"]))}
    assert values["http.https://h.example/.extraheader"].startswith("Authorization: basic ")
    assert "s3cret" not in str(values)
