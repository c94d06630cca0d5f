"""berth system service: a systemd unit for the engine and one for its socket."""

import os
import sys

from berth.cli.client import fail
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_FLAGS: "tuple[Flag, ...]" = (
    ("config-file", "", "string", "FILE", "install: the engine's configuration (default /etc/berth/daemon.json, where it is there)"),
    ("group", "G", "string", "GROUP", "install: group that may open the socket (default docker, where there is one)"),
    ("now", "", "bool", "", "install: also start it (default true)"),
    ("root-dir", "", "string", "DIR", "Write below DIR and leave the running system alone"),
    ("socket", "", "string", "PATH", "install: the engine's socket (default /run/berth/berth.sock)"),
)
SYNTAX = {"system service": Syntax("[OPTIONS] install|uninstall|status", _FLAGS, at_least=1, at_most=1)}
_UNITS = ("berth.socket", "berth.service")

_SERVICE = """[Unit]
Description=berth container engine
After=network-online.target local-fs.target berth.socket
Wants=network-online.target
Requires=berth.socket

[Service]
Type=notify
ExecStart={command}
ExecReload=/bin/kill -s HUP $MAINPID
# The engine alone: its monitors and their containers outlive it.
KillMode=process
Delegate=yes
TasksMax=infinity
OOMScoreAdjust=-500
Restart=on-failure
RestartSec=2
TimeoutStartSec=0

[Install]
WantedBy=multi-user.target
"""
_SOCKET = """[Unit]
Description=Socket of the berth container engine

[Socket]
ListenStream={path}
DirectoryMode=0711
SocketMode=0660
SocketUser=root
{group}RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def service(call: "Invocation") -> int:
    """berth system service"""
    parsed = parse_command(call, SYNTAX)
    verb, root = parsed.arguments[0], parsed.text("root-dir").rstrip("/")
    if verb == "install":
        socket = parsed.text("socket", "/run/berth/berth.sock")
        return _install(root, socket, parsed.text("group"), parsed.text("config-file"), now=parsed.flag("now", True))
    if verb == "uninstall":
        return _uninstall(root)
    if verb == "status":
        return _status(root)
    raise Misuse(f"{verb!r} is none of install, uninstall, status")


def _directory(root: str) -> str:
    return f"{root}/etc/systemd/system"


def units(socket: str, group: str, config_file: str) -> "dict[str, str]":
    """The text of each unit. InvalidParameter-like mistakes are Misuses."""
    for flag, value in (("--socket", socket), ("--config-file", config_file)):
        if value and not value.startswith("/"):
            raise Misuse(f"{flag} {value!r}: the path must be absolute")
    if any(c.isspace() for c in group):
        raise Misuse(f"--group {group!r} is no name of a group")
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    words = [sys.executable, "-IS", main, "engine", "-H", "fd://", *(["--config-file", config_file] if config_file else [])]
    return {
        "berth.service": _SERVICE.format(command=" ".join(_quoted(word) for word in words)),
        "berth.socket": _SOCKET.format(path=_percent(socket), group=f"SocketGroup={group}\n" if group else ""),
    }


def _percent(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One word of a command line in a unit."""
    text = _percent(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{text}"' if any(c.isspace() or c in "\"'\\;" for c in text) else text


def _install(root: str, socket: str, group: str, config_file: str, *, now: bool) -> int:
    if not group and _has_group("docker"):
        group = "docker"
    directory = _directory(root)
    texts = units(socket, group, config_file)
    os.makedirs(directory, exist_ok=True)
    for name, text in texts.items():
        temporary = f"{directory}/.{name}.{os.getpid()}"
        with open(temporary, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.rename(temporary, f"{directory}/{name}")
        print(f"{directory}/{name}")
    if root:
        return 0
    if not _systemd_runs():
        fail("systemd does not run here: the units are there for when it does (systemctl enable --now berth.socket)")
        return 0
    code = _systemctl("daemon-reload") or _systemctl("enable", *_UNITS)
    return code or (_systemctl("start", "berth.socket") if now else 0)


def _uninstall(root: str) -> int:
    directory = _directory(root)
    there = [name for name in _UNITS if os.path.exists(f"{directory}/{name}")]
    if not there:
        fail(f"no unit of berth is in {directory}")
        return 1
    running = not root and _systemd_runs()
    if running:
        _systemctl("disable", "--now", *there)
    for name in there:
        os.unlink(f"{directory}/{name}")
        print(f"removed {directory}/{name}")
    return _systemctl("daemon-reload") if running else 0


def _status(root: str) -> int:
    directory = _directory(root)
    active = False
    for name in _UNITS:
        if not os.path.exists(f"{directory}/{name}"):
            print(f"{name}: not installed")
            continue
        state = _asked("is-active", name) if not root and _systemd_runs() else "unknown (systemd was not asked)"
        print(f"{name}: installed, {state}")
        active = active or (name == "berth.socket" and state == "active")
    return 0 if active else 3


def _has_group(name: str) -> bool:
    import grp

    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _systemd_runs() -> bool:
    return os.path.isdir("/run/systemd/system")


def _systemctl(*words: str) -> int:
    import subprocess

    try:
        code = subprocess.run(["systemctl", *words]).returncode
    except OSError as error:
        fail(f"systemctl: {error.strerror}")
        return 1
    if code:
        fail(f"systemctl {' '.join(words)} failed with exit code {code}")
    return code


def _asked(*words: str) -> str:
    import subprocess

    return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip() or "unknown"
