"""Connections to an engine that is not behind a unix socket here: tcp://, with TLS, and ssh://.

Whatever it is, the client gets one end of a plain socket: half-closing it works everywhere, and nothing else of the
command line needs to know. `system dial-stdio` is the far end of ssh://, and of Docker's own CLI over ssh.
"""

import _thread
import os
import sys

from berth.cli.client import NoEngine
from berth.cli.flags import Misuse, Syntax

try:
    import _socket
except ImportError:
    import socket as _socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from berth.cli.main import Invocation

SYNTAX = {"system dial-stdio": Syntax("", at_most=0)}
_BYTES = 1 << 18
_CONNECT_TIMEOUT_S = 30
_SHUT_WR = 1


class TlsFiles:
    """verify: whether the engine must have a certificate of the CA. Paths; '' for none."""

    def __init__(self, *, verify: bool, authority: str, certificate: str, key: str) -> None:
        self.verify, self.authority, self.certificate, self.key = verify, authority, certificate, key


def connect(address: str, tls: "TlsFiles | None") -> "_socket.socket":
    """A connected socket for tcp:// or ssh://. NoEngine says what did not work."""
    scheme, _, rest = address.partition("://")
    if scheme == "ssh":
        return _ssh(address, rest)
    if scheme != "tcp":
        raise NoEngine(f"host {address!r}: expected unix:///path, tcp://host:port or ssh://[user@]host[:port]")
    host, port = _host_port(rest, "2376" if tls else "2375")
    sock = _tcp(address, host, port)
    return _tls(address, sock, host, tls) if tls else sock


def _host_port(text: str, default: str) -> "tuple[str, str]":
    text = text.rstrip("/")
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.lstrip(":") or default
    host, _, port = text.partition(":")
    return host or "localhost", port or default


def _tcp(address: str, host: str, port: str) -> "_socket.socket":
    problem = "no address"
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except OSError as error:
        raise NoEngine(f"Cannot connect to the engine at {address}: {error.strerror}") from None
    for family, kind, protocol, _, where in found:
        sock = _socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(where)
            sock.settimeout(None)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            return sock
        except OSError as error:
            problem = error.strerror or str(error)
            sock.close()
    raise NoEngine(f"Cannot connect to the engine at {address}: {problem}; is the engine running there?")


# -- TLS: two threads between the connection and a socket pair -------------------------------------------------


def _tls(address: str, far: "_socket.socket", host: str, files: TlsFiles) -> "_socket.socket":
    import ssl

    try:
        context = ssl.create_default_context(cafile=files.authority or None)
        if not files.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if files.certificate:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError) as error:
        names = ", ".join(name for name in (files.authority, files.certificate, files.key) if name)
        raise NoEngine(f"could not load the certificates {names}: {error}") from None
    bridge = _Bridge(context, far, host, address)
    try:
        bridge.handshake()
    except (OSError, ValueError) as error:
        raise NoEngine(f"Cannot connect to the engine at {address}: TLS: {error}") from None
    near, inner = _socket.socketpair()
    _thread.start_new_thread(bridge.send_all, (inner,))
    _thread.start_new_thread(bridge.receive_all, (inner,))
    return near


