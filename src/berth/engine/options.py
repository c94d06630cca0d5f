"""The engine's options, and the host facts that start-up looks up once."""

import json
import os
import shutil
from typing import Any

from berth.engine import apparmor, bundle, config
from berth.engine.builds.settings import BuildSettings
from berth.engine.containers import Host
from berth.engine.nets import settings as netsettings
from berth.engine.nets.settings import NetworkSettings
from berth.errors import InvalidParameter, SystemFailure
from berth.linux import capabilities, cgroup, confine, libc

_INIT_PROGRAMS = ("docker-init", "tini-static", "catatonit")


class Options:
    """What `berth engine` was told; named as dockerd names it. tls: None where nobody said yes or no."""

    def __init__(
        self, *, data_root: str = "/var/lib/berth", exec_root: str = "/run/berth", hosts: list[str] | None = None,
        pidfile: str = "", log_level: str = "info", userns_remap: str = "", default_runtime: str = "berth",
        add_runtime: list[str] | None = None, init_path: str = "", group: str = "", tls: bool | None = None,
        tlsverify: bool = False, tlscacert: str = "", tlscert: str = "", tlskey: str = "", labels: list[str] | None = None,
        metrics_addr: str = "", live_restore: bool = True, shutdown_timeout_s: int = 15,
        container_defaults: dict[str, Any] | None = None, log_format: str = "text", seccomp_profile: str = "builtin",
        registry_mirrors: list[str] | None = None, insecure_registries: list[str] | None = None, foreign_registries: list[str] | None = None,
        http_proxy: str = "", https_proxy: str = "", no_proxy: str = "",
        max_concurrent_downloads: int = 3, max_concurrent_uploads: int = 5, max_download_attempts: int = 5,
        network: NetworkSettings | None = None, builder: BuildSettings | None = None, experimental: bool = False,
    ) -> None:  # fmt: skip
        self.data_root = os.path.abspath(data_root)
        self.exec_root = os.path.abspath(exec_root)
        self.hosts = hosts or [f"unix://{self.exec_root}/berth.sock"]
        self.pidfile = os.path.abspath(pidfile) if pidfile else f"{self.exec_root}/engine.pid"
        self.log_level = log_level
        self.userns_remap = userns_remap
        self.default_runtime = default_runtime
        self.add_runtime = add_runtime or []
        self.init_path = init_path
        self.group = group
        self.tls = bool(tls)
        self.plain_tcp_allowed = tls is False
        self.tlsverify = tlsverify
        self.tlscacert = tlscacert
        self.tlscert = tlscert
        self.tlskey = tlskey
        self.labels = labels or []
        self.metrics_addr = metrics_addr
        self.live_restore = live_restore
        self.shutdown_timeout_s = shutdown_timeout_s
        self.container_defaults = container_defaults or {}
        self.log_format = log_format
        self.seccomp_profile = seccomp_profile
        self.registry_mirrors = registry_mirrors or []
        self.insecure_registries = insecure_registries or []
        self.foreign_registries = foreign_registries or []
        self.http_proxy = http_proxy
        self.https_proxy = https_proxy
        self.no_proxy = no_proxy
        self.max_concurrent_downloads = max_concurrent_downloads
        self.max_concurrent_uploads = max_concurrent_uploads
        self.max_download_attempts = max_download_attempts
        self.network = network or NetworkSettings()
        self.builder = builder or BuildSettings()
        self.experimental = experimental

    def adopt(self, new: "Options") -> tuple[list[str], list[str]]:
        """Takes over what can change in a running engine. Names of what did, and of what would need another start."""
        changed = [name for name in vars(self) if getattr(self, name) != getattr(new, name)]
        live = [name for name in changed if name in _LIVE]
        for name in live:
            setattr(self, name, getattr(new, name))
        return live, [name for name in changed if name not in _LIVE]


    def proxies(self) -> dict[str, str]:
        """HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as told or else as the engine's environment has them."""
        told = {"HTTP_PROXY": self.http_proxy, "HTTPS_PROXY": self.https_proxy, "NO_PROXY": self.no_proxy}
        return {name: value or os.environ.get(name) or os.environ.get(name.lower()) or "" for name, value in told.items()}

    def reload_attributes(self) -> dict[str, str]:
        """Of the event `daemon reload`, named and written as dockerd's."""
        return {
            "allow-nondistributable-artifacts": _json(self.foreign_registries),
            "debug": _json(self.log_level == "debug"), "default-ipc-mode": self.container_defaults.get("IpcMode", "private"),
            "default-runtime": self.default_runtime, "default-shm-size": str(self.container_defaults.get("ShmSize", 64 << 20)),
            "insecure-registries": _json(self.insecure_registries), "labels": _json(self.labels),
            "live-restore": _json(self.live_restore), "max-concurrent-downloads": str(self.max_concurrent_downloads),
            "max-concurrent-uploads": str(self.max_concurrent_uploads), "max-download-attempts": str(self.max_download_attempts),
            "registry-mirrors": _json(self.registry_mirrors), "runtimes": " ".join(self.add_runtime),
            "shutdown-timeout": str(self.shutdown_timeout_s),
        }  # fmt: skip


_LIVE = frozenset((
    "log_level", "labels", "default_runtime", "add_runtime", "live_restore", "shutdown_timeout_s", "container_defaults",
    "seccomp_profile", "registry_mirrors", "insecure_registries", "foreign_registries", "http_proxy", "https_proxy", "no_proxy", "max_concurrent_downloads", "max_concurrent_uploads",
    "max_download_attempts", "builder",
))  # fmt: skip


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def from_settings(settings: dict[str, Any]) -> Options:
    """Settings by the names that daemon.json has for them; InvalidParameter where they do not go together."""
    known = {
        "data-root": "data_root", "exec-root": "exec_root", "hosts": "hosts", "pidfile": "pidfile", "log-level": "log_level",
        "userns-remap": "userns_remap", "default-runtime": "default_runtime", "init-path": "init_path", "group": "group", "tls": "tls",
        "tlsverify": "tlsverify", "tlscacert": "tlscacert", "tlscert": "tlscert", "tlskey": "tlskey", "labels": "labels",
        "metrics-addr": "metrics_addr", "live-restore": "live_restore", "shutdown-timeout": "shutdown_timeout_s",
        "log-format": "log_format", "registry-mirrors": "registry_mirrors", "insecure-registries": "insecure_registries",
        "allow-nondistributable-artifacts": "foreign_registries", "http-proxy": "http_proxy", "https-proxy": "https_proxy", "no-proxy": "no_proxy",
        "max-concurrent-downloads": "max_concurrent_downloads", "max-concurrent-uploads": "max_concurrent_uploads",
        "max-download-attempts": "max_download_attempts", "builder": "builder", "experimental": "experimental",
    }  # fmt: skip
    values = {known[key]: value for key, value in {**settings, **settings.get("proxies", {})}.items() if key in known}
    if "seccomp-profile" in settings:
        values["seccomp_profile"] = settings["seccomp-profile"]["name"]
    if settings.get("debug"):
        values["log_level"] = "debug"
    values["add_runtime"] = [f"{name}={path}" for name, path in settings.get("runtimes", {}).items()]
    return Options(**values, container_defaults=config.container_defaults(settings), network=netsettings.from_daemon(settings))


def probe_host(options: Options) -> tuple[Host, list[str]]:
    """What this host has; and warnings for `info`."""
    warnings: list[str] = []
    runtimes = find_runtimes(options)
    has_apparmor = confine.apparmor_enabled()
    if has_apparmor:
        try:
            apparmor.load_profile(bundle.APPARMOR_DEFAULT)
        except SystemFailure as error:
            warnings.append(f"WARNING: {error}; containers run without an AppArmor profile")
            has_apparmor = False
    host = Host(
        machine=libc.MACHINE, hosts=cgroup.hierarchies(), bounding=capabilities.bounding_set(),
        apparmor=has_apparmor, selinux=confine.selinux_enabled(), landlock_abi=confine.landlock_abi(),
        init=options.init_path or _find_init(), runtimes=runtimes, remap=id_mappings(options.userns_remap),
        default_runtime=options.default_runtime,
    )  # fmt: skip
    return host, warnings + _missing(host)


def find_runtimes(options: Options) -> dict[str, str]:
    """By name: berth's own, what is in PATH, and what was registered."""
    runtimes = {"berth": ""}
    for name in ("runc", "crun"):
        if shutil.which(name, path=_search_path()):
            runtimes[name] = shutil.which(name, path=_search_path()) or name
    for text in options.add_runtime:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise InvalidParameter(f"--add-runtime {text!r}: expected NAME=PATH")
        runtimes[name] = path
    if options.default_runtime not in runtimes:
        raise InvalidParameter(f"--default-runtime {options.default_runtime!r} is not one of {', '.join(runtimes)}")
    return runtimes


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def _find_init() -> str:
    for name in _INIT_PROGRAMS:
        path = shutil.which(name, path=_search_path())
        if path:
            return path
    return ""


def _missing(host: Host) -> list[str]:
    """What the kernel lacks, in Docker's words."""
    have = host.hosts.controllers()
    needed = {
        "memory": "No memory limit support", "pids": "No pids limit support", "cpu": "No cpu shares support",
        "cpuset": "No cpuset support",
    }  # fmt: skip
    needed["io" if host.hosts.version == 2 else "blkio"] = "No blkio support"
    found = [f"WARNING: {words}" for controller, words in needed.items() if controller not in have]
    resource_capability = capabilities.NUMBERS["CAP_SYS_RESOURCE"]
    if not host.bounding >> resource_capability & 1:
        found.append("WARNING: No CAP_SYS_RESOURCE: limits cannot be raised above the engine's own hard limits")
    return found


def id_mappings(remap: str) -> tuple[list[dict], list[dict]] | None:
    """`--userns-remap default|USER[:GROUP]` -> mappings from /etc/subuid and /etc/subgid."""
    if not remap:
        return None
    user, _, group = remap.partition(":")
    if user == "default":
        user = "dockremap"
    return _subordinate("/etc/subuid", user), _subordinate("/etc/subgid", group or user)


def _subordinate(path: str, name: str) -> list[dict]:
    try:
        with open(path) as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise InvalidParameter(f"--userns-remap: {path}: {error.strerror}") from None
    found: list[dict] = []
    inside = 0
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] == name and fields[1].isdigit() and fields[2].isdigit():
            found.append({"containerID": inside, "hostID": int(fields[1]), "size": int(fields[2])})
            inside += int(fields[2])
    if not found:
        raise InvalidParameter(f"--userns-remap: no entry for {name!r} in {path}; add a line like '{name}:100000:65536'")
    return found
