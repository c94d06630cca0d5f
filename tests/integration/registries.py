"""Debian's docker-registry on a loopback port, for tests that need a real registry.

    with docker_registry() as host:                            # host == "127.0.0.1:PORT"; a str with more to it:
        host.log(), host.root, host.url, host.ca
    with docker_registry(auth=("user", "password")) as host:   # basic auth through htpasswd
    with docker_registry(tls=True) as host:                    # host.ca: the authority's certificate, also host.certs_d
    with docker_registry(proxy_of="http://127.0.0.1:1") as host:   # a pull-through cache

TLS certificates are for 127.0.0.1, localhost and `registry.test`. It listens on a port the kernel chose, so that tests can
run at the same time. Deletes are allowed. Nothing of it is left at the end.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

from certificates import make_certificates

HAVE_DOCKER_REGISTRY = bool(shutil.which("docker-registry"))


class Host(str):
    """`127.0.0.1:PORT`. root: the registry's files; ca: the authority's certificate, '' without TLS; certs_d: a directory as
    Docker's certs.d, with that authority for this host."""

    process: "subprocess.Popen[bytes]"
    top: str
    root: str
    url: str
    ca: str
    certs_d: str

    def log(self) -> str:
        with open(f"{self.top}/log", errors="replace") as file:
            return file.read()


@contextlib.contextmanager
def docker_registry(
    *, auth: "tuple[str, str] | None" = None, tls: bool = False, proxy_of: str = "", config: "dict | None" = None, root: str = "",
    port: int = 0,
) -> Iterator[Host]:
    """auth: (user, password); config: sections of docker-registry's config.yml that replace ours; root: where it keeps its files; port: of one before."""
    top = tempfile.mkdtemp(prefix="berth-registry-", dir="/var/tmp")
    process: subprocess.Popen[bytes] | None = None
    try:
        process = _start(top, root or f"{top}/root", auth, tls, proxy_of, config or {}, port)
        host = Host(_await_address(process, f"{top}/log"))
        host.process, host.top, host.root = process, top, root or f"{top}/root"
        host.url = f"{'https' if tls else 'http'}://{host}"
        host.ca = f"{top}/ca.crt" if tls else ""
        host.certs_d = f"{top}/certs.d"
        os.makedirs(f"{host.certs_d}/{host}")
        if tls:
            shutil.copy(host.ca, f"{host.certs_d}/{host}/ca.crt")
        yield host
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(top, ignore_errors=True)


def _start(top: str, root: str, auth: "tuple[str, str] | None", tls: bool, proxy_of: str, config: dict, port: int) -> "subprocess.Popen[bytes]":
    http: dict = {"addr": f"127.0.0.1:{port}", "secret": "of-the-tests"}
    settings: dict = {
        "version": "0.1", "log": {"level": "info"}, "http": http,
        "storage": {"filesystem": {"rootdirectory": root}, "delete": {"enabled": True}, "maintenance": {"uploadpurging": {"enabled": False}}},
    }  # fmt: skip
    if auth:
        line = subprocess.run(["htpasswd", "-BbnC", "4", *auth], check=True, capture_output=True, text=True).stdout
        with open(f"{top}/htpasswd", "w") as file:
            file.write(line.strip() + "\n")
        settings["auth"] = {"htpasswd": {"realm": "tests", "path": f"{top}/htpasswd"}}
    if tls:
        make_certificates(top)
        http["tls"] = {"certificate": f"{top}/server.crt", "key": f"{top}/server.key"}
    if proxy_of:
        settings["proxy"] = {"remoteurl": proxy_of}
    settings.update(config)
    with open(f"{top}/config.yml", "w") as file:
        json.dump(settings, file)  # which is YAML as well
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_") and not name.lower().endswith("_proxy")}
    with open(f"{top}/log", "wb") as log:
        return subprocess.Popen(["docker-registry", "serve", f"{top}/config.yml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=top)


def _await_address(process: "subprocess.Popen[bytes]", log: str) -> str:
    """docker-registry writes the address that it got."""
    pidfd = os.pidfd_open(process.pid)
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    deadline_s = time.monotonic() + 60
    try:
        while True:
            over = bool(ended.poll(20)) or time.monotonic() > deadline_s
            with open(log, errors="replace") as file:
                text = file.read()
            if found := re.search(r"listening on (127\.0\.0\.1:[0-9]+)", text):
                return found.group(1)
            if over:
                process.kill()
                process.wait()
                raise AssertionError(f"docker-registry did not start:\n{text[-4000:]}")
    finally:
        os.close(pidfd)
