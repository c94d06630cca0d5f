"""Real parts for builds: a Debian base by debootstrap, this machine's node, and a proxy by which steps reach the package registries.

Where packages come from is taken from the machine when a test runs: apt's sources and options, pip's and npm's settings.
"""

import contextlib
import http.client
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest
from harness import REPOSITORY, Engine
from netlab import FAR, Lab

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PORT = 3128
_HOP_BY_HOP = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
# Nobody loses data here: without, dpkg waits for the disk for every file.
_DPKG = "force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n"
_LEFT_OUT = ("var/cache/apt/", "var/lib/apt/lists/", "usr/share/doc/", "usr/share/man/", "usr/share/locale/", "dev/")


# -- the base ---------------------------------------------------------------------------------------------


def _apt_source() -> tuple[str, str]:
    """(where, which release) of the machine's first source of Debian packages."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.sources")), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]
    for file in files:
        text = file.read_text() if file.exists() else ""
        place, suites = re.search(r"^URIs:\s*(\S+)", text, re.M), re.search(r"^Suites:\s*(\S+)", text, re.M)
        if place and suites:
            return place[1], suites[1]
        if line := re.search(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", text, re.M):
            return line[1], line[2]
    pytest.skip("apt has no sources here")


def apt_options() -> str:
    """The machine's settings of how apt fetches, as a file for apt.conf.d."""
    done = subprocess.run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"], capture_output=True, text=True, check=True)
    return "".join(f"{line}\n" for line in done.stdout.splitlines() if re.match(r"Acquire::(Check-|Languages|GzipIndexes)", line))


def debian_base() -> str:
    """An archive for `docker import`, made once on a machine and kept."""
    place, suite = _apt_source()
    kept = Path(tempfile.gettempdir()) / f"berth-test-debian-{os.getuid()}-{suite}.tar"
    if not kept.exists():
        if not shutil.which("debootstrap"):
            pytest.skip("needs Debian's debootstrap")
        with tempfile.TemporaryDirectory(prefix="berth-test-debian-", dir="/var/tmp") as work:
            done = subprocess.run(["debootstrap", "--variant=minbase", suite, f"{work}/root", place], capture_output=True, text=True, timeout=400)
            if done.returncode:
                pytest.skip(f"debootstrap: {done.stdout[-500:]}{done.stderr[-500:]}")
            Path(f"{work}/root/etc/dpkg/dpkg.cfg.d/tests").write_text(_DPKG)
            with tarfile.open(f"{work}/base.tar", "w") as tar:
                tar.add(f"{work}/root", "", filter=_slim)
            shutil.move(f"{work}/base.tar", f"{kept}.{os.getpid()}")
            os.rename(f"{kept}.{os.getpid()}", kept)
    if kept.stat().st_uid != os.getuid():
        pytest.skip(f"{kept} belongs to somebody else")
    return str(kept)


