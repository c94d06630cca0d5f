"""The flags of `berth engine`, which are dockerd's, and what they make together with daemon.json."""

import json
import os
from collections.abc import Callable
from typing import Any

from berth.cli.flags import Flag, Parsed
from berth.engine import config, config_other
from berth.engine.config_values import Mistake, boolean
from berth.engine.options import Options, from_settings
from berth.errors import InvalidParameter

FLAGS: tuple[Flag, ...] = (
    ("add-runtime", "", "list", "NAME=PATH", "Register another OCI runtime (may be given several times)"),
    ("cgroup-parent", "", "string", "PATH", "Parent of the containers' cgroups"),
    ("config-file", "", "string", "FILE", "Configuration in JSON (default /etc/berth/daemon.json, where it is there)"),
    ("data-root", "", "string", "DIR", "Where images and containers are kept (default /var/lib/berth)"),
    ("debug", "D", "bool", "", "Log everything; the same as --log-level debug"),
    ("default-cgroupns-mode", "", "string", "MODE", "Cgroup namespace of containers: private or host"),
    ("default-ipc-mode", "", "string", "MODE", "IPC namespace of containers: private or shareable"),
    ("default-runtime", "", "string", "NAME", "Runtime for containers that name none (default berth)"),
    ("default-shm-size", "", "string", "BYTES", "Size of /dev/shm (default 64m)"),
    ("default-ulimit", "", "list", "NAME=SOFT[:HARD]", "Limit of every container (several)"),
    ("dns", "", "list", "ADDRESS", "Name server of containers (several)"),
    ("dns-opt", "", "list", "OPTION", "Option of the resolver in containers (several)"),
    ("dns-search", "", "list", "DOMAIN", "Search domain of containers (several)"),
    ("exec-opt", "", "list", "OPTION", "native.cgroupdriver=cgroupfs"),
    ("exec-root", "", "string", "DIR", "Where sockets and pids are kept (default /run/berth)"),
    ("group", "G", "string", "GROUP", "Group that may open the unix sockets (default docker, where there is one)"),
    ("host", "H", "list", "URL", "Address to listen on: unix:///path, tcp://host:port or fd:// (several; default EXEC_ROOT/berth.sock)"),
    ("init", "", "bool", "", "Run an init in every container"),
    ("init-path", "", "string", "PATH", "Program for containers started with --init"),
    ("insecure-registry", "", "list", "HOST", "Registry that may be asked without TLS (several)"),
    ("label", "", "list", "KEY=VALUE", "Label of the engine, shown by info (several)"),
    ("live-restore", "", "bool", "", "Leave containers running when the engine ends (default true)"),
    ("log-driver", "", "string", "NAME", "Log driver of containers that name none (default json-file)"),
    ("log-format", "", "string", "FORMAT", "The engine's own log: text or json (default text)"),
    ("log-level", "l", "string", "LEVEL", "debug, info, warn, error or fatal (default info)"),
    ("log-opt", "", "list", "KEY=VALUE", "Option of that log driver (several)"),
    ("max-concurrent-downloads", "", "int", "NUMBER", "Layers that one pull fetches at a time (default 3)"),
    ("max-concurrent-uploads", "", "int", "NUMBER", "Layers that one push sends at a time (default 5)"),
    ("max-download-attempts", "", "int", "NUMBER", "How often a pull tries to fetch a layer (default 5)"),
    ("metrics-addr", "", "string", "HOST:PORT", "Address that serves /metrics to Prometheus"),
    ("no-new-privileges", "", "bool", "", "No container's program gets more rights by execve"),
    ("pidfile", "p", "string", "PATH", "File for the engine's pid (default EXEC_ROOT/engine.pid)"),
    ("ready-fd", "", "int", "FD", "Descriptor that gets a line when requests are served"),
    ("registry-mirror", "", "list", "URL", "Mirror of Docker Hub to ask first (several)"),
    ("seccomp-profile", "", "string", "FILE", "Seccomp profile of containers: a file, builtin or unconfined (default builtin)"),
    ("shutdown-timeout", "", "int", "SECONDS", "With --live-restore=false: how long containers get to stop (default 15)"),
    ("storage-driver", "s", "string", "NAME", "overlay2"),
    ("tls", "", "bool", "", "Speak TLS on tcp://; =false allows tcp:// without TLS for everyone"),
    ("tlscacert", "", "string", "FILE", "CA whose clients --tlsverify lets in (default ~/.docker/ca.pem)"),
    ("tlscert", "", "string", "FILE", "Certificate of the engine (default ~/.docker/cert.pem)"),
    ("tlskey", "", "string", "FILE", "Key of that certificate (default ~/.docker/key.pem)"),
    ("tlsverify", "", "bool", "", "Speak TLS, and only with clients that have a certificate of the CA"),
    ("userns-remap", "", "string", "USER", "Run containers in a user namespace: default, USER or USER:GROUP"),
    ("validate", "", "bool", "", "Check the configuration, say so, and leave"),
)
_NO_SETTINGS = ("config-file", "ready-fd", "validate")
_PATHS = ("data-root", "exec-root", "pidfile", "init-path", "tlscacert", "tlscert", "tlskey", "seccomp-profile")
_KEYS = {flag: key for key, flag in config.FLAG_NAMES.items()}


def options_of(parsed: Parsed) -> tuple[Options, list[str]]:
    """Flags and configuration file together; and what the file says in vain."""
    flags = {name: value for name, value in parsed.values.items() if name not in _NO_SETTINGS}
    path = parsed.text("config-file", config.DEFAULT_PATH)
    settings = config.read(path, must_exist=parsed.given("config-file"), flags=_as_in_file(flags))
    problems = []
    for name, value in flags.items():
        key = _KEYS.get(name, name)
        try:
            shaped = _SHAPES[name](value) if name in _SHAPES else _absolute(name, value)
            settings[key] = shaped if key == "runtimes" else config.KEYS[key](shaped)
        except Mistake as mistake:
            problems.append(f"--{name}: {value if isinstance(value, str) else json.dumps(value)} {mistake}")
    if not problems and {"log-driver", "log-opt"} & set(flags):
        problems += config.log_problems(settings)
    if problems:
        raise InvalidParameter("\n  ".join(problems))
    return from_settings(settings), config_other.notes(settings)


def _as_in_file(flags: dict[str, Any]) -> dict[str, Any]:
    """Values as the file would have them, for the message that compares both."""
    found = dict(flags)
    for name in _SHAPES.keys() & flags.keys():
        try:
            found[name] = _SHAPES[name](flags[name])
        except Mistake:
            continue
    return found


def _absolute(name: str, value: object) -> object:
    """Paths of the command line may be relative to where it was given."""
    if name == "seccomp-profile" and value in ("builtin", "unconfined"):
        return value
    return os.path.abspath(value) if name in _PATHS and isinstance(value, str) and value else value


def _pairs(value: object) -> dict[str, str]:
    """`NAME=VALUE` each."""
    found = {}
    for item in value if isinstance(value, list) else []:
        name, _, text = item.partition("=")
        if not name or not text:
            raise Mistake("is not NAME=VALUE")
        found[name] = text
    return found


def _ulimits(value: object) -> dict[str, dict[str, int]]:
    found = {}
    for name, text in _pairs(value).items():
        soft, _, hard = text.partition(":")
        try:
            found[name] = {"Soft": int(soft), "Hard": int(hard or soft)}
        except ValueError:
            raise Mistake("is not NAME=SOFT[:HARD]") from None
    return found


_SHAPES: dict[str, Callable[[object], Any]] = {
    "add-runtime": _pairs, "log-opt": _pairs, "default-ulimit": _ulimits, "init": boolean, "debug": boolean,
}  # fmt: skip
