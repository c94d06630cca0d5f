"""checkpoint and restore of a container through criu's command line, with the files that runc leaves beside its images.

    IMAGES/                 --image-path
      *.img                 criu's
      descriptors.json      what 0, 1 and 2 were: "pipe:[1234]", "/dev/null", or "file[1a:2b3c]" for an open file that no
                            mount of the container shows. `restore` gives its own streams for pipes and files.
    WORK/                   --work-path, else IMAGES
      dump.log restore.log  criu's, in full

Mounts that come from outside (binds of the bundle, v1 cgroups, and devices in a user namespace) are "external" to
criu: `checkpoint` gives each a name, the destination that the bundle has for it, and `restore` its source under that name.

What the command line of criu has no word for, and its RPC has: a terminal's master (orphan-pts-master).
Source: criu(8); CRIU wiki, "External resources".
"""

import os
import stat

from berth import errors
from berth.linux import cgroup, libc, mount, signals
from berth.models.jsonlite import dumps, loads
from berth.runtime import lifecycle, spec
from berth.runtime.container import Started, host_id
from berth.runtime.plan import Plan
from berth.runtime.state import PAUSED, RUNNING, Container, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

DESCRIPTORS = "descriptors.json"
MANAGE_CGROUPS = ("soft", "full", "strict", "ignore")
_SHOWN_LINES = 3
_LOG_BYTES = 1 << 20
_STREAMS = 3
_PIDFILE = "restored.pid"
# Kinds of namespaces that criu lets be somebody else's; how runc names them in images.
_EXTERNAL_NAMESPACES = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}


class Request:
    """One call of criu. images, work: directories; words: options that criu takes as they are; fds: it inherits."""

    __slots__ = ("criu", "fds", "images", "manage_cgroups", "words", "work")

    def __init__(self, criu: str, images: str, work: str, words: "list[str]", manage_cgroups: str) -> None:
        """criu: a path or '' to look it up. Raises NotImplementedHere where there is none."""
        self.criu = _find(criu)
        self.images = os.path.abspath(images)
        self.work = os.path.abspath(work) if work else self.images
        self.words = words
        self.fds: tuple[int, ...] = ()
        if manage_cgroups not in MANAGE_CGROUPS:
            raise errors.InvalidParameter(f"--manage-cgroups-mode {manage_cgroups!r} is not one of {', '.join(MANAGE_CGROUPS)}")
        self.manage_cgroups = manage_cgroups

    def command(self, verb: str, log: str) -> "list[str]":
        return [
            self.criu, verb, "--images-dir", self.images, "--work-dir", self.work, "--log-file", log, "-v4",
            f"--manage-cgroups={self.manage_cgroups}", *self.words,
        ]  # fmt: skip


def _find(given: str) -> str:
    for path in [given] if "/" in given else [f"{directory}/{given or 'criu'}" for directory in os.environ.get("PATH", "").split(":")]:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return os.path.abspath(path)
    raise errors.NotImplementedHere(
        f"{given or 'criu'!r} is not to be found, which checkpoint and restore need; install it (Debian: criu) or give --criu PATH"
    )


def _require_root(settings: lifecycle.Settings) -> None:
    if settings.rootless:
        raise errors.Forbidden("checkpoint and restore take the host's root: criu needs its rights")


def _refuse_terminal(document: dict, request: Request) -> None:
    if document["process"].get("terminal") and "--shell-job" not in request.words:
        raise errors.NotImplementedHere(
            "process.terminal: a container with a terminal cannot be saved and restored, as criu hands a terminal over by its RPC "
            "alone; run it without one"
        )


# -- checkpoint -------------------------------------------------------------------------------------------


def dump(settings: lifecycle.Settings, container: Container, request: Request, *, leave_running: bool, pre_dump: bool) -> None:
    """Saves a container; unless it goes on, nothing is left of it but the images. Raises Conflict, SystemFailure."""
    _require_root(settings)
    status = container.status(settings.hosts)
    if status not in (RUNNING, PAUSED):
        raise errors.Conflict(f"cannot checkpoint container {container.id}: it is {status}")
    document = container.spec()
    _refuse_terminal(document, request)
    for directory in (request.images, request.work):
        _make_directory(directory)
    _open_to_user_namespace(request.images, document)
    command = request.command("pre-dump" if pre_dump else "dump", "dump.log")
    command += ["--tree", str(container.pid), "--root", container.values["rootfs"], *_freezer(container, settings)]
    if pre_dump:
        command.append("--track-mem")
    else:
        command += _external_mounts(container.pid, document) + _external_namespaces(container.pid, document)
        command += _streams(container.pid, request.images)
        if leave_running:
            command.append("--leave-running")
    _run(command, request, "dump.log")
    if not (leave_running or pre_dump):
        lifecycle.delete(settings, container, force=True)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise errors.InvalidParameter(f"cannot make {path}: {error.strerror}") from None