def _slim(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.startswith(_LEFT_OUT) and not info.isdir() else info


def node_parts(path: str) -> None:
    """An archive of this machine's node and npm; skips where it has none that runs on a base of Debian."""
    node, npm = shutil.which("node"), Path("/usr/lib/node_modules/npm")
    if not node or not npm.is_dir():
        pytest.skip("needs node and npm in /usr/lib/node_modules")
    with tarfile.open(path, "w") as tar:
        tar.add(os.path.realpath(node), "usr/bin/node")
        tar.add(str(npm), "usr/lib/node_modules/npm", filter=lambda info: None if "/docs/" in info.name or "/man/" in info.name else info)


# -- the way out --------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that listens in a lab's network `far` and asks from the machine's own; counts what goes through."""

    def __init__(self, lab: Lab) -> None:
        self.url = f"http://{FAR}:{_PORT}"
        self.asked: list[str] = []
        self.received_bytes = 0
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer((FAR, _PORT), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.socket.close()
        self._server.socket = _listening(lab)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})
        self._thread.start()

    def variables(self) -> dict[str, str]:
        """What steps of a build are given: Docker's predefined arguments."""
        return {name: self.url for word in ("http_proxy", "https_proxy") for name in (word, word.upper())}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextlib.contextmanager
    def counting(self) -> Iterator[list[str]]:
        """What is asked for meanwhile; `received_bytes` starts at 0."""
        begin, self.received_bytes = len(self.asked), 0
        found: list[str] = []
        yield found
        found += self.asked[begin:]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy
    timeout = 120

    def log_message(self, *words: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.owner.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=60) as upstream:
            self.send_response(200)
            self.end_headers()
            self._relay(upstream)
        self.close_connection = True

    def _relay(self, upstream: socket.socket) -> None:
        other = {self.connection: upstream, upstream: self.connection}
        while True:
            for ready in select.select(list(other), [], [], 120)[0] or [None]:
                data = ready.recv(1 << 16) if ready else b""
                if not ready or not data:
                    return
                other[ready].sendall(data)
                self.owner.received_bytes += len(data) if ready is upstream else 0

    def do_GET(self) -> None:
        self.owner.asked.append(self.path)
        parts = urllib.parse.urlsplit(self.path)
        upstream = http.client.HTTPConnection(parts.netloc, timeout=60)
        try:
            upstream.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=self._kept(self.headers.items()))
            response = upstream.getresponse()
            self.send_response(response.status)
            for name, value in self._kept(response.getheaders()).items():
                self.send_header(name, value)
            if response.length is None:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            while data := response.read(1 << 16):
                self.wfile.write(data)
                self.owner.received_bytes += len(data)
        except OSError:
            self.close_connection = True
        finally:
            upstream.close()

    def _kept(self, headers: object) -> dict[str, str]:
        return {name: value for name, value in headers if name.lower() not in _HOP_BY_HOP}  # type: ignore[attr-defined]


def _listening(lab: Lab) -> socket.socket:
    """A socket made by a process in that network: it stays there, whoever has it."""
    ours, theirs = socket.socketpair()
    script = "import socket, sys; s = socket.create_server((sys.argv[2], int(sys.argv[3]))); socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'x'], [s.fileno()])"
    with ours, theirs:
        words = [*lab.enter("far"), sys.executable, "-c", script, str(theirs.fileno()), FAR, str(_PORT)]
        subprocess.run(words, pass_fds=[theirs.fileno()], check=True, timeout=30)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fds[0])


class Environment(Protocol):
    """An engine, or a dockerd: what it takes to reach one."""

    env: dict[str, str]


# -- builds ---------------------------------------------------------------------------------------------------


def docker_build(
    engine: Environment, where: Path, dockerfile: str, *options: str, files: dict[str, str] | None = None, code: int | None = 0, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """`docker build` by the old protocol in a directory with these files."""
    for name, text in {"Dockerfile": dockerfile, **(files or {})}.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    return docker(engine, "build", *options, str(where), code=code, timeout=timeout)


def docker(
    engine: Environment, *words: str, code: int | None = 0, timeout: float = 120, input: bytes | None = None, cwd: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Docker's CLI without buildx."""
    given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(["docker", *words], env={**engine.env, "DOCKER_BUILDKIT": "0"}, capture_output=True, timeout=timeout, cwd=cwd, **given)  # type: ignore[call-overload]
    text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    assert code is None or text.returncode == code, f"docker {words}: exit {text.returncode}\n{text.stdout[-6000:]}\n{text.stderr[-3000:]}"
    return text


def berth_build(engine: Engine, where: Path, *options: str, timeout: float = 300) -> str:
    """`berth build` of a directory -> what it printed."""
    words = [f"{REPOSITORY}/berth", "build", "--progress", "plain", *options, str(where)]
    environment = {**engine.env, "BERTH_HOST": engine.env["DOCKER_HOST"]}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr
