"""How to reach registries: mirrors, insecure ones, certificates, proxies, limits. Pure, but for looking at files and looking up names."""

import ipaddress
import os
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from berth.errors import InvalidParameter

DOCKER_HUB = "docker.io"
_HUB_ADDRESS = "registry-1.docker.io"
CERTIFICATE_DIRECTORIES = ("/etc/berth/certs.d", "/etc/docker/certs.d")


class Endpoint:
    """One address a registry may answer at. mirror: of Docker Hub, for pulls only; verify: certificates are checked."""

    __slots__ = ("base", "host", "mirror", "scheme", "verify")

    def __init__(self, scheme: str, host: str, base: str = "", *, verify: bool = True, mirror: bool = False) -> None:
        self.scheme = scheme
        self.host = host  # with the port, as people write it
        self.base = base  # path before /v2/
        self.verify = verify
        self.mirror = mirror

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{self.base}{path}"


class Settings:
    """What daemon.json and the environment say.

    insecure: host[:port] or networks, of registries without (checked) TLS; foreign: the same, of those that are sent foreign layers.
    """

    def __init__(
        self, *, mirrors: list[str] | None = None, insecure: list[str] | None = None, max_downloads: int = 3, max_uploads: int = 5,
        attempts: int = 5, timeout_s: float = 30.0, back_off_s: float = 0.5, slowest_bytes_s: int = 1024,
        certificate_directories: tuple[str, ...] = CERTIFICATE_DIRECTORIES, environment: dict[str, str] | None = None, agent: str = "berth",
        foreign: list[str] | None = None, look_up: Callable[[str], list[str]] | None = None,
    ) -> None:  # fmt: skip
        self.mirrors = [_mirror(text) for text in mirrors or []]
        self._insecure = _Registries(insecure or [])
        self._foreign = _Registries(foreign or [])
        self._look_up = look_up or _look_up
        self._addresses: dict[str, list[str]] = {}  # of names that have been looked up
        self._pinned: set[str] = set()
        self.max_downloads = max_downloads
        self.max_uploads = max_uploads
        self.attempts = attempts
        self.timeout_s = timeout_s
        self.back_off_s = back_off_s
        self.slowest_bytes_s = slowest_bytes_s
        self.certificate_directories = certificate_directories
        self.environment = dict(os.environ if environment is None else environment)
        self.agent = agent

    def identity(self) -> tuple:
        """What has to be the same for a connection to be made, and to lead to the same place. Without files of certificates."""
        proxies = tuple(sorted((name, value) for name, value in self.environment.items() if name.lower().endswith("_proxy")))
        return tuple(one.url("") for one in self.mirrors), self._insecure.entries, proxies, self.certificate_directories

    def endpoints(self, registry: str, *, pull: bool) -> list[Endpoint]:
        """Where to ask for this registry, in order."""
        if registry == DOCKER_HUB:
            return [*(self.mirrors if pull else []), Endpoint("https", _HUB_ADDRESS)]
        if self.is_insecure(registry):
            return [Endpoint("https", registry, verify=False), Endpoint("http", registry)]
        return [Endpoint("https", registry)]

    def is_insecure(self, registry: str) -> bool:
        """Named in `insecure-registries`, or on this machine's loopback, as with Docker; a name if all its addresses are."""
        host = _bare(registry).strip("[]")
        if host == "localhost" or _is_loopback(host) or self._insecure.have(registry):
            return True
        addresses = self._addresses_of(registry)
        if not addresses or not all(_is_loopback(address) or self._insecure.cover(address) for address in addresses):
            return False
        self._pinned.add(host)
        return True

    def addresses(self, host: str) -> list[str]:
        """Where to connect to for this host, which is named without its port; nothing: where its name leads.

        Of one that may be asked without TLS for its addresses alone: the name may lead elsewhere the next time.
        """
        return self._addresses[host] if host in self._pinned else []

    def takes_foreign(self, registry: str) -> bool:
        """Whether layers that must not be handed on may be pushed there: `allow-nondistributable-artifacts`."""
        if self._foreign.have(registry):
            return True
        addresses = self._addresses_of(registry) if self._foreign.has_networks else []
        return bool(addresses) and all(self._foreign.cover(address) for address in addresses)

    def _addresses_of(self, registry: str) -> list[str]:
        """None where the host is an address, or a proxy looks its name up."""
        host = _bare(registry).strip("[]")
        if _is_address(host) or self.proxy("https", registry) or self.proxy("http", registry):
            return []
        if host not in self._addresses:
            self._addresses[host] = self._look_up(host)
        return self._addresses[host]

    def proxy(self, scheme: str, host: str) -> str:
        """The proxy's URL for a request, or ''; HTTPS_PROXY, HTTP_PROXY and NO_PROXY in either case, as Go reads them."""
        name = f"{scheme}_proxy"
        found = self.environment.get(name.upper()) or self.environment.get(name) or ""
        try:
            parts = urlsplit(f"//{host}")
            bare, port = parts.hostname or "", parts.port or (443 if scheme == "https" else 80)
        except ValueError:
            return ""
        if not found or bare == "localhost" or _is_loopback(bare) or self._is_direct(bare.rstrip("."), port):
            return ""
        return found if "://" in found else f"http://{found}"

    def _is_direct(self, host: str, port: int) -> bool:
        """NO_PROXY, by golang.org/x/net/http/httpproxy: `host` is it and what is below, `.host` only what is below."""
        rules = self.environment.get("NO_PROXY") or self.environment.get("no_proxy") or ""
        return any(_covers(rule.strip().lower(), host, port) for rule in rules.split(","))

    def certificates(self, registry: str) -> tuple[list[str], list[tuple[str, str]]]:
        """(files of authorities, (certificate, key) pairs) of certs.d/REGISTRY, as Docker lays them out."""
        authorities: list[str] = []
        pairs: list[tuple[str, str]] = []
        if not registry or "/" in registry or registry.startswith("."):
            return authorities, pairs
        for directory in (f"{parent}/{registry}" for parent in self.certificate_directories):
            try:
                names = sorted(os.listdir(directory))
            except OSError:
                continue
            authorities += [f"{directory}/{name}" for name in names if name.endswith(".crt")]
            for name in names:
                if not name.endswith(".cert"):
                    continue
                key = f"{name.removesuffix('.cert')}.key"
                if key not in names:
                    raise InvalidParameter(f"{directory}/{name} has no {key} beside it; a client certificate needs its key")
                pairs.append((f"{directory}/{name}", f"{directory}/{key}"))
        return authorities, pairs


