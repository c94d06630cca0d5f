"""Compose on berth: two services, a network, a volume, a published port, up, scaled, down, and nothing left.

Needs docker-compose 1.29 of PyPI or Debian, or Docker's plugin: on the path, or named by BERTH_COMPOSE. docs/network.md says how to install it.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import netlab
import pytest
from harness import Engine, wait_until
from netlab import Lab

pytestmark = pytest.mark.root

_FILE = """
version: "2.4"
services:
  web:
    stop_signal: SIGKILL
    image: bb
    command: sh -c 'mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 80 -h /w'
    depends_on: {store: {condition: service_healthy}}
    ports: ["18090:80"]
    networks: {shop: {aliases: [site]}}
    volumes: ["files:/files"]
    environment: {GREETING: hello}
  store:
    stop_signal: SIGKILL
    image: bb
    command: sh -c 'echo kept > /files/note && touch /ready && exec sleep 1000'
    healthcheck: {test: ["CMD", "test", "-e", "/ready"], interval: 1s}
    networks: {shop: {}, inner: {ipv4_address: 10.99.0.9}}
    volumes: ["files:/files"]
networks:
  shop: {driver: bridge, labels: {kind: test}}
  inner: {internal: true, ipam: {config: [{subnet: 10.99.0.0/24}]}}
volumes:
  files: {labels: {kind: test}}
"""


def _compose() -> list[str]:
    if given := os.environ.get("BERTH_COMPOSE"):
        return shlex.split(given)
    if found := shutil.which("docker-compose"):
        return [found]
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else []


COMPOSE = _compose()
if not COMPOSE:
    pytest.skip("needs docker-compose", allow_module_level=True)


# Of images it reads what dockerd has not told newer clients since version 25 (ContainerConfig).
VERSION = {"COMPOSE_API_VERSION": "1.41"}


def test_up_scale_down(net: Engine, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(_FILE)
    before = lab.links()

    def compose(*words: str) -> str:
        done = subprocess.run([*COMPOSE, "-p", "shop", *words], cwd=tmp_path, env={**net.env, **VERSION}, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    compose("up", "-d")
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18090/") == "hello\n", "the web service")
    assert compose("exec", "-T", "web", "cat", "/files/note") == "kept\n"
    assert compose("exec", "-T", "store", "wget", "-qO-", "http://web/") == "hello\n"
    assert compose("exec", "-T", "store", "wget", "-qO-", "http://site/") == "hello\n"
    assert compose("port", "web", "80").strip().endswith(":18090")
    assert "store" in compose("ps")
    up = net.docker("ps", "-q").stdout
    compose("up", "-d")
    assert net.docker("ps", "-q").stdout == up, "what has not changed is left as it is"
    compose("up", "-d", "--scale", "store=1", "--force-recreate", "web")
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18090/") == "hello\n", "the web service, made anew")
    # more of a service without addresses of its own
    (tmp_path / "docker-compose.yml").write_text(_FILE.replace("ipv4_address: 10.99.0.9", "aliases: [rack]"))
    compose("up", "-d", "--scale", "store=3")
    wait_until(lambda: len(_addresses(compose("exec", "-T", "web", "nslookup", "store"))) == 3, "three addresses of one service")
    compose("stop", "-t", "0")
    compose("start")
    compose("restart", "-t", "0")
    wait_until(lambda: lab.fetch("client", f"http://{netlab.HOST}:18090/") == "hello\n", "the web service, started again")
    compose("down", "-v", "-t", "0")
    assert net.docker("ps", "-aq").stdout == ""
    assert net.docker("volume", "ls", "-q").stdout == ""
    assert net.docker("network", "ls", "--filter", "type=custom", "-q").stdout == ""
    left = lab.links() - before
    assert not {name for name in left if name.startswith(("br-", "veth"))}, left


def _addresses(text: str) -> set[str]:
    """What nslookup found, without the server's own."""
    return {line.split()[-1] for line in text.splitlines() if line.startswith("Address") and "127.0.0.11" not in line}


def test_a_file_that_names_what_is_there(net: Engine, lab: Lab, tmp_path: Path) -> None:
    """External networks, links, network_mode, dns and extra_hosts."""
    (tmp_path / "docker-compose.yml").write_text("""
version: "2.4"
services:
  one: {image: bb, command: sleep 1000, networks: [there], extra_hosts: ["far:192.0.2.9"], dns: 192.0.2.53, mac_address: "02:42:0a:62:00:11"}
  two: {image: bb, command: sleep 1000, network_mode: "service:one"}
  three: {image: bb, command: sleep 1000, network_mode: none}
  four: {image: bb, command: sleep 1000, network_mode: bridge}
networks:
  there: {external: true}
""")
    net.docker("network", "create", "--subnet", "10.98.0.0/24", "there")
    command = [*COMPOSE, "-p", "ext"]
    try:
        done = subprocess.run([*command, "up", "-d"], cwd=tmp_path, env={**net.env, **VERSION}, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stderr
        found = {entry["Names"]: entry["ID"] for entry in map(json.loads, net.docker("ps", "--format", "json").stdout.splitlines())}
        assert len(found) == 4
        one, two = (next(identity for name, identity in found.items() if service in name) for service in ("one", "two"))
        assert netlab.settings(net, one)["Networks"]["there"]["MacAddress"] == "02:42:0a:62:00:11"
        assert netlab.interfaces(net, two) == netlab.interfaces(net, one)
        assert "192.0.2.9\tfar" in net.docker("exec", one, "cat", "/etc/hosts").stdout
    finally:
        subprocess.run([*command, "down", "-t", "0"], cwd=tmp_path, env={**net.env, **VERSION}, capture_output=True, timeout=90, check=False)
        assert net.docker("network", "rm", "there").returncode == 0


def test_services_that_are_built(net: Engine, tmp_path: Path) -> None:
    """Compose asks `POST /build` by docker-py, with a context that it packs itself."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text(
        "FROM bb AS base\nARG GREETING\nRUN echo $GREETING >/said\nFROM base AS app\nCOPY page /page\nCMD [\"sleep\", \"1000\"]\nFROM base AS other\n"
    )
    (tmp_path / "app" / "page").write_text("first\n")
    (tmp_path / "docker-compose.yml").write_text("""
version: "2.4"
services:
  app:
    build: {context: app, target: app, args: {GREETING: hello}, labels: {kind: built}}
    image: shop/app:1
    network_mode: none
    stop_signal: SIGKILL
""")

    def compose(*words: str) -> str:
        command = [*COMPOSE, "-p", "built", *words]
        done = subprocess.run(command, cwd=tmp_path, env={**net.env, **VERSION}, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    compose("up", "-d")
    assert compose("exec", "-T", "app", "cat", "/said", "/page") == "hello\nfirst\n"
    assert net.docker("image", "inspect", "-f", "{{.Config.Labels.kind}}", "shop/app:1").stdout == "built\n"
    first = net.docker("ps", "-q").stdout
    (tmp_path / "app" / "page").write_text("second\n")
    said = compose("up", "-d", "--build")
    assert "Using cache" in said
    assert net.docker("ps", "-q").stdout != first
    assert compose("exec", "-T", "app", "cat", "/page") == "second\n"
    compose("down", "-t", "0", "--rmi", "all")
    assert net.docker("image", "ls", "-q", "shop/app").stdout == ""
