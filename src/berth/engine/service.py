"""The engine: its services put together, brought up over what an earlier engine left, and taken down."""

import asyncio
import fcntl
import logging
import os
import platform
import threading
import time
import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from berth import API_VERSION, MIN_API_VERSION, VERSION, errors
from berth.engine import hostfiles, logconfig
from berth.engine import options as options_module
from berth.engine.archive import Archives
from berth.engine.commit import Commits
from berth.engine.config_values import LOG_LEVELS, foreign_info, masked, registry_info
from berth.engine.containers import ContainerService
from berth.engine.events import EventBus
from berth.engine.execs import ExecService
from berth.engine.monitors import Launcher
from berth.engine.nets import store as netstore
from berth.engine.nets.containernames import ContainerNames
from berth.engine.nets.endpoints import Endpoints
from berth.engine.nets.host import HostNetworks
from berth.engine.nets.namespaces import Namespaces
from berth.engine.nets.networks import NetworkService
from berth.engine.nets.store import NetworkStore
from berth.engine.ooms import OomWatcher
from berth.engine.options import Options
from berth.engine.probes import HealthService
from berth.engine.prune import Housekeeping
from berth.engine.rootview import RootViews
from berth.engine.stats import Usage
from berth.engine.tasks import Tasks
from berth.engine.volumes import Volumes
from berth.engine.why.facts import WhyService
from berth.models import times
from berth.network import model
from berth.store.database import Database
from berth.store.images import ImageStore
from berth.store.layout import Layout

if TYPE_CHECKING:
    from berth.engine.builds.service import BuildService
    from berth.engine.distribution import Distribution

log = logging.getLogger("berth.engine")