def _open_to_user_namespace(images: str, document: dict) -> None:
    """criu opens images also as root of the container's user namespace, and the memory in them is for nobody else."""
    mappings = (document.get("linux") or {}).get("gidMappings") or []
    if not mappings:
        return
    found = os.stat(images)
    if not found.st_mode & 0o001:
        os.chown(images, -1, host_id(mappings))
        os.chmod(images, stat.S_IMODE(found.st_mode) & ~0o070 | 0o010)


def _freezer(container: Container, settings: lifecycle.Settings) -> "list[str]":
    """Without it processes that fork faster than criu stops them get away."""
    group = container.group(settings.hosts)
    directory = group.directory_of("" if settings.hosts.version == 2 else "freezer") if group else ""
    return ["--freeze-cgroup", directory] if directory else []


def _external_mounts(pid: int, document: dict) -> "list[str]":
    """The bundle's own binds under the destination they have there; other mounts of the host's under where they are."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        named = {_real_destination(root, entry["destination"]): entry["destination"] for entry in _binds(document)}
    finally:
        os.close(root)
    for _, at, fstype in _mounts_of(pid):
        if at not in named and (fstype in ("cgroup", "devtmpfs") or (fstype == "cgroup2" and _is_v1_tree(document, at))):
            named[at] = at
    return [word for at, name in named.items() for word in ("--external", f"mnt[{_plain(at)}]:{name}")]


def _is_v1_tree(document: dict, at: str) -> bool:
    """Whether a cgroup2 mount is one of several in a directory, as on a hybrid host; alone it is criu's business."""
    return not any(entry["destination"].rstrip("/") == at for entry in document.get("mounts") or [])


def _binds(document: dict) -> "list[dict]":
    return [
        entry for entry in document.get("mounts") or []
        if entry.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(entry.get("options") or [])
    ]  # fmt: skip


def _real_destination(root: int, destination: str) -> str:
    """The path that mountinfo has: a destination may lead through links of the image."""
    try:
        fd = mount.open_beneath(root, destination)
    except OSError:
        return destination
    try:
        whole, top = (os.readlink(mount.fd_path(number)) for number in (fd, root))
        return whole.removeprefix(top.rstrip("/")) or "/"
    finally:
        os.close(fd)


def _plain(path: str) -> str:
    if "]" in path or "\n" in path:
        raise errors.NotImplementedHere(f"mounts: {path!r}: criu cannot name a mount with such a character")
    return path


def _mounts_of(pid: int) -> "list[tuple[str, str, str]]":
    """Id, place and type of each, from mountinfo."""
    found = []
    for line in cgroup.read_file(f"/proc/{pid}/mountinfo").splitlines():
        fields = line.split(" ")
        found.append((fields[0], fields[4], fields[fields.index("-") + 1]))
    return found


def _external_namespaces(pid: int, document: dict) -> "list[str]":
    """Namespaces by path stay who they are; of the kinds that criu cannot leave alone it makes the container its own."""
    words = []
    for entry in (document.get("linux") or {}).get("namespaces") or []:
        if entry.get("path") and entry["type"] in _EXTERNAL_NAMESPACES:
            file, name = _EXTERNAL_NAMESPACES[entry["type"]]
            words += ["--external", f"{file}[{os.stat(f'/proc/{pid}/ns/{file}').st_ino}]:{name}"]
    return words


