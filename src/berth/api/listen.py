"""Where the engine listens: unix://, tcp:// with and without TLS, and fd:// for the sockets that systemd hands over."""

import contextlib
import grp
import ipaddress
import logging
import os
import socket
import ssl
import stat
from typing import Any

from berth import errors
from berth.engine.options import Options
from berth.http import tls

log = logging.getLogger("berth.engine")

_FIRST_FD = 3
_BACKLOG = 1024
_KEEPALIVE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_TIMES = 30, 15, 4


class Listener:
    """A listening socket; path: of the file to remove at the end, or ''; context: TLS, or None."""

    def __init__(self, sock: socket.socket, path: str = "", context: ssl.SSLContext | None = None) -> None:
        self.sock, self.path, self.context = sock, path, context


def listen_all(options: Options) -> list[Listener]:
    """Sockets for every --host; none is left open where one fails."""
    found: list[Listener] = []
    context = tls_context(options)
    try:
        for address in options.hosts:
            scheme, separator, rest = address.partition("://")
            if scheme == "unix" and separator:
                sock, path = listen_unix(address, options.group)
                found.append(Listener(sock, path))
            elif scheme == "tcp" and separator:
                found += [Listener(sock, "", context) for sock in listen_tcp(rest, context, allowed=options.plain_tcp_allowed)]
            elif scheme == "fd" and separator:
                for sock in inherited(rest):
                    found.append(Listener(sock, "", context if sock.family != socket.AF_UNIX else None))
            else:
                raise errors.InvalidParameter(f"--host {address!r}: expected unix:///path, tcp://host:port or fd://")
    except BaseException:
        for listener in found:
            listener.sock.close()
        raise
    return found


def tls_context(options: Options) -> ssl.SSLContext | None:
    """None where TLS is not asked for."""
    if not (options.tls or options.tlsverify):
        return None
    base = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    authority = (options.tlscacert or f"{base}/ca.pem") if options.tlsverify else ""
    return tls.server_context(options.tlscert or f"{base}/cert.pem", options.tlskey or f"{base}/key.pem", authority)


# -- unix -------------------------------------------------------------------------------------------------


def listen_unix(address: str, group: str) -> tuple[socket.socket, str]:
    """A listening socket for `unix://PATH`, open to root and a group ('': docker, if there is one); and its path."""
    path = address.removeprefix("unix://")
    if not path.startswith("/"):
        raise errors.InvalidParameter(f"--host {address!r}: the path must be absolute, as in unix:///run/berth/berth.sock")
    group_id = _group_id(group)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    _clear_stale(path, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError as error:
        sock.close()
        raise errors.SystemFailure(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.close(directory)
        os.umask(old_mask)
    sock.listen(_BACKLOG)
    if group_id >= 0:
        with contextlib.suppress(PermissionError):
            os.chown(path, 0, group_id)
            os.chmod(path, 0o660)
    return sock, path


def _group_id(group: str) -> int:
    """Of a name or number; -1 where the group that nobody named is not there."""
    if group.isascii() and group.isdigit() and len(group) < 10:
        return int(group)
    try:
        return grp.getgrnam(group or "docker").gr_gid
    except KeyError:
        if group:
            raise errors.InvalidParameter(f"--group {group!r}: this host has no such group; create it with groupadd {group}") from None
        return -1


def _clear_stale(path: str, address: str) -> None:
    """Removes the socket of an engine that was killed; one that answers is somebody's."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise errors.Conflict(f"--host {address}: {path} exists and is not a socket; remove it or choose another")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise errors.Conflict(f"another engine is listening on {path}")


# -- TCP --------------------------------------------------------------------------------------------------


def listen_tcp(text: str, context: ssl.SSLContext | None, *, allowed: bool) -> list[socket.socket]:
    """Sockets for `HOST:PORT`. Without TLS only this host may come, unless that was asked for in so many words (allowed)."""
    addresses = _resolved(text, 2376 if context else 2375, "--host tcp://")
    if context is None:
        _warn_or_refuse(text, [str(address[0]) for _, address in addresses], allowed=allowed)
    return _bound(addresses, f"tcp://{text}")


def listen_metrics(text: str) -> list[socket.socket]:
    """Sockets for --metrics-addr, which tells figures and changes nothing."""
    return _bound(_resolved(text, 9323, "--metrics-addr "), text)


def _resolved(text: str, default_port: int, shown: str) -> list[tuple[int, Any]]:
    host, port = split_host_port(text, default_port, shown)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise errors.InvalidParameter(f"{shown}{text}: {getattr(error, 'strerror', error)}") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(addresses: list[tuple[int, Any]], shown: str) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            keep_alive(sock)
            sock.bind(address)
            sock.listen(_BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise errors.SystemFailure(f"cannot listen on {shown}: {error.strerror}") from error
    return sockets


def keep_alive(sock: socket.socket) -> None:
    """Lets the kernel find out that a peer is gone; connections inherit it from their listener."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_TIMES)


def split_host_port(text: str, default_port: int, shown: str) -> tuple[str, int]:
    """`host:port`, `[::1]:port`, `:port` or `host`; InvalidParameter for what is none."""
    host, port = text.rstrip("/"), ""
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        good = bool(bracket) and (not port or port.startswith(":"))
        port = port[1:]
    else:
        host, _, port = host.partition(":")
        good = ":" not in port and "/" not in host + port
    if not good or (port and not (port.isascii() and port.isdigit() and int(port[:6]) < 1 << 16)):
        raise errors.InvalidParameter(f"{shown}{text}: expected host:port")
    return host or ("" if port else "localhost"), int(port) if port else default_port


def _warn_or_refuse(text: str, addresses: list[str], *, allowed: bool) -> None:
    everyone = [address for address in addresses if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    if everyone and not allowed:
        raise errors.Forbidden(
            f"--host tcp://{text} without TLS gives root on this host to everyone who reaches {', '.join(everyone)}; "
            "add --tlsverify, listen on 127.0.0.1, or say --tls=false if that is what you want"
        )
    log.warning(
        "[SECURITY] API is accessible on http://%s without encryption: access to it is equivalent to root access on this "
        "host, for %s; add --tlsverify", text, "everyone on the network" if everyone else "every user and program on it",
    )  # fmt: skip


# -- systemd's ----------------------------------------------------------------------------------------------


def inherited(name: str) -> list[socket.socket]:
    """The sockets of `fd://`: all that systemd handed over, `fd://NAME` or `fd://NUMBER` one of them."""
    handed_over = os.environ.get("LISTEN_PID") == str(os.getpid())
    count = os.environ.get("LISTEN_FDS", "")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if not handed_over or not (count.isascii() and count.isdigit() and 0 < int(count) < 1000):
        raise errors.InvalidParameter(f"--host fd://{name}: no sockets were handed over; start the engine from a systemd socket unit")
    chosen = [
        fd for fd in range(_FIRST_FD, _FIRST_FD + int(count))
        if name in ("", "*", str(fd)) or name == (names[fd - _FIRST_FD] if len(names) == int(count) else "")
    ]  # fmt: skip
    if not chosen:
        raise errors.InvalidParameter(f"--host fd://{name}: not among the {count} sockets handed over ({':'.join(names)})")
    sockets = []
    for fd in chosen:
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=os.dup(fd))
        except OSError as error:
            raise errors.InvalidParameter(f"--host fd://{name}: descriptor {fd} is no socket: {error.strerror}") from None
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise errors.InvalidParameter(f"--host fd://{name}: descriptor {fd} is not a listening stream socket")
        if sock.family != socket.AF_UNIX:
            keep_alive(sock)
        sockets.append(sock)
    return sockets
