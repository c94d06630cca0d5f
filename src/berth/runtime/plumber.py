"""The plumber: makes network namespaces ahead of time and hands them out as descriptors, with sockets that were made inside.

    engine ── launcher ── {"kind": "plumb"}, channel ──▶ plumber
       ── NEW ──▶              a namespace: its descriptor, a rtnetlink socket in it
       ── USER + JSON of mappings ──▶ the same, owned by a new user namespace, whose descriptor comes first
       ── ENTER, namespace ──▶ a rtnetlink socket in a namespace that is there
       ── DNS, namespace ──▶   DNS sockets in it, UDP and TCP
       ── SYSCTLS + JSON of values by name, namespace ──▶ nothing, once they are set
       ◀── REPORT + JSON, descriptors ──   or ERROR + JSON {kind, message}

One process, single-threaded, as unshare(2) and setns(2) want it; it ends with the engine. A namespace has no name in
the file system: it lives by the descriptors on it and the processes in it, so nothing is left however any of them end.
A socket belongs to the namespace that it was made in: with these, the engine works in a container's without joining it.
"""

import os

from berth import errors
from berth.linux import libc, netlink, nftables, sockets
from berth.models.jsonlite import dumps, loads
from berth.runtime import container

NEW, USER, ENTER, DNS, SYSCTLS = b"n", b"u", b"e", b"d", b"s"
REPORT, ERROR = b"r", b"e"
DNS_ADDRESS = "127.0.0.11"
MESSAGE_BYTES, MAX_FDS = 65536, 3
_BACKLOG = 16
# Of every new namespace. A program without rights may listen on low ports and ping, as Docker has it: the namespace is its own.
_SYSCTLS = {"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0 2147483647"}


def serve(fds: "list[int]") -> None:
    """Answers on the first of `fds`, which it takes over, until the engine closes its end."""
    channel = sockets.socket(fileno=fds[0])
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    libc.set_process_name("berth-plumber")
    while True:
        data, given, _ = sockets.receive_checked(channel, MESSAGE_BYTES, 1)
        if not data:
            return
        made: list[int] = []
        try:
            report = _answer(data, given, made)
            sockets.send(channel, REPORT + dumps(report).encode(), made)
        except BaseException as error:
            sockets.send(channel, ERROR + dumps(errors.to_wire(error)).encode())
        finally:
            libc.setns(home, libc.CLONE_NEWNET)  # a namespace that this process is in would outlive its container
            for fd in (*given, *made):
                os.close(fd)


def _answer(request: bytes, given: "list[int]", made: "list[int]") -> "dict[str, int]":
    """Does what is asked for; appends the descriptors to send."""
    if request[:1] == USER:
        _make_in_user_namespace(loads(request[1:].decode()), made)
        return {}
    if request == NEW:
        libc.unshare(libc.CLONE_NEWNET)
        made.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        _settle()
    else:
        libc.setns(given[0], libc.CLONE_NEWNET)
    if request[:1] == SYSCTLS:
        _set_sysctls(loads(request[1:].decode()))
        return {}
    if request == DNS:
        return _open_dns_sockets(made)
    made.append(netlink.open_socket())
    return {}


def _make_in_user_namespace(mappings: "dict[str, list[dict]]", made: "list[int]") -> None:
    """Root of a user namespace has rights only over what that namespace owns: a child of ours makes it there."""
    made.append(container.user_namespace_fd(mappings["uid"], mappings["gid"]))
    ours, theirs = sockets.channel()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            libc.setns(made[0], libc.CLONE_NEWUSER)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            libc.unshare(libc.CLONE_NEWNET)
            namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            sockets.send(theirs, b"r", [namespace])
            status = 0
        except BaseException as error:
            sockets.send(theirs, dumps(errors.to_wire(error)).encode())
        os._exit(status)
    theirs.close()
    report, fds = sockets.receive(ours, MESSAGE_BYTES)
    ours.close()
    os.waitpid(child, 0)
    if not fds:
        values = loads(report.decode() or '{"kind": "SystemFailure", "message": "it was killed"}')
        raise errors.from_wire(values["kind"], values["message"])
    made += fds
    libc.setns(made[1], libc.CLONE_NEWNET)
    made.append(netlink.open_socket())
    _settle()


def _settle() -> None:
    """What a namespace has before anybody knows whose it will be."""
    route = netlink.Client()
    try:
        route.set_up(route.link("lo")[0], True)
    finally:
        route.close()
    for name, value in _SYSCTLS.items():
        try:
            with open(f"/proc/sys/{name}", "w") as file:
                file.write(value)
        except OSError:
            continue  # a kernel without IPv4, or older than the setting


def _set_sysctls(values: "dict[str, str]") -> None:
    """names: net.ipv4.conf.eth0.log_martians; an interface's name, the fourth part, may have dots."""
    for name, value in values.items():
        try:
            first, second, third, rest = name.split(".", 3)
            interface, _, last = rest.rpartition(".")
            with open(f"/proc/sys/{first}/{second}/{third}/{interface}/{last}", "w") as file:
                file.write(value)
        except OSError as error:
            raise errors.InvalidParameter(f"sysctl {name} cannot be {value!r}: {error.strerror}") from None


def _open_dns_sockets(made: "list[int]") -> "dict[str, int]":
    """The ports of a UDP and a TCP socket, to which 127.0.0.11:53 leads: a program in the container may have port 53 itself."""
    ports = {}
    for name, kind in (("udp", sockets.SOCK_DGRAM), ("tcp", sockets.SOCK_STREAM)):
        sock = sockets.socket(sockets.AF_INET, kind | sockets.SOCK_CLOEXEC)
        try:
            sock.bind((DNS_ADDRESS, 0))
            if name == "tcp":
                sock.listen(_BACKLOG)
            ports[name] = sock.getsockname()[1]
        finally:
            made.append(sock.detach())
    nftables.lead_dns(ports["udp"], ports["tcp"])
    return ports