class _Registries:
    """`host`, `host:port` and networks, as daemon.json lists them."""

    def __init__(self, entries: list[str]) -> None:
        self.entries = tuple(entries)
        self._names = set(entries)
        self._networks = [network for text in entries if "/" in text and (network := _network(text))]

    @property
    def has_networks(self) -> bool:
        return bool(self._networks)

    def have(self, registry: str) -> bool:
        host = _bare(registry)
        return bool({registry, host} & self._names) or self.cover(host.strip("[]"))

    def cover(self, address: str) -> bool:
        return any(_within(address, network) for network in self._networks)


def _bare(registry: str) -> str:
    """Without the port."""
    return registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry


def _mirror(text: str) -> Endpoint:
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidParameter(f"registry mirror {text!r}: give an http or https URL without user, query or fragment")
    return Endpoint(parts.scheme, parts.netloc, parts.path.rstrip("/"), mirror=True)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _within(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


def _covers(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    if network := _network(rule.strip("[]")):
        return _within(host, network)
    name, colon, only = rule.rpartition(":")
    if colon and only.isascii() and only.isdigit():
        if int(only) != port:
            return False
        rule = name
        if network := _network(rule.strip("[]")):
            return _within(host, network)
    rule = rule.removeprefix("*")
    return bool(rule.strip(".")) and (host.endswith(rule if rule.startswith(".") else f".{rule}") or host == rule)


def _look_up(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in found]


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
