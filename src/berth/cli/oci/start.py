"""create, start, run, exec: the verbs that start programs."""

import os

from berth.cli.flags import Flag, Parsed, UsageError
from berth.cli.oci.main import Invocation, parse_verb
from berth.errors import InvalidParameter
from berth.linux import sockets
from berth.runtime import lifecycle, sealed
from berth.runtime.context import Launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.runtime.container import Started
    from berth.runtime.state import Container

_MOST_PRESERVED = 1 << 16

_STREAM_FLAGS: "tuple[Flag, ...]" = (
    ("console-socket", "", "string", "PATH", "Unix socket that gets the master of the program's terminal"),
    ("pidfd-socket", "", "string", "PATH", "Unix socket that gets a pidfd of the program"),
    ("pid-file", "", "string", "PATH", "Write the program's pid there"),
    ("preserve-fds", "", "int", "N", "Pass N more descriptors to the program, from 3 upwards"),
)
_CREATE_FLAGS: "tuple[Flag, ...]" = (
    ("bundle", "b", "string", "DIR", "The bundle (the current directory)"),
    ("config", "f", "string", "FILE", "Read this instead of config.json in the bundle"),
    *_STREAM_FLAGS,
    ("no-pivot", "", "bool", "", "Use chroot instead of pivot_root: for a root on a ramdisk, and weaker"),
    ("no-new-keyring", "", "bool", "", "Keep the caller's session keyring"),
    ("no-subreaper", "", "bool", "", "Do not adopt orphans of the container"),
)
_RUN_FLAGS: "tuple[Flag, ...]" = (
    *_CREATE_FLAGS,
    ("detach", "d", "bool", "", "Leave once the program runs"),
    ("keep", "", "bool", "", "Keep the container's state when its program ends"),
)
_EXEC_FLAGS: "tuple[Flag, ...]" = (
    ("process", "p", "string", "FILE", "Read the whole process from this JSON file"),
    ("detach", "d", "bool", "", "Leave once the program runs"),
    ("tty", "t", "bool", "", "Give the program a terminal"),
    ("user", "u", "string", "UID[:GID]", "Ids of the program"),
    ("additional-gids", "g", "list", "GID", "More groups"),
    ("cwd", "", "string", "DIR", "Work directory in the container"),
    ("env", "e", "list", "NAME=VALUE", "Set an environment variable"),
    ("cap", "c", "list", "CAP", "Give a capability"),
    ("no-new-privs", "", "bool", "", "The program and its children can gain no privileges"),
    ("apparmor", "", "string", "PROFILE", "AppArmor profile"),
    ("process-label", "", "string", "LABEL", "SELinux label"),
    ("cgroup", "", "list", "[CONTROLLER,...:]PATH", "Run in this cgroup, which is there already below the container's own"),
    ("ignore-paused", "", "bool", "", "Also in a paused container: it goes on when the container does"),
    ("no-new-keyring", "", "bool", "", "Keep the caller's session keyring"),
    *_STREAM_FLAGS,
)


def create(call: Invocation) -> int:
    """berth oci create"""
    parsed = parse_verb(call, _CREATE_FLAGS, "create [OPTIONS] CONTAINER")
    sealed.ensure()
    _make(call, parsed, gate=True, detached=True)
    return 0


def start(call: Invocation) -> int:
    """berth oci start"""
    parsed = parse_verb(call, (), "start CONTAINER")
    settings = call.settings()
    lifecycle.start(settings, settings.load(parsed.arguments[0]))
    return 0


def run(call: Invocation) -> int:
    """berth oci run"""
    parsed = parse_verb(call, _RUN_FLAGS, "run [OPTIONS] CONTAINER")
    sealed.ensure()
    detached = parsed.flag("detach")
    if not detached and not parsed.flag("no-subreaper"):
        lifecycle.become_subreaper()
    settings, container, started = _make(call, parsed, gate=False, detached=detached)
    if detached:
        return 0
    from berth.cli.oci import foreground

    code = foreground.attend(started)
    if not parsed.flag("keep"):
        lifecycle.delete(settings, container, force=True)
    return code


def _make(
    call: Invocation, parsed: Parsed, *, gate: bool, detached: bool
) -> "tuple[lifecycle.Settings, Container, Started]":
    settings = call.settings()
    launch = _launch(settings, parsed)
    launch.pivot = not parsed.flag("no-pivot")
    console = _console(parsed)
    try:
        container, started = lifecycle.create(
            settings, parsed.arguments[0], parsed.text("bundle", "."), parsed.text("config") or None, launch, gate=gate
        )
    except BaseException:
        if console:
            console.close()
        raise
    try:
        _hand_out(parsed, console, started, detached=detached)
        lifecycle.created(container)
        if not gate:
            lifecycle.run_poststart(settings, container, container.spec())
    except BaseException:
        container.unlock()
        lifecycle.delete(settings, container, force=True)
        raise
    return settings, container, started


