"""checkpoint and restore: the flags of runc, handed to criu as its own."""

import os

from berth.cli.flags import Flag, Parsed, UsageError
from berth.cli.oci.main import Invocation, parse_verb
from berth.errors import InvalidParameter
from berth.runtime import checkpoint as criu
from berth.runtime import lifecycle, sealed

_BOTH: "tuple[Flag, ...]" = (
    ("image-path", "", "string", "DIR", "Where the images are (./checkpoint)"),
    ("work-path", "", "string", "DIR", "Where criu writes its log (with the images)"),
    ("tcp-established", "", "bool", "", "Also with open TCP connections"),
    ("ext-unix-sk", "", "bool", "", "Also with unix sockets that lead out of the container"),
    ("shell-job", "", "bool", "", "Also with a terminal of the caller's"),
    ("file-locks", "", "bool", "", "Also with file locks"),
    ("lazy-pages", "", "bool", "", "Hand memory over when it is first used (userfaultfd)"),
    ("manage-cgroups-mode", "", "string", "MODE", "'soft', 'full', 'strict' or 'ignore'"),
    ("empty-ns", "", "list", "KIND", "Make a namespace of that kind, 'network', and put nothing into it"),
    ("auto-dedup", "", "bool", "", "Keep each page of memory once"),
)
_CHECKPOINT_FLAGS: "tuple[Flag, ...]" = (
    *_BOTH,
    ("parent-path", "", "string", "DIR", "Images of an earlier pre-dump, relative to the image path"),
    ("leave-running", "", "bool", "", "Let the container go on"),
    ("pre-dump", "", "bool", "", "Save the memory alone, and let the container go on"),
    ("page-server", "", "string", "ADDRESS:PORT", "Send memory to a page server"),
    ("status-fd", "", "int", "FD", "criu writes a zero byte there once it is ready for lazy pages"),
    ("tcp-skip-in-flight", "", "bool", "", "Leave TCP connections that are being made out"),
    ("link-remap", "", "bool", "", "Also with open files that have been removed"),
)
_RESTORE_FLAGS: "tuple[Flag, ...]" = (
    *_BOTH,
    ("bundle", "b", "string", "DIR", "The bundle (the current directory)"),
    ("config", "f", "string", "FILE", "Read this instead of config.json in the bundle"),
    ("console-socket", "", "string", "PATH", "For containers with a terminal, which cannot be restored"),
    ("detach", "d", "bool", "", "Leave once the container runs"),
    ("pid-file", "", "string", "PATH", "Write the pid of the first program there"),
    ("no-subreaper", "", "bool", "", "Do not adopt orphans of the container"),
    ("no-pivot", "", "bool", "", "For runc's sake: criu makes the root"),
    ("tcp-close", "", "bool", "", "Restore TCP connections as closed"),
    ("lsm-profile", "", "string", "TYPE:NAME", "Another AppArmor profile or SELinux label than the saved one"),
    ("lsm-mount-context", "", "string", "CONTEXT", "Another SELinux context for mounts than the saved one"),
)
# Ours that criu has as well: name -> its word, with '=' where a value follows.
_SAME = {
    "tcp-established": "--tcp-established", "ext-unix-sk": "--ext-unix-sk", "shell-job": "--shell-job", "file-locks": "--file-locks",
    "lazy-pages": "--lazy-pages", "auto-dedup": "--auto-dedup", "tcp-skip-in-flight": "--skip-in-flight", "link-remap": "--link-remap",
    "tcp-close": "--tcp-close",
}  # fmt: skip


def checkpoint(call: Invocation) -> int:
    """berth oci checkpoint"""
    parsed = parse_verb(call, _CHECKPOINT_FLAGS, "checkpoint [OPTIONS] CONTAINER")
    request = _request(call, parsed)
    if parsed.text("parent-path"):
        _check_parent(request.images, parsed.text("parent-path"))
        request.words += ["--track-mem", "--prev-images-dir", parsed.text("parent-path")]
    if parsed.text("page-server"):
        address, _, port = parsed.text("page-server").rpartition(":")
        if not address or not port.isdigit():
            raise UsageError(f"--page-server {parsed.text('page-server')!r} is not ADDRESS:PORT")
        request.words += ["--page-server", "--address", address.strip("[]"), "--port", port]
    if parsed.given("status-fd"):
        _pass_status(request, parsed.number("status-fd"))
    settings = call.settings()
    container = settings.load(parsed.arguments[0])
    criu.dump(settings, container, request, leave_running=parsed.flag("leave-running"), pre_dump=parsed.flag("pre-dump"))
    return 0


def _check_parent(images: str, parent: str) -> None:
    """As criu reads it: its own message for a wrong one says little."""
    if parent.startswith("/"):
        raise InvalidParameter(f"--parent-path {parent!r} must be relative to --image-path {images!r}")
    path = os.path.normpath(os.path.join(images, parent))
    if not os.path.isdir(path):
        raise InvalidParameter(f"--parent-path {parent!r}: there is no directory {path!r}")


def _pass_status(request: criu.Request, fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        raise InvalidParameter(f"--status-fd {fd}: it is not open") from None
    request.words += ["--status-fd", str(fd)]
    request.fds += (fd,)


def restore(call: Invocation) -> int:
    """berth oci restore"""
    parsed = parse_verb(call, _RESTORE_FLAGS, "restore [OPTIONS] CONTAINER")
    sealed.ensure()
    request = _request(call, parsed)
    for name in ("lsm-profile", "lsm-mount-context"):
        if parsed.text(name):
            request.words += [f"--{name}", parsed.text(name)]
    settings = call.settings()
    detached = parsed.flag("detach")
    if not detached and not parsed.flag("no-subreaper"):
        lifecycle.become_subreaper()
    bundle, config = parsed.text("bundle", "."), parsed.text("config") or None
    container, started = criu.restore(settings, parsed.arguments[0], bundle, config, request)
    try:
        if parsed.text("pid-file"):
            lifecycle.write_pid_file(parsed.text("pid-file"), started.pid)
        lifecycle.created(container)
    except BaseException:
        container.unlock()
        lifecycle.delete(settings, container, force=True)
        raise
    if detached:
        return 0
    from berth.cli.oci import foreground

    code = foreground.attend(started)
    lifecycle.delete(settings, container, force=True)
    return code


def _request(call: Invocation, parsed: Parsed) -> criu.Request:
    words = [word for name, word in _SAME.items() if parsed.flag(name)]
    for kind in parsed.list("empty-ns"):
        if kind != "network":
            raise InvalidParameter(f"--empty-ns {kind!r}: criu can leave only 'network' empty")
        words += ["--empty-ns", "net"]
    images, work = parsed.text("image-path", "checkpoint"), parsed.text("work-path")
    return criu.Request(call.options.text("criu"), images, work, words, parsed.text("manage-cgroups-mode", "soft"))
