"""cgroups: which hierarchies the host has, and one manager for either version.

    Hierarchies          what is mounted where, read once from mountinfo
    Cgroup               one container's group: create, add, apply, freeze, kill, remove
      CgroupV1           a directory in every v1 hierarchy (and in v2's `unified` on a hybrid host)
      CgroupV2           one directory
      NoCgroup           none: `--cgroup-manager disabled`, or a user to whom nothing is delegated

What to write is decided by pure functions in `cgroup_v1` and `cgroup_v2`; `cgroup_base` writes it. Groups
that the container made below its own are the business of `cgroup_tree`.

Where a path leads. Absolute: from the root of each hierarchy, as mounted. Relative: as runc has it, v1:
below the group that this process is in, in each hierarchy; v2: beside it, as a group with processes in
it cannot hand controllers down. As an ordinary user (`rootless`): below the topmost group, going up from
this process's own, that the user may write; whatever is not delegated is left out, and asking for a
limit there is an error. Such a place depends on who asks, so a state file keeps `saved()`.
"""

import errno
import os
import select
import time

from berth.errors import BerthError, InvalidParameter, NotImplementedHere, SystemFailure
from berth.linux import cgroup_base, cgroup_v1, cgroup_v2
from berth.linux.cgroup_base import DELEGATE, Cgroup, GroupFiles, NoCgroup, Setting, read_file, write_file
from berth.linux.cgroup_place import Hierarchies, clean_path, hierarchies, parse_mountinfo, parse_own, place

__all__ = [
    "MANAGERS", "Cgroup", "CgroupV1", "CgroupV2", "Hierarchies", "NoCgroup", "clean_path", "hierarchies", "open_cgroup",
    "parse_mountinfo", "parse_own", "read_file", "reopen", "write_file",
]  # fmt: skip

MANAGERS = ("cgroupfs", "systemd", "disabled")


def _own() -> dict[str, str]:
    with open("/proc/self/cgroup") as file:
        return parse_own(file.read())


# -- where a group is ------------------------------------------------------------------------------


def open_cgroup(
    path: str, hosts: Hierarchies, *, manager: str = "cgroupfs", rootless: bool = False,
    annotations: "dict[str, str] | None" = None,
) -> "Cgroup":  # fmt: skip
    """The manager for the group `path`, see above for where it is; makes nothing yet.

    annotations: of the bundle; `org.systemd.property.*` are for the systemd manager.
    """
    if manager == "disabled":
        return NoCgroup(path, "the cgroup manager is 'disabled'")
    if manager == "systemd":
        from berth.linux import cgroup_systemd

        group: Cgroup = cgroup_systemd.open_cgroup(path, hosts, rootless=rootless, annotations=annotations)
        return group
    if manager != "cgroupfs":
        raise InvalidParameter(f"cgroup manager {manager!r} must be one of {', '.join(MANAGERS)}")
    clean = clean_path(path)
    if not hosts.v1 and not hosts.v2:
        raise NotImplementedHere("no cgroup hierarchy is mounted on this host; mount one at /sys/fs/cgroup")
    if clean.startswith("/") and not rootless:
        return CgroupV2(clean, hosts) if hosts.version == 2 else CgroupV1(clean, hosts)
    own = _own()
    if hosts.version == 2:
        found = place(clean, own.get("", "/"), hosts.v2, hosts, beside=True, rootless=rootless)
        if not found:
            return NoCgroup(path, f"no cgroup is delegated to this user; {DELEGATE}")
        return CgroupV2(found, hosts, rootless)
    at = {}
    for name, mount_point in hosts.mount_points().items():
        found = place(clean, own.get(name, "/"), mount_point, hosts, beside=False, rootless=rootless)
        if found:
            at[name] = mount_point + found
    if not at:
        return NoCgroup(path, f"no cgroup is delegated to this user; {DELEGATE}")
    return CgroupV1(clean, hosts, at, rootless)