def _launch(settings: "lifecycle.Settings", parsed: Parsed) -> Launch:
    launch = settings.launch()
    launch.new_keyring = not parsed.flag("no-new-keyring")
    listening = _listening()
    if listening:
        launch.environment = [f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
    launch.preserve_fds = _preserved(listening + parsed.number("preserve-fds"))
    return launch


def _listening() -> int:
    """How many sockets systemd passes to this very process; the program then gets them first (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdigit() and os.environ.get("LISTEN_PID") == str(os.getpid()) else 0


def _preserved(count: int) -> int:
    """The number of descriptors above 2 that the program gets, all of which must be there."""
    if not 0 <= count <= _MOST_PRESERVED:
        raise UsageError(f"--preserve-fds {count} is not a number from 0 to {_MOST_PRESERVED}")
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            # A number that is free now would be one of ours by the time the program starts.
            raise InvalidParameter(f"--preserve-fds {count}: descriptor {fd} is not open") from None
    return count


def _console(parsed: Parsed) -> "sockets.socket | None":
    path = parsed.text("console-socket")
    return lifecycle.connect_console(path) if path else None


def _hand_out(parsed: Parsed, console: "sockets.socket | None", started: "Started", *, detached: bool) -> None:
    """Terminal, pid file and pidfd to who asked for them."""
    if console:
        if started.terminal_fd < 0:
            console.close()
            raise InvalidParameter("--console-socket is given, but process.terminal is not true: there is no terminal to send")
        lifecycle.send_console(console, started.terminal_fd)
        started.terminal_fd = -1
    elif started.terminal_fd >= 0 and detached:
        os.close(started.terminal_fd)
        raise InvalidParameter("process.terminal is true and nobody would hold the terminal: give --console-socket, or do not detach")
    if parsed.text("pidfd-socket"):
        lifecycle.send_pidfd(parsed.text("pidfd-socket"), started.pid)
    if parsed.text("pid-file"):
        lifecycle.write_pid_file(parsed.text("pid-file"), started.pid)


def exec_(call: Invocation) -> int:
    """berth oci exec"""
    parsed = parse_verb(call, _EXEC_FLAGS, "exec [OPTIONS] CONTAINER [COMMAND [ARG...]]", at_most=-1, interspersed=False)
    sealed.ensure()
    settings = call.settings()
    container = settings.load(parsed.arguments[0])
    process = _process(parsed, container)
    launch = _launch(settings, parsed)
    detached = parsed.flag("detach")
    console = _console(parsed)
    started = lifecycle.execute(
        settings, container, process, launch, ignore_paused=parsed.flag("ignore-paused"), below=_groups_below(parsed.list("cgroup"))
    )
    try:
        _hand_out(parsed, console, started, detached=detached)
    except BaseException:
        os.kill(started.pid, 9)
        raise
    if detached:
        return 0
    from berth.cli.oci import foreground

    return foreground.attend(started)


def _groups_below(words: "list[str]") -> "dict[str, str]":
    """`PATH` for every controller, or `cpu,memory:PATH` as often as needed; by controller."""
    found: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.rpartition(":")
        if not colon and len(words) > 1:
            raise UsageError(f"--cgroup {word!r}: with more than one of them each needs a prefix, as in cpu,memory:{word}")
        for controller in controllers.split(","):
            if controller in found or ":" in controller or (colon and not controller):
                raise UsageError(f"--cgroup {word!r}: expected CONTROLLER,...:PATH, each controller once")
            found[controller] = path
    return found


def _process(parsed: Parsed, container: "Container") -> dict:
    """The process to run: a file's, or the container's own with what the command line says otherwise."""
    if parsed.text("process"):
        from berth.runtime import spec

        found = spec.read(parsed.text("process"))
        spec.check_process(found)
        assert isinstance(found, dict)
        return found
    if len(parsed.arguments) < 2:
        raise UsageError("'berth oci exec CONTAINER COMMAND': there is no command, and no --process")
    process = dict(container.spec().get("process") or {"cwd": "/"})
    process["args"] = parsed.arguments[1:]
    process["terminal"] = parsed.flag("tty")
    process["env"] = [*(process.get("env") or []), *parsed.list("env")]
    if parsed.text("cwd"):
        process["cwd"] = parsed.text("cwd")
    if parsed.text("apparmor"):
        process["apparmorProfile"] = parsed.text("apparmor")
    if parsed.text("process-label"):
        process["selinuxLabel"] = parsed.text("process-label")
    if parsed.given("no-new-privs"):
        process["noNewPrivileges"] = parsed.flag("no-new-privs")
    if parsed.list("cap"):
        process["capabilities"] = _with_capabilities(process.get("capabilities") or {}, parsed.list("cap"))
    process["user"] = _user(parsed, process.get("user") or {})
    return process


def _with_capabilities(sets: dict, names: "list[str]") -> dict:
    """Not inheritable: with that, a program's file capabilities would give them to any user (CVE-2022-29162)."""
    found = dict(sets)
    for name in ("bounding", "effective", "permitted"):
        found[name] = [*(found.get(name) or []), *(n for n in names if n not in (found.get(name) or []))]
    return found


def _user(parsed: Parsed, user: dict) -> dict:
    found = dict(user)
    if parsed.text("user"):
        uid, _, gid = parsed.text("user").partition(":")
        found["uid"] = _id(uid, "--user")
        if gid:
            found["gid"] = _id(gid, "--user")
    if parsed.list("additional-gids"):
        found["additionalGids"] = [*(found.get("additionalGids") or []), *(_id(g, "--additional-gids") for g in parsed.list("additional-gids"))]
    return found


def _id(text: str, flag: str) -> int:
    if not (text.isdigit() and text.isascii()):
        raise UsageError(f"{flag} {text!r}: expected a number; names are not looked up, the container's /etc/passwd is not trusted")
    return int(text)