class Engine:
    """Everything the API serves. Make it with `bring_up`."""

    def __init__(self, options: Options, tasks: Tasks) -> None:
        self.options = options
        self.ending = threading.Event()  # the engine has been told to end: what nobody waits for is the next one's
        for path in (options.data_root, options.exec_root):
            try:
                os.makedirs(path, mode=0o711, exist_ok=True)
            except OSError as error:
                raise errors.SystemFailure(f"cannot make {path}: {error.strerror}; berth's engine runs as root") from error
        self._lock = self._lock_root(options.data_root)
        self.launcher = Launcher()
        self.launcher.start()  # warms up while we read the database
        self.host, self.warnings = options_module.probe_host(options)
        self.database = Database(f"{options.data_root}/berth.db")
        self.events = EventBus()
        self.images = ImageStore(Layout(options.data_root), self.database)
        self.images.kept_elsewhere = self._kept_by_builds
        self.volumes = Volumes(options.data_root, self.database, self.events, self.host.root_owner)
        kernel_names = model.Names.of(netstore.instance_of(options.exec_root))
        self.host_networks = HostNetworks(kernel_names, options.network, tasks)
        self.network_store = NetworkStore(
            self.database, kernel_names, options.network, self.host_networks.routed, self.host_networks.is_there
        )  # fmt: skip
        self.namespaces = Namespaces(self.launcher)
        self.container_names = ContainerNames(options.exec_root, self.namespaces, lambda text: self.containers.find(text).record.name)
        self.endpoints = Endpoints(self.network_store, self.namespaces, self.host_networks, self.container_names, tasks)
        self.containers = ContainerService(
            data_root=options.data_root, exec_root=options.exec_root, host=self.host, database=self.database,
            images=self.images, launcher=self.launcher, events=self.events, tasks=tasks, volumes=self.volumes, endpoints=self.endpoints,
        )  # fmt: skip
        cache = f"{options.data_root}/cache/seccomp"
        self.volumes.users, self.volumes.is_used_now = self.containers.users_of_volume, self.containers.is_volume_used_now
        self.networks = NetworkService(self.network_store, self.host_networks, self.endpoints, self.containers, self.events, tasks)
        self.roots = RootViews(self.containers, self.images, self.launcher)
        self.containers.view_image = self.roots.image
        self.archives = Archives(self.roots)
        self.housekeeping = Housekeeping(self.containers, self.images, self.events, self.volumes)
        self.housekeeping.built = lambda: self.builds.usage() if self._has_built() else []
        self.usage = Usage(self.containers)
        self.commits = Commits(self.containers, self.roots, self.images, self.events)
        self.execs = ExecService(self.containers, self.launcher, tasks, cache)
        self.health = HealthService(self.containers, self.execs, tasks)
        self.ooms = OomWatcher(self.containers, tasks)
        self.why = WhyService(self.containers, self.roots, options.data_root)

    def _lock_root(self, data_root: str) -> int:
        """Two engines on one data root would destroy each other's state; the kernel drops the lock with us."""
        fd = os.open(f"{data_root}/engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise errors.Conflict(f"another engine uses the data root {data_root}; give this one another --data-root") from None
        return fd

    @cached_property
    def distribution(self) -> "Distribution":
        """Made when the first image is pulled: the client of registries costs start-up a third of its imports."""
        from berth.engine.distribution import Distribution

        return Distribution(self.options, self.images, self.events)

    @cached_property
    def builds(self) -> "BuildService":
        """Made when the first image is built, for the same reason."""
        from berth.engine.builds.service import BuildService

        return BuildService(
            data_root=self.options.data_root, exec_root=self.options.exec_root, containers=self.containers, roots=self.roots,
            images=self.images, commits=self.commits, events=self.events, distribution=lambda: self.distribution,
            settings=lambda: self.options.builder, ending=self.ending,
        )  # fmt: skip

    def _kept_by_builds(self) -> set[str]:
        return self.builds.cache.chains() if "builds" in self.__dict__ or self._has_built() else set()

    def _has_built(self) -> bool:
        return os.path.exists(f"{self.options.data_root}/build/cache.db")

    def _left_by_builds(self) -> list[str]:
        """What those of an engine that was killed had unpacked (builds/service.py), found without making the service for it."""
        tops = [top for top in (f"{self.options.data_root}/build/work", f"{self.options.exec_root}/build") if os.path.isdir(top)]
        return [f"{top}/{name}" for top in tops for name in os.listdir(top)]

    async def bring_up(self) -> None:
        """Makes disk, database and what runs agree."""
        mended = [*self.database.mended, *await asyncio.to_thread(self.images.reconcile)]
        mended += await asyncio.to_thread(self.volumes.load)
        mended += await asyncio.to_thread(self.network_store.load)
        await self.container_names.open()
        mended += await self.containers.restore()
        await self.container_names.restored()
        mended += await self.networks.restore()
        await asyncio.to_thread(hostfiles.remove_directories, self._left_by_builds())
        if self.options.network.bridge != "none":
            self.namespaces.warm_up()
        await self.volumes.settle()
        for text in mended:
            log.warning("mended after an unclean end: %s", text)

    def reload(self, new: Options) -> None:
        """SIGHUP: takes over what can change while it runs, and says what cannot."""
        runtimes = options_module.find_runtimes(new)
        live, later = self.options.adopt(new)
        self.host.runtimes = runtimes
        self.host.default_runtime = self.options.default_runtime
        logging.getLogger().setLevel(LOG_LEVELS[self.options.log_level])
        log.info("configuration reloaded: %s", ", ".join(live) or "nothing changed")
        if later:
            log.warning("changed, but only the next start of the engine will see it: %s", ", ".join(later))
        self.events.publish("daemon", "reload", self.identity(), {"name": platform.node(), **self.options.reload_attributes()})

    async def stop_containers(self) -> None:
        """For an engine that is told to (live-restore false): nothing goes on after it."""
        running = [container for container in self.containers.all() if container.record.running]
        timeout_s = self.options.shutdown_timeout_s
        stops = [self.containers.stop(container, timeout_s if timeout_s >= 0 else None, "", by_hand=False, asked_by="engine") for container in running]
        for container, failure in zip(running, await asyncio.gather(*stops, return_exceptions=True), strict=True):
            if failure is not None and not isinstance(failure, errors.NotModified):
                log.error("container %s was not stopped: %s", container.record.id, failure)

    async def take_down(self) -> None:
        """Ends what is the engine's own; containers go on with their monitors."""
        await self.endpoints.settled()
        self.container_names.close()
        self.namespaces.close()
        self.host_networks.close(leave=self.networks.in_use())
        self.launcher.close()
        if "builds" in self.__dict__:
            await self.builds.close()
        self._remove_scratch()
        if "distribution" in self.__dict__:
            self.distribution.close()
        self.images.close()
        self.database.close()
        self.containers.remove_parent_group()
        os.close(self._lock)

    def _remove_scratch(self) -> None:
        """Where builds had their secrets; also the place of an engine before, which was killed."""
        if os.path.lexists(scratch := f"{self.options.exec_root}/build"):
            from berth.engine.builds import memory

            memory.remove(scratch)

    # -- what it says of itself -----------------------------------------------------------------------

    def version(self) -> dict:
        """GET /version."""
        kernel = platform.release()
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(self.host.machine, self.host.machine)
        details = {
            "ApiVersion": API_VERSION, "Arch": architecture, "BuildTime": "", "Experimental": "true" if self.options.experimental else "false", "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}", "KernelVersion": kernel, "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
        }  # fmt: skip
        return {
            "Platform": {"Name": "berth"}, "Version": VERSION, "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION, "GitCommit": "", "GoVersion": details["GoVersion"], "Os": "linux",
            "Arch": architecture, "KernelVersion": kernel, "BuildTime": "", **({"Experimental": True} if self.options.experimental else {}),
            "Components": [{"Name": "Engine", "Version": VERSION, "Details": details}],
        }  # fmt: skip

    def info(self) -> dict:
        """GET /info."""
        records = [container.record for container in self.containers.all()]
        hosts = self.host.hosts
        have = set(hosts.controllers())
        memory_kib = _field("/proc/meminfo", "MemTotal:")
        v2 = hosts.version == 2
        proxies = self.options.proxies()
        return {
            "ID": self.identity(), "Containers": len(records), "ContainersRunning": sum(r.status == "running" for r in records),
            "ContainersPaused": sum(r.status == "paused" for r in records),
            "ContainersStopped": sum(not r.running for r in records), "Images": len(self.images.all()),
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", _filesystem(self.options.data_root)], ["Supports d_type", "true"],
                             ["Using metacopy", "false"], ["Native Overlay Diff", "true"], ["userxattr", "false"]],
            "Plugins": {
                "Volume": ["local"], "Network": ["bridge", "host", "ipvlan", "macvlan", "null"], "Authorization": None,
                "Log": list(logconfig.DRIVERS),
            },
            "MemoryLimit": "memory" in have, "SwapLimit": "memory" in have, "CpuCfsPeriod": "cpu" in have,
            "CpuCfsQuota": "cpu" in have, "CPUShares": "cpu" in have, "CPUSet": "cpuset" in have, "PidsLimit": "pids" in have,
            "IPv4Forwarding": True, "Debug": self.options.log_level == "debug", "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": not v2, "NGoroutines": 0, "SystemTime": times.rfc3339(time.time_ns()),
            "LoggingDriver": self.options.container_defaults.get("LogConfig", {}).get("Type", logconfig.DEFAULT_DRIVER),
            "CgroupDriver": "cgroupfs", "CgroupVersion": str(hosts.version),
            "NEventsListener": self.events.listeners, "KernelVersion": platform.release(), "OperatingSystem": os_release("PRETTY_NAME") or "Linux",
            "OSVersion": os_release("VERSION_ID"),
            "OSType": "linux", "Architecture": self.host.machine, "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                **registry_info(self.options.registry_mirrors, self.options.insecure_registries), **foreign_info(self.options.foreign_registries),
            },
            "NCPU": os.cpu_count() or 1, "MemTotal": memory_kib * 1024, "GenericResources": None,
            "DockerRootDir": self.options.data_root, "HttpProxy": masked(proxies["HTTP_PROXY"]),
            "HttpsProxy": masked(proxies["HTTPS_PROXY"]), "NoProxy": proxies["NO_PROXY"],
            "Name": platform.node(), "Labels": self.options.labels, "ExperimentalBuild": self.options.experimental, "ServerVersion": VERSION,
            "Runtimes": {name: {"path": path or "berth"} for name, path in self.host.runtimes.items()},
            "DefaultRuntime": self.host.default_runtime,
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
                      "RemoteManagers": None},
            "LiveRestoreEnabled": self.options.live_restore, "Isolation": "", "InitBinary": os.path.basename(self.host.init),
            "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
            "SecurityOptions": self._security_options(),
            **self._firewall(),
        }  # fmt: skip

    def _firewall(self) -> dict:
        """FirewallBackend, with what decides on published ports; and all that `info` warns of."""
        if self.options.network.bridge == "none":
            return {"Warnings": self.warnings}
        lines = self.host_networks.explain()
        rows = [list(line.partition(": ")[::2]) for line in lines if not line.startswith("WARNING")]
        return {
            "FirewallBackend": {"Driver": "nftables", "Info": rows}, "Warnings": [*self.warnings, *(line for line in lines if line.startswith("WARNING"))],
        }  # fmt: skip

    def _security_options(self) -> list[str]:
        found = ["name=apparmor"] if self.host.apparmor else []
        found += ["name=selinux"] if self.host.selinux else []
        found.append(f"name=seccomp,profile={self.options.seccomp_profile}")
        found += ["name=userns"] if self.host.remap else []
        found += [f"name=landlock,abi={self.host.landlock_abi}"] if self.host.landlock_abi else []
        found += ["name=cgroupns"]
        return found

    def identity(self) -> str:
        """The engine's own id, the same over restarts."""
        path = f"{self.options.data_root}/engine-id"
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            identity = str(uuid.uuid4())
            with open(f"{path}.new", "w") as file:
                file.write(identity)
            os.rename(f"{path}.new", path)
            return identity


def _field(path: str, name: str) -> int:
    with open(path) as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def os_release(name: str) -> str:
    """What the host's /etc/os-release says; '' for nothing."""
    try:
        with open("/etc/os-release") as file:
            for line in file:
                if line.startswith(f"{name}="):
                    return line.partition("=")[2].strip().strip("\"'")
    except OSError:
        pass
    return ""


def _filesystem(path: str) -> str:
    """Type of the file system that holds `path`: the longest mount point that is a prefix of it."""
    best, kind = "", ""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, kind = point, right.split()[0]
    return {"ext4": "extfs"}.get(kind, kind)