def _streams(pid: int, images: str) -> "list[str]":
    """Writes descriptors.json; names open files that are not on a mount of the container, which criu would not find."""
    own = {number for number, _, _ in _mounts_of(pid)}
    names, words = [], []
    for number in range(_STREAMS):
        name = _stream(pid, number, own)
        names.append(name)
        if name.startswith("file["):
            words += ["--external", name]
    with open(os.open(f"{images}/{DESCRIPTORS}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(dumps(names))
    return words


def _stream(pid: int, number: int, own: "set[str]") -> str:
    try:
        name = os.readlink(f"/proc/{pid}/fd/{number}")
        found = os.stat(f"/proc/{pid}/fd/{number}")
    except OSError:
        return ""
    info = cgroup.read_file(f"/proc/{pid}/fdinfo/{number}").split()
    mount_id = info[info.index("mnt_id:") + 1]
    if stat.S_ISREG(found.st_mode) and mount_id not in own:
        return f"file[{int(mount_id):x}:{found.st_ino:x}]"
    return name


# -- restore ------------------------------------------------------------------------------------------------


def restore(
    settings: lifecycle.Settings, identity: str, bundle: str, config: "str | None", request: Request
) -> "tuple[Container, Started]":
    """A running container from images, a child of ours; the caller unlocks it. After an error nothing of it is left."""
    _require_root(settings)
    if not os.path.isdir(request.images):
        raise errors.InvalidParameter(f"--image-path {request.images!r} is no directory: there is nothing to restore")
    _make_directory(request.work)
    try:
        bundle = os.path.realpath(bundle, strict=True)
    except OSError as error:
        raise errors.InvalidParameter(f"bundle {bundle!r}: {error.strerror}") from None
    document = spec.load(bundle, config)
    _refuse_terminal(document, request)
    plan = Plan(document, bundle)
    _open_to_user_namespace(request.images, document)
    for point in sorted(plan.hooks.keys() - {"poststop"}):
        settings.warn(f"hooks.{point}: not run by restore: what it prepared is in the images, or must be there already")
    container = Container.create(settings.root, identity)
    group: cgroup.Cgroup | None = None
    try:
        container.write("config.json", document)
        group = cgroup.open_cgroup(
            plan.cgroup_path or lifecycle.default_cgroup_path(identity, settings), settings.hosts, manager=settings.manager, rootless=False
        )
        container.save(
            ociVersion=document["ociVersion"], bundle=bundle, rootfs=os.path.realpath(plan.root_path), created=lifecycle.now(),
            owner=os.geteuid(), annotations=document.get("annotations") or {}, cgroup=group.saved(),
        )  # fmt: skip
        group.create()
        group.apply(plan.resources)
        pid = _restore_processes(container, plan, document, group, settings, request)
        container.save(pid=pid, start_time=start_time(pid), cgroup=group.saved())
        return container, Started(pid, -1)
    except BaseException:
        if group is not None:
            group.kill()
            cgroup.end_and_remove(group)
        container.remove()
        raise


def _restore_processes(
    container: Container, plan: Plan, document: dict, group: cgroup.Cgroup, settings: lifecycle.Settings, request: Request
) -> int:  # fmt: skip
    pidfile = f"{request.work}/{_PIDFILE}"
    _unlink(pidfile)  # criu makes it anew
    command = request.command("restore", "restore.log")
    # As a sibling of criu it is our child, whose end we are told.
    command += ["--root", container.values["rootfs"], "--pidfile", pidfile, "--restore-detached", "--restore-sibling"]
    command += _sources(container.values["bundle"], document, group, settings)
    inherited = _inherited(request.images)
    inherited += [
        (os.open(path, os.O_RDONLY | os.O_CLOEXEC), name)
        for kind, path in _joined(document) if kind in _EXTERNAL_NAMESPACES for name in [_EXTERNAL_NAMESPACES[kind][1]]
    ]  # fmt: skip
    try:
        for fd, name in inherited:
            command += ["--inherit-fd", f"fd[{fd}]:{name}"]
        request.fds += tuple(fd for fd, _ in inherited)
        _run(command, request, "restore.log", lambda: _prepare_restore(container, document, group, command, request))
    finally:
        for fd, _ in inherited:
            os.close(fd)
    try:
        with open(pidfile) as file:
            return int(file.read())
    except (OSError, ValueError):
        raise errors.SystemFailure(f"criu has restored container {container.id}, and left no pid in {pidfile}") from None
    finally:
        _unlink(pidfile)


def _joined(document: dict) -> "list[tuple[str, str]]":
    namespaces = (document.get("linux") or {}).get("namespaces") or []
    return [(entry["type"], entry["path"]) for entry in namespaces if entry.get("path")]


def _sources(bundle: str, document: dict, group: cgroup.Cgroup, settings: lifecycle.Settings) -> "list[str]":
    """Where each external mount comes from now."""
    found = {}
    for entry in _binds(document):
        source = entry.get("source") or ""
        found[entry["destination"]] = source if source.startswith("/") else f"{bundle}/{source}"
    for entry in document.get("mounts") or []:
        if entry.get("type") in ("cgroup", "cgroup2") and settings.hosts.version == 1:
            for point in set(settings.hosts.v1.values()):
                found[f"{entry['destination'].rstrip('/')}/{os.path.basename(point)}"] = group.directory_at(point) or point
    if any(entry["type"] == "user" for entry in (document.get("linux") or {}).get("namespaces") or []):
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            found[f"/dev/{name}"] = f"/dev/{name}"
        for path in (document.get("linux") or {}).get("maskedPaths") or []:
            found[path] = "/dev/null"
        for device in (document.get("linux") or {}).get("devices") or []:
            found[device["path"]] = device["path"]
    return [word for name, source in found.items() for word in ("--external", f"mnt[{_plain(name)}]:{source}")]


def _inherited(images: str) -> "list[tuple[int, str]]":
    """Our own streams, as new descriptors, for those the images had: (descriptor, criu's name of what it was)."""
    try:
        with open(f"{images}/{DESCRIPTORS}") as file:
            names = loads(file.read())
    except OSError as error:
        raise errors.InvalidParameter(f"{images}/{DESCRIPTORS}: {error.strerror}: the directory has no checkpoint of a container") from None
    except ValueError as error:
        raise errors.DataLoss(f"{images}/{DESCRIPTORS}: {error}") from None
    if not isinstance(names, list) or len(names) > _STREAMS or not all(isinstance(name, str) for name in names):
        raise errors.DataLoss(f"{images}/{DESCRIPTORS}: expected a list of {_STREAMS} strings")
    return [(os.dup(number), name) for number, name in enumerate(names) if _is_ours_to_give(name)]


def _is_ours_to_give(name: str) -> bool:
    """`pipe:[123]` or `file[1a:2b]`, and nothing else that criu might understand."""
    kind, _, rest = name.partition("[")
    number = rest.removesuffix("]")
    if kind == "pipe:":
        return number.isdigit()
    parts = number.split(":")
    return kind == "file" and len(parts) == 2 and all(part and not part.strip("0123456789abcdef") for part in parts)


def _prepare_restore(container: Container, document: dict, group: cgroup.Cgroup, command: "list[str]", request: Request) -> None:
    """In the process that becomes criu: the container's cgroup, and its root as a mount of criu's own namespace."""
    if request.manage_cgroups != "ignore":
        group.add(os.getpid())
        for controllers, path in _own_groups(group):
            command += ["--cgroup-root", f"{controllers}:{path}" if controllers else path]
    if document["process"].get("noNewPrivileges"):
        # criu 3.17 saves all but this one, and its processes would come back without; so they inherit it.
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.unshare(libc.CLONE_NEWNS)
    mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)
    root = container.values["rootfs"]
    libc.mount(root, root, None, mount.MS_BIND | mount.MS_REC, None)
    mount.set_propagation(root, mount.MS_PRIVATE | mount.MS_REC)
    _make_mount_points(root, document)


def _own_groups(group: cgroup.Cgroup) -> "list[tuple[str, str]]":
    if group.manager == "disabled":
        return []
    lines = [line.split(":", 2) for line in cgroup.read_file("/proc/self/cgroup").splitlines()]
    return [(controllers, path) for _, controllers, path in lines]


def _make_mount_points(root: str, document: dict) -> None:
    """What `create` has made in the root file system may be missing in another one; criu mounts and does not make."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    entries = document.get("mounts") or []
    places = [entry["destination"].rstrip("/") for entry in entries]
    try:
        for entry, place in zip(entries, places, strict=True):
            if any(place.startswith(f"{other}/") for other in places if other):
                continue  # what is below another mount comes with that one's contents
            source = entry.get("source") or ""
            is_file = entry in _binds(document) and os.path.exists(source) and not os.path.isdir(source)
            os.close(mount.make_beneath(fd, entry["destination"], directory=not is_file))
    finally:
        os.close(fd)


# -- criu ------------------------------------------------------------------------------------------------------


def _run(command: "list[str]", request: Request, log: str, prepare: "Callable[[], None] | None" = None) -> None:
    """Runs criu to its end. `prepare`: called in the child. Raises SystemFailure with the end of its log."""
    log_path = f"{request.work}/{log}"
    _unlink(log_path)  # an older one would be taken for this call's
    output = os.memfd_create("berth-criu")
    pid = os.fork()
    if pid == 0:
        _become_criu(command, request, output, prepare)
    try:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            said = os.pread(output, 4096, 0).decode(errors="replace")
            raise errors.SystemFailure(f"criu {command[1]} {_how(code)}; its log is {log_path}{_last_errors(log_path, said)}")
    finally:
        os.close(output)


def _become_criu(command: "list[str]", request: Request, output: int, prepare: "Callable[[], None] | None") -> "NoReturn":
    try:
        libc.prctl(libc.PR_SET_PDEATHSIG, signals.SIGKILL)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if prepare is not None:
            prepare()
        for number, fd in enumerate((null, output, output)):
            os.dup2(fd, number)
        for fd in request.fds:
            os.set_inheritable(fd, True)
        signals.handle(signals.SIGPIPE, signals.SIG_DFL)
        os.execve(command[0], command, dict(os.environ))
    except BaseException as error:
        os.write(output, f"{type(error).__name__ if not isinstance(error, (OSError, errors.BerthError)) else ''} {error}".strip().encode())
    os._exit(127)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _how(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _last_errors(log_path: str, said: str) -> str:
    """The last lines that tell of an error, from the log or, where it did not get that far, from its output."""
    try:
        with open(log_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    for source in (text, said):
        lines = [line.strip() for line in source.splitlines() if line.strip()]
        told = [line for line in lines if "Error (" in line] or lines
        if told:
            return ": " + "; ".join(told[-_SHOWN_LINES:])
    return ""