class _Bridge:
    """TLS on one side, a plain socket on the other, each direction ending by itself (SSLSocket cannot do that)."""

    def __init__(self, context: "ssl.SSLContext", far: "_socket.socket", host: str, address: str) -> None:
        import ssl

        self._wants_more, self._refusal = ssl.SSLWantReadError, ssl.SSLError
        self._address = address
        self._far = far
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._state_lock, self._send_lock = _thread.allocate_lock(), _thread.allocate_lock()

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except self._wants_more:
                self._flush()
                self._take(self._far.recv(_BYTES))

    def _take(self, data: bytes) -> None:
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        with self._send_lock:  # records leave in the order in which they were made
            with self._state_lock:
                data = self._out.read()
            if data:
                self._far.sendall(data)

    def send_all(self, inner: "_socket.socket") -> None:
        """From the client to the engine; the end of input is a close_notify, after which output still comes."""
        try:
            while data := inner.recv(_BYTES):
                with self._state_lock:
                    self._tls.write(data)
                self._flush()
            try:
                with self._state_lock:
                    self._tls.unwrap()
            except OSError:  # it would like to wait for the other side's close_notify: the other thread does
                pass
            self._flush()
        except OSError:
            pass  # the engine has gone; the other direction sees that too

    def receive_all(self, inner: "_socket.socket") -> None:
        """From the engine to the client, until the engine's end of output."""
        try:
            while self._decrypted_to(inner):
                self._take_locked(self._far.recv(_BYTES))
                if self._out.pending:
                    self._flush()
        except self._refusal as error:
            # With TLS 1.3 the engine looks at our certificate when we think that all is well: this is its answer.
            words = (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower()
            if words:
                sys.stderr.write(f"berth: the engine at {self._address} ends TLS: {words}\n")
        except OSError:
            pass
        try:
            inner.shutdown(_SHUT_WR)
        except OSError:
            pass

    def _take_locked(self, data: bytes) -> None:
        with self._state_lock:
            self._take(data)

    def _decrypted_to(self, inner: "_socket.socket") -> bool:
        """False at the end of output."""
        while True:
            try:
                with self._state_lock:
                    data = self._tls.read(_BYTES)
            except self._wants_more:
                return True
            if not data:
                return False
            inner.sendall(data)


# -- ssh: its standard streams are the connection ------------------------------------------------------------------


def ssh_command(rest: str) -> "list[str]":
    """`[user@]host[:port][/path/of/the/socket]` -> the command line of ssh; UsageError for what is none."""
    where, slash, path = rest.partition("/")
    user, at, where = where.rpartition("@")
    host, port = _host_port(where, "")
    if not host or (not where) or host.startswith("-") or user.startswith("-") or (port and not port.isdigit()) or ":" in user:
        raise Misuse(f"host 'ssh://{rest}': expected ssh://[user@]host[:port][/path/of/the/socket]")
    words = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    words += ["-l", user] if at else []
    words += ["-p", port] if port else []
    remote = ["berth", *(["-H", f"unix:///{path}"] if slash and path else []), "system", "dial-stdio"]
    return [*words, "--", host, *(_quoted(word) for word in remote)]


def _quoted(word: str) -> str:
    """For the shell on the far side."""
    safe = all(c.isalnum() or c in "-_./:=@" for c in word)
    return word if safe else "'" + word.replace("'", "'\\''") + "'"


def _ssh(address: str, rest: str) -> "_socket.socket":
    command = ssh_command(rest)
    near, theirs = _socket.socketpair()
    fd = theirs.fileno()
    try:
        # A process group of its own: Ctrl-C is for the program in the container, not for its connection.
        os.posix_spawnp(
            command[0], command, dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, 0), (os.POSIX_SPAWN_DUP2, fd, 1)], setpgroup=0,
        )  # fmt: skip
    except OSError as error:
        raise NoEngine(f"Cannot connect to the engine at {address}: ssh: {error.strerror}") from None
    finally:
        theirs.close()
    return near


# -- the far end of ssh ----------------------------------------------------------------------------------------------


def dial_stdio(call: "Invocation") -> int:
    """berth system dial-stdio"""
    from berth.cli.command import parse_command

    parse_command(call, SYNTAX)
    sock = call.client.connect()
    _thread.start_new_thread(_input_to, (sock,))
    while True:
        try:
            data = sock.recv(_BYTES)
            if not data:
                return 0
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
        except OSError:
            return 0  # one side has gone altogether


def _input_to(sock: "_socket.socket") -> None:
    try:
        while data := os.read(0, _BYTES):
            sock.sendall(data)
        sock.shutdown(_SHUT_WR)
    except OSError as error:
        sys.stderr.write(f"berth system dial-stdio: {error.strerror}\n")
