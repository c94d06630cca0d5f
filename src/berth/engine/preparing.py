"""A container's record -> the bundle on disk and the message with which the launcher starts it."""

import json
import os
from collections.abc import Callable

from berth import errors
from berth.engine import bundle, etcfiles, hostfiles, locks, logconfig, mountpoints, state, validate
from berth.engine.mounting import Mounting
from berth.engine.nets.namespaces import Namespace
from berth.engine.registry import Container
from berth.engine.state import Record
from berth.oci import users
from berth.runtime.container import host_id
from berth.store import rootfiles
from berth.store.imagerecords import Lower

_JOINED = {"PidMode": "PID", "IpcMode": "IPC", "NetworkMode": "network"}


class Preparing(Mounting):
    """What a start needs to know and to write before it asks the launcher."""

    def _make_directories(self, container: Container) -> None:
        directory = self.directory(container)
        for path in (directory, f"{directory}/upper", f"{directory}/work", self.state_directory(container)):
            os.makedirs(path, mode=0o755 if path.endswith("upper") else 0o700, exist_ok=True)
        maps = self.mappings(container.record)
        if maps and self._is_foreign(container.record):
            # runc and crun look for their rootfs by its path, as root of the user namespace.
            os.chown(directory, -1, host_id(maps[1]))
            os.chmod(directory, 0o710)

    def _is_foreign(self, record: Record) -> bool:
        """Whether another program than berth runs it."""
        return bool(self.host.runtimes.get(record.host.get("Runtime") or ""))

    def mappings(self, record: Record) -> tuple[list[dict], list[dict]] | None:
        """Of ids, for a container that runs in a user namespace."""
        apart = record.host.get("UsernsMode") != "host" and not record.host.get("Privileged")
        return self.host.remap if apart else None

    def _prepare(self, container: Container, namespace: Namespace | None) -> tuple[dict, int]:
        """Writes the bundle; returns the launcher's message, and a descriptor that goes with it.

        namespace: the network namespace that was made for it, None where it has none of its own.

        Who finds config.json locked by that knows: a start has been asked for, and its monitor does not listen yet.
        """
        record, directory = container.record, self.directory(container)
        state_dir = self.state_directory(container)
        lower = self.lower_of(record)
        merged = lower.below(f"{directory}/upper")
        host = record.host
        user = self._resolve_user(container, merged)
        shared = {}
        for key in _JOINED:
            mode = host.get(key) or ""
            if mode.startswith("container:"):
                other = self.find(mode.partition(":")[2])
                _check_joinable(other.record, key)
                if self._remap_of(host) and not self._remap_of(other.record.host):
                    raise errors.Conflict(f"cannot join {_JOINED[key]} of container {other.record.id}: it has no user namespace; run both with --userns=host")
                shared[mode.partition(":")[2]] = other.record.pid
        facts = self._facts(record.id, host, user, shared)
        facts.mounts, sources = self._oci_mounts(container, self._user_of(container, merged), facts.id_maps)
        if namespace:
            facts.network_path, facts.user_path = namespace.path, namespace.user_path
        if (mode := host.get("NetworkMode") or "").startswith("container:"):
            other = self.find(mode.partition(":")[2])
            facts.etc_directory = self.directory(other)
            names = {key: other.record.config[key] for key in ("Hostname", "Domainname") if other.record.config.get(key)}
            record.config = {**record.config, **names}  # as its files say
        facts.link_variables = etcfiles.link_variables(record, lambda text: self.find(text).record)
        spec = bundle.specification(record.id, record.config, host, facts)
        if self._is_foreign(record) and (host.get("IpcMode") or "").startswith("container:"):
            sources.append(_made_before(spec["mounts"], "/dev/shm", f"{directory}/mounts/shm"))
        linux = spec["linux"]
        owner = [host_id(linux[key]) if linux.get(key) else 0 for key in ("uidMappings", "gidMappings")]
        places = self._endpoints.places(record)
        gateways = self._endpoints.host_gateways(record)
        etcfiles.write(record, directory, owner, places, gateways=gateways, find=lambda text: self.find(text).record)
        if not lower.directories:
            lower = lower.below(f"{directory}/empty")
            os.makedirs(f"{directory}/empty", exist_ok=True)
        exit_path = f"{directory}/exit.json"
        if os.path.exists(exit_path):
            os.unlink(exit_path)
        message = {
            "kind": "start", "id": record.id, "bundle": directory, "state_dir": state_dir, "socket": "monitor.sock",
            "rootfs": {**lower.fields(), "upper": f"{directory}/upper", "work": f"{directory}/work", "base": directory},
            "runtime": self.runtime_message(record), "sources": sources, "environment": container.secrets,
            "terminal": bool(record.config.get("Tty")), "stdin": bool(record.config.get("OpenStdin")),
            "log": _logged(record, directory),
            "exit_path": exit_path, "exit_lasts": not record.auto_remove, "seccomp_cache": self._seccomp_cache,
        }  # fmt: skip
        return message, locks.write_locked(f"{directory}/config.json", json.dumps(spec))

    def runtime_message(self, record: Record) -> dict | None:
        """Which other runtime starts this container, for the launcher; None for berth's own."""
        name = record.host.get("Runtime") or self.host.default_runtime
        if name not in self.host.runtimes:
            raise errors.InvalidParameter(f"unknown or invalid runtime name: {name}; known: {', '.join(sorted(self.host.runtimes))}")
        command = self.host.runtimes[name]
        return {"command": command, "root": f"{self._runtime_root}-{name}"} if command else None

    def _resolve_user(self, container: Container, layers: Lower, name: str = "") -> users.ResolvedUser:
        """The container's own user, or the one of that name."""
        passwd = rootfiles.read_merged(layers, "etc/passwd")
        group = rootfiles.read_merged(layers, "etc/group")
        record = container.record
        return users.resolve(name or record.config.get("User") or "", record.host.get("GroupAdd") or [], passwd, group)

    def _user_of(self, container: Container, layers: Lower) -> Callable[[str], tuple[int, int]]:
        def ids(name: str) -> tuple[int, int]:
            found = self._resolve_user(container, layers, name)
            return found.uid, found.gid

        return ids

    def mounts_to_view(self, container: Container, layers: Lower) -> list[tuple[str | dict, str, bool]]:
        """(source, destination, read-only) of what it has from the host, for a viewer. layers: of its image."""
        user_of = self._user_of(container, layers.below(f"{self.directory(container)}/upper"))
        mounts, sources = self._oci_mounts(container, user_of, self._remap_of(container.record.host))
        made = {source["at"]: {**source, "propagation": ""} for source in sources}
        found = [(made.get(m["source"], m["source"]), m["destination"], "ro" in m["options"]) for m in mounts if m["type"] == "bind"]
        return sorted(found, key=lambda entry: entry[1].count("/"))  # what holds another is mounted first

    def _remap_of(self, host: dict) -> tuple[list[dict], list[dict]] | None:
        return None if host.get("UsernsMode") == "host" or host.get("Privileged") else self.host.remap

    def _facts(
        self, identity: str, host: dict, user: users.ResolvedUser, shared: dict[str, int], *, check_only: bool = False
    ) -> bundle.Facts:
        devices = [entry for device in host.get("Devices") or [] for entry in validate.device_entries(device)]
        if host.get("Privileged"):
            devices = hostfiles.host_devices()
        if check_only:
            shared = dict.fromkeys(self._by_id, 1)
        if host.get("Init") and not self.host.init:
            raise errors.NotImplementedHere("--init needs a static init program; install Debian's package tini")
        return bundle.Facts(
            machine=self.host.machine, bounding=self.host.bounding, apparmor=self.host.apparmor,
            selinux=self.host.selinux, cgroup_version=self.host.hosts.version, landlock_abi=self.host.landlock_abi,
            id_maps=self._remap_of(host), init=self.host.init, shared_pids=shared, user=user,
            directory=f"{self._data}/{identity}", devices=devices, own_oom_score=hostfiles.own_oom_score(),
        )  # fmt: skip


def _logged(record: Record, directory: str) -> dict | None:
    """Where the output goes; makes the file, which a monitor opens only for output, so that whoever looks finds it."""
    path = logconfig.path_of(record, directory)
    if path:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640))
        except OSError:
            pass  # a full disk must not keep a container from starting
    return logconfig.message(record, directory)


def _made_before(mounts: list[dict], destination: str, at: str) -> dict:
    """Has the starter make what a mount shows: of another container's, whose mount namespace runc and crun do not go to."""
    found = next(each for each in mounts if each["destination"] == destination)
    source = mountpoints.whole(found["source"], at)
    found["source"] = at
    return source


def _check_joinable(other: Record, mode: str) -> None:
    if other.status == state.RESTARTING:
        raise errors.Conflict(state.RESTARTING_TEXT.format(other.id))
    if not other.running:
        raise errors.Conflict(f"cannot join {_JOINED[mode]} of a non running container: {other.id}: start {other.name} first")