def reopen(saved: dict, hosts: Hierarchies) -> "Cgroup":
    """The group of which a state file has kept `saved()`: the same directories, whoever asks."""
    if saved["manager"] == "disabled":
        return NoCgroup(saved["path"], saved.get("reason") or "the cgroup manager is 'disabled'")
    if saved["manager"] != "cgroupfs":
        return open_cgroup(saved["path"], hosts, manager=saved["manager"], rootless=saved["rootless"])
    if hosts.version == 2:
        return CgroupV2(saved["paths"][""][len(hosts.v2) :], hosts, saved["rootless"])
    return CgroupV1(saved["path"], hosts, dict(saved["paths"]), saved["rootless"])


def end_and_remove(group: Cgroup, *, kill: bool = True) -> None:
    """Removes a group whose last processes are dying; they count until the kernel has reaped them.

    kill: ends what is in it; without, somebody else's processes keep the group. Raises SystemFailure.
    """
    for _ in range(200):
        if kill:
            group.kill()
        if group.remove():
            return
        select.poll().poll(5)
    raise SystemFailure(f"cgroup {group.path} still has processes after one second")


class CgroupV1(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies, at: dict[str, str] | None = None, rootless: bool = False) -> None:
        """at: controller -> directory, where that is not simply `path` below every mount point."""
        self._hosts = hosts
        if at is None:
            at = {name: mount_point + path for name, mount_point in hosts.mount_points().items()}
        self._at = at
        directories = list(dict.fromkeys(at.values()))  # cpu and cpuacct may share one
        first = at.get("pids")
        if first and directories[0] != first:
            directories.remove(first)
            directories.insert(0, first)
        super().__init__(path, directories, rootless)

    def directory_of(self, controller: str) -> str:
        return self._at.get(controller, "")

    def _paths(self) -> dict[str, str]:
        return self._at

    def _lines(self) -> dict[str, str]:
        mount_points, found = self._hosts.mount_points(), {}
        for name, directory in self._at.items():
            root = self._hosts.roots.get(mount_points[name], "/").rstrip("/")
            found[name] = root + directory[len(mount_points[name]) :]
        return found

    def open_to_clone_into(self) -> int:
        """Of a hybrid host's unified hierarchy; in the others the child enters by itself."""
        try:
            return os.open(self._at[""], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if "" in self._at else -1
        except OSError:
            return -1

    def enter(self) -> bool:
        """Through `tasks`: of a thread that moves itself the kernel knows that it does nothing else meanwhile, so it takes
        no lock for which it would wait for an RCU grace period (cgroup_threadgroup_rwsem, 8 to 20 ms; Linux 5.5).

        v2's hierarchy has no such file: there a process must have been born in the group.
        """
        unified = self._at.get("")
        if unified and not self._born_inside:
            return False
        try:
            for directory in self.directories:
                if directory != unified:
                    write_file(f"{directory}/tasks", "0")
        except OSError:
            return False
        return True

    def create(self) -> None:
        made: list[str] = []
        try:
            for directory in self.directories:
                if self._make(directory):
                    made.append(directory)
            if "cpuset" in self._at:
                _inherit_cpuset(self._at["cpuset"])
            self.live = len(made) < len(self.directories)
            self._refuse_frozen()
        except OSError as error:
            _remove_quietly(made)
            raise self._cannot_make(error) from error
        except BerthError:
            _remove_quietly(made)
            raise

    def _made_above(self, directory: str) -> None:
        """A cpuset that is ours fills the ones made in it: two reads and two writes less for each container."""
        if directory == os.path.dirname(self._at.get("cpuset", "")):
            _inherit_cpuset(directory)
            write_file(f"{directory}/cgroup.clone_children", "1")

    def settings(self, resources: dict) -> list[Setting]:
        settings = []
        for controller, file, value, what in cgroup_v1.settings(resources, GroupFiles(self)):
            directory = self._at.get(controller)
            if directory:
                settings.append((f"{directory}/{file}", value, what))
            elif controller not in self._hosts.v1:
                raise NotImplementedHere(f"cgroup controller {controller!r} is not mounted on this host; {what} needs it")
            elif controller != "devices":  # whoever cannot write it cannot make devices either
                raise NotImplementedHere(f"cgroup controller {controller!r} is not delegated to this user; {what} needs it: {DELEGATE}")
        return settings

    def freeze(self, frozen: bool) -> None:
        if "freezer" not in self._at:
            raise NotImplementedHere("cgroup controller 'freezer' is not mounted or delegated here; pause needs it")
        file = f"{self._at['freezer']}/freezer.state"
        wanted = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + cgroup_base.FREEZE_S
        pause_ms = 0
        while True:  # FREEZING may stick while a process forks; writing again moves it on (freezer-subsystem.txt)
            write_file(file, wanted)
            if read_file(file).strip() == wanted:
                return
            if time.monotonic() > deadline:
                break
            select.poll().poll(pause_ms)
            pause_ms = min(pause_ms + 1, 10)
        note = ""
        if frozen:
            error = self._wont(frozen)
            write_file(file, "THAWED")
            raise error
        if read_file(f"{self._at['freezer']}/freezer.parent_freezing").strip() == "1":
            note = ": a group above it is frozen"
        raise self._wont(frozen, note)

    def frozen(self) -> bool:
        directory = self._at.get("freezer", "")
        state = read_file(f"{directory}/freezer.state").strip() if directory else ""
        return state == "FROZEN" or (state == "FREEZING" and read_file(f"{directory}/freezer.self_freezing").strip() == "1")

    def kill(self) -> None:
        if "" in self._at:
            try:
                write_file(f"{self._at['']}/cgroup.kill", "1")  # all of a hybrid host's group at one stroke
            except OSError:
                pass
        super().kill()

    def _hold(self) -> None:
        if "freezer" in self._at:
            try:
                write_file(f"{self._at['freezer']}/freezer.state", "FROZEN")
            except OSError:
                pass

    def _thaw_all(self) -> None:
        """SIGKILL does not reach through v1's freezer, and the container may have frozen groups below its own."""
        from berth.linux import cgroup_tree

        if "freezer" in self._at:
            for fd in cgroup_tree.groups(self._at["freezer"]):
                cgroup_tree.write_at(fd, "freezer.state", "THAWED")

    def oom_kills(self) -> int:
        text = read_file(f"{self._at.get('memory', '')}/memory.oom_control")
        return cgroup_v1.oom_kills(text)


class CgroupV2(Cgroup):
    def __init__(self, path: str, hosts: Hierarchies, rootless: bool = False) -> None:
        self._root = hosts.v2
        self._shown = hosts.roots.get(hosts.v2, "/").rstrip("/")
        self.directory = hosts.v2 + path
        super().__init__(path, [self.directory], rootless)

    def directory_of(self, controller: str) -> str:
        return self.directory

    def _paths(self) -> dict[str, str]:
        return {"": self.directory}

    def _lines(self) -> dict[str, str]:
        return {"": self._shown + self.path}

    def open_to_clone_into(self) -> int:
        try:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return -1

    def create(self) -> None:
        try:
            try:
                self._enable_controllers()
            except FileNotFoundError:
                pass  # see `_make`
            self.live = not self._make(self.directory)
        except OSError as error:
            raise self._cannot_make(error) from error
        self._refuse_frozen()

    def _made_above(self, directory: str) -> None:
        self._enable_controllers()

    def _enable_controllers(self) -> None:
        """Switches every controller on from the root down to the group's parent.

        One write for all of them; the kernel takes all or none, so one by one if it takes none. A group
        with processes keeps its controllers: it could hand down some, but then nothing below it takes a
        process ("domain invalid"). The limit that needs the controller will say so, the others need not fail.
        """
        parent = self._root
        for part in self.path.strip("/").split("/"):
            enabled = read_file(f"{parent}/cgroup.subtree_control").split()
            missing = [name for name in read_file(f"{parent}/cgroup.controllers").split() if name not in enabled]
            if missing and not self._is_occupied(parent) and not _enable(parent, missing):
                for name in missing if len(missing) > 1 else ():
                    _enable(parent, [name])
            parent = f"{parent}/{part}"
            if parent != self.directory:
                self._make(parent)

    def settings(self, resources: dict) -> list[Setting]:
        settings = []
        have: list[str] | None = None
        for file, value, what in cgroup_v2.settings(resources, GroupFiles(self)):
            controller = file.partition(".")[0]
            if have is None:
                have = read_file(f"{self.directory}/cgroup.controllers").split()
            if controller not in have and controller != "cgroup":
                raise NotImplementedHere(self._no_controller(controller, what))
            if file == "memory.swap.max" and value in ("max", "0") and not os.access(f"{self.directory}/{file}", os.F_OK):
                continue  # a kernel without swap: nothing to forbid
            settings.append((f"{self.directory}/{file}", value, what))
        return settings

    def apply(self, resources: dict) -> None:
        super().apply(resources)
        if resources.get("devices"):
            self._filter_devices(resources["devices"])

    def _is_occupied(self, directory: str) -> bool:
        """Whether there are processes in it; the real root, which has no type, may have them and hand down all the same."""
        return os.path.exists(f"{directory}/cgroup.type") and bool(read_file(f"{directory}/cgroup.procs"))

    def _no_controller(self, controller: str, what: str) -> str:
        text = f"cgroup controller {controller!r} is not available in {self.path} on this host; {what} needs it"
        above = os.path.dirname(self.directory)
        while len(above) >= len(self._root):
            if controller in read_file(f"{above}/cgroup.controllers").split():
                text += f": {above} has it but does not hand it down"
                if self._is_occupied(above):
                    text += ", as there are processes in it"
                break
            above = os.path.dirname(above)
        return f"{text}; {DELEGATE}" if self.rootless else text

    def _filter_devices(self, rules: list[dict]) -> None:
        try:
            cgroup_v2.attach_device_filter(self.directory, rules, self.live)
        except OSError as error:
            # Without privilege there is no BPF, but no way to make a device either; denying one that
            # the user may open would be wished for in vain, and that is said.
            denied = any(not rule.get("allow") and (rule.get("type") or "a") != "a" for rule in rules)
            if self.rootless and not denied and error.errno in (errno.EPERM, errno.EACCES):
                return
            raise SystemFailure(f"cannot set the device rules of cgroup {self.path}: {error.strerror}") from error

    def freeze(self, frozen: bool) -> None:
        deadline = time.monotonic() + cgroup_base.FREEZE_S
        with open(f"{self.directory}/cgroup.events", "rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            write_file(f"{self.directory}/cgroup.freeze", "1" if frozen else "0")
            while True:
                try:
                    events.seek(0)
                    if b"frozen %d" % frozen in events.read(4096):
                        return
                except OSError:  # the group is gone
                    return
                left_ms = int((deadline - time.monotonic()) * 1000)
                if left_ms <= 0:
                    break
                poll.poll(left_ms)
        error = self._wont(frozen, "" if frozen else ": a group above it is frozen")
        if frozen:
            write_file(f"{self.directory}/cgroup.freeze", "0")
        raise error

    def frozen(self) -> bool:
        return "frozen 1" in read_file(f"{self.directory}/cgroup.events")

    def kill(self) -> None:
        try:
            write_file(f"{self.directory}/cgroup.kill", "1")
        except OSError:  # before Linux 5.14, or the container has made its group a threaded one
            super().kill()

    def _hold(self) -> None:
        try:
            write_file(f"{self.directory}/cgroup.freeze", "1")
        except OSError:
            pass

    def oom_kills(self) -> int:
        for line in read_file(f"{self.directory}/memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0


def _enable(parent: str, names: list[str]) -> bool:
    try:
        write_file(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))
    except OSError as error:
        # EBUSY: processes in the parent ("no internal processes"); EACCES: not delegated.
        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM):
            raise
        return False
    return True


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process; copies CPUs and memory nodes from above.

    A group that we made above this one has cgroup.clone_children, with which the kernel copies them.
    """
    if read_file(f"{directory}/cpuset.mems").strip():
        return
    for file in ("cpuset.cpus", "cpuset.mems"):
        _inherit_file(directory, file)


def _inherit_file(directory: str, file: str) -> str:
    value = read_file(f"{directory}/{file}").strip()
    if not value:
        value = _inherit_file(os.path.dirname(directory), file)
        write_file(f"{directory}/{file}", value)
    return value


def _remove_quietly(directories: list[str]) -> None:
    for directory in directories:
        try:
            os.rmdir(directory)
        except OSError:
            continue
